"""Transactions as a client sees them: the same statements on plain PostgreSQL and over two nodes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest

from tests.support import cluster as clusters
from tests.support import oracle, pairs

ROWS = 40


@pytest.fixture(scope="module")
def pair(cluster: clusters.Cluster) -> Iterator[oracle.Pair]:
    made = pairs.opened(cluster, "tx")
    made.both(
        "CREATE SCHEMA tx",
        "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL)",
        "CREATE TABLE r (id int PRIMARY KEY, n int)",
        "CREATE TABLE here (id int PRIMARY KEY, n int)",
    )
    made.orochi("SELECT create_distributed_table('t', 'id', 4)")
    made.orochi("SELECT create_reference_table('r')")
    for name in ("t", "r", "here"):
        made.both(f"INSERT INTO {name} SELECT g, g FROM generate_series(1, {ROWS}) g")
    yield made
    pairs.close(made, "tx")


@pytest.mark.parametrize("second", ["t", "here"])
def test_deadlock(cluster: clusters.Cluster, pair: oracle.Pair, second: str) -> None:
    """Over two nodes, and over a node and the coordinator: one of the two ends, the other goes on."""
    # accounts 1..ROWS lie on both nodes: some pair of them does not share a server
    pairs_tried = [(1, other) for other in (2, 3, 5, 8)] if second == "t" else [(1, 1)]
    for one, other in pairs_tried:
        answers: dict[str, oracle.Answer] = {}
        with cluster.connect() as left, cluster.connect() as right:
            for connection in (left, right):
                connection.execute("SET search_path TO tx, public")
                connection.execute("BEGIN")
            left.execute("UPDATE t SET n = n WHERE id = %s", (one,))
            right.execute(f"UPDATE {second} SET n = n WHERE id = %s", (other,))

            waiting = threading.Thread(
                target=_run, args=(answers, "left", left, f"UPDATE {second} SET n = n WHERE id = {other}")
            )
            waiting.start()
            _run(answers, "right", right, f"UPDATE t SET n = n WHERE id = {one}")
            waiting.join()
        assert sorted(str(answer.sqlstate) for answer in answers.values()) == ["40P01", "None"]
        [victim] = [answer for answer in answers.values() if answer.sqlstate]
        assert victim.message == "deadlock detected"


def _run(
    answers: dict[str, oracle.Answer], name: str, connection: psycopg.Connection[tuple[object, ...]], sql: str
) -> None:
    answers[name] = oracle.ask(connection, sql)
    connection.execute("ROLLBACK")
