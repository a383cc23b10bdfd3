"""Tables that stay registered with DuckDB: each is read as itself, and let go of with its last owner."""

from __future__ import annotations

import pyarrow as pa
import pytest

from orochi.engine import duck

SQL = """SELECT sum(a) AS "orochi_scan_0" FROM orochi_scan_0 AS t0"""


def _sum(table: pa.Table, *lasting: str) -> int:
    (found,) = duck.query(SQL, {"orochi_scan_0": table}, lasting).column("orochi_scan_0").to_pylist()
    return int(found)


def _table(*values: int) -> pa.Table:
    return pa.table({"a": pa.array(values, pa.int64())})


def test_lasting_tables_are_read_as_themselves() -> None:
    one, other = _table(1, 2), _table(30)
    for _ in range(2):
        assert _sum(one, "orochi_scan_0") == 3
        assert _sum(other, "orochi_scan_0") == 30
        assert _sum(_table(500)) == 500


def test_a_table_in_the_place_of_one_that_is_gone_is_another() -> None:
    for value in range(50):  # most get the address of the one before
        assert _sum(_table(value), "orochi_scan_0") == value


def test_what_nobody_holds_is_let_go_of() -> None:
    table = _table(*range(100_000))
    before = pa.total_allocated_bytes()
    assert _sum(table, "orochi_scan_0") == sum(range(100_000))
    del table
    assert _sum(_table(1)) == 1
    assert pa.total_allocated_bytes() < before - 700_000


def test_an_error_leaves_the_connection_usable() -> None:
    table = pa.table({"a": pa.array(["x"])})
    with pytest.raises(duck.Error):
        duck.query("SELECT CAST(a AS INTEGER) AS c0 FROM t", {"t": table}, ["t"])
    assert duck.query("SELECT a AS c0 FROM t", {"t": table}, ["t"]).column("c0").to_pylist() == ["x"]
