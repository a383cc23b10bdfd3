"""Encoded rows are the bytes PostgreSQL itself sends."""

from __future__ import annotations

import asyncio
import types

import psycopg
import pyarrow as pa
import pytest
from psycopg import pq

from orochi.engine import copybinary
from orochi.executor import results, zones
from orochi.pgwire import client
from orochi.planner import fragment as fragments
from tests.support import services

_TZ = {"TimeZone": "UTC", "DateStyle": "ISO, MDY"}

QUERIES = {
    "integers": "SELECT (i %% 999)::int2, i::int4 * 65000, i::int8 * 461168601842738, i::oid, i %% 3 = 0, NULLIF(i, 7) "
    "FROM generate_series(0, 9999) i UNION ALL VALUES ('-32768'::int2, -2147483648, '-9223372036854775808'::int8, "
    "4294967295::oid, NULL, NULL::int), (32767::int2, 2147483647, 9223372036854775807, 0::oid, true, 0)",
    "float8": "SELECT x, -x FROM (SELECT exp((random() - 0.5) * 1400) AS x FROM generate_series(1, 3000) UNION ALL "
    "SELECT round((random() * 1000)::numeric, 2)::float8 FROM generate_series(1, 3000) UNION ALL "
    "SELECT (random() * 1e17)::int8::float8 FROM generate_series(1, 2000) UNION ALL "
    "SELECT (random() * 1e19)::numeric(30,0)::float8 FROM generate_series(1, 3000) UNION ALL "
    "SELECT floor(random() * 1e6) * 1e15 FROM generate_series(1, 1000) UNION ALL "
    "SELECT 10::float8 ^ e FROM generate_series(-300, 300) e UNION ALL SELECT 2::float8 ^ e FROM generate_series(-1000, 1000) e "
    "UNION ALL SELECT exp((random() - 0.2) * 43) FROM generate_series(1, 9000) UNION ALL "
    "SELECT (random() * 1e5)::int / 360.0::float8 FROM generate_series(1, 5000) "
    "UNION ALL VALUES ('NaN'::float8), ('Infinity'), ('-0'), (5e-324), (1.7976931348623157e308), (1e15), "
    "(999999999999999.9), (123456789012345680), (9007199254740993), (0.0001), (0.00001), (NULL)) s",
    "decimals": "SELECT x, -x, NULLIF(x, 0) FROM (SELECT round((random() * 1e6)::numeric, (i %% 8)::int)::float8 AS x "
    "FROM generate_series(1, 9000) i UNION ALL SELECT i / 1e4 FROM generate_series(0, 99) i UNION ALL "
    "VALUES ('NaN'::float8), ('-0'), (1e-5), (0.0001), (1e15), (999999999.99), (1e9 + 0.5), (0.1 + 0.2::float8)) s",
    "float4": "SELECT x, -x FROM (SELECT exp((random() - 0.5) * 160)::float4 AS x FROM generate_series(1, 3000) UNION ALL "
    "SELECT (random() * 1e6)::int::float4 FROM generate_series(1, 2000) UNION ALL "
    "SELECT (random() * 1e10)::int8::float4 FROM generate_series(1, 3000) UNION ALL "
    "SELECT 2::float4 ^ e FROM generate_series(-120, 120) e UNION ALL "
    "VALUES ('NaN'::float4), ('-Infinity'), (1e6), (999999), (1e5), (1e-45), (3.4028235e38), (33554432), (NULL)) s",
    "timestamps": "SELECT t, t AT TIME ZONE 'UTC', (t AT TIME ZONE 'UTC')::date, (t AT TIME ZONE 'UTC')::time FROM ("
    "SELECT '1850-01-01 UTC'::timestamptz + i * interval '11 days 7 hours 13 minutes 1.230001 s' AS t FROM generate_series(0, 9000) i "
    "UNION ALL SELECT '2020-01-01 UTC'::timestamptz + i * interval '30 minutes' FROM generate_series(0, 30000) i "
    "UNION ALL VALUES ('infinity'::timestamptz), ('-infinity'), ('0044-03-15 BC'), ('4713-01-01 BC'), ('0001-01-01'), ('12345-06-07 08:09:10.5'), "
    "('294276-12-31 23:59:59.999999 UTC'), ('9999-12-31 23:59:59 UTC'), (NULL), ('2000-01-01 00:00:00.1'), "
    "('0001-12-31 BC'), ('0005-02-28 BC'), ('0005-02-28 12:00 BC')) s(t)",
    "dates": "SELECT d, '24:00'::time FROM (SELECT '4713-11-24 BC'::date + i * 13 AS d FROM generate_series(0, 150000) i UNION ALL "
    "VALUES ('infinity'::date), ('-infinity'), ('5874897-12-31'), (NULL)) s",
    "numeric": "SELECT n, -n, n::numeric(40, 3), n * 1e40, n / 1e30 FROM (SELECT (random() - 0.5)::numeric * 10 ^ (i %% 30) AS n "
    "FROM generate_series(1, 3000) i UNION ALL VALUES (0), (0.0000), (10000), (100000000), (0.0001), (1e-20), (99999999), (NULL)) s",
    "numeric_special": "VALUES ('NaN'::numeric), ('Infinity'), ('-Infinity'), (NULL), (0), (0.00000), (1e1000), (1e-1000)",
    "texts": "SELECT i::text, i::varchar(9), i::char(9), 'näme'::name, NULLIF(repeat('ü', i %% 50), ''), NULL::text "
    "FROM generate_series(1, 3000) i",
    "others": "SELECT gen_random_uuid(), decode(md5(i::text), 'hex'), ''::bytea, ('{\"a\": [' || i || ', null, \"ü\"]}')::jsonb, "
    "('{ \"a\":' || i || '}')::json, NULL::uuid, NULL::bytea, NULL::jsonb FROM generate_series(1, 3000) i",
}
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "America/St_Johns",
    "Africa/Casablanca",
]


