"""What operations on tables share: a shell's definition, locks, the guard, and DDL on nodes.

They run inside the client's transaction: catalog rows are written through the client's own
connection, node DDL through the transaction's participants, and all of it commits together.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

from orochi import errors, ids
from orochi.catalog import definition as definitions
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.sharding import colocation

#: Statements sent to a node in one message; bounds the message, not the transaction.
_BATCH = 400
_KINDS = {"v": "view", "m": "materialized view", "f": "foreign table", "i": "index", "S": "sequence"}


#: What a node says of a function, or of its schema, that only the coordinator has.
_OWN_FUNCTION = re.compile(r'^(?:42883 function .* does not exist|3F000 schema "(?!orochi_[sc]\d))')


@contextlib.asynccontextmanager
async def transactional(session: context.Session) -> AsyncIterator[None]:
    """Run the block in the client's transaction, or in one of its own that commits at the end."""
    if session.transaction.in_block:
        yield
        return
    begun = session.coordinator.status == "I"
    if begun:
        await session.coordinator.query("BEGIN")
    try:
        yield
    except BaseException:
        await session.transaction.rollback()
        if begun and not session.coordinator.closed and session.coordinator.status != "I":
            await session.coordinator.query("ROLLBACK")
        raise
    await session.transaction.commit(session.coordinator)
    await session.runtime.refresh()


async def definition(session: context.Session, oid: int) -> definitions.Definition:
    """The table's definition as the client's transaction sees it.

    Raises:
        UndefinedObject: there is no such relation.
    """
    result = (await session.coordinator.query(f"SELECT orochi._table_definition({oid})"))[-1]
    text = result.rows[0][0] if result.rows else None
    if text is None:
        raise errors.UndefinedObject(f"relation with OID {oid} does not exist", sqlstate="42P01")
    return definitions.from_json(json.loads(text))


async def lock(session: context.Session, shell: definitions.Definition) -> definitions.Definition:
    """Take the table for the transaction alone, its owner only; the definition as it is then.

    Raises:
        OrochiError: 42501, the user does not own it.
        FeatureNotSupported: the user does not see all its rows.
    """
    if not shell.owned:
        raise errors.OrochiError(f"must be owner of table {shell.name}", sqlstate="42501")
    aggregates = session.snapshot().aggregates_of(shell.oid)
    if aggregates:
        raise errors.FeatureNotSupported(
            f'continuous aggregate "{aggregates[0].view[1]}" reads table "{shell.name}": its shards must stay',
            hint="Drop the aggregate first, and make it again afterwards.",
        )
    await session.catalog_execute(f"LOCK TABLE {shell.relation} IN ACCESS EXCLUSIVE MODE")
    active = await session.coordinator.fetch(f"SELECT pg_catalog.row_security_active({shell.oid}::oid)")
    if active.rows[0][0] == b"t":  # rows would be left behind
        raise errors.FeatureNotSupported(
            f'row-level security is forced on the owner of table "{shell.name}", whose rows are to be moved',
            hint="ALTER TABLE ... NO FORCE ROW LEVEL SECURITY first.",
        )
    (found,) = await session.catalog_execute(f"SELECT orochi._unfit_for_shell({shell.oid})")
    if found[0] is not None:
        raise errors.FeatureNotSupported(
            f'table "{shell.name}" cannot be an Orochi table: {found[0]}',
            hint="Drop it, or write it without; a view can do what a rule does.",
        )
    return await definition(session, shell.oid)


def check_table(shell: definitions.Definition, what: str) -> None:
    """The relation is a kind of table that can become an Orochi table.

    Raises:
        InvalidTable: it is no table.
        FeatureNotSupported: it is a table of a kind that cannot.
    """
    if shell.kind in _KINDS:
        raise errors.InvalidTable(
            f'"{shell.name}" is a {_KINDS[shell.kind]}', hint=f"Only ordinary tables can be {what}."
        )
    reason, hint = None, None
    if shell.kind == "p" or shell.is_partition:
        reason = "it is partitioned by PostgreSQL"
        hint = "Create it without PARTITION BY and use create_hypertable()."
    elif shell.kind != "r":
        reason = f'it is a relation of kind "{shell.kind}"'
    elif shell.persistence == "t":
        reason = "it is a temporary table"
    elif shell.inherits:
        reason = "it takes part in table inheritance"
    elif shell.schema in (
        "pg_catalog",
        "information_schema",
        "orochi",
        "orochi_api",
        "timescaledb_information",
    ):
        reason = "it belongs to the system"
    elif shell.triggers:
        reason = f'it has the trigger "{shell.triggers[0]}"'
        hint = "Triggers do not run on shards: drop it first."
    if reason is not None:
        raise errors.FeatureNotSupported(f'table "{shell.name}" cannot be {what}: {reason}', hint=hint)


