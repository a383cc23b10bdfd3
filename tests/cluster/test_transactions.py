"""Transactions as a client sees them: the same statements on plain PostgreSQL and over two nodes."""

from __future__ import annotations

import contextlib
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


#: Each is a session's statements, answered alike by both, errors and transaction states included.
SCRIPTS: dict[str, tuple[str, ...]] = {
    "savepoints": (
        "BEGIN",
        "UPDATE t SET n = 100 WHERE id = 1",
        "SAVEPOINT a",
        "UPDATE t SET n = n + 1",
        "SAVEPOINT b",
        "DELETE FROM t WHERE id > 5",
        "SELECT count(*), sum(n) FROM t",
        "SELECT 1 / 0",
        "SELECT count(*) FROM t",
        "ROLLBACK TO SAVEPOINT b",
        "SELECT count(*), sum(n) FROM t",
        "INSERT INTO t VALUES (1, 1)",
        "SELECT 1",
        "ROLLBACK TO b",
        "INSERT INTO t VALUES (1000, 7), (1001, 8)",
        "SELECT count(*), sum(n) FROM t",
        "RELEASE SAVEPOINT b",
        "ROLLBACK TO a",
        "SELECT count(*), sum(n) FROM t",
        "ROLLBACK TO b",
        "ROLLBACK TO a",
        "RELEASE a",
        "SELECT n FROM t WHERE id = 1",
        "RELEASE a",
        "ROLLBACK",
        "SELECT count(*), sum(n) FROM t",
        "SAVEPOINT outside",
        "ROLLBACK TO outside",
        "RELEASE outside",
    ),
    "savepoints of one name": (
        "BEGIN",
        "SAVEPOINT s",
        "INSERT INTO t VALUES (1000, 1)",
        "SAVEPOINT s",
        "INSERT INTO t VALUES (1001, 1)",
        "ROLLBACK TO s",
        "RELEASE s",
        "SELECT count(*) FROM t",
        "ROLLBACK TO s",
        "SELECT count(*) FROM t",
        'SAVEPOINT "Qu""oted"',
        "UPDATE t SET n = 0",
        'ROLLBACK TO "Qu""oted"',
        "SELECT sum(n) FROM t",
        "COMMIT",
        "SELECT sum(n) FROM t",
    ),
    "a failed block": (
        "BEGIN",
        "UPDATE t SET n = 0",
        "INSERT INTO t VALUES (2, 2)",
        "SELECT count(*) FROM t",
        "SAVEPOINT s",
        "COMMIT",
        "SELECT sum(n) FROM t",
        "BEGIN",
        "SELECT * FROM no_such_table",
        "UPDATE t SET n = 0",
        "END",
        "SELECT sum(n) FROM t",
    ),
    "read your writes": (
        "BEGIN",
        "INSERT INTO t SELECT g, g FROM generate_series(101, 120) g",
        "SELECT count(*), sum(n) FROM t",
        "SELECT id % 3 AS k, count(*) FROM t GROUP BY 1 ORDER BY 1",
        "UPDATE t SET n = -n WHERE id > 100",
        "SELECT min(n), max(n) FROM t",
        "SELECT t.id, h.n FROM t JOIN here h ON h.id = t.n ORDER BY 1 LIMIT 3",
        "UPDATE r SET n = 5 WHERE id = 3",
        "SELECT t.id, r.n FROM t JOIN r USING (id) WHERE t.id < 5 ORDER BY 1",
        "DELETE FROM t WHERE id > 100",
        "SELECT count(*), sum(n) FROM t",
        "ROLLBACK",
        "SELECT count(*), sum(n) FROM r",
    ),
    "settings": (
        "SET timezone = 'UTC'",
        "BEGIN",
        "SELECT count(*) FROM t",
        "SET LOCAL timezone = 'Asia/Tokyo'",
        "SELECT to_timestamp(id) FROM t WHERE id = 1",
        "SELECT min(to_timestamp(id)), max(to_timestamp(n)) FROM t",
        "SAVEPOINT s",
        "SELECT set_config('timezone', 'America/New_York', true)",
        "SELECT to_timestamp(id)::text FROM t WHERE id = 1",
        "SELECT min(to_timestamp(id)::text) FROM t",
        "ROLLBACK TO s",
        "SELECT to_timestamp(id)::text FROM t WHERE id = 1",
        "SELECT min(to_timestamp(id)::text) FROM t",
        "COMMIT",
        "SELECT to_timestamp(id)::text FROM t WHERE id = 1",
        "BEGIN",
        "SET timezone = 'Asia/Tokyo'",
        "SELECT min(to_timestamp(id)::text) FROM t",
        "ROLLBACK",
        "SELECT min(to_timestamp(id)::text) FROM t",
        "SET LOCAL timezone = 'Asia/Tokyo'",
        "SELECT min(to_timestamp(id)::text) FROM t",
        "RESET timezone",
    ),
    "cursors": (
        "DECLARE c CURSOR FOR SELECT * FROM t ORDER BY id",
        "BEGIN",
        "DECLARE c SCROLL CURSOR FOR SELECT * FROM t ORDER BY id",
        "FETCH 3 FROM c",
        "FETCH BACKWARD 2 FROM c",
        "FETCH LAST FROM c",
        "FETCH NEXT FROM c",
        "FETCH PRIOR FROM c",
        "FETCH ABSOLUTE 5 FROM c",
        "FETCH RELATIVE -2 FROM c",
        "MOVE FORWARD 4 IN c",
        "FETCH FIRST IN c",
        "UPDATE t SET n = 0",
        "FETCH FORWARD 2 FROM c",
        "MOVE ALL IN c",
        "FETCH BACKWARD ALL FROM c",
        "CLOSE c",
        "FETCH c",
        "ROLLBACK",
        "BEGIN",
        "DECLARE c NO SCROLL CURSOR FOR SELECT id FROM t WHERE id < 4 ORDER BY id",
        "FETCH 2 FROM c",
        "FETCH BACKWARD 1 FROM c",
        "ROLLBACK",
        "BEGIN",
        "DECLARE h SCROLL CURSOR WITH HOLD FOR SELECT id, n FROM t ORDER BY id DESC",
        "FETCH 2 FROM h",
        "COMMIT",
        "FETCH 2 FROM h",
        "FETCH PRIOR FROM h",
        "CLOSE h",
        "DECLARE h CURSOR WITH HOLD FOR SELECT count(*), sum(n) FROM t",
        "FETCH ALL FROM h",
        "SELECT name, is_holdable, is_binary, is_scrollable FROM pg_cursors",
        "CLOSE ALL",
        "FETCH ALL FROM h",
        "BEGIN",
        "DECLARE s1 CURSOR FOR SELECT id FROM t ORDER BY n + 1, id LIMIT 3",
        "DECLARE s2 CURSOR FOR SELECT n, count(*) FROM t GROUP BY n",
        "DECLARE s3 CURSOR FOR SELECT a.id FROM t AS a JOIN t AS b ON a.id + 1 = b.id + 1",
        "DECLARE s4 CURSOR FOR SELECT id FROM t UNION ALL SELECT n FROM t",
        "DECLARE s5 CURSOR FOR WITH x AS MATERIALIZED (SELECT id FROM t) SELECT id FROM x",
        "DECLARE s6 CURSOR FOR SELECT generate_series(1, 2) FROM t",
        "DECLARE s7 NO SCROLL CURSOR FOR SELECT id FROM t ORDER BY n + 1",
        "SELECT name, is_scrollable FROM pg_cursors ORDER BY name",
        "MOVE 2 IN s3",
        "FETCH BACKWARD 1 FROM s3",
        "ROLLBACK",
        "BEGIN",
        "DECLARE b BINARY CURSOR FOR SELECT id FROM t WHERE id = 1",
        "FETCH ALL FROM b",
        "SAVEPOINT s",
        "DECLARE gone CURSOR FOR SELECT id FROM t",
        "ROLLBACK TO s",
        "FETCH gone",
        "ROLLBACK",
    ),
    "prepared statements": (
        "PREPARE one (int) AS SELECT n FROM t WHERE id = $1",
        "PREPARE many AS SELECT count(*), sum(n) FROM t WHERE n > $1",
        "EXECUTE one (3)",
        "EXECUTE one ('x')",
        "EXECUTE one (1, 2)",
        "EXECUTE many (10)",
        "BEGIN",
        "PREPARE change (int, int) AS UPDATE t SET n = $2 WHERE id = $1",
        "EXECUTE change (1, 50)",
        "EXECUTE one (1)",
        "ROLLBACK",
        "EXECUTE change (1, 1)",
        "EXECUTE one (1)",
        "SELECT name, statement, parameter_types FROM pg_prepared_statements ORDER BY name",
        "DEALLOCATE one",
        "EXECUTE one (1)",
        "PREPARE many AS SELECT 1",
        "DEALLOCATE PREPARE ALL",
        "EXECUTE many (1)",
        "PREPARE kept AS SELECT count(*) FROM t",
        "DISCARD ALL",
        "SET search_path TO tx, public",
        "EXECUTE kept",
        "BEGIN",
        "DISCARD ALL",
        "ROLLBACK",
    ),
    "read only": (
        "CREATE TEMPORARY TABLE mine (a int)",
        "CREATE TABLE theirs (a int)",
        "BEGIN READ ONLY",
        "INSERT INTO mine SELECT count(*) FROM t",
        "UPDATE mine SET a = t.id FROM t WHERE t.id = 1",
        "SELECT * FROM mine",
        "DELETE FROM mine USING t WHERE t.id = mine.a",
        "INSERT INTO theirs SELECT count(*) FROM t",
        "ROLLBACK",
        "DROP TABLE theirs",
        "DROP TABLE mine",
        "BEGIN READ ONLY",
        "SELECT count(*) FROM t",
        "INSERT INTO t VALUES (999, 1)",
        "ROLLBACK",
        "BEGIN",
        "SET TRANSACTION READ ONLY",
        "UPDATE t SET n = 0",
        "ROLLBACK",
        "START TRANSACTION READ ONLY",
        "DELETE FROM t WHERE id = 1",
        "ROLLBACK",
        "BEGIN READ ONLY",
        "TRUNCATE t",
        "ROLLBACK",
        "BEGIN READ ONLY",
        "SELECT * FROM t WHERE id = 1 FOR UPDATE",
        "ROLLBACK",
        "BEGIN READ ONLY",
        "CREATE TABLE more AS SELECT * FROM t",
        "ROLLBACK",
        "BEGIN READ ONLY",
        "DROP TABLE t",
        "ROLLBACK",
        "BEGIN READ ONLY",
        "CREATE INDEX ON t (n)",
        "ROLLBACK",
        "BEGIN READ ONLY",
        "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) UPDATE t SET n = 0",
        "ROLLBACK",
        "BEGIN READ ONLY",
        "EXPLAIN (COSTS OFF) SELECT 1",
        "WITH gone AS (DELETE FROM t RETURNING id) SELECT count(*) FROM gone",
        "ROLLBACK",
        "BEGIN READ ONLY",
        "PREPARE w AS INSERT INTO t VALUES (999, 1)",
        "EXECUTE w",
        "ROLLBACK",
        "DEALLOCATE ALL",
        "SET default_transaction_read_only = on",
        "INSERT INTO t VALUES (999, 1)",
        "BEGIN READ WRITE",
        "INSERT INTO t VALUES (999, 1)",
        "ROLLBACK",
        "RESET default_transaction_read_only",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "INSERT INTO t VALUES (999, 1)",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "SELECT count(*) FROM t",
        "BEGIN",
        "INSERT INTO t VALUES (999, 1)",
        "SAVEPOINT s",
        "SET TRANSACTION READ ONLY",
        "INSERT INTO t VALUES (998, 1)",
        "ROLLBACK TO s",
        "INSERT INTO t VALUES (998, 1)",
        "SELECT count(*) FROM t",
        "ROLLBACK",
    ),
    "beginning and ending": (
        "START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE, NOT DEFERRABLE",
        "SHOW transaction_isolation",
        "SELECT count(*) FROM t",
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "ABORT",
        "BEGIN WORK",
        "BEGIN",
        "UPDATE t SET n = n WHERE id = 1",
        "COMMIT WORK AND NO CHAIN",
        "COMMIT",
        "ROLLBACK",
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "UPDATE t SET n = n + 1",
        "COMMIT AND CHAIN",
        "SHOW transaction_isolation",
        "UPDATE t SET n = n - 1",
        "ROLLBACK AND CHAIN",
        "SELECT sum(n) FROM t",
        "UPDATE t SET n = n - 1",
        "END TRANSACTION",
        "SHOW transaction_isolation",
        "SELECT sum(n) FROM t",
        "COMMIT AND CHAIN",
        "BEGIN TRANSACTION READ ONLY, ISOLATION LEVEL READ COMMITTED",
        "SELECT sum(n) FROM t",
        "SET TRANSACTION READ WRITE",
        "COMMIT",
    ),
    "advisory locks and notifications": (
        "BEGIN",
        "SELECT pg_advisory_xact_lock(4711)",
        "SELECT id, pg_try_advisory_xact_lock(id) FROM t WHERE id < 3 ORDER BY id",
        "SELECT pg_try_advisory_xact_lock(id + 100) FROM t WHERE id = 3",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        "COMMIT",
        "SELECT pg_advisory_unlock(4711)",
        "LISTEN tx_channel",
        "BEGIN",
        "NOTIFY tx_channel, 'hello'",
        "UPDATE t SET n = n WHERE id = 1",
        "COMMIT",
        "SELECT pg_listening_channels()",
        "UNLISTEN *",
    ),
    "timeouts": (
        "SET statement_timeout = 300",
        "SELECT pg_sleep(10)",
        "SELECT count(pg_sleep(10)) FROM t",
        "SELECT pg_sleep(10) FROM t WHERE id = 1",
        "BEGIN",
        "SELECT count(*) FROM t WHERE pg_sleep(0.2) IS NOT NULL",
        "ROLLBACK",
        "RESET statement_timeout",
        # what is to succeed has all the time that it needs
        "BEGIN",
        "UPDATE t SET n = 0 WHERE id = 1",
        "SET LOCAL statement_timeout = 300",
        "SELECT count(*) FROM t WHERE pg_sleep(0.2) IS NOT NULL",
        "SELECT 1",
        "ROLLBACK",
        "SELECT count(*) FROM t",
    ),
}


