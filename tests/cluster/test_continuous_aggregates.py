"""Continuous aggregates against a plain view over a plain table: after every write, and after any history.

What the gateway answers from finished buckets and live rows must be what PostgreSQL's GROUP BY gives at
each step; what is stored after a refresh must be that too; and exactly the buckets that a write touched
may be recomputed.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import datetime as dt
import random
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from orochi.timeseries import invalidation
from tests.support import cluster as clusters
from tests.support import layouts, oracle, pairs

_SCHEMA = "cagg"
_TIME_BUCKET = (
    "CREATE FUNCTION time_bucket(interval, timestamptz) RETURNS timestamptz IMMUTABLE LANGUAGE sql"
    " AS $$ SELECT date_bin($1, $2, timestamptz '2000-01-03 00:00+00') $$"
)
_TABLES = (
    "CREATE TABLE points (at timestamptz NOT NULL, device integer NOT NULL, v integer, n numeric)",
    "CREATE TABLE devices (device integer PRIMARY KEY, site text)",
    "INSERT INTO devices SELECT g, 'site ' || g % 3 FROM generate_series(0, 9) g",
)
_FILL = (
    "INSERT INTO points SELECT timestamptz '2024-03-09 00:00+00' + g * interval '41 minutes', g % 7, g, g * 1.25"
    " FROM generate_series(0, 240) g"
)
_HOURS = """
    SELECT time_bucket('3 hours', at) AS hour, device, count(*) AS rows, sum(v), avg(n) AS mean,
           max(v) FILTER (WHERE v % 2 = 0) AS even, string_agg(v::integer % 5 || '', ',' ORDER BY v) AS listed
    FROM points WHERE v IS NOT NULL GROUP BY 1, device HAVING count(*) > 0"""
_SITES = """
    WITH known AS (SELECT at AS moment, device AS id, n FROM points WHERE device < 6)
    SELECT d.site, time_bucket('1 day', k.moment) AS day, sum(k.n) + 1 AS total, count(DISTINCT k.id) AS devices
    FROM (SELECT * FROM known) k JOIN devices d ON d.device = k.id GROUP BY d.site, day"""
_DAYS = """
    SELECT time_bucket('1 day', hour) AS day, sum(rows)::bigint AS rows, max(mean) AS highest FROM hours GROUP BY 1"""
_VIEWS = ("hours", "sites", "days")


@pytest.fixture(scope="module")
def pair(cluster: clusters.Cluster) -> Iterator[oracle.Pair]:
    found = pairs.opened(cluster, _SCHEMA)
    found.both(f"CREATE SCHEMA {_SCHEMA}")
    found.plain.execute(_TIME_BUCKET)
    yield found
    pairs.close(found, _SCHEMA)


def build(pair: oracle.Pair, layout: str) -> None:
    """The table, filled, in a layout, and three aggregates over it."""
    pair.both("DROP TABLE IF EXISTS points, devices CASCADE", *_TABLES)
    pair.orochi("SELECT create_reference_table('devices')")
    layouts.place(pair, "points", layout, key="device", time="at", interval="4 days")
    pair.both(_FILL)
    if layout.endswith("compressed"):
        layouts.compress(pair, "points", layout, every=2)
    for name, query in zip(_VIEWS, (_HOURS, _SITES, _DAYS), strict=True):
        pair.plain.execute(f"CREATE VIEW {name} AS {query}".encode())
    query = _HOURS.replace("v::integer % 5 || ''", "repeat('x', v % 5)")
    pair.plain.execute(f"CREATE OR REPLACE VIEW hours AS {query}".encode())
    pair.orochi(f"CREATE MATERIALIZED VIEW hours WITH (timescaledb.continuous) AS {query}")
    pair.orochi("SELECT create_continuous_aggregate('sites', %s)", (_SITES,))
    pair.orochi(f"CREATE MATERIALIZED VIEW days WITH (orochi.continuous) AS {_DAYS} WITH NO DATA")


def check(pair: oracle.Pair) -> None:
    for name in _VIEWS:
        pair.same(f"SELECT * FROM {name}")


def stored(pair: oracle.Pair, name: str) -> None:
    """What is stored, nothing live, is what a plain GROUP BY gives."""
    columns = [
        item[0] for item in pair.plain.execute(f"SELECT * FROM {name} LIMIT 0".encode()).description or ()
    ]
    (table,) = pair.orochi(
        "SELECT materialization_table FROM orochi.continuous_aggregates WHERE view_name ~ %s", (f"{name}$",)
    )[0]
    ours = pair.orochi(f"SELECT {', '.join(columns)} FROM {table}")
    theirs = pair.plain.execute(f"SELECT {', '.join(columns)} FROM {name}".encode()).fetchall()
    assert sorted(map(repr, ours)) == sorted(map(repr, theirs)), name


def write(pair: oracle.Pair, chance: random.Random) -> None:
    """A random write, the same on both sides."""
    day, hours = chance.randrange(8, 18), chance.randrange(24)
    moment = f"timestamptz '2024-03-{day:02} {hours:02}:10+00'"
    device, number = chance.randrange(8), chance.randrange(1000)
    near = f"at BETWEEN {moment} AND {moment} + interval '5 hours'"
    statements = (
        f"INSERT INTO points VALUES ({moment}, {device}, {number}, 2.5), ({moment}, 3, NULL, 1)",
        f"INSERT INTO points SELECT at - interval '2 days', device, v + 1, n FROM points WHERE {near}",
        f"UPDATE points SET v = v + 1, n = n * 2 WHERE {near} AND device <> {device}",
        f"UPDATE points SET at = at + interval '7 hours' WHERE device = {device} AND {near}",
        f"DELETE FROM points WHERE {near}",
        f"UPDATE devices SET site = 'site ' || {number % 4} WHERE device = {device}",
        (
            f"MERGE INTO points p USING (VALUES ({device}, {moment})) s (d, m) ON p.device = s.d AND p.at = s.m"
            f" WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (s.m, s.d, {number}, 0.5)"
        ),
    )
    pick = chance.randrange(len(statements) + 1)
    if pick == len(statements):
        pair.copy_in("COPY points FROM STDIN", f"2024-03-{day:02} 01:00+00\t{device}\t{number}\t7\n".encode())
    else:
        pair.both(statements[pick])


def by_policy(pair: oracle.Pair, cluster: clusters.Cluster, change: str) -> None:
    """A policy's first run, which is due at once, recomputes the bucket that a change touched."""
    pair.both(change)
    policy = "add_continuous_aggregate_policy('each_hour', INTERVAL '200 years', INTERVAL '1 hour', INTERVAL '1 day')"
    ((job,),) = pair.orochi(f"SELECT {policy}")
    runs = "SELECT state, sqlerrcode, err_message FROM orochi.job_history WHERE job_id = %s AND finish_time IS NOT NULL"
    clusters.eventually(lambda: bool(pair.orochi(runs, (job,))))
    assert pair.orochi(runs, (job,)) == [("succeeded", None, None)]
    assert entries(cluster) == []
    assert history(pair, "each_hour")[-1] == 1
    pair.same("SELECT * FROM each_hour")
    pair.orochi("SELECT remove_continuous_aggregate_policy('each_hour')")


