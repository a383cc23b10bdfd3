"""Rows that a refresh reads and writes without detours: the newest time of a hypertable, a few buckets' groups.

Both are a part of every refresh, however small, so they cost as few round trips as they can.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Collection, Sequence

from orochi.catalog import snapshot as snapshots
from orochi.engine import copybinary
from orochi.executor import context, small
from orochi.operations import (
    aggregate_plans,
    aggregate_state,
    planned,
    redistribute,
    routing,
    select,
    sinks,
    writes,
)
from orochi.planner import parse, quoting
from orochi.timeseries import buckets, ranges

#: Heap that nodes may read for the buckets of a batch without tasks.
_READ_BYTES = 16 << 20


class _Tuples(sinks.Silent):
    """A sink that keeps rows as binary COPY has them."""

    def __init__(self, columns: int) -> None:
        self.formats: tuple[int, ...] = (1,) * columns
        self.pieces: list[bytes] = []

    async def rows(self, data: bytes | memoryview, count: int) -> None:
        """Keep the rows: a DataRow message's body is a tuple of COPY."""
        raw, at = bytes(data), 0
        for _ in range(count):
            end = at + 1 + int.from_bytes(raw[at + 1 : at + 5], "big")
            self.pieces.append(raw[at + 5 : end])
            at = end


async def computed(
    session: context.Session,
    aggregate: snapshots.Aggregate,
    columns: Sequence[str],
    sql: str,
    points: Sequence[int],
    nodes: Collection[int] | None = None,
) -> list[bytes]:
    """The rows of a SELECT of a few buckets, as binary COPY has them, all in memory.

    Args:
        session: a client's.
        aggregate: whose buckets they are.
        columns: of its query.
        sql: the query for the buckets.
        points: their starts in raw units.
        nodes: whose shards' groups are wanted at least; None is all.
    """
    kept = _Tuples(len(columns))
    definition = session.snapshot().views[aggregate.query].definition
    async with aggregate_state.looked_up(session, parse.parse_one(definition).tree):
        # a chunk or so, of which little is wanted: done before a task would have begun
        with small.raised(_READ_BYTES):
            spot = aggregate_plans.spot(session, aggregate, points[0]) if len(points) == 1 else None
            plan = aggregate_plans.find(spot) if spot is not None else None
            if plan is not None:
                plan = plan if nodes is None else aggregate_plans.on_nodes(plan, nodes)
                await select.run_distributed(session, plan, kept)
            else:
                await _planned(session, sql, kept, spot)
    return kept.pieces


async def _planned(
    session: context.Session, sql: str, kept: _Tuples, spot: aggregate_plans.Spot | None
) -> None:
    statement, parameters = parse.parse_one(sql), context.Parameters(*writes.NOTHING_BOUND)
    if spot is not None:
        plan = await select.plan_select(session, statement, parameters)  # which is then found again
        if planned.is_settled(session, statement, await select.plan_context_of(session, parameters)):
            aggregate_plans.learn(spot, plan)
    _, fields = await session.coordinator.describe(sql, ())
    await select.execute(session, statement, parameters, fields, kept)


async def insert(
    session: context.Session, table: snapshots.Table, columns: Sequence[str], rows: Sequence[bytes]
) -> int:
    """Write rows whose columns have the table's types, in the transaction; how many."""
    if not rows:
        return 0

    async def stream() -> AsyncIterator[bytes]:
        yield copybinary.HEADER
        yield b"".join(rows)
        yield copybinary.TRAILER

    return (await redistribute.load(session, table, stream(), columns)).rows


def by_shard(table: snapshots.Table, columns: Sequence[str], rows: Sequence[bytes]) -> dict[int, list[bytes]]:
    """The rows by the position of the shard that they belong to."""
    column = table.column(table.distribution_column or "")
    if column is None:
        return {0: list(rows)}
    splitter = copybinary.RowSplitter(len(columns), [(columns.index(column.name), column.base_oid)])
    data = copybinary.HEADER + b"".join(rows) + copybinary.TRAILER
    result: dict[int, list[bytes]] = {}
    at = 0
    for (keys,), found in (*splitter.feed(data), *splitter.finish()):
        for position in routing.shard_indexes(table, keys, found.count):
            result.setdefault(int(position), []).append(rows[at])
            at += 1
    return result


@dataclasses.dataclass(frozen=True, slots=True)
class Newest:
    """The greatest finite time, in raw units, of a hypertable's rows.

    Attributes:
        known: if not, only a query can tell.
        value: None if there is no such row.
    """

    known: bool
    value: int | None = None


async def newest(session: context.Session, table: snapshots.Table, least: int) -> Newest:
    """The greatest time of rows that are not before `least`.

    Rows of stripes are not looked at: a query has to, where a later chunk than that time's has some.
    """
    assert table.dimension is not None
    oid, column = table.dimension.type_oid, quoting.identifier(table.dimension.column)
    if least > ranges.greatest(oid):
        return Newest(True, None)
    where = newest_condition(oid, column, least)
    by_node: dict[int, list[str]] = {}
    for shard in table.shards:
        relation = f"{quoting.identifier(shard.schema)}.{quoting.identifier(table.name)}"
        by_node.setdefault(shard.node_id, []).append(f"SELECT max({column}) AS v FROM {relation}{where}")

    async def one(node_id: int, parts: list[str]) -> int | None:
        newest = f"SELECT max(v) AS v FROM ({' UNION ALL '.join(parts)}) AS shards HAVING max(v) IS NOT NULL"
        async with session.runtime.nodes.lease(node_id, session.settings) as node:
            sql = f"SELECT ({ranges.raw_sql(oid, 'v')})::text FROM ({newest}) AS newest"
            rows = (await node.fetch(sql)).rows
        return int(rows[0][0] or b"0") if rows else None

    found = await asyncio.gather(*(one(*item) for item in by_node.items()))
    greatest = max((value for value in found if value is not None), default=None)
    after = least if greatest is None else greatest
    striped = any(
        chunk.stripes and chunk.range_end > after for shard in table.shards for chunk in shard.chunks
    )
    return Newest(not striped, greatest)


def newest_condition(type_oid: int, column: str, least: int) -> str:
    """WHERE for rows of finite times that are not before `least`."""
    terms = [f"{column} < 'infinity'"] if buckets.has_infinity(type_oid) else []
    if least > buckets.LOWEST:
        terms.append(f"{column} >= {buckets.literal(type_oid, least)}")
    return f" WHERE {' AND '.join(terms)}" if terms else ""
