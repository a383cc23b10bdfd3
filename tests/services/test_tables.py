"""Distributing, partitioning, altering and compressing tables, on real databases; plain tables are the oracle.

The maintenance worker's functions are called in a thread here; the queue between is tested elsewhere.
"""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any

import psycopg
import pytest

from orochi import errors, settings
from orochi.catalog import snapshot as snapshots
from orochi.executor import maintenance, names
from orochi.operations import calls, ddl
from orochi.planner import parse
from orochi.timeseries import upkeep
from tests.services import harness


@pytest.fixture(scope="module")
def databases() -> Iterator[harness.Databases]:
    with harness.databases() as found:
        yield found


class Tasks:
    """Runs maintenance tasks at once; stripe files of all nodes lie in one folder."""

    def __init__(self, configured: settings.Settings) -> None:
        self.settings = configured

    async def run_task(
        self, node_id: int, task_name: str, arguments: Mapping[str, Any], *, timeout: float
    ) -> dict[str, Any]:
        function = {
            names.COMPRESS_CHUNK: maintenance.compress_chunk,
            names.DECOMPRESS_CHUNK: maintenance.decompress_chunk,
        }[task_name]
        return await asyncio.to_thread(function, self.settings, dict(arguments))


class World:
    """One session, and what to look at its effects with."""

    def __init__(self, databases: harness.Databases, folder: pathlib.Path) -> None:
        self.databases = databases
        self.settings = databases.settings.model_copy(update={"data_dir": folder, "retired_grace": 0.0})
        self.loop = asyncio.new_event_loop()
        self.session = self.run(harness.connect(databases))
        self.session.runtime.transport = Tasks(self.settings)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def sql(self, statement: str) -> list[tuple[str | None, ...]]:
        """Run one statement as the gateway would; its rows, and notices in `self.notices`."""
        return self.run(self._sql(statement))  # type: ignore[no-any-return]

    async def _sql(self, text: str) -> list[tuple[str | None, ...]]:
        session, statement, sink = self.session, parse.parse_one(text), harness.Sink()
        await session.runtime.refresh()
        try:
            if statement.kind is parse.Kind.CALL:
                await calls.execute(session, statement, None, None, sink)
            elif statement.kind is parse.Kind.DDL and ddl.affected(session, statement):
                await ddl.execute(session, statement, sink)
            else:
                result = (await session.coordinator.query(text))[-1]
                sink.values = [tuple(None if v is None else v.decode() for v in row) for row in result.rows]
        except BaseException:
            await session.rollback()
            raise
        session._own = None if session.coordinator.status == "I" else session._own
        await session.runtime.refresh()
        self.notices = sink.notices
        return sink.values

    def table(self, name: str) -> snapshots.Table:
        found = self.session.runtime.snapshot().table("public", name)
        assert found is not None
        return found

    def on_shards(self, name: str, query: str) -> list[tuple[Any, ...]]:
        """Rows of `query` on every shard, `{}` being its relation."""
        rows = []
        for shard in self.table(name).shards:
            for node_id in shard.node_ids:
                rows += self.databases.run(f"n{node_id}", query.format(f'"{shard.schema}"."{name}"'))
        return rows

    def close(self) -> None:
        self.session.coordinator.close()
        self.run(self.session.runtime.nodes.close())
        self.loop.close()


