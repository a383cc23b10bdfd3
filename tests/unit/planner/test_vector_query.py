"""Whole fragments in the vectorised engine: joins, sub-SELECTs and expressions give PostgreSQL's bytes."""

from __future__ import annotations

import pytest

from orochi.engine import duck, native, placeholders, tables
from orochi.planner import plan as plans
from tests.support import planner_world
from tests.unit.planner import test_vector as single

_TABLES = {
    "w": """CREATE TABLE w (id int NOT NULL, k int, i2 int2, i8 int8, n numeric(12,2), m numeric(6,4), f float8,
        b bool, t text, c varchar(9), ch char(4), wide char(8), d date, ts timestamp)""",
    "u": "CREATE TABLE u (id int NOT NULL, k int, n numeric(12,2), t text, ch char(4), d date)",
}
_ROWS = (
    """INSERT INTO plain.w SELECT g, CASE WHEN g % 7 <> 0 THEN g % 5 END, CASE WHEN g % 5 <> 0 THEN (g % 9 - 4)::int2 END,
        CASE WHEN g % 4 <> 0 THEN g::int8 * 1000000000 END, CASE WHEN g % 6 <> 0 THEN g * 1.37 - 20 END,
        CASE WHEN g % 8 <> 1 THEN g / 100.0 END, g / 3.0, CASE WHEN g % 3 <> 0 THEN g % 2 = 0 END,
        (ARRAY[NULL, '', 'special requests', 'a%b', 'aéz', 'PROMO x', 'zz', 'A_'])[g % 8 + 1],
        (ARRAY['x', NULL, 'x  '])[g % 3 + 1], (ARRAY['ab', 'abc', NULL, '', 'a b'])[g % 5 + 1],
        (ARRAY['ab', 'abcd', NULL])[g % 3 + 1],
        CASE WHEN g % 6 <> 0 THEN date '1995-12-20' + g END, timestamp '1996-01-01 10:00' + g * interval '13 hours'
    FROM generate_series(1, 80) g""",
    """INSERT INTO plain.u SELECT g % 60, CASE WHEN g % 3 <> 0 THEN g % 4 END, CASE WHEN g % 5 <> 0 THEN g * 2.5 END,
        (ARRAY[NULL, 'zz', 'a%b'])[g % 3 + 1], (ARRAY['ab', 'x', NULL])[g % 3 + 1], date '1996-01-01' + g % 40
    FROM generate_series(1, 90) g""",
)


@pytest.fixture(scope="module")
def ready(_world: planner_world.World) -> planner_world.World:
    for ddl in _TABLES.values():
        _world.local(ddl)
    for rows in _ROWS:
        _world.connection.execute(rows)
    for name in _TABLES:
        _world.table(name, "distributed", "id", 2, group="vectorised")
    return _world


