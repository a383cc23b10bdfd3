"""Calls of Orochi's functions are found, replaced by their twins, and their results put back."""

from __future__ import annotations

import pytest

from orochi import errors
from orochi.planner import calls, ddl, parse


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
