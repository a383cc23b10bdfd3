"""Calls that keep policies, and `run_maintenance`, which runs now what is due."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import psycopg

from orochi import errors, ids, pgtypes
from orochi import settings as process_settings
from orochi.catalog import definition as definitions
from orochi.executor import context, names
from orochi.operations import hypertable
from orochi.operations.arguments import Arguments
from orochi.timeseries import policies

Rows = list[tuple[str | None, ...]]
_DEFAULT_SCHEDULE = "12 hours"
_TIMEOUT_SECONDS = 3600.0


async def add_compression_policy(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Compress chunks of a hypertable when they are older than `compress_after`; the job's id."""
    oid = call.oid("hypertable")
    shell = await hypertable.hypertable(session, oid)
    table = session.snapshot().tables[ids.TableId(oid)]
    assert table.dimension is not None
    age = call.interval("compress_after")
    if age is None:
        raise errors.InvalidParameter("compress_after must not be NULL")
    if table.dimension.type_oid not in pgtypes.TIMES:
        raise errors.FeatureNotSupported(
            f'"{shell.name}" has an integer time column, whose age is not known',
            hint="Compress its chunks with compress_chunk().",
        )
    await hypertable.resolve_interval(session, pgtypes.TIMESTAMPTZ, age)
    existing = await session.catalog_execute(
        f"SELECT job_id FROM orochi.orochi_jobs WHERE kind = '{policies.COMPRESSION}' AND table_oid = {oid}"
    )
    if existing:
        if not call.boolean("if_not_exists"):
            raise errors.OrochiError(
                f'a compression policy already exists for "{shell.name}"',
                sqlstate="42710",
                hint="Use if_not_exists => true, or remove_compression_policy() first.",
            )
        await sink.notice(f'a compression policy already exists for "{shell.name}", skipping')
        return [(existing[0][0],)]
    config = definitions.quote_literal(json.dumps({"compress_after": age.text}))
    schedule = definitions.quote_literal(call.text("schedule_interval") or _DEFAULT_SCHEDULE)
    rows = await session.catalog_execute(
        "INSERT INTO orochi.orochi_jobs (kind, table_oid, config, schedule_interval)"
        f" VALUES ('{policies.COMPRESSION}', {oid}, {config}::jsonb, {schedule}::interval) RETURNING job_id"
    )
    return [(rows[0][0],)]


async def remove_compression_policy(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Forget a hypertable's compression policy; whether there was one."""
    oid = call.oid("hypertable")
    shell = await hypertable.hypertable(session, oid)
    rows = await session.catalog_execute(
        f"DELETE FROM orochi.orochi_jobs WHERE kind = '{policies.COMPRESSION}' AND table_oid = {oid} RETURNING job_id"
    )
    if not rows and not call.boolean("if_exists"):
        raise errors.UndefinedObject(
            f'no compression policy exists for "{shell.name}"', hint="Use if_exists => true."
        )
    return [("t" if rows else "f",)]


async def run_maintenance(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Count rows and sizes, run due policies and remove what is not needed, on every data node."""
    snapshot = await session.runtime.refresh()
    everywhere = [node.node_id for node in snapshot.data_nodes]
    flushes = [(node_id, names.FLUSH_NODE, {"node_id": node_id, "patient": 1}) for node_id in everywhere]
    await _on_nodes(session, flushes)
    await _on_nodes(
        session, [(node_id, names.COLLECT_NODE_STATS, {"node_id": node_id}) for node_id in everywhere]
    )
    for run, chunks in await asyncio.to_thread(_claim):
        error = None
        try:
            await _on_nodes(
                session,
                [(node_id, names.COMPRESS_CHUNK, {"chunk_id": chunk_id}) for node_id, chunk_id in chunks],
            )
        except errors.OrochiError as failure:
            error = failure.message
        await asyncio.to_thread(_finish, run, error)
        if error is not None:
            await sink.notice(f"job {run.job_id} failed: {error}", severity="WARNING")
    await _on_nodes(session, [(node_id, names.SWEEP_NODE, {"node_id": node_id}) for node_id in everywhere])
    await session.runtime.refresh()
    return [("",)]


async def _on_nodes(session: context.Session, work: Sequence[tuple[int, str, dict[str, int]]]) -> None:
    """Run tasks, those of one node one after another, all nodes at once."""

    async def one(node_id: int) -> None:
        for target, task, arguments in work:
            if target == node_id:
                await session.runtime.transport.run_task(node_id, task, arguments, timeout=_TIMEOUT_SECONDS)

    await asyncio.gather(*(one(node_id) for node_id in {target for target, _, _ in work}))


def _claim() -> list[tuple[policies.Run, list[tuple[int, int]]]]:
    with psycopg.connect(process_settings.get().coordinator_dsn, autocommit=True) as catalog:
        runs = policies.claim_due(catalog, policies.COMPRESSION)
        return [(run, policies.chunks_to_compress(catalog, run)) for run in runs]


def _finish(run: policies.Run, error: str | None) -> None:
    with psycopg.connect(process_settings.get().coordinator_dsn, autocommit=True) as catalog:
        policies.finish(catalog, run, error)
