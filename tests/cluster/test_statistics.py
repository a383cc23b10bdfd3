"""Sessions and statements as gateways see them: `orochi.stat_activity`, `orochi.stat_statements`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.support import cluster as clusters
from tests.support import oracle

_COUNTED = (
    "SELECT query, strategy, calls, rows, total_exec_time > 0, min_exec_time <= mean_exec_time,"
    " mean_exec_time <= max_exec_time, stddev_exec_time >= 0 FROM orochi.stat_statements"
    " WHERE query LIKE '%told_things%' AND strategy <> 'call' ORDER BY query"
)
_ACTIVE = (
    "SELECT state, query, strategy, query_start <= state_change, application_name, client_addr IS NOT NULL, usename"
    " FROM orochi.stat_activity WHERE pid = %s"
)
_SECONDS = 60.0


@pytest.fixture(scope="module")
def things(module_pair: oracle.Pair) -> psycopg.Connection[Any]:
    gateway = module_pair.gateway
    gateway.execute("CREATE TABLE told_things (id int PRIMARY KEY, v int)")
    gateway.execute("SELECT create_distributed_table('told_things', 'id', 4)")
    return gateway


def _until(ask: Callable[[], Any], wanted: Any) -> None:
    """What gateways tell comes a moment later."""
    end = time.monotonic() + _SECONDS
    while (found := ask()) != wanted and time.monotonic() < end:
        time.sleep(0.1)
    assert found == wanted


def test_statements_are_counted_by_what_they_are(things: psycopg.Connection[Any]) -> None:
    for number in range(6):
        things.execute(f"INSERT INTO told_things VALUES ({number}, 1), ({number + 100}, 2)")
        things.execute("SELECT v FROM told_things WHERE id = %s", (number,), prepare=number % 2 == 0)
        things.execute(f"SELECT sum(v) FROM told_things WHERE v < {number}")
    with pytest.raises(psycopg.errors.UniqueViolation):
        things.execute("INSERT INTO told_things VALUES (0, 3)")
    things.execute("UPDATE told_things SET v = 7")
    right = (True, True, True, True)
    _until(
        lambda: things.execute(_COUNTED).fetchall(),
        [
            ("INSERT INTO told_things VALUES ($1, $2) /*, ... */", "insert", 6, 12, *right),
            ("SELECT sum(v) FROM told_things WHERE v < $1", "two-phase aggregate", 6, 6, *right),
            ("SELECT v FROM told_things WHERE id = $1", "router", 6, 6, *right),
            ("UPDATE told_things SET v = $1", "update", 1, 12, *right),
        ],
    )


def test_who_waits_is_seen_with_what_it_runs(
    things: psycopg.Connection[Any], cluster: clusters.Cluster, other: psycopg.Connection[Any]
) -> None:
    user, pid = things.info.user, other.info.backend_pid
    path = things.execute("SHOW search_path").fetchone()
    assert path is not None
    other.execute(f"SET search_path TO {path[0]}".encode())
    other.execute("SET application_name TO 'who waits'")
    update = "UPDATE told_things SET v = 9 WHERE id = 3"
    waiting = threading.Thread(target=other.execute, args=(update,))
    with cluster.connect() as looking:

        def seen() -> Any:
            return looking.execute(_ACTIVE, (pid,)).fetchone()

        with things.transaction():
            things.execute("UPDATE told_things SET v = 8 WHERE id = 3")
            waiting.start()
            _until(seen, ("active", update, None, True, "who waits", True, user))
        waiting.join()
        _until(seen, ("idle", update, "update", True, "who waits", True, user))
        other.execute("SELECT 1")
        _until(lambda: seen()[:3], ("idle", "SELECT 1", None))
        assert looking.execute(
            "SELECT count(*) FROM citus_stat_activity WHERE pid = %s", (pid,)
        ).fetchone() == (1,)
        gone = other.info.backend_pid
        other.close()
        _until(lambda: looking.execute(_ACTIVE, (gone,)).fetchone(), None)


def test_texts_of_others_are_for_those_who_may_read_them(
    things: psycopg.Connection[Any], cluster: clusters.Cluster
) -> None:
    things.execute("DROP ROLE IF EXISTS told_role")
    things.execute("CREATE ROLE told_role")
    try:
        with cluster.connect() as reader:
            asked = (
                "SELECT bool_or(query LIKE '%told_things%'), bool_or(query LIKE '<insuff%') FROM orochi.stat_{} "
                "WHERE usename <> current_user"
            )
            statements = asked.format("statements").replace("usename", "username")
            reader.execute("SET ROLE told_role")
            assert reader.execute(statements).fetchone() == (False, True)
            assert reader.execute(asked.format("activity")).fetchone() == (False, True)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute("SELECT orochi.stat_statements_reset()")
            reader.execute("RESET ROLE")
            things.execute("GRANT pg_read_all_stats TO told_role")
            reader.execute("SET ROLE told_role")
            assert reader.execute(statements).fetchone() == (True, False)
    finally:
        things.execute("DROP ROLE told_role")
