"""Bad input: PostgreSQL's SQLSTATE where it has one, a HINT from Orochi, and the session lives on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import layouts, oracle

_LIKE_POSTGRESQL = {
    "syntax": "SELEC 1",
    "syntax-late": "SELECT * FROM events WHERE",
    "unknown-table": "SELECT * FROM no_such_table",
    "unknown-column": "SELECT nonsense FROM events",
    "unknown-column-qualified": "SELECT e.nonsense FROM events AS e WHERE e.tenant = 1",
    "unknown-function": "SELECT no_such_function(tenant) FROM events",
    "wrong-type": "SELECT * FROM events WHERE tenant = 'x'",
    "wrong-operator": "SELECT tenant + what FROM events",
    "not-grouped": "SELECT tenant, what FROM events GROUP BY tenant",
    "ambiguous": "SELECT tenant FROM events AS a, events AS b",
    "division": "SELECT 1 / (tenant - tenant) FROM events",
    "division-one-shard": "SELECT 1 / (tenant - tenant) FROM events WHERE tenant = 1",
    "cast": "SELECT what::int FROM events WHERE id = 5",
    "overflow": "SELECT tenant * 2147483647 FROM events WHERE tenant = 3",
    "scalar-subquery": "SELECT (SELECT id FROM events)",
    "limit": "SELECT * FROM events LIMIT -1",
    "aggregate-in-where": "SELECT * FROM events WHERE count(*) > 1",
    "duplicate-key": "INSERT INTO events SELECT * FROM events WHERE id = 3",
    "duplicate-key-values": "INSERT INTO events (tenant, at, id) SELECT tenant, at, id FROM events WHERE tenant = 2 LIMIT 1",
    "insert-wrong-type": "INSERT INTO events (tenant, at) VALUES ('seven', now())",
    "insert-too-many": "INSERT INTO events (tenant, at) VALUES (1, now(), 3)",
    "insert-not-null": "INSERT INTO events (tenant) VALUES (1)",
    "insert-check": "INSERT INTO events (tenant, at, amount) VALUES (1, '2024-03-10', 5000000)",
    "update-unknown-column": "UPDATE events SET nope = 1 WHERE tenant = 1",
    "conflict-target": "INSERT INTO events (tenant, at) VALUES (1, '2024-03-10') ON CONFLICT (what) DO NOTHING",
    "parameter-missing": "SELECT $1",
    "timestamp-range": "SELECT * FROM events WHERE at > '2024-02-30'",
}


@pytest.fixture(scope="module", params=["local", "distributed", "both-compressed"])
def filled(request: pytest.FixtureRequest, module_pair: oracle.Pair) -> Iterator[oracle.Pair]:
    module_pair.both("DROP TABLE IF EXISTS events")
    layouts.events(module_pair, request.param)
    yield module_pair
    module_pair.both("DROP TABLE events")


@pytest.mark.parametrize("name", _LIKE_POSTGRESQL)
def test_as_postgresql(filled: oracle.Pair, name: str) -> None:
    sql = _LIKE_POSTGRESQL[name]
    ours, theirs = oracle.ask(filled.gateway, sql), oracle.ask(filled.plain, sql)
    assert theirs.sqlstate is not None
    assert (ours.sqlstate, ours.message) == (theirs.sqlstate, theirs.message)
    if name.startswith("duplicate-key"):
        assert ours.detail == theirs.detail
    filled.same("SELECT count(*) FROM events")


def test_in_a_transaction(filled: oracle.Pair) -> None:
    filled.both("BEGIN")
    filled.same("SELECT 1 / (tenant - tenant) FROM events")
    filled.same("SELECT 1")
    filled.same("COMMIT")
    filled.same("SELECT count(*) FROM events")


_CALLS = {
    "missing-column": ("SELECT create_distributed_table('t', 'nope')", "42703"),
    "missing-table": ("SELECT create_distributed_table('no_such', 'a')", "42P01"),
    "missing-function-argument": ("SELECT create_distributed_table('t')", "42883"),
    "unique-without-key": ("SELECT create_distributed_table('u', 'b')", None),
    "unique-without-time": ("SELECT create_hypertable('u', 'at')", None),
    "bad-key-type": ("SELECT create_distributed_table('t', 'j')", None),
    "bad-time-type": ("SELECT create_hypertable('t', 'j')", None),
    "missing-time-column": ("SELECT create_hypertable('t', 'nope')", "42703"),
    "shard-count": ("SELECT create_distributed_table('t', 'a', 0)", "22023"),
    "colocate-nowhere": ("SELECT create_distributed_table('t', 'a', colocate_with => 'no_such')", None),
    "a-view": ("SELECT create_distributed_table('v', 'a')", "42809"),
    "undistribute-plain": ("SELECT undistribute_table('t')", None),
    "compress-nothing": ("SELECT compress_chunk('orochi_chunks.chunk_999999')", "42704"),
    "negative-interval": ("SELECT create_hypertable('t', 'at', INTERVAL '-1 day')", "22023"),
}


@pytest.mark.parametrize("name", _CALLS)
def test_calls(pair: oracle.Pair, name: str) -> None:
    pair.both("CREATE TABLE t (a int, b text, j jsonb, at timestamptz NOT NULL)")
    pair.both(
        "CREATE TABLE u (a int PRIMARY KEY, b text, at timestamptz NOT NULL)",
        "CREATE VIEW v AS SELECT * FROM t",
    )
    sql, sqlstate = _CALLS[name]
    answer = oracle.ask(pair.gateway, sql)
    assert answer.sqlstate is not None
    assert answer.sqlstate != "XX000", answer.message
    if sqlstate is not None:
        assert answer.sqlstate == sqlstate, answer.message
    if answer.sqlstate not in {"42P01", "42883"}:
        assert answer.hint, answer
    pair.same("SELECT 1")
    pair.both("INSERT INTO t (a, at) VALUES (1, now())", "DROP VIEW v")


def test_writing_into_the_shell(filled: oracle.Pair) -> None:
    """Through the gateway it is an ordinary write; what PostgreSQL cannot see through is refused with a hint."""
    answer = oracle.ask(
        filled.gateway, "DO $$ BEGIN INSERT INTO events (tenant, at) VALUES (77, '2024-03-10'); END $$"
    )
    if answer.sqlstate is not None:
        assert answer.hint
    else:
        filled.plain.execute("INSERT INTO events (tenant, at) VALUES (77, '2024-03-10')")
    filled.check_tables("events")
    filled.both("DELETE FROM events WHERE tenant = 77")


def test_statement_timeout(filled: oracle.Pair) -> None:
    filled.both("SET statement_timeout = '300ms'")
    try:
        filled.same("SELECT count(pg_sleep(0.05)) FROM events")
    finally:
        filled.both("RESET statement_timeout")
    filled.same("SELECT count(*) FROM events")


def test_settings_have_defaults(filled: oracle.Pair) -> None:
    """SHOW gives what holds, whether somebody has set it or not, by either protocol."""
    connection = filled.gateway
    assert connection.execute("SHOW orochi.frozen_reads").fetchall() == [("error",)]
    assert connection.execute("SHOW orochi.stripe_row_limit", prepare=True).fetchall() == [("150000",)]
    with connection.transaction():
        connection.execute("SET LOCAL orochi.frozen_reads = 'skip'")
        found = connection.execute("SHOW orochi.frozen_reads")
        assert [column.name for column in found.description or ()] == ["orochi.frozen_reads"]
        assert found.fetchall() == [("skip",)]
    assert connection.execute("SHOW orochi.frozen_reads").fetchall() == [("error",)]
    assert oracle.ask(connection, "SHOW orochi.nonsense").sqlstate == "42704"
    refused = oracle.ask(connection, "SET orochi.cache_size_mb = 64")
    assert (refused.sqlstate, "OROCHI_CACHE_SIZE_MB" in (refused.hint or "")) == ("55P02", True)
