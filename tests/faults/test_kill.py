"""kill -9 at any moment: the right answer, or a clean error in time; never a wrong answer, never a lost row."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time

import psycopg
import pytest

from tests.support import cluster as clusters
from tests.support import faults, oracle

#: Nothing hangs. How long it takes is no test's business: on a busy machine, several times as long.
_BOUND_SECONDS = 90.0


def run_while(cluster: clusters.Cluster, breaking: threading.Thread, seconds: float = 4) -> list[float]:
    """Ask again and again while `breaking` happens; how long each statement took."""
    durations = []
    breaking.start()
    stop = time.monotonic() + seconds
    connection: psycopg.Connection[object] | None = None
    while time.monotonic() < stop or breaking.is_alive():
        began = time.monotonic()
        try:
            if connection is None or connection.closed:
                connection = cluster.connect()
            row = connection.execute(faults.QUERY).fetchone()
            assert row == faults.ANSWER
        except psycopg.Error as error:
            if connection is not None and not connection.closed and error.sqlstate is None:
                raise AssertionError("an error without SQLSTATE on a living connection") from error
            time.sleep(0.1)
        durations.append(time.monotonic() - began)
    if connection is not None:
        connection.close()
    return durations


@pytest.mark.parametrize("seed", [1, 2])
def test_workers(victim: clusters.Cluster, seed: int) -> None:
    faults.answers_again(victim)
    chance = random.Random(seed)

    def kill_some() -> None:
        for _ in range(2):
            time.sleep(chance.uniform(0.1, 1.0))
            clusters.kill(chance.choice(victim.pids("workers")))

    durations = run_while(victim, threading.Thread(target=kill_some))
    assert max(durations) < _BOUND_SECONDS
    faults.answers_again(victim)


def test_all_workers_at_once(victim: clusters.Cluster) -> None:
    faults.answers_again(victim)
    for pid in victim.pids("workers"):
        clusters.kill(pid)
    faults.answers_again(victim)


def test_valkey(victim: clusters.Cluster) -> None:
    """Losing Valkey loses nothing: the next query works within 15 s."""
    faults.answers_again(victim)
    [pid] = victim.pids("redis")
    clusters.kill(pid)
    faults.answers_again(victim)


def test_valkey_while_asking(victim: clusters.Cluster) -> None:
    faults.answers_again(victim)
    [pid] = victim.pids("redis")
    durations = run_while(victim, threading.Thread(target=clusters.kill, args=(pid,)))
    assert max(durations) < _BOUND_SECONDS
    faults.answers_again(victim)


def test_gateway(victim: clusters.Cluster) -> None:
    """Its clients lose their connections and their open transactions, nothing else."""
    faults.answers_again(victim)
    [pid] = victim.pids("gateway")
    with victim.connect() as connection:
        connection.execute("BEGIN")
        connection.execute("UPDATE numbers SET n = 0")
        clusters.kill(pid)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("COMMIT")
    faults.answers_again(victim)
    assert victim.pids("gateway") != [pid]


def test_gateway_during_commits(victim: clusters.Cluster) -> None:
    """Every transaction is wholly there or wholly not, and no prepared one stays behind."""
    faults.answers_again(victim)
    with victim.connect() as connection:
        connection.execute("CREATE TABLE moves (k int NOT NULL, batch int)")
        connection.execute("SELECT create_distributed_table('moves', 'k', 4)")
    [pid] = victim.pids("gateway")
    done = 0
    killer: threading.Timer | None = None
    with contextlib.suppress(psycopg.OperationalError), victim.connect() as connection:
        for batch in range(100_000):
            connection.execute(f"INSERT INTO moves SELECT g, {batch} FROM generate_series(1, 8) g")
            done = batch + 1
            if done == 10:
                killer = threading.Timer(random.Random(1).uniform(0, 0.1), clusters.kill, args=(pid,))
                killer.start()
    assert killer is not None
    killer.join()
    assert 10 <= done < 100_000
    faults.answers_again(victim)
    clusters.eventually(lambda: no_prepared_transactions(victim))
    with victim.connect() as connection:
        rows = connection.execute(
            "SELECT batch, count(*) FROM moves GROUP BY batch ORDER BY batch"
        ).fetchall()
        connection.execute("DROP TABLE moves")
    assert {count for _, count in rows} <= {8}
    assert done <= len(rows) <= done + 1


def no_prepared_transactions(cluster: clusters.Cluster) -> bool:
    for dsn in (*cluster.node_dsns, cluster.coordinator_dsn):
        with psycopg.connect(dsn, autocommit=True) as node:
            if node.execute("SELECT count(*) FROM pg_prepared_xacts").fetchone() != (0,):
                return False
    return True


def test_node(victim: clusters.Cluster) -> None:
    """A node's PostgreSQL dies: a clean error at once, and answers again when it is back."""
    faults.answers_again(victim)
    with victim.connect() as connection:
        clusters.kill(victim.pids("nodes")[0])
        began = time.monotonic()
        answer = oracle.ask(connection, faults.QUERY)
        assert time.monotonic() - began < _BOUND_SECONDS
        assert answer.sqlstate is not None or answer.values == [tuple(map(str, faults.ANSWER))]
        assert oracle.ask(connection, "SELECT 1").values == [("1",)]
    faults.answers_again(victim)
    clusters.eventually(lambda: no_prepared_transactions(victim))


