"""Statements that make tables columnar: CREATE TABLE … USING columnar, CREATE TABLE AS, and ALTER of a local one.

PostgreSQL makes the table first, so names, types, constraints and their errors are its own; then the
new table becomes a shell whose rows live on a node, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orochi import errors, ids
from orochi.executor import context
from orochi.operations import privileges, relay, select, shells, sinks, storage_options, striped
from orochi.pgwire import messages
from orochi.planner import classify, columnar, parse, quoting, tree
from orochi.planner import ddl as planner

_DEFAULT_METHOD = "default_table_access_method"
#: Relations of a name in the schema that a new one would be made in.
_FIND = """
SELECT c.oid::bigint FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = $1 AND n.nspname = coalesce($2, pg_catalog.current_schema()::text) AND c.relkind = 'r'
"""


def concerns(session: context.Session, statement: parse.Statement) -> bool:
    """Whether the statement, whatever tables it names, makes a table columnar."""
    if statement.kind not in (parse.Kind.DDL, parse.Kind.CREATE_TABLE_AS):
        return False
    if columnar.makes(statement.tree, session.settings.get(_DEFAULT_METHOD, "")):
        return True
    return columnar.alters(statement.tree)


def is_alter(statement: parse.Statement) -> bool:
    """Whether it alters a table that is there; an Orochi table's own DDL does that."""
    return type(statement.tree).__name__ == "AlterTableStmt"


async def execute(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> None:
    """Run such a statement to its command tag."""
    held = _Held(sink)
    async with shells.transactional(session):
        if is_alter(statement):
            await _alter(session, statement, held)
        else:
            await _create(session, statement, parameters, fields, held)
    privileges.forget()
    await sink.complete(held.tag)


async def _create(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: _Held,
) -> None:
    made = columnar.made(statement, has_method=await _has_method(session))
    before = await _find(session, made.schema, made.name)
    tables = classify.tables_in(statement.tree, session.snapshot(), session.search_path, session.temp_tables)
    if statement.kind is parse.Kind.CREATE_TABLE_AS and tables:
        await privileges.require(session, statement, parameters, tables)
        await select.execute_rewritten(session, made.statement, parameters, fields, sink)
    else:
        await relay.execute_sql(session, made.statement.sql, parameters, fields, sink)
    oid = await _find(session, made.schema, made.name)
    if oid is None or oid == before:
        return  # IF NOT EXISTS
    try:
        shell, node_id = await striped.check(session, oid)
    except errors.FeatureNotSupported as error:
        if await _refers_to_shells(session, oid):
            raise  # a local table cannot check such a key
        await sink.notice(f'table "{made.name}" keeps row storage: {error.message}')
        return
    await striped.adopt(session, shell, node_id)
    await _set_options(session, oid, made.options)


async def _alter(session: context.Session, statement: parse.Statement, sink: _Held) -> None:
    """ALTER TABLE of a local table: what PostgreSQL can do of it, then the storage."""
    change = planner.read(statement)
    node = statement.tree
    if change.sql is not None:
        await session.coordinator.query(change.sql)
    sink.tag = change.tag
    oid = await _named(session, node.relation)
    options = dict(change.options)
    if options.pop("storage_type") == columnar.METHOD:
        await striped.adopt(session, *await striped.check(session, oid))
        await _set_options(session, oid, options)
    elif options:
        raise errors.InvalidParameter(
            f'table "{node.relation.relname}" is not columnar', hint="SET ACCESS METHOD columnar first."
        )


async def _set_options(session: context.Session, oid: int, options: Mapping[str, str]) -> None:
    if options:
        await session.catalog_changed()
        await storage_options.set_options(session, session.snapshot().current(ids.TableId(oid)), options)
    await session.catalog_changed()


async def _has_method(session: context.Session) -> bool:
    """Whether the coordinator knows the access method; it does unless Orochi is no superuser there."""
    result = await session.coordinator.fetch(
        "SELECT FROM pg_catalog.pg_am WHERE amname = $1", (columnar.METHOD.encode(),), (0,), (19,)
    )
    return bool(result.rows)


async def _find(session: context.Session, schema: str | None, name: str) -> int | None:
    """The OID of the table of that name in the schema that a new one would be made in."""
    values = (name.encode(), None if schema is None else schema.encode())
    result = await session.coordinator.fetch(_FIND, values, (0, 0), (25, 25))
    return int(result.rows[0][0] or b"0") if result.rows else None


async def _refers_to_shells(session: context.Session, oid: int) -> bool:
    shell = await shells.definition(session, oid)
    return any(ids.TableId(key.references or 0) in session.snapshot().tables for key in shell.foreign_keys())


async def _named(session: context.Session, relation: tree.Node) -> int:
    """The OID of the table that a statement names."""
    name = quoting.identifier(relation.relname)
    if relation.schemaname:
        name = quoting.relation(relation.schemaname, relation.relname)
    result = await session.coordinator.fetch("SELECT $1::regclass::oid::bigint", (name.encode(),), (0,))
    return int(result.rows[0][0] or b"0")


class _Held(sinks.Forwarding):
    """A sink that keeps the command tag until the table is all that was asked for."""

    def __init__(self, sink: context.Sink) -> None:
        super().__init__(sink)
        self.tag = ""

    async def complete(self, tag: str) -> None:
        self.tag = tag
