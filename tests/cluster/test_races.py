"""Two clients write the same rows: who waits, and what the second one then does, is PostgreSQL's."""

from __future__ import annotations

import contextlib
from concurrent import futures

import psycopg
import pytest

from tests.support import cluster as clusters
from tests.support import layouts, oracle, races

_RACES = {
    "lost update": (
        ["UPDATE events SET amount = 100 WHERE id = 10"],
        "UPDATE events SET amount = amount + 1, tenant = 50 WHERE id = 10 RETURNING amount, tenant",
    ),
    "lost update by a join": (
        ["UPDATE events SET amount = 100 WHERE id = 10"],
        "UPDATE events e SET amount = e.amount + 1 FROM events f WHERE f.id = e.id + 1 AND e.id = 10 RETURNING e.amount",
    ),
    "no longer matched": (
        ["UPDATE events SET what = 'gone' WHERE id = 10"],
        "UPDATE events SET tenant = 51 WHERE what = 'kind 0' AND id BETWEEN 9 AND 16 RETURNING id",
    ),
    "deleted": (
        ["DELETE FROM events WHERE id = 10"],
        "UPDATE events SET tenant = 52 WHERE id IN (10, 11) RETURNING id",
    ),
    "moved away": (
        ["UPDATE events SET tenant = 53 WHERE id = 10"],
        "UPDATE events SET what = 'late' WHERE tenant = 3 AND id = 10 RETURNING *",
    ),
    "merge": (
        ["UPDATE events SET amount = 100 WHERE id = 10"],
        """MERGE INTO events e USING (VALUES (3, 10)) s(t, i) ON e.tenant = s.t AND e.id = s.i
        WHEN MATCHED AND amount = 100 THEN UPDATE SET what = 'saw it'
        WHEN MATCHED THEN DELETE RETURNING merge_action(), e.id, what""",
    ),
    "row lock": (
        [
            "SELECT id FROM events WHERE id BETWEEN 10 AND 12 FOR UPDATE",
            "UPDATE events SET what = 'w' WHERE id = 10",
        ],
        "SELECT id, what FROM events WHERE id BETWEEN 9 AND 11 FOR UPDATE",
    ),
    "shared row lock": (
        ["SELECT id FROM events WHERE id BETWEEN 10 AND 12 FOR SHARE"],
        "UPDATE events SET what = 'after' WHERE id IN (10, 11) RETURNING id",
    ),
    "skip locked": (
        ["SELECT id FROM events ORDER BY id LIMIT 3 FOR UPDATE"],
        "SELECT id FROM events ORDER BY id LIMIT 3 FOR UPDATE SKIP LOCKED",
    ),
    "queue": (
        ["DELETE FROM events WHERE id IN (SELECT id FROM events ORDER BY id LIMIT 3 FOR UPDATE SKIP LOCKED)"],
        "DELETE FROM events WHERE id IN (SELECT id FROM events ORDER BY id LIMIT 3 FOR UPDATE SKIP LOCKED) RETURNING id",
    ),
    "nowait": (
        ["UPDATE events SET amount = 1 WHERE id = 11"],
        "SELECT id FROM events WHERE id IN (10, 11) FOR UPDATE NOWAIT",
    ),
    "key of a compressed row": (
        ["DELETE FROM events WHERE id = 10"],
        "INSERT INTO events (tenant, at, id) VALUES (3, '2024-03-10 04:10:00+00', 10)",
    ),
    "the same new key": (
        ["INSERT INTO events (tenant, at, id) VALUES (3, '2024-03-10 04:10:00+00', 6000)"],
        "UPDATE events SET id = 6000 WHERE id = 10",
    ),
    "delete in WITH": (
        ["UPDATE events SET what = 'changed' WHERE id = 10"],
        "WITH d AS (DELETE FROM events WHERE id = 10 RETURNING *) SELECT what FROM d",
    ),
}


@pytest.fixture(scope="module")
def filled(module_pair: oracle.Pair) -> oracle.Pair:
    layouts.events(module_pair, "both-compressed")
    return module_pair