@pytest.mark.parametrize("name", list(SCRIPTS))
@pytest.mark.parametrize("prepare", [False, True], ids=["simple", "extended"])
def test_script(pair: oracle.Pair, name: str, prepare: bool) -> None:
    for connection in (pair.gateway, pair.plain):
        connection.execute("ROLLBACK")
        connection.execute("DEALLOCATE ALL")
        connection.execute("RESET ALL")
        connection.execute("SET search_path TO tx, public")
    for number, sql in enumerate(SCRIPTS[name]):
        ours = oracle.ask(pair.gateway, sql, prepare=prepare)
        theirs = oracle.ask(pair.plain, sql, prepare=prepare)
        if prepare and ours.sqlstate == theirs.sqlstate == "42P05":
            continue
        oracle.assert_same(f"{number}: {sql}", ours, theirs)


#: Two sessions, statement by statement: what one sees of the other.
TALKS: dict[str, tuple[str, ...]] = {
    "read committed": (
        "1 BEGIN",
        "1 SELECT sum(n) FROM t",
        "2 UPDATE t SET n = n + 1",
        "1 SELECT sum(n) FROM t",
        "1 SELECT n FROM t WHERE id = 1",
        "1 UPDATE t SET n = n + 1 WHERE id < 5",
        "2 SELECT sum(n) FROM t",
        "1 SELECT sum(n) FROM t",
        "2 SELECT n FROM t WHERE id = 7",
        "1 COMMIT",
        "2 SELECT sum(n) FROM t",
        "2 UPDATE t SET n = id",
    ),
    "repeatable read": (
        "1 BEGIN ISOLATION LEVEL REPEATABLE READ",
        "1 SELECT sum(n) FROM t",
        "2 UPDATE t SET n = n + 1",
        "2 INSERT INTO t VALUES (500, 500)",
        "1 SELECT sum(n), count(*) FROM t",
        "1 SELECT n FROM t WHERE id = 1",
        "1 SELECT t.n, h.n FROM t JOIN here h USING (id) WHERE id < 4 ORDER BY id",
        "1 INSERT INTO t VALUES (501, 1)",
        "1 SELECT sum(n), count(*) FROM t",
        "1 SAVEPOINT s",
        "1 UPDATE t SET n = 0 WHERE id = 1",
        "1 ROLLBACK TO s",
        "1 SELECT sum(n), count(*) FROM t",
        "1 DELETE FROM t WHERE id = 500",
        "1 COMMIT",
        "2 SELECT sum(n), count(*) FROM t",
        "2 DELETE FROM t WHERE id >= 500",
        "2 UPDATE t SET n = id",
    ),
    "locks": (
        "2 SET lock_timeout = 200",
        "1 BEGIN",
        "1 UPDATE t SET n = n WHERE id IN (1, 2, 3)",
        "2 UPDATE t SET n = n WHERE id = 1",
        "2 UPDATE t SET n = n",
        "2 BEGIN",
        "2 UPDATE t SET n = 9 WHERE id = 9",
        "2 SAVEPOINT s",
        "2 DELETE FROM t WHERE id = 2",
        "2 SELECT 1",
        "2 ROLLBACK TO s",
        "2 SELECT sum(n) FROM t",
        "2 COMMIT",
        "1 SELECT n FROM t WHERE id = 9",
        "1 ROLLBACK",
        "2 UPDATE t SET n = id",
        "2 SET statement_timeout = 200",
        "1 BEGIN",
        "1 DELETE FROM t WHERE id = 4",
        "2 UPDATE t SET n = 0",
        "2 UPDATE t SET n = 0 WHERE id = 4",
        "2 RESET statement_timeout",
        "1 ROLLBACK",
        "2 SELECT count(*), sum(n) FROM t",
    ),
    "advisory locks": (
        "1 BEGIN",
        "1 SELECT pg_try_advisory_xact_lock(id) FROM t WHERE id = 1",
        "2 SELECT pg_try_advisory_xact_lock(1)",
        "1 COMMIT",
        "2 SELECT pg_try_advisory_xact_lock(1)",
    ),
    "cursors": (
        "1 BEGIN",
        "1 DECLARE c CURSOR FOR SELECT id, n FROM t ORDER BY id",
        "2 UPDATE t SET n = 0",
        "1 FETCH 2 FROM c",
        "1 UPDATE t SET n = 1",
        "1 FETCH 2 FROM c",
        "1 COMMIT",
        "1 FETCH 2 FROM c",
        "2 UPDATE t SET n = id",
    ),
}


