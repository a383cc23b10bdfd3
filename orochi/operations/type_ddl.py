"""ALTER and DROP of types and domains, also with their schemas: nodes that have the type follow, in the same transaction.

The coordinator decides; a node got the type when a table that needs it was placed there. Stripes keep
values as they were written, so where rows are checked or an enum's label changes, they go back to
the heap first.
"""

from __future__ import annotations

from collections.abc import Sequence

from orochi.catalog import definition as definitions
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import ddl, relay, shells, unstripe
from orochi.planner import ddl as planner
from orochi.planner import parse, quoting, tree, type_ddl

_FIND = """
SELECT n.nspname, t.typname, t.oid::bigint FROM pg_catalog.pg_type t
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = pg_catalog.to_regtype($1)
"""
# No row types of tables, nor the arrays and multiranges that come and go with their type.
_IN_SCHEMAS = """
SELECT n.nspname, t.typname, t.oid::bigint FROM pg_catalog.pg_type t
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
WHERE n.nspname IN ({}) AND t.typtype IN ('e', 'd', 'r', 'c')
    AND (c.relkind IS NULL OR c.relkind = 'c')
"""
#: Orochi tables with a column of the type, or of one made of it.
_USERS = """
WITH RECURSIVE made AS (
    SELECT $1::oid AS oid
    UNION
    SELECT t.oid FROM made JOIN pg_catalog.pg_type t ON made.oid IN (t.typbasetype, t.typelem)
        OR t.oid IN (SELECT c.reltype FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c
                     ON c.oid = a.attrelid AND c.relkind = 'c' WHERE a.atttypid = made.oid)
)
SELECT DISTINCT a.attrelid::bigint FROM made JOIN pg_catalog.pg_attribute a ON a.atttypid = made.oid
WHERE a.attnum > 0 AND NOT a.attisdropped
"""


def concerns(session: context.Session, statement: parse.Statement) -> bool:
    """Whether the statement changes types: nodes keep those that they got for tables that are gone."""
    return (
        statement.kind is parse.Kind.DDL
        and bool(session.snapshot().data_nodes)
        and type_ddl.read(statement.tree) is not None
    )


def adds_value(statement: parse.Statement) -> bool:
    """Whether the statement adds a label to an enum: no shard is looked at."""
    change = type_ddl.read(statement.tree) if statement.kind is parse.Kind.DDL else None
    return change is not None and change.adds_value


async def execute(session: context.Session, statement: parse.Statement, sink: context.Sink) -> None:
    """Run such a statement to its command tag."""
    change = type_ddl.read(statement.tree)
    assert change is not None
    found = [item for name in change.names if (item := await _find(session, name)) is not None]
    if change.schemas:
        found = await _types_in(session, change.schemas)
        if not found:
            await relay.execute(session, statement, None, None, sink)
            return
    async with shells.transactional(session):
        if session.coordinator.status == "I":
            await session.coordinator.query("BEGIN")
        if change.sees_rows:
            for _, _, oid in found:
                await _into_heap(session, oid)
        if change.drops:
            # the shells' children, which users know nothing of, are not among what depends on a type
            users = await _users(session, [oid for _, _, oid in found])
            for table in users:
                await shells.remove_guard(session, await shells.definition(session, table.oid))
            tag = await ddl.run(session, statement, planner.read(statement), sink)
            for oid in sorted({table.oid for table in users} & session.snapshot().tables.keys()):
                await shells.install_guard(session, await shells.definition(session, oid))
        else:
            tag = (await session.coordinator.query(statement.sql))[-1].tag
        needed = await _prerequisites(session, statement, found)
        node_statement = await _qualified(session, statement.tree)
        for schema, name, _ in found:
            await _on_nodes(session, node_statement, change, schema, name, needed)
        await session.catalog_changed()
    await sink.complete(tag)


async def _find(session: context.Session, name: tuple[str, ...]) -> tuple[str, str, int] | None:
    quoted = ".".join(definitions.quote(part) for part in name)
    result = await session.coordinator.fetch(_FIND, (quoted.encode(),), (0,))
    if not result.rows:
        return None
    schema, found, oid = ((value or b"").decode() for value in result.rows[0])
    return schema, found, int(oid)


