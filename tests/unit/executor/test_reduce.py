"""The last step of a SELECT: whatever way rows are given to the coordinator, it reads the same rows."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from orochi import errors, pgtypes
from orochi.engine import copybinary
from orochi.executor import reduce
from orochi.pgwire import client
from orochi.planner import fragment as fragments
from tests.support import services

_SQL = (
    "SELECT i AS a, i::text AS b, i::numeric(10,2) / 3 AS c, now()::timestamptz(0) AS d, NULLIF(i % 2, 0) AS e, "
    "repeat('x', {width}) AS f FROM generate_series(1, {rows}) i"
)
_SPECIAL = "SELECT ARRAY[i, NULL] AS a, 'sad'::reduce_mood AS b, ROW(i, 'x')::reduce_pair AS c FROM generate_series(1, {rows}) i"


class _Sink:
    formats: tuple[int, ...] = ()

    def __init__(self) -> None:
        self.data = b""
        self.count = 0

    async def rows(self, data: bytes | memoryview, count: int) -> None:
        self.data += bytes(data)
        self.count += count


def _load(
    server: services.Server, sql: str
) -> tuple[tuple[fragments.OutputColumn, ...], list[pa.RecordBatch]]:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        cursor = connection.execute(sql + " LIMIT 0")
        described = cursor.description or ()
        columns = []
        for field in described:
            modifier = cursor.pgresult.fmod(len(columns)) if cursor.pgresult else -1
            row = connection.execute("SELECT format_type(%s, %s)", (field.type_code, modifier)).fetchone()
            assert row is not None
            columns.append(fragments.OutputColumn(field.name, field.type_code, modifier, row[0]))
        with connection.cursor().copy(f"COPY ({sql}) TO STDOUT (FORMAT binary)") as copy:
            decoder = copybinary.Decoder(columns)
            batches = [batch for part in copy for batch in decoder.feed(part)]
            return tuple(columns), batches + decoder.finish()


@pytest.fixture(scope="module")
def server(postgres_server: services.Server) -> services.Server:
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute("DROP TYPE IF EXISTS reduce_mood, reduce_pair")
        connection.execute("CREATE TYPE reduce_mood AS ENUM ('sad', 'glad')")
        connection.execute("CREATE TYPE reduce_pair AS (a int, b text)")
    return postgres_server


def _session(server: services.Server, use: Callable[[Any], Awaitable[Any]], *before: str) -> Any:
    async def main() -> Any:
        connection = await client.PgConnection.connect("127.0.0.1", server.port, "orochi", None, "postgres")
        for sql in before:
            await connection.query(sql)
        try:
            return await use(types.SimpleNamespace(coordinator=connection, settings={}))
        finally:
            connection.close()

    return asyncio.run(main())


_FINAL = "SELECT count(*), sum(a), min(b), sum(c), max(d) IS NOT NULL, count(e), sum(length(f)), ' pg_temp.orochi_i0 ' FROM pg_temp.orochi_i0 AS \"x\""


@pytest.mark.parametrize(
    "before",
    [
        (),
        ("BEGIN",),
        ("BEGIN READ ONLY",),
        ("SET default_transaction_read_only = on",),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE",),
    ],
)
@pytest.mark.parametrize(("rows", "width"), [(0, 0), (1, 3), (3000, 5), (40_000, 40)])
def test_every_way_gives_the_same(
    server: services.Server, before: tuple[str, ...], rows: int, width: int
) -> None:
    loaded = {"orochi_i0": _load(server, _SQL.format(rows=rows, width=width))}

    async def use(session: Any) -> tuple[str, bytes]:
        sink = _Sink()
        tag = await reduce.finish(session, loaded, _FINAL, sink)  # type: ignore[arg-type]
        assert session.coordinator.status == ("T" if before and before[0].startswith("BEGIN") else "I")
        left = await session.coordinator.query(
            "SELECT count(*) FROM pg_class WHERE relname LIKE 'orochi_i0%'"
        )
        assert left[-1].rows[0][0] == b"0"
        return tag, sink.data

    tag, data = _session(server, use, *before)
    assert tag == "SELECT 1"
    with psycopg.connect(server.dsn) as connection:
        plain = _FINAL.replace('pg_temp.orochi_i0 AS "x"', f"({_SQL.format(rows=rows, width=width)}) x")
        expected = connection.execute(plain, binary=False).pgresult
        assert expected is not None
        for column in range(expected.nfields):
            value = expected.get_value(0, column)
            assert value is None or len(value).to_bytes(4, "big") + value in data


@pytest.mark.parametrize("before", [(), ("BEGIN",), ("BEGIN READ ONLY",)])
@pytest.mark.parametrize("rows", [0, 500])
def test_types_that_arrays_cannot_carry(server: services.Server, before: tuple[str, ...], rows: int) -> None:
    loaded = {"orochi_i3": _load(server, _SPECIAL.format(rows=rows))}

    async def use(session: Any) -> bytes:
        sink = _Sink()
        await reduce.finish(
            session, loaded, "SELECT a::text || b::text || c::text FROM pg_temp.orochi_i3", sink
        )  # type: ignore[arg-type]
        assert sink.count == rows
        return sink.data

    data = _session(server, use, *before)
    assert rows == 0 or b"{7,NULL}sad(7,x)" in data


def test_two_intermediates_and_an_error(server: services.Server) -> None:
    loaded = {
        "orochi_i0": _load(server, "SELECT 1::int4 AS a"),
        "orochi_i10": _load(server, "SELECT g::int8 AS a FROM generate_series(1, 30000) g"),
    }

    async def use(session: Any) -> None:
        sink = _Sink()
        with pytest.raises(errors.RemoteError) as caught:
            await reduce.finish(
                session,
                loaded,  # type: ignore[arg-type]
                "SELECT x.a / (y.a - 2) FROM pg_temp.orochi_i0 AS x, pg_temp.orochi_i10 AS y",
                sink,  # type: ignore[arg-type]
            )
        assert caught.value.sqlstate == "22012"
        assert session.coordinator.status == "I"
        await reduce.finish(
            session,
            loaded,
            "SELECT count(*) FROM pg_temp.orochi_i10 AS y JOIN pg_temp.orochi_i0 AS x ON true",
            sink,
        )  # type: ignore[arg-type]
        assert b"30000" in sink.data

    _session(server, use)


def test_loaded_tables_stay_until_dropped(server: services.Server) -> None:
    loaded = {"orochi_i0": _load(server, "SELECT 5::int4 AS a")}

    async def use(session: Any) -> None:
        names = await reduce.load_temp(session.coordinator, loaded)
        sql = reduce.rename(
            'SELECT "pg_temp.orochi_i0".a FROM pg_temp.orochi_i0 AS "pg_temp.orochi_i0"', names
        )
        assert (await session.coordinator.query(sql))[-1].rows == [(b"5",)]
        await reduce.drop_temp(session.coordinator, names.values())
        with pytest.raises(errors.RemoteError):
            await session.coordinator.query(sql)

    _session(server, use)


def test_the_limit_of_parameters() -> None:
    column = fragments.OutputColumn("a", pgtypes.INT4, -1, "integer")
    assert reduce.is_spreadable(column)
    for oid, name in [(1007, "integer[]"), (2249, "record"), (20_000, "mood"), (22, "int2vector")]:
        assert not reduce.is_spreadable(fragments.OutputColumn("a", oid, -1, name))