@pytest.mark.parametrize("name", list(TALKS))
def test_talk(cluster: clusters.Cluster, pair: oracle.Pair, name: str) -> None:
    others = pairs.opened(cluster, "tx")
    try:
        for number, line in enumerate(TALKS[name]):
            who, _, sql = line.partition(" ")
            (pair if who == "1" else others).same(sql)
            assert number >= 0
    finally:
        for connection in (pair.gateway, pair.plain):
            connection.execute("ROLLBACK")
        others.gateway.close()
        others.plain.close()


def test_constraints_are_deferred(pair: oracle.Pair) -> None:
    """SET CONSTRAINTS before a node is used and after it; checked when asked, or at the end."""
    pair.both("CREATE TABLE later (id int CONSTRAINT once UNIQUE DEFERRABLE, k text)")
    pair.orochi("SELECT orochi.create_distributed_table('later', 'id', 4)")
    pair.both("INSERT INTO later SELECT g, 'old' FROM generate_series(1, 8) g")
    for sql in (
        "BEGIN",
        "SET CONSTRAINTS once DEFERRED",
        "INSERT INTO later SELECT g, 'new' FROM generate_series(1, 8) g",
        "DELETE FROM later WHERE k = 'old'",
        "COMMIT",
        "BEGIN",
        "INSERT INTO later VALUES (20, 'more')",
        "SAVEPOINT s",
        "SET CONSTRAINTS ALL DEFERRED",
        "INSERT INTO later VALUES (3, 'twice')",
        "SET CONSTRAINTS ALL IMMEDIATE",
        "ROLLBACK TO s",
        "SET CONSTRAINTS nobody DEFERRED",
        "ROLLBACK TO s",
        "COMMIT",
        "BEGIN",
        "SET CONSTRAINTS tx.once DEFERRED",
        "INSERT INTO later VALUES (3, 'twice'), (4, 'twice')",
        "COMMIT",
        "INSERT INTO later VALUES (3, 'twice')",
        "SELECT * FROM later ORDER BY id",
    ):
        pair.same(sql)


