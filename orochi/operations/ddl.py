"""DDL on Orochi tables: PostgreSQL runs it on the shell, and the shards follow the difference.

All of it is one distributed transaction. What PostgreSQL refuses on the shell is refused with its
own message; what would leave rows of other shards or of stripes unchecked is refused by us.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator

from orochi import errors
from orochi.catalog import definition as definitions
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import (
    aggregate_log,
    ddl_checks,
    distribute,
    one_shard,
    privileges,
    relay,
    row_defaults,
    shells,
    storage_options,
    striped,
    unstripe,
)
from orochi.planner import classify, parse, safety
from orochi.planner import ddl as planner
from orochi.planner import tree as trees
from orochi.sharding import alter, colocation


async def execute(session: context.Session, statement: parse.Statement, sink: context.Sink) -> None:
    """Run a DDL statement that names Orochi tables."""
    ddl = planner.read(statement)
    if ddl.scope is planner.Scope.COORDINATOR:
        async with _following(session):
            await relay.execute(session, statement, None, None, sink)
        return
    if ddl.concurrently:
        _refuse_in_block(session, statement)
        await sink.notice("CONCURRENTLY is ignored for Orochi tables")
    async with shells.transactional(session):
        tag = await run(session, statement, ddl, sink)
    privileges.forget()
    await sink.complete(tag)


def _refuse_in_block(session: context.Session, statement: parse.Statement) -> None:
    if session.transaction.in_block:
        what = "DROP INDEX" if isinstance(statement.tree, trees.ast.DropStmt) else "CREATE INDEX"
        raise errors.OrochiError(
            f"{what} CONCURRENTLY cannot run inside a transaction block", sqlstate="25001"
        )


async def run(
    session: context.Session, statement: parse.Statement, ddl: planner.Ddl, sink: context.Sink
) -> str:
    """The same inside a transaction; the command tag."""
    tables = affected(session, statement)
    before, earlier = await _definitions(session, tables), session.snapshot()
    tag = ddl.tag
    if ddl.sql is not None:
        await _begin(session)
        if not isinstance(statement.tree, trees.ast.DropStmt):
            await _detached(session, tables)
        try:
            async with _following(session):
                tag = (await session.coordinator.query(ddl.sql))[-1].tag
        except errors.RemoteError as error:
            ddl_checks.refers_to_shells(statement.tree, error)
            raise
        tables = await _reached(session, statement, tables)
        left = await _left(session, tables)
        await session.catalog_changed()
        work: dict[int, list[str]] = {}
        after = await _definitions(session, [table for table in tables if table.oid in left])
        for table in tables:
            if table.oid in before and table.oid in after:
                for node_id, statements in (
                    await _follow(session, table, before[table.oid], after[table.oid], ddl, sink)
                ).items():
                    work.setdefault(node_id, []).extend(statements)
        for table in tables:
            if table.oid in before and table.oid not in left:
                _unlink(table, before[table.oid], work)
        await shells.run_on_nodes(session, work)
        if not isinstance(statement.tree, trees.ast.DropStmt):
            await _attached(session, [table for table in tables if table.oid in left])
        if type(statement.tree).__name__ == "AlterTableStmt":
            await ddl_checks.no_local_references(session, left)
    if ddl.options:
        for table in tables:
            await storage_options.set_options(session, table, ddl.options)
            if "storage_type" in ddl.options:
                await striped.store_as(session, table, ddl.options["storage_type"] or "row")
    await session.catalog_changed()
    await aggregate_log.forget_gone(session, earlier)
    return tag


def _unlink(table: snapshots.Table, before: definitions.Definition, work: dict[int, list[str]]) -> None:
    """Drop the foreign keys of a dropped table's shards: those are swept later, and must hold nothing till then."""
    keys = [key for key in before.foreign_keys() if key.references != table.oid]
    for shard in table.shards if keys else ():
        relation = f"{definitions.quote(shard.schema)}.{definitions.quote(table.name)}"
        drops = ", ".join(f"DROP CONSTRAINT IF EXISTS {definitions.quote(key.name)}" for key in keys)
        for node_id in shard.node_ids:
            work.setdefault(node_id, []).append(f"ALTER TABLE IF EXISTS {relation} {drops}")


