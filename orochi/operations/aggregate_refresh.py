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
from collections.abc import AsyncIterator, Sequence

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.executor import context, transport
from orochi.operations import (
    aggregate_direct,
    aggregate_pending,
    aggregate_plans,
    aggregate_rows,
    aggregate_state,
    aggregate_turns,
    shells,
    sinks,
    subselect,
    writes,
)
from orochi.planner import parse, quoting
from orochi.timeseries import buckets

#: Buckets of one transaction.
BATCH = 500
#: Touched buckets that are computed each by itself, by a plan that is known.
_FEW = 8


async def refresh(
    session: context.Session,
    sink: context.Sink,
    view_oid: int,
    start: str | None,
    end: str | None,
    *,
    force: bool = False,
) -> None:
    """Refresh the buckets that lie wholly between two times, as `orochi.time_value` has them; None is no bound.

    Raises:
        OrochiError: 25001, in a transaction block; 22023, no bucket fits.
    """
    if session.transaction.in_block:
        raise errors.OrochiError(
            "refresh_continuous_aggregate() cannot run inside a transaction block",
            sqlstate="25001",
            hint="It commits batch by batch: call it by itself.",
        )
    async with aggregate_turns.taken(session, view_oid) as turn:
        work = _Refresh(session, sink, turn)
        with transport.yielding():
            await work.run(start, end, force=force)
    if work.finished_anew:
        aggregate_plans.begin_ahead(session.runtime, turn.aggregate)