@pytest.mark.parametrize("layout", ["hypertable", "both-compressed"])
def test_any_history(pair: oracle.Pair, layout: str) -> None:
    chance = random.Random(layout)
    build(pair, layout)
    check(pair)
    for step in range(3):
        if step % 4 == 2:
            pair.both("BEGIN")
            write(pair, chance)
            check(pair)
            pair.both("ROLLBACK")
        else:
            write(pair, chance)
        check(pair)
        if step % 3 == 2:
            day = chance.randrange(8, 15)
            pair.orochi(f"SELECT refresh_continuous_aggregate('hours', '2024-03-{day}', '2024-03-{day + 3}')")
            check(pair)
    for name in _VIEWS:
        pair.orochi("SELECT refresh_continuous_aggregate(%s)", (name,))
        stored(pair, name)
    pair.both("TRUNCATE points")
    check(pair)


_SINGLE = {
    "beside": "SELECT time_bucket('1 hour', at) AS h, device, count(*) AS rows, avg(n) AS mean FROM points GROUP BY 1, 2",
    "whole": "SELECT time_bucket('1 hour', at) AS h, sum(v) AS v, max(n) AS n FROM points GROUP BY 1",
    "bound": "SELECT time_bucket('1 hour', at) AS h, device, sum(v) AS v FROM points"
    " WHERE at < timestamptz '2024-03-10 06:00+00' OR at = timestamptz '2024-03-10 09:00+00' GROUP BY 1, 2",
    "after": "SELECT time_bucket('1 hour', at) AS h, sum(v) AS v FROM points WHERE at >= '2024-03-10 04:30+00'::timestamptz GROUP BY 1",
    "counted": "SELECT time_bucket('1 hour', at) AS h, device, count(*) AS rows FROM points JOIN devices USING (device)"
    " GROUP BY 1, 2 HAVING count(*) > (SELECT count(*) FROM devices) - 10",
}


