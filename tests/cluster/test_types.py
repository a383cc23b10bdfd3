"""Every type a column may have, its nulls and its extremes, through heap and stripes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orochi import pgtypes
from tests.support import layouts, oracle

_COLUMNS = {
    "bool": ("boolean", ["true", "false"]),
    "i2": ("smallint", ["-32768", "32767", "0"]),
    "i4": ("integer", ["-2147483648", "2147483647"]),
    "i8": ("bigint", ["-9223372036854775808", "9223372036854775807"]),
    "f4": ("real", ["'NaN'", "'Infinity'", "1.1", "-0.0", "1e-40"]),
    "f8": ("double precision", ["'NaN'", "'-Infinity'", "0.1", "-0.0", "1.7976931348623157e308"]),
    "num": ("numeric", ["'NaN'", "'Infinity'", "0.1000", "123456789012345678901234567890.5", "-1e-20"]),
    "num38": (
        "numeric(38,10)",
        ["'NaN'", "9999999999999999999999999999.9999999999", "-0.0000000001", "1.50"],
    ),
    "t": (
        "text",
        ["''", "'plain'", "'grüße 🛩'", "E'tab\\tnewline\\nquote'' back\\\\slash'", "repeat('long ', 3000)"],
    ),
    "vc": ("varchar(10)", ["'0123456789'", "''"]),
    "ch": ("char(5)", ["'ab'", "'abcde'"]),
    "nm": ("name", ["'somebody'"]),
    "by": ("bytea", [r"'\x00ff10'", "''"]),
    "d": ("date", ["'-infinity'", "'2024-02-29'", "'0044-03-15 BC'", "'5874897-12-31'"]),
    "tm": ("time", ["'00:00'", "'24:00'", "'12:34:56.789012'"]),
    "tmz": ("timetz", ["'12:34:56+05:30'"]),
    "ts": ("timestamp", ["'infinity'", "'2024-03-10 02:30'", "'4713-01-01 00:00 BC'"]),
    "tz": ("timestamptz(3)", ["'-infinity'", "'2024-03-10 02:30:00.1239 America/New_York'"]),
    "iv": ("interval", ["'1 year -2 days 03:04:05.678901'", "'-178000000 years'", "'0'"]),
    "uu": ("uuid", ["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"]),
    "js": ("json", ["""'{"b": 1,  "a": [1, null]}'"""]),
    "jb": ("jsonb", ["""'{"b": 1,  "a": [1, null]}'""", "'null'", "'1.50'"]),
    "ar": ("integer[]", ["'{}'", "'{1,NULL,3}'", "'{{1,2},{3,4}}'", "'[2:3]={7,8}'"]),
    "ta": ("text[]", ["""ARRAY['a', NULL, '', 'NULL', '"{}']"""]),
    "inet": ("inet", ["'10.1.2.3/8'", "'::1'"]),
    "mac": ("macaddr", ["'08:00:2b:01:02:03'"]),
    "bits": ("bit(4)", ["'1010'"]),
    "vbits": ("varbit", ["''", "'10101010101'"]),
    "pt": ("point", ["'(1.5,-2)'"]),
    "rng": ("int4range", ["'[1,5)'", "'empty'", "'(,7]'"]),
    "tsr": ("tstzrange", ["'[2024-01-01,)'"]),
    "mon": ("money", ["'12.34'"]),
    "tsv": ("tsvector", ["'a:1 fat:2 cat:3'"]),
    "oid_": ("oid", ["4294967295"]),
    "mood_": ("mood", ["'sad'", "'happy'"]),
    "price_": ("price", ["12.5"]),
    "xml_": ("xml", []),
}
_ORDERABLE = [name for name in _COLUMNS if name not in {"js", "pt", "xml_"}]


@pytest.fixture(scope="module", params=["distributed", "both", "both-compressed", "columnar"])
def filled(request: pytest.FixtureRequest, module_pair: oracle.Pair) -> Iterator[oracle.Pair]:
    layout, pair = request.param, module_pair
    pair.both(
        "DROP TABLE IF EXISTS kinds; DROP DOMAIN IF EXISTS price; DROP TYPE IF EXISTS mood",
        "CREATE TYPE mood AS ENUM ('sad', 'so so', 'happy')",
        "CREATE DOMAIN price AS numeric(10, 2) CHECK (value >= 0)",
        "CREATE TABLE kinds (k int NOT NULL, at timestamptz NOT NULL, "
        + ", ".join(f"{name} {kind}" for name, (kind, _) in _COLUMNS.items())
        + ")",
    )
    layouts.place(pair, "kinds", layout, key="k", time="at")
    for number in range(6):
        values = [(values[number] if number < len(values) else "NULL") for _, values in _COLUMNS.values()]
        pair.both(f"INSERT INTO kinds VALUES ({number}, '2024-03-1{number % 3}', {', '.join(values)})")
    layouts.compress(pair, "kinds", layout)
    yield pair
    pair.both("DROP TABLE kinds")


@pytest.mark.parametrize("column", _COLUMNS)
@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_values(filled: oracle.Pair, column: str, binary: bool) -> None:
    filled.same(f"SELECT k, {column} FROM kinds ORDER BY k", binary=binary)


@pytest.mark.parametrize("column", _ORDERABLE)
def test_order_and_group(filled: oracle.Pair, column: str) -> None:
    filled.same(f"SELECT {column}, k FROM kinds ORDER BY {column} DESC, k")
    filled.same(f"SELECT {column}, count(*) FROM kinds GROUP BY {column}")
    filled.same(f"SELECT count(DISTINCT {column}), count({column}) FROM kinds")


@pytest.mark.parametrize("column", ["i2", "i4", "i8", "f4", "f8", "num", "num38", "iv", "mon", "price_"])
def test_sums(filled: oracle.Pair, column: str) -> None:
    filled.same(f"SELECT sum({column}), min({column}), max({column}) FROM kinds")
    if column != "mon":
        filled.same(f"SELECT avg({column}) FROM kinds")


@pytest.mark.parametrize("column", ["t", "vc", "d", "tm", "ts", "tz", "inet", "ar", "mood_", "jb", "bool"])
def test_comparisons(filled: oracle.Pair, column: str) -> None:
    kind, values = _COLUMNS[column]
    for value in values:
        filled.same(f"SELECT k FROM kinds WHERE {column} = {value}::{kind} ORDER BY k")
        filled.same(f"SELECT k FROM kinds WHERE {column} < {value}::{kind} ORDER BY k")
    filled.same(f"SELECT k FROM kinds WHERE {column} IS NULL ORDER BY k")


def test_everything_at_once(filled: oracle.Pair) -> None:
    filled.same("SELECT * FROM kinds ORDER BY k")
    filled.same("SELECT * FROM kinds ORDER BY k", binary=True)
    ours, theirs = filled.copy_out("COPY (SELECT * FROM kinds ORDER BY k) TO STDOUT (FORMAT binary)")
    assert ours == theirs


def test_computed(filled: oracle.Pair) -> None:
    filled.same(
        "SELECT k, jb -> 'a' -> 0, ar[1], upper(t), tz + iv, t || vc, i4 % 7 FROM kinds WHERE k > 0 ORDER BY k"
    )
    filled.same("SELECT unnest(ar), k FROM kinds ORDER BY k, 1")
    filled.same("SELECT mood_::text, price_ * 2, rng @> 3, num38 / 3 FROM kinds ORDER BY k")


def test_names_of_types(module_pair: oracle.Pair) -> None:
    """Those that nobody is asked for are PostgreSQL's."""
    known = 0
    for oid in [16, 17, 20, 21, 23, 25, 700, 701, 1042, 1043, 1082, 1083, 1114, 1184, 1186, 1700, 2950, 3802]:
        for typmod in (-1, 5, 14, (38 << 16 | 10) + 4, (5 << 16 | (-3 & 0x7FF)) + 4):
            name = pgtypes.type_name(oid, typmod)
            if name is not None:
                known += 1
                asked = oracle.ask(module_pair.plain, f"SELECT pg_catalog.format_type({oid}, {typmod})")
                assert asked.values == [(name,)]
    assert known


