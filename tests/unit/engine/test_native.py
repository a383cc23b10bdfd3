"""Carrier to native and back: equal values or a refusal, with PostgreSQL's own binary forms as the oracle."""

from __future__ import annotations

import decimal

import psycopg
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orochi import pgtypes
from orochi.engine import copybinary, heapfilter, native, placeholders, tables
from orochi.planner import fragment as fragments
from tests.support import services


def _column(name: str, oid: int, type_name: str, typmod: int = -1) -> fragments.OutputColumn:
    return fragments.OutputColumn(name, oid, typmod, type_name)


_COLUMNS = (
    _column("i", pgtypes.INT4, "integer"),
    _column("t", pgtypes.TEXT, "text"),
    _column("ts", pgtypes.TIMESTAMP, "timestamp without time zone"),
    _column("tz", pgtypes.TIMESTAMPTZ, "timestamp with time zone"),
    _column("d", pgtypes.DATE, "date"),
    _column("n", pgtypes.NUMERIC, "numeric(12,3)", ((12 << 16) | 3) + 4),
    _column("b", pgtypes.BOOL, "boolean"),
)
_SQL = (
    "SELECT i, i::text, '2021-03-04 05:06:07.000008'::timestamp + i * interval '1 day 1 us', "
    "'2021-03-04 05:06:07.5+00'::timestamptz - i * interval '1 hour', '1999-12-31'::date + i, "
    "(i * 1.037)::numeric(12,3), NULLIF(i % 3, 0) = 1 FROM generate_series(-2000, 2000) i"
)


def test_round_trip_and_python_agree(postgres_server: services.Server) -> None:
    with psycopg.connect(postgres_server.dsn) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        with connection.cursor().copy(f"COPY ({_SQL}) TO STDOUT (FORMAT binary)") as copy:
            batch = copybinary.decode(b"".join(bytes(part) for part in copy), _COLUMNS)
        expected = connection.execute(_SQL).fetchall()
    turned = native.to_native(batch, _COLUMNS)
    assert [tuple(row.values()) for row in turned.to_pylist()] == expected
    (back,) = native.from_native(pa.Table.from_batches([turned]), _COLUMNS)
    assert back.drop_columns(["n"]).equals(batch.drop_columns(["n"]))


@given(st.decimals(allow_nan=False, allow_infinity=False, places=None) | st.integers())
def test_numeric_binary(postgres_server: services.Server, value: decimal.Decimal | int) -> None:
    from psycopg.types.numeric import DecimalBinaryDumper

    exact = decimal.Decimal(value)
    assert native.numeric_binary(value) == bytes(DecimalBinaryDumper(decimal.Decimal).dump(exact))


@pytest.mark.parametrize(
    "text", ["0", "0.001", "-0.1", "12345678.9", "99999999999999.999", "10000", "-10000.01", "0.0000"]
)
def test_decimals_scale(text: str) -> None:
    column = _column("n", pgtypes.NUMERIC, "numeric(18,3)", ((18 << 16) | 3) + 4)
    batch = pa.RecordBatch.from_arrays(
        [pa.array([native.numeric_binary(decimal.Decimal(text)), None])], names=["n"]
    )
    turned = native.to_native(batch, (column,))
    assert turned.column(0).to_pylist() == [decimal.Decimal(text), None]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (_column("d", pgtypes.DATE, "date"), 2**31 - 1),
        (_column("t", pgtypes.TIMESTAMPTZ, ""), -(2**63)),
        (_column("t", pgtypes.TIMESTAMP, ""), 2**63 - 1),
        (_column("n", pgtypes.NUMERIC, "", ((18 << 16) | 3) + 4), b"\0\0\0\0\xc0\0\0\0"),
        (_column("n", pgtypes.NUMERIC, "numeric"), b"\0\0\0\0\0\0\0\0"),
        (_column("u", pgtypes.UUID, "uuid"), b"0" * 16),
    ],
)
def test_refused_values(column: fragments.OutputColumn, value: object) -> None:
    batch = pa.RecordBatch.from_arrays([pa.array([value], pgtypes.carrier(column.type_oid))], names=["x"])
    with pytest.raises(native.Unsupported):
        native.to_native(batch, (column,))