@contextlib.contextmanager
def _buckets_locked(cluster: clusters.Cluster) -> Iterator[None]:
    """While the rows of all finished buckets are locked on the nodes."""
    tables = "SELECT oid::regclass::text FROM pg_class WHERE relname ~ '^aggregate_[0-9]+$' AND relkind = 'p'"
    with contextlib.ExitStack() as stack:
        for dsn in cluster.node_dsns:
            node = stack.enter_context(psycopg.connect(dsn))
            for (table,) in node.execute(tables).fetchall():
                node.execute(f"SELECT FROM {table} FOR UPDATE".encode())
        yield


@pytest.mark.parametrize("layout", ["both", "hypertable"])
def test_one_bucket_after_another(pair: oracle.Pair, cluster: clusters.Cluster, layout: str) -> None:
    """Plans serve other buckets and chunks, with rows in heaps and stripes, and only while they hold."""
    pair.both("DROP TABLE IF EXISTS points, devices CASCADE", *_TABLES)
    pair.orochi("SELECT create_reference_table('devices')")
    layouts.place(pair, "points", layout, key="device", time="at", interval="4 days")
    pair.both(_FILL)
    for name, query in _SINGLE.items():
        pair.plain.execute(f"CREATE VIEW {name} AS {query}".encode())
        pair.orochi(f"CREATE MATERIALIZED VIEW {name} WITH (orochi.continuous) AS {query}")
    for number, hour in enumerate((1, 3, 9, 5, 4, 6, 8, 7, 2, 5)):
        pair.both(f"INSERT INTO points VALUES ('2024-03-10 0{hour}:00+00', {number % 5}, {number}, 0.5)")
        if number % 3 == 2:
            pair.both(f"DELETE FROM points WHERE at = '2024-03-10 0{hour}:00+00' AND device = {number % 5}")
        if number % 4 == 3:
            pair.both(
                f"UPDATE points SET v = v + 1 WHERE at BETWEEN '2024-03-14' AND '2024-03-14 0{hour}:00+00'"
            )
        if number in (5, 8):  # one after the other
            pair.orochi("SELECT compress_chunk(c) FROM show_chunks('points') c LIMIT %s", (number - 4,))
        for name in _SINGLE:
            pair.orochi("SELECT refresh_continuous_aggregate(%s)", (name,))
            stored(pair, name)
    pair.both("UPDATE points SET v = 0 WHERE at BETWEEN '2024-03-14' AND '2024-03-14 01:30+00'")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with _buckets_locked(cluster):  # for longer than a node is given to compute them itself
            done = pool.submit(pair.orochi, "SELECT refresh_continuous_aggregate('beside')")
            assert not concurrent.futures.wait([done], 0.8).done
        done.result(120)
    stored(pair, "beside")
    pair.both("DROP TABLE points CASCADE")


