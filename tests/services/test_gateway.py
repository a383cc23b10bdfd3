"""The gateway's protocol against PostgreSQL's own, with and without statements of Orochi's."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import pq

from tests.support import gateway, races, services

HERE, NODE = "/* orochi_here */", "/* orochi_node */"


@pytest.fixture(scope="module")
def running() -> Iterator[gateway.Running]:
    with services.postgres() as server, gateway.running(server) as started:
        yield started


@pytest.fixture
def connection(running: gateway.Running) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with running.direct(autocommit=True) as cleaner:
        cleaner.execute("TRUNCATE local, remote, spread")
    with running.direct("node", autocommit=True) as cleaner:
        cleaner.execute("TRUNCATE remote, " + ", ".join(_spread_tables(cleaner)))
    with running.connect(autocommit=True) as opened:
        yield opened


def _spread_tables(connection: psycopg.Connection[tuple[object, ...]]) -> list[str]:
    rows = connection.execute("SELECT schemaname || '.spread' FROM pg_tables WHERE tablename = 'spread'")
    return [str(row[0]) for row in rows]


def _node_rows(running: gateway.Running, table: str = "remote") -> list[tuple[object, ...]]:
    with running.direct("node") as connection:
        return connection.execute(f"SELECT id, value FROM {table} ORDER BY id").fetchall()


Client = psycopg.Connection[tuple[object, ...]]


def test_relayed_statements(connection: Client) -> None:
    assert connection.execute("SELECT 1, 'x'").fetchone() == (1, "x")
    assert connection.execute("SELECT %s::int + 1", [41]).fetchone() == (42,)
    with pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute("SELECT 1/0")
    assert connection.info.transaction_status == pq.TransactionStatus.IDLE
    big = connection.execute("SELECT repeat('x', 1000) FROM generate_series(1, 20000)").fetchall()
    assert len(big) == 20_000
    assert connection.execute("SELECT length(%s)", ["y" * 3_000_000]).fetchone() == (3_000_000,)


@pytest.mark.parametrize("mark", ["", HERE])
def test_simple_and_extended_alike(connection: Client, mark: str) -> None:
    for prepare in (False, True):
        rows = connection.execute(f"SELECT n, n::text {mark} FROM generate_series(1, 3) n", prepare=prepare)
        assert [column.name for column in rows.description or ()] == ["n", "n"]
        assert rows.fetchall() == [(1, "1"), (2, "2"), (3, "3")]
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute(f"SELECT 1/%s {mark}", [0], prepare=prepare)
        row = connection.execute(f"SELECT %s::int8, %s::text {mark}", [5, None], binary=True, prepare=prepare)
        assert row.fetchone() == (5, None)
    with pytest.raises(psycopg.errors.SyntaxError) as caught:
        connection.execute(f"SELEC {mark}")
    assert caught.value.diag.statement_position == "1"
    cursor = psycopg.ClientCursor(connection)
    cursor.execute(f"SELECT %s {mark}", ["it's"])
    assert cursor.fetchone() == ("it's",)


@pytest.mark.parametrize("mark", ["", HERE])
def test_several_statements_are_one_transaction(connection: Client, mark: str) -> None:
    cursor = psycopg.ClientCursor(connection)
    with pytest.raises(psycopg.errors.UniqueViolation):
        cursor.execute(f"INSERT INTO local VALUES (1, 'a'); INSERT INTO local VALUES (1, 'b') {mark}")
    assert connection.execute("SELECT count(*) FROM local").fetchone() == (0,)
    cursor.execute(
        f"INSERT INTO local VALUES (1, 'a') {mark}; INSERT INTO local VALUES (2, 'b'); SELECT 7 {mark}"
    )
    assert cursor.nextset()
    assert cursor.nextset()
    assert cursor.fetchone() == (7,)
    assert connection.info.transaction_status == pq.TransactionStatus.IDLE
    cursor.execute(f"BEGIN; INSERT INTO local VALUES (3, 'c') {mark}")
    assert connection.info.transaction_status == pq.TransactionStatus.INTRANS
    cursor.execute(f"SELECT 1 {mark}; ROLLBACK; SELECT 2 {mark}")
    assert connection.info.transaction_status == pq.TransactionStatus.IDLE
    cursor.execute(f"INSERT INTO local VALUES (4, 'd') {mark}; BEGIN; INSERT INTO local VALUES (5, 'e')")
    assert connection.info.transaction_status == pq.TransactionStatus.INTRANS
    cursor.execute("ROLLBACK")
    assert connection.execute("SELECT count(*) FROM local").fetchone() == (2,)


def test_block_spans_coordinator_and_node(running: gateway.Running, connection: Client) -> None:
    with connection.transaction():
        connection.execute("INSERT INTO local VALUES (1, 'here')")
        connection.execute(f"INSERT INTO remote VALUES (1, 'there') {NODE}")
        assert connection.info.transaction_status == pq.TransactionStatus.INTRANS
        assert _node_rows(running) == []
    assert _node_rows(running) == [(1, "there")]
    assert connection.execute("SELECT * FROM local").fetchall() == [(1, "here")]
    with pytest.raises(ZeroDivisionError), connection.transaction():  # noqa: PT012
        connection.execute(f"INSERT INTO remote VALUES (2, 'there') {NODE}")
        raise ZeroDivisionError
    assert _node_rows(running) == [(1, "there")]


def test_failure_on_a_node_fails_the_block(running: gateway.Running, connection: Client) -> None:
    connection.execute("BEGIN")
    connection.execute("INSERT INTO local VALUES (1, 'here')")
    connection.execute(f"INSERT INTO remote VALUES (1, 'x') {NODE}")
    with pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute(f"INSERT INTO remote VALUES (1, 'y') {NODE}")
    assert connection.info.transaction_status == pq.TransactionStatus.INERROR
    for sql in ("SELECT 1", f"SELECT 1 {HERE}", f"SELECT 1 {NODE}"):
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            connection.execute(sql)
    assert connection.execute("COMMIT").statusmessage == "ROLLBACK"
    assert connection.info.transaction_status == pq.TransactionStatus.IDLE
    assert _node_rows(running) == []
    assert connection.execute("SELECT * FROM local").fetchall() == []


def test_savepoints_reach_nodes(running: gateway.Running, connection: Client) -> None:
    connection.execute("BEGIN")
    connection.execute("SAVEPOINT a")
    connection.execute(f"INSERT INTO remote VALUES (1, 'x') {NODE}")
    connection.execute("SAVEPOINT b")
    connection.execute("INSERT INTO local VALUES (1, 'x')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute(f"INSERT INTO remote VALUES (1, 'y') {NODE}")
    connection.execute("ROLLBACK TO b")
    assert connection.info.transaction_status == pq.TransactionStatus.INTRANS
    connection.execute(f"INSERT INTO remote VALUES (2, 'z') {NODE}")
    connection.execute("RELEASE a")
    connection.execute("COMMIT")
    assert _node_rows(running) == [(1, "x"), (2, "z")]
    assert connection.execute("SELECT * FROM local").fetchall() == []
    with connection.transaction():
        try:
            with connection.transaction():
                connection.execute(f"INSERT INTO remote VALUES (3, 'gone') {NODE}")
                raise KeyError
        except KeyError:
            pass
        connection.execute(f"INSERT INTO remote VALUES (4, 'kept') {NODE}")
    assert [row[0] for row in _node_rows(running)] == [1, 2, 4]


@pytest.mark.parametrize("mark", ["", HERE, NODE])
def test_copy(running: gateway.Running, connection: Client, mark: str) -> None:
    table = "remote" if mark == NODE else "local"
    rows = "".join(f"{n}\tvalue {n}\n" for n in range(50_000))
    cursor = connection.cursor()
    with cursor.copy(f"COPY {table} FROM STDIN {mark}") as copy:
        for at in range(0, len(rows), 10_000):
            copy.write(rows[at : at + 10_000])
    assert cursor.statusmessage == "COPY 50000"
    received = io.BytesIO()
    with cursor.copy(f"COPY (SELECT * FROM {table} ORDER BY id) TO STDOUT {mark}") as copy:
        for data in copy:
            received.write(data)
    assert received.getvalue().decode() == rows
    with (  # noqa: PT012
        pytest.raises(psycopg.errors.QueryCanceled),
        cursor.copy(f"COPY {table} FROM STDIN {mark}") as copy,
    ):
        copy.write("100000\tx\n")
        raise psycopg.errors.QueryCanceled("give up")
    with (
        pytest.raises(psycopg.errors.InvalidTextRepresentation),
        cursor.copy(f"COPY {table} FROM STDIN {mark}") as copy,
    ):
        copy.write("abc\tx\n")
    assert connection.info.transaction_status == pq.TransactionStatus.IDLE
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_pipeline_mixes_both(running: gateway.Running, connection: Client) -> None:
    with connection.pipeline():
        first = connection.execute("SELECT 1")
        second = connection.execute(f"SELECT 2 {HERE}")
        third = connection.execute("SELECT 3")
        fourth = connection.execute(f"INSERT INTO remote VALUES (4, 'p') {NODE} RETURNING id")
        connection.execute("INSERT INTO local VALUES (5, 'q')")
        fifth = connection.execute("SELECT count(*) FROM local")
        assert [c.fetchone() for c in (first, second, third, fourth, fifth)] == [(1,), (2,), (3,), (4,), (1,)]
    assert _node_rows(running) == [(4, "p")]
    with pytest.raises(psycopg.errors.UniqueViolation), connection.pipeline():  # noqa: PT012
        connection.execute("INSERT INTO local VALUES (6, 'q')")
        connection.execute(f"INSERT INTO remote VALUES (6, 'p') {NODE}")
        connection.execute(f"INSERT INTO remote VALUES (4, 'p') {NODE}")
        connection.execute("INSERT INTO local VALUES (7, 'q')")
    assert _node_rows(running) == [(4, "p")]
    assert connection.execute("SELECT id FROM local").fetchall() == [(5,)]


def test_hot_reads_and_writes(running: gateway.Running, connection: Client) -> None:
    connection.prepare_threshold = 0
    for number in range(40):
        connection.execute("INSERT INTO spread VALUES (%s, %s)", [number, f"v{number}"])
    before = running.engine.slow
    for number in range(40):
        row = connection.execute(
            "SELECT value FROM spread WHERE id = %s::int4", [number], binary=number % 2 == 0
        )
        assert row.fetchone() == (f"v{number}",)
        assert (row.description or [])[0].name == "value"
        changed = connection.execute("UPDATE spread SET value = 'w' WHERE id = %s::int4", [number])
        assert changed.statusmessage == "UPDATE 1"
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        connection.execute("INSERT INTO spread VALUES (%s, %s)", [7, "again"])
    assert caught.value.diag.constraint_name == "spread_pkey"
    assert running.engine.slow == before
    assert sum(len(_node_rows(running, f"orochi_s{index}_1.spread")) for index in range(4)) == 40


def test_executemany_is_not_a_round_trip_a_row(running: gateway.Running, connection: Client) -> None:
    cursor = connection.cursor()
    before = running.engine.slow
    with connection.transaction():
        cursor.executemany(
            "INSERT INTO spread VALUES (%s, %s)", [(number, f"v{number}") for number in range(5_000)]
        )
        assert cursor.rowcount == 5_000
    assert running.engine.slow - before < 10
    assert sum(len(_node_rows(running, f"orochi_s{index}_1.spread")) for index in range(4)) == 5_000
    with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
        cursor.executemany(
            "INSERT INTO spread VALUES (%s, %s)",
            [(number, "w") for number in range(9_990, 5_000, -1)] + [(1, "w")],
        )
    assert sum(len(_node_rows(running, f"orochi_s{index}_1.spread")) for index in range(4)) == 5_000
    with pytest.raises(psycopg.errors.UniqueViolation):
        cursor.executemany("INSERT INTO spread VALUES (%s, %s)", [(6_000, "w"), (1, "w"), (6_001, "w")])
    assert sum(len(_node_rows(running, f"orochi_s{index}_1.spread")) for index in range(4)) == 5_000


def test_moved_layout_is_found_again(running: gateway.Running, connection: Client) -> None:
    connection.prepare_threshold = 0
    insert = "INSERT INTO spread VALUES (%s, %s)"
    select = "SELECT value FROM spread WHERE id = %s::int4"
    connection.execute(insert, [1, "v1"])
    assert connection.execute(select, [1]).fetchone() == ("v1",)
    with running.direct("node", autocommit=True) as node:
        for index in range(4):
            node.execute(
                f"ALTER SCHEMA orochi_s{index}_{running.runtime.layout} RENAME TO orochi_s{index}_{running.runtime.layout + 1}"
            )
    running.runtime.move()
    assert connection.execute(select, [1]).fetchone() == ("v1",)
    with running.direct("node", autocommit=True) as node:
        for index in range(4):
            node.execute(f"ALTER SCHEMA orochi_s{index}_{running.runtime.layout} RENAME TO orochi_s{index}_1")
    running.runtime.layout = 1
    connection.execute(insert, [2, "v2"])
    assert connection.execute(select, [2]).fetchone() == ("v2",)


@pytest.mark.parametrize("mark", ["", HERE, NODE])
def test_cancel(connection: Client, mark: str) -> None:
    with races.cancelling(connection), pytest.raises(psycopg.errors.QueryCanceled):
        connection.execute(f"SELECT pg_sleep(250) {mark}")
    assert connection.execute(f"SELECT 1 {mark}").fetchone() == (1,)


@pytest.mark.parametrize("mark", ["", HERE, NODE])
def test_statement_timeout(connection: Client, mark: str) -> None:
    connection.execute("SET statement_timeout = '300ms'")
    with pytest.raises(psycopg.errors.QueryCanceled, match="statement timeout"):
        connection.execute(f"SELECT pg_sleep(250) {mark}")


def test_settings_reach_nodes(connection: Client) -> None:
    show = f"SELECT current_setting('TimeZone') {NODE}"
    connection.execute("SET TimeZone = 'Asia/Tokyo'")
    assert connection.execute(show).fetchone() == ("Asia/Tokyo",)
    connection.execute("BEGIN")
    connection.execute("SET LOCAL TimeZone = 'Europe/Paris'")
    assert connection.execute(show).fetchone() == ("Europe/Paris",)
    connection.execute("COMMIT")
    assert connection.execute(show).fetchone() == ("Asia/Tokyo",)
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    level = f"SELECT current_setting('transaction_isolation') {NODE}"
    assert connection.execute(level).fetchone() == ("repeatable read",)
    connection.execute("COMMIT")
    connection.execute("BEGIN READ ONLY")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connection.execute(f"SELECT 1 FROM remote FOR UPDATE {NODE}")
    connection.execute("ROLLBACK")


def test_sql_level_prepare(connection: Client) -> None:
    connection.execute(f"PREPARE p (int, text) AS SELECT $1 + 1, $2 {HERE}")
    assert connection.execute("EXECUTE p (1 + 1, 'it''s')").fetchone() == (3, "it's")
    assert psycopg.ClientCursor(connection).execute("EXECUTE p ('5', NULL)").fetchone() == (6, None)
    connection.execute("PREPARE q AS SELECT 5")
    assert connection.execute("EXECUTE q").fetchone() == (5,)
    explained = connection.execute("EXPLAIN (VERBOSE) EXECUTE p (1, 'x')").fetchall()
    assert any("Output: 2, 'x'::text" in str(line) for (line,) in explained)
    connection.execute("DEALLOCATE p")
    with pytest.raises(psycopg.errors.InvalidSqlStatementName):
        connection.execute("EXECUTE p (1, 'x')")
    connection.execute("DEALLOCATE ALL")
    with pytest.raises(psycopg.errors.InvalidSqlStatementName):
        connection.execute("EXECUTE q")


def test_portal_read_piece_by_piece(connection: Client) -> None:
    raw = connection.pgconn
    for mark in ("", HERE):
        with connection.transaction(), connection.cursor(name=None) as cursor:
            cursor.execute(f"SELECT n {mark} FROM generate_series(1, 10) n")
            assert len(cursor.fetchall()) == 10
    assert raw.transaction_status == pq.TransactionStatus.IDLE


def test_notices_and_parameter_status(connection: Client) -> None:
    notices: list[str] = []
    connection.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary or ""))
    connection.execute("DO $$ BEGIN RAISE NOTICE 'relayed'; END $$")
    connection.execute(f"DO $$ BEGIN RAISE NOTICE 'ours'; END $$ {HERE}")
    assert notices == ["relayed", "ours"]
    connection.execute("SET application_name = 'known'")
    assert connection.info.parameter_status("application_name") == "known"


def test_many_clients_at_once(running: gateway.Running) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            with running.connect(autocommit=True) as own:
                own.prepare_threshold = 0
                for number in range(60):
                    value = seed * 1000 + number
                    mark = ("", HERE, NODE)[number % 3]
                    assert own.execute(f"SELECT %s::int {mark}", [value]).fetchone() == (value,)
                    row = own.execute("SELECT count(*) FROM spread WHERE id = %s::int4", [-value]).fetchone()
                    assert row == (0,)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
