"""Orochi's own functions, called by a user: on empty and on filled tables, in and out of transactions."""

from __future__ import annotations

import datetime as dt
import itertools

import pytest

from tests.support import cluster as clusters
from tests.support import layouts, oracle


@pytest.fixture
def events(pair: oracle.Pair) -> oracle.Pair:
    """The table as PostgreSQL made it, filled, not yet Orochi's."""
    pair.both(layouts.EVENTS, layouts.FILL)
    return pair


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_filled_table_keeps_its_rows(events: oracle.Pair, layout: str) -> None:
    layouts.place(events, "events", layout, key="tenant", time="at")
    events.check_tables("events")
    layouts.compress(events, "events", layout)
    events.check_tables("events")
    events.both("INSERT INTO events (tenant, at, id) VALUES (1, '2024-03-11', 5000)")
    events.check_tables("events")


@pytest.mark.parametrize("layout", ["reference", "distributed", "both", "both-compressed"])
def test_undistribute(events: oracle.Pair, layout: str) -> None:
    layouts.place(events, "events", layout, key="tenant", time="at")
    layouts.compress(events, "events", layout, every=2)
    events.orochi("SELECT undistribute_table('events')")
    events.check_tables("events")
    [(left,)] = events.orochi(
        "SELECT count(*) FROM orochi.tables WHERE table_name LIKE '%events' AND table_type = 'distributed'"
    )
    assert left == 0
    events.both("UPDATE events SET what = 'after' WHERE tenant = 1")
    events.check_tables("events")


def test_hypertable_first_or_last(pair: oracle.Pair) -> None:
    pair.both(layouts.EVENTS)
    pair.orochi("SELECT create_hypertable('events', 'at')")
    pair.orochi("SELECT create_distributed_table('events', 'tenant', 4)")
    pair.both(layouts.FILL)
    pair.check_tables("events")
    [row] = pair.orochi(
        "SELECT distribution_column, shard_count, is_hypertable, time_column, chunk_interval::interval FROM orochi.tables"
        " WHERE table_name = 'events'::regclass::text"
    )
    assert row == ("tenant", 4, True, "at", dt.timedelta(days=1))


def test_in_one_transaction_with_its_table(pair: oracle.Pair) -> None:
    pair.both("BEGIN")
    pair.both(layouts.EVENTS)
    layouts.place(pair, "events", "both", key="tenant", time="at")
    pair.both(layouts.FILL)
    pair.check_tables("events")
    pair.both("COMMIT")
    pair.check_tables("events")


def test_rolled_back(events: oracle.Pair) -> None:
    events.both("BEGIN")
    layouts.place(events, "events", "both", key="tenant", time="at")
    events.check_tables("events")
    events.both("ROLLBACK")
    events.check_tables("events")
    [(known,)] = events.orochi(
        "SELECT count(*) FROM orochi.tables WHERE table_name = 'events'::regclass::text"
    )
    assert known == 0
    layouts.place(events, "events", "both", key="tenant", time="at")
    events.check_tables("events")


def test_drop_table_leaves_nothing(cluster: clusters.Cluster, events: oracle.Pair) -> None:
    layouts.place(events, "events", "both-compressed", key="tenant", time="at")
    layouts.compress(events, "events", "both-compressed")
    shards = [
        row[0]
        for row in events.orochi(
            "SELECT shard_id FROM orochi.shards WHERE table_name = 'events'::regclass::text"
        )
    ]
    assert len(shards) == 4
    events.both("DROP TABLE events")
    assert events.orochi("SELECT 1 FROM orochi.shards WHERE shard_id = ANY (%s)", (shards,)) == []
    patterns = [f"orochi_s{shard}_%" for shard in shards]

    def nothing_left() -> bool:
        events.orochi("SELECT run_maintenance()")
        for dsn in cluster.node_dsns:
            with oracle.psycopg.connect(dsn, autocommit=True) as node:
                if node.execute(
                    "SELECT 1 FROM pg_namespace WHERE nspname LIKE ANY (%s)", (patterns,)
                ).fetchone():
                    return False
        return True

    clusters.eventually(nothing_left, pause=1)


