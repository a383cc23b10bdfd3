"""Fixtures over the session's cluster: the flights, loaded once, and another session."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
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


@pytest.fixture
def other(cluster: clusters.Cluster, pair: oracle.Pair) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """Another session of the gateway, in the schema of the pair."""
    with cluster.connect(prepare_threshold=None) as connection:
        row = pair.gateway.execute("SHOW search_path").fetchone()
        assert row is not None
        connection.execute(f"SET search_path TO {row[0]}")
        connection.execute("SET statement_timeout TO '60s'")
        yield connection