_JOINED = {
    "owned": """
        SELECT time_bucket('6 hours', p.at) AS six, p.device, o.who || '!' AS who, count(*) AS rows,
               sum(p.v) FILTER (WHERE o.weight > 2) AS heavy, max(p.n) - min(p.n) AS spread
        FROM points p JOIN owners o USING (device) GROUP BY 1, 2, 3 HAVING count(*) > 1""",
    "tagged": """
        WITH known AS (SELECT device, tag FROM tags WHERE id < 90)
        SELECT time_bucket('1 day', q.at) AS day, coalesce(k.tag, d.site) AS tag, count(k.device) AS tags, avg(q.n) AS mean
        FROM (SELECT * FROM points WHERE device IN (SELECT device FROM owners WHERE weight > 0)) q
        LEFT JOIN known k ON k.device = q.device JOIN devices d ON d.device = q.device GROUP BY 1, 2
        HAVING count(*) > (SELECT count(*) FROM tags) / 50""",
    "by_day": """
        SELECT time_bucket('1 day', six) AS day, d.site, sum(o.rows) AS rows, max(o.spread) AS spread
        FROM owned o JOIN devices d ON d.device = o.device GROUP BY 1, 2""",
}


def test_joins(pair: oracle.Pair) -> None:
    """Writes to any table of a join, co-located or not, are seen at once, and are what a refresh stores."""
    pair.both("DROP TABLE IF EXISTS points, devices, owners, tags CASCADE", *_TABLES)
    pair.both(
        "CREATE TABLE owners (device integer NOT NULL, who text, weight integer)",
        "CREATE TABLE tags (id integer PRIMARY KEY, device integer, tag text)",
    )
    pair.orochi("SELECT create_reference_table('devices')")
    layouts.place(pair, "points", "both", key="device", time="at", interval="4 days")
    pair.orochi("SELECT create_distributed_table('owners', 'device', colocate_with => 'points')")
    pair.orochi("SELECT create_distributed_table('tags', 'id', 3)")
    pair.both(
        _FILL,
        "INSERT INTO owners SELECT g, 'w' || g % 3, g FROM generate_series(0, 6) g",
        "INSERT INTO tags SELECT g, g % 5, 't' || g % 4 FROM generate_series(0, 20) g",
    )
    for name, query in _JOINED.items():
        pair.plain.execute(f"CREATE VIEW {name} AS {query}".encode())
        pair.orochi(f"CREATE MATERIALIZED VIEW {name} WITH (orochi.continuous) AS {query}")
    for number, sql in enumerate(
        (
            "UPDATE owners SET who = 'new', weight = weight + 1 WHERE device = 2",
            "DELETE FROM tags WHERE id IN (7, 8)",
            "UPDATE devices SET site = 'moved' WHERE device < 2",
            "INSERT INTO points SELECT at, device, 7, 0.5 FROM points WHERE device = 4 AND at < '2024-03-11'",
        )
    ):
        pair.both(sql)
        for name in _JOINED:
            pair.same(f"SELECT * FROM {name}")
        if number % 2:
            for name in _JOINED:
                pair.orochi("SELECT refresh_continuous_aggregate(%s)", (name,))
                stored(pair, name)
                pair.same(f"SELECT * FROM {name}")
    pair.orochi("DROP TABLE points, owners, tags CASCADE")
    pair.plain.execute("DROP TABLE points, owners, tags CASCADE")


def history(pair: oracle.Pair, name: str) -> list[int]:
    """Buckets that the refreshes of an aggregate recomputed, in order."""
    return [
        int(row[0])
        for row in pair.orochi(
            "SELECT r.details ->> 'buckets' FROM orochi.orochi_job_runs r JOIN orochi.orochi_continuous_aggregates a"
            " ON a.materialization_oid = r.table_oid WHERE a.view_oid = %s::regclass AND r.state = 'succeeded'"
            " ORDER BY r.run_id",
            (name,),
        )
    ]


def entries(cluster: clusters.Cluster) -> list[tuple[int, int]]:
    """What stands in the logs of all nodes; of aggregates that are gone a sweep takes it away."""
    with cluster.connect_coordinator() as catalog:
        known = [
            row[0] for row in catalog.execute("SELECT aggregate_id FROM orochi.orochi_continuous_aggregates")
        ]
    found: set[tuple[int, int]] = set()
    for dsn in cluster.node_dsns:
        with psycopg.connect(dsn) as node:
            sql = "SELECT lowest, greatest FROM orochi_data.aggregate_log WHERE aggregate_id = ANY(%s)"
            found |= set(node.execute(sql, (known,)).fetchall())
    return sorted(found)