def test_calls_in_every_notation(pair: oracle.Pair) -> None:
    for number in range(4):
        pair.both(f'CREATE TABLE "T {number}" (k int, at timestamptz NOT NULL)')
    pair.orochi(
        """SELECT create_distributed_table(table_name => '"T 0"', distribution_column => 'k', shard_count => 2)"""
    )
    pair.orochi("""SELECT * FROM create_distributed_table('"T 1"', 'k', colocate_with => '"T 0"')""")
    pair.orochi("SELECT orochi.create_reference_table(%s::regclass)", ('"T 2"',))
    pair.orochi("""SELECT create_hypertable('"T 3"', by_range('at', INTERVAL '1 day'))""")
    assert pair.orochi("SELECT shard_count FROM orochi.tables WHERE table_name LIKE '%%T 1%%'") == [(2,)]
    assert pair.orochi(
        "SELECT count(DISTINCT colocation_id) FROM orochi.tables WHERE table_name ~ 'T [01]'"
    ) == [(1,)]


def test_if_not_exists(events: oracle.Pair) -> None:
    events.orochi("SELECT create_hypertable('events', 'at')")
    events.orochi("SELECT create_hypertable('events', 'at', if_not_exists => true)")
    answer = oracle.ask(events.gateway, "SELECT create_hypertable('events', 'at')")
    assert answer.sqlstate is not None
    events.check_tables("events")


def test_chunks(events: oracle.Pair) -> None:
    layouts.place(events, "events", "hypertable", key="tenant", time="at")
    days = {row[0] for row in events.plain.execute("SELECT (at AT TIME ZONE 'UTC')::date FROM events")}
    chunks = events.orochi(
        "SELECT chunk_name, range_start, range_end, is_compressed, tier FROM orochi.chunks"
        " WHERE hypertable = 'events'::regclass::text ORDER BY range_start"
    )
    assert len(chunks) == len(days)
    assert [name for (name,) in events.orochi("SELECT show_chunks('events')::text")] == [
        str(chunk[0]) for chunk in chunks
    ]
    assert {chunk[3:] for chunk in chunks} == {(False, "hot")}
    newer = events.orochi("SELECT show_chunks('events', newer_than => timestamptz '2024-03-12')")
    older = events.orochi("SELECT show_chunks('events', older_than => timestamptz '2024-03-12')")
    assert len(newer) + len(older) == len(chunks)
    assert newer
    assert older


def test_drop_chunks(events: oracle.Pair) -> None:
    layouts.place(events, "events", "both-compressed", key="tenant", time="at")
    layouts.compress(events, "events", "both-compressed", every=3)
    dropped = events.orochi("SELECT drop_chunks('events', older_than => timestamptz '2024-03-12')")
    assert dropped
    events.plain.execute("DELETE FROM events WHERE at < '2024-03-12'")
    events.check_tables("events")


def test_compress_twice_and_back(events: oracle.Pair) -> None:
    layouts.place(events, "events", "both", key="tenant", time="at")
    chunks = [row[0] for row in events.orochi("SELECT show_chunks('events')")]
    events.orochi("SELECT compress_chunk(%s)", (chunks[0],))
    events.orochi("SELECT compress_chunk(%s, if_not_compressed => true)", (chunks[0],))
    answer = oracle.ask(events.gateway, "SELECT compress_chunk(%s, false)", (chunks[0],))
    assert answer.sqlstate is not None
    events.both(
        "INSERT INTO events SELECT tenant, at, id + 10000 FROM events", "DELETE FROM events WHERE id % 3 = 0"
    )
    events.check_tables("events")
    for chunk in chunks:
        events.orochi("SELECT compress_chunk(%s, true)", (chunk,))
    events.check_tables("events")
    for chunk in chunks:
        events.orochi("SELECT decompress_chunk(%s)", (chunk,))
    events.check_tables("events")
    assert events.orochi(
        "SELECT count(*) FROM orochi.chunks WHERE is_compressed AND hypertable = 'events'::regclass::text"
    ) == [(0,)]


def test_hash_value_is_postgresqls(pair: oracle.Pair) -> None:
    for value, function in (("42", "hashint4"), ("42::bigint", "hashint8"), ("'x'::text", "hashtext")):
        assert (
            pair.orochi(f"SELECT hash_value({value})")
            == pair.plain.execute(f"SELECT {function}({value})").fetchall()
        )


def test_shards_cover_all_hashes(events: oracle.Pair) -> None:
    events.orochi("SELECT create_distributed_table('events', 'tenant')")
    rows = events.orochi(
        "SELECT hash_min, hash_max, node_id FROM orochi.shards WHERE table_name = 'events'::regclass::text ORDER BY shard_index"
    )
    assert len(rows) == 32
    assert (rows[0][0], rows[-1][1]) == (-(2**31), 2**31 - 1)
    assert all(left[1] + 1 == right[0] for left, right in itertools.pairwise(rows))
    assert len({row[2] for row in rows}) == 2
    events.check_tables("events")


