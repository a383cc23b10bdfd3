"""INSERTs that name a chunk in the place of its shard: what they do not wait for, and that no row is missed anywhere."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support import cluster as clusters
from tests.support import oracle

_FILL = "INSERT INTO {0} SELECT timestamptz '2024-01-01' + g * interval '6 hours', g % 9, g FROM generate_series(0, 79) g"


@pytest.fixture(scope="module")
def pair(module_pair: oracle.Pair) -> oracle.Pair:
    """`events`: twenty days in four shards on two nodes, and `daily` over them."""
    for name in ("events", "moved"):
        module_pair.both(
            f"CREATE TABLE {name} (at timestamptz NOT NULL, k int NOT NULL, v int CHECK (v < 1000))"
        )
        module_pair.orochi(
            f"SELECT create_hypertable('{name}', 'at', chunk_time_interval => interval '1 day')"
        )
    module_pair.orochi("SELECT create_distributed_table('events', 'k', 4)")
    module_pair.both(*(_FILL.format(name) for name in ("events", "moved")))
    return module_pair


def shards(pair: oracle.Pair, cluster: clusters.Cluster, name: str) -> dict[str, list[str]]:
    """The relations of a table's shards as their nodes have them, by DSN."""
    (schema,) = pair.orochi("SELECT current_schema()")[0]
    with cluster.connect_coordinator(autocommit=True) as catalog:
        rows = catalog.execute(
            "SELECT n.node_id, format('orochi_s%%s_%%s.%%s', s.shard_id, s.layout, %s::text) FROM orochi.orochi_shards s"
            " JOIN orochi.orochi_shard_placements p USING (shard_id) JOIN orochi.orochi_nodes n USING (node_id)"
            " WHERE s.table_oid = %s::regclass",
            (name, f"{schema}.{name}"),
        ).fetchall()
    found: dict[str, list[str]] = {}
    for dsn in cluster.node_dsns:
        with psycopg.connect(dsn) as node:
            for _, relation in rows:
                if node.execute("SELECT to_regclass(%s) IS NOT NULL", (relation,)).fetchall() == [(True,)]:
                    found.setdefault(dsn, []).append(relation)
    return found


@contextlib.contextmanager
def writers_kept_out(found: dict[str, list[str]]) -> Iterator[None]:
    """Locks of shards, not of their chunks, that whoever writes to a shard by its name waits for."""
    with contextlib.ExitStack() as stack:
        for dsn, relations in found.items():
            node = stack.enter_context(psycopg.connect(dsn))
            node.execute(f"LOCK TABLE ONLY {', ONLY '.join(relations)} IN EXCLUSIVE MODE".encode())
        yield


def test_shards_are_not_waited_for(pair: oracle.Pair, cluster: clusters.Cluster) -> None:
    """One row or rows of a day in all shards; a row that a constraint refuses says so as PostgreSQL does."""
    day = "'2024-01-05 07:00+00'"
    rows = ", ".join(f"({day}, {k}, {k})" for k in range(12))
    with writers_kept_out(shards(pair, cluster, "events")):
        pair.orochi("SET statement_timeout TO '60s'")
        for sql in (
            f"INSERT INTO events VALUES ({day}, 3, 900)",
            f"INSERT INTO events VALUES ({day}, 4, 901)",
            f"INSERT INTO events VALUES {rows}",
            "INSERT INTO events VALUES ('2024-01-06 01:00+00', 5, 902) RETURNING at, v",
            f"INSERT INTO events VALUES ({day}, 3, 1000)",
        ):
            pair.same(sql)
        prepared = "INSERT INTO events VALUES (%s, %s, %s)"
        for k in range(8):
            pair.gateway.execute(prepared, ("2024-01-07", k, k), prepare=True)
            pair.plain.execute(prepared, ("2024-01-07", k, k))
    pair.orochi("RESET statement_timeout")
    pair.same("SELECT * FROM events")


def test_layouts_are_no_definitions(pair: oracle.Pair, cluster: clusters.Cluster) -> None:
    """Compression moves the catalog's version, DDL what rights and descriptions are remembered by, too."""

    def versions() -> tuple[int, int]:
        with cluster.connect_coordinator() as catalog:
            ((version, definitions),) = catalog.execute(
                "SELECT version, definitions FROM orochi.orochi_catalog_version"
            ).fetchall()
            return int(version), int(definitions)

    (chunk,) = pair.orochi("SELECT show_chunks('events')")[0]
    first = versions()
    pair.orochi("SELECT compress_chunk(%s)", (chunk,))
    second = versions()
    assert second[0] > first[0]
    assert second[1] == first[1]
    insert = "INSERT INTO events VALUES ('2024-01-05 08:00+00', 3, 1.5)"
    for sql in (insert, insert, insert):
        pair.same(sql)
    pair.both("ALTER TABLE events ADD COLUMN w float8, ALTER COLUMN v TYPE numeric")
    assert versions()[1] > second[1]
    for value in ("1.5", "2.50", "-3.5"):
        pair.same(f"INSERT INTO events VALUES ('2024-01-05 08:00+00', 3, {value}, {value}) RETURNING v, w")
    pair.same("SELECT * FROM events")


