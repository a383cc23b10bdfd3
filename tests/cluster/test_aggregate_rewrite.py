"""Queries on rows that are answered from continuous aggregates: the same answers, and only where that is sure."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import cluster as clusters
from tests.support import layouts, oracle, pairs

_SCHEMA = "answered"
_BUCKETS = (
    "CREATE FUNCTION time_bucket(w interval, t timestamptz) RETURNS timestamptz IMMUTABLE LANGUAGE sql AS $$"
    " SELECT CASE WHEN w = '1 month' THEN date_trunc('month', t, 'UTC')"
    " ELSE date_bin(w, t, timestamptz '2000-01-03 00:00+00') END $$"
)
_TABLES = (
    'CREATE TABLE points (at timestamptz NOT NULL, device integer NOT NULL, "Där" text, v integer, n numeric)',
    "CREATE TABLE beside (device integer, w integer)",
)
_FILL = (
    "INSERT INTO points SELECT timestamptz '2024-03-09 00:00+00' + g * interval '41 minutes', g % 5,"
    " CASE WHEN g % 4 > 0 THEN 'place ' || g % 4 END, nullif(g % 9, 0), g * 1.25 FROM generate_series(0, 240) g"
)
_SIX = """
    SELECT time_bucket('6 hours', at) AS six, device AS unit, "Där", count(*) AS rows, count(v) AS filled, sum(v),
           sum(n) AS total, count(n) AS known, min(n), max(v) AS highest, bool_or(v > 7) AS any_high,
           count(*) FILTER (WHERE v > 3) AS high, avg(n) AS mean, percentile_disc(0.5) WITHIN GROUP (ORDER BY v) AS mid
    FROM points GROUP BY 1, 2, 3"""
_DAY = "SELECT time_bucket('1 day', at) AS day, device, sum(v) AS total FROM points WHERE v > 2 GROUP BY 1, 2"

#: Answered by the aggregates.
_ANSWERED = (
    (
        "SELECT time_bucket('6 hours', at) AS b, device, \"Där\", count(*), sum(v), avg(v), avg(n), max(v) AS m,"
        " percentile_disc(0.5) WITHIN GROUP (ORDER BY v), count(*) FILTER (WHERE v > 3)"
        ' FROM points GROUP BY 1, device, "Där" ORDER BY b, device, "Där"'
    ),
    (
        "SELECT time_bucket('1 day', at) AS b, sum(v) AS s, count(*) AS c, avg(v) AS a, avg(n), min(n), bool_or(v > 7),"
        " count(*) FILTER (WHERE v > 3) AS h FROM points GROUP BY b HAVING count(*) > 5 ORDER BY sum(v) DESC, b LIMIT 7"
    ),
    "SELECT time_bucket('1 month', at) AS month, sum(n) FROM points GROUP BY 1",
    (
        "SELECT time_bucket('1 week', p.at), p.device, sum(p.v) + count(*) AS x FROM points p"
        " WHERE p.at >= '2024-03-10 06:00+00' AND p.at < '2024-03-13 12:00+00' AND p.device IN (1, 2) GROUP BY 1, 2"
    ),
    "SELECT count(*), sum(v), avg(n), max(device), count(DISTINCT device) FROM points WHERE device = 77",
    'SELECT device % 2 AS odd, upper("Där") AS "Där", sum(n) FROM points WHERE \'2024-03-11+00\' <= at GROUP BY 1, 2',
    "SELECT device, sum(v) FROM points WHERE v > 2 AND device < 4 GROUP BY device",
    (
        "SELECT six.device, sum(six.c) OVER (ORDER BY six.device) FROM (SELECT device, count(*) AS c FROM points"
        " GROUP BY device) six JOIN beside b ON b.device = six.device ORDER BY 1"
    ),
    (
        "WITH days AS (SELECT time_bucket('1 day', at) AS day, sum(v) AS s FROM points GROUP BY 1)"
        " SELECT max(s), (SELECT count(*) FROM points WHERE device = 1) FROM days"
    ),
    'SELECT "Där", count(*) AS "Zahl" FROM points GROUP BY 1 UNION ALL SELECT \'all\', count(*) FROM points ORDER BY 1',
)
#: Read from the rows.
_ROWS = (
    "SELECT time_bucket('4 hours', at) AS b, count(*) FROM points GROUP BY 1",
    "SELECT device, count(*) FROM points WHERE at >= '2024-03-10 05:00+00' GROUP BY 1",
    "SELECT device, count(*) FROM points WHERE at <= '2024-03-10 06:00+00' GROUP BY 1",
    "SELECT device, count(*) FROM points WHERE v > 3 GROUP BY 1",
    "SELECT device, stddev(n) FROM points GROUP BY 1",
    "SELECT device, count(DISTINCT v) FROM points GROUP BY 1",
    "SELECT device, percentile_disc(0.5) WITHIN GROUP (ORDER BY v) FROM points GROUP BY 1",
    "SELECT p.device, count(*) FROM points p JOIN beside b ON b.device = p.device GROUP BY 1",
    "SELECT device, sum(v) FROM points GROUP BY ROLLUP (device)",
    "SELECT device FROM points WHERE device = 1",
    "SELECT b.device, (SELECT count(*) FROM points p WHERE p.device = b.device) FROM beside b",
)


@pytest.fixture(scope="module")
def pair(cluster: clusters.Cluster) -> Iterator[oracle.Pair]:
    found = pairs.opened(cluster, _SCHEMA)
    found.both(f"CREATE SCHEMA {_SCHEMA}", "SET TimeZone TO 'UTC'")
    found.plain.execute(_BUCKETS)
    yield found
    pairs.close(found, _SCHEMA)


def named(pair: oracle.Pair, sql: str) -> bool:
    """Whether EXPLAIN says that an aggregate answers."""
    return any("Continuous Aggregate" in line for (line,) in pair.orochi(f"EXPLAIN {sql}"))


def check(pair: oracle.Pair) -> None:
    for sql in (*_ANSWERED, *_ROWS):
        pair.same(sql)


@pytest.mark.parametrize("layout", ["hypertable", "both-compressed"])
def test_same_answers(pair: oracle.Pair, layout: str) -> None:
    pair.both("DROP TABLE IF EXISTS points, beside CASCADE", *_TABLES)
    pair.orochi("SELECT create_distributed_table('beside', 'device', 3)")
    layouts.place(pair, "points", layout, key="device", time="at", interval="4 days")
    pair.both(_FILL, "INSERT INTO beside SELECT g, g * 2 FROM generate_series(0, 6) g")
    layouts.compress(pair, "points", layout, every=2)
    pair.orochi(f"CREATE MATERIALIZED VIEW sixes WITH (orochi.continuous) AS {_SIX}")
    pair.orochi(f"CREATE MATERIALIZED VIEW dailies WITH (orochi.continuous) AS {_DAY}")
    assert not any(named(pair, sql) for sql in _ANSWERED)
    pair.orochi("SET orochi.enable_aggregate_rewrite TO on")
    for sql in _ANSWERED:
        assert named(pair, sql), sql
    for sql in _ROWS:
        assert not named(pair, sql), sql
    check(pair)
    pair.both(
        "INSERT INTO points VALUES ('2024-03-10 07:10+00', 3, 'new', 5, 1.50), ('2031-01-01', 1, NULL, NULL, NULL)",
        "UPDATE points SET v = v + 1, device = device WHERE at BETWEEN '2024-03-12' AND '2024-03-12 05:00'",
        "DELETE FROM points WHERE at > '2024-03-14' AND device = 2",
    )
    check(pair)
    pair.same(
        _ANSWERED[2].replace("sum(n)", "sum(n), count(*)").replace(" GROUP", " WHERE device < %s GROUP"), (3,)
    )
    pair.same('SELECT count(*) FROM points WHERE at >= %s AND "Där" = %s', ("2024-03-10 12:00+00", "place 1"))
    if layout == "hypertable":
        blocks(pair)
        history(pair)
    pair.orochi("RESET orochi.enable_aggregate_rewrite")


def blocks(pair: oracle.Pair) -> None:
    """A block that wrote, and one of one snapshot, read rows."""
    sql = _ANSWERED[1]
    pair.both("BEGIN")
    assert named(pair, sql)
    pair.both("INSERT INTO points VALUES ('2024-03-10 07:20+00', 4, 'mine', 5, 1.5)")
    assert not named(pair, sql)
    check(pair)
    pair.both("ROLLBACK", "BEGIN ISOLATION LEVEL REPEATABLE READ")
    assert not named(pair, sql)
    pair.same(sql)
    pair.both("ROLLBACK")
    pair.same(sql)


def history(pair: oracle.Pair) -> None:
    """Buckets whose rows are gone are not rows; the aggregate keeps them."""
    kept = pair.orochi("SELECT count(*) FROM sixes")
    pair.orochi("SELECT drop_chunks('points', older_than => timestamptz '2024-03-12')")
    (gone,) = pair.orochi("SELECT min(at) FROM points")[0]
    pair.plain.execute("DELETE FROM points WHERE at < %s", (gone,))
    check(pair)
    assert pair.orochi("SELECT count(*) FROM sixes") == kept