def _both(
    connection: psycopg.Connection[tuple[object, ...]], sql: str, fmt: int, settings: dict[str, str]
) -> tuple[bytes, bytes]:
    """DataRow messages by us, and rebuilt from what libpq received."""
    sql = sql.replace("%%", "%")
    connection.execute("DROP TABLE IF EXISTS pg_temp.kept")
    connection.execute(
        f"CREATE TEMP TABLE kept AS SELECT * FROM ({sql}) s({', '.join(f'c{i}' for i in range(_width(connection, sql)))})"
    )
    answer = connection.pgconn.exec_params(b"SELECT * FROM kept", [], result_format=fmt)
    assert answer.status == pq.ExecStatus.TUPLES_OK, answer.error_message
    columns = tuple(
        fragments.OutputColumn(f"c{i}", answer.ftype(i), answer.fmod(i), "") for i in range(answer.nfields)
    )
    expected = b"".join(
        _data_row([answer.get_value(row, column) for column in range(answer.nfields)])
        for row in range(answer.ntuples)
    )
    with connection.cursor().copy("COPY kept TO STDOUT (FORMAT binary)") as copy:
        batch = copybinary.decode(b"".join(bytes(part) for part in copy), columns)
    assert results.can_encode(columns, (fmt,), settings)
    data, count = results.encode_rows(batch.slice(0, 1), columns, (fmt,), settings)
    rest, more = results.encode_rows(batch.slice(1), columns, (fmt,), settings)
    assert count + more == batch.num_rows
    return data + rest, expected


def _width(connection: psycopg.Connection[tuple[object, ...]], sql: str) -> int:
    return len(connection.execute(f"SELECT * FROM ({sql}) s LIMIT 0").description or ())


def _data_row(values: list[bytes | None]) -> bytes:
    body = len(values).to_bytes(2, "big")
    for value in values:
        body += b"\xff\xff\xff\xff" if value is None else len(value).to_bytes(4, "big") + value
    return b"D" + (len(body) + 4).to_bytes(4, "big") + body


@pytest.fixture(scope="module")
def connection(postgres_server: services.Server):  # type: ignore[no-untyped-def]
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        yield connection


def _fields(data: bytes) -> list[list[bytes | None]]:
    rows, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at + 1 : at + 5], "big")
        end, cursor, row = at + 1 + size, at + 7, []
        while cursor < end:
            length = int.from_bytes(data[cursor : cursor + 4], "big", signed=True)
            cursor += 4
            row.append(None if length < 0 else data[cursor : cursor + length])
            cursor += max(length, 0)
        rows.append(row)
        at = end
    return rows


def _assert_same(ours: bytes, theirs: bytes) -> None:
    if ours != theirs:
        pairs = [(a, b) for a, b in zip(_fields(ours), _fields(theirs), strict=True) if a != b]
        raise AssertionError(f"{len(pairs)} rows differ, the first: {pairs[:5]}")


