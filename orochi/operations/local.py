"""Fragments run in the gateway, on the session's own node connections.

Used where a worker's connection would see another state than the statement must see: in a
transaction that has written to nodes, or one whose snapshot must stay (REPEATABLE READ). Stripe
rows still come from the node's worker; the delete vector is read on the session's connection, so
a row the transaction deleted or recalled is seen exactly once.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import AsyncIterator, Sequence

import pyarrow as pa

from orochi import errors, pgtypes
from orochi.engine import copybinary, placeholders, staging
from orochi.executor import context, reduce, transport, two_phase
from orochi.pgwire import client
from orochi.planner import fragment as plan_fragment

ROW_ID_COLUMNS = (
    plan_fragment.OutputColumn("orochi_stripe_id", pgtypes.INT8, -1, "bigint"),
    plan_fragment.OutputColumn("orochi_row_number", pgtypes.INT4, -1, "integer"),
)


def required(session: context.Session) -> bool:
    """Whether this session's next read must run on its own node connections."""
    transaction = session.transaction
    return transaction.wrote or (transaction.in_block and transaction.isolation != "read committed")


def require_one_snapshot(session: context.Session, fragments: Sequence[plan_fragment.Fragment]) -> None:
    """Refuse to read what can only be read piece by piece where `orochi.snapshot_reads` promises more.

    A READ COMMITTED block that wrote cannot use another connection's snapshot, and takes a new one for
    every statement on a node.

    Raises:
        FeatureNotSupported: see above.
    """
    transaction = session.transaction
    statement_snapshots = transaction.in_block and not transaction.steady
    if len(fragments) > 1 and statement_snapshots and transaction.wants_snapshot:
        raise errors.FeatureNotSupported(
            "a READ COMMITTED transaction that wrote to Orochi tables cannot read several shards"
            " from one snapshot",
            hint="Begin it with ISOLATION LEVEL REPEATABLE READ, or SET LOCAL orochi.snapshot_reads = off.",
        )


async def with_snapshot(
    session: context.Session, fragments: Sequence[plan_fragment.Fragment]
) -> list[plan_fragment.Fragment]:
    """The fragments, all to read the statement's one snapshot of the nodes if the session wants it so.

    Raises:
        FeatureNotSupported: the isolation level promises more than workers can keep.
    """
    transaction = session.transaction
    if transaction.isolation == "serializable" and len({fragment.node_id for fragment in fragments}) > 1:
        raise errors.FeatureNotSupported(
            "a SERIALIZABLE transaction cannot use several nodes", hint=two_phase.NOT_SERIALIZABLE_HINT
        )
    if not transaction.wants_snapshot:
        return list(fragments)
    names = await transaction.exported()
    return [dataclasses.replace(fragment, snapshot=names[fragment.node_id]) for fragment in fragments]


async def run(
    session: context.Session,
    fragments: Sequence[plan_fragment.Fragment],
    inputs: transport.Inputs = transport.NO_INPUTS,
) -> AsyncIterator[transport.FragmentResult]:
    """Run the fragments one after another; yields each one's result."""
    tables: dict[tuple[int, str, int | None], str] = {}
    async for result in _run(session, fragments, inputs, tables):
        yield result
    for (node_id, _, _), table in tables.items():
        connection = await session.transaction.node(node_id, write=False)
        await connection.query(f"DROP TABLE {table}")


async def _run(
    session: context.Session,
    fragments: Sequence[plan_fragment.Fragment],
    inputs: transport.Inputs,
    tables: dict[tuple[int, str, int | None], str],
) -> AsyncIterator[transport.FragmentResult]:
    for fragment in fragments:
        started = time.perf_counter()
        connection = await session.transaction.node(fragment.node_id, write=False)
        relations, stages = {}, []
        for scan in fragment.scans:
            relation = scan.relation
            if scan.input is not None:
                key = (fragment.node_id, scan.input.stage, scan.input.part)
                if key not in tables:
                    rows = inputs.get((scan.input.stage, scan.input.part), ())
                    tables[key] = await _bring(connection, scan, scan.input, rows)
                relation = tables[key]
            if scan.stripes:
                stage = await _stage(session, connection, fragment.node_id, scan)
                stages.append(stage)
                relation = _union(scan, stage)
            relations[scan.name] = relation
        batches = await _copy_out(connection, placeholders.fill(fragment.sql, relations), fragment.columns)
        for stage in stages:
            await connection.query(f"DROP TABLE {stage}")
        rows = sum(batch.num_rows for batch in batches)
        stats = transport.FragmentStats(
            rows=rows,
            bytes=sum(batch.nbytes for batch in batches),
            seconds=time.perf_counter() - started,
            engine="session",
        )
        yield transport.FragmentResult(fragment.number, batches, stats)


async def _bring(
    connection: client.PgConnection,
    scan: plan_fragment.Scan,
    source: plan_fragment.Input,
    batches: Sequence[pa.RecordBatch],
) -> str:
    """A stage's rows in a table of the node, made inside the transaction."""
    table = f"orochi_data.stage_{secrets.token_hex(8)}"
    await connection.query(f"CREATE UNLOGGED TABLE {table} ({staging.definition(scan)})")
    await connection.copy_in(
        f"COPY {table} FROM STDIN (FORMAT binary)", reduce.stream_of(batches, scan.columns)
    )
    for columns in source.indexes:
        listed = ", ".join(placeholders.quote(name) for name in columns)
        await connection.query(f"CREATE INDEX ON {table} ({listed})")
    return table


async def _copy_out(
    connection: client.PgConnection, sql: str, columns: Sequence[plan_fragment.OutputColumn]
) -> list[pa.RecordBatch]:
    decoder = copybinary.Decoder(columns)
    batches: list[pa.RecordBatch] = []
    async for data in connection.copy_out(f"COPY ({sql}) TO STDOUT (FORMAT binary)"):
        batches += decoder.feed(data)
    return batches + decoder.finish()


async def _stage(
    session: context.Session,
    connection: client.PgConnection,
    node_id: int,
    scan: plan_fragment.Scan,
) -> str:
    """The scan's stripe rows in a table of the node, made and dropped inside the transaction.

    Not a temporary table: PostgreSQL refuses PREPARE TRANSACTION after one was touched.
    """
    stage = f"orochi_data.stage_{secrets.token_hex(8)}"
    columns = (*scan.columns, *ROW_ID_COLUMNS)
    definition = ", ".join(f"{placeholders.quote(column.name)} {column.type_name}" for column in columns)
    await connection.query(f"CREATE UNLOGGED TABLE {stage} ({definition})")
    batches = await session.runtime.transport.run_scan(session.query_id, node_id, scan)
    await connection.copy_in(f"COPY {stage} FROM STDIN (FORMAT binary)", reduce.stream_of(batches, columns))
    return stage


def _union(scan: plan_fragment.Scan, stage: str) -> str:
    names = ", ".join(placeholders.quote(column.name) for column in scan.columns)
    return (
        f"(SELECT {names} FROM {scan.relation} UNION ALL SELECT {names} FROM {stage} orochi_stage "
        "WHERE NOT EXISTS (SELECT FROM orochi_data.delete_vectors orochi_deleted "
        "WHERE orochi_deleted.stripe_id = orochi_stage.orochi_stripe_id "
        "AND orochi_deleted.row_number = orochi_stage.orochi_row_number))"
    )
