"""COPY from and to the client, for Orochi tables.

COPY FROM: the client's bytes go to PostgreSQL's own COPY into the staging table, whose rows then go
to the shards, all in the session's transaction: an error leaves nothing behind. COPY TO: PostgreSQL
prints, over rows pulled into the client's session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from orochi import errors
from orochi.executor import context, reduce
from orochi.operations import again, copy_direct, load_target, privileges, redistribute, select, stage, writes
from orochi.operations import secured as secured_reads
from orochi.pgwire import client, messages
from orochi.planner import classify, parse
from orochi.planner import copy as plans

_ATTEMPTS = 40
#: In a block that wrote before, where what a failed attempt wrote is undone to.
_START = "orochi: start of the rows"
#: Whether the running transaction has made a table's entry.
_IS_NEW = """
SELECT CASE WHEN c.entered < s.next THEN pg_catalog.pg_xact_status(
        c.entered::pg_catalog.text::pg_catalog.xid8) = 'in progress'
    ELSE c.entered - s.next < 2147483648 END  -- newer than all that have ended, or of a former epoch
FROM (SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::pg_catalog.text::pg_catalog.int8) AS s(next)
CROSS JOIN LATERAL (SELECT ((s.next >> 32) << 32) | r.xmin::pg_catalog.text::pg_catalog.int8
    FROM pg_catalog.pg_class r WHERE r.oid = $1::pg_catalog.oid) AS c(entered)
"""
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.02, 0.5


async def execute(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> None:
    """Run a COPY that names an Orochi table, to its command tag. It has no parameters and no fields."""
    plan = plans.analyze(statement, session.snapshot(), session.search_path, session.temp_tables)
    match plan:
        case plans.CopyFrom():
            await copy_in(session, plan, sink)
        case plans.CopyTo():
            await copy_out(session, plan, sink)


async def copy_in(session: context.Session, plan: plans.CopyFrom, sink: context.Sink) -> None:
    """COPY ... FROM."""
    await privileges.require_copy_from(session, plan.table, plan.columns)
    insert = int(plan.table.oid), "INSERT"
    if not privileges.is_known(session, insert) and await privileges.is_secured(session, [plan.table]):
        raise errors.FeatureNotSupported(
            "COPY FROM not supported with row-level security", hint="Use INSERT statements instead."
        )
    if plan.freeze:
        await _check_new(session, plan)
    target = await load_target.find(session, plan.table)
    if target is not None:
        rows = await copy_direct.load(session, plan, target, sink)
        return await writes.answer(session, sink, f"COPY {rows}")
    async with stage.table(session, plan.table):
        await copy_direct.stage_all(session, plan, sink)
        rows = await _distribute(session, plan)
    return await writes.answer(session, sink, f"COPY {rows}")


async def _check_new(session: context.Session, plan: plans.CopyFrom) -> None:
    """FREEZE is for a table that nobody else can have seen filled.

    Raises:
        OrochiError: 55000, it was not made or emptied in this transaction.
    """
    if session.coordinator.status == "T":
        if plan.table.oid in session.transaction.emptied:
            return
        found = await session.coordinator.fetch(_IS_NEW, (str(plan.table.oid).encode(),), (0,))
        if found.rows and found.rows[0][0] == b"t":
            return
    raise errors.OrochiError(
        "cannot perform COPY FREEZE because the table was not created or truncated in the current"
        " subtransaction",
        sqlstate="55000",
    )


async def _distribute(session: context.Session, plan: plans.CopyFrom) -> int:
    """Staged rows to shards; again if a shard's layout changed meanwhile, for the client cannot resend."""
    start = await again.Start.here(session, _START)
    for attempt in range(_ATTEMPTS):
        table = session.snapshot().tables.get(plan.table.oid)
        if table is None:
            raise errors.StalePlan(f'table "{plan.table.name}" is no longer an Orochi table')
        try:
            rows = (await redistribute.load_relation(session, table, stage.RELATION)).rows
            await start.done()
            return rows
        except errors.OrochiError as error:
            if not writes.is_stale(error) or attempt == _ATTEMPTS - 1:
                raise
            if not start.can_go_back:
                raise errors.SerializationFailure(
                    "the layout of a shard changed while this transaction was open",
                    hint="Run the transaction again.",
                ) from error
        await start.back()
        await asyncio.sleep(min(_PAUSE_SECONDS * 2**attempt, _LONGEST_PAUSE_SECONDS))
        await session.runtime.refresh()
        if session.catalog_is_own:
            await session.catalog_changed()
    raise AssertionError("unreachable")


async def copy_out(session: context.Session, plan: plans.CopyTo, sink: context.Sink) -> None:
    """COPY ... TO."""
    tables = classify.tables_in(plan.query.tree, session.snapshot(), session.search_path, session.temp_tables)
    secured = bool(tables) and await privileges.row_security(session, plan.query, tables)
    await privileges.require(session, plan.query, None, tables)
    coordinator = session.coordinator
    if secured:
        sql = await secured_reads.readable(session, plan.query, None, tables)
        tag = await _print_from(plan, sql, sink, coordinator)
    elif coordinator.status == "T" and await reduce.is_read_only(coordinator):
        # No temporary table can be made there (pg_dump reads so); another connection prints the same.
        async with session.runtime.nodes.service(session.settings) as printer:
            tag = await _print(session, plan, sink, printer)
    else:
        tag = await _print(session, plan, sink, coordinator)
    await writes.answer(session, sink, tag)


async def _print(
    session: context.Session, plan: plans.CopyTo, sink: context.Sink, connection: client.PgConnection
) -> str:
    source = await select.materialize(session, plan.query, None, connection)
    try:
        return await _print_from(plan, source.sql, sink, connection)
    finally:
        if connection.status != "E" and not connection.closed:
            await source.cleanup()


async def _print_from(
    plan: plans.CopyTo, query: str, sink: context.Sink, connection: client.PgConnection
) -> str:
    sql = f"COPY ({query}){plan.tail}"
    if not plan.to_client:
        return (await connection.fetch(sql)).tag
    return await _to_client(plan, query, sql, sink, connection)


async def _to_client(
    plan: plans.CopyTo, query: str, sql: str, sink: context.Sink, connection: client.PgConnection
) -> str:
    columns = plan.columns
    if columns is None:
        _, described = await connection.describe(query)
        columns = len(described or ())
    overall = int(plan.binary)
    begun = False

    async def forward(pieces: list[bytes]) -> None:
        nonlocal begun
        if not begun:
            begun = True
            await sink.copy_out(overall, (overall,) * columns)
        for piece in pieces:
            await sink.copy_data(piece)

    tag = await connection.copy_out_messages(sql, forward)
    await forward([])
    await sink.copy_done()
    return tag
