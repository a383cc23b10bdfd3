"""Calls of Orochi's functions are found, replaced by their twins, and their results put back."""

from __future__ import annotations

import pytest

from orochi import errors
from orochi.planner import calls, ddl, nested_calls, parse


def test_in_the_target_list() -> None:
    plan = calls.plan(parse.parse_one("SELECT 1, compress_chunk(c) AS x FROM show_chunks('t') c ORDER BY 2"))
    assert isinstance(plan, calls.TargetCalls)
    assert plan.positions == ((1, "compress_chunk"),)
    assert plan.sql == "SELECT 1, orochi._call_compress_chunk(c) AS x FROM show_chunks('t') AS c ORDER BY 2"


def test_in_from() -> None:
    plan = calls.plan(parse.parse_one("SELECT created FROM create_hypertable('t', 'x') h WHERE created"))
    assert isinstance(plan, calls.FromCall)
    assert plan.sql == "SELECT orochi._call_create_hypertable('t', 'x')"
    sql = calls.with_rows(plan, [("1", "public", "it's", "t")])
    assert "'it''s'" in sql
    assert sql.endswith("AS h WHERE created")
    parse.parse_one(calls.with_rows(plan, []))


def test_inside_an_expression() -> None:
    """What reads nothing but a call's results is computed of them."""
    plan = calls.plan(parse.parse_one("SELECT count(compress_chunk(c)) + 1 AS n FROM show_chunks('t') c"))
    assert isinstance(plan, calls.FromCall)
    assert plan.sql == "SELECT orochi._call_compress_chunk(c) FROM show_chunks('t') AS c"
    sql = calls.with_rows(plan, [("a",), ("b",)])
    assert sql.startswith("SELECT count(compress_chunk) + 1 AS n FROM (")
    assert "('a'), ('b')" in sql


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(compress_chunk(c)), c FROM show_chunks('t') c",
        "SELECT 1 WHERE compress_chunk('c') IS NOT NULL",
        "SELECT create_reference_table('a') UNION SELECT create_reference_table('b')",
        "SELECT DISTINCT compress_chunk(c) FROM show_chunks('t') c",
        "SELECT *, compress_chunk(c) FROM show_chunks('t') c",
    ],
)
def test_elsewhere_is_refused(sql: str) -> None:
    with pytest.raises(errors.FeatureNotSupported) as caught:
        calls.plan(parse.parse_one(sql))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("sql", "inner"),
    [
        (
            "SELECT count(*) FROM (SELECT compress_chunk(c) FROM show_chunks('t') c) s",
            "SELECT compress_chunk(c) FROM show_chunks('t') AS c",
        ),
        ("WITH w AS (SELECT delete_job(3)) SELECT 1 FROM w", "SELECT delete_job(3)"),
        ("SELECT (SELECT delete_job(3)) IS NULL", "SELECT delete_job(3)"),
    ],
)
def test_in_a_part_of_the_statement(sql: str, inner: str) -> None:
    found = nested_calls.find(parse.parse_one(sql))
    assert found is not None
    assert found.inner.sql == inner
    outer = nested_calls.with_rows(found, (("x", "text"),), [("a",), (None,)])
    assert outer.kind is parse.Kind.SELECT
    assert "(VALUES ('a'), (NULL))" in outer.sql


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT compress_chunk(c) FROM show_chunks('t') c",
        "SELECT * FROM (SELECT compress_chunk(c) FROM show_chunks('t') c) s LIMIT 1",
        "SELECT * FROM t, LATERAL (SELECT compress_chunk(t.c)) s",
        "SELECT CASE WHEN x THEN (SELECT delete_job(3)) END",
        "SELECT (SELECT delete_job(3)) FROM t",
        "WITH w AS (SELECT delete_job(3)) SELECT 1",
        "WITH w AS (SELECT 'c' AS c) SELECT * FROM (SELECT compress_chunk(c) FROM w) s",
    ],
)
def test_parts_that_may_not_be_executed_alone(sql: str) -> None:
    assert nested_calls.find(parse.parse_one(sql)) is None


def test_storage_options_are_taken_out_of_alter_table() -> None:
    plan = ddl.read(parse.parse_one("ALTER TABLE t SET (orochi.segmentby = 'a, b', fillfactor = 70)"))
    assert plan.options == {"segmentby": "a, b"}
    assert plan.sql == "ALTER TABLE t SET (fillfactor = 70)"
    plan = ddl.read(
        parse.parse_one("ALTER TABLE t SET (timescaledb.compress, timescaledb.compress_orderby='x desc')")
    )
    assert plan.options == {"compress": "true", "orderby": "x desc"}
    assert plan.sql is None


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE t DISABLE TRIGGER ALL",
        "CREATE TRIGGER x BEFORE INSERT ON t EXECUTE FUNCTION f()",
        "CREATE TABLE u () INHERITS (t)",
    ],
)
def test_what_shards_cannot_follow_is_refused(sql: str) -> None:
    with pytest.raises(errors.FeatureNotSupported):
        ddl.read(parse.parse_one(sql))
