"""INSERT, UPDATE, DELETE, TRUNCATE on every layout: PostgreSQL's tags, rows and errors, and the same table after."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import pq

from tests.support import layouts, oracle

_STATEMENTS = {
    "insert-values": "INSERT INTO events VALUES (1, '2024-03-10 05:00+00', 900, 'new', 1.5, 0.1)",
    "insert-columns": "INSERT INTO events (at, tenant) VALUES ('2024-03-10 05:00+00', 3)",
    "insert-rows": "INSERT INTO events (tenant, at, id) VALUES (1, '2024-03-10', 901), (2, '2024-03-11', 902), (3, '2030-01-01', 903)",
    "insert-default-keyword": "INSERT INTO events VALUES (5, '2024-03-11', DEFAULT, DEFAULT, NULL, 'NaN')",
    "insert-expression": "INSERT INTO events (tenant, at, id, amount) VALUES (2 + 3, date '2024-03-12' + time '10:00', 10 * 91, 1 / 3.0)",
    "insert-select": "INSERT INTO events (tenant, at, id) SELECT tenant + 10, at + interval '1 year', id FROM events WHERE tenant < 3",
    "insert-select-values": "INSERT INTO events (tenant, at, id) SELECT * FROM (VALUES (1, timestamptz '2024-03-10', 77)) AS v",
    "insert-nothing": "INSERT INTO events SELECT * FROM events WHERE false",
    "insert-returning": "INSERT INTO events (tenant, at, id) VALUES (6, '2024-03-11', 999) RETURNING *, id + 1 AS next, upper(what)",
    "insert-rows-returning": "INSERT INTO events (tenant, at, id) VALUES (6, '2024-03-11', 1), (1, '2024-03-12', 2) RETURNING id, tenant",
    "insert-select-ordered": "INSERT INTO events (tenant, at, id) SELECT tenant, '2024-03-12', 4000 FROM events GROUP BY tenant ORDER BY 1",
    "insert-cte": "WITH s AS (SELECT max(id) AS m FROM events) INSERT INTO events (tenant, at, id) SELECT 1, '2024-03-11', m + 1 FROM s",
    "conflict-nothing": "INSERT INTO events SELECT * FROM events ON CONFLICT DO NOTHING",
    "conflict-update": """INSERT INTO events (tenant, at, id, what) SELECT tenant, at, id, 'again' FROM events WHERE id < 20
        ON CONFLICT (tenant, at, id) DO UPDATE SET what = excluded.what, amount = events.amount + 1""",
    "conflict-update-where": """INSERT INTO events AS e (tenant, at, id) SELECT tenant, at, id FROM events
        ON CONFLICT ON CONSTRAINT events_pkey DO UPDATE SET what = 'w' WHERE e.id % 2 = 0 RETURNING e.id""",
    "update-one": "UPDATE events SET what = 'changed' WHERE tenant = 3 AND id = 10",
    "update-key-range": "UPDATE events SET amount = amount * 2, ratio = NULL WHERE tenant = 2 AND at < '2024-03-11'",
    "update-all": "UPDATE events SET amount = coalesce(amount, 0) + 0.001",
    "update-none": "UPDATE events SET what = 'x' WHERE tenant = 12345",
    "update-returning": "UPDATE events SET what = what || '!' WHERE id BETWEEN 50 AND 60 RETURNING tenant, id, what, amount",
    "update-from-values": "UPDATE events AS e SET what = v.w FROM (VALUES (3, 'three'), (4, 'four')) AS v(t, w) WHERE e.tenant = v.t",
    "update-subquery": "UPDATE events SET ratio = 0 WHERE id = (SELECT max(id) FROM events)",
    "update-case": "UPDATE events SET what = CASE WHEN what IS NULL THEN 'was null' ELSE what END WHERE id % 11 = 0",
    "delete-one": "DELETE FROM events WHERE tenant = 1 AND id = 8",
    "delete-range": "DELETE FROM events WHERE at >= '2024-03-11' AND at < '2024-03-12'",
    "delete-returning": "DELETE FROM events WHERE what IS NULL RETURNING id, at",
    "delete-using": "DELETE FROM events AS e USING (VALUES (1), (2)) AS v(t) WHERE e.tenant = v.t",
    "delete-in-subquery": "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE amount > 100)",
    "delete-all": "DELETE FROM events",
    "truncate": "TRUNCATE events",
    "duplicate-key": "INSERT INTO events SELECT * FROM events WHERE id = 21",
    "check-violation": "UPDATE events SET amount = 1e8 WHERE id = 5",
    "not-null-violation": "INSERT INTO events (tenant, at, id) VALUES (1, NULL, 1)",
    "numeric-overflow": "INSERT INTO events (tenant, at, amount) VALUES (1, '2024-03-10', 1e30)",
    "division-by-zero": "UPDATE events SET ratio = 1 / (id - 10) WHERE tenant = 3",
    "unknown-column": "UPDATE events SET nonsense = 1",
    "wrong-type": "INSERT INTO events VALUES ('one', now())",
}


@pytest.fixture(scope="module", params=layouts.LAYOUTS)
def filled(request: pytest.FixtureRequest, module_pair: oracle.Pair) -> Iterator[oracle.Pair]:
    """The table in one layout, for all statements of this module."""
    module_pair.both("DROP TABLE IF EXISTS events")
    layouts.events(module_pair, request.param)
    yield module_pair
    module_pair.both("DROP TABLE events")


@pytest.mark.parametrize("name", _STATEMENTS)
def test_statement_rolled_back(filled: oracle.Pair, name: str) -> None:
    """Inside a transaction the change is seen at once, and after ROLLBACK it is gone."""
    filled.both("BEGIN")
    try:
        answer = filled.same(_STATEMENTS[name])
        if answer.sqlstate is None:
            filled.check_tables("events")
            filled.same("SELECT tenant, count(*), sum(amount) FROM events GROUP BY tenant")
        else:
            filled.same("SELECT 1")  # refused until the transaction ends
    finally:
        filled.both("ROLLBACK")
    filled.check_tables("events")


def test_statements_committed(filled: oracle.Pair) -> None:
    """One after another, each committed; another client sees the result."""
    refill = "TRUNCATE events", layouts.FILL
    for name, sql in _STATEMENTS.items():
        filled.same(sql)
        filled.check_tables("events")
        if name in {"delete-all", "truncate", "conflict-update-where", "update-case"}:
            filled.both(*refill)
    filled.both(*refill)


def test_parameters(filled: oracle.Pair) -> None:
    """Named prepared statements with parameters in every place, run often enough to be reused."""
    insert = "INSERT INTO events (tenant, at, id, what, amount) VALUES (%s, %s, %s, %s, %s)"
    for number in range(8):
        row = (
            number % 3,
            f"2024-03-1{number % 4} 01:00+00",
            5000 + number,
            f"p{number}" if number % 2 else None,
            "1.5",
        )
        filled.same(insert, row, prepare=True)
    for number in range(8):
        filled.same(
            "UPDATE events SET what = %s WHERE tenant = %s AND id = %s RETURNING *",
            ("q", number % 3, 5000 + number),
            prepare=True,
        )
        filled.same(
            "SELECT what, amount FROM events WHERE tenant = %s AND id = %s",
            (number % 3, 5000 + number),
            prepare=True,
        )
    for number in range(8):
        filled.same("DELETE FROM events WHERE id = %s", (5000 + number,), prepare=True)
    filled.check_tables("events")


def test_savepoints(filled: oracle.Pair) -> None:
    filled.both("BEGIN")
    try:
        filled.same("INSERT INTO events (tenant, at, id) VALUES (1, '2024-03-10', 7001)")
        filled.both("SAVEPOINT a")
        filled.same("UPDATE events SET what = 'inner' WHERE tenant = 1")
        filled.same("DELETE FROM events WHERE tenant = 2")
        filled.check_tables("events")
        filled.both("ROLLBACK TO SAVEPOINT a")
        filled.check_tables("events")
        filled.both("SAVEPOINT b")
        filled.same(
            "INSERT INTO events (tenant, at, id) VALUES (1, '2024-03-10', 7001)"
        )  # fails: twice the same
        filled.both("ROLLBACK TO SAVEPOINT b")
        filled.same("INSERT INTO events (tenant, at, id) VALUES (4, '2024-03-10', 7002)")
        filled.both("RELEASE SAVEPOINT b")
    finally:
        filled.both("COMMIT")
    filled.check_tables("events")
    filled.same("DELETE FROM events WHERE id > 7000")


def test_executemany(filled: oracle.Pair) -> None:
    rows = [(n % 9, "2024-03-10 12:00+00", 8000 + n, f"many {n}") for n in range(200)]
    for connection in (filled.gateway, filled.plain):
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO events (tenant, at, id, what) VALUES (%s, %s, %s, %s)", rows)
            assert cursor.rowcount == len(rows)
    filled.check_tables("events")
    filled.same("DELETE FROM events WHERE id >= 8000")


def test_two_clients(filled: oracle.Pair) -> None:
    """An uncommitted change is not seen by another client, a committed one is."""
    schema = filled.orochi("SELECT current_schema()")[0][0]
    with filled.gateway.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("UPDATE events SET what = 'mine' WHERE id = 12")
        cursor.execute("INSERT INTO events (tenant, at, id) VALUES (3, '2024-03-10', 6001)")
        host = filled.gateway.info
        with psycopg.connect(host.dsn, password=host.password, autocommit=True) as other:
            read = f"SELECT what FROM {schema}.events WHERE id IN (12, 6001)"
            before = oracle.ask(other, read).values
            cursor.execute("COMMIT")
            after = oracle.ask(other, read).values
    assert before == [("kind 2",)]
    assert sorted(after) == [("mine",), ("nothing",)]
    filled.both("DELETE FROM events WHERE id IN (12, 6001)")
    filled.check_tables("events")


@pytest.mark.parametrize(
    "rows",
    [
        "VALUES (6, now(), 990), (7, current_timestamp, 1)",
        "SELECT g, now(), 0 FROM generate_series(30, 33) g",
    ],
)
def test_returning_sees_the_moment_of_its_rows(filled: oracle.Pair, rows: str) -> None:
    statement = f"INSERT INTO events (tenant, at, id) {rows} RETURNING at = now()"
    assert set(filled.gateway.execute(statement)) == {(True,)}
    filled.both("DELETE FROM events WHERE at > '2025-01-01'")


def test_volatile_functions_are_called_for_each_row(filled: oracle.Pair) -> None:
    filled.both("CREATE SEQUENCE tickets")
    tail = "RETURNING nextval('tickets') > 0"
    for rows in (
        "VALUES (6, '2024-03-12', 981), (7, '2024-03-12', 982)",
        "SELECT 8, '2024-03-12', 983 + g FROM generate_series(1, 2) g",
    ):
        filled.same(f"INSERT INTO events (tenant, at, id) {rows} {tail}")
    filled.same("SELECT nextval('tickets')")
    filled.both("DROP SEQUENCE tickets", "DELETE FROM events WHERE id > 980")


def test_single_shards_beside_tables_of_several_nodes(pair: oracle.Pair) -> None:
    """What a hypertable that is not distributed tells a write in a sub-SELECT is on one node only."""
    pair.both(
        "CREATE TABLE one (k int, at timestamptz NOT NULL)",
        "CREATE TABLE ref (k int PRIMARY KEY, v text)",
        "CREATE TABLE many (k int PRIMARY KEY, v text)",
    )
    layouts.place(pair, "one", "hypertable", key="k", time="at")
    layouts.place(pair, "ref", "reference", key="k", time="")
    layouts.place(pair, "many", "distributed", key="k", time="")
    pair.both("INSERT INTO one SELECT g, '2024-01-01' FROM generate_series(1, 9) g")
    for table in ("ref", "many"):
        pair.both(f"INSERT INTO {table} SELECT g, 'v' || g FROM generate_series(1, 20) g")
        for sql in (
            f"""UPDATE {table} t SET v = x.n::text FROM (SELECT k, count(*) n FROM one GROUP BY 1) x
            WHERE x.k = t.k AND t.k < 4 RETURNING t.k, t.v""",
            f"UPDATE {table} SET v = 'in' WHERE k IN (SELECT k FROM one WHERE k > 7) RETURNING k",
            f"DELETE FROM {table} t WHERE NOT EXISTS (SELECT FROM one WHERE one.k = t.k) RETURNING k",
        ):
            pair.same(sql)
        pair.check_tables(table)


#: Of each of these forms a few texts that differ in literals only: from the third on they are one prepared statement.
_TIMES = [
    "('2024-03-0{n} 10:00:00+00', '2024-03-0{n}', '2024-03-0{n} 10:0{n}', {n}, {n}.5)",
    "('2024-03-0{n}T10:00:0{n}.12345{n}', '2024-03-0{n}', '2024-03-31 02:30:0{n}+07', {n}, -{n})",
    "('2024-10-27 02:3{n}:00', '2024-10-2{n}', 'infinity', {n}, {n})",
    "('2024-02-2{n} 1{n}:00:00-0{n}:30', '{n} Mar 2024', '2024-0{n}-01 BC', {n}, {n})",
    "('2024-02-3{n} 10:00:00+00', '2024-03-01', '2024-03-01', {n}, {n})",
    "('2024-02-1{n} 10:00:00+2{n}', '2024-03-01', '2024-03-01', {n}, {n})",
    "('2024-02-1{n} 10:00:00+00', '2024-13-0{n}', '2024-03-01', {n}, {n})",
    "('2024-02-1{n} 10:00:00+00', '2024-03-01', 'nonsense {n}', {n}, {n})",
]


def _simply(connection: psycopg.Connection[Any], sql: str) -> tuple[bytes | None, ...]:
    """A simple Query's command tag, or its error."""
    result = connection.pgconn.exec_(sql.encode())
    field = pq.DiagnosticField
    fields = (field.SQLSTATE, field.MESSAGE_PRIMARY, field.STATEMENT_POSITION, field.CONTEXT)
    return result.command_status, *(result.error_field(item) for item in fields)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_times_in_texts_that_differ_in_them(pair: oracle.Pair, zone: str) -> None:
    pair.both("CREATE TABLE timed (at timestamptz, d date, t timestamp(0), k int, v float8)")
    pair.orochi("SELECT create_hypertable('timed', 'at')")
    pair.orochi("SELECT create_distributed_table('timed', 'k', 2)")
    pair.both(f"SET timezone TO '{zone}'")
    for form in _TIMES:
        for number in (1, 2, 3, 4, 1, 2, 3):
            sql = f"INSERT INTO timed VALUES {form.format(n=number)}"
            assert _simply(pair.gateway, sql) == _simply(pair.plain, sql), sql
    pair.check_tables("timed")
    pair.same("SELECT count(*), count(DISTINCT (at, d, t)) FROM timed")
    pair.both("RESET timezone")


