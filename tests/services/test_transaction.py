from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator

import psycopg
import pytest

from orochi import errors, ids, settings
from orochi.catalog import snapshot as snapshots
from orochi.catalog import twophase
from orochi.executor import node_pool, recovery, transaction
from orochi.pgwire import client
from tests.support import services

DECISIONS = """
CREATE SCHEMA orochi;
CREATE TABLE orochi.orochi_transactions (
    gid text, node_id int, created_at timestamptz DEFAULT now(), PRIMARY KEY (gid, node_id));
CREATE FUNCTION orochi._record_decision(gid text, node_ids int[]) RETURNS void LANGUAGE sql
AS 'INSERT INTO orochi.orochi_transactions (gid, node_id) SELECT gid, unnest(node_ids)';
CREATE TABLE local (a int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED);
"""


class Cluster:
    """Three databases of one server: a coordinator and two nodes, each with a table `t`."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        parts = psycopg.conninfo.conninfo_to_dict(dsn)
        self.port = int(parts["port"])
        self.settings = settings.Settings(coordinator_dsn=self.database("co"), node_pool_size=4)
        with psycopg.connect(dsn, autocommit=True) as connection:
            for name in ("co", "n1", "n2"):
                connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
                connection.execute(f"CREATE DATABASE {name}")
        self.run("co", DECISIONS)
        for name in ("n1", "n2"):
            self.run(name, "CREATE TABLE t (a int PRIMARY KEY)")

    def database(self, name: str) -> str:
        return f"postgresql://orochi@127.0.0.1:{self.port}/{name}"

    def run(self, name: str, sql: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.database(name), autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def rows(self) -> list[list[object]]:
        return [[row[0] for row in self.run(name, "SELECT a FROM t ORDER BY a")] for name in ("n1", "n2")]

    def prepared(self) -> list[str]:
        return [str(row[0]) for row in self.run("co", "SELECT gid FROM pg_prepared_xacts ORDER BY gid")]

    def nodes(self) -> dict[ids.NodeId, snapshots.Node]:
        return {
            ids.NodeId(n): snapshots.Node(
                ids.NodeId(n), "127.0.0.1", self.port, f"n{n}", "data", "active", True
            )
            for n in (1, 2)
        }

    def pool(self) -> node_pool.NodePool:
        return node_pool.NodePool(self.settings, self.nodes)

    async def coordinator(self) -> client.PgConnection:
        return await client.PgConnection.connect("127.0.0.1", self.port, "orochi", None, "co")

    def recover(self, grace: float = 0.0) -> recovery.Outcome:
        nodes = {1: self.database("n1"), 2: self.database("n2")}
        outcome, deadline = None, time.monotonic() + 20
        while outcome is None and time.monotonic() < deadline:  # the one before may not have left yet
            outcome = recovery.resolve(self.database("co"), nodes, grace_seconds=grace)
        assert outcome is not None
        return outcome


@pytest.fixture(scope="module")
def server() -> Iterator[services.Server]:
    with services.postgres() as running:
        yield running


@pytest.fixture
def cluster(server: services.Server) -> Cluster:
    return Cluster(server.dsn)


async def write(t: transaction.Transaction, *pairs: tuple[int, int]) -> None:
    for node_id, value in pairs:
        connection = await t.node(node_id, write=True)
        await connection.query(f"INSERT INTO public.t VALUES ({value})")


def test_two_writers_commit_together(cluster: Cluster) -> None:
    async def scenario() -> None:
        pool, coordinator = cluster.pool(), await cluster.coordinator()
        t = transaction.Transaction(pool, dict)
        await write(t, (1, 1), (2, 1))
        assert t.wrote
        assert cluster.rows() == [[], []]
        assert await t.commit(coordinator) == "COMMIT"
        assert not t.participants
        await pool.close()
        coordinator.close()

    asyncio.run(scenario())
    assert cluster.rows() == [[1], [1]]
    assert cluster.prepared() == []
    assert cluster.recover().forgotten == 2
    assert cluster.run("co", "SELECT * FROM orochi.orochi_transactions") == []


def test_coordinator_commit_failure_rolls_back_nodes(cluster: Cluster) -> None:
    async def scenario() -> None:
        pool, coordinator = cluster.pool(), await cluster.coordinator()
        t = transaction.Transaction(pool, dict)
        t.in_block = True
        await coordinator.query("BEGIN")
        await coordinator.query("INSERT INTO local VALUES (1), (1)")
        await write(t, (1, 1))
        with pytest.raises(errors.RemoteError) as caught:
            await t.commit(coordinator)
        assert caught.value.sqlstate == "23505"
        assert coordinator.status == "I"
        await pool.close()

    asyncio.run(scenario())
    assert cluster.rows() == [[], []]
    assert cluster.prepared() == []
    assert cluster.run("co", "SELECT * FROM orochi.orochi_transactions") == []


def test_one_writer_commits_plainly_and_readers_are_let_go(cluster: Cluster) -> None:
    async def scenario() -> None:
        pool, coordinator = cluster.pool(), await cluster.coordinator()
        t = transaction.Transaction(pool, dict)
        t.in_block = True
        await coordinator.query("BEGIN")
        await coordinator.query("SELECT 1")
        await write(t, (2, 7))
        await (await t.node(1, write=False)).query("SELECT * FROM public.t")
        assert await t.commit(coordinator) == "COMMIT"
        assert coordinator.status == "I"
        await pool.close()

    asyncio.run(scenario())
    assert cluster.rows() == [[], [7]]
    assert cluster.run("co", "SELECT * FROM orochi.orochi_transactions") == []


def test_savepoints_reach_nodes_that_join_later(cluster: Cluster) -> None:
    async def scenario() -> None:
        pool, coordinator = cluster.pool(), await cluster.coordinator()
        t = transaction.Transaction(pool, dict)
        t.in_block = True
        await coordinator.query("BEGIN")
        await write(t, (1, 1))
        await t.savepoint("a b")
        await write(t, (1, 2), (2, 2))
        await t.savepoint("inner")
        await t.rollback_to("a b")
        with pytest.raises(errors.OrochiError):
            await t.rollback_to("inner")
        await write(t, (2, 3))
        await t.release("a b")
        await t.commit(coordinator)
        await pool.close()

    asyncio.run(scenario())
    assert cluster.rows() == [[1], [3]]


def test_failed_participant_refuses_commit(cluster: Cluster) -> None:
    async def scenario() -> None:
        pool, coordinator = cluster.pool(), await cluster.coordinator()
        t = transaction.Transaction(pool, dict)
        t.in_block = True
        await coordinator.query("BEGIN")
        await write(t, (1, 1), (2, 1))
        with pytest.raises(errors.RemoteError):
            await write(t, (1, 1))
        assert t.failed
        assert await t.commit(coordinator) == "ROLLBACK"
        await pool.close()

    asyncio.run(scenario())
    assert cluster.rows() == [[], []]


@pytest.mark.parametrize("decided", [True, False])
def test_recovery_follows_the_decision(cluster: Cluster, decided: bool) -> None:
    cluster_id = cluster.run("co", twophase.CLUSTER_ID_SQL)[0][0]
    gid = twophase.gid(str(cluster_id), "feed_1")
    for n in (1, 2):
        cluster.run(
            f"n{n}", f"BEGIN; INSERT INTO t VALUES (5); PREPARE TRANSACTION '{twophase.branch(gid, n)}'"
        )
    assert cluster.recover(grace=60.0) == recovery.Outcome()
    if decided:
        cluster.run("co", f"SELECT orochi._record_decision('{gid}', '{{-1,1,2}}')")
    outcome = cluster.recover()
    assert (outcome.committed, outcome.aborted) == ((2, 0) if decided else (0, 2))
    assert cluster.rows() == ([[5], [5]] if decided else [[], []])
    assert cluster.prepared() == []
    if not decided:
        with pytest.raises(psycopg.errors.UniqueViolation):  # the gateway comes too late
            cluster.run("co", f"SELECT orochi._record_decision('{gid}', '{{-1,1,2}}')")
    else:
        assert cluster.run("co", "SELECT * FROM orochi.orochi_transactions") == []
    assert cluster.recover() == recovery.Outcome()


def test_recovery_waits_only_for_who_can_decide(cluster: Cluster) -> None:
    cluster_id = str(cluster.run("co", twophase.CLUSTER_ID_SQL)[0][0])
    with psycopg.connect(cluster.database("co")) as owner:
        gids = [twophase.new_gid(cluster_id, pid) for pid in (owner.info.backend_pid, 999_999_999)]
        for value, gid in enumerate(gids):
            branch = twophase.branch(gid, 1)
            cluster.run("n1", f"BEGIN; INSERT INTO t VALUES ({value}); PREPARE TRANSACTION '{branch}'")
        assert cluster.recover(grace=600.0).aborted == 1
        assert cluster.prepared() == [twophase.branch(gids[0], 1)]
    assert cluster.recover().aborted == 1


def test_lost_decision_is_unknown_and_recovered(cluster: Cluster) -> None:
    async def scenario() -> None:
        pool, coordinator = cluster.pool(), await cluster.coordinator()
        t = transaction.Transaction(pool, dict)
        await write(t, (1, 1), (2, 1))
        # the answer to the decision is lost: the coordinator connection dies meanwhile
        cluster.run("co", "ALTER FUNCTION orochi._record_decision(text, int[]) RENAME TO _real_decision")
        cluster.run(
            "co",
            "CREATE FUNCTION orochi._record_decision(gid text, node_ids int[]) RETURNS void LANGUAGE sql "
            "AS 'SELECT pg_terminate_backend(pg_backend_pid())'",
        )
        with pytest.raises(errors.OrochiError) as caught:
            await t.commit(coordinator)
        assert caught.value.sqlstate in {"08007", "57P01"}
        await pool.close()

    asyncio.run(scenario())
    cluster.recover()
    assert cluster.rows() == [[], []]
    assert cluster.prepared() == []


def test_pool_bounds_reuses_and_resets(cluster: Cluster) -> None:
    async def scenario() -> None:
        pool = cluster.pool()
        async with pool.lease(1, {"TimeZone": "Asia/Tokyo"}) as connection:
            first = connection
            assert (await connection.query("SHOW timezone"))[0].rows == [(b"Asia/Tokyo",)]
            assert (await connection.query("SHOW search_path"))[0].rows == [(b"pg_catalog",)]
        async with pool.lease(1, {}) as connection:
            assert connection is first
            assert (await connection.query("SHOW timezone"))[0].rows == [(b"UTC",)]
            await connection.query("BEGIN")
        async with pool.lease(1, {}) as connection:
            assert connection is not first
            assert connection.status == "I"
        leased = [await pool.acquire(1, {}) for _ in range(4)]
        waiting = asyncio.ensure_future(pool.acquire(1, {}))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        pool.release(leased.pop())
        leased.append(await waiting)
        for connection in leased:
            pool.release(connection)
        gone = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = 'n1'"
        cluster.run("co", gone)  # and waits for that
        await asyncio.sleep(0.1)
        async with pool.lease(1, {}) as connection:
            await connection.query("SELECT 1")
        await pool.close()

    asyncio.run(scenario())


def test_settings_follow_the_session_inside_a_transaction(cluster: Cluster) -> None:
    async def scenario() -> None:
        pool, coordinator = cluster.pool(), await cluster.coordinator()
        session = {"TimeZone": "Asia/Tokyo"}
        t = transaction.Transaction(pool, lambda: session)
        t.in_block = True
        await coordinator.query("BEGIN")
        await t.node(1, write=False)
        session["TimeZone"] = "Asia/Kolkata"
        connection = await t.node(1, write=False)
        assert (await connection.query("SHOW timezone"))[0].rows == [(b"Asia/Kolkata",)]
        del session["TimeZone"]
        connection = await t.node(1, write=False)
        assert (await connection.query("SHOW timezone"))[0].rows != [(b"Asia/Kolkata",)]
        await t.commit(coordinator)
        await pool.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("gateways", [1, 2])
def test_deadlock_between_nodes_ends(cluster: Cluster, gateways: int) -> None:
    for name in ("n1", "n2"):
        cluster.run(name, "INSERT INTO t VALUES (1)")

    async def scenario() -> None:
        pools = [cluster.pool() for _ in range(gateways)]
        first, second = transaction.Transaction(pools[0], dict), transaction.Transaction(pools[-1], dict)

        async def lock(t: transaction.Transaction, node_id: int) -> None:
            connection = await t.node(node_id, write=True)
            await connection.query("SELECT FROM public.t FOR UPDATE")

        await lock(first, 1)
        await lock(second, 2)
        results = await asyncio.wait_for(
            asyncio.gather(
                _ending(lock(first, 2), first), _ending(lock(second, 1), second), return_exceptions=True
            ),
            60,
        )
        # whoever began to wait later is ended, and both began at about the same time
        [(victim, error)] = [
            (t, result) for t, result in zip((first, second), results, strict=True) if result is not None
        ]
        assert isinstance(error, errors.RemoteError)
        assert error.sqlstate == "57014"
        assert (second if victim is first else first).deadlock is None
        told = victim.told(error)
        assert isinstance(told, errors.DeadlockDetected)
        lines = (told.detail or "").splitlines()
        assert sorted(line.partition(" waits for ShareLock on transaction ")[0] for line in lines) == sorted(
            f"Process {t.owner}" for t in (first, second)
        )
        for pool in pools:
            await pool.close()

    async def _ending(work: Coroutine[None, None, None], t: transaction.Transaction) -> None:
        try:
            await work
        finally:
            await t.rollback()

    asyncio.run(scenario())


def test_a_connection_that_was_cancelled_is_nobody_elses(cluster: Cluster) -> None:
    async def scenario() -> None:
        pool = cluster.pool()
        t = transaction.Transaction(pool, dict)
        connection = await t.node(1, write=True)
        idle = await t.node(2, write=True)
        sleeping = asyncio.create_task(connection.query("SELECT pg_sleep(60)"))
        await asyncio.sleep(0)  # it is sent
        assert connection.busy
        await asyncio.sleep(0.2)  # and begun, most likely; if not, the cancel is in vain
        while not sleeping.done():
            await t.cancel()
            await asyncio.wait([sleeping], timeout=1)
        with pytest.raises(errors.RemoteError) as caught:
            await sleeping
        assert caught.value.sqlstate == "57014"
        await t.rollback()
        async with pool.lease(1) as next_one:
            assert next_one.pid != connection.pid  # another cancel of the old statement may be on its way
            assert (await next_one.query("SELECT 1"))[0].rows == [(b"1",)]
        async with pool.lease(2) as next_one:
            assert next_one.pid == idle.pid
        await pool.close()

    asyncio.run(scenario())
