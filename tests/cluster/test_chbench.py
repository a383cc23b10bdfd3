"""CH-benCHmark's 22 queries over TPC-C's tables: PostgreSQL's answers, none by pull, from heap and from stripes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import chbench, chbench_queries, oracle, pairs
from tests.support import cluster as clusters


@pytest.fixture(scope="module", params=[False, True], ids=["heap", "columnar"])
def chbench_pair(request: pytest.FixtureRequest, cluster: clusters.Cluster) -> Iterator[oracle.Pair]:
    pair = pairs.opened(cluster, "chbench")
    try:
        pair.both("CREATE SCHEMA chbench")
        chbench.load(pair, columnar=request.param)
        yield pair
    finally:
        pairs.close(pair, "chbench")


@pytest.mark.parametrize("number", chbench_queries.QUERIES)
def test_query(chbench_pair: oracle.Pair, number: int) -> None:
    sql = chbench_queries.QUERIES[number]
    text = "\n".join(str(row[0]) for row in chbench_pair.orochi(f"EXPLAIN {sql}"))
    assert "Orochi Pull" not in text, text
    assert chbench_pair.same(sql).rows, "the query finds nothing in these rows"