def test_worker_while_compressing(victim: clusters.Cluster) -> None:
    faults.answers_again(victim)
    with victim.connect() as connection:
        [chunk] = connection.execute(
            "SELECT chunk_name FROM orochi.chunks WHERE NOT is_compressed AND hypertable LIKE '%numbers' LIMIT 1"
        ).fetchone() or [None]
        assert chunk is not None
        timer = threading.Timer(0.05, lambda: [clusters.kill(pid) for pid in victim.pids("workers")])
        timer.start()
        oracle.ask(connection, "SELECT compress_chunk(%s)", (chunk,))
        timer.join()
    faults.answers_again(victim)
    with victim.connect() as connection:
        clusters.eventually(
            lambda: oracle.ask(connection, "SELECT compress_chunk(%s, true)", (chunk,)).sqlstate is None
        )
    faults.answers_again(victim)


def test_paused_worker(victim: clusters.Cluster) -> None:
    """A worker that hangs is noticed by its silence."""
    faults.answers_again(victim)
    pid = victim.pids("workers")[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        with victim.connect() as connection:
            began = time.monotonic()
            answer = oracle.ask(connection, faults.QUERY)
            assert time.monotonic() - began < _BOUND_SECONDS
            assert answer.sqlstate is not None or answer.values == [tuple(map(str, faults.ANSWER))]
    finally:
        os.kill(pid, signal.SIGCONT)
    faults.answers_again(victim)


def test_a_job_outlives_its_worker(victim: clusters.Cluster) -> None:
    """The run of a killed worker is told as such, and the job runs again, once at a time."""
    faults.answers_again(victim)
    with victim.connect() as connection:
        connection.execute("CREATE TABLE runs (job int, ended bool)")
        connection.execute(
            "CREATE PROCEDURE slow(job_id int, config jsonb) LANGUAGE plpgsql AS $$ BEGIN"
            " INSERT INTO runs VALUES (job_id, false); COMMIT;"
            " PERFORM pg_sleep(250) WHERE (SELECT count(*) FROM runs) = 1;"  # the first is killed in here
            " INSERT INTO runs VALUES (job_id, true); END $$"
        )
        row = connection.execute("SELECT add_job('slow', '1 day')").fetchone()
        assert row is not None

        def told(column: str) -> int:
            found = connection.execute(f"SELECT {column} FROM runs".encode()).fetchone()
            return int(found[0]) if found else 0

        clusters.eventually(lambda: told("count(*)") == 1)
        for line in victim.status()["processes"]:
            if line["name"].startswith("jobs"):
                clusters.kill(line["pid"])
        clusters.eventually(lambda: told("count(*) FILTER (WHERE ended)") == 1)
        history = connection.execute(
            "SELECT state FROM orochi.job_history WHERE job_id = %s ORDER BY id", row
        ).fetchall()
        assert history[0] == ("crashed",)
        assert told("count(*)") == 3
        connection.execute("SELECT delete_job(%s)", row)