def test_cursors_of_the_driver(pair: oracle.Pair) -> None:
    """DECLARE with bound parameters, scrolled and held."""
    for connection in (pair.gateway, pair.plain):
        with connection.transaction(), connection.cursor("driver", scrollable=True) as cursor:
            cursor.execute("SELECT id, n FROM t WHERE id <= %s ORDER BY id", (10,))
            assert cursor.fetchmany(3) == [(1, 1), (2, 2), (3, 3)]
            cursor.scroll(-2)
            assert cursor.fetchone() == (2, 2)
            cursor.scroll(9, mode="absolute")
            assert cursor.fetchall() == [(10, 10)]
        with connection.cursor("held", withhold=True) as cursor:
            cursor.execute("SELECT count(*) FROM t WHERE n > %s", (30,))
            assert cursor.fetchall() == [(10,)]


def test_notifications_come_with_the_commit(pair: oracle.Pair) -> None:
    for connection in (pair.gateway, pair.plain):
        list(connection.notifies(timeout=0))  # of other tests
        connection.execute("LISTEN tx_news")
        connection.execute("BEGIN")
        connection.execute("UPDATE t SET n = n")
        connection.execute("SELECT pg_notify('tx_news', 'first')")
        connection.execute("ROLLBACK")
        connection.execute("BEGIN")
        connection.execute("NOTIFY tx_news, 'second'")
        connection.execute("UPDATE t SET n = n")
        assert list(connection.notifies(timeout=0)) == []
        connection.execute("COMMIT")
        assert [news.payload for news in connection.notifies(timeout=60, stop_after=1)] == ["second"]
        connection.execute("UNLISTEN *")


