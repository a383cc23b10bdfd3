"""`orochi.snapshot_reads`: a read of several nodes sees all of a commit or nothing of it."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator

import psycopg
import pytest

from orochi.catalog import twophase
from tests.support import cluster as clusters
from tests.support import oracle

ACCOUNTS, EACH = 40, 100
SUM = "SELECT sum(balance)::int, count(*)::int FROM bank.accounts"
WHOLE = (ACCOUNTS * EACH, ACCOUNTS)


@pytest.fixture(scope="module")
def bank(cluster: clusters.Cluster) -> Iterator[clusters.Cluster]:
    """Accounts on two nodes, and a log of them by time."""
    with cluster.connect() as connection:
        connection.execute("CREATE SCHEMA bank")
        connection.execute("CREATE TABLE bank.accounts (id int PRIMARY KEY, balance bigint)")
        connection.execute("SELECT create_distributed_table('bank.accounts', 'id', 4)")
        connection.execute(
            f"INSERT INTO bank.accounts SELECT g, {EACH} FROM generate_series(1, {ACCOUNTS}) g"
        )
        connection.execute("CREATE TABLE bank.log (id int, at timestamptz NOT NULL, n int)")
        connection.execute("SELECT create_distributed_table('bank.log', 'id', 4)")
        connection.execute("SELECT create_hypertable('bank.log', 'at', INTERVAL '1 month')")
        connection.execute("INSERT INTO bank.log SELECT g, '2024-01-05', 1 FROM generate_series(1, 40) g")
    yield cluster
    with cluster.connect() as connection:
        connection.execute("DROP SCHEMA bank CASCADE")


@pytest.fixture
def reader(bank: clusters.Cluster) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with bank.connect() as connection:
        connection.execute("SET orochi.snapshot_reads = on")
        yield connection


def accounts_of_nodes(bank: clusters.Cluster) -> list[tuple[str, str, int]]:
    """For each node its DSN, a shard's relation there, and an account in it."""
    found = []
    for dsn in bank.node_dsns:
        with psycopg.connect(dsn, autocommit=True) as node:
            tables = node.execute(
                "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
                " WHERE schemaname LIKE 'orochi\\_s%' AND tablename = 'accounts' ORDER BY 1"
            ).fetchall()
            for (table,) in tables:
                row = node.execute(f"SELECT min(id) FROM {table}").fetchone()
                if row is not None and row[0] is not None:
                    found.append((dsn, table, row[0]))
                    break
    return found


def prepare(bank: clusters.Cluster, gid: str) -> list[tuple[str, str]]:
    """A transfer between two nodes as a gateway prepares it; each branch with its node's DSN."""
    branches = []
    for (dsn, table, account), amount in zip(accounts_of_nodes(bank), (-7, 7), strict=True):
        with psycopg.connect(dsn, autocommit=True) as node:
            branch = twophase.branch(gid, bank.node_dsns.index(dsn) + 1)
            node.execute("BEGIN")
            node.execute(f"UPDATE {table} SET balance = balance + {amount} WHERE id = {account}")
            node.execute(f"PREPARE TRANSACTION '{branch}'")
            branches.append((dsn, branch))
    return branches


def finish(branch: tuple[str, str], command: str) -> None:
    with psycopg.connect(branch[0], autocommit=True) as node, contextlib.suppress(psycopg.Error):
        node.execute(f"{command} '{branch[1]}'")


def decide(coordinator: psycopg.Connection[tuple[object, ...]], gid: str) -> None:
    coordinator.execute("SELECT orochi._record_decision(%s, ARRAY[-1, 1, 2])", (gid,))


def new_gid(coordinator: psycopg.Connection[tuple[object, ...]]) -> str:
    row = coordinator.execute(twophase.CLUSTER_ID_SQL).fetchone()
    assert row is not None
    return twophase.gid(str(row[0]), f"test{random.getrandbits(40):x}")


