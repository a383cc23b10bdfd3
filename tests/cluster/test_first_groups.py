"""The first groups by a bucket, last points, and few rows of stripes: read from few chunk groups, PostgreSQL's answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.support import layouts, oracle

_TABLE = """CREATE TABLE readings (
    at timestamptz NOT NULL, host text, day date NOT NULL, n bigint NOT NULL, maybe int, v double precision)"""
_FILL = """INSERT INTO readings
    SELECT timestamptz '2024-03-30 20:00+00' + g * interval '97 seconds', CASE WHEN g % 17 <> 0 THEN 'host_' || g % 7 END,
        date '2024-03-01' + g / 500, g % 97 - 40, nullif(g % 23, 0),
        CASE g % 31 WHEN 0 THEN NULL WHEN 1 THEN 'NaN'::float8 WHEN 2 THEN '-0'::float8 ELSE g % 101 END
    FROM generate_series({}, {}) g"""
_LAYOUTS = ("both-compressed", "hypertable-compressed", "distributed-columnar")
_KEYS = ("date_trunc('hour', at)", "date_trunc('minute', at)", "date_trunc('day', at)", "day", "n", "maybe")
_WHERE = (
    "",
    "WHERE at < '2024-04-01 03:13:20+00'",
    "WHERE host = 'host_3' AND v > 50",
    "WHERE host IS NULL",
    "WHERE v > 1000",
)
_ENDS = ("DESC LIMIT 5", "LIMIT 3 OFFSET 4", "DESC NULLS LAST LIMIT 1", "DESC FETCH FIRST 2 ROWS WITH TIES")


@pytest.fixture(scope="module", params=_LAYOUTS)
def filled(request: pytest.FixtureRequest, module_pair: oracle.Pair) -> Iterator[oracle.Pair]:
    """Rows in small stripes, some of them deleted, the newest ones too; others in the heap beside them."""
    pair = module_pair
    pair.both("DROP TABLE IF EXISTS readings", _TABLE)
    layouts.place(pair, "readings", request.param, key="host", time="at", interval="2 days")
    if "columnar" not in request.param:
        pair.orochi("ALTER TABLE readings SET (orochi.compress, orochi.segmentby = 'host')")
    pair.orochi("ALTER TABLE readings SET (orochi.stripe_row_limit = 400, orochi.chunk_group_row_limit = 60)")
    pair.both(_FILL.format(1, 4000))
    layouts.compress(pair, "readings", request.param)
    pair.both(
        "DELETE FROM readings WHERE at > '2024-04-04 06:00+00' AND n % 2 = 0",
        "DELETE FROM readings WHERE at > '2024-04-04 07:30+00' AND host <> 'host_3'",
        _FILL.format(3000, 3040),
        "SET timezone TO 'UTC'",
    )
    yield pair
    pair.both("RESET timezone", "DROP TABLE readings")


def _groups() -> Iterator[str]:
    ends = itertools.cycle(_ENDS)  # each key and each WHERE meets each of them
    for key, where, _ in itertools.product(_KEYS, _WHERE, range(2)):
        end = next(ends)
        yield f"SELECT {key} AS k, max(v), count(*), min(n) FROM readings {where} GROUP BY k ORDER BY k {end}"
    yield "SELECT day, host, sum(n) FROM readings GROUP BY 1, 2 ORDER BY day DESC, host LIMIT 9"
    yield "SELECT host, day, count(*) FROM readings GROUP BY 1, 2 ORDER BY host, day DESC LIMIT 9"
    yield "SELECT day, count(*) AS c FROM readings GROUP BY 1 HAVING count(*) < 400 ORDER BY day DESC LIMIT 2"
    yield "SELECT day, rank() OVER (ORDER BY day), count(*) FROM readings GROUP BY 1 ORDER BY day DESC LIMIT 2"
    yield "SELECT day, count(*) FROM readings GROUP BY ROLLUP (day) ORDER BY day DESC LIMIT 2"
    yield "SELECT DISTINCT day, count(*) FROM readings GROUP BY day, n ORDER BY day DESC, 2 LIMIT 3"
    yield "SELECT max(n) FROM readings GROUP BY day ORDER BY day DESC LIMIT 0"
    yield "SELECT day, count(DISTINCT n) FROM readings GROUP BY day ORDER BY day DESC LIMIT 2"


def test_first_groups(filled: oracle.Pair) -> None:
    for sql in _groups():
        filled.same(sql)


def test_first_groups_of_a_parameter(filled: oracle.Pair) -> None:
    sql = "SELECT day, count(*) FROM readings WHERE n > %s GROUP BY day ORDER BY day DESC LIMIT 3"
    for bound in (0, 55, 100):
        filled.same(sql, (bound,))


def test_few_rows(filled: oracle.Pair) -> None:
    """Rows that are only filtered, from stripes and heap, without those that are deleted."""
    for where in (
        "at > '2024-04-03 05:00+00' AND at < '2024-04-03 09:00+00'",
        "host = 'host_3' AND v > 90",
        "n = 11",
        "v = 'NaN'",
        "maybe IS NULL AND day = '2024-03-04'",
        "at > '2024-04-04 07:00+00'",
        "v > 1000",
    ):
        filled.same(f"SELECT * FROM readings WHERE {where}")
        filled.same(f"SELECT v, v, host FROM readings WHERE {where}")


def test_it_is_explained(filled: oracle.Pair) -> None:
    rows = filled.orochi(
        "EXPLAIN SELECT date_trunc('hour', at) AS k, max(v) FROM readings GROUP BY k ORDER BY k DESC LIMIT 5"
    )
    assert any("the last 5 by at by 3600000000" in row[0] for row in rows)


def _last_points() -> Iterator[str]:
    for key, way, where in itertools.product(("host", "n", "day"), (" DESC", ""), _WHERE[:-1]):
        yield f"SELECT DISTINCT ON ({key}) * FROM readings {where} ORDER BY {key}, at{way}"
    yield "SELECT DISTINCT ON (host) host, n FROM readings ORDER BY host DESC NULLS LAST, at DESC LIMIT 3"
    yield "SELECT DISTINCT ON (n) n, maybe FROM readings ORDER BY n, maybe DESC"  # nulls come first
    yield "SELECT DISTINCT ON (host) host, day FROM readings ORDER BY host, day DESC"  # ties


def test_last_points(filled: oracle.Pair) -> None:
    """Of each series, however its last rows come and go: what was read of a stripe is kept, and not believed too long."""
    for sql in _last_points():
        filled.same(sql)
    newest = "SELECT DISTINCT ON (host) * FROM readings ORDER BY host, at DESC"
    for change in (
        "DELETE FROM readings WHERE host = 'host_3' AND at > '2024-04-04 00:00+00'",
        "INSERT INTO readings SELECT at + interval '1 s', host, day, 7, 7, 7 FROM readings WHERE n = 11 AND v > 90",
        "DELETE FROM readings WHERE host = 'host_5'",
        "UPDATE readings SET v = 1 WHERE at > '2024-04-04 04:00+00'",
    ):
        filled.both("BEGIN", change)
        filled.same(newest)
        filled.both("ROLLBACK", change)
        filled.same(newest)
        filled.same(newest)


_TAGS = """CREATE TABLE tags (id bigint, name text{}, since timestamptz);
    INSERT INTO tags SELECT i, 'host_' || (i % 9), timestamptz '2024-04-03 00:00+00' FROM generate_series(-9, 12) i;
    INSERT INTO tags VALUES (NULL, NULL, NULL), (3, 'HOST_2', NULL)"""
_BY_HOST = "SELECT * FROM readings c WHERE c.host = t.name ORDER BY at DESC LIMIT 1"


def _looked_up() -> Iterator[str]:
    yield f"SELECT DISTINCT ON (t.name) * FROM tags t INNER JOIN LATERAL ({_BY_HOST}) b ON true ORDER BY t.name, b.at DESC, t.id"
    yield f"SELECT t.id, b.* FROM tags t LEFT JOIN LATERAL ({_BY_HOST}) b ON b.n > 0"
    yield f"SELECT t.id, b.v FROM tags t, LATERAL ({_BY_HOST}) b WHERE t.id > 0"
    yield f"SELECT count(*), max(b.v), b IS NULL FROM tags t CROSS JOIN LATERAL ({_BY_HOST}) b GROUP BY 3"
    yield f"WITH t AS (SELECT DISTINCT name FROM tags) SELECT * FROM t, LATERAL ({_BY_HOST}) b"
    for body in (
        "n, v + 1 AS more FROM readings c WHERE n = t.id AND v > 50 ORDER BY at LIMIT 1",
        "at AS x, host AS at FROM readings WHERE t.id = n ORDER BY 1 DESC LIMIT 1",
        "maybe FROM readings c WHERE c.host = t.name ORDER BY maybe DESC LIMIT 1",
        "maybe FROM readings c WHERE c.host = t.name ORDER BY c.maybe DESC NULLS LAST LIMIT 1",
        "day FROM readings c WHERE c.host = t.name ORDER BY day DESC LIMIT 1",
        "c FROM readings c WHERE c.host = t.name ORDER BY at LIMIT 1",
        "host, generate_series(1, 2) FROM readings c WHERE c.host = t.name ORDER BY at LIMIT 1",
        "at FROM readings c WHERE c.host = t.name ORDER BY at DESC LIMIT 2",
        "at FROM readings c WHERE c.host = t.name ORDER BY at DESC OFFSET 1 LIMIT 1",
        "at FROM readings c WHERE c.host = t.name AND c.n = t.id ORDER BY at DESC LIMIT 1",
        "at FROM readings c WHERE c.host = t.name AND c.at < t.since ORDER BY at DESC LIMIT 1",
        "at FROM readings c WHERE upper(c.host) = t.name ORDER BY at DESC LIMIT 1",
        "max(at) AS at FROM readings c WHERE c.host = t.name ORDER BY 1 LIMIT 1",
        "at FROM readings c WHERE c.host = t.name AND n IN (SELECT id FROM tags) ORDER BY at LIMIT 1",
    ):
        yield f"SELECT t.id, b.* FROM tags t LEFT JOIN LATERAL (SELECT {body}) b ON true"


@pytest.mark.parametrize("place", ["local", "reference", "distributed", "collated"])
def test_last_points_of_rows(filled: oracle.Pair, place: str) -> None:
    """A LATERAL sub-SELECT's first row for each row of another table, wherever that is."""
    pair = filled
    pair.both("DROP TABLE IF EXISTS tags")
    pair.both(*_TAGS.format(' COLLATE "C"' if place == "collated" else "").split(";\n"))
    if place == "reference":
        pair.orochi("SELECT create_reference_table('tags')")
    if place == "distributed":
        pair.orochi("SELECT create_distributed_table('tags', 'name', colocate_with => 'none')")
    for sql in itertools.islice(_looked_up(), None if place == "local" else 6):
        pair.same(sql)
    pair.both("BEGIN", "INSERT INTO readings SELECT at, host, day, n, 3, 3 FROM readings WHERE n = 5")
    pair.same(f"SELECT t.id, b.at FROM tags t, LATERAL ({_BY_HOST}) b")
    pair.both("ROLLBACK")
    rows = pair.orochi(f"EXPLAIN SELECT t.id, b.at FROM tags t, LATERAL ({_BY_HOST}) b")
    assert any("Last Points" in row[0] for row in rows)
    assert any("LIMIT 1" in row[0] for row in rows) == (place == "collated")
    pair.both("DROP TABLE tags")
