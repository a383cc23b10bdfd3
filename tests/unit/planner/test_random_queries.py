"""Queries made at random: every way of answering them gives PostgreSQL's rows and types."""

from __future__ import annotations

import os

import pytest

from tests.support import oracle, planner_queries, planner_world

_SEEDS = range(int(os.environ.get("OROCHI_PLANNER_QUERIES", "160")))
_PER_TEST = 40


@pytest.mark.parametrize("first", _SEEDS[::_PER_TEST])
def test_random_queries(world: planner_world.World, first: int) -> None:
    for seed in range(first, first + _PER_TEST):
        sql = planner_queries.query(seed)
        expected = world.plain(sql)
        for strategy in ("", "repartition", "pull"):
            world.settings["orochi.force_strategy"] = strategy
            answer = world.run(sql)
            assert answer.types == expected.types, (seed, strategy, sql)
            assert answer.sorted_rows() == expected.sorted_rows(), (seed, strategy, sql)
            if oracle.is_ordered(sql):
                assert answer.rounded() == expected.rounded(), (seed, strategy, sql)
