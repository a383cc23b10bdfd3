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
    """Rows of a node's log, their ids as SQL lists them: a range of buckets, mostly of one, that writes touched."""

    node_id: int
    log_ids: str
    low: int
    high: int


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

    async def newest(self, new: buckets.Ranges) -> int | None:
        """The last bucket that has rows; None if none of `new` has any."""
        if not new:
            return None
        # the rows of what was never finished are few, and in few chunks
        bucket, least = self._bucket, new[-1][0]
        if bucket.width is None:
            least = max(least - bucket.slack, buckets.LOWEST)
        found = await self._newest_from(least)
        if found is None and len(new) > 1:
            found = await self._newest_from(buckets.LOWEST)
        if found is None:
            return None
        return await self._start_of(buckets.literal(bucket.type_oid, found))

    async def _newest_from(self, least: int) -> int | None:
        table = self._session.snapshot().tables[self._aggregate.table_oid]
        try:
            found = await aggregate_rows.newest(self._session, table, least)
        except errors.OrochiError as error:
            if not may_pass(error):
                raise
            return await self._ask_newest(table, least)
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
                await asyncio.sleep(PAUSE)
        return False

    async def entries(self, low: int, high: int) -> list[Entry]:
        """The log of all nodes, as far as it is of these buckets."""

        async def one(node_id: int) -> list[Entry]:
            async with self._session.runtime.nodes.lease(node_id, self._session.settings) as node:
                answer = await node.fetch(
                    "SELECT string_agg(log_id::text, ','), lowest::text, greatest::text"
                    f" FROM orochi_data.aggregate_log WHERE aggregate_id = {self._aggregate.aggregate_id}"
                    f" AND lowest <= '{high}'::bigint AND greatest >= '{low}'::bigint GROUP BY lowest, greatest"
                )
            return [
                Entry(node_id, (found or b"").decode(), int(first or b"0"), int(last or b"0"))
                for found, first, last in answer.rows
            ]

        return [entry for part in await asyncio.gather(*map(one, self._nodes)) for entry in part]