def check_keys(shell: definitions.Definition, column: str, role: str) -> None:
    """Every unique key contains `column`, the distribution or time column.

    Raises:
        FeatureNotSupported: one does not.
    """
    for name in definitions.missing_from_keys(shell, column):
        raise errors.FeatureNotSupported(
            f'cannot create a unique index without the column "{column}" (used in partitioning)',
            detail=f'Key "{name}" of table "{shell.name}" lacks the {role}, by which each row lies in one part'
            " of the table; uniqueness is checked in each part by itself.",
            hint=f'Add "{column}" to the key, or drop it.'
            + (" A table with one shard may have any key." if role == "distribution column" else ""),
        )


async def has_rows(session: context.Session, shell: definitions.Definition) -> bool:
    """Whether the shell itself holds rows."""
    rows = await session.catalog_execute(f"SELECT EXISTS (SELECT FROM ONLY {shell.relation})::int")
    return str(rows[0][0]) == "1"


async def shards_have_rows(session: context.Session, table: snapshots.Table) -> bool:
    """Whether a shard holds rows that the transaction sees."""
    if any(shard.has_stripes for shard in table.shards):
        return True
    for shard in table.shards:
        connection = await session.transaction.node(shard.node_id, write=True)
        relation = f"{definitions.quote(shard.schema)}.{definitions.quote(table.name)}"
        result = await connection.query(f"SELECT EXISTS (SELECT FROM {relation})")
        if result[-1].rows[0][0] == b"t":
            return True
    return False


async def empty(session: context.Session, shell: definitions.Definition) -> None:
    """Remove the shell's own rows; they are on shards by now."""
    if not shell.is_referenced:
        await session.catalog_execute(f"TRUNCATE ONLY {shell.relation}")
        return
    # PostgreSQL would look for rows that refer to these; they will follow to the shards.
    await session.catalog_execute("SET LOCAL session_replication_role = replica")
    await session.catalog_execute(f"DELETE FROM ONLY {shell.relation}")
    await session.catalog_execute("SET LOCAL session_replication_role = DEFAULT")


async def install_guard(session: context.Session, shell: definitions.Definition) -> None:
    """From now on what reads and writes the shell past the planner comes back to the gateway."""
    await session.catalog_execute(f"SELECT orochi._attach_shell({shell.oid})")


async def remove_guard(session: context.Session, shell: definitions.Definition) -> None:
    """The shell becomes an ordinary table again."""
    await session.catalog_execute(f"SELECT orochi._detach_shell({shell.oid})")


async def run_on_nodes(session: context.Session, work: Mapping[int, Sequence[str]]) -> None:
    """Run each node's statements in order, inside the transaction, all nodes at once.

    Raises:
        FeatureNotSupported: an index, a constraint or a generated column calls a function of the user's own.
    """

    async def one(node_id: int, statements: Sequence[str]) -> None:
        connection = await session.transaction.node(node_id, write=True)
        for at in range(0, len(statements), _BATCH):
            await connection.query(";\n".join(statements[at : at + _BATCH]))

    tasks = (one(node_id, statements) for node_id, statements in work.items() if statements)
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, errors.RemoteError) and _OWN_FUNCTION.search(
            f"{result.sqlstate} {result.message}"
        ):
            raise errors.FeatureNotSupported(
                "indexes, constraints and generated columns of Orochi tables cannot call functions of your own",
                detail=f"A node says: {result.message}",
                hint="Nodes have PostgreSQL's functions and those of extensions only.",
            ) from result
        if isinstance(result, BaseException):
            raise result