@pytest.mark.parametrize(
    ("array", "oid"),
    [
        (pa.array([2**40], pa.int64()), pgtypes.INT4),
        (pa.array([1.5]), pgtypes.INT8),
        (pa.array([1], pa.int64()), pgtypes.TEXT),
        (pa.array(["x"]), pgtypes.DATE),
    ],
)
def test_refused_results(array: pa.Array, oid: int) -> None:
    with pytest.raises(native.Unsupported):
        native.from_native(pa.table({"x": array}), (_column("x", oid, ""),))


def test_placeholders_leave_text_alone() -> None:
    sql = "SELECT 'orochi_scan_0', \"orochi_scan_0\", $x$orochi_scan_0$x$, E'\\'orochi_scan_0' FROM orochi_scan_0 AS a, orochi_scan_01"
    filled = placeholders.fill(sql, {"orochi_scan_0": "s.t"})
    assert filled == sql.replace("FROM orochi_scan_0 ", "FROM s.t ")


def test_heap_filters_mean_what_predicates_mean(postgres_server: services.Server) -> None:
    columns = tuple(_COLUMNS[:5])
    for predicate, expected in [
        (fragments.Predicate("i", "in", (1, 5)), "i IN (1, 5)"),
        (fragments.Predicate("ts", ">=", (668_149_567_000_009,)), "ts >= '2021-03-04 05:06:07.000009'"),
        (fragments.Predicate("tz", "<", (668_149_567_500_000,)), "tz < '2021-03-04 05:06:07.5+00'"),
        (fragments.Predicate("d", "=", (-1,)), "d = '1999-12-31'"),
        (fragments.Predicate("i", "notnull"), "i IS NOT NULL"),
        (fragments.Predicate("t", "=", ("x",)), "true"),
        (fragments.Predicate("d", "<", (2**31 - 1,)), "true"),
    ]:
        scan = fragments.Scan("s", "t", "r", columns, (), (predicate,))
        relation = f"({_SQL}) r(i, t, ts, tz, d, n, b)"
        with psycopg.connect(postgres_server.dsn) as connection:
            ours = connection.execute(f"SELECT count(*) FROM {relation}{heapfilter.where(scan)}").fetchone()
            theirs = connection.execute(f"SELECT count(*) FROM {relation} WHERE {expected}").fetchone()
        assert ours == theirs, predicate


@pytest.mark.parametrize(
    "text", ["0", "0.000", "-1.50", "12345678901234567890.1234567890123456", "1e30", "-0.0001", "9999.9999"]
)
def test_numbers_have_their_decimals(text: str) -> None:
    number = decimal.Decimal(text)
    found = native.numeric_value(native.numeric_binary(number))
    assert (found, -int(found.as_tuple().exponent)) == (number, max(-int(number.as_tuple().exponent), 0))


def test_long_numerics_are_decimals_too() -> None:
    column = _column("n", pgtypes.NUMERIC, "numeric")
    numbers = [None, *map(decimal.Decimal, ("4500.1234567890123456", "-3.25", "17"))]
    binary = [None if number is None else native.numeric_binary(number) for number in numbers]
    batch = pa.RecordBatch.from_arrays([pa.array(binary, pa.binary())], ["n"])
    assert tables.table([batch], [column]).column(0).to_pylist() == numbers
    for refused in (decimal.Decimal("1e37"), decimal.Decimal("1e-39")):
        long = pa.RecordBatch.from_arrays([pa.array([native.numeric_binary(refused)], pa.binary())], ["n"])
        with pytest.raises(native.Unsupported):
            tables.table([batch, long], [column])
