"""The vectorised engine gives PostgreSQL's answer for everything on the allow-list."""

from __future__ import annotations

import pathlib
import re

import psycopg
import pyarrow as pa
import pytest

from orochi.engine import copybinary, duck, native
from orochi.planner import fragment as fragments
from orochi.planner import plan as plans
from orochi.planner import vector
from tests.support import planner_world

_TABLE = """
CREATE TABLE v (id int NOT NULL, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, b bool, t text, c varchar(5),
    d date, ts timestamp, tz timestamptz)
"""
_ROWS = """
INSERT INTO plain.v
SELECT g, CASE WHEN g % 5 <> 0 THEN (g % 7 - 3)::int2 END, CASE WHEN g % 3 <> 0 THEN g * 100000 - 2000000 END,
    CASE WHEN g % 4 <> 0 THEN g::int8 * 1000000000000 - 9000000000000 END,
    CASE g % 9 WHEN 0 THEN NULL WHEN 1 THEN 'NaN'::float4 WHEN 2 THEN 'Infinity'::float4 WHEN 3 THEN -0.0::float4
        WHEN 4 THEN 1.1::float4 ELSE g / 8.0 END,
    CASE g % 8 WHEN 0 THEN NULL WHEN 1 THEN 'NaN'::float8 WHEN 2 THEN '-Infinity'::float8 WHEN 3 THEN -0.0::float8
        WHEN 4 THEN 1.1 ELSE g / 8.0 END,
    CASE WHEN g % 4 <> 3 THEN g % 2 = 0 END,
    (ARRAY[NULL, '', 'a', 'A', 'é', 'z''z', 'aa', E'\\\\'])[g % 8 + 1], (ARRAY['x', NULL, 'xy'])[g % 3 + 1],
    CASE WHEN g % 6 <> 0 THEN date '1999-12-25' + g END,
    CASE WHEN g % 7 <> 0 THEN timestamp '1969-12-31 23:59:59.999999' + g * interval '1 day 1 microsecond' END,
    CASE WHEN g % 5 <> 1 THEN timestamptz '2020-03-28 22:00+00' + g * interval '37 minutes' END
FROM generate_series(1, 60) g
"""
_EXTREMES = """
INSERT INTO plain.v VALUES
    (61, -32768, -2147483648, -9223372036854775808, '-3e38', '-1e308', NULL, NULL, NULL, NULL, NULL, NULL),
    (62, 32767, 2147483647, 9223372036854775807, '3e38', '1e308', NULL, NULL, NULL, NULL, NULL, NULL)
"""


@pytest.fixture(scope="module")
def ready(_world: planner_world.World) -> planner_world.World:
    _world.local(_TABLE)
    _world.connection.execute(_ROWS)
    _world.connection.execute(_EXTREMES)
    _world.table("v", "distributed", "id", 2)
    return _world


def _check(world: planner_world.World, sql: str) -> None:
    world.settings = {"timezone": "Europe/Berlin"}
    world.connection.execute("SET timezone TO 'Europe/Berlin'")
    plan = world.plan(sql)
    assert isinstance(plan, plans.Distributed)
    columns = _types(world, plan.intermediates[0])
    for part in plan.intermediates[0].fragments:
        assert part.vector_sql is not None, sql
        (scan,) = part.scans
        listed = ", ".join(f'"{column.name}"' for column in scan.columns)
        heap = _copy(world.connection, f"SELECT {listed} FROM {scan.relation}", scan.columns)
        batches = [native.to_native(batch, scan.columns) for batch in heap]
        table = pa.Table.from_batches(batches, schema=native.native_schema(scan.columns))
        vectorised = native.from_native(duck.query(part.vector_sql, {scan.name: table}), columns)
        exact = _copy(world.connection, part.sql.replace(scan.name, scan.relation), columns)
        assert _rows(vectorised) == _rows(exact), (part.vector_sql, part.sql)


def _types(world: planner_world.World, item: plans.Intermediate) -> tuple[fragments.OutputColumn, ...]:
    if item.describe_sql is None:
        return item.columns
    described = world.connection.execute(f"SELECT * FROM ({item.describe_sql}) q LIMIT 0").description or []
    return tuple(
        fragments.OutputColumn(column.name, found.type_code, -1, found.type_display)
        for column, found in zip(item.columns, described, strict=True)
    )


def _copy(
    connection: psycopg.Connection[object], sql: str, columns: tuple[fragments.OutputColumn, ...]
) -> list[pa.RecordBatch]:
    decoder = copybinary.Decoder(columns)
    batches = []
    with connection.cursor().copy(f"COPY ({sql}) TO STDOUT (FORMAT binary)".encode()) as copy:
        for data in copy:
            batches += decoder.feed(bytes(data))
    return batches + decoder.finish()


def _rows(batches: list[pa.RecordBatch]) -> list[str]:
    return sorted(repr(tuple(row.values())) for batch in batches for row in batch.to_pylist())


_COLUMNS = ("i2", "i4", "i8", "f4", "f8", "b", "t", "c", "d", "ts", "tz")
_CONSTANTS = {
    "i2": ["0", "-3", "70000", "1.5", "'2'"],
    "i4": ["100000", "-2147483648", "3000000000", "0.5"],
    "i8": ["0", "9223372036854775807", "-1000000000000.5"],
    "f4": ["1.1", "'1.1'", "0", "2.5::float4", "1e30"],
    "f8": ["1.1", "0", "-0.0", "7", "1e308"],
    "t": ["'a'", "''", "'z''z'", "'é'", "'\\'"],
    "c": ["'x'", "'xy'::text"],
    "d": ["'2000-01-01'", "date '1999-12-31'", "timestamp '2000-01-03 05:00'"],
    "ts": ["'1970-01-01'", "'2000-01-01 12:00:00.000001'", "date '1970-01-20'"],
    "tz": [
        "'2020-03-29 02:30+01'",
        "'2020-03-29 12:00'",
        "date '2020-03-29'",
        "timestamp '2020-03-29 20:00'",
    ],
}


