"""Which shard and chunk rows belong to, for whole columns of rows and for chunks not made yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import chunks
from orochi.planner import fragment as fragments
from orochi.planner import insert as insert_plan
from orochi.planner import quoting
from orochi.sharding import hashing

_ROUNDS = 100


def shard_indexes(table: snapshots.Table, keys: pa.Array | None, count: int) -> npt.NDArray[np.int64]:
    """For each of `count` rows the position of its shard in `table.shards`."""
    if keys is None or table.distribution_oid is None:
        return np.zeros(count, np.int64)
    starts = np.array([shard.hash_min for shard in table.shards], np.int64)
    hashes = hashing.hash_column(table.distribution_oid, keys).astype(np.int64)
    return np.searchsorted(starts, hashes, side="right") - 1


async def ensure_chunks(
    session: context.Session, table: snapshots.Table, times: Iterable[int] | npt.NDArray[Any]
) -> snapshots.Table:
    """Make the chunks that rows at these raw times need; the table as it is then."""
    dimension = table.dimension
    if dimension is None:
        return table
    given = np.asarray(times if isinstance(times, np.ndarray) else list(times), np.int64)
    if only_chunk(table.shards[0].chunks, given) is not None:
        return table
    wanted = np.unique(given)
    for _ in range(_ROUNDS):
        missing = wanted[~covered(table.shards[0].chunks, wanted)]
        if not missing.size:
            return table
        _, first = np.unique(missing // dimension.interval, return_index=True)
        await chunks.ensure(session, table, [int(raw) for raw in missing[first]])
        table = session.snapshot().current(table.oid)
    raise errors.OrochiError(f'chunks of "{table.name}" could not be made')


def covered(ranges: Sequence[snapshots.Chunk], times: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which of `times` lie in one of the chunks, sorted by range."""
    if not ranges:
        return np.zeros(len(times), np.bool_)
    starts = np.array([chunk.range_start for chunk in ranges], np.int64)
    # an end may be one past the largest int64: compare with the last value inside
    lasts = np.array([chunk.range_end - 1 for chunk in ranges], np.int64)
    at = np.searchsorted(starts, times, side="right") - 1
    return (at >= 0) & (times <= lasts[np.maximum(at, 0)])


def only_chunk(ranges: Sequence[snapshots.Chunk], times: npt.NDArray[np.int64]) -> int | None:
    """The place among the chunks, sorted by range, of the one that covers all times; None if several do."""
    if not times.size or not ranges:
        return None
    ends = np.array([times.min(), times.max()])
    first, last = np.searchsorted([chunk.range_start for chunk in ranges], ends, side="right") - 1
    return int(first) if first == last and covered(ranges, ends).all() else None


def chunks_at(shard: snapshots.Shard, times: Iterable[int]) -> tuple[snapshots.Chunk, ...]:
    """The existing chunks of `shard` that cover any of the raw times."""
    found = {
        chunk.chunk_id: chunk for raw in times if (chunk := insert_plan.chunk_at(shard, raw)) is not None
    }
    return tuple(found.values())


def may_match(chunk: snapshots.Chunk, predicates: Sequence[fragments.Predicate], time_column: str) -> bool:
    """Whether rows of the chunk's range can satisfy the predicates on the time column."""
    low, high = chunk.range_start, chunk.range_end - 1
    for predicate in predicates:
        if predicate.column != time_column:
            continue
        if predicate.op == "isnull":
            return False
        bounds = [value for value in predicate.values if isinstance(value, (int, float))]
        if len(bounds) != len(predicate.values):
            continue
        match predicate.op:
            case "=" | "in":
                possible = any(low <= value <= high for value in bounds)
            case "<":
                possible = low < bounds[0]
            case "<=":
                possible = low <= bounds[0]
            case ">":
                possible = high > bounds[0]
            case ">=":
                possible = high >= bounds[0]
            case _:
                possible = True
        if not possible:
            return False
    return True


def relation(table: snapshots.Table, shard: snapshots.Shard) -> str:
    """The quoted relation of a shard on its node."""
    return quoting.relation(shard.schema, table.name)


def stored_columns(table: snapshots.Table) -> tuple[snapshots.Column, ...]:
    """The columns that hold values of their own: all but generated ones."""
    return tuple(column for column in table.columns if not column.generated)
