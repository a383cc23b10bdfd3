"""Time as raw integers: how chunks are aligned, and how a bound is written in SQL.

Chunks are half-open ranges [start, end) of `interval` raw units, aligned to multiples counted from
the Unix epoch (integers: from 0), so that every shard cuts time at the same points. The first and
the last possible range also hold -infinity and infinity.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from orochi import errors, pgtypes

MICROSECONDS_PER_DAY = 86_400_000_000
#: What `infinity` and `-infinity` are in the raw units of timestamps and dates.
_MIN = {pgtypes.DATE: -(2**31), pgtypes.INT4: -(2**31), pgtypes.INT2: -(2**15)}
_MAX = {pgtypes.DATE: 2**31 - 1, pgtypes.INT4: 2**31 - 1, pgtypes.INT2: 2**15 - 1}
_MIN64, _MAX64 = -(2**63), 2**63 - 1
#: The earliest and the latest finite values.
_EARLIEST = {pgtypes.DATE: -2_451_545}
_LATEST = {pgtypes.DATE: 2_145_031_948}
_EARLIEST_TIMESTAMP, _LATEST_TIMESTAMP = -211_813_488_000_000_000, 9_223_371_331_199_999_999
_NAMES = {pgtypes.TIMESTAMP: "timestamp", pgtypes.TIMESTAMPTZ: "timestamptz", pgtypes.DATE: "date"}

#: One past the largest raw value, which a bigint of the catalog cannot hold: it is kept as that value.
END_OF_TIME = 2**63


def origin(type_oid: int) -> int:
    """The raw value from which chunks of a column of that type are counted."""
    if type_oid in (pgtypes.TIMESTAMP, pgtypes.TIMESTAMPTZ):
        return -pgtypes.EPOCH_SHIFT_SECONDS * 1_000_000
    return -pgtypes.EPOCH_SHIFT_DAYS if type_oid == pgtypes.DATE else 0


def chunk_range(type_oid: int, interval: int, raw: int) -> tuple[int, int]:
    """The chunk range that `raw` falls into."""
    zero = origin(type_oid)
    start = (raw - zero) // interval * interval + zero
    return max(start, _MIN64), start + interval if start + interval <= _MAX64 else END_OF_TIME


def chunk_ranges(
    type_oid: int, interval: int, values: Iterable[int] | npt.NDArray[Any]
) -> list[tuple[int, int]]:
    """The distinct chunk ranges of `values`, in order."""
    raw = np.unique(np.asarray(values if isinstance(values, np.ndarray) else list(values), np.int64))
    return sorted({chunk_range(type_oid, interval, int(value)) for value in raw})


def bound_sql(type_oid: int, raw: int) -> str:
    """`raw` as a partition bound of a column of that type."""
    if raw >= _MAX64 or raw > _MAX.get(type_oid, _MAX64):
        return "MAXVALUE"
    if raw <= _MIN.get(type_oid, _MIN64):
        return "MINVALUE"
    if type_oid not in _NAMES:
        return f"('{raw}')"
    name = _NAMES[type_oid]
    if raw > _LATEST.get(type_oid, _LATEST_TIMESTAMP):
        return f"('infinity'::{name})"
    raw = max(raw, _EARLIEST.get(type_oid, _EARLIEST_TIMESTAMP))
    if type_oid == pgtypes.DATE:
        return f"('2000-01-01'::date + {raw})"
    zone = "+00" if type_oid == pgtypes.TIMESTAMPTZ else ""
    return f"('2000-01-01 00:00:00{zone}'::{name} + '{raw} microseconds'::interval)"


def bounds_sql(type_oid: int, start: int, end: int) -> str:
    """What follows FOR VALUES in the partition of [start, end)."""
    low = bound_sql(type_oid, start)
    if low == "MAXVALUE":  # nothing but the greatest value
        low = f"('infinity'::{_NAMES[type_oid]})" if type_oid in _NAMES else f"('{_MAX64}')"
    return f"FROM ({low}) TO ({bound_sql(type_oid, end)})"


def stored_end(end: int) -> int:
    """A range's end as the catalog's bigint keeps it."""
    return min(end, _MAX64)


def interval_from_microseconds(type_oid: int, microseconds: int) -> int:
    """A chunk interval given as an SQL interval, in raw units of the time column.

    Raises:
        InvalidParameter: it does not fit the type, or is not positive.
    """
    if type_oid not in _NAMES:
        raise errors.InvalidParameter(
            "invalid interval type for integer dimension", hint="Use an interval of type integer."
        )
    if type_oid != pgtypes.DATE:
        return check_interval(type_oid, microseconds)
    if microseconds % MICROSECONDS_PER_DAY:
        raise errors.InvalidParameter("invalid interval: must be multiples of one day")
    return check_interval(type_oid, microseconds // MICROSECONDS_PER_DAY)


def interval_from_integer(type_oid: int, value: int) -> int:
    """A chunk interval given as an integer: the column's units, or microseconds for times.

    Raises:
        InvalidParameter: it does not fit the type, or is not positive.
    """
    if type_oid in _NAMES:
        return interval_from_microseconds(type_oid, value)
    return check_interval(type_oid, value)


def check_interval(type_oid: int, value: int) -> int:
    """`value`, if chunks may be that long.

    Raises:
        InvalidParameter: it is out of the type's range.
    """
    most = _MAX.get(type_oid, _MAX64)
    if not 0 < value <= most:
        raise errors.InvalidParameter(
            f"invalid interval: must be between 1 and {most}",
            hint="Give an interval such as INTERVAL '1 day', or an integer for an integer time column.",
        )
    return value


def greatest(type_oid: int) -> int:
    """The largest raw value of the type, and so the largest chunk interval of a column of it."""
    return _MAX.get(type_oid, _MAX64)


def raw_sql(type_oid: int, column: str) -> str:
    """An SQL expression for the raw value, as bigint, of the quoted `column`."""
    if type_oid not in _NAMES:
        return f"{column}::bigint"
    if type_oid == pgtypes.DATE:
        finite = f"({column} - '2000-01-01'::date)::bigint"
    else:
        finite = f"((extract(epoch FROM {column}) - {pgtypes.EPOCH_SHIFT_SECONDS}) * 1000000)::bigint"
    infinite = f"CASE WHEN {column} > '2000-01-01' THEN {_MAX.get(type_oid, _MAX64)} ELSE {_MIN.get(type_oid, _MIN64)} END"
    return f"CASE WHEN isfinite({column}) THEN {finite} ELSE {infinite} END"


def sample_sql(type_oid: int, interval: int, column: str, relation: str) -> str:
    """A query for one raw value of each chunk range that rows of `relation` fall into."""
    zero = origin(type_oid)
    return (
        f"SELECT min(raw)::text FROM (SELECT {raw_sql(type_oid, column)} AS raw FROM {relation}) AS rows"
        f" GROUP BY floor((raw::numeric - {zero}) / {interval})"
    )
