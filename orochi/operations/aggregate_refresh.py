"""Refreshing a continuous aggregate: the buckets that are not as their rows say, and no others.

In this order, so that no write is lost and no reader sees a bucket as finished too early:
1. writes up to the end of what is to be finished are entered in the log from now on, and those that
   began before that are over;
2. the log is read;
3. batch by batch, the rows are aggregated anew in the place of the finished buckets: one distributed transaction;
4. only when that is committed on every node, what was read in 2 leaves the log.
A write after 2 stays in the log. A crash leaves more in the log than need be, never less.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import AsyncIterator, Sequence

from orochi import errors
from orochi.catalog import definition as definitions
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import aggregate_log, aggregate_rows, aggregate_state, shells, sinks, subselect, writes
from orochi.planner import continuous, parse, quoting
from orochi.timeseries import buckets, invalidation, ranges

#: Buckets of one transaction.
BATCH = 500
#: Seconds that writers have to end before what they may write to is finished another time.
PATIENCE = 20.0
_LOCK = 0x4F41
_ATTEMPTS, _PAUSE = 30, 0.05
_RETRIED = frozenset({"40001", "40P01"})


@dataclasses.dataclass(slots=True)
class Counts:
    """What a refresh did."""

    buckets: int = 0
    rows: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    node_id: int
    log_id: int
    low: int
    high: int


async def refresh(
    session: context.Session,
    sink: context.Sink,
    view_oid: int,
    start: str | None,
    end: str | None,
    *,
    force: bool = False,
) -> Counts:
    """Refresh the buckets that lie wholly between two times, as `orochi.time_value` has them; None is no bound.

    Raises:
        OrochiError: 25001, in a transaction block; 22023, no bucket fits.
    """
    from orochi.operations import aggregates

    if session.transaction.in_block:
        raise errors.OrochiError(
            "refresh_continuous_aggregate() cannot run inside a transaction block",
            sqlstate="25001",
            hint="It commits batch by batch: call it by itself.",
        )
    aggregate = await aggregates.require(session, view_oid)
    await session.runtime.refresh()
    began = time.time()
    async with _alone(session, aggregate.aggregate_id):
        counts = await _Refresh(session, sink, aggregate).run(start, end, force=force)
    await _record(session, aggregate, counts, began)
    return counts


@contextlib.asynccontextmanager
async def _alone(session: context.Session, aggregate_id: int) -> AsyncIterator[None]:
    """One refresh of an aggregate at a time."""
    key = f"{_LOCK}, {aggregate_id & 0x7FFFFFFF}"
    await session.coordinator.query(f"SELECT pg_catalog.pg_advisory_lock({key})")
    try:
        yield
    finally:
        if not session.coordinator.closed and session.coordinator.status == "I":
            await session.coordinator.query(f"SELECT pg_catalog.pg_advisory_unlock({key})")


async def _record(
    session: context.Session, aggregate: snapshots.Aggregate, counts: Counts, began: float
) -> None:
    """Enter what was done into the history of jobs; a job's runner takes it from there."""
    who = definitions.quote_literal(session.coordinator.parameters.get("application_name", ""))
    details = definitions.quote_literal(json.dumps({"buckets": counts.buckets}))
    async with shells.transactional(session):
        await session.catalog_execute(
            "INSERT INTO orochi.orochi_job_runs (kind, table_oid, scheduled, started_at, finished_at, state,"
            f" rows, details, worker) VALUES ('refresh', {aggregate.materialization_oid}, false,"
            f" to_timestamp({began!r}), clock_timestamp(), 'succeeded', {counts.rows}, {details}::jsonb, {who})"
        )


