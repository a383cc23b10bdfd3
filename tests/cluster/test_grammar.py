"""Queries of two grammars on every strategy, and split by a predicate: the rows are PostgreSQL's each time.

A query runs over heap rows as the planner likes or under a forced strategy, in turn; every fifth over
stripes too, there by tasks however small it is. With `make fuzz N=100000` each runs under each strategy, over both.
"""

from __future__ import annotations

import os

import pytest

from tests.support import grammar, grammar_wide, oracle

_QUERIES = int(os.environ.get("OROCHI_TEST_QUERIES", "1200"))
_FIRST = int(os.environ.get("OROCHI_TEST_FIRST_QUERY", "0"))
_BATCH = 500
_ALL = "OROCHI_TEST_QUERIES" in os.environ
_STRATEGIES = ("", "pull", "pushdown", "two-phase", "exchange", "router")
#: Where the tables are: rows in the heap, and rows in stripes beside others.
_SCHEMAS = ("public", "striped")


@pytest.fixture(scope="module")
def world(module_pair: oracle.Pair) -> oracle.Pair:
    """The grammars' tables, distributed; in `striped` one of them also in chunks, every other of those compressed."""
    module_pair.both("CREATE SCHEMA striped")
    for schema in reversed(_SCHEMAS):
        module_pair.both(f"SET search_path = {schema}, orochi")
        for table, (columns, key) in grammar_wide.TABLES.items():
            module_pair.both(f"CREATE TABLE {table} ({columns})")
            if key:
                module_pair.orochi("SELECT create_distributed_table(%s, %s, 3)", (table, key))
            else:
                module_pair.orochi("SELECT create_reference_table(%s)", (table,))
        if schema == "striped":
            module_pair.orochi("SELECT create_hypertable('q', 'at', INTERVAL '3 days')")
        for statement in grammar_wide.fill(1):
            module_pair.both(statement)
        if schema == "striped":
            for (chunk,) in module_pair.orochi("SELECT show_chunks('q')")[::2]:
                module_pair.orochi("SELECT compress_chunk(%s)", (chunk,))
    return module_pair


def _query(seed: int) -> str:
    return (grammar_wide.Wide if seed % 2 else grammar.Grammar)(seed).query()


@pytest.mark.parametrize("start", range(_FIRST, _FIRST + _QUERIES, _BATCH))
@pytest.mark.timeout(1800)
def test_queries(world: oracle.Pair, start: int) -> None:
    problems = []
    plans: dict[tuple[str, str], list[int]] = {}
    for seed in range(start, min(start + _BATCH, _FIRST + _QUERIES)):
        turn = _STRATEGIES[seed // 2 % len(_STRATEGIES)]
        for strategy in _STRATEGIES if _ALL else (turn,):
            plans.setdefault(("public", strategy), []).append(seed)
            if _ALL or seed % 5 == 0:
                plans.setdefault(("striped", strategy), []).append(seed)
    for (schema, strategy), seeds in plans.items():
        world.both(f"SET search_path = {schema}, orochi")
        world.gateway.execute("SELECT set_config('orochi.force_strategy', %s, false)", (strategy,))
        world.gateway.execute(f"SET orochi.small_query_bytes TO {0 if schema == 'striped' else 'DEFAULT'}")
        for seed in seeds:
            sql = _query(seed)
            theirs = oracle.ask(world.plain, sql)
            assert theirs.sqlstate is None, f"{sql}: {theirs.message}"
            try:
                oracle.assert_same(sql, oracle.ask(world.gateway, sql), theirs)
            except AssertionError as error:
                problems.append(f"seed {seed}, {schema}, strategy {strategy or 'free'}: {error}")
    world.gateway.execute("RESET orochi.force_strategy; RESET orochi.small_query_bytes")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("start", range(_FIRST, _FIRST + _QUERIES, _BATCH))
@pytest.mark.timeout(1800)
def test_partitions(world: oracle.Pair, start: int) -> None:
    """The rows of a query are those where a predicate holds, those where not, and those where it is null."""
    problems = []
    world.both("SET search_path = public, orochi")
    for seed in range(start, start + _BATCH, 1 if _ALL else 25):
        whole, parts = grammar.Grammar(seed).partition()
        theirs = oracle.ask(world.plain, whole)
        assert theirs.sqlstate is None, f"{whole}: {theirs.message}"
        answers = [oracle.ask(world.gateway, part) for part in parts]
        rows = [row for answer in answers for row in answer.rows]
        if any(answer.sqlstate for answer in answers) or _sorted(rows) != _sorted(list(theirs.rows)):
            problems.append(
                f"seed {seed}: {whole}\n{[(a.tag, a.sqlstate, a.message) for a in answers]}\n{parts}"
            )
    assert not problems, "\n".join(problems)


def _sorted(rows: list[oracle.Row]) -> list[oracle.Row]:
    return sorted(rows, key=lambda row: [(value is None, value or b"") for value in row])
