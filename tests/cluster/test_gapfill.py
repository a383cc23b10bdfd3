"""time_bucket_gapfill, locf, interpolate and histogram, against their definition worked out in Python."""

from __future__ import annotations

import datetime as dt
import random
import zoneinfo
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from tests.support import layouts, oracle

_Value = float | None
_KINDS = ("local", "distributed", "both-compressed")


@pytest.fixture(scope="module")
def readings(module_pair: oracle.Pair) -> dict[tuple[str, int], list[tuple[int, _Value]]]:
    """Random (time, value) of each series, in one table for each layout."""
    rng = random.Random(7)
    rows = [
        (sensor, rng.randrange(-30, 130), None if rng.random() < 0.2 else rng.randrange(-9, 9) / 2)
        for sensor in (1, 2, 3)
        for _ in range(25)
    ]
    found: dict[tuple[str, int], list[tuple[int, _Value]]] = {}
    for layout in _KINDS:
        table = layout.replace("-", "_")
        module_pair.orochi(f"CREATE TABLE {table} (sensor int NOT NULL, at int NOT NULL, v float8)")
        kind = layout.removesuffix("-compressed")
        if kind in {"distributed", "both"}:
            module_pair.orochi("SELECT create_distributed_table(%s, 'sensor', 4)", (table,))
        if kind == "both":
            module_pair.orochi("SELECT create_hypertable(%s, 'at', chunk_time_interval => 50)", (table,))
        with module_pair.gateway.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        layouts.compress(module_pair, table, layout)
        for sensor, at, value in rows:
            found.setdefault((table, sensor), []).append((at, value))
    return found


