"""Constants as carrier values and as SQL: exact, or not at all."""

from __future__ import annotations

import pytest

from orochi import pgtypes
from orochi.planner import literals, parse

_UTC = literals.Zone("UTC", True)


def _constant(sql: str) -> literals.Constant | None:
    return literals.constant(parse.parse_one(f"SELECT {sql}").tree.targetList[0].val)


@pytest.mark.parametrize(
    ("sql", "oid", "text"),
    [
        ("1", pgtypes.INT4, "1"),
        ("-2147483648", pgtypes.INT4, "-2147483648"),
        ("2147483648", pgtypes.INT8, "2147483648"),
        ("9223372036854775808", pgtypes.NUMERIC, "9223372036854775808"),
        ("1.50", pgtypes.NUMERIC, "1.50"),
        ("'x'", pgtypes.UNKNOWN, "x"),
        ("NULL", pgtypes.UNKNOWN, None),
        ("true", pgtypes.BOOL, "t"),
        ("'7'::bigint", pgtypes.INT8, "7"),
        ("date '2024-01-01'", pgtypes.DATE, "2024-01-01"),
        ("CAST(5 AS int8)", pgtypes.INT8, "5"),
        ("NULL::text", pgtypes.TEXT, None),
    ],
)
def test_constant(sql: str, oid: int, text: str | None) -> None:
    assert _constant(sql) == literals.Constant(oid, text)


@pytest.mark.parametrize(
    "sql",
    ["1 + 1", "now()", "'abc'::varchar(2)", "'x'::mood", "'1.5'::numeric::int", "1.5::int", "'{1}'::int[]"],
)
def test_not_a_plain_constant(sql: str) -> None:
    assert _constant(sql) is None


@pytest.mark.parametrize(
    ("column", "name", "sql", "expected"),
    [
        (pgtypes.INT4, "=", "5", ("=", 5)),
        (pgtypes.INT2, "<", "70000", ("<", 70000)),
        (pgtypes.INT4, "=", "'5'", ("=", 5)),
        (pgtypes.INT4, "=", "'x'", None),
        (pgtypes.INT4, ">=", "2.5", (">", 2)),
        (pgtypes.INT4, "<=", "-2.5", ("<=", -3)),
        (pgtypes.INT4, "=", "2.5", None),
        (pgtypes.INT8, "=", "1e3", ("=", 1000)),
        (pgtypes.INT8, "=", "5::float8", None),
        (pgtypes.FLOAT8, "=", "0.1", ("=", 0.1)),
        (pgtypes.FLOAT8, ">", "1e400", None),
        (pgtypes.FLOAT4, "=", "'0.1'", ("=", 0.10000000149011612)),
        (pgtypes.FLOAT4, "=", "0.1", ("=", 0.1)),
        (pgtypes.FLOAT4, "=", "16777217", None),
        (pgtypes.DATE, "<", "'2000-01-02'", ("<", 1)),
        (pgtypes.DATE, "<", "timestamp '2000-01-02 01:00'", ("<=", 1)),
        (pgtypes.DATE, "<", "timestamptz '2000-01-02'", None),
        (pgtypes.TIMESTAMP, "=", "date '2000-01-02'", ("=", 86_400_000_000)),
        (pgtypes.TIMESTAMP, "=", "timestamptz '2000-01-02'", None),
        (pgtypes.TIMESTAMPTZ, "=", "'2000-01-01 01:00+01'", ("=", 0)),
        (pgtypes.TIMESTAMPTZ, "=", "date '2000-01-01'", ("=", 0)),
        (pgtypes.TIMESTAMPTZ, "=", "'now'", None),
        (pgtypes.TEXT, "=", "'x'", ("=", "x")),
        (pgtypes.TEXT, "=", "5", None),
        (pgtypes.NUMERIC, "=", "5", None),
        (pgtypes.BPCHAR, "=", "'x'", None),
        (pgtypes.INT4, "=", "NULL", None),
    ],
)
def test_compare(column: int, name: str, sql: str, expected: literals.Bound | None) -> None:
    value = _constant(sql)
    assert value is not None
    assert literals.compare(column, name, value, _UTC) == expected


def test_local_times_that_are_no_one_moment_are_not_read() -> None:
    berlin = literals.Zone("Europe/Berlin", True)
    noon, gap, twice = (
        literals.Constant(pgtypes.UNKNOWN, text)
        for text in ("2024-03-31 12:00", "2024-03-31 02:30", "2024-10-27 02:30")
    )
    assert literals.compare(pgtypes.TIMESTAMPTZ, "=", noon, berlin) is not None
    assert literals.compare(pgtypes.TIMESTAMPTZ, "=", gap, berlin) is None
    assert literals.compare(pgtypes.TIMESTAMPTZ, "=", twice, berlin) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", []),
        ("{1, 2 ,NULL,null}", ["1", "2", None, None]),
        ('{"a,b","c\\"d\\\\",e f}', ["a,b", 'c"d\\', "e f"]),
        ('{"NULL",""}', ["NULL", ""]),
        ("{1,}", None),
        ("{{1}}", None),
        ("[0:1]={1,2}", None),
        ("1,2", None),
    ],
)
def test_array_items(text: str, expected: list[str | None] | None) -> None:
    assert literals.array_items(text) == expected


def test_literals_are_safe_sql() -> None:
    assert literals.Literal(25, "text", "it's").sql == "('it''s'::text)"
    assert literals.Literal(25, "text", "a\\'b").sql == "(E'a\\\\''b'::text)"
    assert literals.Literal(1042, "character", "abc").sql == "('abc'::bpchar)"
    assert literals.Literal(23, "integer", None).sql == "(NULL::integer)"