@pytest.mark.parametrize("fmt", [0, 1])
@pytest.mark.parametrize("name", sorted(QUERIES))
def test_rows_are_postgresql_s(
    connection: psycopg.Connection[tuple[object, ...]], name: str, fmt: int
) -> None:
    connection.execute("SET TimeZone = 'UTC'")
    _assert_same(*_both(connection, QUERIES[name], fmt, _TZ))


@pytest.mark.parametrize("zone", ZONES)
def test_time_zones(connection: psycopg.Connection[tuple[object, ...]], zone: str) -> None:
    connection.execute(f"SET TimeZone = '{zone}'")
    if not zones.is_asked(zone):
        moments = zones.samples(zone)
        row = connection.execute(zones.SAMPLE_SQL.replace("$1", "%s"), (moments,)).fetchone()
        assert row is not None
        zones.learn(zone, moments, str(row[0]))
    if not zones.is_known(zone):  # the two copies of the time zone database differ: PostgreSQL prints
        column = fragments.OutputColumn("c", 1184, -1, "")
        assert not results.can_encode([column], (), _TZ | {"TimeZone": zone})
        return
    _assert_same(*_both(connection, QUERIES["timestamps"], 0, _TZ | {"TimeZone": zone}))


@pytest.mark.parametrize(
    ("oid", "settings"),
    [
        (1184, {"DateStyle": "ISO, MDY"}),  # the zone is not known
        (1184, {"DateStyle": "ISO, MDY", "TimeZone": "<+03>-03"}),
        (1184, {"DateStyle": "ISO, MDY", "TimeZone": "Asia/Tokyo"}),  # not compared yet
        (1082, {"DateStyle": "German, DMY"}),
        (701, {"extra_float_digits": "0"}),
        (17, {"bytea_output": "escape"}),
        (25, {"client_encoding": "LATIN1"}),
        (1186, _TZ),
        (1007, _TZ),
    ],
)
def test_what_is_refused(oid: int, settings: dict[str, str]) -> None:
    assert not results.can_encode([fragments.OutputColumn("c", oid, -1, "")], (), settings)


def test_zones_that_differ_are_not_trusted() -> None:
    moments = zones.samples("Asia/Tokyo")
    zones.learn("Asia/Tokyo", moments, ",".join(["32400"] * len(moments)))  # there was summer time once
    assert zones.is_asked("Asia/Tokyo")
    assert not zones.is_known("Asia/Tokyo")


def test_binary_of_any_type_is_accepted() -> None:
    column = fragments.OutputColumn("c", 1186, -1, "interval")
    assert results.can_encode([column], (1,), {})
    batch = pa.RecordBatch.from_arrays([pa.array([b"abc", None])], names=["c"])
    assert results.encode_rows(batch, [column], (1,), {}) == (_data_row([b"abc"]) + _data_row([None]), 2)


def test_mixed_formats_and_no_rows() -> None:
    columns = [fragments.OutputColumn("a", 23, -1, ""), fragments.OutputColumn("b", 23, -1, "")]
    batch = pa.RecordBatch.from_arrays([pa.array([258], pa.int32())] * 2, names=["a", "b"])
    assert results.encode_rows(batch, columns, (0, 1), {})[0] == _data_row([b"258", b"\0\0\1\2"])
    assert results.encode_rows(batch.slice(1), columns, (), {}) == (b"", 0)


def test_ready_asks_the_server_once(postgres_server: services.Server) -> None:
    column = fragments.OutputColumn("c", 1184, -1, "timestamp with time zone")

    async def main() -> None:
        connection = await client.PgConnection.connect(
            "127.0.0.1", postgres_server.port, "orochi", None, "postgres"
        )
        try:
            await connection.query("SET TimeZone = 'America/Denver'")
            session = types.SimpleNamespace(coordinator=connection, settings={})
            settings = await results.ready(session, [column], ())  # type: ignore[arg-type]
            assert settings is not None
            assert settings["TimeZone"] == "America/Denver"
            assert zones.is_asked("America/Denver")
            await connection.query("SET TimeZone = '<+03>-03'")
            assert await results.ready(session, [column], ()) is None  # type: ignore[arg-type]
            assert await results.ready(session, [column], (1,)) is not None  # type: ignore[arg-type]
        finally:
            connection.close()

    asyncio.run(main())
