"""The commands that start, show and stop a cluster."""

from __future__ import annotations

import re

from tests.support import cluster as clusters

_KEYS = {
    "dsn",
    "coordinator_dsn",
    "node_dsns",
    "redis_url",
    "flower_url",
    "dashboard_url",
    "data_dir",
    "pids",
}
_ROLES = {"gateway", "coordinator", "nodes", "workers", "redis", "beat", "flower"}


def test_up_prints_what_others_need(cluster: clusters.Cluster) -> None:
    assert set(cluster.info) == _KEYS | {"s3"}  # the cluster of the tests has an object store
    assert {role: len(pids) for role, pids in cluster.info["pids"].items()} == dict.fromkeys(_ROLES, 1) | {
        "nodes": 2,
        "workers": 6,  # a slot, the background work and the jobs, for each node
        "s3": 1,
    }
    assert (cluster.info["dashboard_url"], len(cluster.node_dsns)) == (None, 2)
    for name in ("dsn", "coordinator_dsn", "redis_url", "flower_url"):
        assert "@127.0.0.1:" in str(cluster.info[name])
    assert cluster.coordinator_dsn not in cluster.node_dsns
    assert re.search(r"://[^@/]*:[^@]+@", cluster.redis_url)


def test_only_loopback(cluster: clusters.Cluster) -> None:
    import psutil

    pids = {pid for role in _ROLES for pid in cluster.pids(role)}
    for pid in pids:
        for connection in psutil.Process(pid).net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip in {"127.0.0.1", "::1"}, (pid, connection)


def test_status(cluster: clusters.Cluster) -> None:
    status = cluster.status()
    assert {role for role in _ROLES if status["pids"][role]} == _ROLES
    text = clusters.run_orochi("status", "--data-dir", str(cluster.data_dir)).stdout
    assert "gateway" in text


def test_up_twice_is_refused(cluster: clusters.Cluster) -> None:
    done = clusters.run_orochi("up", "--data-dir", str(cluster.data_dir), "--detach", "--json", check=False)
    assert done.returncode != 0
    assert "already running" in done.stderr
    assert cluster.status()["pids"]


def test_version_and_help() -> None:
    assert re.match(r"orochi \d+\.\d+", clusters.run_orochi("--version").stdout)
    for command in ("up", "down", "status", "gateway", "worker", "migrate"):
        assert clusters.run_orochi(command, "--help").stdout


def test_migrate_again_changes_nothing(cluster: clusters.Cluster) -> None:
    import os
    import subprocess

    environment = {**os.environ, "OROCHI_COORDINATOR_DSN": cluster.coordinator_dsn}
    done = subprocess.run(
        [clusters.OROCHI, "migrate"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with cluster.connect() as connection:
        row = connection.execute("SELECT count(*) FROM orochi.nodes WHERE role = 'data'").fetchone()
    assert row == (2,)


def test_one_node(single_cluster: clusters.Cluster) -> None:
    """By default the coordinator is the data node."""
    with single_cluster.connect() as connection:
        connection.execute("CREATE TABLE t (k int NOT NULL, at timestamptz NOT NULL)")
        connection.execute("SELECT create_distributed_table('t', 'k', 4)")
        connection.execute("SELECT create_hypertable('t', 'at')")
        connection.execute(
            "INSERT INTO t SELECT g, '2024-01-01'::timestamptz + g * interval '1 hour' FROM generate_series(1, 100) g"
        )
        for (chunk,) in connection.execute("SELECT show_chunks('t')").fetchall()[::2]:
            connection.execute("SELECT compress_chunk(%s)", (chunk,))
        assert connection.execute("SELECT count(*), sum(k) FROM t").fetchone() == (100, 5050)
        assert connection.execute("SELECT k FROM t WHERE k = 7").fetchone() == (7,)
        connection.execute("DELETE FROM t WHERE k % 2 = 0")
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (50,)
        connection.execute("DROP TABLE t")
