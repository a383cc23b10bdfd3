"""VACUUM and ANALYZE of Orochi tables: PostgreSQL checks them on the shell, the nodes do the work on the shards.

What the shell has to say about rights, columns and options is said by PostgreSQL itself. Of shells only
the empty heap is looked at, never the foreign table that leads back to the rows. After an ANALYZE the
catalog's row counts are new, so that the next statement is planned with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from orochi import errors, ids
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import routing
from orochi.planner import names, parse
from orochi.planner import tree as trees
from orochi.timeseries import upkeep

#: Of PostgreSQL's `vacuum_is_permitted_for_relation`.
_PERMITTED = """
SELECT c.oid::bigint FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1::pg_catalog.oid[]) AND (
    CASE WHEN pg_catalog.current_setting('server_version_num')::int >= 170000
        THEN pg_catalog.has_table_privilege(c.oid, 'MAINTAIN') ELSE pg_catalog.pg_has_role(c.relowner, 'USAGE') END
    OR (SELECT pg_catalog.pg_has_role(d.datdba, 'USAGE') FROM pg_catalog.pg_database d
        WHERE d.datname = pg_catalog.current_database()))
"""
#: Rows in the heaps of shards, as ANALYZE has just estimated them.
_ROWS = """
SELECT s.shard_id, (SELECT sum(greatest(c.reltuples, 0))::bigint FROM pg_catalog.pg_class c
    WHERE c.relkind = 'r' AND (c.oid = to_regclass(s.relation)
    OR c.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree(to_regclass(s.relation)) WHERE isleaf)))
FROM unnest($1::bigint[], $2::text[]) AS s (shard_id, relation) WHERE to_regclass(s.relation) IS NOT NULL
"""
#: With the rows in stripes. Gateways hear of counts by which they would plan otherwise.
_STORE = f"""
WITH free AS (
    SELECT s.shard_id, s.row_count AS before, coalesce(n.heap, 0) + (
        SELECT coalesce(sum(f.row_count), 0) FROM orochi.orochi_stripes f JOIN orochi.orochi_chunks c USING (chunk_id)
        WHERE c.shard_id = s.shard_id)::bigint AS after
    FROM orochi.orochi_shards s JOIN unnest($1::bigint[], $2::bigint[]) AS n (shard_id, heap) USING (shard_id)
    FOR NO KEY UPDATE OF s SKIP LOCKED
), changed AS (
    UPDATE orochi.orochi_shards s SET row_count = f.after FROM free f
    WHERE s.shard_id = f.shard_id AND f.before <> f.after RETURNING s.shard_id, f.before, f.after
)
SELECT orochi._bump_layout(o.shards) FROM (SELECT array_agg(shard_id) AS shards FROM changed
    WHERE greatest(before, after) >= {upkeep.PLANNED_ROWS} AND greatest(before, after) >= 2 * least(before, after)) o