def test_enum_and_domain_are_checked(filled: oracle.Pair) -> None:
    filled.same("INSERT INTO kinds (k, at, mood_) VALUES (9, now(), 'furious')")
    filled.same("INSERT INTO kinds (k, at, price_) VALUES (9, now(), -1)")
    filled.check_tables("kinds")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("smallint", ["-5", "0", "300", "7"]),
        ("integer", ["-5", "0", "70000", "7"]),
        ("bigint", ["-5", "0", "9999999999", "7"]),
        ("text", ["''", "'a'", "'grüße'", "'O''Hara'"]),
        ("varchar(20)", ["''", "'a'", "'grüße'", "'b'"]),
        ("uuid", ["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "'00000000-0000-0000-0000-000000000000'"]),
        ("date", ["'2024-01-01'", "'infinity'", "'1999-12-31'"]),
        ("timestamp", ["'2024-01-01 01:02:03'", "'1999-12-31'"]),
        ("timestamptz", ["'2024-01-01 01:02:03+05'", "'1999-12-31'"]),
    ],
)
def test_distribution_column_types(pair: oracle.Pair, kind: str, values: list[str]) -> None:
    pair.both(f"CREATE TABLE keyed (k {kind}, n int)")
    pair.orochi("SELECT create_distributed_table('keyed', 'k', 4)")
    for number, value in enumerate([*values, "NULL"]):
        pair.both(f"INSERT INTO keyed VALUES ({value}, {number})")
    pair.both("INSERT INTO keyed SELECT k, n + 10 FROM keyed")
    for value in values:
        pair.same(f"SELECT n FROM keyed WHERE k = {value} ORDER BY n")
        pair.same(f"SELECT n FROM keyed WHERE k IN ({value}, NULL) ORDER BY n")
    pair.same("SELECT n FROM keyed WHERE k IS NULL ORDER BY n")
    pair.same("SELECT k, count(*) FROM keyed GROUP BY k")
    [(shards,)] = pair.orochi("SELECT count(*) FROM orochi.shards WHERE table_name LIKE '%keyed'")
    assert shards == 4


