"""Chunks are encoded while others write to them: what was written meanwhile is neither lost nor doubled."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
import pytest
from psycopg import conninfo

from orochi import settings as process_settings
from orochi.timeseries import compression
from tests.support import cluster as clusters
from tests.support import oracle, pairs

_TABLE = "CREATE TABLE t (at timestamptz NOT NULL, id int, v text, n numeric, twice int GENERATED ALWAYS AS (id * 2) STORED)"
_FILL = (
    "INSERT INTO t (at, id, v, n) SELECT timestamptz '2024-03-01' + g * interval '1 min', g, 'v' || g, g / 8.0"
    " FROM generate_series(1, 400) g"
)
_MEANWHILE = (
    "INSERT INTO t (at, id, v) SELECT timestamptz '2024-03-01' + g * interval '1 min', 1000 + g, 'new' FROM generate_series(1, 40) g",
    "UPDATE t SET v = v || '!' WHERE id BETWEEN 50 AND 90",
    "UPDATE t SET v = v || '?' WHERE id BETWEEN 80 AND 100 OR id BETWEEN 1005 AND 1008",
    "DELETE FROM t WHERE id BETWEEN 95 AND 120 OR id = 1010",
    "UPDATE t SET id = id + 5000 WHERE id BETWEEN 200 AND 210",
    "BEGIN",
    "DELETE FROM t WHERE id BETWEEN 300 AND 340",
    "INSERT INTO t (at, id, v) VALUES ('2024-03-01', 7, 'never')",
    "ROLLBACK",
    "BEGIN",
    "DELETE FROM t WHERE id = 350",
    "SAVEPOINT one",
    "DELETE FROM t WHERE id = 351",
    "ROLLBACK TO SAVEPOINT one",
    "UPDATE t SET v = 'kept' WHERE id = 352",
    "COMMIT",
)
_READS = (
    "SELECT * FROM t ORDER BY at, id, v",
    "SELECT count(*), sum(id), sum(n), min(v), max(twice) FROM t",
    "SELECT * FROM t WHERE id IN (60, 85, 96, 1007, 5205) ORDER BY id, v",
)


@pytest.fixture
def pair(cluster: clusters.Cluster) -> Iterator[oracle.Pair]:
    opened = pairs.opened(cluster, "ahead")
    opened.both("CREATE SCHEMA ahead")
    yield opened
    pairs.close(opened, "ahead")


def _made(pair: oracle.Pair, layout: str) -> tuple[int, int]:
    """The table `t`, filled, its rows in one chunk; that and its node."""
    pair.both(_TABLE)
    if layout == "columnar":
        pair.orochi("ALTER TABLE t SET ACCESS METHOD columnar")
    else:
        pair.orochi("SELECT create_hypertable('t', 'at', INTERVAL '100 days')")
    pair.both(_FILL)
    rows = pair.orochi(
        "SELECT chunk_id, node_id FROM orochi.orochi_chunks JOIN orochi.orochi_shards s USING (shard_id)"
        " JOIN orochi.orochi_shard_placements p USING (shard_id) WHERE s.table_oid = 't'::regclass"
    )
    ((chunk, node),) = [tuple(map(int, row)) for row in rows]
    return chunk, node


def _settings(cluster: clusters.Cluster, node: int) -> process_settings.Settings:
    password = conninfo.conninfo_to_dict(cluster.coordinator_dsn)["password"]
    return process_settings.Settings(
        coordinator_dsn=cluster.coordinator_dsn,
        node_user="orochi",
        node_password=password,  # type: ignore[arg-type]
        data_dir=cluster.data_dir / f"node{node}",
    )


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], list[int]]:
    """Gives what has a function called between the encoding of chunks and the locks; the times it was."""

    def install(work: Callable[[], Any]) -> list[int]:
        called: list[int] = []

        def exchange(*arguments: Any, **named: Any) -> None:
            called.append(len(called))
            work()
            original(*arguments, **named)

        monkeypatch.setattr(compression, "_exchange", exchange)
        return called

    original = compression._exchange

    def never(*_arguments: Any) -> Any:
        raise AssertionError("it was encoded under locks")

    monkeypatch.setattr(compression, "_change", never)
    return install


@pytest.mark.parametrize("layout", ["hypertable", "columnar"])
def test_writes_meanwhile(
    cluster: clusters.Cluster,
    pair: oracle.Pair,
    layout: str,
    meanwhile: Callable[[Callable[[], Any]], list[int]],
) -> None:
    chunk, node = _made(pair, layout)
    settings = _settings(cluster, node)
    called = meanwhile(lambda: pair.both(*_MEANWHILE))
    compress: Sequence[Callable[..., Any]] = (
        compression.compress_chunks,  # the heap
        compression.compress_chunks,  # with rows of stripes, some of them recalled
        compression.add_stripes,  # beside the stripes
        compression.compress_chunks,
    )
    for number, function in enumerate(compress, 1):
        (facts,) = function(settings.coordinator_dsn, [chunk], settings)
        assert (facts["status"], len(called)) == ("compressed", number)
        for sql in _READS:
            pair.same(sql)
    pair.both("UPDATE t SET v = 'all'", "DELETE FROM t WHERE id % 3 = 0")
    for sql in _READS:
        pair.same(sql)


def test_ddl_meanwhile(
    cluster: clusters.Cluster, pair: oracle.Pair, meanwhile: Callable[[Callable[[], Any]], list[int]]
) -> None:
    chunk, node = _made(pair, "hypertable")
    settings = _settings(cluster, node)
    todo = [
        ("ALTER TABLE t ADD COLUMN extra int DEFAULT 5", "UPDATE t SET extra = 6 WHERE id < 20"),
        ("ALTER TABLE t DROP COLUMN twice",),
    ]
    called = meanwhile(lambda: pair.both(*todo.pop(0)) if todo else None)
    (facts,) = compression.compress_chunks(settings.coordinator_dsn, [chunk], settings)
    assert (facts["status"], len(called)) == ("compressed", 3)
    pair.same("SELECT * FROM t ORDER BY at, id, v")
    todo.append(("TRUNCATE t", _FILL.replace("400", "30")))
    pair.both("UPDATE t SET v = 'x' WHERE id < 5")
    compression.compress_chunks(settings.coordinator_dsn, [chunk], settings)
    pair.same("SELECT * FROM t ORDER BY at, id, v")


def test_a_hammered_chunk(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    """Clients that know their rows write to a chunk that is compressed again and again."""
    _made(pair, "hypertable")
    pair.orochi("SELECT set_config('search_path', 'ahead, orochi, public', false)")
    stop, wrong = threading.Event(), []
    known: list[dict[int, str]] = [{}, {}]

    def client(number: int) -> None:
        chance, mine = random.Random(number), known[number]
        with cluster.connect() as connection:
            connection.execute("SET search_path TO ahead, orochi, public")
            serial = 10_000 * (number + 1)
            while not stop.is_set():
                dice = chance.random()
                try:
                    if dice < 0.5 or not mine:
                        serial += 1
                        connection.execute(
                            "INSERT INTO t (at, id, v) VALUES ('2024-03-02', %s, 'a')", (serial,)
                        )
                        mine[serial] = "a"
                        continue
                    key = chance.choice(list(mine))
                    if dice < 0.8:
                        done = connection.execute("UPDATE t SET v = v || 'b' WHERE id = %s", (key,)).rowcount
                        mine[key] += "b"
                    else:
                        done = connection.execute("DELETE FROM t WHERE id = %s", (key,)).rowcount
                        del mine[key]
                    if done != 1:
                        wrong.append(f"{done} rows of {key}")
                except psycopg.Error as error:
                    wrong.append(repr(error))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        (name,) = pair.orochi("SELECT show_chunks('t')")[0]
        pair.orochi("SELECT compress_chunk(%s)", (name,))
        for _ in range(6):
            pair.orochi("SELECT recompress_chunk(%s)", (name,))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    rows = pair.orochi("SELECT id, v FROM t WHERE id >= 10000")
    assert len(rows) == len(known[0]) + len(known[1])
    assert dict(rows) == known[0] | known[1]


def test_rows_of_one_time_stay_in_their_order(pair: oracle.Pair) -> None:
    pair.both("CREATE TABLE t (at timestamptz NOT NULL, id int)")
    pair.orochi("SELECT create_hypertable('t', 'at')")
    for first in (1, 13):
        pair.both(
            "INSERT INTO t SELECT timestamptz '2024-03-01' + g % 3 * interval '1 hour', g"
            f" FROM generate_series({first}, {first + 11}) g"
        )
        pair.orochi("SELECT recompress_chunk(c) FROM show_chunks('t') c")
        pair.same("SELECT at, array_agg(id) FROM t GROUP BY at ORDER BY at")
    assert pair.orochi("SELECT first(id, at), last(id, at) FROM t") == [(3, 2)]