def test_time_bucket_and_first_last(events: oracle.Pair) -> None:
    layouts.place(events, "events", "both-compressed", key="tenant", time="at")
    layouts.compress(events, "events", "both-compressed", every=2)
    ours = events.orochi(
        "SELECT time_bucket('6 hours', at), first(amount, at), last(id, at), count(*) FROM events GROUP BY 1 ORDER BY 1"
    )
    theirs = events.plain.execute(
        "SELECT date_bin('6 hours', at, '2000-01-03 00:00+00'), (array_agg(amount ORDER BY at))[1],"
        " (array_agg(id ORDER BY at DESC))[1], count(*) FROM events GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert ours == theirs


def test_views_of_the_cluster(events: oracle.Pair) -> None:
    layouts.place(events, "events", "both", key="tenant", time="at")
    nodes = events.orochi(
        "SELECT node_id, hostname, port, role, state, shard_count FROM orochi.nodes WHERE role = 'data'"
    )
    assert len(nodes) == 2
    for view in ("tables", "shards", "shard_placements", "chunks", "nodes"):
        assert oracle.ask(events.gateway, f"SELECT * FROM orochi.{view}").sqlstate is None


def test_past_the_gateway(cluster: clusters.Cluster, events: oracle.Pair) -> None:
    schema = events.orochi("SELECT current_schema()")[0][0]
    layouts.place(events, "events", "both", key="tenant", time="at")
    with cluster.connect_coordinator() as direct:
        answer = oracle.ask(direct, f"SELECT orochi.create_reference_table('{schema}.events')")
        assert (answer.sqlstate, "through the Orochi gateway" in (answer.message or "")) == ("0A000", True)
        for sql in (
            "INSERT INTO events (tenant, at) VALUES (1, '2024-03-10'), (2, '2024-03-11')",
            "COPY events (tenant, at) FROM PROGRAM 'echo 1,2024-01-01' (FORMAT csv)",
        ):
            direct.execute(f"SET search_path TO {schema}")
            oracle.Pair(direct, events.plain).same(sql)
    events.check_tables("events")


def test_ddl_that_shards_would_not_follow(cluster: clusters.Cluster, events: oracle.Pair) -> None:
    """Inside of bodies and past the gateway a shell keeps its definition; comments, rights and new tables are free."""
    ((schema,),) = events.orochi("SELECT current_schema()")
    layouts.place(events, "events", "both", key="tenant", time="at")
    changes = (
        "ALTER TABLE events ADD COLUMN extra int",
        "ALTER TABLE events RENAME COLUMN what TO kind",
        "ALTER TABLE events ALTER what DROP DEFAULT",
        "ALTER TABLE events DROP CONSTRAINT amount_is_sane",
        "ALTER TABLE events RENAME TO incidents",
        "CREATE UNIQUE INDEX ON events (id)",
        "ALTER INDEX events_pkey RENAME TO other",
    )
    events.orochi(
        "CREATE FUNCTION change() RETURNS void LANGUAGE sql AS 'ALTER TABLE events ADD COLUMN extra int'"
    )
    with cluster.connect_coordinator() as direct:
        direct.execute(f"SET search_path TO {schema}".encode())
        for connection, statements in (
            (events.gateway, [*(f"DO $$BEGIN {change}; END$$" for change in changes), "SELECT change()"]),
            (direct, changes),
        ):
            for sql in statements:
                answer = oracle.ask(connection, sql)
                assert (answer.sqlstate, "Orochi table" in (answer.message or "")) == ("0A000", True), sql
    events.both(
        "DO $$BEGIN ALTER TABLE events ENABLE ROW LEVEL SECURITY; ALTER TABLE events SET (fillfactor = 90); END$$",
        "DO $$BEGIN ALTER TABLE events DISABLE ROW LEVEL SECURITY; EXCEPTION WHEN others THEN RAISE; END$$",
        "DO $$BEGIN CREATE TABLE own (id int); ALTER TABLE own ADD v int; COMMENT ON TABLE events IS 'x'; END$$",
    )
    events.same("ALTER TABLE events ADD COLUMN extra int DEFAULT 4")
    events.same("SELECT id, extra FROM events ORDER BY 1 LIMIT 5")
    events.check_tables("events")
