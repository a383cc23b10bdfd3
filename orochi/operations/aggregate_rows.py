"""Rows that a refresh reads and writes without detours: the newest time of a hypertable, a few buckets' groups.

Both are a part of every refresh, however small, so they cost as few round trips as they can.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterable, Sequence

from orochi.catalog import snapshot as snapshots
from orochi.engine import copybinary
from orochi.executor import context, exchange, small
from orochi.operations import aggregate_state, redistribute, routing, select, sinks, writes
from orochi.pgwire import messages
from orochi.planner import parse, quoting
from orochi.planner import plan as plans
from orochi.timeseries import buckets, ranges

#: Heap that nodes may read for the buckets of a batch without tasks.
_READ_BYTES = 16 << 20
#: Milliseconds that nodes are given for it, where how much they will read is not asked first.
_PATIENCE_MS = 500


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
    session: context.Session, aggregate: snapshots.Aggregate, columns: Sequence[str], sql: str
) -> list[bytes]:
    """The rows of a SELECT of a few buckets, as binary COPY has them, all in memory.

    Args:
        session: a client's.
        aggregate: whose buckets they are.
        columns: of its query.
        sql: the query for the buckets.
    """
    kept = _Tuples(len(columns))
    definition = session.snapshot().views[aggregate.query].definition
    async with aggregate_state.looked_up(session, parse.parse_one(definition).tree):
        # a chunk or so, of which little is wanted: done before a task would have begun
        with small.raised(_READ_BYTES):
            statement, parameters = parse.parse_one(sql), context.Parameters(*writes.NOTHING_BOUND)
            _, fields = await session.coordinator.describe(sql, ())
            await select.execute(session, statement, parameters, fields, kept)
    return kept.pieces


async def of_plans(
    session: context.Session, columns: Sequence[str], found: Sequence[plans.SelectPlan]
) -> list[bytes]:
    """The same of plans that are known."""
    kept = _Tuples(len(columns))
    with small.raised(_READ_BYTES, _PATIENCE_MS):
        for plan in found:
            if isinstance(plan, plans.Router):
                await select.run_router(session, plan, None, kept)
            else:
                await select.run_distributed(session, plan, kept)
    return kept.pieces


async def beside(
    session: context.Session, source: snapshots.Table, found: Sequence[plans.SelectPlan]
) -> dict[int, list[bytes]] | None:
    """The same by the position of the shard of `source` that their rows lie in; None if a plan does not tell that."""
    positions = {int(shard.shard_id): position for position, shard in enumerate(source.shards)}
    result: dict[int, list[bytes]] = {}
    for plan in found:
        if isinstance(plan, plans.Router) or not plan.is_as_it_comes:
            return None
        parts = {part.number: part for part in plan.intermediates[0].fragments}
        with small.raised(_READ_BYTES, _PATIENCE_MS):
            async for answer in select.run_fragments(session, plan, coalesced=False):
                part = parts[answer.fragment]
                position = next(positions[shard] for shard in part.shard_ids if shard in positions)
                for batch in answer.batches:
                    result.setdefault(position, []).extend(copybinary.tuples(batch, part.columns))
                exchange.forget(answer.batches)
    return result


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


def newest_queries(table: snapshots.Table, least: int) -> dict[int, str]:
    """For each node, what asks for the greatest time in heaps that is not before `least`, as one row or none."""
    assert table.dimension is not None
    oid, column = table.dimension.type_oid, quoting.identifier(table.dimension.column)
    if least > ranges.greatest(oid):
        return {}
    where = newest_condition(oid, column, least)
    parts: dict[int, list[str]] = {}
    for shard in table.shards:
        relation = f"{quoting.identifier(shard.schema)}.{quoting.identifier(table.name)}"
        parts.setdefault(shard.node_id, []).append(f"SELECT max({column}) AS v FROM {relation}{where}")
    raw = ranges.raw_sql(oid, "v")
    return {
        node_id: f"SELECT ({raw})::text FROM (SELECT max(v) AS v FROM ({' UNION ALL '.join(found)}) AS shards"
        " HAVING max(v) IS NOT NULL) AS newest"
        for node_id, found in parts.items()
    }


def newest(table: snapshots.Table, least: int, found: Iterable[messages.QueryResult]) -> Newest:
    """The greatest time of rows that are not before `least`, by what nodes answered to `newest_queries`.

    Rows of stripes are not looked at: a query has to, where a later chunk than that time's has some.
    """
    assert table.dimension is not None
    if least > ranges.greatest(table.dimension.type_oid):
        return Newest(True, None)
    greatest = max((int(result.rows[0][0] or b"0") for result in found if result.rows), default=None)
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
