"""Continuous aggregates by the OIDs of their views, for their owners, and one refresh of each at a time.

A turn begins and ends with one round trip each: rights, the lock, what was never finished and the catalog's version
are asked for at once, and what was done is noted while the lock is given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator

from orochi import errors
from orochi.catalog import definition as definitions
from orochi.catalog import snapshot as snapshots
from orochi.catalog import store
from orochi.executor import context
from orochi.operations import aggregate_state

_LOCK = 0x4F41


@dataclasses.dataclass(slots=True)
class Turn:
    """A refresh of an aggregate while nobody else refreshes it.

    Attributes:
        state: what was not finished as it began.
        buckets, rows: what it did.
    """

    aggregate: snapshots.Aggregate
    state: aggregate_state.State
    began: float = dataclasses.field(default_factory=time.time)
    buckets: int = 0
    rows: int = 0


def find(snapshot: snapshots.Snapshot, oid: int) -> snapshots.Aggregate | None:
    """The continuous aggregate of that view."""
    return next((item for item in snapshot.aggregates if item.view_oid == oid), None)


async def require(session: context.Session, oid: int) -> snapshots.Aggregate:
    """The continuous aggregate of that view, which the user owns.

    Raises:
        InvalidTable: it is none.
        OrochiError: 42501, the user does not own it.
    """
    answer = await session.coordinator.fetch(
        f"SELECT {oid}::regclass::text, pg_catalog.pg_has_role(c.relowner, 'USAGE')"
        f" FROM pg_catalog.pg_class c WHERE c.oid = {oid}"
    )
    name = (answer.rows[0][0] or b"").decode() if answer.rows else str(oid)
    aggregate = find(session.snapshot(), oid)
    if aggregate is None:
        raise errors.InvalidTable(
            f'"{name}" is not a continuous aggregate',
            hint="Make one with CREATE MATERIALIZED VIEW ... WITH (orochi.continuous).",
        )
    if answer.rows[0][1] != b"t":
        raise errors.OrochiError(f"must be owner of continuous aggregate {name}", sqlstate="42501")
    return aggregate


def unreadable_sql(aggregate: snapshots.Aggregate) -> str:
    """What the aggregate's query reads and its owner may not, as SQL."""
    return f"SELECT orochi._unreadable({aggregate.aggregate_id})"


def check_readable(denied: bytes | None) -> None:
    """Refuse what `unreadable_sql` told.

    Raises:
        OrochiError: 42501.
    """
    if denied is not None:
        raise errors.OrochiError(f"permission denied for {denied.decode()}", sqlstate="42501")


def key(aggregate: snapshots.Aggregate) -> str:
    """The two numbers of an aggregate's advisory locks, here and on nodes."""
    return f"{_LOCK}, {aggregate.aggregate_id & 0x7FFFFFFF}"


@contextlib.asynccontextmanager
async def taken(session: context.Session, oid: int) -> AsyncIterator[Turn]:
    """The next turn to refresh the aggregate of a view; what was done in it is noted, and the catalog known again.

    Raises:
        InvalidTable, OrochiError: as `require`.
    """
    aggregate = find(session.snapshot(), oid)
    if aggregate is None:  # made a moment ago, by way of another gateway
        await session.runtime.refresh()
        aggregate = await require(session, oid)
    try:
        turn = await _begin(session, aggregate)
        yield turn
    except BaseException:
        await _give_back(session, aggregate, if_held=True)
        raise
    version, _ = await asyncio.gather(_note(session, turn), _give_back(session, aggregate))
    await _know(session, version)


async def _begin(session: context.Session, aggregate: snapshots.Aggregate) -> Turn:
    oid = aggregate.view_oid
    lock = (
        f"SELECT pg_catalog.pg_advisory_lock({key(aggregate)}) FROM pg_catalog.pg_class c"
        f" WHERE c.oid = {oid} AND pg_catalog.pg_has_role(c.relowner, 'USAGE')"
    )
    state = aggregate_state.catalog_sql(str(aggregate.aggregate_id))
    # each statement sees what is committed as it begins, whatever the session's default is
    begin = "BEGIN ISOLATION LEVEL READ COMMITTED"
    refused = unreadable_sql(aggregate)
    sql = f"{begin}; {lock}; {refused}; {state}; {store.VERSION_SQL}; COMMIT"
    _, locked, denied, unread, version, _ = await session.coordinator.query(sql)
    await _know(session, int(version.rows[0][0] or b"0"))
    found = find(session.snapshot(), oid)
    if not locked.rows or found is None:
        found = await require(session, oid)
    check_readable(denied.rows[0][0])
    return Turn(found, aggregate_state.unread(found, unread))


async def _know(session: context.Session, version: int) -> None:
    """Let the gateway know the catalog of this version, at least."""
    if version != session.runtime.snapshot().version:
        await session.runtime.refresh()


async def _give_back(
    session: context.Session, aggregate: snapshots.Aggregate, *, if_held: bool = False
) -> None:
    coordinator = session.coordinator
    if coordinator.closed or coordinator.busy:
        return
    if coordinator.status != "I":
        await coordinator.query("ROLLBACK")
    sql = f"SELECT pg_catalog.pg_advisory_unlock({key(aggregate)})"
    if if_held:  # PostgreSQL warns of locks that are not
        sql += (
            " FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()"
            f" AND classid = {_LOCK} AND objid = {aggregate.aggregate_id & 0x7FFFFFFF} AND granted"
        )
    await coordinator.query(sql)


async def _note(session: context.Session, turn: Turn) -> int:
    """Enter what was done into the history of jobs, from where a job's runner takes it; the catalog's version then."""
    who = definitions.quote_literal(session.coordinator.parameters.get("application_name", ""))
    details = definitions.quote_literal(json.dumps({"buckets": turn.buckets}))
    async with session.runtime.service() as catalog:
        # what was refreshed is committed: the note of it may be lost in a crash
        answers = await catalog.query(
            "BEGIN; SET LOCAL synchronous_commit = off;"
            " INSERT INTO orochi.orochi_job_runs (kind, table_oid, scheduled, started_at, finished_at, state,"
            f" rows, details, worker) VALUES ('refresh', {turn.aggregate.materialization_oid}, false,"
            f" to_timestamp({turn.began!r}), clock_timestamp(), 'succeeded', {turn.rows}, {details}::jsonb, {who});"
            f" COMMIT; {store.VERSION_SQL}"
        )
    return int(answers[-1].rows[0][0] or b"0")