def _series(
    points: Sequence[tuple[int, _Value]], width: int, start: int, finish: int
) -> list[tuple[Any, ...]]:
    """(bucket, max, locf, locf that skips NULL, interpolated) of one series."""
    values: dict[int, list[float]] = {}
    for at, value in points:
        values.setdefault(at // width * width, []).extend([] if value is None else [value])
    found: dict[int, _Value] = {bucket: max(held, default=None) for bucket, held in values.items()}
    first = start // width * width
    buckets = sorted({*found, *range(first, finish, width)})
    rows = []
    for bucket in buckets:
        before = [b for b in buckets if b < bucket and b in found]
        after = [b for b in buckets if b > bucket and b in found]
        known = [b for b in buckets if b <= bucket and found.get(b) is not None]
        carried = found[before[-1]] if before else None
        if carried is None and (not before or before[-1] < first):
            carried = -1.0
        skipping = found[known[-1]] if known else None
        line: _Value = None
        if before and after:
            (x0, y0), (x1, y1) = (before[-1], found[before[-1]]), (after[0], found[after[0]])
            if y0 is not None and y1 is not None:
                line = (y0 * (x1 - bucket) + y1 * (bucket - x0)) / (x1 - x0)
        if bucket in found:
            carried = line = found[bucket]
        rows.append((bucket, found.get(bucket), carried, skipping, line))
    return rows


@pytest.mark.parametrize("layout", _KINDS)
@pytest.mark.parametrize(("width", "start", "finish"), [(7, 0, 100), (10, -55, 41), (60, 20, 21)])
def test_every_layout(
    module_pair: oracle.Pair,
    readings: dict[tuple[str, int], list[tuple[int, _Value]]],
    layout: str,
    width: int,
    start: int,
    finish: int,
) -> None:
    table = layout.replace("-", "_")
    expected = [
        (sensor, *row)
        for sensor in (1, 2, 3)
        for row in _series(readings[table, sensor], width, start, finish)
    ]
    query = (
        f"SELECT sensor, time_bucket_gapfill(%s::int, at, %s, %s) AS bucket, max(v), locf(max(v), -1::float8),"
        f" locf(max(v), treat_null_as_missing => true), interpolate(max(v)) FROM {table}"
        " GROUP BY sensor, bucket ORDER BY 1, 2"
    )
    assert module_pair.orochi(query, (width, start, finish)) == expected
    ranged = query.replace(", %s, %s)", ")").replace("GROUP", "WHERE at >= 0 AND at < 20 GROUP")
    points = {key: [(at, v) for at, v in rows if 0 <= at < 20] for key, rows in readings.items()}
    inside = [(s, *row) for s in (1, 2, 3) for row in _series(points[table, s], 4, 0, 20)]
    assert module_pair.orochi(ranged.replace("%s", "4")) == inside


@pytest.mark.parametrize("layout", _KINDS[1:])
def test_shards_find_groups(
    module_pair: oracle.Pair, readings: dict[tuple[str, int], list[tuple[int, _Value]]], layout: str
) -> None:
    """Only groups travel, also where the filled rows are read in FROM."""
    table = layout.replace("-", "_")
    filled = f"SELECT time_bucket_gapfill(7, at, 0, 100) b, max(v), locf(max(v), NULL, true) c FROM {table} GROUP BY 1"
    for query in (filled, f"SELECT sum(c) FROM ({filled}) q"):
        plan = "\n".join(line for (line,) in module_pair.orochi(f"EXPLAIN {query}"))
        assert plan.startswith("Orochi Recursive"), plan
        assert "->  Orochi Two-Phase Aggregate" in plan, plan
    points = [point for (name, _), rows in readings.items() if name == table for point in rows]
    carried = [row[3] for row in _series(points, 7, 0, 100)]
    assert module_pair.orochi(query)[0][0] == sum(value for value in carried if value is not None)


_V = "(VALUES (1, 1, 'x'), (2, 4, 'x'), (7, 2, 'y')) t(at, v, k)"
_DAY = "(SELECT now() AS at, text 'UTC' AS z) t WHERE at >= now() AND at < now()"
_ANSWERS: dict[str, list[tuple[Any, ...]]] = {
    # without groups there is nothing to fill
    f"SELECT time_bucket_gapfill(2, at, 0, 8), v FROM {_V} ORDER BY 1, 2": [(0, 1), (2, 4), (6, 2)],
    # constants, defaults and what is computed of missing aggregates
    f"SELECT 'c', time_bucket_gapfill(2, at, 0, 8) b, coalesce(sum(v), 0), count(*) + 1 FROM {_V} GROUP BY b": [
        ("c", 0, 1, 2), ("c", 2, 4, 2), ("c", 4, 0, None), ("c", 6, 2, 2),
    ],
    # HAVING decides on found rows; what it leaves out is a gap
    f"SELECT time_bucket_gapfill(2, at, 0, 8), sum(v) FROM {_V} GROUP BY 1 HAVING sum(v) > 1": [
        (0, None), (2, 4), (4, None), (6, 2),
    ],
    # no rows: all buckets without series, nothing with them
    f"SELECT time_bucket_gapfill(3, at, 0, 6), sum(v) FROM {_V} WHERE false GROUP BY 1": [(0, None), (3, None)],
    f"SELECT time_bucket_gapfill(3, at, 0, 6), k, sum(v) FROM {_V} WHERE false GROUP BY 1, k": [],
    # windows over the filled rows, in the order of series and bucket
    f"""SELECT time_bucket_gapfill(4, at, 0, 8) b, k, row_number() OVER (), sum(locf(sum(v))) OVER (PARTITION BY k
        ORDER BY time_bucket_gapfill(4, at, 0, 8)) FROM {_V} GROUP BY k, b""": [
        (0, "x", 1, 5), (4, "x", 2, 10), (0, "y", 3, None), (4, "y", 4, 2),
    ],
    # LIMIT, DISTINCT and ORDER BY come after filling
    f"SELECT DISTINCT sum(v) FROM {_V} GROUP BY time_bucket_gapfill(2, at, 0, 20), k ORDER BY 1 NULLS FIRST LIMIT 2": [
        (None,), (1,),
    ],
    # inside other statements, and one in another
    f"""WITH g AS (SELECT time_bucket_gapfill(2, at, 0, 8) b, interpolate(sum(v)) s FROM {_V} GROUP BY 1)
        SELECT time_bucket_gapfill(1, b, 0, 3), locf(max(s)) FROM g GROUP BY 1""": [
        (0, 1), (1, 1), (2, 4), (4, 3), (6, 2),
    ],
    # ends given as rows, rounded as integers are: half away from zero
    "SELECT time_bucket_gapfill(1, at, 0, 3), interpolate(min(at), (-1, 0), (3, 0)) FROM (VALUES (1)) t(at) GROUP BY 1": [
        (0, 1), (1, 1), (2, 1),
    ],
    # ends given count from the start on, also where what was found before it is NULL, and not for earlier rows
    """SELECT time_bucket_gapfill(1, at, 2, 4), locf(min(v), 9, true), locf(min(v), 9), interpolate(min(v), (0, 0))
        FROM (VALUES (0, NULL), (5, 3)) t(at, v) GROUP BY 1""": [
        (0, None, None, None), (2, 9, 9, 1), (3, 9, 9, 2), (5, 3, 3, 3),
    ],
    """SELECT time_bucket_gapfill(1, at, 2, 4), locf(min(v), 9, true), locf(min(v), 9), interpolate(min(v), (2, 0))
        FROM (VALUES (0, 7), (4, 3)) t(at, v) GROUP BY 1""": [
        (0, 7, 7, 7), (2, 7, 7, 5), (3, 7, 7, 4), (4, 3, 3, 3),
    ],
    # an outer query's column as the start
    """SELECT s.v, g.* FROM (VALUES (1), (5)) s(v), LATERAL (SELECT time_bucket_gapfill(2, at, s.v) b FROM
        (VALUES (5)) t(at) WHERE at < 8 GROUP BY 1) g ORDER BY 1, 2""": [
        (1, 0), (1, 2), (1, 4), (1, 6), (5, 4), (5, 6),
    ],
    "SELECT time_bucket_gapfill(2, at, at::int, 3) FROM (SELECT 1 AS at LIMIT 0) t": [],
    "SELECT histogram(v, 0, 4, 2) FROM (VALUES (-1.0), (0), (1), (2), (4), (9), (NULL)) t(v)": [([1, 2, 1, 2],)],
    "SELECT histogram(v, 0, 4, 2) FROM (SELECT 1 AS v LIMIT 0) t": [(None,)],
}  # fmt: skip


@pytest.mark.parametrize("number", range(len(_ANSWERS)))
def test_answers(module_pair: oracle.Pair, number: int) -> None:
    query = list(_ANSWERS)[number]
    assert module_pair.orochi(query) == _ANSWERS[query]


def test_months_across_a_change_of_clocks(module_pair: oracle.Pair) -> None:
    """Buckets of a zone begin at its midnight, whatever its distance from UTC is then."""
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    rows = module_pair.orochi(
        "SELECT time_bucket_gapfill('1 month', at, 'Europe/Berlin', '2024-01-15 00:00+00', '2024-12-01 00:00+00') m,"
        " count(*) FROM (VALUES (timestamptz '2024-06-30 22:00+00')) t(at) GROUP BY m ORDER BY m"
    )
    assert [row[0] for row in rows] == [dt.datetime(2024, month, 1, tzinfo=zone) for month in range(1, 13)]
    assert [row[1] for row in rows] == [1 if month == 7 else None for month in range(1, 13)]


@pytest.mark.parametrize("layout", _KINDS)
def test_outer_rows(
    module_pair: oracle.Pair, readings: dict[tuple[str, int], list[tuple[int, _Value]]], layout: str
) -> None:
    """A LATERAL query has its width and its bounds from each row of the outer query."""
    table = layout.replace("-", "_")
    rows = module_pair.orochi(
        "SELECT s.width, g.* FROM (VALUES (1, 7, 40), (2, 50, 100)) s(sensor, width, finish), LATERAL ("
        f"SELECT time_bucket_gapfill(s.width, at, 0, s.finish) b, max(v), locf(max(v), -1::float8) FROM {table} r"
        " WHERE r.sensor = s.sensor GROUP BY b) g ORDER BY 1, 2"
    )
    assert rows == [
        (width, *row[:3])
        for sensor, width, finish in ((1, 7, 40), (2, 50, 100))
        for row in _series(readings[table, sensor], width, 0, finish)
    ]


def test_integers_are_exact(module_pair: oracle.Pair) -> None:
    """Lines over the whole range of a type, as bigint and through smallint's ends."""
    low, high = -(2**63), 2**63 - 1
    query = (
        "SELECT time_bucket_gapfill(1, at, 0, 1), interpolate(min(at)), interpolate(min(v::smallint)), interpolate(avg(v))"
        f" FROM (VALUES ({low}, -32768), ({high}, 32767)) t(at, v) GROUP BY 1 ORDER BY 1"
    )
    assert module_pair.orochi(query)[1] == (0, 0, 0, -0.5)


_HOURS = {
    ("1h", "2024-03-31 00:00Z", "2024-03-31 02:00Z"): [0, 1],
    ("30 minutes", "2024-03-31 00:00Z", "2024-03-31 02:00Z"): [0, 0.5, 1, 1.5],
    ("1h", "2024-10-26 23:00Z", "2024-10-27 02:00Z"): [0, 1, 2],
    ("1 day", "2024-10-26 22:00Z", "2024-10-28 23:00Z"): [0, 25],
}


@pytest.mark.parametrize("given", _HOURS)
def test_zones(module_pair: oracle.Pair, given: tuple[str, str, str]) -> None:
    """Hours that a change of clocks skips or repeats; the zone as text, parameter and expression."""
    start = dt.datetime.fromisoformat(given[1])
    expected = [(start + dt.timedelta(hours=hours),) for hours in _HOURS[given]]
    for zone in ("'Europe/Berlin'", "CASE WHEN now() > '1999-01-01' THEN 'Europe/Berlin' ELSE 'UTC' END"):
        query = f"SELECT time_bucket_gapfill(%s, at, {zone}, %s, %s) FROM (SELECT now() AS at LIMIT 0) t GROUP BY 1"
        assert module_pair.orochi(query, given) == expected
    module_pair.orochi(
        "PREPARE zoned(text) AS SELECT time_bucket_gapfill(interval '1 day', at, $1) FROM"
        " (VALUES (timestamptz '2024-05-01 12:00Z')) t(at) WHERE at >= '2024-04-30 22:00Z' AND at < '2024-05-01 22:00Z'"
        " GROUP BY 1"
    )
    assert module_pair.orochi("EXECUTE zoned('Europe/Berlin')") == [
        (dt.datetime(2024, 4, 30, 22, tzinfo=dt.UTC),)
    ]
    module_pair.orochi("DEALLOCATE zoned")


def test_views_and_writes(module_pair: oracle.Pair) -> None:
    """A view keeps filling, wherever it is asked from; INSERT ... SELECT and CREATE TABLE AS fill too."""
    query = f"SELECT time_bucket_gapfill(2, at, 0, 6) AS b, sum(v) AS s FROM {_V} GROUP BY b"
    filled = [(0, 1), (2, 4), (4, None), (6, 2)]
    module_pair.orochi(f"CREATE VIEW filled AS {query}")
    module_pair.orochi(f"CREATE TABLE made AS {query}")
    module_pair.orochi("CREATE TABLE written (b int, s int)")
    module_pair.orochi(f"INSERT INTO written {query}")
    for table in ("filled", "made", "written"):
        assert module_pair.orochi(f"SELECT * FROM {table} ORDER BY 1") == filled
    module_pair.orochi(f"PREPARE gaps(int) AS SELECT time_bucket_gapfill($1, at, 0, 6) FROM {_V} GROUP BY 1")
    assert module_pair.orochi("EXECUTE gaps(4)") == [(0,), (4,)]


@pytest.mark.parametrize(
    ("query", "state", "message"),
    [
        (f"SELECT 1 + time_bucket_gapfill(1, at, 0, 9) FROM {_V} GROUP BY 1", "0A000", "no top level"),
        (
            f"SELECT time_bucket_gapfill(1, at) FROM {_V} WHERE at = 1 GROUP BY 1",
            "22023",
            "could not infer start",
        ),
        (
            f"SELECT time_bucket_gapfill(1, at) FROM {_V} WHERE at > 1 GROUP BY 1",
            "22023",
            "could not infer finish",
        ),
        (
            f"SELECT time_bucket_gapfill(v, at, 0, 9) FROM {_V} GROUP BY 1",
            "22023",
            "bucket_width must be a simple",
        ),
        (f"SELECT time_bucket_gapfill(0, at, 0, 9) FROM {_V} GROUP BY 1", "22023", "must be greater than 0"),
        (
            f"SELECT time_bucket_gapfill(1, at, 0, 9), locf(locf(sum(v))) FROM {_V} GROUP BY 1",
            "0A000",
            "multiple",
        ),
        (f"SELECT time_bucket_gapfill(1, at, 0, 9), nosuch FROM {_V} GROUP BY 1", "42703", "nosuch"),
        (
            f"SELECT time_bucket_gapfill(1, at, 0, 9), interpolate(sum(v), (1.5, 1)) FROM {_V} GROUP BY 1",
            "22023",
            "must match used timestamp datatype",
        ),
        (
            f"SELECT time_bucket_gapfill('1 day', now(), k::text, now(), now()) FROM {_V} GROUP BY 1",
            "0A000",
            "does not support non-constant timezone",
        ),
        (
            f"""SELECT g.* FROM (VALUES (text 'UTC')) s(z),
                LATERAL (SELECT time_bucket_gapfill('1 day', at, s.z) FROM {_DAY} GROUP BY 1) g""",
            "0A000",
            "does not support non-constant timezone",
        ),
        (
            f"SELECT time_bucket_gapfill('1 day', at, z) FROM {_DAY} GROUP BY 1",
            "0A000",
            "does not support non-constant timezone",
        ),
        (
            f"SELECT time_bucket_gapfill(1, at) FROM {_V} WHERE at < 9 AND at > (SELECT t.v LIMIT 1) GROUP BY 1",
            "22023",
            "could not infer start",
        ),
        (
            """CREATE MATERIALIZED VIEW c WITH (orochi.continuous) AS
                SELECT time_bucket_gapfill(5, at, 0, 9), count(*) FROM both_compressed GROUP BY 1""",
            "0A000",
            "in a continuous aggregate",
        ),
        ("SELECT histogram(1, 5, 4, 3)", "22023", "lower bound"),
    ],
)
def test_refused(module_pair: oracle.Pair, query: str, state: str, message: str) -> None:
    with pytest.raises(psycopg.Error, match=message) as caught:
        module_pair.gateway.execute(query)
    assert caught.value.sqlstate == state
    assert module_pair.orochi("SELECT 1") == [(1,)]