def test_commit_of_a_dead_gateway_is_finished_first(
    bank: clusters.Cluster, reader: psycopg.Connection[tuple[object, ...]]
) -> None:
    with bank.connect_coordinator() as coordinator:
        gid = new_gid(coordinator)
        first, second = prepare(bank, gid)
        decide(coordinator, gid)
    finish(first, "COMMIT PREPARED")
    assert reader.execute(SUM).fetchone() == WHOLE
    with psycopg.connect(second[0]) as node:
        assert node.execute("SELECT FROM pg_prepared_xacts WHERE gid = %s", (second[1],)).fetchone() is None


def test_undecided_is_not_seen_and_not_waited_for(
    bank: clusters.Cluster, reader: psycopg.Connection[tuple[object, ...]]
) -> None:
    with bank.connect_coordinator() as coordinator:
        branches = prepare(bank, new_gid(coordinator))
    assert reader.execute(SUM).fetchone() == WHOLE
    for branch in branches:
        finish(branch, "ROLLBACK PREPARED")
    assert reader.execute(SUM).fetchone() == WHOLE


def test_waits_for_a_commit_under_way(
    bank: clusters.Cluster, reader: psycopg.Connection[tuple[object, ...]]
) -> None:
    """The lock is the committer's: a read waits, and is answered when its holder dies."""
    answers: list[object] = []
    with bank.connect_coordinator() as committer, bank.connect_coordinator() as watcher:
        committer.execute("SELECT pg_advisory_lock_shared(%s)", (twophase.COMMIT_LOCK,))
        asking = threading.Thread(target=lambda: answers.append(reader.execute(SUM).fetchone()))
        asking.start()
        waiting = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = %s"
        clusters.eventually(
            lambda: watcher.execute(waiting, (twophase.COMMIT_LOCK & 0xFFFFFFFF,)).fetchone() is not None
        )
        assert answers == []
        watcher.execute("SELECT pg_terminate_backend(%s)", (committer.info.backend_pid,))
        asking.join(120)
    assert answers == [WHOLE]


def test_commits_wait_for_a_taker_until_it_dies(bank: clusters.Cluster) -> None:
    done: list[str] = []

    def move() -> None:
        with bank.connect(autocommit=False) as writer:
            writer.execute("UPDATE bank.accounts SET balance = balance + 0")
            writer.commit()
            done.append("committed")

    with bank.connect_coordinator() as taker, bank.connect_coordinator() as watcher:
        taker.execute("SELECT pg_advisory_lock(%s)", (twophase.COMMIT_LOCK,))
        moving = threading.Thread(target=move)
        moving.start()
        waiting = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = %s"
        clusters.eventually(
            lambda: watcher.execute(waiting, (twophase.COMMIT_LOCK & 0xFFFFFFFF,)).fetchone() is not None
        )
        assert done == []
        watcher.execute("SELECT pg_terminate_backend(%s)", (taker.info.backend_pid,))
        moving.join(120)
        assert done == ["committed"]
        held = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = %s"
        # a commit is answered before the server has let go of the lock
        clusters.eventually(
            lambda: watcher.execute(held, (twophase.COMMIT_LOCK & 0xFFFFFFFF,)).fetchone() is None
        )


def test_no_torn_sums(bank: clusters.Cluster) -> None:
    """Readers of every kind beside transfers between nodes."""
    stop = threading.Event()
    wrong: list[object] = []

    def transfer(seed: int) -> None:
        chance = random.Random(seed)
        with bank.connect(autocommit=False) as writer:
            for _ in range(60):
                one, other = sorted(chance.sample(range(1, ACCOUNTS + 1), 2))  # sorted: no deadlocks
                writer.execute("UPDATE bank.accounts SET balance = balance - 1 WHERE id = %s", (one,))
                writer.execute("UPDATE bank.accounts SET balance = balance + 1 WHERE id = %s", (other,))
                writer.commit()

    def read(begin: str) -> None:
        with bank.connect() as connection:
            connection.execute("SET orochi.snapshot_reads = on")
            while not stop.is_set():
                if begin:
                    connection.execute(begin)
                rows = [connection.execute(SUM).fetchone() for _ in range(2)]
                if begin:
                    connection.execute("COMMIT")
                wrong.extend(row for row in rows if row != WHOLE)

    writers = [threading.Thread(target=transfer, args=(seed,)) for seed in (1, 2)]
    readers = [
        threading.Thread(target=read, args=(begin,))
        for begin in ("", "BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ")
    ]
    for thread in writers + readers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("setting", ["on", "off"])
