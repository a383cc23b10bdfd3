"""TRUNCATE of Orochi tables: every shard on its node, in one transaction with all else that is named.

What foreign keys reach is told by the shells, as PostgreSQL would: an error, or with CASCADE more
tables. Local tables in the list are truncated on the coordinator. Stripes leave the catalog, and
the layout of their shards changes, so that no plan that still names them can run.
"""

from __future__ import annotations

from collections.abc import Sequence

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import routing, shells, striped, writes
from orochi.pgwire import messages
from orochi.planner import names, parse, quoting
from orochi.planner import tree as trees

_REFERENCING = """
SELECT c.conrelid::bigint, c.conrelid::regclass::text, c.confrelid::regclass::text
FROM pg_catalog.pg_constraint c
WHERE c.contype = 'f' AND c.confrelid = ANY ($1::pg_catalog.oid[])
    AND NOT c.conrelid = ANY ($1::pg_catalog.oid[]) AND c.conparentid = 0
"""
_SEQUENCES = """
SELECT s.oid::regclass::text FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class s ON s.oid = d.objid
WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
    AND d.refobjid = ANY ($1::pg_catalog.oid[]) AND d.deptype IN ('a', 'i') AND s.relkind = 'S'
"""
_REFUSED = """
SELECT c.oid::regclass::text FROM pg_catalog.pg_class c
WHERE c.oid = ANY ($1::pg_catalog.oid[]) AND NOT pg_catalog.has_table_privilege(c.oid, 'TRUNCATE')
"""


async def execute(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> None:
    """Run a TRUNCATE that names an Orochi table, to its command tag. It has no parameters and no fields."""
    tree, snapshot = statement.tree, session.snapshot()
    cascade = tree.behavior.name == "DROP_CASCADE"
    named: list[int] = []
    for relation in tree.relations:
        oid = await _oid(session, snapshot, relation)
        if oid not in named:
            named.append(oid)
    everything = await _with_referencing(session, sink, named, cascade=cascade)
    refused = await _column(session, _REFUSED, everything)
    if refused:
        raise errors.OrochiError(f"permission denied for table {refused[0]}", sqlstate="42501")
    tables = [snapshot.current(oid) for oid in everything if oid in snapshot.tables]  # type: ignore[arg-type]
    local = [oid for oid in everything if oid not in snapshot.tables]
    async with shells.transactional(session):
        with_stripes = [table for table in tables if any(shard.has_stripes for shard in table.shards)]
        for table in with_stripes:
            await shells.bump_layouts(session, table.shards)
        await _truncate_nodes(session, tables)
        if local:
            listed = ", ".join(await _regclass(session, local))
            await session.coordinator.fetch(f"TRUNCATE {listed}")
        for table in with_stripes:
            await striped.drop_stripes(session, table)
        if tree.restart_seqs:
            for sequence in await _column(session, _SEQUENCES, everything):
                await session.coordinator.fetch(f"ALTER SEQUENCE {sequence} RESTART")
    session.transaction.emptied.update(table.oid for table in tables if session.transaction.in_block)
    await writes.answer(session, sink, "TRUNCATE TABLE")


async def _oid(session: context.Session, snapshot: snapshots.Snapshot, relation: trees.Node) -> int:
    found = names.find_relation(
        snapshot, session.search_path, session.temp_tables, relation.schemaname, relation.relname
    )
    if isinstance(found, snapshots.Table):
        return found.oid
    name = quoting.identifier(relation.relname)
    if relation.schemaname:
        name = quoting.relation(relation.schemaname, relation.relname)
    result = await session.coordinator.fetch("SELECT $1::regclass::oid::bigint", (name.encode(),), (0,))
    return int(result.rows[0][0] or b"0")


async def _with_referencing(
    session: context.Session, sink: context.Sink, oids: Sequence[int], *, cascade: bool
) -> list[int]:
    """The tables, and with CASCADE all whose foreign keys refer to them."""
    found = list(oids)
    while True:
        result = await session.coordinator.fetch(_REFERENCING, (_array(found),), (0,))
        if not result.rows:
            return found
        for oid, name, referenced in result.rows:
            if not cascade:
                raise errors.FeatureNotSupported(
                    "cannot truncate a table referenced in a foreign key constraint",
                    detail=f'Table "{_text(name)}" references "{_text(referenced)}".',
                    hint=f'Truncate table "{_text(name)}" at the same time, or use TRUNCATE ... CASCADE.',
                )
            number = int(oid or b"0")
            if number not in found:
                found.append(number)
                await sink.notice(f'truncate cascades to table "{_text(name)}"')


async def _truncate_nodes(session: context.Session, tables: Sequence[snapshots.Table]) -> None:
    """One statement a node, so that foreign keys between the shards are satisfied."""
    relations: dict[int, list[str]] = {}
    for table in tables:
        for shard in table.shards:
            for node_id in shard.node_ids:
                relations.setdefault(node_id, []).append(routing.relation(table, shard))
    work = {node_id: [f"TRUNCATE {', '.join(listed)}"] for node_id, listed in relations.items()}
    await shells.run_on_nodes(session, work)


async def _column(session: context.Session, sql: str, oids: Sequence[int]) -> list[str]:
    result = await session.coordinator.fetch(sql, (_array(oids),), (0,))
    return [_text(row[0]) for row in result.rows]


async def _regclass(session: context.Session, oids: Sequence[int]) -> list[str]:
    return await _column(
        session, "SELECT o::regclass::text FROM pg_catalog.unnest($1::pg_catalog.oid[]) o", oids
    )


def _array(oids: Sequence[int]) -> bytes:
    return ("{" + ",".join(map(str, oids)) + "}").encode()


def _text(value: bytes | None) -> str:
    return (value or b"").decode()