def test_what_a_dropped_schema_leaves_is_swept(pair: oracle.Pair, cluster: clusters.Cluster) -> None:
    """Triggers, functions and entries of an aggregate that went with its schema."""
    pair.orochi("CREATE SCHEMA doomed")
    pair.orochi("CREATE TABLE doomed.points (at timestamptz NOT NULL, device int)")
    pair.orochi("SELECT create_hypertable('doomed.points', 'at')")
    pair.orochi("INSERT INTO doomed.points VALUES ('2024-01-01', 1)")
    pair.orochi(
        "CREATE MATERIALIZED VIEW doomed.days WITH (orochi.continuous) AS"
        " SELECT time_bucket('1 day', at) AS day, count(*) FROM doomed.points GROUP BY 1"
    )
    (number,) = pair.orochi("SELECT max(aggregate_id) FROM orochi.orochi_continuous_aggregates")[0]
    pair.orochi("UPDATE doomed.points SET device = 2")
    pair.orochi("DROP SCHEMA doomed CASCADE")

    for dsn in cluster.node_dsns:
        with cluster.connect_coordinator() as catalog, psycopg.connect(dsn, autocommit=True) as node:
            invalidation.sweep(catalog, node)  # or maintenance has been here
            sql = (
                "SELECT (SELECT count(*) FROM pg_proc WHERE proname ~ %s) + (SELECT count(*)"
                " FROM orochi_data.aggregate_log WHERE aggregate_id = %s)"
            )
            assert node.execute(sql, (f"^aggregate_{number}_", number)).fetchone() == (0,)


