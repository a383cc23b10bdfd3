"""time_bucket, first, last and histogram: by arithmetic of Python's own, in PostgreSQL and in the engine."""

from __future__ import annotations

import datetime as dt
import random
import zoneinfo
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import pytest

from tests.support import oracle

_UTC = dt.UTC


def _at(*parts: int) -> dt.datetime:
    """A time without a zone."""
    return dt.datetime(*parts, tzinfo=_UTC).replace(tzinfo=None)  # type: ignore[misc,arg-type]


_MONDAY = _at(2000, 1, 3)
#: Two changes of clocks, leap days, a year's turn, both sides of both epochs, far away.
_MOMENTS = [
    _at(2024, 3, 30, 22, 30), _at(2024, 3, 31, 0, 59, 59, 999999), _at(2024, 3, 31, 1),
    _at(2024, 10, 26, 23, 30), _at(2024, 10, 27, 0, 30), _at(2024, 10, 27, 1, 30),
    _at(2024, 2, 29, 12), _at(1900, 2, 28, 23, 59), _at(2000, 2, 29), _at(2023, 12, 31, 23, 59, 59),
    _at(1999, 12, 31, 23, 59, 59, 999999), _at(2000, 1, 1), _at(2000, 1, 2, 23), _MONDAY,
    _at(1969, 12, 31, 23, 59, 59, 999999), _at(1970, 1, 1), _at(1600, 6, 15, 6), _at(9990, 5, 5),
]  # fmt: skip
_WIDTHS = ["1 microsecond", "7 minutes", "1 hour", "90 minutes", "1 day", "1 week", "10 days 3 hours"]
_MONTHS = {"1 month": 1, "2 months": 2, "1 quarter": 3, "5 months": 5, "1 year": 12, "1 decade": 120}
_NAMED = {"1 quarter": "3 months"}
_LENGTHS = {
    "1 microsecond": dt.timedelta(microseconds=1), "7 minutes": dt.timedelta(minutes=7), "1 hour": dt.timedelta(hours=1),
    "90 minutes": dt.timedelta(minutes=90), "1 day": dt.timedelta(days=1), "1 week": dt.timedelta(weeks=1),
    "10 days 3 hours": dt.timedelta(days=10, hours=3),
}  # fmt: skip


def _bin(width: dt.timedelta, at: dt.datetime, origin: dt.datetime) -> dt.datetime:
    return origin + (at - origin) // width * width


