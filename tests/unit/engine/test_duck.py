"""Rows that last: each is read as itself, in both of its forms, and let go of with its last owner."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from orochi.engine import duck, lasting

SQL = """SELECT sum(a) AS "orochi_scan_0" FROM orochi_scan_0 AS t0"""


def _sum(table: pa.Table | lasting.Rows) -> int:
    (found,) = duck.query(SQL, {"orochi_scan_0": table}).column("orochi_scan_0").to_pylist()
    return int(found)


def _table(*values: int) -> pa.Table:
    return pa.table({"a": pa.array(values, pa.int64())})


def _rows(*values: int) -> lasting.Rows:
    return lasting.Rows(_table(*values))


def test_rows_are_read_as_themselves() -> None:
    one, other = _rows(1, 2), _rows(30)
    for again in range(3):
        assert _sum(one) == 3
        assert _sum(other) == 30
        assert _sum(_table(500)) == 500
        assert one.is_native == other.is_native == (again > 0)


def test_rows_in_the_place_of_some_that_are_gone_are_others() -> None:
    for value in range(50):  # most get the address of those before
        assert _sum(_rows(value)) == value


def test_rows_that_a_statement_reads_twice_are_not_read_again() -> None:
    rows = _rows(1, 2)
    sql = "SELECT (SELECT sum(a) FROM one) + (SELECT max(a) FROM other) AS c0"
    assert duck.query(sql, {"one": rows, "other": rows}).column("c0").to_pylist() == [5]
    assert not rows.is_native


@pytest.mark.parametrize("asked", [1, 3])
def test_what_nobody_holds_is_let_go_of(asked: int) -> None:
    rows = _rows(*range(100_000))
    before = pa.total_allocated_bytes()
    for _ in range(asked):
        assert _sum(rows) == sum(range(100_000))
    del rows
    assert _sum(_table(1)) == 1
    assert pa.total_allocated_bytes() < before - 700_000
    assert duck.query("SELECT count(*) AS c0 FROM duckdb_tables()", {}).column("c0").to_pylist() == [0]


def test_an_error_leaves_the_connection_usable() -> None:
    rows = lasting.Rows(pa.table({"a": pa.array(["x"])}))
    for _ in range(3):
        with pytest.raises(duck.Error):
            duck.query("SELECT CAST(a AS INTEGER) AS c0 FROM t", {"t": rows})
        assert duck.query("SELECT a AS c0 FROM t", {"t": rows}).column("c0").to_pylist() == ["x"]


def test_rows_without_memory_for_another_form_stay() -> None:
    connection = duckdb.connect(":memory:", config={"memory_limit": "1MB", "temp_directory": ""})
    lasting.prepare(connection)
    rows = _rows(*range(300_000))
    for _ in range(3):
        (found,) = connection.execute(f"SELECT sum(a) FROM {rows.name(connection)}").fetchall()
        assert found == (sum(range(300_000)),)
    assert not rows.is_native
    del rows
    lasting.forget(connection)
    assert connection.execute("SELECT count(*) FROM duckdb_tables()").fetchall() == [(0,)]


def _every_type(rows: int) -> pa.Table:
    """Values that a storage of another kind might change, every so often null."""
    cycles: dict[str, tuple[pa.DataType, list[Any]]] = {
        "flag": (pa.bool_(), [True, False, None]),
        "small": (pa.int16(), [-(2**15), 2**15 - 1, None]),
        "plain": (pa.int32(), [-(2**31), 0, 2**31 - 1]),
        "big": (pa.int64(), [-(2**63), None, 2**63 - 1]),
        "real": (pa.float32(), [-0.0, float("nan"), float("inf"), None, 1.5]),
        "double": (pa.float64(), [-0.0, 0.0, float("nan"), float("-inf"), 5e-324, None]),
        "money": (pa.decimal64(15, 2), [decimal.Decimal("-9999999999999.99"), None, decimal.Decimal("0.01")]),
        "long": (pa.decimal128(38, 16), [decimal.Decimal("-1e21"), None, decimal.Decimal("1e-16")]),
        "day": (pa.date32(), [dt.date(1, 1, 1), None, dt.date(9999, 12, 31)]),
        "moment": (pa.timestamp("us", "UTC"), [dt.datetime(2016, 1, 1, tzinfo=dt.UTC), None]),
        "local": (pa.timestamp("us"), [-62_135_596_800_000_000, None]),
        "text": (pa.string(), ["", " ", "longer than twelve letters", "é\n\"'\\", None]),
    }
    columns = {
        name: pa.array([values[row % len(values)] for row in range(rows)], kind)
        for name, (kind, values) in cycles.items()
    }
    columns["coded"] = columns["text"].dictionary_encode()
    columns["codes_of_nothing"] = pa.nulls(rows, pa.string()).dictionary_encode()
    half = rows // 2
    table = pa.table(columns)
    return pa.concat_tables([table.slice(0, half), table.slice(half)])


@pytest.mark.parametrize("rows", [0, 7, 60_000])
def test_both_forms_hold_the_same(rows: int) -> None:
    table = _every_type(rows)
    kept = lasting.Rows(table)
    sql = "SELECT t0.* FROM orochi_scan_0 AS t0"
    first, second, third = (duck.query(sql, {"orochi_scan_0": kept}) for _ in range(3))
    assert kept.is_native
    for name in table.column_names:
        before, after = (_bits(found.column(name)) for found in (first, second))
        assert before == after, name
        assert after == _bits(third.column(name)), name


def _bits(column: pa.ChunkedArray) -> list[object]:
    """Values such that NaN equals itself, and zero does not equal minus zero."""
    return [repr(value) if isinstance(value, float) else value for value in column.to_pylist()]