def affected(session: context.Session, statement: parse.Statement) -> list[snapshots.Table]:
    """The Orochi tables whose definition the statement may change."""
    snapshot, node = session.snapshot(), statement.tree
    kind = type(node).__name__
    found = list(classify.tables_in(node, snapshot, session.search_path, session.temp_tables))
    if kind == "DropStmt":
        alone = node.behavior.name == "DROP_RESTRICT" and node.removeType.name in (
            "OBJECT_TABLE",
            "OBJECT_INDEX",
        )
        return found if alone else list(snapshot.tables.values())  # CASCADE reaches others
    if kind in ("RenameStmt", "AlterTableStmt") and not found:
        name = node.relation.relname if node.relation is not None else None
        found = [table for table in snapshot.tables.values() if name in table.indexes]
    cascades = any(
        command.behavior is not None and command.behavior.name == "DROP_CASCADE"
        for command in (getattr(node, "cmds", None) or ())
    )
    return list(snapshot.tables.values()) if cascades else found


async def _reached(
    session: context.Session, statement: parse.Statement, tables: list[snapshots.Table]
) -> list[snapshots.Table]:
    """Of a DROP those that it names, or that CASCADE changed: it has locked them so that nobody reads them.

    The others may differ too by now, if another session changed them: that one has told their shards.
    """
    if not isinstance(statement.tree, trees.ast.DropStmt):
        return tables
    named = classify.tables_in(statement.tree, session.snapshot(), session.search_path, session.temp_tables)
    result = await session.coordinator.query(
        "SELECT relation::text FROM pg_catalog.pg_locks WHERE locktype = 'relation'"
        " AND pid = pg_catalog.pg_backend_pid() AND mode = 'AccessExclusiveLock' AND granted"
    )
    reached = {int(row[0] or b"0") for row in result[-1].rows} | {int(table.oid) for table in named}
    return [table for table in tables if table.oid in reached]


async def _definitions(
    session: context.Session, tables: list[snapshots.Table]
) -> dict[int, definitions.Definition]:
    """Definitions by OID, of those tables that no other session has dropped."""
    found = {}
    for table in tables:
        with contextlib.suppress(errors.UndefinedObject):
            found[int(table.oid)] = await shells.definition(session, table.oid)
    return found


async def _begin(session: context.Session) -> None:
    if session.coordinator.status == "I":
        await session.coordinator.query("BEGIN")


@contextlib.asynccontextmanager
async def _following(session: context.Session) -> AsyncIterator[None]:
    """Have PostgreSQL change shells (`orochi._check_followed`), as long as no error aborts the transaction anyway."""
    await session.coordinator.query("SET orochi.follows TO on")
    try:
        yield
    finally:
        if session.coordinator.status != "E" and not session.coordinator.closed:
            await session.coordinator.query("SET orochi.follows TO off")


async def _detached(session: context.Session, tables: list[snapshots.Table]) -> None:
    """Take the shells' children away: they are Orochi's own, and users may not change them."""
    for table in tables:
        await session.catalog_execute(f"SELECT orochi._detach_shell({table.oid})")


async def _attached(session: context.Session, tables: list[snapshots.Table]) -> None:
    for table in tables:
        await session.catalog_execute(f"SELECT orochi._attach_shell({table.oid})")


async def _left(session: context.Session, tables: list[snapshots.Table]) -> set[int]:
    """OIDs of those of `tables` that still exist."""
    listed = ", ".join(str(table.oid) for table in tables) or "0"
    result = await session.coordinator.query(f"SELECT oid::text FROM pg_class WHERE oid IN ({listed})")
    return {int(row[0] or b"0") for row in result[-1].rows}