@pytest.mark.parametrize(
    ("name", "end"),
    [
        *((name, "COMMIT") for name in _RACES),
        ("moved away", "ROLLBACK"),
        ("merge", "ROLLBACK"),
        ("key of a compressed row", "ROLLBACK"),
    ],
)
def test_race(cluster: clusters.Cluster, filled: oracle.Pair, name: str, end: str) -> None:
    first, second = _RACES[name]
    ours, theirs = races.race(cluster, filled, first, second, end=end)
    oracle.assert_same(second, ours, theirs)
    filled.check_tables("events")
    filled.both("TRUNCATE events", layouts.FILL)


def test_a_striped_row_is_not_waited_for(cluster: clusters.Cluster, filled: oracle.Pair) -> None:
    """NOWAIT, where another transaction has the row on its way out of a stripe."""
    layouts.compress(filled, "events", "both-compressed")
    schema = filled.gateway.execute("SELECT current_schema()").fetchone()
    assert schema is not None
    filled.both("BEGIN", "UPDATE events SET amount = 1 WHERE id = 11")
    with cluster.connect() as other, cluster.connect_coordinator("plain") as plain:
        for connection in (other, plain):
            connection.execute("SET statement_timeout = '60s'")
            connection.execute("SET lock_timeout = '50s'")
            connection.execute(f"SET search_path TO {schema[0]}, orochi, public")
        for sql in (
            "SELECT id FROM events WHERE id IN (10, 11) FOR UPDATE NOWAIT",
            "SELECT id FROM events WHERE id = 12 FOR UPDATE NOWAIT",
            "SELECT id FROM events WHERE id = 11 FOR SHARE NOWAIT",
            "SHOW lock_timeout",
        ):
            oracle.assert_same(sql, oracle.ask(other, sql), oracle.ask(plain, sql))
    filled.both("COMMIT")
    filled.check_tables("events")


@pytest.mark.parametrize(
    "second",
    [
        "INSERT INTO gone (id, at) VALUES (1, '2024-03-10')",
        "INSERT INTO gone (id, at) SELECT id, at FROM gone",
        "SELECT count(*), max(id) FROM gone WHERE id > 0",
        "UPDATE gone SET id = 3 WHERE at IS NULL",
        "SELECT * FROM gone",
    ],
)
def test_a_column_that_goes(cluster: clusters.Cluster, filled: oracle.Pair, second: str) -> None:
    """A statement that waits for ALTER TABLE, and was planned with the column that it drops, is planned again."""
    filled.both("CREATE TABLE gone (id int, at timestamptz NOT NULL, z int DEFAULT 3)")
    filled.orochi("SELECT create_hypertable('gone', 'at')")
    filled.orochi("SELECT create_distributed_table('gone', 'id', 2)")
    filled.both("INSERT INTO gone VALUES (7, '2024-03-10', 1), (8, '2024-04-10', 1)")
    ours, theirs = races.race(
        cluster, filled, ["ALTER TABLE gone DROP COLUMN z"], second, on=[cluster.coordinator_dsn]
    )
    oracle.assert_same(second, ours, theirs)
    filled.check_tables("gone")
    filled.both("DROP TABLE gone")


@pytest.mark.parametrize(
    "second",
    [
        "SELECT max(z), min(z) FROM retyped",
        "SELECT a.z FROM retyped a JOIN retyped b USING (z) ORDER BY 1",
        "INSERT INTO retyped (id, at, z) SELECT id + 10, at, z FROM retyped",
        "ALTER TABLE retyped ALTER COLUMN seen TYPE text",
    ],
)
def test_type_of_a_column(cluster: clusters.Cluster, filled: oracle.Pair, second: str) -> None:
    """What waits for ALTER TABLE takes no value for one of the former type; what fails then fails for its reason."""
    filled.both(
        "CREATE TABLE retyped (id int, at timestamptz NOT NULL, z bigint, seen int)",
        "CREATE VIEW retyped_seen AS SELECT seen FROM retyped",
    )
    filled.orochi("SELECT create_distributed_table('retyped', 'id', 2)")
    filled.both("INSERT INTO retyped VALUES (7, '2024-03-10', 1, 1), (8, '2024-04-10', 2, 2)")
    alter = "ALTER TABLE retyped ALTER COLUMN z TYPE float8"
    ours, theirs = races.race(cluster, filled, [alter], second, on=[cluster.coordinator_dsn])
    oracle.assert_same(second, ours, theirs)
    filled.check_tables("retyped")
    filled.both("DROP TABLE retyped CASCADE")


