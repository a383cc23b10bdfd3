"""Sets of buckets of a continuous aggregate, as ranges of their starts in raw units, and as SQL.

A set is a sorted tuple of disjoint ranges with both ends included; bigint's extremes stand for no
end. What is left out of a set is what is answered from the materialised buckets, so a set may
always be made larger, and never smaller.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from orochi import pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.timeseries import ranges

LOWEST, GREATEST = -(2**63), 2**63 - 1
Range = tuple[int, int]
Ranges = tuple[Range, ...]
EVERYTHING: Ranges = ((LOWEST, GREATEST),)
#: Ranges that a condition lists; more are joined where the gap is smallest.
LISTED = 40

_EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_FIRST, _LAST = (
    (dt.datetime(year, month, day, tzinfo=dt.UTC) - _EPOCH).days
    for year, month, day in ((1, 1, 2), (9999, 12, 30))
)


def united(found: Iterable[Range]) -> Ranges:
    """The union of ranges in any order."""
    result: list[Range] = []
    for low, high in sorted(found):
        if result and low <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(high, result[-1][1]))
        else:
            result.append((low, high))
    return tuple(result)


def without(found: Ranges, taken: Iterable[Range]) -> Ranges:
    """`found` less `taken`."""
    result = list(found)
    for low, high in taken:
        pieces: list[Range] = []
        for start, end in result:
            if end < low or start > high:
                pieces.append((start, end))
                continue
            if start < low:
                pieces.append((start, low - 1))
            if end > high:
                pieces.append((high + 1, end))
        result = pieces
    return tuple(result)


def within(found: Ranges, low: int, high: int) -> Ranges:
    """The part of `found` from `low` to `high`."""
    return tuple((max(start, low), min(end, high)) for start, end in found if start <= high and end >= low)


def coarser(found: Ranges, count: int = LISTED) -> Ranges:
    """A superset of at most `count` ranges: the smallest gaps are closed."""
    if len(found) <= count:
        return found
    gaps = sorted(range(1, len(found)), key=lambda at: found[at][0] - found[at - 1][1])
    closed = set(gaps[: len(found) - count])
    result: list[Range] = []
    for at, item in enumerate(found):
        if at in closed:
            result[-1] = (result[-1][0], item[1])
        else:
            result.append(item)
    return tuple(result)


def on_grid(bucket: snapshots.Bucket, found: Ranges) -> Ranges:
    """The same set with the ends of ranges as far apart as there is no bucket between them.

    With buckets of one width: each range begins at a bucket's start and ends just before another's.
    """
    if bucket.width is None:
        return found
    width, result = bucket.width, []
    for low, high in found:
        start = low if low == LOWEST else _ceil(low, bucket.phase, width)
        end = high if high == GREATEST else _floor(high, bucket.phase, width) + width - 1
        if start <= end:
            result.append((start, min(end, GREATEST)))
    return united(result)


def in_batches(bucket: snapshots.Bucket, points: Iterable[Range], most: int) -> list[Ranges]:
    """Single buckets, in order, in batches of at most `most`, each of few ranges: long conditions are slow to plan."""
    result: list[list[Range]] = []
    parts = 0
    for point in points:
        last = result[-1] if result else []
        follows = bool(last) and bucket.width is not None and point[0] - last[-1][0] == bucket.width
        if not last or len(last) == most or (parts == LISTED and not follows):
            result.append([point])
            parts = 1
        else:
            last.append(point)
            parts += not follows
    return [tuple(batch) for batch in result]


def touching(bucket: snapshots.Bucket, first: int, last: int) -> Range:
    """A range that holds the buckets of all rows between two times, both included."""
    if bucket.width is None:
        return max(first - bucket.slack, LOWEST), min(last + bucket.slack, GREATEST)
    low = first if first <= LOWEST else _floor(first, bucket.phase, bucket.width)
    return max(low, LOWEST), min(last, GREATEST)


def _floor(value: int, phase: int, width: int) -> int:
    return (value - phase) // width * width + phase


def _ceil(value: int, phase: int, width: int) -> int:
    return -(-(value - phase) // width) * width + phase


def literal(type_oid: int, raw: int) -> str:
    """`raw` as an SQL constant of the type; the extremes are the infinities."""
    least, most = _extremes(type_oid)
    if type_oid in pgtypes.INTEGERS:
        name = {pgtypes.INT2: "smallint", pgtypes.INT4: "integer"}.get(type_oid, "bigint")
        return f"'{raw}'::{name if least <= raw <= most else 'bigint'}"
    if not least < raw < most:
        name = {pgtypes.DATE: "date", pgtypes.TIMESTAMPTZ: "timestamptz"}.get(type_oid, "timestamp")
        return f"'{'infinity' if raw >= most else '-infinity'}'::{name}"
    if type_oid == pgtypes.DATE:
        if _FIRST < raw < _LAST:
            return f"'{(_EPOCH + dt.timedelta(days=raw)).date().isoformat()}'::date"
        return ranges.bound_sql(type_oid, raw)
    days = raw // ranges.MICROSECONDS_PER_DAY
    if not _FIRST < days < _LAST:
        return ranges.bound_sql(type_oid, raw)
    text = (_EPOCH + dt.timedelta(microseconds=raw)).replace(tzinfo=None).isoformat(sep=" ")
    return f"'{text}+00'::timestamptz" if type_oid == pgtypes.TIMESTAMPTZ else f"'{text}'::timestamp"


def _bounded(expression: str, type_oid: int, low: int, high: int) -> str:
    """A condition for `low` <= expression <= `high`; extremes are no bound."""
    least, most = _extremes(type_oid)
    parts = []
    if low > least:
        parts.append(f"{expression} >= {literal(type_oid, low)}")
    if high < most:
        parts.append(f"{expression} < {literal(type_oid, high + 1)}")
    return f"({' AND '.join(parts)})" if parts else "true"


def _extremes(type_oid: int) -> Range:
    """The least and the greatest value, as good as no bound for values of the type."""
    match type_oid:
        case pgtypes.INT2:
            return -(2**15), 2**15 - 1
        case pgtypes.INT4 | pgtypes.DATE:
            return -(2**31), 2**31 - 1
        case _:
            return LOWEST, GREATEST


def inside(expression: str, type_oid: int, found: Ranges) -> str:
    """A condition that a value lies in one of the ranges."""
    if not found:
        return "false"
    if len(found) == 1:
        return _bounded(expression, type_oid, *found[0])
    listed = " OR ".join(_bounded(expression, type_oid, low, high) for low, high in found)
    whole = _bounded(expression, type_oid, found[0][0], found[-1][1])
    return f"({listed})" if whole == "true" else f"({whole} AND ({listed}))"


def rows_of(bucket: snapshots.Bucket, time: str, start: str, found: Ranges) -> str:
    """A condition on a row's time that it falls into one of the buckets.

    Args:
        bucket: the aggregate's.
        time: SQL for the row's time; `start` SQL for its bucket.
        found: the buckets, as `on_grid` gives them.
    """
    if bucket.width is not None:
        return inside(time, bucket.type_oid, found)
    if not found:
        return "false"
    low = found[0][0] if found[0][0] == LOWEST else found[0][0] - bucket.slack
    high = found[-1][1] if found[-1][1] == GREATEST else found[-1][1] + bucket.slack
    near = _bounded(time, bucket.type_oid, max(low, LOWEST), min(high, GREATEST))
    exact = inside(start, bucket.type_oid, found)
    return exact if near == "true" else f"({near} AND {exact})"


def has_infinity(type_oid: int) -> bool:
    """Whether the type has infinities."""
    return type_oid in pgtypes.TIMES


def cut(low: int, high: int, ends: Iterable[int], width: int, count: int) -> list[Range]:
    """A range in pieces that end where chunks end, of about `count` buckets where there are rows."""
    pieces: list[Range] = []
    start, first = low, None
    for end in sorted(ends):
        if end < start or end >= high:
            continue
        first = max(start, end) if first is None else first
        if (end - first) // width >= count or not pieces:
            pieces.append((start, end))
            start, first = end + 1, end + 1
    return [*pieces, (start, high)]
