from __future__ import annotations

import itertools
import random
import struct
import uuid
from collections.abc import Callable, Iterator, Sequence

import psycopg
import pyarrow as pa
import pytest

from orochi import pgtypes
from orochi.sharding import hashing, values
from tests.support import services

RANDOM = random.Random(20_130_101)
INTEGERS = [
    *(0, 1, -1, 2**15 - 1, -(2**15), 2**31 - 1, -(2**31), 2**31, 2**63 - 1, -(2**63)),
    *(RANDOM.randint(-(2**63), 2**63 - 1) for _ in range(500)),
    *(RANDOM.randint(-(2**31), 2**31 - 1) for _ in range(300)),
    *(RANDOM.randint(-1000, 1000) for _ in range(300)),
]
TEXTS = [
    *("", "a", "JFK", "é", "日本語" * 7, "\t'\\\"", "x" * 11, "x" * 12, "x" * 13, "x" * 24),
    *("".join(RANDOM.choice("abcdeé日 ") for _ in range(RANDOM.randint(0, 60))) for _ in range(1500)),
]
UUIDS = [uuid.UUID(int=RANDOM.getrandbits(128)) for _ in range(200)]


@pytest.fixture(scope="module")
def connection() -> Iterator[psycopg.Connection]:
    with services.postgres() as server, psycopg.connect(server.dsn, autocommit=True) as connection:
        yield connection


def fitting(bits: int) -> list[int]:
    return [value for value in INTEGERS if -(2**bits) <= value < 2**bits]


@pytest.mark.parametrize(
    ("function", "type_name", "oid", "samples"),
    [
        ("hashint2", "int2", pgtypes.INT2, fitting(15)),
        ("hashint4", "int4", pgtypes.INT4, fitting(31)),
        ("hashint8", "int8", pgtypes.INT8, INTEGERS),
        ("hashtext", "text", pgtypes.TEXT, TEXTS),
        ("hashtext", "text", pgtypes.VARCHAR, TEXTS),
        ("uuid_hash", "uuid", pgtypes.UUID, UUIDS),
    ],
)
def test_hashes_are_the_servers(
    connection: psycopg.Connection, function: str, type_name: str, oid: int, samples: Sequence[object]
) -> None:
    sql = f"SELECT {function}(x) FROM unnest(%s::{type_name}[]) WITH ORDINALITY u(x, o) ORDER BY o"
    expected = [row[0] for row in connection.execute(sql, [list(samples)])]
    assert [hashing.hash_value(oid, sample) for sample in samples] == expected
    carried = [sample.bytes if isinstance(sample, uuid.UUID) else sample for sample in samples]
    column = pa.array([*carried, None], pgtypes.carrier(oid))
    assert hashing.hash_column(oid, column).tolist() == [*expected, hashing.NULL_HASH]
    assert hashing.hash_column(oid, column.slice(3, 40)).tolist() == expected[3:43]


@pytest.mark.parametrize(
    ("type_name", "oid"), [("timestamp", pgtypes.TIMESTAMP), ("timestamptz", pgtypes.TIMESTAMPTZ)]
)
def test_time_hashes_are_the_servers(connection: psycopg.Connection, type_name: str, oid: int) -> None:
    raw = [RANDOM.randint(-(2**52), 2**52) for _ in range(300)]
    sql = (
        "SELECT timestamp_hash(timestamp '2000-01-01' + x * interval '1 microsecond') "
        "FROM unnest(%s::int8[]) WITH ORDINALITY u(x, o) ORDER BY o"
    )
    expected = [row[0] for row in connection.execute(sql, [raw])]
    assert [hashing.hash_value(oid, value) for value in raw] == expected


def test_ranges_cover_the_space_evenly() -> None:
    for count in (1, 2, 3, 7, 32, 64, 1000):
        ranges = hashing.shard_ranges(count)
        assert ranges[0][0] == -(2**31)
        assert ranges[-1][1] == 2**31 - 1
        assert all(a[1] + 1 == b[0] for a, b in itertools.pairwise(ranges))
        widths = {high - low for low, high in ranges[:-1]}
        assert len(widths) <= 1


TIMES = [
    *("2020-01-01", "2013-07-04 10:00:00", "2013-7-4T10:00", "2021-03-14 02:30:00", "2021-11-07 01:30:00"),
    *(
        "1999-12-31 23:59:59.123456",
        "2013-01-01 05:00:00+00",
        "2013-01-01 05:00:00-05:30",
        "infinity",
        "-infinity",
    ),
    *(
        "2013-01-01 05:00:00Z",
        "2013-01-01 05:00:00+0530",
        "2013-01-01 05:00:00 +02",
        "2040-06-01",
        "0001-01-01",
    ),
    *(
        " 2020-02-29 ",
        "now",
        "2020-02-30",
        "2013-01-01 24:00:00",
        "2013-01-01 00:00:60",
        "1 Jan 2020",
        "20200101",
    ),
    *("2013-01-01 05:00:00.1234567", "2013-01-01 05:00:00 BC", "epoch", "2013-01-01 05:00:00 EST"),
]


@pytest.mark.parametrize(
    "zone", ["UTC", "America/New_York", "Asia/Kolkata", "Europe/Berlin", "Australia/Lord_Howe"]
)
def test_texts_are_read_as_the_server_reads_them(connection: psycopg.Connection, zone: str) -> None:
    connection.execute(f"SET timezone = '{zone}'")
    told = 0
    forms: list[tuple[int, str, Callable[[bytes], object]]] = [
        (pgtypes.DATE, "date", lambda data: struct.unpack(">i", data)[0]),
        (pgtypes.TIMESTAMP, "timestamp", lambda data: struct.unpack(">q", data)[0]),
        (pgtypes.TIMESTAMPTZ, "timestamptz", lambda data: struct.unpack(">q", data)[0]),
    ]
    for oid, name, unpack in forms:
        for text in TIMES:
            value = values.from_text(oid, text, zone)
            if value is None:
                continue
            told += 1
            row = connection.execute(f"SELECT {name}_send(%s::text::{name})", [text]).fetchone()
            assert row is not None
            assert value == unpack(row[0]), (name, text)
    assert told > 20
    connection.execute("RESET timezone")


@pytest.mark.parametrize(
    "text", ["1", " -17 ", "+5", "9223372036854775807", "9223372036854775808", "1e3", "0x1F", "1_000", ""]
)
def test_integers_are_read_as_the_server_reads_them(connection: psycopg.Connection, text: str) -> None:
    value = values.from_text(pgtypes.INT8, text)
    if value is not None:
        row = connection.execute("SELECT %s::text::int8", [text]).fetchone()
        assert row == (value,)