def _month_bin(months: int, at: dt.datetime, origin: dt.datetime) -> dt.datetime:
    first = origin.year * 12 + origin.month
    number = (at.year * 12 + at.month - first) // months * months + first - 1
    return _at(number // 12, number % 12 + 1, 1)


def _bucket(width: str, at: dt.datetime, origin: dt.datetime | None = None) -> dt.datetime:
    if width in _MONTHS:
        return _month_bin(_MONTHS[width], at, origin or _at(2000, 1, 1))
    return _bin(_LENGTHS[width], at, origin or _MONDAY)


def _rows(pair: oracle.Pair, call: str, kind: str, values: Sequence[Any], *given: Any) -> list[Any]:
    """The call for each value, which it names `x`."""
    listed = list(enumerate(values))
    found = pair.orochi(
        f"SELECT {call} FROM unnest(%s::{kind}[]) WITH ORDINALITY AS t(x, n) ORDER BY n",
        ([value for _, value in listed], *given),
    )
    return [row[0] for row in found]


@pytest.mark.parametrize("width", [*_WIDTHS, *_MONTHS])
def test_times(module_pair: oracle.Pair, width: str) -> None:
    named, origin, offset = (
        _NAMED.get(width, width),
        _at(1987, 11, 23, 5, 7),
        dt.timedelta(days=2, hours=5),
    )
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    known = [at.replace(tzinfo=_UTC) for at in _MOMENTS]
    local = [at.astimezone(zone).replace(tzinfo=None) for at in known]

    def back(at: dt.datetime) -> dt.datetime:
        """As PostgreSQL reads a local time: one that is there twice, or never, is the later one."""
        return max(at.replace(tzinfo=zone, fold=fold).astimezone(_UTC) for fold in (0, 1))

    checks: list[tuple[str, str, list[Any], list[Any]]] = [
        ("", "timestamp", _MOMENTS, [_bucket(width, at) for at in _MOMENTS]),
        (f", timestamp '{origin}'", "timestamp", _MOMENTS, [_bucket(width, at, origin) for at in _MOMENTS]),
        (", interval '2 days 5 hours'", "timestamp", _MOMENTS, [_bucket(width, at - offset) + offset for at in _MOMENTS]),
        ("", "timestamptz", known, [_bucket(width, at).replace(tzinfo=_UTC) for at in _MOMENTS]),
        (f", timestamptz '{origin}+00'", "timestamptz", known, [_bucket(width, at, origin).replace(tzinfo=_UTC) for at in _MOMENTS]),
        (", 'Europe/Berlin'", "timestamptz", known, [back(_bucket(width, at)) for at in local]),
        (", 'Europe/Berlin', \"offset\" => '2 days 5 hours'", "timestamptz", known, [back(_bucket(width, at - offset) + offset) for at in local]),
    ]  # fmt: skip
    if width in _MONTHS or _LENGTHS[width] % dt.timedelta(days=1) == dt.timedelta(0):
        days = [at.date() for at in _MOMENTS]
        whole = [dt.datetime.combine(day, dt.time()) for day in days]
        start = _at(2019, 2, 15)
        checks += [
            ("", "date", days, [_bucket(width, at).date() for at in whole]),
            (", date '2019-02-15'", "date", days, [_bucket(width, at, start).date() for at in whole]),
        ]
    with module_pair.gateway.transaction():
        module_pair.gateway.execute("SET LOCAL timezone = 'UTC'")
        for arguments, kind, values, expected in checks:
            call = f"time_bucket('{named}', x{arguments})"
            assert _rows(module_pair, call, kind, values) == expected, (call, kind)


@pytest.mark.parametrize(("kind", "bits"), [("smallint", 16), ("integer", 32), ("bigint", 64)])
def test_integers(module_pair: oracle.Pair, kind: str, bits: int) -> None:
    """All of a type's range, where the bucket is in it too; out of it TimescaleDB's error."""
    low, high, rng = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, random.Random(bits)
    values = [
        low,
        low + 1,
        -11,
        -10,
        -1,
        0,
        1,
        10,
        high - 1,
        high,
        *(rng.randrange(low, high) for _ in range(20)),
    ]
    for width, offset in ((1, 0), (10, 0), (10, 7), (10, -3), (7, 1000), (high, 0), (high // 3, -high)):
        inside = [
            v for v in values if low <= (v - offset) // width * width + offset and v - offset % width > low
        ]
        if offset < 0:
            inside = [v for v in inside if v <= high + offset]
        expected = [(v - offset) // width * width + offset for v in inside]
        assert (
            _rows(module_pair, f"time_bucket({width}::{kind}, x, ({offset})::{kind})", kind, inside)
            == expected
        )
    _refused(
        module_pair, f"SELECT time_bucket(10::{kind}, '{low}'::{kind})", "22008", "timestamp out of range"
    )


def _refused(pair: oracle.Pair, query: str, state: str, message: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        pair.gateway.execute(query)
    assert (caught.value.sqlstate, caught.value.diag.message_primary) == (state, message), query


def test_infinities_and_nulls(module_pair: oracle.Pair) -> None:
    calls = ["'1 day', x", "'1 month', x", "'1 week', x, x"]
    for kind in ("timestamp", "timestamptz", "date"):
        for call in calls[: 2 if kind == "date" else 3]:
            query = f"SELECT time_bucket({call})::text FROM (VALUES ('infinity'::{kind}), ('-infinity')) t(x)"
            if "x, x" not in call:
                assert module_pair.orochi(query) == [("infinity",), ("-infinity",)]
        nulls = (
            f"time_bucket(NULL, x), time_bucket('1 day', NULL::{kind}), time_bucket('1 day', x, NULL::{kind})"
        )
        assert module_pair.orochi(f"SELECT {nulls} FROM (VALUES ('2020-01-01'::{kind})) t(x)") == [
            (None, None, None)
        ]
    assert module_pair.orochi("SELECT time_bucket('1 day', now(), NULL::text), time_bucket(2, 3, NULL)") == [
        (None, None)
    ]
    for kind in ("timestamp", "timestamptz", "date"):
        for width in ("1 day", "1 month"):
            call = f"SELECT time_bucket('{width}', {kind} '2020-01-01', {kind} '-infinity')"
            _refused(module_pair, call, "22008", "origin out of range")
    far = "SELECT time_bucket('1 week', timestamp '294276-12-31 23:59:59', timestamp '4714-11-24 01:01:01 BC')::text"
    assert module_pair.orochi(far) == [("294276-12-25 01:01:01",)]


@pytest.mark.parametrize(
    ("call", "state", "message"),
    [
        ("time_bucket('0', timestamp '2020-01-01')", "22023", "period must be greater than 0"),
        ("time_bucket('-1 hour', now())", "22023", "period must be greater than 0"),
        ("time_bucket('-1 month', now())", "22023", "period must be greater than 0"),
        ("time_bucket('-1 day', date '2020-01-01')", "22023", "period must be greater than 0"),
        ("time_bucket(0, 5)", "22023", "period must be greater than 0"),
        ("time_bucket((-3)::smallint, 5::smallint)", "22023", "period must be greater than 0"),
        ("time_bucket('1 month 1 day', now())", "0A000", "month intervals cannot have day or time component"),
        ("time_bucket('1 mon 1 day -24 hours', now())", "0A000", "month intervals cannot have day or time component"),
        ("time_bucket('12 hours', date '2020-01-01')", "0A000", "interval must not have sub-day precision"),
        ("time_bucket('3 days 5 hours', date '2020-01-01')", "0A000", "interval must be a multiple of a day"),
        ("time_bucket('1 day', now(), 'nowhere')", "22023", 'time zone "nowhere" not recognized'),
        ("time_bucket('1 day', '2020-01-01')", "42725", "function time_bucket(unknown, unknown) is not unique"),
        ("histogram(1, 5, 4, 3)", "22023", "lower bound cannot exceed upper bound"),
        ("histogram(1, 4, 4, 3)", "2201G", "lower bound cannot equal upper bound"),
        ("histogram(1, 1, 4, 0)", "2201G", "count must be greater than zero"),
        ("histogram('NaN', 1, 4, 2)", "2201G", "operand, lower bound, and upper bound cannot be NaN"),
        ("histogram(i, 1, 4, i) FROM generate_series(1, 2) i", "22023", "number of buckets must not change between calls"),
        ("first(1)", "42883", "function first(integer) does not exist"),
        ("histogram('x'::text, 1, 2, 3)", "42883", "function histogram(text, integer, integer, integer) does not exist"),
    ],
)  # fmt: skip
def test_refused(module_pair: oracle.Pair, call: str, state: str, message: str) -> None:
    _refused(module_pair, f"SELECT {call}", state, message)


_LAYOUTS = ("plain", "chunked", "spread", "striped")


@pytest.fixture(scope="module")
def readings(module_pair: oracle.Pair) -> list[tuple[Any, ...]]:
    """The same rows in one table for each layout."""
    rng = random.Random(3)
    rows = [
        (
            n % 5,
            dt.datetime(2024, 3, 29, tzinfo=_UTC) + dt.timedelta(minutes=17 * n),
            rng.choice([None, n]),
            n / 4,
        )
        for n in range(400)
    ]
    module_pair.orochi("CREATE TYPE mood AS ENUM ('sad', 'ok')")
    for layout in _LAYOUTS:
        module_pair.orochi(
            f"CREATE TABLE {layout} (k int NOT NULL, at timestamptz NOT NULL, alt int, v float8, j json, arr int[], m mood)"
        )
        if layout in ("spread", "striped"):
            module_pair.orochi(f"SELECT create_distributed_table('{layout}', 'k', 2)")
        if layout != "plain":
            module_pair.orochi(f"SELECT create_hypertable('{layout}', 'at', INTERVAL '3 days')")
        with module_pair.gateway.cursor() as cursor, cursor.copy(f"COPY {layout} FROM STDIN") as copy:
            for k, at, alt, v in rows:
                copy.write_row(
                    (k, at, alt, v, f'{{"n":  {alt or 0}}}', f"{{{k},NULL}}", "ok" if k % 2 else "sad")
                )
    for (chunk,) in module_pair.orochi("SELECT show_chunks('striped')"):
        module_pair.orochi("SELECT compress_chunk(%s)", (chunk,))
    return rows


@pytest.mark.parametrize("layout", _LAYOUTS)
def test_groups(module_pair: oracle.Pair, readings: list[tuple[Any, ...]], layout: str) -> None:
    """Counts by bucket; in stripes the engine finds the buckets."""
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    ways: dict[str, Callable[[dt.datetime], Any]] = {
        "time_bucket('90 minutes', at)": lambda at: _bucket("90 minutes", at.replace(tzinfo=None)).replace(tzinfo=_UTC),
        "time_bucket('1 month', at)": lambda at: _bucket("1 month", at.replace(tzinfo=None)).replace(tzinfo=_UTC),
        "time_bucket('1 day', at, 'Europe/Berlin')": lambda at: dt.datetime.combine(at.astimezone(zone).date(), dt.time(), zone),
    }  # fmt: skip
    for call, way in ways.items():
        expected = sorted(Counter(way(row[1]) for row in readings).items())
        assert module_pair.orochi(f"SELECT {call}, count(*) FROM {layout} GROUP BY 1 ORDER BY 1") == expected
    counts = [0] * 6
    for row in readings:
        counts[0 if row[3] < 10 else min(int((row[3] - 10) // 20) + 1, 5)] += 1
    assert module_pair.orochi(f"SELECT histogram(v, 10, 90, 4) FROM {layout}") == [(counts,)]


@pytest.mark.parametrize("layout", _LAYOUTS)
def test_bookends(module_pair: oracle.Pair, readings: list[tuple[Any, ...]], layout: str) -> None:
    """Values of any type, whole rows, NULL values and NULL times, FILTER, windows, nothing at all."""
    timed = [row for row in readings if row[2] is not None]
    first = {k: min((row for row in readings if row[0] == k), key=lambda row: row[1]) for k in range(5)}
    early, late = min(timed, key=lambda row: row[2]), max(timed, key=lambda row: row[2])
    assert module_pair.orochi(
        f"SELECT first(v, alt), last(v, alt), last(alt, at), first(v, NULL::int) FROM {layout}"
    ) == [(early[3], late[3], readings[-1][2], None)]
    expected = [
        (k, row[3], f'{{"n":  {row[2] or 0}}}', [k, None], "ok" if k % 2 else "sad")
        for k, row in first.items()
    ]
    assert (
        module_pair.orochi(
            f"SELECT k, first(v, at), first(j, at)::text, first(arr, at), first(m, at)::text FROM {layout} GROUP BY k ORDER BY k"
        )
        == expected
    )
    rows = module_pair.orochi(
        f"SELECT k, first(t, at), (last(t.*, v)).v FROM {layout} t GROUP BY k ORDER BY k"
    )
    assert [(k, float(str(row).split(",")[3]), v) for k, row, v in rows] == [
        (k, row[3], max(r[3] for r in readings if r[0] == k)) for k, row in first.items()
    ]
    assert module_pair.orochi(
        f"SELECT first(t, at)::text LIKE '(0,%%', pg_typeof(first(t, at))::text FROM {layout} t"
    ) == [(True, layout)]
    assert module_pair.orochi(
        f"SELECT first(v, at) FILTER (WHERE k = 2), last(v, at) FROM {layout} WHERE v < 0 OR k = 2"
    ) == [(first[2][3], max(r[3] for r in readings if r[0] == 2))]
    assert module_pair.orochi(f"SELECT first(v, at), last(j, at) FROM {layout} WHERE false") == [(None, None)]
    window = f"SELECT v - first(v, at) OVER (PARTITION BY k ORDER BY at) FROM {layout} WHERE k = 3 ORDER BY at LIMIT 3"
    assert module_pair.orochi(window) == [(0,), (1.25,), (2.5,)]