def test_exactly_what_was_touched(pair: oracle.Pair, cluster: clusters.Cluster) -> None:
    """Every path marks the buckets it touched, a rolled back one none; a refresh recomputes those alone."""
    pair.both("DROP TABLE IF EXISTS points, devices CASCADE", _TABLES[0])
    layouts.place(pair, "points", "both", key="device", time="at", interval="12 days")
    pair.both(
        "INSERT INTO points SELECT timestamptz '2024-01-01 00:00+00' + g * interval '1 hour', g % 5, g, g"
        " FROM generate_series(0, 999) g"
    )
    for (chunk,) in pair.orochi("SELECT show_chunks('points')")[::3]:
        pair.orochi("SELECT compress_chunk(%s)", (chunk,))
    query = "SELECT time_bucket('1 hour', at) AS hour, count(*), sum(v) AS total FROM points GROUP BY 1"
    pair.orochi(f"CREATE MATERIALIZED VIEW each_hour WITH (timescaledb.continuous) AS {query}")
    pair.plain.execute(f"CREATE VIEW each_hour AS {query}".encode())
    assert history(pair, "each_hour") == [1000]
    kept = pair.orochi("SELECT sum(total_bytes)::bigint FROM hypertable_detailed_size('each_hour')")
    assert pair.orochi("SELECT hypertable_size('each_hour')") == kept > [(0,)]
    by_device = query.replace("count(*)", "device, count(*)") + ", 2"
    pair.orochi(f"CREATE MATERIALIZED VIEW each_device WITH (timescaledb.continuous) AS {by_device}")
    pair.plain.execute(f"CREATE VIEW each_device AS {by_device}".encode())
    moment = "timestamptz '2024-01-10 07:20+00'"
    since = dt.datetime(2024, 1, 10, 7, tzinfo=dt.UTC) - dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
    bucket = since // dt.timedelta(microseconds=1)
    once = [(bucket, bucket)]
    for number, sql in enumerate(
        (
            f"INSERT INTO points VALUES ({moment}, 1, 1, 1)",
            f"UPDATE points SET v = 5 WHERE at = {moment}",
            f"DELETE FROM points WHERE at = {moment} AND device = 1",
            f"INSERT INTO points SELECT {moment}, g, g, g FROM generate_series(1, 900) g",
            f"DO $$ BEGIN INSERT INTO points VALUES ({moment}, 9, 9, 9); END $$",
        )
    ):
        pair.both("BEGIN", sql, "ROLLBACK")
        assert entries(cluster) == []
        pair.both(sql)
        assert entries(cluster) == once, sql
        for name in ("each_hour", "each_device"):
            pair.same(f"SELECT * FROM {name}")
            pair.orochi("SELECT refresh_continuous_aggregate(%s, NULL, NULL)", (name,))
            assert history(pair, name)[number + 1 :] == [1]
            stored(pair, name)
        assert entries(cluster) == []
    written = "SELECT rows FROM orochi.orochi_job_runs WHERE kind = 'refresh' ORDER BY run_id DESC LIMIT 1"
    assert 100 < pair.orochi(written)[0][0] < 600  # of 900 groups of the bucket those in one shard of four
    pair.plain.execute("DROP VIEW each_device")
    pair.orochi("DROP MATERIALIZED VIEW each_device")
    by_policy(pair, cluster, f"INSERT INTO points VALUES ({moment}, 2, 2, 2)")
    pair.both("INSERT INTO points VALUES ('2030-01-01', 1, 1, 1)")  # where nothing was finished
    assert entries(cluster) == []
    pair.orochi("SELECT drop_chunks('points', older_than => timestamptz '2024-01-15')")
    pair.same("SELECT * FROM each_hour")  # kept history
    pair.plain.execute("DELETE FROM points WHERE at < '2024-01-06'")
    pair.orochi("CALL refresh_continuous_aggregate('each_hour', '2024-01-01', '2024-01-08')")
    pair.same("SELECT * FROM each_hour")
    assert history(pair, "each_hour")[-1] == 0
    pair.plain.execute("DROP VIEW each_hour")
    pair.orochi("DROP MATERIALIZED VIEW each_hour")
    assert pair.orochi("SELECT to_regnamespace('orochi_aggregates')") == [(None,)]
    assert pair.orochi("SELECT count(*) FROM orochi.continuous_aggregates") == [(0,)]


def test_renamed_columns(pair: oracle.Pair) -> None:
    """Columns of an aggregate that exchange their names: what is over it, its options and indexes follow."""
    pair.both("DROP TABLE IF EXISTS points, devices CASCADE", _TABLES[0], _FILL)
    layouts.place(pair, "points", "hypertable", key="device", time="at", interval="4 days")
    query = "SELECT time_bucket('3 hours', at) AS b, max(at) AS m, device AS d, count(*) AS c FROM points GROUP BY 1, 3"
    above = "SELECT time_bucket('1 day', {}) AS day, sum(c) AS n FROM hours GROUP BY 1"
    for name, text in (("hours", query), ("days", above.format("b"))):
        pair.orochi(f"CREATE MATERIALIZED VIEW {name} WITH (timescaledb.continuous) AS {text}")
        pair.plain.execute(f"CREATE VIEW {name} AS {text}".encode())
    for old, new in (("b", "x"), ("m", "b"), ("x", "m")):
        pair.orochi(f"ALTER MATERIALIZED VIEW hours RENAME COLUMN {old} TO {new}")
        pair.plain.execute(f"ALTER VIEW hours RENAME COLUMN {old} TO {new}".encode())
    pair.both("INSERT INTO points SELECT at, device, 1, 1 FROM points WHERE at < '2024-03-10'")
    for _ in range(2):
        for sql in ("SELECT * FROM hours", "SELECT * FROM hours WHERE b > '2024-03-11' AND m < '2024-03-12'"):
            pair.same(sql)
        pair.same("SELECT * FROM days")
        pair.orochi(
            "SELECT refresh_continuous_aggregate(v) FROM (VALUES ('hours'::regclass), ('days')) x (v)"
        )
    pair.orochi("CREATE INDEX ON hours ((hours.c + 1), m) WHERE b > '2024-03-10 00:00+00'")
    ((made,),) = pair.orochi(
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'orochi_aggregates' AND indexdef ~ 'c [+] 1'"
    )
    assert "(((c + 1)), b) WHERE (m >" in made
    assert (
        oracle.ask(
            pair.gateway, f"CREATE MATERIALIZED VIEW bad WITH (orochi.continuous) AS {above.format('b')}"
        ).sqlstate
        == "0A000"
    )
    pair.orochi("DROP MATERIALIZED VIEW days")
    for only in ("true", "false"):
        pair.orochi(f"ALTER MATERIALIZED VIEW hours SET (timescaledb.materialized_only = {only})")
        pair.same("SELECT b, m, d, c FROM hours")
    pair.orochi("DROP TABLE points CASCADE")
    pair.plain.execute("DROP TABLE points CASCADE")


