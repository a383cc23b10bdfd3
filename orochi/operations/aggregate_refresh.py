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
from orochi.executor import context, transport
from orochi.operations import (
    aggregate_direct,
    aggregate_pending,
    aggregate_rows,
    aggregate_state,
    shells,
    sinks,
    subselect,
    writes,
)
from orochi.planner import continuous, parse, quoting
from orochi.timeseries import buckets

#: Buckets of one transaction.
BATCH = 500
_LOCK = 0x4F41


@dataclasses.dataclass(slots=True)
class Counts:
    """What a refresh did."""

    buckets: int = 0
    rows: int = 0


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
    aggregate, _ = await asyncio.gather(aggregates.require(session, view_oid), session.runtime.refresh())
    began = time.time()
    async with _alone(session, aggregate.aggregate_id):
        with transport.yielding():
            counts = await _Refresh(session, sink, aggregate).run(start, end, force=force)
        noted = asyncio.create_task(
            _record(session, aggregate, counts, began)
        )  # while the lock is given back
    await noted
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
    async with session.runtime.service() as catalog:
        # what was refreshed is committed: the note of it may be lost in a crash
        await catalog.query(
            "BEGIN; SET LOCAL synchronous_commit = off;"
            " INSERT INTO orochi.orochi_job_runs (kind, table_oid, scheduled, started_at, finished_at, state,"
            f" rows, details, worker) VALUES ('refresh', {aggregate.materialization_oid}, false,"
            f" to_timestamp({began!r}), clock_timestamp(), 'succeeded', {counts.rows}, {details}::jsonb, {who});"
            " COMMIT"
        )