#: Values of each column of the table below: plain ones, and those that go another way, or are refused.
_PLAIN_CELLS = (
    ("1", "-7", "'12'", "2147483647"),
    ("'2024-01-0{n}'", "'2024-01-0{n} 10:00:00+02'", "'2024-01-03 0{n}:30:00.5'"),
    ("1.5", "NULL", "'1e5'", "-0.25", "3", "1e-3"),
    ("'x'", "'it''s'", "''", "'a, (b); --'", "NULL", "12", "'n{n}'", "true"),
    ("true", "FALSE", "'yes'", "Null"),
    ("'2024-02-29'", "NULL"),
    ("""'{{"a": [{n}]}}'""", "'[]'", "NULL"),
)
_ODD_CELLS = (
    ("2147483648", "1.5", "NULL", "'x'", "' 5 '", "1e1", "2 + 3", "DEFAULT", "'4'::int", "'5' /* '", "0x1F"),
    ("'infinity'", "NULL", "date '2024-01-05'", "'nonsense'", "20240101", "now()::date", "'2024-02-30'"),
    ("'x'", "1e999", "true", "1/3.0", "'NaN'", "- 5", "+5", ".5", "5."),
    ("E'a\\\\n'", "'a'\n'b'", "U&'\\0041'", "$$x$$", "'too long'", "'ä'", "DEFAULT", "n''", "1 -- x\n"),
    ("1", "'maybe'", "NOT true", "'on'::bool"),
    ("'yesterday'", "'2024-13-01'", "1"),
    ("'{{'", "1", "true"),
)
_HEADS = (
    "INSERT INTO lists VALUES",
    "insert into public.lists (k, at, v, s, b, d, j) values\n",
    ' INSERT INTO "lists"VALUES',
)