def test_never_stale(pair: oracle.Pair, cluster: clusters.Cluster) -> None:
    """While rows come and are rolled back, and refreshes run: an answer has what was committed before it began."""
    pair.both("DROP TABLE IF EXISTS points, devices CASCADE", _TABLES[0])
    layouts.place(pair, "points", "both", key="device", time="at", interval="12 days")
    pair.both("INSERT INTO points VALUES ('2024-01-01 00:00+00', 0, 1, 1), ('2024-01-05 00:00+00', 0, 1, 1)")
    query = "SELECT time_bucket('1 hour', at) AS hour, device, sum(v) AS total FROM points GROUP BY 1, 2"
    pair.orochi(f"CREATE MATERIALIZED VIEW totals WITH (timescaledb.continuous) AS {query}")
    lock, counts, failed = threading.Lock(), {"begun": 2, "done": 2}, list[str]()
    ended = threading.Event()

    def opened() -> psycopg.Connection[Any]:
        connection = cluster.connect(prepare_threshold=None)
        connection.execute(f"SET search_path TO {_SCHEMA}, orochi, public")
        return connection

    def writer(seed: int) -> None:
        chance = random.Random(seed)
        with opened() as connection:
            for _ in range(12):
                rows = ", ".join(
                    f"('2024-01-0{chance.randrange(1, 7)} {chance.randrange(24)}:30+00', {chance.randrange(9)}, 1, 1)"
                    for _ in range(2)
                )
                if chance.random() < 0.2:
                    connection.execute(f"BEGIN; INSERT INTO points VALUES {rows}; ROLLBACK".encode())
                    continue
                with lock:
                    counts["begun"] += 2
                connection.execute(f"INSERT INTO points VALUES {rows}".encode())
                with lock:
                    counts["done"] += 2

    def reader() -> None:
        with opened() as connection:
            while not ended.is_set():
                least = counts["done"]
                (row,) = connection.execute("SELECT sum(total) FROM totals").fetchall()
                if not least <= row[0] <= counts["begun"]:
                    failed.append(f"{row[0]}, not from {least} to {counts['begun']}")

    def refresher() -> None:
        with opened() as connection:
            while not ended.is_set():
                connection.execute("SELECT refresh_continuous_aggregate('totals', NULL, NULL)")

    def watched(work: Any, *arguments: Any) -> None:
        try:
            work(*arguments)
        except Exception as error:
            failed.append(repr(error))

    writers = [threading.Thread(target=watched, args=(writer, seed)) for seed in range(2)]
    others = [threading.Thread(target=watched, args=(work,)) for work in (reader, refresher)]
    for thread in (*writers, *others):
        thread.start()
    for thread in writers:
        thread.join()
    ended.set()
    for thread in others:
        thread.join()
    assert not failed
    assert pair.orochi("SELECT sum(total) FROM totals") == [(counts["done"],)]
    pair.orochi("SELECT refresh_continuous_aggregate('totals', NULL, NULL)")
    (table,) = pair.orochi("SELECT materialization_table FROM orochi.continuous_aggregates")[0]
    assert sorted(pair.orochi(f"SELECT * FROM {table}")) == sorted(pair.orochi(query))
    pair.orochi("DROP TABLE points CASCADE")
    pair.plain.execute("DROP TABLE points CASCADE")
