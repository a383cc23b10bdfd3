"""Opening and closing the two clients of a test: one of the gateway, one of plain PostgreSQL."""

from __future__ import annotations

import psycopg

from tests.support import cluster as clusters
from tests.support import oracle


def opened(running: clusters.Cluster, schema: str) -> oracle.Pair:
    """Clients of the gateway and of plain PostgreSQL whose current schema is `schema`."""
    gateway = running.connect(prepare_threshold=None)
    plain = running.connect_coordinator("plain", prepare_threshold=None)
    gateway.execute(f"SET search_path TO {schema}, orochi, public")
    plain.execute(f"SET search_path TO {schema}, public")
    return oracle.Pair(gateway, plain)


def close(pair: oracle.Pair, schema: str) -> None:
    """Drop what the test made, on both sides."""
    try:
        for connection in (pair.gateway, pair.plain):
            if connection.closed:
                continue
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                connection.rollback()
            connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
    finally:
        pair.gateway.close()
        pair.plain.close()
