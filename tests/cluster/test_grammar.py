"""Queries of a grammar on every strategy, and split by a predicate: the rows are PostgreSQL's each time.

Every query runs as the planner likes, and under one forced strategy, in turn; with more queries than
CI runs (`make fuzz N=10000`), under each of them.
"""

from __future__ import annotations

import os

import pytest

from tests.support import grammar, oracle

_QUERIES = int(os.environ.get("OROCHI_TEST_QUERIES", "200"))
_FIRST = int(os.environ.get("OROCHI_TEST_FIRST_QUERY", "0"))
_BATCH = 50
_ALL = "OROCHI_TEST_QUERIES" in os.environ
_STRATEGIES = ("pull", "pushdown", "two-phase", "exchange", "router")


@pytest.fixture(scope="module")
def world(module_pair: oracle.Pair) -> oracle.Pair:
    """The grammar's tables: distributed, one of them also in chunks, every other of those compressed."""
    for table, (columns, key) in grammar.TABLES.items():
        module_pair.both(f"CREATE TABLE {table} ({columns})")
        if key:
            module_pair.orochi("SELECT create_distributed_table(%s, %s, 3)", (table, key))
        else:
            module_pair.orochi("SELECT create_reference_table(%s)", (table,))
    module_pair.orochi("SELECT create_hypertable('q', 'at', INTERVAL '3 days')")
    for statement in grammar.fill(1):
        module_pair.both(statement)
    for (chunk,) in module_pair.orochi("SELECT show_chunks('q')")[::2]:
        module_pair.orochi("SELECT compress_chunk(%s)", (chunk,))
    return module_pair


@pytest.mark.parametrize("start", range(_FIRST, _FIRST + _QUERIES, _BATCH))
def test_queries(world: oracle.Pair, start: int) -> None:
    problems = []
    for seed in range(start, min(start + _BATCH, _FIRST + _QUERIES)):
        sql = grammar.Grammar(seed).query()
        theirs = oracle.ask(world.plain, sql)
        assert theirs.sqlstate is None, f"{sql}: {theirs.message}"
        forced = _STRATEGIES if _ALL else (_STRATEGIES[seed % len(_STRATEGIES)],)
        for strategy in ("", *forced):
            world.gateway.execute("SELECT set_config('orochi.force_strategy', %s, false)", (strategy,))
            try:
                oracle.assert_same(sql, oracle.ask(world.gateway, sql), theirs)
            except AssertionError as error:
                problems.append(f"seed {seed}, strategy {strategy or 'free'}: {error}")
    world.gateway.execute("RESET orochi.force_strategy")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("start", range(_FIRST, _FIRST + _QUERIES, _BATCH))
def test_partitions(world: oracle.Pair, start: int) -> None:
    """The rows of a query are those where a predicate holds, those where not, and those where it is null."""
    problems = []
    for seed in range(start, start + _BATCH, 1 if _ALL else 5):
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
