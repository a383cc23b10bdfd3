"""COPY in every format and direction, on every layout, byte for byte as PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.support import layouts, oracle

_FORMATS = {
    "text": "",
    "text-options": " WITH (DELIMITER '|', NULL 'nil')",
    "csv": " WITH (FORMAT csv)",
    "csv-header": " WITH (FORMAT csv, HEADER, QUOTE '~', NULL '<>')",
    "binary": " WITH (FORMAT binary)",
}


@pytest.fixture(scope="module", params=layouts.LAYOUTS)
def filled(request: pytest.FixtureRequest, module_pair: oracle.Pair) -> Iterator[oracle.Pair]:
    module_pair.both("DROP TABLE IF EXISTS events")
    layouts.events(module_pair, request.param)
    yield module_pair
    module_pair.both("DROP TABLE events")


@pytest.mark.parametrize("name", _FORMATS)
def test_out_and_in_again(filled: oracle.Pair, name: str) -> None:
    options = _FORMATS[name]
    ours, theirs = filled.copy_out(f"COPY (SELECT * FROM events ORDER BY id) TO STDOUT{options}")
    assert ours == theirs
    table_out, plain_out = filled.copy_out(f"COPY events TO STDOUT{options}")
    assert len(table_out) == len(plain_out)
    if name != "binary":
        assert sorted(table_out.splitlines()) == sorted(plain_out.splitlines())
    filled.both("BEGIN", "TRUNCATE events")
    try:
        # What the gateway gave, PostgreSQL takes, and the other way round.
        for connection, data in ((filled.plain, table_out), (filled.gateway, plain_out)):
            with connection.cursor() as cursor:
                with cursor.copy(f"COPY events FROM STDIN{options}") as copy:
                    copy.write(data)
                assert cursor.rowcount == 200
        filled.check_tables("events")
    finally:
        filled.both("ROLLBACK")
    filled.check_tables("events")


def test_committed(filled: oracle.Pair) -> None:
    lines = "".join(f"{n}\t2024-03-1{n % 5} 1{n % 10}:00+00\t{10_000 + n}\n" for n in range(500))
    filled.copy_in("COPY events (tenant, at, id) FROM STDIN", lines.encode())
    filled.check_tables("events")
    filled.same("DELETE FROM events WHERE id >= 10000")
    filled.check_tables("events")


def test_escapes_and_unicode(filled: oracle.Pair) -> None:
    data = "1\t2024-03-10\t20001\ttab\\tnewline\\nback\\\\slash\t1\t1\n2\t2024-03-10\t20002\tgrüße 🛩 \\N x\t\\N\t-Infinity\n"
    filled.copy_in("COPY events FROM STDIN", data.encode())
    filled.same("SELECT * FROM events WHERE id > 20000 ORDER BY id")
    filled.both("DELETE FROM events WHERE id > 20000")


@pytest.mark.parametrize(
    ("sql", "data"),
    [
        ("COPY events (tenant, at, id) FROM STDIN", b"1\t2024-03-10\tnot a number\n"),
        ("COPY events (tenant, at, id) FROM STDIN", b"1\t2024-03-10\n"),
        ("COPY events (tenant, at, id) FROM STDIN", b"1\t2024-03-10\t5\t6\n"),
        ("COPY events (tenant, at, id) FROM STDIN", b"3\t2024-03-10\t1\n3\t2024-03-10\t1\n"),
        ("COPY events (tenant, at, id) FROM STDIN", b"\\N\t2024-03-10\t5\n"),
        ("COPY events (tenant, at, id, amount) FROM STDIN", b"1\t2024-03-10\t5\t10000000\n"),
        ("COPY events (tenant, nonsense) FROM STDIN", b""),
        ("COPY nowhere FROM STDIN", b""),
        ("COPY events FROM STDIN WITH (FORMAT nonsense)", b""),
    ],
    ids=["type", "few", "many", "duplicate", "null", "check", "column", "table", "format"],
)
def test_errors_change_nothing(filled: oracle.Pair, sql: str, data: bytes) -> None:
    states = []
    for connection in (filled.gateway, filled.plain):
        with pytest.raises(psycopg.Error) as caught, connection.cursor() as cursor, cursor.copy(sql) as copy:
            copy.write(data)
        states.append((caught.value.sqlstate, caught.value.diag.message_primary))
    assert states[0] == states[1]
    filled.check_tables("events")


def test_freeze(filled: oracle.Pair) -> None:
    """Only where the same transaction has made or emptied the table."""
    row = b"1\t2024-03-10\t40001\n"

    def put(connection: psycopg.Connection[object]) -> str | None:
        try:
            with connection.cursor() as cursor, cursor.copy(sql) as copy:
                copy.write(row)
        except psycopg.Error as error:
            return f"{error.sqlstate} {error.diag.message_primary}"
        return None

    sql = "COPY events (tenant, at, id) FROM STDIN (FREEZE)"
    for before in ((), ("BEGIN",), ("BEGIN", "TRUNCATE events")):
        filled.both(*before)
        assert put(filled.gateway) == put(filled.plain), before
        if before:
            filled.both("ROLLBACK")
    sql = "COPY fresh FROM STDIN (FREEZE)"
    filled.both("BEGIN", "CREATE TABLE fresh (a int, at date, id int)")
    filled.orochi("SELECT create_distributed_table('fresh', 'a', 2)")
    assert put(filled.gateway) == put(filled.plain)
    filled.check_tables("fresh")
    filled.both("ROLLBACK")
    filled.check_tables("events")


def test_client_gives_up(filled: oracle.Pair) -> None:
    def start_and_fail(connection: psycopg.Connection[object]) -> None:
        with connection.cursor() as cursor, cursor.copy("COPY events (tenant, at, id) FROM STDIN") as copy:
            copy.write(b"1\t2024-03-10\t30001\n")
            raise ZeroDivisionError

    for connection in (filled.gateway, filled.plain):
        with pytest.raises(ZeroDivisionError):
            start_and_fail(connection)
    filled.check_tables("events")


def test_300_000_rows_land_once(pair: oracle.Pair) -> None:
    pair.both("CREATE TABLE readings (device int NOT NULL, at timestamptz NOT NULL, value float8)")
    layouts.place(pair, "readings", "both", key="device", time="at", interval="30 days")
    pieces = b"".join(b"%d\t2024-01-01 00:00:%02d+00\t%d.5\n" % (n % 1000, n % 60, n) for n in range(300_000))
    pair.copy_in("COPY readings FROM STDIN", pieces)
    pair.same("SELECT count(*), count(DISTINCT (device, value)), sum(value::numeric) FROM readings")
    pair.same("SELECT device, count(*) FROM readings GROUP BY device ORDER BY device")