WHERE o.shards IS NOT NULL
"""
#: The version of PostgreSQL that can be told ONLY.
_ONLY_SINCE = 180000
#: How long ANALYZE waits for statistics that are just being stored; without it the former numbers stay.
_PATIENCE = "5s"
_LOCK_NOT_AVAILABLE = "55P03"
_TRUE = frozenset({None, "true", "on", "1", "yes"})


def concerns(statement: parse.Statement, snapshot: snapshots.Snapshot) -> bool:
    """Whether it is VACUUM or ANALYZE of the whole database, and that has Orochi tables."""
    return _is_ours(statement.tree) and not statement.tree.rels and bool(snapshot.tables)


def is_vacuum(statement: parse.Statement) -> bool:
    """Whether this is VACUUM or ANALYZE."""
    return type(statement.tree) is trees.ast.VacuumStmt


async def execute(session: context.Session, statement: parse.Statement, sink: context.Sink) -> None:
    """Run it on the coordinator, and on the nodes for those of its tables that the role may maintain.

    Raises:
        OrochiError: the coordinator's, or the first of a node's; other nodes go on to their end.
    """
    version = (await session.coordinator.query("SHOW server_version_num"))[-1].rows[0][0]
    sql = _on_shells(session, statement) if int(version or b"0") >= _ONLY_SINCE else statement.sql
    tag = (await session.coordinator.query(sql))[-1].tag
    tables = await _permitted(session, _named(session, statement.tree))
    work: dict[ids.NodeId, list[trees.Node]] = {}
    for table, columns in tables:
        for shard in table.shards:
            for node_id in shard.node_ids:
                relation = trees.ast.RangeVar(
                    schemaname=shard.schema, relname=table.name, inh=True, relpersistence="p"
                )
                work.setdefault(node_id, []).append(
                    trees.ast.VacuumRelation(relation=relation, va_cols=columns)
                )
    ended = await asyncio.gather(
        *(_on_node(session, statement.tree, node_id, relations) for node_id, relations in work.items()),
        return_exceptions=True,
    )
    for result in ended:
        if isinstance(result, BaseException):
            raise result
    if _analyzes(statement.tree) and not session.transaction.in_block:
        for node_id in work:
            await _count(session, node_id, [table for table, _ in tables])
        await session.runtime.refresh()
    await sink.complete(tag)


def _is_ours(tree: trees.Node) -> bool:
    return type(tree) is trees.ast.VacuumStmt and not _option(tree, "only_database_stats")


def _analyzes(tree: trees.Node) -> bool:
    return not tree.is_vacuumcmd or _option(tree, "analyze")


def _option(tree: trees.Node, name: str) -> bool:
    """Whether an option is on; the last of several counts."""
    values = [option.arg for option in tree.options or () if option.defname == name]
    if not values:
        return False
    text = getattr(values[-1], "sval", getattr(values[-1], "ival", None))
    return (None if text is None else str(text).lower()) in _TRUE


def _on_shells(session: context.Session, statement: parse.Statement) -> str:
    """The statement for the coordinator: of shells ONLY themselves."""
    tree = statement.tree
    if not tree.rels:
        return statement.sql
    relations = [
        trees.ast.VacuumRelation(
            relation=trees.ast.RangeVar(
                catalogname=rel.relation.catalogname,
                schemaname=rel.relation.schemaname,
                relname=rel.relation.relname,
                inh=rel.relation.inh and _table(session, rel.relation) is None,
                relpersistence="p",
            ),
            va_cols=rel.va_cols,
        )
        for rel in tree.rels
    ]
    return parse.deparse(_with(tree, relations))


def _with(tree: trees.Node, relations: Sequence[trees.Node]) -> trees.Node:
    return trees.ast.VacuumStmt(options=tree.options, rels=tuple(relations), is_vacuumcmd=tree.is_vacuumcmd)


def _table(session: context.Session, relation: trees.Node) -> snapshots.Table | None:
    found = names.find_relation(
        session.snapshot(), session.search_path, session.temp_tables, relation.schemaname, relation.relname
    )
    return found if isinstance(found, snapshots.Table) else None


def _named(session: context.Session, tree: trees.Node) -> list[tuple[snapshots.Table, trees.Node]]:
    """The Orochi tables named, and their columns if not all; without names, all tables."""
    if not tree.rels:
        return [(table, None) for table in session.snapshot().tables.values()]
    found = ((_table(session, rel.relation), rel.va_cols) for rel in tree.rels)
    return [(table, columns) for table, columns in found if table is not None]


async def _permitted(
    session: context.Session, tables: list[tuple[snapshots.Table, trees.Node]]
) -> list[tuple[snapshots.Table, trees.Node]]:
    """Without those that PostgreSQL has just warned of, having skipped them."""
    oids = ("{" + ",".join(str(table.oid) for table, _ in tables) + "}").encode()
    result = await session.coordinator.fetch(_PERMITTED, (oids,), (0,))
    permitted = {int(row[0] or b"0") for row in result.rows}
    return [(table, columns) for table, columns in tables if table.oid in permitted]


async def _on_node(
    session: context.Session, tree: trees.Node, node_id: ids.NodeId, relations: Sequence[trees.Node]
) -> None:
    sql = parse.deparse(_with(tree, relations))
    if session.transaction.in_block:
        connection = await session.transaction.node(node_id, write=True)
        await connection.query(sql)
        return
    async with session.transaction.autocommit(node_id) as connection:
        await connection.query(sql)


async def _count(session: context.Session, node_id: ids.NodeId, tables: Sequence[snapshots.Table]) -> None:
    """Bring the catalog's row counts of the tables' shards on a node up to date, but of those that are changing."""
    shards = {
        int(shard.shard_id): routing.relation(table, shard)
        for table in tables
        for shard in table.shards
        if shard.node_ids[0] == node_id
    }
    if not shards:
        return
    relations = "{" + ",".join(map(_element, shards.values())) + "}"
    try:
        async with session.runtime.service() as catalog:
            await catalog.query(f"BEGIN; SET LOCAL lock_timeout = '{_PATIENCE}'; {_turn(node_id)}")
            async with session.runtime.nodes.lease(node_id) as node:
                found = await node.fetch(_ROWS, (_array(shards), relations.encode()), (0, 0))
            counted = {int(shard_id or b"0"): int(rows or b"0") for shard_id, rows in found.rows}
            await catalog.fetch(_STORE, (_array(counted), _array(counted.values())), (0, 0))
            await catalog.query("COMMIT")
    except errors.RemoteError as error:
        if error.sqlstate != _LOCK_NOT_AVAILABLE:
            raise


def _turn(node_id: ids.NodeId) -> str:
    """Wait until nobody else is between counting the node's rows and storing the numbers."""
    return f"SELECT pg_catalog.pg_advisory_xact_lock({upkeep.COUNTING_LOCK}, {node_id})"


def _array(numbers: Iterable[int]) -> bytes:
    return ("{" + ",".join(map(str, numbers)) + "}").encode()


def _element(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