def _check(world: planner_world.World, sql: str) -> str:
    """Every fragment of the statement's last stage is compared; one fragment's SQL for the engine."""
    world.settings = {"timezone": "UTC"}
    plan = world.plan(sql)
    assert isinstance(plan, plans.Distributed), plan
    columns = single._types(world, plan.intermediates[0])
    found = ""
    for part in plan.intermediates[0].fragments:
        assert part.vector_sql is not None, (sql, part.sql)
        found = part.vector_sql
        given = {}
        for scan in part.scans:
            listed = ", ".join(f'"{column.name}"' for column in scan.columns)
            heap = single._copy(world.connection, f"SELECT {listed} FROM {scan.relation}", scan.columns)
            given[scan.name] = tables.table(heap, scan.columns)
        vectorised = native.from_native(duck.query(part.vector_sql, given), columns)
        text = placeholders.fill(part.sql, {scan.name: scan.relation for scan in part.scans})
        exact = single._copy(world.connection, text, columns)
        assert single._rows(vectorised) == single._rows(exact), (part.vector_sql, part.sql)
    return found


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT n * (1 - m), n * (1 - m) * (1 + m), n + 1, -n, 2 - n, i2 + k, i8 * 2, n - i2 FROM w",
        "SELECT k + i2, k * 3, k - 1::int8 FROM w WHERE k * 2 > 3",
        "SELECT id FROM w WHERE m BETWEEN 0.06 - 0.01 AND 0.06 + 0.01 OR n < 24 OR n = 0.55",
        "SELECT id FROM w WHERE n > '1.5' AND m <= 1 AND NOT n = m",
        "SELECT extract(year FROM d), extract(month FROM ts), extract(quarter FROM d), extract(doy FROM ts) FROM w",
        "SELECT substring(t FROM 1 FOR 2), substr(t, 2, 3), substring(ch FROM 1 FOR 3) FROM w",
        "SELECT id, t LIKE '%special%requests%', t NOT LIKE 'a_b', t LIKE 'PROMO%', ch LIKE 'ab%', c LIKE 'x' FROM w",
        "SELECT id FROM w WHERE ch = 'ab' OR ch IN ('abc ', '') OR wide <> 'abcd'",
        "SELECT id FROM w WHERE ch = wide OR ch = 'ab  '::text OR c = 'x  '",
        "SELECT CASE WHEN t LIKE 'PROMO%' THEN n ELSE 0 END, CASE k WHEN 1 THEN 'one' WHEN 2 THEN t END FROM w",
        "SELECT CASE WHEN b THEN n * m ELSE n END, CASE WHEN b THEN k ELSE i8 END, coalesce(k, 7), coalesce(t, 'x') FROM w",
        "SELECT id FROM w WHERE d >= date '1996-01-01' AND d < date '1996-01-01' + interval '1' month",
        "SELECT id FROM w WHERE substring(t FROM 1 FOR 2) IN ('aé', 'PR', '', 'it''s', 'x) OR (true') OR k + 1 NOT IN (2, -3)",
        "SELECT id FROM w WHERE ts < timestamp '1996-01-20' AND k IN (1, NULL) OR k NOT IN (1, 2)",
    ],
)  # fmt: skip
def test_expressions(ready: planner_world.World, sql: str) -> None:
    _check(ready, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT k, sum(n * (1 - m)), sum(n), sum(i2), sum(i8), count(*), avg(n), min(m), max(d) FROM w GROUP BY k",
        "SELECT sum(CASE WHEN t LIKE 'PROMO%' THEN n * m ELSE 0 END), sum(n * m) FROM w",
        "SELECT k, sum(CASE WHEN t = 'zz' THEN n ELSE 0 END), sum(CASE WHEN b THEN n * m WHEN k = 1 THEN 1 END) FROM w GROUP BY k",
        "SELECT sum(CASE WHEN k = 99 THEN n ELSE 0 END) FROM w WHERE id > 0",
        "SELECT sum(CASE WHEN b THEN n ELSE 0 END) FILTER (WHERE k > 1), sum(n) FILTER (WHERE t LIKE 'a%') FROM w",
        "SELECT extract(year FROM d), ch, count(DISTINCT k), sum(CASE WHEN k = 1 OR k = 2 THEN 1 ELSE 0 END) FROM w GROUP BY 1, 2",
        "SELECT id, sum(n) FROM w GROUP BY id HAVING sum(n) > 30",
        "SELECT id, count(DISTINCT t), sum(n * 2) AS s FROM w GROUP BY id ORDER BY s DESC NULLS LAST, id LIMIT 5",
        "SELECT id, n, t FROM w ORDER BY n DESC, t, id LIMIT 7",
        "SELECT DISTINCT ch, k FROM w",
        "SELECT sum(s) FROM (SELECT id, sum(n) AS s FROM w GROUP BY id) AS q WHERE s > 10",
    ],
)  # fmt: skip
def test_groups(ready: planner_world.World, sql: str) -> None:
    _check(ready, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT w.id, u.n, w.n * u.n FROM w, u WHERE w.id = u.id AND w.k < u.k",
        "SELECT w.id, u.t FROM w LEFT JOIN u ON w.id = u.id AND u.t NOT LIKE 'z%'",
        "SELECT w.k, count(u.id), sum(u.n) FROM w LEFT JOIN u ON u.id = w.id GROUP BY w.k",
        "SELECT w.k, count(*) FROM w JOIN u ON u.id = w.id AND u.ch = w.ch GROUP BY w.k",
        "SELECT k, count(*) FROM w WHERE EXISTS (SELECT * FROM u WHERE u.id = w.id AND u.d < w.d) GROUP BY k",
        "SELECT id FROM w WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.id = w.id AND u.k <> w.k)",
        "SELECT id, n FROM w WHERE n > (SELECT min(u.n) FROM u WHERE u.id = w.id)",
        """SELECT yr, sum(v) FROM (SELECT extract(year FROM w.d) AS yr, w.n * (1 - u.n) AS v FROM w, u WHERE w.id = u.id
            AND ((w.ch = 'ab' AND u.t = 'zz') OR (w.ch = 'abc' AND u.t = 'a%b'))) AS s GROUP BY yr""",
        """SELECT c_count, count(*) FROM (SELECT w.id, count(u.k) FROM w LEFT JOIN u ON w.id = u.id GROUP BY w.id)
            AS o (id, c_count) GROUP BY c_count""",
    ],
)  # fmt: skip
def test_joins_and_subqueries(ready: planner_world.World, sql: str) -> None:
    _check(ready, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT n / 3 FROM w",
        "SELECT id / 2, id % 2 FROM w",
        "SELECT f + 1 FROM w",
        "SELECT t LIKE E'a\\\\%%' FROM w",
        "SELECT t ILIKE 'a' FROM w",
        "SELECT upper(t), t || 'x' FROM w",
        "SELECT id FROM w WHERE c = ch",
        "SELECT max(ch) FROM w",
        "SELECT sum(f), avg(f) FROM w",
        "SELECT f, count(*) FROM w GROUP BY f",
        "SELECT id, row_number() OVER (PARTITION BY id) FROM w",
        "SELECT extract(hour FROM ts) FROM w",
        "SELECT d + 1, ts - ts FROM w",
        "SELECT id FROM w WHERE ts > d",
        "SELECT id FROM w JOIN u USING (id)",
        "SELECT sum(CASE WHEN b THEN n ELSE 0 END * 2) FROM w",
        "SELECT DISTINCT ON (id) id, k FROM w ORDER BY id, k",
        "SELECT id, n::text FROM w",
    ],
)
def test_left_to_postgresql(ready: planner_world.World, sql: str) -> None:
    ready.settings = {"timezone": "UTC"}
    plan = ready.plan(sql.replace("%%", "%"))
    assert all(part.vector_sql is None for item in plan.intermediates for part in item.fragments), sql


def test_what_overflows_is_an_error(ready: planner_world.World) -> None:
    sql = _check(ready, "SELECT k * i2 FROM w WHERE id > 0").replace('t0."i2"', "CAST(2147483647 AS INTEGER)")
    part = ready.plan("SELECT k * i2 FROM w WHERE id > 0").intermediates[0].fragments[0]
    (scan,) = part.scans
    heap = single._copy(ready.connection, f"SELECT id, k, i2 FROM {scan.relation}", scan.columns)
    with pytest.raises(duck.Error):
        duck.query(sql, {scan.name: tables.table(heap, scan.columns)})


def test_collations(ready: planner_world.World) -> None:
    ready.settings = {"timezone": "UTC"}
    for sql, expected in (
        ("SELECT t, count(*) FROM w WHERE k * 2 = 4 AND t = 'zz' GROUP BY t", True),
        ("SELECT min(t) FROM w WHERE k * 2 = 4", False),
        ("SELECT id FROM w WHERE t < 'b' AND k * 2 = 4", False),
        ("SELECT t FROM w ORDER BY t LIMIT 3", False),
    ):
        part = ready.plan(sql, collation="en_US.UTF-8").intermediates[0].fragments[0]
        assert (part.vector_sql is not None) == expected, sql