def _texts(chance: random.Random) -> Iterator[str]:
    """INSERTs of a few rows, of which at most one value is odd: servers need not find the same one of several first."""
    for number in range(160):
        rows = [
            [chance.choice(cells).format(n=chance.randint(1, 9)) for cells in _PLAIN_CELLS]
            for _ in range(chance.randint(2, 6))
        ]
        if number % 2:
            at = chance.randrange(len(_ODD_CELLS))
            chance.choice(rows)[at] = chance.choice(_ODD_CELLS[at]).format()
        if number % 16 == 7:
            chance.choice(rows).append("1")
        between = chance.choice((", ", ",\n  ", " ,"))
        body = between.join(f"({chance.choice((',', ' , ')).join(row)})" for row in rows)
        yield (
            chance.choice(_HEADS)
            + body
            + chance.choice(("", "", ";", " ; ", " ON CONFLICT DO NOTHING", " --"))
        )


@pytest.mark.parametrize("unique", [False, True])
def test_rows_of_constants(pair: oracle.Pair, unique: bool) -> None:
    """Texts whose rows go to their shards as they are, beside those that look alike and must not."""
    pair.both(
        "CREATE TABLE lists (k int NOT NULL, at timestamptz NOT NULL, v float8 DEFAULT 2, s varchar(5) DEFAULT 'd',"
        f" b bool, d date, j jsonb{', UNIQUE (k, at, v, s)' if unique else ''})"
    )
    pair.orochi("SELECT create_hypertable('lists', 'at', chunk_time_interval => interval '4 days')")
    pair.orochi("SELECT create_distributed_table('lists', 'k', 3)")
    for number, sql in enumerate(_texts(random.Random(7 + unique))):
        block = number % 5 == 4
        if block:
            pair.both("BEGIN", "INSERT INTO lists VALUES (3, '2024-01-02', NULL), (4, '2024-01-06', NULL)")
        if number == 80:
            pair.orochi("SELECT compress_chunk(c) FROM show_chunks('lists') c LIMIT 1")
            pair.both("ALTER TABLE lists DROP COLUMN b", "ALTER TABLE lists ADD COLUMN b bool")
        assert _simply(pair.gateway, sql)[:-1] == _simply(pair.plain, sql)[:-1], sql
        if block:
            pair.both("COMMIT")
    pair.check_tables("lists")
    pair.same("SELECT count(*) > 100, count(DISTINCT (k, at, v, s, d, j)) FROM lists")