def test_aggregates_hear_of_them(pair: oracle.Pair) -> None:
    """Chunks that were there, that came after the aggregate, and that were compressed and brought back."""
    query = "SELECT {} AS day, count(*), sum(v) AS total FROM events GROUP BY 1"
    bucket, plain = "time_bucket('1 day', at)", "date_bin('1 day', at, timestamptz '2000-01-01 00:00+00')"
    pair.orochi(f"CREATE MATERIALIZED VIEW daily WITH (timescaledb.continuous) AS {query.format(bucket)}")
    pair.plain.execute(f"CREATE VIEW daily AS {query.format(plain)}".encode())
    pair.both("INSERT INTO events VALUES ('2024-03-01 12:00+00', 1, 1)")
    pair.orochi("SELECT refresh_continuous_aggregate('daily', NULL, NULL)")
    chunks = [name for (name,) in pair.orochi("SELECT show_chunks('events')")]
    for function in ("compress_chunk", "decompress_chunk"):
        for chunk in chunks[::7]:
            pair.orochi(f"SELECT {function}(%s)", (chunk,))
        for day in ("2024-01-02", "2024-01-05", "2024-03-01"):
            pair.both(f"INSERT INTO events VALUES ('{day} 13:00+00', 2, 2)")
        pair.both("INSERT INTO events VALUES ('2024-03-01 14:00+00', 1, 1), ('2024-03-01 15:00+00', 2, 1)")
        pair.same("SELECT * FROM daily")
        pair.orochi("SELECT refresh_continuous_aggregate('daily', NULL, NULL)")
        pair.same("SELECT * FROM daily")


def test_aggregates_of_others(pair: oracle.Pair, other: psycopg.Connection[tuple[Any, ...]]) -> None:
    """A block whose old snapshots do not show an aggregate makes no chunk that would not tell it of inserts."""
    pair.gateway.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    pair.gateway.execute("SELECT count(*) FROM events")
    other.execute(
        "CREATE MATERIALIZED VIEW monthly WITH (timescaledb.continuous) AS"
        " SELECT time_bucket('30 days', at) AS days, count(*) FROM events GROUP BY 1"
    )
    try:
        pair.gateway.execute("CREATE TABLE own (k int)")
        pair.gateway.execute("SELECT create_distributed_table('own', 'k')")
        with pytest.raises(psycopg.errors.SerializationFailure):
            pair.gateway.execute("INSERT INTO events VALUES ('2024-06-01', 1, 1)")
    finally:
        pair.gateway.execute("ROLLBACK")
    pair.both("INSERT INTO events VALUES ('2024-06-01', 1, 1)")
    assert (
        pair.orochi("SELECT sum(count) FROM monthly")
        == pair.plain.execute("SELECT count(*) FROM events").fetchall()
    )


def test_none_is_lost_when_shards_are_others(pair: oracle.Pair, cluster: clusters.Cluster) -> None:
    """Clients insert while the table gets other shards, and then none: stale plans find no chunk by its old name."""
    done = threading.Event()
    counts = [0, 0]
    failures: list[str] = []
    (schema,) = pair.orochi("SELECT current_schema()")[0]

    def client(number: int) -> None:
        try:
            with cluster.connect(autocommit=True) as connection:
                connection.execute(f'SET search_path TO "{schema}"')
                connection.execute("SET statement_timeout TO '60s'")
                while not done.is_set():
                    at = f"2024-01-{counts[number] % 20 + 1:02} 07:00+00"
                    connection.execute(f"INSERT INTO moved VALUES ('{at}', {counts[number]}, {number})")
                    counts[number] += 1
        except psycopg.Error as error:
            failures.append(repr(error))

    def enough(wanted: int) -> bool:
        return bool(failures) or sum(counts) > wanted

    threads = [threading.Thread(target=client, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        for statement in (
            "SELECT create_distributed_table('moved', 'k', 4)",
            "SELECT undistribute_table('moved')",
        ):
            wanted = sum(counts) + 20
            clusters.eventually(functools.partial(enough, wanted))
            pair.orochi(statement)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert pair.orochi("SELECT count(*) FROM moved") == [(80 + sum(counts),)]