@pytest.mark.parametrize(
    ("kind", "interval", "values"),
    [
        (
            "timestamp",
            "INTERVAL '1 day'",
            ["'2024-01-01'", "'2024-01-01 23:59:59.999999'", "'1969-12-31'", "'2024-01-02'"],
        ),
        ("date", "INTERVAL '7 days'", ["'2024-01-01'", "'1969-12-31'", "'2024-01-08'"]),
        ("bigint", "1000", ["0", "-1", "999", "1000", "123456789"]),
        ("integer", "10", ["0", "-1", "9", "10"]),
        ("smallint", "10", ["0", "-1", "9", "32767"]),
    ],
)
def test_time_column_types(pair: oracle.Pair, kind: str, interval: str, values: list[str]) -> None:
    pair.both(f"CREATE TABLE timed (at {kind} NOT NULL, n int)")
    pair.orochi(f"SELECT create_hypertable('timed', 'at', {interval})")
    for number, value in enumerate(values):
        pair.both(f"INSERT INTO timed VALUES ({value}, {number})")
    for (chunk,) in pair.orochi("SELECT show_chunks('timed')")[::2]:
        pair.orochi("SELECT compress_chunk(%s)", (chunk,))
    for value in values:
        for operator in ("=", "<", ">=", "<>"):
            pair.same(f"SELECT n FROM timed WHERE at {operator} {value} ORDER BY n")
    pair.same("SELECT * FROM timed ORDER BY at")
    pair.same("SELECT min(at), max(at), count(*) FROM timed")
