"""Statistics of column chunks, and whether a chunk can hold a row that a predicate wants.

Bounds are conservative: every value that is not null lies between them, in the order of
`predicates`; long strings are bounded by prefixes. `may_match` answers False only when no row of
the chunk passes.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orochi import pgtypes
from orochi.storage.columnar import predicates
from orochi.storage.compression import buffers

#: Bounds of strings and binary are cut to this many bytes.
PREFIX_BYTES = 32

BOUNDED_BYTES = (pgtypes.CHARACTER - {pgtypes.JSON, pgtypes.XML}) | {pgtypes.UUID, pgtypes.BYTEA}
_SUMMED = pgtypes.INTEGERS | pgtypes.FLOATS | {pgtypes.BOOL}


@dataclasses.dataclass(frozen=True, slots=True)
class Stats:
    """What is known of a chunk's values.

    Attributes:
        minimum, maximum: conservative bounds, None when unknown or all null.
        exact: whether both bounds are values of the chunk.
        total: the sum, exact for integers and a double for floats; None when not kept.
    """

    rows: int
    null_count: int
    minimum: Any = None
    maximum: Any = None
    exact: bool = True
    total: int | float | None = None


def compute(array: pa.Array, type_oid: int) -> Stats:
    """The statistics of a carrier array, nulls included."""
    nulls = array.null_count
    rows = len(array)
    if nulls == rows:
        return Stats(rows, nulls)
    dense = array.drop_null() if nulls else array
    if buffers.is_bytes(array.type):
        if type_oid not in BOUNDED_BYTES:
            return Stats(rows, nulls, exact=False)
        bounds = pc.min_max(dense.cast(pa.binary()) if pa.types.is_string(dense.type) else dense)
        return between(bounds["min"].as_py(), bounds["max"].as_py(), dense.type, type_oid, rows, nulls)
    if pa.types.is_boolean(array.type):
        trues = dense.true_count
        total = trues if type_oid in _SUMMED else None
        return Stats(rows, nulls, int(trues == len(dense)), int(trues > 0), total=total)
    values = buffers.values(dense)
    summed = type_oid in _SUMMED
    if values.dtype.kind == "f":
        return _floats(values, rows, nulls, summed)
    low, high = int(values.min()), int(values.max())
    return Stats(rows, nulls, low, high, total=_sum(values, low, high) if summed else None)


def merge(parts: Sequence[Stats]) -> Stats:
    """The statistics of several chunks of one column as one."""
    rows = sum(part.rows for part in parts)
    nulls = sum(part.null_count for part in parts)
    valued = [part for part in parts if part.null_count < part.rows]
    totals = [part.total for part in valued if part.total is not None]
    total = sum(totals) if totals and len(totals) == len(valued) else None
    low = _extreme([part.minimum for part in valued], largest=False)
    high = _extreme([part.maximum for part in valued], largest=True)
    return Stats(rows, nulls, low, high, all(part.exact for part in valued), total)


def may_match(stats: Stats, predicate: predicates.Predicate, arrow_type: pa.DataType) -> bool:
    """Whether some row of the chunk can pass the predicate."""
    return may_hold(stats, predicates.condition(predicate, arrow_type))


def may_hold(stats: Stats, condition: predicates.Condition) -> bool:
    """`may_match` for a predicate already reduced."""
    if isinstance(condition, predicates.Anything):
        return True
    if isinstance(condition, predicates.Nothing) or stats.rows == 0:
        return False
    if isinstance(condition, predicates.IsNull):
        return stats.null_count > 0
    if stats.null_count == stats.rows:
        return False
    if isinstance(condition, predicates.Members):
        return _may_hold_member(stats, condition)
    return _overlaps(stats, condition)


def all_hold(stats: Stats, condition: predicates.Condition) -> bool:
    """Whether every row of the chunk is known to pass, so that filtering can be left out."""
    if isinstance(condition, predicates.Anything):
        return True
    if isinstance(condition, predicates.IsNull):
        return stats.null_count == stats.rows
    if not isinstance(condition, predicates.Range) or stats.null_count:
        return False
    low, high = condition.low, condition.high
    if low is not None and (
        stats.minimum is None
        or predicates.less(stats.minimum, low)
        or (condition.low_open and not predicates.less(low, stats.minimum))
    ):
        return False
    return high is None or not (
        stats.maximum is None
        or predicates.less(high, stats.maximum)
        or (condition.high_open and not predicates.less(stats.maximum, high))
    )


def agree(left: Stats, right: Stats) -> bool:
    """Whether both can describe the same values; sums of floats depend on the machine."""
    for one, other in ((left.minimum, right.minimum), (left.maximum, right.maximum)):
        if (one is None) != (other is None):
            return False
        if one is not None and (predicates.less(one, other) or predicates.less(other, one)):
            return False
    same_total = isinstance(left.total, float) or left.total == right.total
    return same_total and (left.rows, left.null_count) == (right.rows, right.null_count)


def _overlaps(stats: Stats, wanted: predicates.Range) -> bool:
    if wanted.low is not None and stats.maximum is not None:
        if predicates.less(stats.maximum, wanted.low):
            return False
        if wanted.low_open and not predicates.less(wanted.low, stats.maximum):
            return False
    if wanted.high is not None and stats.minimum is not None:
        if predicates.less(wanted.high, stats.minimum):
            return False
        if wanted.high_open and not predicates.less(stats.minimum, wanted.high):
            return False
    return True


def _may_hold_member(stats: Stats, wanted: predicates.Members) -> bool:
    if stats.minimum is None or stats.maximum is None:
        return True
    if predicates.is_nan(stats.maximum):
        if wanted.nan:
            return True
        if predicates.is_nan(stats.minimum):
            return False
        return bisect.bisect_left(wanted.values, stats.minimum) < len(wanted.values)
    first = bisect.bisect_left(wanted.values, stats.minimum)
    return first < len(wanted.values) and wanted.values[first] <= stats.maximum


def _extreme(bounds: list[Any], *, largest: bool) -> Any:
    if not bounds or any(bound is None for bound in bounds):
        return None
    best = bounds[0]
    for bound in bounds[1:]:
        if predicates.less(best, bound) if largest else predicates.less(bound, best):
            best = bound
    return best


def _sum(values: buffers.Vector, low: int, high: int) -> int:
    if max(abs(low), abs(high)) * len(values) < 1 << 63:
        return int(values.sum(dtype=np.int64))
    return sum(values.tolist())


def _floats(values: buffers.Vector, rows: int, nulls: int, summed: bool) -> Stats:
    with np.errstate(all="ignore"):  # signalling NaN, overflow, inf - inf
        values = values.astype(np.float64)
        total = float(values.sum()) if summed else None
    missing = np.isnan(values)
    if not missing.any():
        return Stats(rows, nulls, float(values.min()), float(values.max()), total=total)
    numbers = values[~missing]
    low = float(numbers.min()) if len(numbers) else float("nan")
    return Stats(rows, nulls, low, float("nan"), total=total)


def between(low: bytes, high: bytes, arrow: pa.DataType, type_oid: int, rows: int, nulls: int) -> Stats:
    """The statistics of a chunk of strings or binary whose least and greatest values are these."""
    if type_oid not in BOUNDED_BYTES:
        return Stats(rows, nulls, exact=False)
    text = pa.types.is_string(arrow)
    exact = len(low) <= PREFIX_BYTES and len(high) <= PREFIX_BYTES
    try:
        cut_low = _text_prefix(low) if text else low[:PREFIX_BYTES]
        cut_high = _text_above(high) if text else _above(high)
    except UnicodeDecodeError:
        return Stats(rows, nulls, exact=False)
    return Stats(rows, nulls, cut_low, cut_high, exact)


def _text_prefix(value: bytes) -> str:
    """A prefix that ends with a whole character; a prefix is never above the value."""
    if len(value) <= PREFIX_BYTES:
        return value.decode()
    end = PREFIX_BYTES
    while end and value[end] & 0xC0 == 0x80:
        end -= 1
    return value[:end].decode()


def _text_above(value: bytes) -> str | None:
    """A short text that is not below the value: the prefix, its last character one up."""
    if len(value) <= PREFIX_BYTES:
        return value.decode()
    prefix = _text_prefix(value)
    while prefix:
        following = ord(prefix[-1]) + 1
        if 0xD800 <= following <= 0xDFFF:
            following = 0xE000
        if following <= 0x10FFFF:
            return prefix[:-1] + chr(following)
        prefix = prefix[:-1]
    return None


def _above(value: bytes) -> bytes | None:
    if len(value) <= PREFIX_BYTES:
        return value
    prefix = value[:PREFIX_BYTES].rstrip(b"\xff")
    return prefix[:-1] + bytes((prefix[-1] + 1,)) if prefix else None