def test_repeatable_read_block_is_one_snapshot(
    bank: clusters.Cluster, reader: psycopg.Connection[tuple[object, ...]], setting: str
) -> None:
    """Taken with the first use of any node, for all of them; own writes are seen."""
    reader.execute(f"SET orochi.snapshot_reads = {setting}")
    total = "SELECT sum(n)::int FROM bank.log"
    with bank.connect() as writer:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        assert reader.execute("SELECT n FROM bank.log WHERE id = 1").fetchone() == (1,)
        writer.execute("UPDATE bank.log SET n = n + 1")
        assert reader.execute(total).fetchone() == (40,)
        reader.execute("SAVEPOINT s")
        reader.execute("INSERT INTO bank.log SELECT g, '2024-01-06', 100 FROM generate_series(1, 10) g")
        assert reader.execute(total).fetchone() == (1040,)
        reader.execute("ROLLBACK TO s")
        assert reader.execute(total).fetchone() == (40,)
        assert oracle.ask(reader, "UPDATE bank.log SET n = 5 WHERE id = 1").sqlstate == "40001"
        reader.execute("ROLLBACK")
        assert reader.execute(total).fetchone() == (80,)
        writer.execute("UPDATE bank.log SET n = 1")


@pytest.mark.parametrize("setting", ["on", "off"])
def test_layout_changed_under_a_block(bank: clusters.Cluster, setting: str) -> None:
    """Rows that moved after the block's snapshot are not lost, nor read twice."""
    with bank.connect() as reader, bank.connect() as other:
        reader.execute(f"SET orochi.snapshot_reads = {setting}")
        chunks = [chunk for (chunk,) in other.execute("SELECT show_chunks('bank.log')").fetchall()]
        for function in ("compress_chunk", "decompress_chunk"):
            reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            assert reader.execute("SELECT n FROM bank.log WHERE id = 1").fetchone() == (1,)
            reader.execute("COMMIT AND CHAIN")
            assert reader.execute("SELECT count(*)::int FROM bank.accounts").fetchone() == (ACCOUNTS,)
            for chunk in chunks:
                other.execute(f"SELECT {function}(%s)", (chunk,))
            answer = oracle.ask(reader, "SELECT count(*)::int, sum(n)::int FROM bank.log")
            assert answer.sqlstate == "40001" or answer.values == [("40", "40")]
            reader.execute("ROLLBACK")
            assert reader.execute("SELECT count(*)::int, sum(n)::int FROM bank.log").fetchone() == (40, 40)


def test_what_cannot_be_kept_is_refused(
    bank: clusters.Cluster, reader: psycopg.Connection[tuple[object, ...]]
) -> None:
    reader.execute("BEGIN")
    reader.execute("UPDATE bank.accounts SET balance = balance + 0 WHERE id = 1")
    reader.execute("SAVEPOINT s")
    assert oracle.ask(reader, SUM).sqlstate == "0A000"
    reader.execute("ROLLBACK TO s")
    assert reader.execute("SELECT balance IS NULL FROM bank.accounts WHERE id = 1").fetchone() == (False,)
    reader.execute("SET LOCAL orochi.snapshot_reads = off")
    assert reader.execute(SUM).fetchone() == WHOLE
    reader.execute("COMMIT")
    for begin in ("BEGIN ISOLATION LEVEL SERIALIZABLE", "BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE"):
        reader.execute("SET orochi.snapshot_reads = off")
        reader.execute(begin)
        reader.execute("UPDATE bank.accounts SET balance = balance + 0 WHERE id = 1")
        answer = oracle.ask(reader, SUM)
        assert answer.sqlstate == "0A000"
        reader.execute("ROLLBACK")
    reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    reader.execute("SELECT FROM bank.accounts WHERE id = 1")
    reader.execute("SET LOCAL orochi.snapshot_reads = on")
    assert reader.execute(SUM).fetchone() == WHOLE
    reader.execute("ROLLBACK")
    assert reader.execute(SUM).fetchone() == WHOLE