@pytest.mark.parametrize(
    "begin", ["BEGIN", "BEGIN; INSERT INTO beside VALUES (1)", "BEGIN ISOLATION LEVEL REPEATABLE READ"]
)
def test_prepared_in_a_block(cluster: clusters.Cluster, filled: oracle.Pair, begin: str) -> None:
    """A prepared read of one shard, in a block, whose shard gets another name while it waits is planned again."""
    filled.orochi("CREATE TABLE kept (id int, at timestamptz NOT NULL)")
    filled.orochi("CREATE TABLE beside (id int)")
    ((schema,),) = filled.orochi("SELECT current_schema()")
    for call in ("create_hypertable('kept', 'at')", "create_reference_table('beside')"):
        filled.orochi(f"SELECT {call}")
    filled.orochi("INSERT INTO kept VALUES (7, '2024-03-10'), (8, '2024-03-10')")
    sql = f"SELECT id FROM {schema}.kept WHERE id = %s".encode()
    find = "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'kept' AND relkind = 'p'"
    with (
        cluster.connect(prepare_threshold=0) as other,
        contextlib.ExitStack() as stack,
        futures.ThreadPoolExecutor(1) as pool,
    ):
        other.execute(f"SET search_path TO {schema}")
        for number in (7, 8):
            assert other.execute(sql, (number,)).fetchall() == [(number,)]
        for dsn in cluster.node_dsns:
            node = stack.enter_context(psycopg.connect(dsn, autocommit=True))
            if (row := node.execute(find).fetchone()) is not None:
                break
        assert row is not None
        away = f"ALTER SCHEMA {row[0]} RENAME TO orochi_away"
        node.execute(f"BEGIN; LOCK TABLE {row[0]}.kept IN ACCESS EXCLUSIVE MODE; {away}".encode())
        for part in begin.split(";"):
            other.execute(part.encode())
        answer = pool.submit(lambda: other.execute(sql, (8,)).fetchall())
        waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'relation'"
        clusters.eventually(lambda: node.execute(waits).fetchone())
        node.execute("COMMIT")
        node.execute(f"ALTER SCHEMA orochi_away RENAME TO {row[0]}".encode())
        assert answer.result(120) == [(8,)]
        other.execute("ROLLBACK")
    filled.orochi("DROP TABLE kept, beside")


def test_repeatable_read(cluster: clusters.Cluster, filled: oracle.Pair) -> None:
    """A row that another transaction changed since the snapshot is refused with 40001."""
    for connection in (filled.gateway, filled.plain):
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT count(*) FROM events")
    schema = filled.gateway.execute("SELECT current_schema()").fetchone()
    assert schema is not None
    change = f"UPDATE {schema[0]}.events SET amount = 7 WHERE id = 10"
    with cluster.connect() as other, cluster.connect_coordinator("plain") as plain:
        other.execute(change)
        plain.execute(change)
    filled.same("UPDATE events SET tenant = 60 WHERE id = 10")
    filled.both("ROLLBACK")
    filled.check_tables("events")


@pytest.mark.parametrize("before", ["SHOW timezone", "SELECT count(*) FROM events"])
def test_new_chunks_in_repeatable_read(filled: oracle.Pair, before: str) -> None:
    """Chunks that a block of one snapshot needs, before it has used a node and after."""
    filled.both("BEGIN ISOLATION LEVEL REPEATABLE READ", before)
    for year in (2031, 2032):
        filled.same(f"INSERT INTO events (tenant, at, id) VALUES (1, '{year}-05-05', 1) RETURNING tenant, id")
        filled.same("SELECT id, count(*) FROM events WHERE at > '2030-01-01' GROUP BY id")
    filled.both("ROLLBACK")
    filled.check_tables("events")


