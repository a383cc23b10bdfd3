from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from orochi import errors
from orochi.executor import context
from orochi.operations import distribute, privileges
from orochi.pgwire import client
from orochi.planner import classify, parse
from tests.services import harness

SCHEMA = """
CREATE TABLE t (id int PRIMARY KEY, name text, secret text);
CREATE VIEW v AS SELECT id, name FROM t;
CREATE ROLE nobody_at_all LOGIN;
CREATE ROLE reader LOGIN;
CREATE ROLE writer LOGIN;
CREATE ROLE by_column LOGIN;
CREATE ROLE by_view LOGIN;
GRANT SELECT ON t TO reader;
GRANT SELECT, INSERT, UPDATE, DELETE ON t TO writer;
GRANT SELECT (id, name), INSERT (id, name), UPDATE (name) ON t TO by_column;
GRANT SELECT ON v TO by_view;
"""
ALLOWED = [
    ("reader", "SELECT * FROM t WHERE id = $1"),
    ("writer", "INSERT INTO t VALUES ($1) ON CONFLICT (id) DO UPDATE SET name = 'x' RETURNING id"),
    ("writer", "DELETE FROM t WHERE id = $1"),
    ("writer", "EXPLAIN UPDATE t SET name = 'x'"),
    ("by_column", "SELECT id, name FROM t"),
    ("by_column", "INSERT INTO t (id, name) VALUES (1, 'a')"),
    ("by_column", "UPDATE t SET name = 'x' WHERE id = 1"),
    ("by_view", "SELECT * FROM v"),
]
REFUSED = [
    ("nobody_at_all", "SELECT 1 FROM t"),
    ("nobody_at_all", "INSERT INTO t VALUES ($1)"),
    ("reader", "INSERT INTO t VALUES (1)"),
    ("reader", "UPDATE t SET name = 'x'"),
    ("reader", "SELECT * FROM v"),
    ("by_column", "SELECT secret FROM t"),
    ("by_column", "INSERT INTO t VALUES (1, 'a', 'b')"),
    ("by_column", "DELETE FROM t"),
    ("by_column", "EXPLAIN SELECT secret FROM t"),
    ("by_view", "SELECT * FROM t"),
]


@pytest.fixture(scope="module")
def databases() -> Iterator[harness.Databases]:
    with harness.databases() as running:
        running.run("co", SCHEMA)

        async def make() -> None:
            session = await harness.connect(running)
            found = await session.coordinator.fetch("SELECT 't'::regclass::oid::bigint")
            oid = int(found.rows[0][0] or b"0")
            await session.call(distribute.create_distributed_table, oid, "id", 2, None)
            await session.runtime.nodes.close()

        asyncio.run(make())
        yield running


def check(databases: harness.Databases, role: str, sql: str) -> None:
    async def whole() -> None:
        session = await harness.connect(databases)
        session.coordinator.close()
        session.coordinator = await client.PgConnection.connect("127.0.0.1", databases.port, role, None, "co")
        session.user = role
        statement = parse.parse_one(sql)
        count = sql.count("$1")
        parameters = context.Parameters((b"1",) * count, (0,) * count, (23,) * count)
        tables = classify.tables_in(statement.tree, session.snapshot(), session.search_path)
        try:
            for _ in range(2):
                await privileges.require(session, statement, parameters, tables)  # type: ignore[arg-type]
        finally:
            session.coordinator.close()
            await session.runtime.nodes.close()

    asyncio.run(whole())


@pytest.mark.parametrize(("role", "sql"), ALLOWED)
def test_rights_that_postgresql_grants(databases: harness.Databases, role: str, sql: str) -> None:
    check(databases, role, sql)


@pytest.mark.parametrize(("role", "sql"), REFUSED)
def test_rights_that_postgresql_refuses(databases: harness.Databases, role: str, sql: str) -> None:
    with pytest.raises(errors.RemoteError) as caught:
        check(databases, role, sql)
    assert caught.value.sqlstate == "42501"


def test_nothing_was_written(databases: harness.Databases) -> None:
    assert databases.run("co", "SELECT * FROM ONLY t") == []
