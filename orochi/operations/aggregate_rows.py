"""Rows that a refresh reads and writes without detours: the newest time of a hypertable, a few buckets' groups.

Both are a part of every refresh, however small, so they cost as few round trips as they can.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from orochi.catalog import snapshot as snapshots
from orochi.engine import copybinary
from orochi.executor import context
from orochi.operations import aggregate_state, redistribute, select, sinks, writes
from orochi.planner import parse, quoting
from orochi.timeseries import buckets, ranges


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


async def insert(session: context.Session, table: snapshots.Table, columns: Sequence[str], sql: str) -> int:
    """Write the rows of a SELECT of a few buckets, whose columns have the table's types; how many.

    They are held in memory, so this is not for long ranges.
    """
    statement = parse.parse_one(sql)
    kept = _Tuples(len(columns))
    async with aggregate_state.looked_up(session, statement.tree):
        _, fields = await session.coordinator.describe(sql, ())
        await select.execute(session, statement, context.Parameters(*writes.NOTHING_BOUND), fields, kept)
    if not kept.pieces:
        return 0

    async def stream() -> AsyncIterator[bytes]:
        yield copybinary.HEADER
        yield b"".join(kept.pieces)
        yield copybinary.TRAILER

    return (await redistribute.load(session, table, stream(), columns)).rows


async def newest(session: context.Session, table: snapshots.Table) -> tuple[bool, int | None]:
    """The greatest finite time of a hypertable's rows in raw units; False where only a query can tell.

    Rows of stripes are not looked at: a query has to, where a later chunk than that time's has some.
    """
    assert table.dimension is not None
    oid, column = table.dimension.type_oid, quoting.identifier(table.dimension.column)
    finite = f" WHERE {column} < 'infinity'" if buckets.has_infinity(oid) else ""
    by_node: dict[int, list[str]] = {}
    for shard in table.shards:
        relation = f"{quoting.identifier(shard.schema)}.{quoting.identifier(table.name)}"
        by_node.setdefault(shard.node_id, []).append(f"SELECT max({column}) AS v FROM {relation}{finite}")

    async def one(node_id: int, parts: list[str]) -> int | None:
        sql = f"SELECT ({ranges.raw_sql(oid, 'max(v)')})::text FROM ({' UNION ALL '.join(parts)}) AS shards"
        async with session.runtime.nodes.lease(node_id, {}) as node:
            value = (await node.fetch(sql)).rows[0][0]
        return None if value is None else int(value)

    found = await asyncio.gather(*(one(*item) for item in by_node.items()))
    greatest = max((value for value in found if value is not None), default=None)
    striped = [chunk.range_end for shard in table.shards for chunk in shard.chunks if chunk.stripes]
    if striped and (greatest is None or greatest < max(striped)):
        return False, None
    return True, greatest