class _Refresh:
    """One refresh under way."""

    def __init__(self, session: context.Session, sink: context.Sink, aggregate: snapshots.Aggregate) -> None:
        self._session, self._sink, self._aggregate = session, sink, aggregate
        self._bucket = aggregate.bucket
        self._counts = Counts()
        self._removed: set[_Entry] = set()

    @property
    def _nodes(self) -> list[int]:
        return sorted(aggregate_log.nodes_of(self._session.snapshot(), self._aggregate))

    async def run(self, start: str | None, end: str | None, *, force: bool) -> Counts:
        low, high = await self._window(start, end)
        if low > high:
            raise errors.InvalidParameter(
                "refresh window too small",
                detail="It must hold at least one whole bucket.",
                hint="Move its ends to the start of buckets, or leave them open.",
            )
        state, newest = await self._state(), await self._newest()
        if newest is not None:
            newest += (self._bucket.width or 1) - 1
        fresh = buckets.within(state.new, low, min(high, newest)) if newest is not None else ()
        if fresh and not await self._settled(fresh[-1][1] + 1):
            await self._sink.notice(
                "new buckets are not finished this time: transactions that write are still open",
                severity="WARNING",
            )
            fresh = ()
        entries = await self._entries(low, high)
        found = buckets.united((entry.low, entry.high) for entry in entries)
        touched = buckets.without((*found, *buckets.within(state.dropped, low, high)), state.new)
        if force:
            touched = buckets.without(((low, high),), state.new)
        wanted = buckets.united((*fresh, *buckets.within(buckets.united(touched), low, high)))
        points = {entry.low for entry in entries if entry.low == entry.high}
        for batch in self._batches(wanted, points):
            await self._recompute(batch, points)
            await self._forget(entries, batch, fresh, state)
        await self._close(entries, low, high, state)
        return self._counts

    # --- what is to be done ------------------------------------------------------------------------

    async def _state(self) -> aggregate_state.State:
        return (await aggregate_state.read(self._session, [self._aggregate]))[self._aggregate.aggregate_id]

    async def _window(self, start: str | None, end: str | None) -> buckets.Range:
        """The least and the greatest bucket that lies wholly between two times."""
        low, high = buckets.LOWEST, buckets.GREATEST
        if start is not None:
            low = await self._raw(start)
        if end is not None:
            moment = buckets.literal(self._bucket.type_oid, await self._raw(end))
            high = await self._start_of(moment) - 1
        return low, high

    async def _raw(self, given: str) -> int:
        answer = await self._session.coordinator.fetch(
            f"SELECT orochi._boundary({self._aggregate.materialization_oid}::regclass, $1::orochi.time_value)::text",
            (given.encode(),),
            (0,),
            (25,),
        )
        return int(answer.rows[0][0] or b"0")

    async def _start_of(self, moment: str) -> int:
        start = ranges.raw_sql(self._bucket.type_oid, "start")
        answer = await self._session.coordinator.fetch(
            f"SELECT ({start})::text FROM (SELECT {self._bucket.expression} AS start"
            f" FROM (SELECT {moment} AS {continuous.TIME}) AS moment) AS bucket"
        )
        return int(answer.rows[0][0] or b"0")

    async def _newest(self) -> int | None:
        """The last bucket that has rows; None if there are none."""
        table = self._session.snapshot().tables[self._aggregate.table_oid]
        try:
            known, raw_time = await aggregate_rows.newest(self._session, table)
        except errors.OrochiError as error:
            if not _may_pass(error):
                raise
            known = False
        if not known:
            raw_time = await self._newest_of_all(table)
        if raw_time is None:
            return None
        return await self._start_of(buckets.literal(self._bucket.type_oid, raw_time))

    async def _newest_of_all(self, table: snapshots.Table) -> int | None:
        column = quoting.identifier(self._bucket.time)
        raw = ranges.raw_sql(self._bucket.type_oid, "newest")
        finite = f" WHERE {column} < 'infinity'" if buckets.has_infinity(self._bucket.type_oid) else ""
        rows = await self._ask(
            f"SELECT ({raw})::text FROM (SELECT max({column}) AS newest"
            f" FROM {quoting.relation(table.schema, table.name)}{finite}) AS rows"
        )
        return int(rows[0][0]) if rows and rows[0][0] is not None else None

    async def _ask(self, sql: str) -> Sequence[tuple[str | None, ...]]:
        for attempt in range(_ATTEMPTS):
            try:
                return (await subselect.rows_of(self._session, sql, None)).rows
            except errors.OrochiError as error:
                if not _may_pass(error) or attempt == _ATTEMPTS - 1:
                    raise
            await asyncio.sleep(_PAUSE * (attempt + 1))
            await self._session.runtime.refresh()
        raise AssertionError

    async def _settled(self, end: int) -> bool:
        """Have writes below `end` entered from now on; whether the writers of before are over."""
        name = invalidation.threshold(self._aggregate.aggregate_id)
        source = self._session.snapshot().tables[self._aggregate.table_oid]
        nodes = {node_id for shard in source.shards for node_id in shard.node_ids}
        done = await asyncio.gather(*(self._settled_on(node_id, name, end) for node_id in sorted(nodes)))
        return all(done)

    async def _settled_on(self, node_id: int, name: str, end: int) -> bool:
        async with self._session.runtime.nodes.lease(node_id, {}) as node:
            answer = await node.fetch(f"SELECT last_value::text FROM {name}")
            if int(answer.rows[0][0] or b"0") >= end:
                return True
            # with a row of its own, so that the sequence's new value is on disk at COMMIT
            await node.query(
                f"BEGIN; SELECT setval('{name}', {end});"
                " INSERT INTO orochi_data.aggregate_log (aggregate_id, lowest, greatest) VALUES (0, 0, 0);"
                " DELETE FROM orochi_data.aggregate_log WHERE aggregate_id = 0; COMMIT"
            )
            answer = await node.fetch("SELECT orochi_data.writers()::text")
            last = int(answer.rows[0][0] or b"0")
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                answer = await node.fetch("SELECT orochi_data.oldest_writer()::text")
                if int(answer.rows[0][0] or b"0") >= last:
                    return True
                await asyncio.sleep(_PAUSE)
        return False

    async def _entries(self, low: int, high: int) -> list[_Entry]:
        async def one(node_id: int) -> list[_Entry]:
            async with self._session.runtime.nodes.lease(node_id, {}) as node:
                answer = await node.fetch(
                    "SELECT log_id::text, lowest::text, greatest::text FROM orochi_data.aggregate_log"
                    f" WHERE aggregate_id = {self._aggregate.aggregate_id}"
                    f" AND lowest <= '{high}'::bigint AND greatest >= '{low}'::bigint"
                )
            return [_Entry(node_id, *(int(value or b"0") for value in row)) for row in answer.rows]

        return [entry for part in await asyncio.gather(*map(one, self._nodes)) for entry in part]

    def _batches(self, wanted: buckets.Ranges, points: set[int]) -> list[buckets.Ranges]:
        """The buckets in batches: single ones by their number, ranges cut at the ends of the source's chunks."""
        table = self._session.snapshot().tables[self._aggregate.table_oid]
        ends = sorted({chunk.range_end - 1 for shard in table.shards for chunk in shard.chunks})
        result: list[buckets.Ranges] = []
        single: list[buckets.Range] = []
        for low, high in wanted:
            if low == high and low in points:
                single.append((low, high))
                continue
            pieces = buckets.cut(low, high, ends, self._bucket.width or self._bucket.slack, BATCH)
            result += [(piece,) for piece in pieces]
        return result + buckets.in_batches(self._bucket, single, BATCH)

    # --- doing it ----------------------------------------------------------------------------------

    async def _recompute(self, batch: buckets.Ranges, points: set[int]) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                await self._replace(batch, points)
                return
            except errors.OrochiError as error:
                if not _may_pass(error) or attempt == _ATTEMPTS - 1:
                    raise
            await asyncio.sleep(_PAUSE * (attempt + 1))
            await self._session.runtime.refresh()

    async def _replace(self, batch: buckets.Ranges, points: set[int]) -> None:
        """Aggregate the rows of the buckets anew, in one transaction."""
        session, bucket = self._session, self._bucket
        snapshot = session.snapshot()
        table = snapshot.tables[self._aggregate.materialization_oid]
        view = snapshot.views[self._aggregate.query]
        name = quoting.relation(table.schema, table.name)
        query = continuous.template(view.definition)
        placed = buckets.on_grid(bucket, batch)
        columns = ", ".join(map(quoting.identifier, view.columns))
        held = buckets.inside(quoting.identifier(bucket.column), bucket.type_oid, placed)
        rows = query.where(buckets.rows_of(bucket, query.time, query.start, placed))
        async with _block(session):
            nodes = {node for shard in table.shards for node in shard.node_ids}
            await writes.per_node({node_id: [functools.partial(self._lock, node_id)] for node_id in nodes})
            await self._execute(f"DELETE FROM {name} WHERE {held}")
            if all(low == high and low in points for low, high in batch):
                added = await aggregate_rows.insert(session, table, view.columns, rows)
                done = len(batch)
            else:
                added = await self._execute(f"INSERT INTO {name} ({columns}) {rows}")
                counted = await subselect.rows_of(
                    session,
                    f"SELECT count(DISTINCT {quoting.identifier(bucket.column)})::text FROM {name} WHERE {held}",
                    None,
                )
                done = int(counted.rows[0][0] or "0")
        self._counts.rows += added
        self._counts.buckets += done

    async def _lock(self, node_id: int) -> None:
        """One that a crash left prepared is over before its buckets are replaced."""
        node = await self._session.transaction.node(node_id, write=True)
        key = f"{_LOCK}, {self._aggregate.aggregate_id & 0x7FFFFFFF}"
        await node.query(f"SELECT pg_catalog.pg_advisory_xact_lock({key})")

    async def _execute(self, sql: str) -> int:
        from orochi.operations import run

        sink = _Tagged()
        await run.execute(self._session, parse.parse_one(sql), None, None, sink)
        return sink.count

    async def _forget(
        self,
        entries: Sequence[_Entry],
        batch: buckets.Ranges,
        fresh: buckets.Ranges,
        state: aggregate_state.State,
    ) -> None:
        """What the batch has finished leaves the log."""
        done = {low for low, high in batch if low == high}
        await self._remove([entry for entry in entries if entry.low == entry.high and entry.low in done])
        finished = buckets.without(fresh, buckets.without(buckets.EVERYTHING, batch))
        if finished:
            await self._set_new(buckets.without((await self._state()).new, finished))

    async def _close(
        self, entries: Sequence[_Entry], low: int, high: int, seen: aggregate_state.State
    ) -> None:
        """What is left of the entries that were read: whole ranges, less the window; and all in the window."""
        await self._remove(entries, low, high)
        done = buckets.within(seen.dropped, low, high)
        if not done:
            return
        aggregate_id = self._aggregate.aggregate_id
        left = buckets.without((await self._state()).dropped, done)
        values = ", ".join(f"({aggregate_id}, {a}, {b}, 'dropped')" for a, b in left)
        insert = (
            "; INSERT INTO orochi.orochi_invalidation_log (aggregate_id, lowest, greatest, reason)"
            f" VALUES {values}"
        )
        await self._change(
            "DELETE FROM orochi.orochi_invalidation_log"
            f" WHERE aggregate_id = {aggregate_id} AND reason = 'dropped'{insert if values else ''}"
        )

    async def _set_new(self, new: buckets.Ranges) -> None:
        aggregate_id = self._aggregate.aggregate_id
        values = ", ".join(f"({aggregate_id}, {low}, {high})" for low, high in new)
        await self._change(
            "DELETE FROM orochi.orochi_invalidation_log"
            f" WHERE aggregate_id = {aggregate_id} AND reason = 'new';"
            f" INSERT INTO orochi.orochi_invalidation_log (aggregate_id, lowest, greatest) VALUES {values}"
        )

    async def _change(self, sql: str) -> None:
        async with shells.transactional(self._session):
            await self._session.catalog_execute(sql)

    async def _remove(
        self, entries: Sequence[_Entry], low: int | None = None, high: int | None = None
    ) -> None:
        """Take entries out of the log; what reaches beyond a window stays."""
        by_node: dict[int, list[_Entry]] = {}
        for entry in entries:
            if entry not in self._removed:
                by_node.setdefault(entry.node_id, []).append(entry)
        aggregate_id = self._aggregate.aggregate_id

        async def one(node_id: int, found: list[_Entry]) -> None:
            listed = ", ".join(str(entry.log_id) for entry in found)
            sql = (
                f"DELETE FROM orochi_data.aggregate_log WHERE aggregate_id = {aggregate_id}"
                f" AND log_id IN ({listed})"
            )
            rest = [
                piece
                for entry in found
                if low is not None and high is not None
                for piece in buckets.without(((entry.low, entry.high),), [(low, high)])
            ]
            if rest:
                values = ", ".join(f"({aggregate_id}, {a}, {b})" for a, b in rest)
                sql += f"; INSERT INTO orochi_data.aggregate_log (aggregate_id, lowest, greatest) VALUES {values}"
            async with self._session.runtime.nodes.lease(node_id, {}) as node:
                await node.query(f"BEGIN; {sql}; COMMIT")

        await asyncio.gather(*(one(*item) for item in by_node.items()))
        self._removed.update(entries)


@contextlib.asynccontextmanager
async def _block(session: context.Session) -> AsyncIterator[None]:
    """A transaction of several statements, at READ COMMITTED."""
    await session.coordinator.query("BEGIN ISOLATION LEVEL READ COMMITTED")
    session.transaction.in_block = True
    session.transaction.isolation = "read committed"
    try:
        yield
        await session.transaction.commit(session.coordinator)
    except BaseException:
        await session.transaction.rollback()
        if not session.coordinator.closed and session.coordinator.status != "I":
            await session.coordinator.query("ROLLBACK")
        raise
    finally:
        session.transaction.in_block = False
    await session.runtime.refresh()


def _may_pass(error: errors.OrochiError) -> bool:
    return error.sqlstate in _RETRIED or writes.is_stale(error)


class _Tagged(sinks.Silent):
    """A sink that keeps the number of the command tag."""

    def __init__(self) -> None:
        self.count = 0

    async def complete(self, tag: str) -> None:
        """Keep the number."""
        last = tag.rpartition(" ")[2]
        self.count = int(last) if last.isdigit() else 0
