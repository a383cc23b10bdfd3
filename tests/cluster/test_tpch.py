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
    # from rows that workers keep, and have taken into DuckDB by now
    oracle.assert_same(sql, oracle.ask(tpch_pair.gateway, sql), answer)


def test_after_writes(tpch_pair: oracle.Pair) -> None:
    """What workers keep of an earlier statement does not answer a later one."""
    writes = (
        "UPDATE lineitem SET l_quantity = l_quantity + 1.5, l_discount = 0.05 WHERE l_orderkey % 7 = 1",
        "DELETE FROM lineitem WHERE l_orderkey % 11 = 2",
        "UPDATE supplier SET s_acctbal = s_acctbal + 1, s_nationkey = 3 WHERE s_suppkey % 3 = 1",
        "DELETE FROM orders WHERE o_orderkey % 13 = 3",
        "DELETE FROM customer WHERE c_custkey % 17 = 4",
    )
    for write in writes:
        tpch_pair.both(write)
        for number in (1, 6, 11, 13, 14):
            tpch_pair.same(tpch_queries.QUERIES[number])
    for number in (3, 5, 9, 18, 20, 22):
        tpch_pair.same(tpch_queries.QUERIES[number])
