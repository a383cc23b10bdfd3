"""UNION ALL in FROM, and continuous aggregates read under conditions: what each shard answers by itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import cluster as clusters
from tests.support import layouts, oracle, pairs

_SCHEMA = "unions"
_KINDS = ("reference", "both-compressed")
_STATEMENTS = (
    "SELECT * FROM (SELECT tenant, id FROM events UNION ALL SELECT id, tenant FROM events) u ORDER BY 1, 2 LIMIT 20",
    "SELECT count(*), sum(x), min(x), max(x), avg(x) FROM (SELECT amount x FROM events UNION ALL SELECT id FROM events) u",
    """SELECT t, count(*), sum(a) FROM (SELECT tenant AS t, amount AS a FROM events WHERE id < 100
       UNION ALL SELECT tenant, sum(amount) FROM events WHERE id >= 50 GROUP BY tenant) u GROUP BY t ORDER BY t""",
    """SELECT u.t, o.what FROM (SELECT tenant t, id FROM events WHERE id % 3 = 0
       UNION ALL SELECT tenant, id FROM events WHERE id % 5 = 0) u JOIN events o ON o.id = u.id ORDER BY 1, 2, o.id""",
    "SELECT what, count(*) FROM (SELECT what FROM events UNION ALL SELECT 'more' FROM events) u GROUP BY 1 ORDER BY 1",
    "SELECT x FROM (SELECT id x FROM events WHERE tenant = 3 UNION ALL SELECT 1.5 UNION ALL SELECT id FROM events) u ORDER BY x DESC LIMIT 9",
    """SELECT DISTINCT what FROM (SELECT what, id FROM events UNION ALL (SELECT what, id FROM events UNION ALL
       SELECT what, tenant FROM events WHERE tenant = 2)) u WHERE id > 40 ORDER BY 1""",
    "SELECT tenant FROM events WHERE id IN (SELECT x FROM (SELECT 7 x UNION ALL SELECT id FROM events WHERE id > 190) u) ORDER BY 1, id",
    """SELECT count(*) FROM (SELECT tenant FROM events WHERE tenant = 1 UNION ALL SELECT tenant FROM events WHERE tenant = 2) u
       WHERE tenant < 2""",
    "SELECT t, row_number() OVER (PARTITION BY t ORDER BY id) FROM (SELECT tenant t, id FROM events UNION ALL SELECT tenant, -id FROM events) u ORDER BY 1, 2 LIMIT 30",
    "SELECT * FROM (SELECT id FROM events UNION ALL SELECT id FROM events ORDER BY id LIMIT 5) u ORDER BY 1",
    "SELECT max(ratio), count(what) FROM (SELECT * FROM events UNION ALL SELECT * FROM events WHERE amount > 3) u",
)  # fmt: skip
_HOURS = """
    SELECT time_bucket('3 hours', at) AS hour, tenant, what, count(*) AS rows, sum(amount) AS amount, max(id) AS last
    FROM events GROUP BY 1, tenant, what"""
_DAYS = (
    "SELECT time_bucket('1 day', at) AS day, count(*) AS rows, sum(amount) AS amount FROM events GROUP BY 1"
)
_READS = (
    "SELECT hour, rows, amount FROM hours WHERE tenant = 3 AND hour >= '2024-03-11 06:00+00' ORDER BY 1, 2, 3",
    "SELECT hour, rows FROM hours h WHERE h.hour = '2024-03-11 06:00+00' AND h.what LIKE 'kind%' ORDER BY 1, 2",
    "SELECT * FROM hours WHERE hour BETWEEN '2024-03-10' AND '2024-03-12' AND tenant IN (1, 5) ORDER BY hour, tenant, what",
    "SELECT tenant, sum(rows), max(amount), avg(amount), count(*) FROM hours WHERE hour < '2024-03-13 01:00+00' GROUP BY 1 ORDER BY 1",
    "SELECT time_bucket('1 day', hour) AS day, sum(amount) FROM hours WHERE tenant > 2 GROUP BY 1 ORDER BY 1",
    "SELECT hour, tenant, rows FROM hours WHERE rows > 1 AND amount > 20 ORDER BY 1, 2, 3",
    "SELECT * FROM hours WHERE what IS NULL AND last > 30 ORDER BY hour, tenant LIMIT 7",
    "SELECT count(*), sum(rows) FROM hours WHERE '2024-03-12 12:00+00' > hour AND (tenant = 1 OR what = 'kind 2')",
    "SELECT count(*) FROM hours WHERE hour > now() - interval '100 years' AND hour < now()",
    "SELECT a.hour, b.day, a.rows, b.rows FROM hours a JOIN days b ON b.day = time_bucket('1 day', a.hour) WHERE a.tenant = 4 AND b.day >= '2024-03-11' ORDER BY 1, 2, 3",
    "SELECT a.hour, b.rows FROM hours a LEFT JOIN days b ON b.day = a.hour AND b.rows > 2 WHERE a.tenant = 2 AND b.day IS NULL ORDER BY 1, 2",
    "SELECT q.day, q.amount FROM (SELECT day, amount FROM days) q WHERE q.day > '2024-03-10' AND q.amount > 0 ORDER BY 1",
    "SELECT sum(rows), min(day) FROM days WHERE day >= '2024-03-11' AND day <= '2024-03-12 05:00+00'",
    "SELECT * FROM days ORDER BY day DESC LIMIT 3",
    "SELECT count(*) FROM (SELECT DISTINCT tenant FROM hours) q",
    "SELECT (SELECT sum(rows) FROM hours h WHERE h.tenant = s.t AND h.hour >= '2024-03-11') FROM (VALUES (1), (6), (99)) s(t)",
    "SELECT sum(rows) FROM hours WHERE tenant = (SELECT max(tenant) FROM hours) AND rows > 0",
    "WITH w AS (SELECT * FROM hours WHERE tenant = 5) SELECT hour, rows FROM w WHERE hour > '2024-03-12' ORDER BY 1, 2",
)  # fmt: skip


@pytest.fixture(scope="module")
def pair(cluster: clusters.Cluster) -> Iterator[oracle.Pair]:
    found = pairs.opened(cluster, _SCHEMA)
    found.both(f"CREATE SCHEMA {_SCHEMA}")
    found.plain.execute(
        "CREATE FUNCTION time_bucket(interval, timestamptz) RETURNS timestamptz IMMUTABLE LANGUAGE sql"
        " AS $$ SELECT date_bin($1, $2, timestamptz '2000-01-03 00:00+00') $$"
    )
    yield found
    pairs.close(found, _SCHEMA)


@pytest.mark.parametrize("layout", _KINDS)
def test_unions(pair: oracle.Pair, layout: str) -> None:
    pair.both("DROP TABLE IF EXISTS events CASCADE")
    layouts.events(pair, layout)
    for sql in _STATEMENTS:
        pair.same(sql)
    # as tasks, where fragments that read alike run as one: those of another branch have rows of their own
    pair.orochi("SET orochi.small_query_bytes = 0")
    branch = "SELECT DISTINCT what FROM events WHERE amount > 2"
    for operation in ("UNION ALL", "INTERSECT ALL", "EXCEPT ALL"):
        pair.same(f"{branch} {operation} {branch} ORDER BY 1")
    pair.orochi("RESET orochi.small_query_bytes")


@pytest.mark.parametrize("layout", ["hypertable", "both-compressed"])
def test_reads_of_aggregates(pair: oracle.Pair, layout: str) -> None:
    """Conditions, groups and limits over finished buckets and live ones, some of them in the past."""
    pair.both("DROP TABLE IF EXISTS events CASCADE")
    layouts.events(pair, layout)
    for name, query in (("hours", _HOURS), ("days", _DAYS)):
        pair.plain.execute(f"CREATE VIEW {name} AS {query}".encode())
        pair.orochi(f"CREATE MATERIALIZED VIEW {name} WITH (orochi.continuous) AS {query}")
    for change in (
        "INSERT INTO events SELECT 3, timestamptz '2024-03-20' + g * interval '1 hour', g, 'new', g FROM generate_series(1, 9) g",
        "INSERT INTO events VALUES (3, '2024-03-11 07:00+00', 1000, 'late', 1), (5, '2024-03-10 01:00+00', 1001, NULL, 2)",
        "UPDATE events SET amount = amount + 1, tenant = 4 WHERE tenant = 3 AND at < '2024-03-10 12:00+00'",
    ):
        pair.both(change)
    for sql in _READS:
        pair.same(sql)
