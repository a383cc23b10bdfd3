"""TPC-H's 22 queries: PostgreSQL's answers, and none by pull, from heap and from stripes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.support import cluster as clusters
from tests.support import oracle, pairs, tpch, tpch_queries

_LAYOUTS = {
    "by key": {"spread": True},
    "reference": {"spread": False},
    "columnar": {"spread": True, "columnar": True},
}


@pytest.fixture(scope="module", params=_LAYOUTS)
def tpch_pair(request: pytest.FixtureRequest, cluster: clusters.Cluster) -> Iterator[oracle.Pair]:
    pair = pairs.opened(cluster, "tpch")
    try:
        pair.both("CREATE SCHEMA tpch")
        tpch.load(pair, 0.001, **_LAYOUTS[request.param])
        yield pair
    finally:
        pairs.close(pair, "tpch")


@pytest.mark.parametrize("number", tpch_queries.QUERIES)
def test_query(tpch_pair: oracle.Pair, number: int) -> None:
    sql = tpch_queries.QUERIES[number]
    text = "\n".join(str(row[0]) for row in tpch_pair.orochi(f"EXPLAIN {sql}"))
    assert not re.search(r"Orochi Pull", text), text
    answer = tpch_pair.same(sql)
    assert answer.rows or number == 11, "the query finds nothing in these rows"
