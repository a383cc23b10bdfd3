"""UTC offsets of many instants at once, from the time zone database Python reads, once compared with the server's.

Two copies of the database may be of different releases, so a zone counts as known only after `learn`
has seen the server agree on every change from 1900 to 2100. Offsets are looked up between transitions, and transitions are found once a (zone, year) by asking
`zoneinfo` for a day of every week and halving where the offset differs. Years that `datetime`
cannot hold repeat those 400 years away, as the Gregorian calendar and every zone's rule do.
"""

from __future__ import annotations

import datetime as dt
import functools
import zoneinfo
from typing import Any

import numpy as np
import numpy.typing as npt

from orochi import pgtypes

Vector = npt.NDArray[Any]

_UTC_NAMES = frozenset({"utc", "etc/utc", "gmt", "etc/gmt", "zulu", "uct", "etc/uct", "universal"})
_CYCLE = 146_097 * 86_400  # seconds of 400 years
_FIRST_YEAR, _LAST_YEAR = 2, 9_998
_WEEK = 7 * 86_400


#: Gives the server's offsets at the seconds since 1970 in `$1`, in the session's own time zone.
SAMPLE_SQL = (
    "SELECT pg_catalog.string_agg(pg_catalog.date_part('timezone', pg_catalog.to_timestamp(s))::int4::text, ',' "
    "ORDER BY n) FROM pg_catalog.unnest($1::float8[]) WITH ORDINALITY u(s, n)"
)
_learned: dict[str, bool] = {}


def is_known(name: str) -> bool:
    """Whether the zone was compared with the server's and found equal."""
    return name.lower() in _UTC_NAMES or _learned.get(name, False)


def is_asked(name: str) -> bool:
    """Whether there is no more to learn about the zone."""
    return name.lower() in _UTC_NAMES or name in _learned or _zone(name) is None


def samples(name: str) -> list[int]:
    """Seconds since 1970 at which to compare: every week, and both sides of each change."""
    moments = set(range(_start_of(1900), _start_of(2100), _WEEK)) | {_start_of(1800)}
    for year in range(1900, 2100):
        for start, _ in _year(name, year):
            moments |= {start - 1, start}
    return sorted(moments)


def learn(name: str, moments: list[int], offsets: str) -> None:
    """Take the server's answer to `SAMPLE_SQL` for `samples(name)`."""
    zone = _zone(name)
    ours = [] if zone is None else [_offset(zone, moment) for moment in moments]
    _learned[name] = bool(ours) and ours == [int(offset) for offset in offsets.split(",")]


def shifts(name: str, values: Vector) -> Vector:
    """Seconds east of UTC at each of `values`, microseconds since 2000-01-01 UTC, as int32."""
    if name.lower() in _UTC_NAMES:
        return np.zeros(len(values), np.int32)
    zone = _zone(name)
    if zone is None:
        raise zoneinfo.ZoneInfoNotFoundError(name)
    seconds = _into_range(values // 1_000_000 + pgtypes.EPOCH_SHIFT_SECONDS)
    years = np.unique(seconds.astype("datetime64[s]").astype("datetime64[Y]").astype(np.int64) + 1970)
    starts: list[int] = []
    offsets: list[int] = []
    for year in years:
        for start, offset in _year(name, int(year)):
            starts.append(start)
            offsets.append(offset)
    found = np.searchsorted(np.array(starts), seconds, side="right") - 1
    return np.array(offsets, np.int32)[np.maximum(found, 0)]


def _into_range(seconds: Vector) -> Vector:
    low, high = (_start_of(year) for year in (_FIRST_YEAR, _LAST_YEAR + 1))
    late = np.maximum(-((high - 1 - seconds) // _CYCLE), 0) * (seconds >= high)
    moved = seconds - late * _CYCLE
    return np.where(moved < low, low, moved)  # before the first transition nothing changes


def _start_of(year: int) -> int:
    return int(dt.datetime(year, 1, 1, tzinfo=dt.UTC).timestamp())


@functools.lru_cache(maxsize=64)
def _zone(name: str) -> zoneinfo.ZoneInfo | None:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _offset(zone: zoneinfo.ZoneInfo, second: int) -> int:
    moment = dt.datetime.fromtimestamp(second, zone)
    return int((moment.utcoffset() or dt.timedelta()).total_seconds())


@functools.lru_cache(maxsize=4_096)
def _year(name: str, year: int) -> tuple[tuple[int, int], ...]:
    """(first second, offset) of each stretch of equal offset within a year of UTC."""
    zone = _zone(name)
    assert zone is not None
    begin, end = _start_of(year), _start_of(year + 1)
    stretches = [(begin, _offset(zone, begin))]
    for low in range(begin, end, _WEEK):
        high = min(low + _WEEK, end - 1)
        before, after = _offset(zone, low), _offset(zone, high)
        if before == after:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            if _offset(zone, middle) == before:
                low = middle
            else:
                high = middle
        stretches.append((high, after))
    return tuple(stretches)