@pytest.fixture
def world(databases: harness.Databases, tmp_path: pathlib.Path) -> Iterator[World]:
    for row in databases.run("co", "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
        databases.run("co", f'DROP TABLE "{row[0]}" CASCADE')
    found = World(databases, tmp_path)
    yield found
    found.close()


def refused(world: World, statement: str) -> errors.OrochiError:
    with pytest.raises(errors.OrochiError) as caught:
        world.sql(statement)
    return caught.value


def test_rows_move_to_shards_and_back(world: World) -> None:
    world.sql(
        "CREATE TABLE t (id int PRIMARY KEY, n text COLLATE \"C\" DEFAULT 'x' CHECK (n <> ''),"
        " g int GENERATED ALWAYS AS (id * 2) STORED, u int GENERATED ALWAYS AS IDENTITY)"
    )
    world.sql("INSERT INTO t (id, n) SELECT i, 'n' || i FROM generate_series(1, 1000) i")
    before = world.sql("SELECT * FROM t ORDER BY id")
    world.sql("SELECT create_distributed_table('t', 'id', 5)")
    assert world.databases.run("co", "SELECT count(*) FROM ONLY t") == [(0,)]
    counts = [row[0] for row in world.on_shards("t", "SELECT count(*) FROM {}")]
    assert len(counts) == 5
    assert sum(counts) == 1000
    assert all(count > 0 for count in counts)
    assert {shard.node_id for shard in world.table("t").shards} == {1, 2}
    for statement in (
        "INSERT INTO t (id) VALUES (5000)",
        "UPDATE t SET n = 'a'",
        "DELETE FROM t",
        "TRUNCATE t",
    ):
        # the shell's child leads to the gateway, and here is none
        assert refused(world, statement).sqlstate == "08001"
    shards = sorted(world.on_shards("t", "SELECT id, n, g, u FROM {}"))
    assert [tuple(str(value) for value in row) for row in shards] == before


def test_colocation(world: World) -> None:
    world.sql("CREATE TABLE a (id int PRIMARY KEY)")
    world.sql("CREATE TABLE b (a_id int REFERENCES a, x int, PRIMARY KEY (a_id, x))")
    world.sql("CREATE TABLE c (id bigint)")
    world.sql("CREATE TABLE d (id int)")
    world.sql("SELECT create_distributed_table('a', 'id', 4)")
    world.sql("SELECT create_distributed_table('b', 'a_id', colocate_with => 'a')")
    world.sql("SELECT create_distributed_table('c', 'id', 4)")
    world.sql("SELECT create_distributed_table('d', 'id', '4', 'none')")
    a, b, c, d = (world.table(name) for name in "abcd")
    assert a.colocation_id == b.colocation_id
    assert len({a.colocation_id, c.colocation_id, d.colocation_id}) == 3
    assert [(s.node_ids, s.hash_min) for s in a.shards] == [(s.node_ids, s.hash_min) for s in b.shards]
    shard = b.shards[0]
    with pytest.raises(psycopg.errors.ForeignKeyViolation) as caught:
        world.databases.run(f"n{shard.node_id}", f'INSERT INTO "{shard.schema}".b VALUES (1, 1)')
    assert caught.value.diag.constraint_name == "b_a_id_fkey"


@pytest.mark.parametrize(
    ("call", "sqlstate"),
    [
        ("create_distributed_table('bad', 'nope')", "42703"),
        ("create_distributed_table('bad', 'f')", "42P16"),
        ("create_distributed_table('bad', 'x')", "0A000"),
        ("create_distributed_table('bad', 'id', 0)", "22023"),
        ("create_distributed_table('bad', 'id', 'range')", "0A000"),
        ("create_distributed_table('bad_view', 'id')", "42809"),
        ("create_distributed_table('bad_partitioned', 'id')", "0A000"),
        ("create_distributed_table('bad', 'id', colocate_with => 'bad_view')", "42809"),
        ("create_distributed_table('bad_child', 'id')", "0A000"),
        ("create_distributed_table('bad_trigger', 'id')", "0A000"),
        ("create_hypertable('bad', 'f')", "42P16"),
        ("create_hypertable('bad', 'x')", "0A000"),
        ("create_hypertable('bad', 'id')", "22023"),
        ("create_hypertable('bad', by_hash('id', 4))", "0A000"),
        ("create_hypertable('bad', 'nope')", "42703"),
        ("undistribute_table('bad')", "42809"),
        ("compress_chunk('orochi_chunks.chunk_999999')", "42704"),
        ("set_chunk_time_interval('bad', 5)", "42809"),
        ("create_distributed_table('missing', 'id')", "42P01"),
    ],
)
def test_bad_calls(world: World, call: str, sqlstate: str) -> None:
    for statement in (
        "CREATE TABLE bad (id int PRIMARY KEY, f float8, x int)",
        "CREATE VIEW bad_view AS SELECT 1 AS id",
        "CREATE TABLE bad_partitioned (id int) PARTITION BY RANGE (id)",
        "CREATE TABLE bad_child (b int REFERENCES bad, id int)",
        "CREATE TABLE bad_trigger (id int)",
        (
            "CREATE TRIGGER x BEFORE UPDATE ON bad_trigger FOR EACH ROW"
            " EXECUTE FUNCTION suppress_redundant_updates_trigger()"
        ),
    ):
        world.databases.run("co", statement)
    error = refused(world, f"SELECT {call}")
    assert error.sqlstate == sqlstate
    world.databases.run("co", "DROP VIEW bad_view")


def test_hypertable_before_and_after_distribution(world: World) -> None:
    world.sql("CREATE TABLE h (d text, t timestamptz, v int, UNIQUE (d, t))")
    world.sql(
        "INSERT INTO h SELECT 'd' || i % 7, timestamptz '2024-01-01 00:00+00' + i * interval '1 hour', i"
        " FROM generate_series(1, 1000) i"
    )
    expected = [(1000, 500500)]
    made = world.sql("SELECT * FROM create_hypertable('h', 't', chunk_time_interval => interval '10 days')")
    assert made[0][1:] == ("public", "h", "t")
    table = world.table("h")
    assert table.kind is snapshots.TableKind.SINGLE
    assert len(table.shards) == 1
    assert world.on_shards("h", "SELECT count(*), sum(v)::int FROM {}") == expected
    assert world.sql("SELECT create_hypertable('h', 't', if_not_exists => true)")[0][0].endswith(",f)")  # type: ignore[union-attr]
    assert world.notices
    world.sql("CREATE TABLE k (d text, t timestamptz NOT NULL, v int, UNIQUE (d, t))")
    world.sql(
        "INSERT INTO k SELECT 'd' || i % 7, '2024-01-01'::timestamptz + i * interval '1 hour', i FROM generate_series(1, 1000) i"
    )
    world.sql("SELECT create_distributed_table('k', 'd', 3)")
    assert refused(world, "SELECT create_hypertable('k', 't', migrate_data => false)").sqlstate == "0A000"
    world.sql("SELECT create_hypertable('k', by_range('t', interval '10 days'))")
    table = world.table("k")
    ranges = [[(c.range_start, c.range_end) for c in shard.chunks] for shard in table.shards]
    assert len(ranges[0]) == 5
    assert all(found == ranges[0] for found in ranges)
    counts = world.on_shards("k", "SELECT count(*), sum(v)::int FROM {}")
    assert (sum(c for c, _ in counts), sum(v or 0 for _, v in counts)) == expected[0]
    names_there = world.on_shards(
        "k",
        "SELECT string_agg(conname, ',') FROM pg_constraint WHERE contype = 'u' AND conrelid = '{}'::regclass",
    )
    assert names_there == [("k_d_t_key",)] * 3
    for shard in table.shards:
        schema = shard.chunks[0].schema
        rows = world.databases.run(
            f"n{shard.node_id}", f"SELECT indexname FROM pg_indexes WHERE schemaname = '{schema}' ORDER BY 1"
        )
        assert rows == [("k_d_t_key",), ("k_t_idx",)]


@pytest.mark.parametrize(
    ("kind", "interval", "low", "high"),
    [
        ("timestamptz", "interval '1 year'", "-infinity", "infinity"),
        ("timestamp", "'1 month'", "4713-01-01 BC", "294276-12-31 23:59:59"),
        ("date", "interval '7 days'", "-infinity", "5874897-12-31"),
        ("smallint", "1000", "-32768", "32767"),
        ("int", "100000000", "-2147483648", "2147483647"),
        ("bigint", "1000", "-9223372036854775808", "9223372036854775807"),
    ],
)
def test_extreme_times_have_chunks(world: World, kind: str, interval: str, low: str, high: str) -> None:
    world.sql(f"CREATE TABLE e (t {kind} NOT NULL)")
    world.sql(
        f"INSERT INTO e VALUES ('{low}'), ('{high}'), ('{'2024-02-03' if 't' in kind[:4] and 'int' not in kind else '5'}')"
    )
    world.sql(f"SELECT create_hypertable('e', 't', chunk_time_interval => {interval})")
    assert world.on_shards("e", "SELECT count(*) FROM {}") == [(3,)]
    assert len(world.table("e").shards[0].chunks) == 3
    world.sql("SELECT * FROM orochi.chunks")


def test_in_one_transaction_and_rolled_back(world: World) -> None:
    for statement in (
        "BEGIN",
        "CREATE TYPE tx_mood AS ENUM ('x', 'y')",
        "CREATE TABLE tx (id int, t date NOT NULL, m tx_mood DEFAULT 'y')",
        "INSERT INTO tx SELECT i, date '2024-01-01' + i FROM generate_series(1, 50) i",
    ):
        world.run(world.session.coordinator.query(statement))
    world.session.transaction.in_block = True
    for statement in (
        "create_distributed_table('tx', 'id', 2)",
        "create_hypertable('tx', 't', '10 days')",
    ):
        parsed = parse.parse_one(f"SELECT {statement}")
        world.run(calls.execute(world.session, parsed, None, None, harness.Sink()))
    assert world.session.runtime.snapshot().table("public", "tx") is None
    inside = world.session.snapshot().table("public", "tx")
    assert inside is not None
    world.run(world.session.rollback())
    for node in ("n1", "n2"):
        left = "SELECT count(*) FROM pg_namespace WHERE nspname IN ({})".format(
            ", ".join(f"'{shard.schema}'" for shard in inside.shards)
        )
        assert world.databases.run(node, left) == [(0,)]
    world.run(world.session.runtime.refresh())
    assert world.session.runtime.snapshot().table("public", "tx") is None


def test_ddl_reaches_every_shard(world: World) -> None:
    world.sql("CREATE TABLE q (id int, t timestamp NOT NULL, w text)")
    world.sql(
        "INSERT INTO q SELECT i, timestamp '2024-01-01' + i * interval '6 hours', 'w' || i FROM generate_series(1, 100) i"
    )
    world.sql("SELECT create_distributed_table('q', 'id', 2)")
    world.sql("SELECT create_hypertable('q', 't', chunk_time_interval => '7 days')")
    for statement in (
        "ALTER TABLE q ADD COLUMN z int DEFAULT 5, ADD COLUMN n timestamptz DEFAULT now()",
        "ALTER TABLE q RENAME COLUMN w TO ww",
        "ALTER TABLE q ALTER COLUMN z TYPE text USING z::text || '!'",
        "ALTER TABLE q ALTER z SET NOT NULL, ADD CONSTRAINT u UNIQUE (id, t, z)",
        "ALTER TABLE q ADD CHECK (id > 0)",
        "CREATE INDEX ON q (lower(ww))",
        "CREATE INDEX CONCURRENTLY ci ON q (z) WHERE id > 3",
        "ALTER INDEX ci RENAME TO ci2",
        "ALTER TABLE q RENAME CONSTRAINT u TO u2",
        "ALTER TABLE q RENAME TO q2",
        "ALTER TABLE q2 SET (orochi.segmentby = 'ww', orochi.orderby = 't DESC', orochi.compression = 'zstd')",
        "ALTER TABLE q2 RENAME COLUMN ww TO w3",
    ):
        world.sql(statement)
    assert set(world.on_shards("q2", "SELECT DISTINCT z FROM {}")) == {("5!",)}
    assert len({row[0] for row in world.on_shards("q2", "SELECT DISTINCT n FROM {}")}) == 1
    shown = (
        "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod) || attnotnull, ',' ORDER BY attnum)"
        " FROM pg_attribute WHERE attrelid = '{}'::regclass AND attnum > 0 AND NOT attisdropped"
    )
    shell = world.databases.run("co", shown.format("q2"))
    assert set(world.on_shards("q2", shown)) == set(shell)
    for shard in world.table("q2").shards:
        for schema in (shard.schema, shard.chunks[0].schema):
            listed = f"SELECT string_agg(indexname, ',' ORDER BY indexname) FROM pg_indexes WHERE schemaname = '{schema}'"
            assert world.databases.run(f"n{shard.node_id}", listed) == world.databases.run(
                "co",
                "SELECT string_agg(indexname, ',' ORDER BY indexname) FROM pg_indexes WHERE tablename = 'q2'",
            )
    table = world.table("q2")
    assert (table.segmentby, table.orderby) == (("w3",), ('"t" desc',))
    world.sql("DROP INDEX ci2")
    assert world.on_shards("q2", "SELECT count(*) FROM pg_indexes WHERE indexname = 'ci2'") == [(0,)] * 2


@pytest.mark.parametrize(
    ("statement", "sqlstate"),
    [
        ("ALTER TABLE q DROP COLUMN id", "0A000"),
        ("ALTER TABLE q ALTER id TYPE bigint", "0A000"),
        ("ALTER TABLE q ADD COLUMN x int UNIQUE", "0A000"),
        ("CREATE UNIQUE INDEX ON q (w)", "0A000"),
        ("ALTER TABLE q ADD FOREIGN KEY (id) REFERENCES plain_one", "0A000"),
        ("ALTER TABLE q ADD COLUMN x float8 DEFAULT random() CHECK (x > 2)", "23514"),
        ("ALTER TABLE q ADD CHECK (w <> 'w5')", "23514"),
        ("ALTER TABLE q SET (orochi.nonsense = 1)", "22023"),
        ("ALTER TABLE q SET (orochi.segmentby = 'nope')", "42703"),
        ("ALTER TABLE plain_one ADD FOREIGN KEY (id) REFERENCES q", "42704"),
        ("ALTER TABLE q ADD COLUMN w int", "42701"),
    ],
)
def test_ddl_that_is_refused_changes_nothing(world: World, statement: str, sqlstate: str) -> None:
    world.sql("CREATE TABLE plain_one (id int PRIMARY KEY)")
    world.sql("CREATE TABLE q (id int, w text)")
    world.sql("INSERT INTO q SELECT i, 'w' || i FROM generate_series(1, 20) i")
    world.sql("SELECT create_distributed_table('q', 'id', 2)")
    before = world.table("q")
    assert refused(world, statement).sqlstate == sqlstate
    assert world.table("q") == before
    assert (
        len(
            world.on_shards(
                "q", "SELECT attname FROM pg_attribute WHERE attrelid = '{}'::regclass AND attnum > 0"
            )
        )
        == 4
    )


def test_compression_keeps_every_row(world: World) -> None:
    world.sql(
        "CREATE TABLE z (id int, t timestamptz NOT NULL, v float8, s text, n numeric, b bool, j jsonb,"
        " g int GENERATED ALWAYS AS (id * 2) STORED)"
    )
    world.sql(
        "INSERT INTO z (id, t, v, s, n, b, j) SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '1 hour',"
        " CASE WHEN i % 10 = 0 THEN 'NaN' ELSE i / 7.0 END, CASE WHEN i % 11 = 0 THEN NULL ELSE 'é' || i % 5 END,"
        " i / 3.0, i % 2 = 0, jsonb_build_object('i', i) FROM generate_series(1, 2000) i"
    )
    world.sql("SELECT create_hypertable('z', 't', chunk_time_interval => interval '30 days')")
    old = [chunk.name for chunk in world.table("z").shards[0].chunks]
    world.sql(
        "ALTER TABLE z SET (orochi.segmentby = 's', orochi.orderby = 't desc', orochi.stripe_row_limit = 300,"
        " orochi.chunk_group_row_limit = 100)"
    )
    done = world.sql("SELECT compress_chunk(c) FROM show_chunks('z') c")
    assert [row[0] for row in done] == old
    shard = world.table("z").shards[0]
    assert all(chunk.is_compressed for chunk in shard.chunks)
    assert all(stripe.row_count <= 300 for chunk in shard.chunks for stripe in chunk.stripes)
    assert sum(stripe.row_count for chunk in shard.chunks for stripe in chunk.stripes) == 2000
    assert world.on_shards("z", "SELECT count(*) FROM {}") == [(0,)]
    assert world.sql(
        "SELECT number_compressed_chunks, before_compression_total_bytes > after_compression_total_bytes FROM hypertable_compression_stats('z')"
    ) == [("4", "t")]
    assert (
        refused(world, f"SELECT compress_chunk('{old[0]}', if_not_compressed => false)").sqlstate == "55000"
    )
    world.sql(f"SELECT compress_chunk('{old[0]}')")
    assert "already compressed" in world.notices[0]
    stripe = shard.chunks[0].stripes[0]
    node = f"n{shard.node_id}"
    world.databases.run(node, f"INSERT INTO orochi_data.delete_vectors VALUES ({stripe.stripe_id}, 0)")
    world.databases.run(node, f"INSERT INTO \"{shard.schema}\".z (id, t) VALUES (-1, '2024-01-02')")
    world.sql(f"SELECT recompress_chunk('{old[0]}')")
    assert world.databases.run(node, "SELECT count(*) FROM orochi_data.delete_vectors") == [(0,)]
    assert sum(s.row_count for s in world.table("z").shards[0].chunks[0].stripes) == sum(
        s.row_count for s in shard.chunks[0].stripes
    )
    world.sql("SELECT decompress_chunk(c) FROM show_chunks('z') c")
    assert world.on_shards("z", "SELECT count(*), count(*) FILTER (WHERE id = -1) FROM {}") == [(2000, 1)]
    missing = world.on_shards(
        "z", "SELECT i FROM generate_series(1, 2000) i WHERE NOT EXISTS (SELECT FROM {} z WHERE z.id = i)"
    )
    assert len(missing) == 1
    assert not world.table("z").shards[0].has_stripes


def test_compressed_rows_come_back_equal(world: World) -> None:
    world.sql("CREATE TABLE y (id int, t date NOT NULL, a int[], i inet, iv interval, ba bytea)")
    world.sql(
        "INSERT INTO y SELECT i, date '2024-01-01' + i, ARRAY[i, NULL], '10.0.0.1', i * interval '1 day 2 s', '\\x00ff' FROM generate_series(1, 60) i"
    )
    world.sql("SELECT create_distributed_table('y', 'id', 2)")
    world.sql("SELECT create_hypertable('y', 't', chunk_time_interval => interval '20 days')")
    every = "SELECT x::text FROM {} x"
    before = sorted(world.on_shards("y", every))
    world.sql("SELECT compress_chunk(c) FROM show_chunks('y') c")
    world.sql("SELECT decompress_chunk(c) FROM show_chunks('y') c")
    assert sorted(world.on_shards("y", every)) == before
    assert len(before) == 60


def test_dropped_chunks_and_tables_leave_nothing(world: World) -> None:
    world.sql("CREATE TABLE x (id int, t timestamptz NOT NULL)")
    world.sql(
        "INSERT INTO x SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '1 day' FROM generate_series(0, 59) i"
    )
    world.sql("SELECT create_distributed_table('x', 'id', 2)")
    world.sql("SELECT create_hypertable('x', 't', chunk_time_interval => interval '10 days')")
    world.sql("SELECT compress_chunk(c) FROM show_chunks('x', older_than => timestamptz '2024-02-01') c")
    dropped = world.sql("SELECT drop_chunks('x', older_than => '2024-01-20')")
    assert dropped
    assert not {row[0] for row in dropped} & {row[0] for row in world.sql("SELECT show_chunks('x')")}
    assert refused(world, "SELECT drop_chunks('x')").sqlstate == "22023"
    assert world.sql("SELECT drop_chunks('x', interval '1000 years')") == []
    world.sql("DROP TABLE x")
    world.databases.run("co", "UPDATE orochi.orochi_cleanup SET not_before = now()")
    for node_id in (1, 2):
        upkeep.sweep(world.settings.coordinator_dsn, node_id, world.settings)
    left = "SELECT nspname FROM pg_namespace WHERE nspname ~ '^orochi_[sc][0-9]'"
    assert world.databases.run("n1", left) + world.databases.run("n2", left) == []
    assert world.databases.run("co", "SELECT * FROM orochi.orochi_cleanup") == []
    assert [path for path in world.settings.stripe_dir.rglob("*") if path.is_file()] == []


def test_statistics(world: World) -> None:
    world.sql("CREATE TABLE st (id int, t date NOT NULL)")
    world.sql("INSERT INTO st SELECT i, date '2024-01-01' + i % 30 FROM generate_series(1, 500) i")
    world.sql("SELECT create_distributed_table('st', 'id', 2)")
    world.sql("SELECT create_hypertable('st', 't', chunk_time_interval => interval '10 days')")
    world.sql("SELECT compress_chunk(c) FROM show_chunks('st', older_than => '2024-01-15') c")
    before = world.sql("SELECT version FROM orochi.orochi_catalog_version")
    for node_id in (1, 2):
        upkeep.collect_stats(world.settings.coordinator_dsn, node_id, world.settings)
    assert world.sql("SELECT version FROM orochi.orochi_catalog_version") == before
    assert world.sql("SELECT row_count, size_bytes > 0 FROM orochi.tables WHERE table_name = 'st'") == [
        ("500", "t")
    ]
    assert world.sql(
        "SELECT sum(row_count), sum(row_count) FILTER (WHERE is_compressed) > 0 FROM orochi.chunks WHERE hypertable = 'st'"
    ) == [("500", "t")]
    world.sql("CREATE TABLE many (id int)")
    world.sql("INSERT INTO many SELECT generate_series(1, 6000)")
    world.sql("SELECT create_distributed_table('many', 'id', 2)")
    for moves in (True, False):  # many more rows are told to gateways, once
        before = world.sql("SELECT version FROM orochi.orochi_catalog_version")
        for node_id in (1, 2):
            upkeep.collect_stats(world.settings.coordinator_dsn, node_id, world.settings)
        assert (world.sql("SELECT version FROM orochi.orochi_catalog_version") != before) == moves
    world.run(world.session.runtime.refresh())
    assert sum(shard.row_count for shard in world.table("many").shards) == 6000


def test_an_orphan_partition_is_replaced(world: World) -> None:
    from orochi.operations import chunks

    world.sql("CREATE TABLE o (t int NOT NULL)")
    world.sql("SELECT create_hypertable('o', 't', chunk_time_interval => 10)")
    world.run(chunks.ensure(world.session, world.table("o"), [5]))
    world.run(chunks.ensure(world.session, world.table("o"), [15]))
    assert len(world.table("o").shards[0].chunks) == 2
    lost = world.table("o").shards[0].chunks[1]
    # as if the gateway had died between the node's commit and the catalog's
    world.databases.run("co", f"DELETE FROM orochi.orochi_chunks WHERE chunk_id = {lost.chunk_id}")
    world.run(world.session.runtime.refresh())
    world.run(chunks.ensure(world.session, world.table("o"), [12]))
    found = world.table("o").shards[0].chunks
    assert [(c.range_start, c.range_end) for c in found] == [(0, 10), (10, 20)]
    assert found[1].chunk_id != lost.chunk_id


def test_nodes_come_and_go(world: World) -> None:
    world.sql("CREATE TABLE r (id int PRIMARY KEY)")
    world.sql("INSERT INTO r SELECT generate_series(1, 10)")
    world.sql("SELECT create_reference_table('r')")
    assert world.on_shards("r", "SELECT count(*) FROM {}") == [(10,), (10,)]
    world.sql("CREATE TABLE rd (id int)")
    world.sql("SELECT create_distributed_table('rd', 'id', 2)")
    assert refused(world, "SELECT remove_node(1)").sqlstate == "55000"
    assert refused(world, "SELECT remove_node(77)").sqlstate == "42704"
    rows = world.sql("SELECT * FROM run_command_on_nodes('SELECT 5')")
    assert rows == [("1", "t", "5"), ("2", "t", "5")]
    assert len(world.sql("SELECT run_command_on_shards('rd', 'SELECT count(*) FROM %s')")) == 2


def test_compression_policies(world: World) -> None:
    world.sql("CREATE TABLE p (t timestamptz NOT NULL)")
    world.sql("INSERT INTO p VALUES ('2024-01-01'), (now())")
    world.sql("SELECT create_hypertable('p', 't')")
    job = world.sql("SELECT add_compression_policy('p', interval '7 days')")
    assert refused(world, "SELECT add_compression_policy('p', '7 days')").sqlstate == "42710"
    assert world.sql("SELECT add_compression_policy('p', '7 days', if_not_exists => true)") == job
    assert world.sql("SELECT remove_compression_policy('p')") == [("t",)]
    assert refused(world, "SELECT remove_compression_policy('p')").sqlstate == "42704"