async def _types_in(session: context.Session, schemas: tuple[str, ...]) -> list[tuple[str, str, int]]:
    listed = ", ".join(quoting.text(name) for name in schemas)
    result = await session.coordinator.fetch(_IN_SCHEMAS.format(listed))
    rows = [[(value or b"").decode() for value in row] for row in result.rows]
    return [(schema, name, int(oid)) for schema, name, oid in rows]


async def _users(session: context.Session, type_oids: Sequence[int]) -> list[snapshots.Table]:
    """The Orochi tables with a column of one of the types."""
    users: set[int] = set()
    for oid in type_oids:
        result = await session.coordinator.fetch(_USERS, (str(oid).encode(),), (0,))
        users.update(int(row[0] or b"0") for row in result.rows)
    return [table for table in session.snapshot().tables.values() if table.oid in users]


async def _into_heap(session: context.Session, type_oid: int) -> None:
    for table in await _users(session, [type_oid]):
        if any(shard.has_stripes for shard in table.shards):
            shell = await shells.definition(session, table.oid)
            await unstripe.to_heap(session, table, shell)


async def _prerequisites(
    session: context.Session, statement: parse.Statement, found: Sequence[tuple[str, str, int]]
) -> list[str]:
    """What nodes need before an attribute of a type can be added or changed: the types that it names."""
    if type(statement.tree).__name__ != "AlterTableStmt":
        return []
    needed: list[str] = []
    for table in await _users(session, [oid for _, _, oid in found]):
        of_table = definitions.prerequisites(await shells.definition(session, table.oid))
        needed += [item for item in of_table if item not in needed]
    return needed


async def _qualified(session: context.Session, node: tree.Node) -> tree.Node:
    """An ALTER TYPE whose attributes' types are named with their schemas: a node's search path is its own."""
    if type(node).__name__ != "AlterTableStmt":
        return node
    named: dict[tuple[str, ...], tree.Node] = {}
    for part in tree.walk(node):
        if isinstance(part, tree.ast.TypeName) and part.names:
            names = tree.strings(part.names)
            known = await _find(session, names)
            if known is not None and known[0] != "pg_catalog":
                named[names] = tree.names(*known[:2])

    def replaced(part: tree.Node) -> tree.Node | None:
        if not isinstance(part, tree.ast.TypeName) or tree.strings(part.names) not in named:
            return None
        return tree.changed(part, names=named[tree.strings(part.names)])

    return tree.transform(node, replaced)


async def _on_nodes(
    session: context.Session,
    node_statement: tree.Node,
    change: type_ddl.Change,
    schema: str,
    name: str,
    needed: Sequence[str],
) -> None:
    qualified = f"{definitions.quote(schema)}.{definitions.quote(name)}"
    work: dict[int, list[str]] = {}
    for node in session.snapshot().data_nodes:
        if node.role == "coordinator":  # the same database: done
            continue
        connection = await session.transaction.node(node.node_id, write=False)
        known = await connection.fetch(
            # not an array of another type, which has the name there as the coordinator's own type had not
            "SELECT t.typtype::text FROM pg_catalog.pg_type t"
            " WHERE t.oid = pg_catalog.to_regtype($1) AND t.typcategory <> 'A'",
            (qualified.encode(),),
            (0,),
        )
        if not known.rows:
            continue
        statements = work.setdefault(node.node_id, list(needed))
        if change.new_schema is not None:
            statements.append(f"CREATE SCHEMA IF NOT EXISTS {definitions.quote(change.new_schema)}")
        if change.drops:
            kind = "DOMAIN" if known.rows[0][0] == b"d" else "TYPE"
            # those made of a type that goes first have gone with it
            statements.append(f"DROP {kind} IF EXISTS {qualified} CASCADE")
        else:
            statements.append(type_ddl.for_node(node_statement, schema, name))
    await shells.run_on_nodes(session, work)
