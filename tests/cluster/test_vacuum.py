"""VACUUM and ANALYZE of Orochi tables reach the shards, and what PostgreSQL says of rights and names is said."""

from __future__ import annotations

import time
from concurrent import futures
from typing import Any

import psycopg
import pytest

from orochi.timeseries import upkeep
from tests.support import cluster as clusters
from tests.support import oracle

_KNOWN = (
    "SELECT coalesce(sum(s.row_count), 0)::int FROM orochi.orochi_shards s"
    " JOIN orochi.orochi_tables t USING (table_oid) WHERE t.table_oid = %s::regclass"
)


@pytest.fixture(scope="module")
def pair(module_pair: oracle.Pair) -> oracle.Pair:
    """`t` over all nodes, `h` a hypertable, `"R ""x"` on each node, `l` local; all but `h` with rows."""
    module_pair.both(
        "CREATE TABLE t (id bigint PRIMARY KEY, v text)",
        'CREATE TABLE "R ""x" (id int PRIMARY KEY)',
        "CREATE TABLE h (at timestamptz NOT NULL, v int)",
        "CREATE TABLE l (id int)",
    )
    for call in (
        "create_distributed_table('t', 'id', 4)",
        'create_reference_table(\'"R ""x"\')',
        "create_hypertable('h', 'at')",
    ):
        module_pair.orochi(f"SELECT {call}")
    module_pair.both(
        "INSERT INTO t SELECT g, g % 7 FROM generate_series(1, 4000) g",
        'INSERT INTO "R ""x" SELECT generate_series(1, 10)',
        "INSERT INTO h SELECT timestamptz '2024-01-01' + g * interval '1 hour', g FROM generate_series(1, 1000) g",
    )
    return module_pair


def done(cluster: clusters.Cluster, schema: str, kind: str) -> int:
    """How often relations of shards were vacuumed, or analyzed, by hand."""
    total = 0
    for dsn in cluster.node_dsns:
        with psycopg.connect(dsn) as node:
            ((count,),) = node.execute(
                f"SELECT coalesce(sum({kind}_count), 0) FROM pg_stat_all_tables WHERE relname = %s".encode(),
                (schema,),
            ).fetchall()
            total += int(count)
    return total


def test_analyze_reaches_the_shards(pair: oracle.Pair, cluster: clusters.Cluster) -> None:
    """Each shard is analyzed, and what the planner knows of their rows is true at once."""
    for name, rows in (("t", 4000), ("h", 1000)):
        before = done(cluster, name, "analyze")
        pair.same(f"ANALYZE {name}")
        assert pair.gateway.execute(_KNOWN, (name,)).fetchall() == [(rows,)]
        assert done(cluster, name, "analyze") > before
    pair.same("DELETE FROM t WHERE id > 1000")
    pair.same("VACUUM (ANALYZE) t (id), h, l")
    assert pair.gateway.execute(_KNOWN, ("t",)).fetchall() == [(1000,)]
    pair.same('VACUUM "R ""x", t')
    pair.same("VACUUM FULL t")
    assert done(cluster, "t", "vacuum") >= 4
    for sql in ("ANALYZE", "SELECT count(*), sum(id) FROM t", "SELECT count(*) FROM h"):
        pair.same(sql)


def test_analyze_beside_statistics(pair: oracle.Pair, cluster: clusters.Cluster) -> None:
    """Statistics that were counted before cannot keep the numbers of an ANALYZE out, nor come after them."""
    pair.both("CREATE TABLE s (id int)")
    pair.orochi("SELECT create_distributed_table('s', 'id', 4)")
    pair.both("INSERT INTO s SELECT generate_series(1, 500)")
    waiting = f"SELECT count(*) FROM pg_locks WHERE classid = {upkeep.COUNTING_LOCK} AND NOT granted"
    with (
        futures.ThreadPoolExecutor(1) as pool,
        cluster.connect_coordinator() as looking,
        cluster.connect_coordinator(autocommit=False) as statistics,
    ):
        statistics.execute(
            "SELECT pg_advisory_xact_lock(%s, node_id) FROM orochi.orochi_nodes", (upkeep.COUNTING_LOCK,)
        )
        statistics.execute("SELECT FROM orochi.orochi_shards FOR NO KEY UPDATE")
        analyze = pool.submit(pair.gateway.execute, "ANALYZE s")
        while not analyze.done() and looking.execute(waiting.encode()).fetchall() == [(0,)]:
            time.sleep(0.02)
        statistics.rollback()
        analyze.result()
    assert pair.gateway.execute(_KNOWN, ("s",)).fetchall() == [(500,)]


def test_in_blocks(pair: oracle.Pair) -> None:
    """ANALYZE is part of a block, VACUUM cannot be."""
    pair.both("BEGIN")
    for sql in (
        "INSERT INTO t VALUES (-1, 'new')",
        "ANALYZE t",
        "SELECT count(*) FROM t",
        "VACUUM t",
        "SELECT 1",
        "ROLLBACK",
        "SELECT count(*) FROM t",
    ):
        pair.same(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "ANALYZE t (nope)",
        "ANALYZE nope, t",
        "ANALYZE t (id, id)",
        "VACUUM t (id)",
        "VACUUM (bogus) t",
        "VACUUM (FULL, PARALLEL 2) t",
    ],
)
def test_refused(pair: oracle.Pair, sql: str) -> None:
    """As PostgreSQL refuses it, and the session goes on."""
    pair.same(sql)
    pair.same("SELECT count(*) FROM t")


def test_rights(pair: oracle.Pair) -> None:
    """Who may not maintain a table is warned, and nothing is done."""

    def warned(connection: psycopg.Connection[Any], sql: str) -> list[str | None]:
        heard: list[str | None] = []
        handler = lambda said: heard.append(said.message_primary)  # noqa: E731
        connection.add_notice_handler(handler)
        connection.execute(sql.encode())
        connection.remove_notice_handler(handler)
        return heard

    pair.orochi("CREATE ROLE vacuum_nobody")
    ((schema,),) = pair.orochi("SELECT current_schema()")
    pair.both(
        f"GRANT USAGE ON SCHEMA {schema} TO vacuum_nobody",
        "GRANT ALL ON t TO vacuum_nobody",
        "REVOKE MAINTAIN ON t FROM vacuum_nobody",
    )
    try:
        pair.both("SET ROLE vacuum_nobody")
        for sql in ("VACUUM t", "ANALYZE t, h"):
            assert warned(pair.gateway, sql) == warned(pair.plain, sql) != []
    finally:
        pair.both(
            "RESET ROLE",
            "REVOKE ALL ON t FROM vacuum_nobody",
            f"REVOKE ALL ON SCHEMA {schema} FROM vacuum_nobody",
        )
        pair.orochi("DROP ROLE vacuum_nobody")