def test_two_phase_commit_by_the_client(pair: oracle.Pair) -> None:
    """Of the coordinator's own tables as ever; not of nodes, and then nothing stays prepared."""
    pair.orochi("BEGIN")
    pair.orochi("UPDATE here SET n = n WHERE id = 1")
    pair.orochi("PREPARE TRANSACTION 'tx_here'")
    pair.orochi("COMMIT PREPARED 'tx_here'")
    pair.orochi("BEGIN")
    pair.orochi("UPDATE t SET n = 0")
    answer = oracle.ask(pair.gateway, "PREPARE TRANSACTION 'tx_t'")
    assert (answer.sqlstate, answer.status) == ("0A000", "INERROR")
    pair.orochi("ROLLBACK")
    pair.same("SELECT sum(n) FROM t")
    assert pair.orochi("SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE 'tx%'") == [(0,)]


def test_idle_in_transaction(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    """An idle block ends, and its locks on nodes with it."""
    with contextlib.closing(cluster.connect()) as connection:
        connection.execute("SET idle_in_transaction_session_timeout = 2000")
        connection.execute("BEGIN")
        connection.execute("UPDATE tx.t SET n = n WHERE id = 1")
        pair.orochi("SET lock_timeout = '60s'")
        assert pair.orochi("UPDATE t SET n = n WHERE id = 1 RETURNING n") == [(1,)]
        pair.orochi("RESET lock_timeout")
        with pytest.raises((psycopg.OperationalError, psycopg.errors.IdleInTransactionSessionTimeout)):
            connection.execute("SELECT 1")
