"""`PgConnection` against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import pytest

from orochi import errors
from orochi.pgwire import client
from tests.support import services

T = TypeVar("T")


def connect(server: services.Server, **options: object) -> Awaitable[client.PgConnection]:
    arguments: dict[str, object] = {"user": "orochi", "dbname": "postgres", **options}
    return client.PgConnection.connect("127.0.0.1", server.port, **arguments)  # type: ignore[arg-type]


def with_connection(server: services.Server, body: Callable[[client.PgConnection], Awaitable[T]]) -> T:
    async def main() -> T:
        connection = await connect(server)
        try:
            return await asyncio.wait_for(body(connection), 30)
        finally:
            connection.close()

    return asyncio.run(main())


def test_query_returns_one_result_a_statement(postgres_server: services.Server) -> None:
    async def body(connection: client.PgConnection) -> None:
        results = await connection.query(
            "SELECT 1 AS a, NULL AS b; ; SELECT 'x'; CREATE TEMP TABLE t (i int)"
        )
        assert [result.tag for result in results] == ["SELECT 1", "SELECT 1", "CREATE TABLE"]
        assert results[0].rows == [(b"1", None)]
        assert [field.name for field in results[0].fields] == ["a", "b"]
        assert results[2].fields == ()
        assert connection.pid
        assert len(connection.secret) == 4
        assert connection.parameters["server_encoding"] == "UTF8"

    with_connection(postgres_server, body)


def test_error_comes_after_ready_and_the_connection_goes_on(postgres_server: services.Server) -> None:
    async def body(connection: client.PgConnection) -> None:
        with pytest.raises(errors.RemoteError) as caught:
            await connection.query("SELECT 1/0")
        assert caught.value.sqlstate == "22012"
        with pytest.raises(errors.RemoteError) as caught:
            await connection.fetch("SELECT nope")
        assert caught.value.sqlstate == "42703"
        assert caught.value.fields["P"] == "8"
        await connection.query("BEGIN")
        assert connection.status == "T"
        with pytest.raises(errors.RemoteError):
            await connection.fetch("SELECT 1/$1::int", [b"0"])
        assert connection.status == "E"
        await connection.query("ROLLBACK")
        assert connection.status == "I"

    with_connection(postgres_server, body)


def test_fetch_and_describe(postgres_server: services.Server) -> None:
    async def body(connection: client.PgConnection) -> None:
        result = await connection.fetch(
            "SELECT $1::int8 + 1, $2", [b"\0\0\0\0\0\0\0\x29", None], [1], [20, 25], [1]
        )
        assert result.rows == [(b"\0\0\0\0\0\0\0\x2a", None)]
        assert [field.type_oid for field in result.fields] == [20, 25]
        oids, fields = await connection.describe("SELECT $1::int4 AS n")
        assert oids == (23,)
        assert fields is not None
        assert fields[0].name == "n"
        assert await connection.describe("CREATE TABLE x (i int)") == ((), None)
        connection.scratch = b"scratch"
        for _ in range(3):
            assert (await connection.fetch("SELECT 7")).rows == [(b"7",)]
        assert (await connection.fetch("SET work_mem = '5MB'")).tag == "SET"

    with_connection(postgres_server, body)


def test_stream_hands_over_every_row(postgres_server: services.Server) -> None:
    async def body(connection: client.PgConnection) -> None:
        counted = size = 0

        async def on_rows(data: memoryview, count: int) -> None:
            nonlocal counted, size
            counted += count
            size += len(data)
            await asyncio.sleep(0)

        sql = "SELECT repeat('x', 100) FROM generate_series(1, $1)"
        assert await connection.stream(sql, [b"100000"], [0], [23], [], on_rows) == "SELECT 100000"
        assert counted == 100_000
        assert size == 100_000 * (7 + 4 + 100)

    with_connection(postgres_server, body)


def test_stream_consumer_that_fails_leaves_the_connection_usable(postgres_server: services.Server) -> None:
    async def body(connection: client.PgConnection) -> None:
        async def on_rows(data: memoryview, count: int) -> None:
            raise ValueError("enough")

        with pytest.raises(ValueError, match="enough"):
            await connection.stream(
                "SELECT repeat('x', 1000) FROM generate_series(1, 20000)", [], [], [], [], on_rows
            )
        assert connection.busy
        assert (await connection.query("SELECT 1"))[0].rows == [(b"1",)]
        assert not connection.busy

    with_connection(postgres_server, body)


def test_prepared_statements_are_kept_and_evicted(postgres_server: services.Server) -> None:
    async def body(connection: client.PgConnection) -> None:
        connection.prepared_limit = 3
        seen: list[bytes] = []

        async def on_rows(data: memoryview, count: int) -> None:
            seen.append(bytes(data[-1:]))

        async def run(number: int) -> None:
            await connection.execute_prepared(f"SELECT $1::int + {number}", [b"0"], [0], [23], [], on_rows)

        for number in (1, 2, 3, 1, 4, 1, 2):
            await run(number)
        assert seen == [b"1", b"2", b"3", b"1", b"4", b"1", b"2"]
        held = await connection.query("SELECT statement FROM pg_prepared_statements")
        assert sorted(row[0] for row in held[0].rows) == [b"SELECT $1::int + %d" % n for n in (1, 2, 4)]
        await connection.forget_prepared()
        await run(4)
        with pytest.raises(errors.RemoteError):
            await connection.execute_prepared("SELECT nope", [], [], [], [], on_rows)
        with pytest.raises(errors.RemoteError) as caught:
            await connection.execute_prepared("SELECT nope", [], [], [], [], on_rows)
        assert caught.value.sqlstate == "42703"
        await connection.query("DISCARD ALL")
        await run(4)

    with_connection(postgres_server, body)


def test_copy_both_ways(postgres_server: services.Server) -> None:
    async def body(connection: client.PgConnection) -> None:
        await connection.query("CREATE TEMP TABLE t (i int, s text)")
        rows = [b"%d\tvalue %d\n" % (i, i) for i in range(50_000)]
        assert await connection.copy_in("COPY t FROM STDIN", [b"".join(rows)]) == "COPY 50000"

        async def slowly() -> AsyncIterator[bytes]:
            for row in rows[:10]:
                await asyncio.sleep(0)
                yield row

        assert await connection.copy_in("COPY t FROM STDIN", slowly()) == "COPY 10"
        data = b"".join(
            [piece async for piece in connection.copy_out("COPY (SELECT * FROM t ORDER BY i) TO STDOUT")]
        )
        assert data.count(b"\n") == 50_010
        with pytest.raises(errors.RemoteError) as caught:
            await connection.copy_in("COPY t FROM STDIN", [b"not a number\tx\n"])
        assert caught.value.sqlstate == "22P02"
        with pytest.raises(errors.RemoteError) as caught:
            await connection.copy_in("COPY nope FROM STDIN", [b"1\n"])
        assert caught.value.sqlstate == "42P01"

        def broken() -> object:
            yield b"1\tx\n"
            raise ValueError("source failed")

        with pytest.raises(ValueError, match="source failed"):
            await connection.copy_in("COPY t FROM STDIN", broken())  # type: ignore[arg-type]
        count = await connection.query("SELECT count(*) FROM t")
        assert count[0].rows == [(b"50010",)]

    with_connection(postgres_server, body)


def test_cancel_and_lost_connection(postgres_server: services.Server) -> None:
    async def body(connection: client.PgConnection) -> None:
        sleeping = asyncio.create_task(connection.query("SELECT pg_sleep(20)"))
        # a cancel that comes before the statement has begun is in vain
        while not (await asyncio.wait([sleeping], timeout=0.1))[0]:
            await connection.cancel()
        with pytest.raises(errors.RemoteError) as caught:
            await sleeping
        assert caught.value.sqlstate == "57014"
        with pytest.raises(errors.NodeUnavailable):
            await connection.query("SELECT pg_terminate_backend(pg_backend_pid())")
        assert connection.closed
        with pytest.raises(errors.NodeUnavailable):
            await connection.query("SELECT 1")

    with_connection(postgres_server, body)


def test_notification_wakes_the_waiter(postgres_server: services.Server) -> None:
    async def body(connection: client.PgConnection) -> None:
        await connection.query("LISTEN c")
        assert not await connection.wait_notification(0.05)
        await connection.query("NOTIFY c")
        assert await connection.wait_notification(60)

    with_connection(postgres_server, body)


async def _write_hba(server: services.Server, admin: client.PgConnection, lines: list[str]) -> None:
    path = (await admin.query("SHOW hba_file"))[0].rows[0][0]
    assert path is not None
    selects = " UNION ALL ".join(f"SELECT '{line}'" for line in lines)
    await admin.query(f"COPY ({selects}) TO '{path.decode()}'")
    asked = (await admin.query("SELECT clock_timestamp()"))[0].rows[0][0]
    assert asked is not None
    await admin.query("SELECT pg_reload_conf()")
    newer = f"SELECT pg_conf_load_time() >= '{asked.decode()}'"
    async with asyncio.timeout(60):
        while True:  # a new session knows what the postmaster has read
            looking = await connect(server)
            read = (await looking.query(newer))[0].rows
            looking.close()
            if read == [(b"t",)]:
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("method", ["scram-sha-256", "md5", "password"])
def test_password_methods(postgres_server: services.Server, method: str) -> None:
    trust = "host all all 127.0.0.1/32 trust"

    async def main() -> None:
        admin = await connect(postgres_server)
        await admin.query(f"SET password_encryption = '{'md5' if method == 'md5' else 'scram-sha-256'}'")
        await admin.query("DROP ROLE IF EXISTS secured; CREATE ROLE secured LOGIN PASSWORD 'pässwörd'")
        try:
            await _write_hba(postgres_server, admin, [f"host all secured 127.0.0.1/32 {method}", trust])
            secured = await connect(postgres_server, user="secured", password="pässwörd")
            assert (await secured.query("SELECT current_user"))[0].rows == [(b"secured",)]
            secured.close()
            with pytest.raises(errors.RemoteError) as caught:
                await connect(postgres_server, user="secured", password="wrong")
            assert caught.value.sqlstate == "28P01"
            with pytest.raises(errors.OrochiError):
                await connect(postgres_server, user="secured")
        finally:
            await _write_hba(postgres_server, admin, [trust])
            admin.close()

    asyncio.run(main())


def test_unreachable_server_is_node_unavailable() -> None:
    async def main() -> None:
        with pytest.raises(errors.NodeUnavailable):
            await client.PgConnection.connect("127.0.0.1", services.free_port(), "x", timeout=2)

    asyncio.run(main())