def test_new_chunks_of_a_table_that_has_changed(cluster: clusters.Cluster, filled: oracle.Pair) -> None:
    """A block that knows an older layout makes its chunks itself, and does not wait for itself at the next ones."""
    ((schema,),) = filled.orochi("SELECT current_schema()")
    filled.orochi("SET statement_timeout TO '60s'")
    filled.both("BEGIN", "CREATE TABLE own (id int)")
    filled.orochi("SELECT create_distributed_table('own', 'id')")
    with cluster.connect() as other:
        other.execute(f"SELECT compress_chunk(c, true) FROM show_chunks('{schema}.events') c".encode())
    for year in (2033, 2034, 2035):
        filled.same(f"INSERT INTO events (tenant, at, id) VALUES (1, '{year}-05-05', 1) RETURNING tenant, id")
        filled.same("SELECT id, count(*) FROM events WHERE at > '2030-01-01' GROUP BY id")
    filled.both("ROLLBACK")
    filled.orochi("RESET statement_timeout")
    filled.check_tables("events")


def test_a_layout_changes_before_chunks_are_made(cluster: clusters.Cluster, filled: oracle.Pair) -> None:
    """A statement that planned by the old layout is begun again, and does not wait for a lock of its first try."""
    ((schema,),) = filled.orochi("SELECT current_schema()")
    filled.orochi("SET statement_timeout TO '60s'")
    filled.both(
        "INSERT INTO events (tenant, at, id) SELECT i, '2024-03-10', 7000 + i FROM generate_series(1, 20) i"
    )
    sql = (
        "INSERT INTO events (tenant, at, id) SELECT i, '2036-05-05', i FROM generate_series(1, 20) i,"
        " (SELECT pg_advisory_xact_lock_shared(4711)) held"
    )
    with (
        cluster.connect_coordinator() as holder,
        cluster.connect() as other,
        futures.ThreadPoolExecutor(1) as pool,
    ):
        holder.execute("SELECT pg_advisory_lock(4711)")
        answer = pool.submit(filled.both, sql)
        clusters.eventually(
            lambda: holder.execute(
                "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted"
            ).fetchone()
        )
        other.execute(f"SELECT compress_chunk(c, true) FROM show_chunks('{schema}.events') c".encode())
        holder.execute("SELECT pg_advisory_unlock(4711)")
        answer.result(120)
    filled.orochi("RESET statement_timeout")
    filled.check_tables("events")


def test_chunks_that_another_block_has_made(cluster: clusters.Cluster, filled: oracle.Pair) -> None:
    """A block whose new chunk another one is making inside itself waits for that one, and takes its chunk."""
    ((schema,),) = filled.orochi("SELECT current_schema()")
    filled.both(
        "INSERT INTO events (tenant, at, id) SELECT i, '2024-03-10', 7100 + i FROM generate_series(1, 20) i"
    )
    with (
        cluster.connect() as first,
        cluster.connect() as other,
        cluster.connect_coordinator() as observer,
        futures.ThreadPoolExecutor(1) as pool,
    ):
        first.execute("BEGIN")
        first.execute("CREATE TABLE made_before (id int)")
        first.execute("SELECT create_distributed_table('made_before', 'id')")
        other.execute(f"SELECT compress_chunk(c, true) FROM show_chunks('{schema}.events') c".encode())
        first.execute(f"INSERT INTO {schema}.events (tenant, at, id) VALUES (1, '2037-05-05', 1)".encode())
        filled.plain.execute("INSERT INTO events (tenant, at, id) VALUES (1, '2037-05-05', 1)")
        filled.both("BEGIN")
        answer = pool.submit(
            filled.both,
            "INSERT INTO events (tenant, at, id) SELECT i, '2037-05-05', 7200 + i FROM generate_series(1, 9) i",
        )
        clusters.eventually(
            lambda: observer.execute(
                "SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND NOT granted"
                " AND query LIKE '%_gateway_execute%'"
            ).fetchone()
        )
        first.execute("COMMIT")
        answer.result(120)
        filled.both("COMMIT")
        first.execute("DROP TABLE made_before")
    filled.check_tables("events")
