"""What a refresh of a continuous aggregate has to do: its window, new buckets that have rows, what the log says."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import time
from collections.abc import Sequence

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import aggregate_log, aggregate_rows, aggregate_state, subselect, writes
from orochi.pgwire import messages
from orochi.planner import continuous, quoting
from orochi.timeseries import buckets, invalidation, ranges

#: Seconds that writers have to end before what they may write to is finished another time.
PATIENCE = 20.0
#: How often, and with what growing pause in seconds, is tried again what a change of layouts made fail.
ATTEMPTS, PAUSE = 30, 0.05
#: The newest times of a table's rows from a time on, by that time and by the stripes that may have some.
_newest_kept: collections.OrderedDict[tuple[int, int, tuple[int, ...]], int | None] = (
    collections.OrderedDict()
)
_KEPT = 64
_RETRIED = frozenset({"40001", "40P01"})


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """Rows of a node's log, their ids as SQL lists them: a range of buckets, mostly of one, that writes touched.

    `places` are the schemas of shards and chunks that were written; an empty one is not known.
    """

    node_id: int
    log_ids: str
    low: int
    high: int
    places: frozenset[str]


def may_pass(error: errors.OrochiError) -> bool:
    """Whether trying again, with a newer catalog, may help."""
    return error.sqlstate in _RETRIED or writes.is_stale(error)


def _stripes_after(table: snapshots.Table, least: int) -> tuple[int, ...]:
    """The stripes of chunks that may have rows from a time on."""
    return tuple(
        stripe.stripe_id
        for shard in table.shards
        for chunk in shard.chunks
        if chunk.range_end > least
        for stripe in chunk.stripes
    )


class Pending:
    """The questions of one refresh."""

    def __init__(self, session: context.Session, aggregate: snapshots.Aggregate) -> None:
        """Of one aggregate, for its owner's session."""
        self._session, self._aggregate = session, aggregate
        self._bucket = aggregate.bucket

    @property
    def _table(self) -> snapshots.Table:
        return self._session.snapshot().current(self._aggregate.table_oid)

    @property
    def _nodes(self) -> list[int]:
        return sorted(aggregate_log.nodes_of(self._session.snapshot(), self._aggregate))

    async def state(self) -> aggregate_state.State:
        """What was never materialised, and what was dropped."""
        return await aggregate_state.materialized(self._session, self._aggregate)

    async def window(self, start: str | None, end: str | None) -> buckets.Range:
        """The least and the greatest bucket that lies wholly between two times."""
        low, high = buckets.LOWEST, buckets.GREATEST
        if start is not None:
            low = await self._raw(start)
        if end is not None:
            raw = await self._raw(end)
            if raw < buckets.GREATEST:
                high = await self._start_of(buckets.literal(self._bucket.type_oid, raw)) - 1
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

    async def look(self, new: buckets.Ranges, low: int, high: int) -> tuple[int | None, list[Entry]]:
        """What `newest` and `entries` tell, of each node in one round trip."""
        table, least = self._table, self._least(new)
        asked = aggregate_rows.newest_queries(table, least) if new else {}
        log = self._entries_sql(low, high)

        async def one(node_id: int) -> list[messages.QueryResult]:
            async with self._session.runtime.nodes.lease(node_id, self._session.settings) as node:
                return await node.query("; ".join([log, *([asked[node_id]] if node_id in asked else [])]))

        try:
            answers = await asyncio.gather(*map(one, self._nodes))
        except errors.OrochiError as error:
            if not may_pass(error):
                raise
            return await self.newest(new), await self.entries(low, high)
        found = [
            entry
            for node_id, (entries, *_) in zip(self._nodes, answers, strict=True)
            for entry in _entries(node_id, entries)
        ]
        if not new:
            return None, found
        heaps = aggregate_rows.newest(table, least, (times for _, *more in answers for times in more))
        return await self._bucket_of(await self._with_stripes(table, least, heaps), new), found

    async def newest(self, new: buckets.Ranges) -> int | None:
        """The last bucket that has rows; None if none of `new` has any."""
        return await self._bucket_of(await self._newest_from(self._least(new)), new) if new else None

    def _least(self, new: buckets.Ranges) -> int:
        # the rows of what was never finished are few, and in few chunks
        least = new[-1][0] if new else buckets.LOWEST
        return least if self._bucket.width is not None else max(least - self._bucket.slack, buckets.LOWEST)

    async def _bucket_of(self, found: int | None, new: buckets.Ranges) -> int | None:
        if found is None and len(new) > 1:
            found = await self._newest_from(buckets.LOWEST)
        if found is None:
            return None
        if self._bucket.width is not None:
            return buckets.touching(self._bucket, found, found)[0]
        return await self._start_of(buckets.literal(self._bucket.type_oid, found))

    async def _newest_from(self, least: int) -> int | None:
        table = self._table
        asked = aggregate_rows.newest_queries(table, least)

        async def one(node_id: int, sql: str) -> messages.QueryResult:
            async with self._session.runtime.nodes.lease(node_id, self._session.settings) as node:
                return await node.fetch(sql)

        try:
            answers = await asyncio.gather(*(one(*item) for item in asked.items()))
        except errors.OrochiError as error:
            if not may_pass(error):
                raise
            return await self._ask_newest(table, least)
        return await self._with_stripes(table, least, aggregate_rows.newest(table, least, answers))

    async def _with_stripes(
        self, table: snapshots.Table, least: int, found: aggregate_rows.Newest
    ) -> int | None:
        if found.known:
            return found.value
        # stripes never change, and a time whose row was deleted since only finishes buckets that are empty
        key = int(table.oid), least, _stripes_after(table, least)
        if key not in _newest_kept:
            _newest_kept[key] = await self._ask_newest(table, least)
            if len(_newest_kept) > _KEPT:
                _newest_kept.popitem(last=False)
        return max((value for value in (_newest_kept[key], found.value) if value is not None), default=None)

    async def _ask_newest(self, table: snapshots.Table, least: int) -> int | None:
        column = quoting.identifier(self._bucket.time)
        raw = ranges.raw_sql(self._bucket.type_oid, "newest")
        where = aggregate_rows.newest_condition(self._bucket.type_oid, column, least)
        rows = await self._ask(
            f"SELECT ({raw})::text FROM (SELECT max({column}) AS newest"
            f" FROM {quoting.relation(table.schema, table.name)}{where}) AS rows"
            " WHERE newest IS NOT NULL"
        )
        return int(rows[0][0] or "0") if rows else None

    async def _ask(self, sql: str) -> Sequence[tuple[str | None, ...]]:
        for attempt in range(ATTEMPTS):
            try:
                return (await subselect.rows_of(self._session, sql, None)).rows
            except errors.OrochiError as error:
                if not may_pass(error) or attempt == ATTEMPTS - 1:
                    raise
            await asyncio.sleep(PAUSE * (attempt + 1))
            await self._session.runtime.refresh()
        raise AssertionError

    async def settled(self, end: int) -> bool:
        """Have writes below `end` entered from now on; whether the writers of before are over."""
        name = invalidation.threshold(self._aggregate.aggregate_id)
        source = self._session.snapshot().current(self._aggregate.table_oid)
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
                await asyncio.sleep(PAUSE)
        return False

    async def entries(self, low: int, high: int) -> list[Entry]:
        """The log of all nodes, as far as it is of these buckets."""
        sql = self._entries_sql(low, high)

        async def one(node_id: int) -> list[Entry]:
            async with self._session.runtime.nodes.lease(node_id, self._session.settings) as node:
                return _entries(node_id, await node.fetch(sql))

        return [entry for part in await asyncio.gather(*map(one, self._nodes)) for entry in part]

    def _entries_sql(self, low: int, high: int) -> str:
        return (
            "SELECT string_agg(log_id::text, ','), lowest::text, greatest::text,"
            " string_agg(DISTINCT coalesce(place, ''), ',')"
            f" FROM orochi_data.aggregate_log WHERE aggregate_id = {self._aggregate.aggregate_id}"
            f" AND lowest <= '{high}'::bigint AND greatest >= '{low}'::bigint GROUP BY lowest, greatest"
        )


def _entries(node_id: int, found: messages.QueryResult) -> list[Entry]:
    return [
        Entry(
            node_id,
            (ids or b"").decode(),
            int(first or b"0"),
            int(last or b"0"),
            frozenset((places or b"").decode().split(",")),
        )
        for ids, first, last, places in found.rows
    ]
