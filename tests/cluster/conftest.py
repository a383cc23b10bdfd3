"""Fixtures over the session's cluster: the flights, loaded once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import cluster as clusters
from tests.support import flights, oracle, pairs


@pytest.fixture(scope="session")
def flights_pair(cluster: clusters.Cluster) -> Iterator[oracle.Pair]:
    """Gateway and plain PostgreSQL with the flights in schema `nyc`; read only."""
    pair = pairs.opened(cluster, "nyc")
    pair.both("CREATE SCHEMA nyc")
    flights.load(pair)
    yield pair
    pairs.close(pair, "nyc")
