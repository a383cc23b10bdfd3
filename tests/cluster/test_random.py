"""Random queries: whatever the planner makes of them, the rows are PostgreSQL's."""

from __future__ import annotations

import os

import pytest

from tests.support import oracle, random_sql

#: `OROCHI_TEST_SEEDS=1000-1999` tries others.
_FIRST, _LAST = map(int, os.environ.get("OROCHI_TEST_SEEDS", "1-30").split("-"))


@pytest.mark.parametrize("seed", range(_FIRST, _LAST + 1))
def test_seed(flights_pair: oracle.Pair, seed: int) -> None:
    flights_pair.same(random_sql.Generator(seed).query())