def test_rows(ready: planner_world.World) -> None:
    _check(ready, f"SELECT id, {', '.join(_COLUMNS)} FROM v WHERE id > 0")
    _check(ready, "SELECT id FROM v WHERE id > 1000")


@pytest.mark.parametrize("column", _CONSTANTS)
def test_comparison(ready: planner_world.World, column: str) -> None:
    for constant in _CONSTANTS[column]:
        operators = ("<", "<=", ">", ">=") if column in ("i2", "i4", "i8") and "." in constant else (
            "=", "<>", "<", "<=", ">", ">="
        )  # fmt: skip
        for operator in operators if not (column == "d" and "timestamp" in constant) else ("<", ">="):
            _check(ready, f"SELECT id FROM v WHERE {column} {operator} {constant}")
            if operator not in ("=", "<>"):
                _check(ready, f"SELECT id FROM v WHERE {constant} {operator} {column}")


def test_in_and_between(ready: planner_world.World) -> None:
    for column, constants in _CONSTANTS.items():
        fit = [item for item in constants if "." not in item or column not in ("i2", "i4", "i8")]
        fit = [item for item in fit if not (column == "d" and "timestamp" in item)]
        _check(ready, f"SELECT id, {column} FROM v WHERE {column} IN ({', '.join(fit)})")
        _check(ready, f"SELECT id FROM v WHERE {column} BETWEEN {fit[0]} AND {fit[-1]} AND id < 60")


def test_null_tests_and_logic(ready: planner_world.World) -> None:
    _check(ready, "SELECT id FROM v WHERE t IS NULL OR NOT (i4 > 0 AND d IS NOT NULL)")
    _check(ready, "SELECT id FROM v WHERE b AND NOT (f8 > 1)")
    _check(ready, "SELECT id FROM v WHERE NOT b OR (t = 'a' OR i2 < 0) AND c IS NOT NULL")


def test_aggregates(ready: planner_world.World) -> None:
    _check(ready, "SELECT count(*), count(f8), count(t) FROM v")
    _check(ready, "SELECT sum(i2), sum(i4), sum(i8), avg(i2), avg(i4), avg(i8) FROM v")
    for column in ("i2", "i4", "i8", "t", "c", "d", "ts", "tz"):
        _check(ready, f"SELECT min({column}), max({column}) FROM v")
    _check(ready, "SELECT bool_and(b), bool_or(b), every(b) FROM v")
    _check(ready, "SELECT count(*), sum(i4), min(t), bool_or(b) FROM v WHERE id > 1000")


def test_filter_clause(ready: planner_world.World) -> None:
    _check(ready, "SELECT count(*) FILTER (WHERE b), sum(i4) FILTER (WHERE t = 'a' OR i2 > 1) FROM v")


def test_group_by(ready: planner_world.World) -> None:
    for column in ("i2", "i4", "i8", "b", "t", "c", "d", "ts", "tz"):
        _check(ready, f"SELECT {column}, count(*), sum(i4), max(tz) FROM v GROUP BY {column}")
    _check(ready, "SELECT t, b, i2, count(*) FROM v WHERE i4 IS NOT NULL GROUP BY b, i2, t")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT t || 'x' FROM v",
        "SELECT sum(f8) FROM v",
        "SELECT max(f8) FROM v",
        "SELECT f8, count(*) FROM v GROUP BY f8",
    ],
)
def test_not_on_the_list(ready: planner_world.World, sql: str) -> None:
    ready.settings = {"timezone": "UTC"}
    plan = ready.plan(sql)
    assert all(part.vector_sql is None for item in plan.intermediates for part in item.fragments)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT sum(i4 + 1), count(DISTINCT id) FROM v WHERE i4 < 1000000",
        "SELECT id FROM v WHERE t LIKE 'a%' OR i4 > i2",
        "SELECT id FROM v WHERE i4 IN (1, NULL) OR i8 > i4",
        "SELECT id, tz FROM v ORDER BY tz DESC, id LIMIT 3",
        "SELECT id FROM v WHERE f8 = f8 OR f4 >= f4",
    ],
)
def test_expressions(ready: planner_world.World, sql: str) -> None:
    _check(ready, sql)


def test_other_collations_are_not_vectorised(ready: planner_world.World) -> None:
    ready.settings = {"timezone": "UTC"}
    sql = "SELECT min(t) FROM v WHERE t > 'a'"
    assert ready.plan(sql).intermediates[0].fragments[0].vector_sql is not None
    assert ready.plan(sql, collation="en_US.UTF-8").intermediates[0].fragments[0].vector_sql is None
    ready.settings["orochi.enable_vectorized_execution"] = "off"
    assert ready.plan(sql).intermediates[0].fragments[0].vector_sql is None


def test_every_entry_has_its_test() -> None:
    root = pathlib.Path(__file__).parents[3]
    for entry, test in vector.ALLOWED.items():
        path, name = test.split("::")
        assert re.search(rf"^def {name}\(", (root / path).read_text(), re.MULTILINE), entry