async def _follow(
    session: context.Session,
    table: snapshots.Table,
    before: definitions.Definition,
    after: definitions.Definition,
    ddl: planner.Ddl,
    sink: context.Sink,
) -> dict[int, list[str]]:
    """Each node's statements that make the table's shards follow its shell."""
    if before == after and not ddl.using:
        return {}
    if (
        one_shard.lacks(table, after)
        and (gathered := await one_shard.gather(session, table, after)) is not None
    ):
        await ddl_checks.allowed(session, gathered, before, after, ddl.using)
        await sink.notice(
            f'table "{after.name}" has one shard from now on',
            hint=f'A unique key lacks the distribution column "{table.distribution_column}".',
        )
        return {}
    await ddl_checks.allowed(session, table, before, after, ddl.using)
    table = await _locked(session, table)
    if any(shard.has_stripes for shard in table.shards) and await ddl_checks.needs_heap(
        session, before, after, ddl.using
    ):
        table = await unstripe.to_heap(session, table, before)
    if _are_others(before, after):
        table = await distribute.renew_layout(session, table)
    fills, by_row = await _fills(session, table, before, after)
    snapshot = session.snapshot()
    work: dict[int, list[str]] = {}
    for shard in table.shards:
        statements = alter.statements(
            before,
            after,
            shard.schema,
            using=ddl.using,
            fills=fills,
            by_row=await row_defaults.of_shard(session, table, shard, by_row),
            references=colocation.referenced_schemas(after, snapshot, shard.index, shard.schema),
            chunk_schemas=[chunk.schema for chunk in shard.chunks if table.dimension is not None],
        )
        if statements:
            for node_id in shard.node_ids:
                work.setdefault(node_id, []).extend(statements)
    await storage_options.follow_names(session, table, before, after)
    needed = definitions.prerequisites(after)
    return {node_id: [*needed, *statements] for node_id, statements in work.items()}


def _are_others(before: definitions.Definition, after: definitions.Definition) -> bool:
    """Whether a column's name stands for another type, or for none and may come to within the transaction."""
    types = {column.name: column.type for column in after.columns}
    return any(types.get(column.name) != column.type for column in before.columns)


async def _locked(session: context.Session, table: snapshots.Table) -> snapshots.Table:
    """The table with its shards as they are now and stay: no chunk is compressed by the former definition."""
    listed = ", ".join(str(shard_id) for shard_id in sorted(shard.shard_id for shard in table.shards))
    await session.catalog_execute(
        f"SELECT shard_id FROM orochi.orochi_shards WHERE shard_id IN ({listed}) ORDER BY 1 FOR NO KEY UPDATE"
    )
    await session.catalog_changed()
    return dataclasses.replace(table, shards=session.snapshot().current(table.oid).shards)


async def _fills(
    session: context.Session,
    table: snapshots.Table,
    before: definitions.Definition,
    after: definitions.Definition,
) -> tuple[dict[str, str], list[definitions.Column]]:
    """What existing rows get in new columns whose default a node cannot compute, and those where each gets another."""
    known = {column.attnum for column in before.columns}
    fills: dict[str, str] = {}
    by_row: list[definitions.Column] = []
    for column in after.columns:
        if column.attnum in known or column.generated:
            continue
        of_domain = await _domain_value(session, table, column) if column.volatility != "v" else None
        if of_domain is not None:
            fills[column.name] = of_domain
            continue
        if column.identity or column.volatility == "v":
            if await shells.shards_have_rows(session, table):
                by_row.append(column)
        elif column.volatility == "s":
            result = await session.coordinator.query(f"SELECT ({column.default})::{column.type}::text")
            value = result[-1].rows[0][0]
            if value is not None:
                fills[column.name] = f"{definitions.quote_literal(value.decode())}::{column.type}"
    return fills, by_row


async def _domain_value(
    session: context.Session, table: snapshots.Table, column: definitions.Column
) -> str | None:
    """What existing rows get in a new column of a domain, as SQL; None for NULL, or where there are no rows.

    Only the coordinator knows the domain: its default, and which values it takes.

    Raises:
        RemoteError: 23514, 23502.
    """
    result = await session.coordinator.query(
        "SELECT pg_catalog.format_type(a.atttypid, a.atttypmod), pg_catalog.pg_get_expr(t.typdefaultbin, 0)"
        " FROM pg_catalog.pg_attribute a"
        " JOIN pg_catalog.pg_type t ON t.oid = a.atttypid AND t.typtype = 'd'"
        f" WHERE a.attrelid = {table.oid} AND a.attnum = {column.attnum}"
    )
    if not result[-1].rows or not await shells.shards_have_rows(session, table):
        return None
    domain, default = ((value or b"NULL").decode() for value in result[-1].rows[0])
    result = await session.coordinator.query(f"SELECT ({column.default or default})::{domain}::text")
    value = result[-1].rows[0][0]
    if value is None or column.default is not None:
        return None  # that one the nodes are told with the column
    if safety.may_be_volatile(default, session.runtime.builtins):
        raise errors.FeatureNotSupported(
            f'column "{column.name}" cannot be added: its domain\'s default gives each row another value',
            hint="Add the column with DEFAULT NULL, fill it by UPDATE, and then drop that default.",
        )
    return f"{definitions.quote_literal(value.decode())}::{column.type}"