async def insert_shards(
    session: context.Session, oid: int, shards: Sequence[colocation.NewShard]
) -> list[snapshots.Shard]:
    """Enter new shards and their placements into the catalog."""
    values = ", ".join(f"({oid}, {s.index}, {s.hash_min}, {s.hash_max})" for s in shards)
    rows = await session.catalog_execute(
        "INSERT INTO orochi.orochi_shards (table_oid, shard_index, hash_min, hash_max)"
        f" VALUES {values} RETURNING shard_id, shard_index"
    )
    shard_ids = {int(str(row[1])): ids.ShardId(int(str(row[0]))) for row in rows}
    placements = ", ".join(
        f"({shard_ids[shard.index]}, {node_id}, {ordinal})"
        for shard in shards
        for ordinal, node_id in enumerate(shard.node_ids)
    )
    await session.catalog_execute(
        f"INSERT INTO orochi.orochi_shard_placements (shard_id, node_id, ordinal) VALUES {placements}"
    )
    return [
        snapshots.Shard(shard_ids[s.index], s.index, s.hash_min, s.hash_max, s.node_ids, layout=1)
        for s in shards
    ]


def statements_by_node(
    prerequisites: Sequence[str], shards: Sequence[tuple[snapshots.Shard, Sequence[str]]]
) -> dict[int, list[str]]:
    """Each node's DDL: what the table needs there once, then that of each shard placed on it."""
    work: dict[int, list[str]] = {}
    for shard, statements in shards:
        for node_id in shard.node_ids:
            work.setdefault(node_id, list(prerequisites)).extend(statements)
    return work


async def label(session: context.Session, shell: definitions.Definition, method: str) -> None:
    """Let the shell's access method say how rows are stored; its own storage stays PostgreSQL's heap."""
    await session.catalog_execute(
        f"SELECT orochi._set_access_method({shell.oid}, {definitions.quote_literal(method)})"
    )


async def insert_whole_chunks(session: context.Session, oid: int) -> None:
    """For a columnar table without a time column: the one chunk of each shard, which holds all of it.

    Reference tables have none: their rows stay in the heap, whose copies PostgreSQL keeps alike.
    """
    await session.catalog_execute(
        "INSERT INTO orochi.orochi_chunks (shard_id, range_start, range_end)"
        f" SELECT s.shard_id, {-(2**63)}, {2**63 - 1}"
        " FROM orochi.orochi_tables t JOIN orochi.orochi_shards s USING (table_oid)"
        f" WHERE t.table_oid = {oid} AND t.storage_type = 'columnar' AND t.kind <> 'reference'"
        " AND NOT EXISTS (SELECT FROM orochi.orochi_dimensions d WHERE d.table_oid = t.table_oid)"
        " AND NOT EXISTS (SELECT FROM orochi.orochi_chunks c WHERE c.shard_id = s.shard_id)"
    )


async def lock_layouts(session: context.Session, oid: ids.TableId) -> snapshots.Table:
    """Wait for those who are changing the table's layout and keep others from it; the table as it is now.

    Whoever changes a layout locks here before it locks anything on a node: in the other order two of
    them could wait for each other where no server sees it.
    """
    await session.catalog_execute(
        f"SELECT shard_id FROM orochi.orochi_shards WHERE table_oid = {oid} ORDER BY 1 FOR NO KEY UPDATE"
    )
    await session.catalog_changed()
    return session.snapshot().current(oid)


async def bump_layouts(session: context.Session, shards: Iterable[snapshots.Shard]) -> None:
    """Count the shards' layouts up in the catalog, after whoever else is changing them."""
    listed = ", ".join(str(shard_id) for shard_id in sorted(shard.shard_id for shard in shards))
    await session.catalog_execute(
        f"SELECT shard_id FROM orochi.orochi_shards WHERE shard_id IN ({listed}) ORDER BY 1 FOR NO KEY UPDATE"
    )
    await session.catalog_execute(
        f"UPDATE orochi.orochi_shards SET layout = layout + 1 WHERE shard_id IN ({listed})"
    )
    await session.catalog_changed()
