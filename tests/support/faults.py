"""What a broken cluster must still answer, and the questions the fault tests ask it."""

from __future__ import annotations

import psycopg

from tests.support import cluster as clusters

#: Sums over the filled table, which every answer must show however many processes died.
ROWS, TOTAL = 60_000, 60_000 * 60_001 // 2
QUERY = "SELECT count(*), sum(n), count(DISTINCT k) FROM numbers"
ANSWER = (ROWS, TOTAL, 500)


def answer(cluster: clusters.Cluster) -> tuple[object, ...] | None:
    """The query's row through a new connection."""
    with cluster.connect() as connection:
        return connection.execute(QUERY).fetchone()


def answers_again(cluster: clusters.Cluster, seconds: float = 120) -> None:
    """Within `seconds` a new client gets the right answer; a wrong one fails at once."""

    def right() -> bool:
        try:
            row = answer(cluster)
        except psycopg.Error:
            return False
        assert row == ANSWER
        return True

    clusters.eventually(right, seconds)