class _Refresh:
    """One refresh under way."""

    def __init__(self, session: context.Session, sink: context.Sink, aggregate: snapshots.Aggregate) -> None:
        self._session, self._sink, self._aggregate = session, sink, aggregate
        self._bucket = aggregate.bucket
        self._pending = aggregate_pending.Pending(session, aggregate)
        self._counts = Counts()
        self._removed: set[aggregate_pending.Entry] = set()

    async def run(self, start: str | None, end: str | None, *, force: bool) -> Counts:
        low, high = await self._pending.window(start, end)
        if low > high:
            raise errors.InvalidParameter(
                "refresh window too small",
                detail="It must hold at least one whole bucket.",
                hint="Move its ends to the start of buckets, or leave them open.",
            )
        state = await self._pending.state()
        new = buckets.within(state.new, low, high)
        newest, entries = await asyncio.gather(self._pending.newest(new), self._pending.entries(low, high))
        if newest is not None:
            newest += (self._bucket.width or 1) - 1
        fresh = buckets.within(new, low, newest) if newest is not None else ()
        if fresh:
            if not await self._pending.settled(fresh[-1][1] + 1):
                await self._sink.notice(
                    "new buckets are not finished this time: transactions that write are still open",
                    severity="WARNING",
                )
                fresh = ()
            entries = await self._pending.entries(low, high)
        found = buckets.united((entry.low, entry.high) for entry in entries)
        touched = buckets.without((*found, *buckets.within(state.dropped, low, high)), state.new)
        if force:
            touched = buckets.without(((low, high),), state.new)
        wanted = buckets.united((*fresh, *buckets.within(buckets.united(touched), low, high)))
        points = {entry.low for entry in entries if entry.low == entry.high}
        for batch in self._batches(wanted, points):
            await self._recompute(batch, points, entries)
            await self._forget(entries, batch, fresh, state)
        await self._close(entries, low, high, state)
        return self._counts

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

    async def _recompute(
        self, batch: buckets.Ranges, points: set[int], entries: Sequence[aggregate_pending.Entry]
    ) -> None:
        for attempt in range(aggregate_pending.ATTEMPTS):
            try:
                if not all(low == high and low in points for low, high in batch):
                    await self._replace(batch)
                else:
                    await self._replace_points([low for low, _ in batch], entries)
                return
            except errors.OrochiError as error:
                if not aggregate_pending.may_pass(error) or attempt == aggregate_pending.ATTEMPTS - 1:
                    raise
            await asyncio.sleep(aggregate_pending.PAUSE * (attempt + 1))
            await self._session.runtime.refresh()

    def _parts(self, batch: buckets.Ranges) -> tuple[snapshots.Table, tuple[str, ...], str, str]:
        """The table of the buckets, its columns, the condition of theirs there, and their query."""
        snapshot, bucket = self._session.snapshot(), self._bucket
        view = snapshot.views[self._aggregate.query]
        query = continuous.template(view.definition)
        placed = buckets.on_grid(bucket, batch)
        held = buckets.inside(quoting.identifier(bucket.column), bucket.type_oid, placed)
        rows = query.where(buckets.rows_of(bucket, query.time, query.start, placed))
        return snapshot.tables[self._aggregate.materialization_oid], view.columns, held, rows

    async def _replace(self, batch: buckets.Ranges) -> None:
        """Aggregate the rows of the buckets anew, in one transaction."""
        session = self._session
        table, columns, held, rows = self._parts(batch)
        name = quoting.relation(table.schema, table.name)
        listed = ", ".join(map(quoting.identifier, columns))
        async with self._emptied(table, held):
            added = await self._execute(f"INSERT INTO {name} ({listed}) {rows}")
            counted = await subselect.rows_of(
                session,
                f"SELECT count(DISTINCT {quoting.identifier(self._bucket.column)})::text FROM {name} WHERE {held}",
                None,
            )
        self._counts.rows += added
        self._counts.buckets += int(counted.rows[0][0] or "0")

    async def _replace_points(
        self, points: Sequence[int], entries: Sequence[aggregate_pending.Entry]
    ) -> None:
        """The same for single buckets: their rows are read before, and then replaced on few nodes, or on all."""
        session, wanted = self._session, set(points)
        table, columns, held, sql = self._parts(tuple((at, at) for at in points))
        ours = [entry for entry in entries if entry.low == entry.high and entry.low in wanted]
        touched = sorted({entry.node_id for entry in ours})
        places = aggregate_direct.places(session.snapshot(), self._aggregate, points, touched)
        source = session.snapshot().tables[self._aggregate.table_oid]
        is_beside = aggregate_direct.is_beside(table, source)
        # where groups are beside their rows, those of other nodes are not written, so nobody need know them
        nodes = None if places is None or not is_beside else places
        rows = await aggregate_rows.computed(session, self._aggregate, columns, sql, points, nodes)
        if places is None:
            async with self._emptied(table, held):
                self._counts.rows += await aggregate_rows.insert(session, table, columns, rows)
        else:
            # a node's log may go with its rows only where none of what it names is written by another node
            along = ours if len(places) == 1 or is_beside else []
            logged = {node_id: [entry for entry in along if entry.node_id == node_id] for node_id in places}
            replacement = aggregate_direct.Replacement(
                table=table,
                columns=columns,
                places=places,
                rows=aggregate_rows.by_shard(table, columns, rows),
                first=self._lock_sql,
                held=held,
                last={node_id: self._removal(found) for node_id, found in logged.items() if found},
            )
            self._counts.rows += await aggregate_direct.replace(session, replacement)
            self._removed.update(entry for found in logged.values() for entry in found)
        self._counts.buckets += len(points)

    @contextlib.asynccontextmanager
    async def _emptied(self, table: snapshots.Table, held: str) -> AsyncIterator[None]:
        """A transaction in which the buckets are gone, to enter their rows."""
        async with _block(self._session):
            nodes = {node for shard in table.shards for node in shard.node_ids}
            await writes.per_node({node_id: [functools.partial(self._lock, node_id)] for node_id in nodes})
            await self._execute(f"DELETE FROM {quoting.relation(table.schema, table.name)} WHERE {held}")
            yield

    async def _lock(self, node_id: int) -> None:
        node = await self._session.transaction.node(node_id, write=True)
        await node.query(self._lock_sql)

    @property
    def _lock_sql(self) -> str:
        """Has a node wait until what a crash left prepared is over, before its buckets are replaced."""
        key = f"{_LOCK}, {self._aggregate.aggregate_id & 0x7FFFFFFF}"
        return f"SELECT pg_catalog.pg_advisory_xact_lock({key})"

    async def _execute(self, sql: str) -> int:
        from orochi.operations import run

        sink = _Tagged()
        await run.execute(self._session, parse.parse_one(sql), None, None, sink)
        return sink.count

    async def _forget(
        self,
        entries: Sequence[aggregate_pending.Entry],
        batch: buckets.Ranges,
        fresh: buckets.Ranges,
        state: aggregate_state.State,
    ) -> None:
        """What the batch has finished leaves the log."""
        done = {low for low, high in batch if low == high}
        await self._remove([entry for entry in entries if entry.low == entry.high and entry.low in done])
        finished = buckets.without(fresh, buckets.without(buckets.EVERYTHING, batch))
        if finished:
            await self._set_new(buckets.without((await self._pending.state()).new, finished))

    async def _close(
        self, entries: Sequence[aggregate_pending.Entry], low: int, high: int, seen: aggregate_state.State
    ) -> None:
        """What is left of the entries that were read: whole ranges, less the window; and all in the window."""
        await self._remove(entries, low, high)
        done = buckets.within(seen.dropped, low, high)
        if not done:
            return
        aggregate_id = self._aggregate.aggregate_id
        left = buckets.without((await self._pending.state()).dropped, done)
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

    def _removal(self, entries: Sequence[aggregate_pending.Entry]) -> str:
        listed = ",".join(entry.log_ids for entry in entries)
        return (
            "DELETE FROM orochi_data.aggregate_log"
            f" WHERE aggregate_id = {self._aggregate.aggregate_id} AND log_id = ANY ('{{{listed}}}'::bigint[])"
        )

    async def _remove(
        self, entries: Sequence[aggregate_pending.Entry], low: int | None = None, high: int | None = None
    ) -> None:
        """Take entries out of the log; what reaches beyond a window stays."""
        by_node: dict[int, list[aggregate_pending.Entry]] = {}
        for entry in entries:
            if entry not in self._removed:
                by_node.setdefault(entry.node_id, []).append(entry)
        aggregate_id = self._aggregate.aggregate_id

        async def one(node_id: int, found: list[aggregate_pending.Entry]) -> None:
            sql = self._removal(found)
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


class _Tagged(sinks.Silent):
    """A sink that keeps the number of the command tag."""

    def __init__(self) -> None:
        self.count = 0

    async def complete(self, tag: str) -> None:
        """Keep the number."""
        last = tag.rpartition(" ")[2]
        self.count = int(last) if last.isdigit() else 0