class _Refresh:
    """One refresh under way.

    Attributes:
        finished_anew: ranges of buckets were replaced, which writes will touch one by one.
    """

    def __init__(self, session: context.Session, sink: context.Sink, turn: aggregate_turns.Turn) -> None:
        self._session, self._sink, self._turn = session, sink, turn
        self._aggregate = turn.aggregate
        self._bucket = turn.aggregate.bucket
        self._pending = aggregate_pending.Pending(session, turn.aggregate)
        self._removed: set[aggregate_pending.Entry] = set()
        self.finished_anew = False

    async def run(self, start: str | None, end: str | None, *, force: bool) -> None:
        """Refresh what lies wholly between two times."""
        low, high = await self._pending.window(start, end)
        if low > high:
            raise errors.InvalidParameter(
                "refresh window too small",
                detail="It must hold at least one whole bucket.",
                hint="Move its ends to the start of buckets, or leave them open.",
            )
        state = self._turn.state
        new = buckets.within(state.new, low, high)
        newest, entries = await self._pending.look(new, low, high)
        if newest is not None:
            last = newest + (self._bucket.width or 1) - 1
            # a bucket without an end stays live: the log's threshold could not lie behind it
            newest = last if last < buckets.GREATEST else newest - 1
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

    def _batches(self, wanted: buckets.Ranges, points: set[int]) -> list[buckets.Ranges]:
        """The buckets in batches: single ones by their number, ranges cut at the ends of the source's chunks."""
        table = self._session.snapshot().current(self._aggregate.table_oid)
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

    def _parts(self, batch: buckets.Ranges) -> tuple[snapshots.Table, tuple[str, ...], buckets.Ranges, str]:
        """The table of the buckets, its columns, the buckets on their grid, and the condition of theirs there."""
        snapshot, bucket = self._session.snapshot(), self._bucket
        columns = snapshot.views[self._aggregate.query].columns
        placed = buckets.on_grid(bucket, batch)
        held = buckets.inside(quoting.identifier(bucket.column), bucket.type_oid, placed)
        return snapshot.current(self._aggregate.materialization_oid), columns, placed, held

    def _rows_sql(self, placed: buckets.Ranges) -> str:
        definition = self._session.snapshot().views[self._aggregate.query].definition
        return aggregate_plans.rows_sql(self._bucket, definition, placed)

    async def _replace(self, batch: buckets.Ranges) -> None:
        """Aggregate the rows of the buckets anew, in one transaction."""
        session, self.finished_anew = self._session, True
        table, columns, placed, held = self._parts(batch)
        name = quoting.relation(table.schema, table.name)
        listed = ", ".join(map(quoting.identifier, columns))
        async with self._emptied(table, held):
            added = await self._execute(f"INSERT INTO {name} ({listed}) {self._rows_sql(placed)}")
            counted = await subselect.rows_of(
                session,
                f"SELECT count(DISTINCT {quoting.identifier(self._bucket.column)})::text FROM {name} WHERE {held}",
                None,
            )
        self._turn.rows += added
        self._turn.buckets += int(counted.rows[0][0] or "0")

    async def _replace_points(
        self, points: Sequence[int], entries: Sequence[aggregate_pending.Entry]
    ) -> None:
        """The same for single buckets: where plain statements will do, each node replaces its own."""
        session, wanted = self._session, set(points)
        table, columns, placed, held = self._parts(tuple((at, at) for at in points))
        ours = [entry for entry in entries if entry.low == entry.high and entry.low in wanted]
        places = aggregate_direct.places(session.snapshot(), self._aggregate, points, ours)
        known = await self._plans(points)
        if places is None:
            rows = await self._computed(columns, placed, known)
            async with self._emptied(table, held):
                self._turn.rows += await aggregate_rows.insert(session, table, columns, rows)
        else:
            is_beside = aggregate_direct.is_beside(
                table, session.snapshot().current(self._aggregate.table_oid)
            )
            # a node's log may go with its rows only where none of what it names is written by another node
            along = ours if len(places) == 1 or is_beside else []
            logged = {node_id: [entry for entry in along if entry.node_id == node_id] for node_id in places}
            replacement = aggregate_direct.Replacement(
                table=table,
                columns=columns,
                places=places,
                first=self._lock_sql,
                held=held,
                last={node_id: self._removal(found) for node_id, found in logged.items() if found},
                repeats=not self._aggregate.materialized_only and sum(map(len, logged.values())) == len(ours),
            )
            self._turn.rows += await self._write(replacement, known, placed)
            self._removed.update(entry for found in logged.values() for entry in found)
        self._turn.buckets += len(points)

    async def _write(
        self,
        wanted: aggregate_direct.Replacement,
        known: Sequence[aggregate_plans.Known],
        placed: buckets.Ranges,
    ) -> int:
        """Replace the rows by what nodes compute themselves, or else by what is computed first."""
        session, table = self._session, wanted.table
        source = session.snapshot().current(self._aggregate.table_oid)
        rows = None
        if known and aggregate_direct.is_beside(table, source):
            queries = aggregate_direct.queries(session, source, known)
            if queries is not None:
                with contextlib.suppress(aggregate_direct.TooLongError):
                    return await aggregate_direct.replace(
                        session, dataclasses.replace(wanted, queries=queries)
                    )
            # groups are beside their rows: those of shards that are not written need not be known
            written = {source.shards[at].shard_id for found in wanted.places.values() for at in found}
            found = [item.plan(written) for item in known]
            rows = await aggregate_rows.beside(session, source, found)
        if rows is None:
            tuples = await self._computed(wanted.columns, placed, known)
            rows = aggregate_rows.by_shard(table, wanted.columns, tuples)
        return await aggregate_direct.replace(session, dataclasses.replace(wanted, rows=rows))

    async def _computed(
        self, columns: Sequence[str], placed: buckets.Ranges, known: Sequence[aggregate_plans.Known]
    ) -> list[bytes]:
        session, aggregate = self._session, self._aggregate
        if known:
            return await aggregate_rows.of_plans(session, columns, [item.plan() for item in known])
        return await aggregate_rows.computed(session, aggregate, columns, self._rows_sql(placed))

    async def _plans(self, points: Sequence[int]) -> list[aggregate_plans.Known]:
        """What is known of the plans of few buckets; nothing if they are to be planned together."""
        found: list[aggregate_plans.Known] = []
        for at in points if len(points) <= _FEW else ():
            ctx = aggregate_plans.context_of(self._session.runtime, self._session.snapshot())
            spot = aggregate_plans.spot(ctx, self._aggregate, at)
            if spot is None:
                return []
            if not aggregate_plans.is_known(spot):
                await aggregate_plans.learn(self._session, ctx, self._aggregate, spot)
            plan = aggregate_plans.find(spot)
            if plan is None:
                return []
            found.append(plan)
        return found

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
        return f"SELECT pg_catalog.pg_advisory_xact_lock({aggregate_turns.key(self._aggregate)})"

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
