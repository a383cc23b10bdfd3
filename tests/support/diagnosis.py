"""What a cluster was doing when a test of it failed: sessions, locks, and the ends of the logs.

Made for hangs: it asks the servers themselves, past the gateway, never waits long, and never raises.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

import psycopg

from tests.support import cluster as clusters

_SESSIONS = """
SELECT pid, application_name, backend_type, state, concat_ws(':', wait_event_type, wait_event) AS waits_for,
    pg_blocking_pids(pid) AS blocked_by, date_trunc('milliseconds', now() - xact_start) AS open_for,
    left(regexp_replace(query, '\\s+', ' ', 'g'), 300) AS query
FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND datname IS NOT NULL AND (state <> 'idle' OR wait_event_type = 'Lock')
ORDER BY xact_start"""
_LOCKS = """
SELECT l.pid, l.locktype, l.mode, l.granted, coalesce(l.relation::regclass::text, '') AS relation,
    l.classid, l.objid, l.transactionid
FROM pg_locks l
WHERE NOT l.granted OR l.locktype = 'advisory'
ORDER BY l.granted, l.pid LIMIT 60"""
_PREPARED = "SELECT gid, prepared, database FROM pg_prepared_xacts"
_LOG_BYTES = 4_000
_STACKS_BYTES = 30_000


def of(cluster: clusters.Cluster) -> str:
    """A report of some pages."""
    parts = []
    servers = [cluster.coordinator_dsn, *cluster.node_dsns]
    for name, dsn in zip(
        ["coordinator", *(f"node {n}" for n in range(1, len(servers)))], servers, strict=True
    ):
        parts.append(f"--- {name}")
        parts += _server(dsn)
    asked = _ask_gateway(cluster)
    for log in sorted((cluster.data_dir / "logs").glob("*.log")):
        if log.stem.startswith(("beat", "flower", "s3", "valkey")):
            continue  # they know nothing of sessions
        size = _STACKS_BYTES if asked and log.stem.startswith("gateway") else _LOG_BYTES
        with contextlib.suppress(OSError):
            tail = log.read_bytes()[-size:].decode(errors="replace")
            if tail.strip():
                parts.append(f"--- {log.name}\n{tail}")
    return "\n".join(parts)


def _server(dsn: str) -> list[str]:
    found = []
    try:
        with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as connection:
            connection.execute("SET statement_timeout = '10s'; SET lock_timeout = '2s'")
            for title, sql in (("session", _SESSIONS), ("lock", _LOCKS), ("prepared", _PREPARED)):
                cursor = connection.execute(sql.encode())
                names = [column.name for column in cursor.description or ()]
                for row in cursor.fetchall():
                    facts = (f"{name}={value}" for name, value in zip(names, row, strict=True))
                    found.append(f"{title}: {' '.join(facts)}")
    except psycopg.Error as error:
        found.append(f"cannot be asked: {error}")
    return found


def _ask_gateway(cluster: clusters.Cluster) -> bool:
    """Let the gateway write its stacks to its log."""
    asked = False
    with contextlib.suppress(Exception):
        for pid in cluster.pids("gateway"):
            os.kill(pid, signal.SIGUSR1)
            asked = True
        time.sleep(1)
    return asked
