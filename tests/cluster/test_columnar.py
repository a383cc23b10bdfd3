"""Columnar tables without a time column: every way to make one, and PostgreSQL's answers from it."""

from __future__ import annotations

import concurrent.futures
import pathlib
import random
import time

import pytest

from orochi.embedded import verification
from tests.support import cluster as clusters
from tests.support import oracle


def _storage(pair: oracle.Pair, table: str) -> tuple[object, ...]:
    """(kind, storage type, access method of the shell); nothing of a table that is not Orochi's."""
    rows = pair.orochi(
        "SELECT t.table_type, t.storage_type, m.amname FROM orochi.tables t"
        " JOIN pg_class c ON c.oid = t.table_name::regclass JOIN pg_am m ON m.oid = c.relam"
        " WHERE t.table_name::regclass = %s::regclass",
        (table,),
    )
    return tuple(rows[0]) if rows else ()


_SINGLE = ("single", "columnar", "columnar")
_MADE = {
    "clause": ["CREATE TABLE t (id int PRIMARY KEY, v text) USING columnar", "INSERT INTO t VALUES (1, 'a')"],
    "as": ["CREATE TABLE t USING columnar AS SELECT 1 AS id, 'a' AS v"],
    "options": [
        "CREATE TABLE t (id int, v text) USING columnar WITH (orochi.compression = 'lz4', fillfactor = 80, columnar.stripe_row_limit = 5000)",
        "INSERT INTO t VALUES (1, 'a')",
    ],
    "storage-option": [
        "CREATE TABLE t (id int, v text) WITH (orochi.storage_type = 'columnar')",
        "INSERT INTO t VALUES (1, 'a')",
    ],
    "default": [
        "SET default_table_access_method = columnar",
        "CREATE TABLE t (id int, v text)",
        "RESET default_table_access_method",
        "INSERT INTO t VALUES (1, 'a')",
    ],
    "like": [
        "CREATE TABLE l (id int PRIMARY KEY, v text)",
        "CREATE TABLE t (LIKE l INCLUDING ALL) USING columnar",
        "INSERT INTO t VALUES (1, 'a')",
    ],
    "method": [
        "CREATE TABLE t AS SELECT 1 AS id, 'a' AS v",
        "ALTER TABLE t SET ACCESS METHOD columnar",
    ],
    "storage": [
        "CREATE TABLE t AS SELECT 1 AS id, 'a' AS v",
        "ALTER TABLE t SET (orochi.storage_type = 'columnar', orochi.compression_level = 5)",
    ],
    "block": [
        "BEGIN",
        "CREATE TABLE t (id int, v text) USING columnar",
        "INSERT INTO t VALUES (1, 'a'), (2, 'b')",
        "SAVEPOINT s",
        "DELETE FROM t",
        "ROLLBACK TO s",
        "DELETE FROM t WHERE id = 2",
        "COMMIT",
    ],
}


@pytest.mark.parametrize("how", _MADE)
def test_made(pair: oracle.Pair, how: str) -> None:
    for sql in _MADE[how]:
        pair.orochi(sql)
    assert _storage(pair, "t") == _SINGLE
    assert pair.orochi("SELECT id, v FROM t") == [(1, "a")]
    pair.orochi("ALTER TABLE t SET ACCESS METHOD heap")
    assert _storage(pair, "t") == ()
    assert pair.orochi("SELECT id, v FROM t") == [(1, "a")]
    pair.orochi("INSERT INTO t VALUES (7, 'local')")


def test_not_made(pair: oracle.Pair) -> None:
    """What is rolled back, temporary, there already or a partition is no columnar table."""
    for sql in ("BEGIN", "CREATE TABLE t (id int) USING columnar", "INSERT INTO t VALUES (1)", "ROLLBACK"):
        pair.orochi(sql)
    assert oracle.ask(pair.gateway, "SELECT * FROM t").sqlstate == "42P01"
    pair.orochi("CREATE TABLE t (id int)")
    pair.orochi("CREATE TABLE IF NOT EXISTS t (id int) USING columnar")
    assert _storage(pair, "t") == ()
    pair.orochi("CREATE TEMP TABLE passing (id int) USING columnar")
    pair.orochi("CREATE TABLE parted (id int) PARTITION BY RANGE (id)")
    pair.orochi("CREATE TABLE part PARTITION OF parted DEFAULT USING columnar")
    for table in ("passing", "parted"):
        pair.orochi(f"INSERT INTO {table} VALUES (1)")
        assert pair.orochi(f"SELECT * FROM {table}") == [(1,)]
        assert _storage(pair, table) == ()


def test_becomes_another_kind(pair: oracle.Pair) -> None:
    fill = "INSERT INTO t SELECT g, g % 5, timestamp '2024-01-01' + g * interval '1 hour' FROM generate_series(1, 99) g"
    columns = "(id int, k int, at timestamp NOT NULL)"
    pair.orochi(f"CREATE TABLE t {columns} USING columnar")
    pair.plain.execute(f"CREATE TABLE t {columns}")
    pair.both(fill)
    for call, kind in (
        ("create_distributed_table('t', 'id', 4)", ("distributed", "columnar", "columnar")),
        ("undistribute_table('t')", ()),
        ("create_reference_table('t')", ("reference", "columnar", "columnar")),
        ("undistribute_table('t')", ()),
        ("create_hypertable('t', 'at', interval '1 day')", ("single", "columnar", "columnar")),
    ):
        if kind and kind[0] != "distributed":
            pair.orochi("ALTER TABLE t SET ACCESS METHOD columnar")
        pair.orochi(f"SELECT {call}")
        assert _storage(pair, "t") == kind
        pair.check_tables("t")
        pair.both("DELETE FROM t WHERE id = (SELECT max(id) FROM t)", fill.replace("99", "3"))
        pair.check_tables("t")


def test_foreign_keys_between_columnar_tables(pair: oracle.Pair) -> None:
    for table in ("parent (id int PRIMARY KEY)", "child (id int, p int REFERENCES parent ON DELETE CASCADE)"):
        pair.orochi(f"CREATE TABLE {table} USING columnar")
        pair.plain.execute(f"CREATE TABLE {table}")
    pair.both("INSERT INTO parent VALUES (1), (2)", "INSERT INTO child VALUES (10, 1), (11, 2)")
    pair.same("INSERT INTO child VALUES (12, 3)")
    pair.both("DELETE FROM parent WHERE id = 1")
    pair.check_tables("parent", "child")
    pair.same("SELECT * FROM parent JOIN child ON p = parent.id")
    pair.both("DROP TABLE child", "DELETE FROM parent", "TRUNCATE parent")
    pair.check_tables("parent")


@pytest.fixture
def filled(pair: oracle.Pair) -> oracle.Pair:
    """A columnar table whose heap has as many rows as make a chunk group, and stripes of at most 100 rows."""
    columns = "(id int PRIMARY KEY, k text, n numeric(8, 2))"
    limits = "WITH (orochi.stripe_row_limit = 100, orochi.chunk_group_row_limit = 50)"
    pair.orochi(f"CREATE TABLE t {columns} USING columnar {limits}")
    pair.plain.execute(f"CREATE TABLE t {columns}")
    pair.both("INSERT INTO t SELECT g, 'k' || g % 3, g * 1.25 FROM generate_series(1, 120) g")
    return pair


def _stripes(pair: oracle.Pair, table: str) -> list[int]:
    rows = pair.orochi(
        "SELECT f.row_count FROM orochi.orochi_stripes f JOIN orochi.orochi_chunks c USING (chunk_id)"
        " JOIN orochi.orochi_shards s USING (shard_id) WHERE s.table_oid = %s::regclass ORDER BY f.stripe_id",
        (table,),
    )
    return [count for (count,) in rows]


def test_maintenance_flushes_the_heap(filled: oracle.Pair) -> None:
    """Full heaps become stripes: added to many rows, merged with few or with many deleted ones."""
    filled.orochi("SELECT run_maintenance()")
    assert _stripes(filled, "t") == [100, 20]
    filled.both("INSERT INTO t SELECT g, 'late', g FROM generate_series(201, 240) g")
    filled.orochi("SELECT run_maintenance()")
    assert _stripes(filled, "t") == [100, 20]
    filled.both("INSERT INTO t SELECT g, 'later', g FROM generate_series(241, 260) g")
    filled.orochi("SELECT run_maintenance()")
    assert _stripes(filled, "t") == [100, 20, 60]
    filled.check_tables("t")
    filled.same("INSERT INTO t VALUES (250, 'again', 0)")
    filled.same(
        "INSERT INTO t VALUES (7, 'again', 0) ON CONFLICT (id) DO UPDATE SET k = excluded.k RETURNING *"
    )
    filled.both(
        "DELETE FROM t WHERE id <= 60", "INSERT INTO t SELECT g, 'last', g FROM generate_series(301, 360) g"
    )
    filled.orochi("SELECT run_maintenance()")
    assert _stripes(filled, "t") == [100, 80]
    filled.check_tables("t")
    filled.both("TRUNCATE t", "INSERT INTO t VALUES (250, 'new', 1)")
    assert _stripes(filled, "t") == []
    filled.check_tables("t")


def _encodings(pair: oracle.Pair) -> dict[str, set[str]]:
    rows = pair.orochi(
        "SELECT k.column_name, k.encoding, k.compression FROM orochi.orochi_column_chunks k"
        " JOIN orochi.orochi_stripes USING (stripe_id) JOIN orochi.orochi_chunks USING (chunk_id)"
        " JOIN orochi.orochi_shards s USING (shard_id) WHERE s.table_oid = 't'::regclass"
    )
    found: dict[str, set[str]] = {}
    for name, encoding, block in rows:
        found.setdefault(name, set()).update((encoding, block))
    return found


def test_compression_is_chosen_by_options(filled: oracle.Pair) -> None:
    """Of the table, of a column, of the session when the table is made; what does not fit is refused."""
    filled.orochi(
        "ALTER TABLE t SET (orochi.compression = 'delta'), ALTER n SET (orochi.compression = 'none')"
    )
    filled.orochi("ALTER TABLE t ALTER k SET (orochi.compression = 'plain', n_distinct = 3)")
    refusals = {
        "ALTER TABLE t ALTER k SET (orochi.compression = 'gorilla')": 'does not fit column "k" of type text',
        "ALTER TABLE t ALTER id SET (orochi.compression = 'numeric')": 'does not fit column "id"',
        "ALTER TABLE t ALTER k SET (orochi.compression = 'magic')": 'unknown compression "magic"',
        "ALTER TABLE t SET (orochi.compression = 'magic')": 'unknown compression "magic"',
        "ALTER TABLE t ALTER k SET (orochi.level = '3')": 'unrecognized parameter "orochi.level.k"',
    }
    for sql, message in refusals.items():
        answer = oracle.ask(filled.gateway, sql)
        assert (answer.sqlstate, message in str(answer.message)) == ("22023", True), answer
    filled.both("ALTER TABLE t RENAME k TO kind")
    filled.orochi("SELECT compress_chunk(show_chunks('t'))")
    found = _encodings(filled)
    assert (found["id"] & {"delta"}, found["kind"] & {"plain"}) == ({"delta"}, {"plain"})
    assert found["n"] == {"numeric", "none"}
    filled.check_tables("t")
    filled.orochi("ALTER TABLE t RESET (orochi.compression), ALTER kind RESET (orochi.compression)")
    filled.orochi("SET orochi.compression = 'rle'")
    filled.orochi("CREATE TABLE made (id int) USING columnar")
    assert oracle.ask(filled.gateway, "SET orochi.compression = 'magic'").sqlstate == "22023"
    filled.orochi("SELECT set_config('orochi.compression', 'magic', false)")
    assert oracle.ask(filled.gateway, "CREATE TABLE other (id int) USING columnar").sqlstate == "22023"
    filled.orochi("RESET orochi.compression")
    options = "SELECT options FROM orochi.orochi_tables WHERE table_oid = %s::regclass"
    assert filled.orochi(options, ("made",)) == [({"compression": "rle"},)]
    ((left,),) = filled.orochi(options, ("t",))
    assert {name for name in left if name.startswith("compression")} == {"compression.n"}


def test_damage_is_an_error_that_names_the_file(cluster: clusters.Cluster, filled: oracle.Pair) -> None:
    """A flipped byte never comes out as a row: XX001 at the client, and `orochi verify` finds it."""
    filled.orochi("SELECT compress_chunk(show_chunks('t'))")
    folder = pathlib.Path(cluster.info["data_dir"])
    names = filled.orochi(
        "SELECT f.path, f.row_count FROM orochi.orochi_stripes f JOIN orochi.orochi_chunks USING (chunk_id)"
        " JOIN orochi.orochi_shards s USING (shard_id) WHERE s.table_oid = 't'::regclass ORDER BY f.stripe_id"
    )
    (path,) = folder.glob(f"**/stripes/{names[0][0]}")
    data = path.read_bytes()
    places = random.Random(5).sample(range(len(data)), 8)
    for place in places:
        with path.open("r+b") as file:
            file.seek(place)
            file.write(bytes((data[place] ^ 0x55,)))
        answer = oracle.ask(filled.gateway, "SELECT * FROM t")
        assert (answer.sqlstate, str(path) in str(answer.message)) == ("XX001", True)
    report = verification.verify(folder, cluster.coordinator_dsn, quick=True)
    assert [finding.path for finding in report.findings] == [str(path)]
    path.unlink()
    (finding,) = verification.verify(folder, cluster.coordinator_dsn, quick=True).findings
    assert (finding.message, finding.path) == ("stripe file is missing", str(path))
    path.write_bytes(data)
    filled.check_tables("t")


def test_constraints_keep_rows_in_the_heap(filled: oracle.Pair) -> None:
    """Rows go back to the heap when a foreign key comes to refer to them, and stay there."""
    filled.orochi("SELECT compress_chunk(show_chunks('t'))")
    assert _stripes(filled, "t") == [100, 20]
    child = "CREATE TABLE child (id int REFERENCES t)"
    filled.orochi(f"{child} USING columnar")
    filled.plain.execute(child)
    filled.orochi("SELECT compress_chunk(show_chunks('t'))")
    assert _stripes(filled, "t") == []
    filled.both("INSERT INTO child VALUES (1), (120)")
    filled.same("INSERT INTO child VALUES (500)")
    filled.same("DELETE FROM t WHERE id = 120")
    filled.check_tables("t", "child")


@pytest.mark.parametrize("distributed", [False, True])
def test_stripes_come_along(filled: oracle.Pair, *, distributed: bool) -> None:
    """Whatever the table becomes, rows of stripes and of the heap are all there."""
    if distributed:
        filled.orochi("SELECT create_distributed_table('t', 'id', 2)")
    changes = [
        "SELECT undistribute_table('t')",
        "ALTER TABLE t SET (orochi.storage_type = 'row')",
        "SELECT create_distributed_table('t', 'id', 3)",
        "SELECT create_hypertable('t', 'id', chunk_time_interval => 50)",
        "SELECT create_reference_table('t')",
    ]
    for change in changes[:2] if distributed else changes:
        filled.orochi("SELECT compress_chunk(show_chunks('t'))")
        assert _stripes(filled, "t")
        filled.both("UPDATE t SET n = n + 1 WHERE id % 10 = 0", "BEGIN")
        filled.orochi(change)
        filled.check_tables("t")
        filled.both("ROLLBACK")
        filled.check_tables("t")
    filled.orochi(change)
    filled.both("INSERT INTO t VALUES (-1, 'new', 0)")
    filled.check_tables("t")


def test_changes_queue_behind_a_flush(cluster: clusters.Cluster, filled: oracle.Pair) -> None:
    """A block that moves the table's rows meets a flush: neither fails, and no row is lost or doubled."""
    filled.both("CREATE TABLE beside (id int)")
    filled.orochi("SELECT create_distributed_table('beside', 'id', 2)")
    schema = filled.gateway.execute("SELECT current_schema()").fetchone()
    assert schema is not None
    with (
        cluster.connect() as other,
        cluster.connect_coordinator() as holder,
        cluster.connect_coordinator() as watcher,
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        other.execute(f"SET search_path TO {schema[0]}, orochi, public")
        holder.execute("BEGIN")
        holder.execute("SELECT FROM orochi.orochi_shards FOR NO KEY UPDATE")

        def wait_for(waiting: int) -> None:
            deadline = time.monotonic() + 60
            count = "SELECT count(*) FROM pg_stat_activity WHERE pg_blocking_pids(pid) <> '{}'"
            while watcher.execute(count).fetchone() < (waiting,):  # type: ignore[operator]
                assert time.monotonic() < deadline, "nobody waits for the shards"
                time.sleep(0.02)

        flush = pool.submit(other.execute, "SELECT compress_chunk(show_chunks('t'))")
        wait_for(1)
        filled.both("BEGIN", "INSERT INTO beside VALUES (1), (2)")
        change = pool.submit(filled.orochi, "SELECT undistribute_table('t')")
        wait_for(2)
        holder.execute("COMMIT")
        flush.result(timeout=120)
        change.result(timeout=120)
    filled.check_tables("t")
    filled.both("COMMIT")
    filled.check_tables("t")


_BESIDE = (
    "UPDATE t SET n = n + 1 WHERE id > 100",
    "SELECT count(*), sum(n), max(k) FROM t",
    "INSERT INTO t VALUES (1000, 'new', 1) RETURNING *",
    "INSERT INTO t SELECT -id, 'more', 1 FROM beside",
    "SELECT * FROM t WHERE id = 3 FOR UPDATE",
    "DELETE FROM t USING beside b WHERE t.id = b.id RETURNING t.*",
    "MERGE INTO t USING beside b ON t.id = b.id + 6 WHEN MATCHED THEN UPDATE SET n = 0",
    "ALTER TABLE t ADD COLUMN late int DEFAULT 7",
)


def test_a_block_goes_on_beside_compression(cluster: clusters.Cluster, filled: oracle.Pair) -> None:
    """A block that wrote, and whose catalog is older than the table's layout, uses the table all the same."""
    filled.both("CREATE TABLE beside (id int)")
    filled.orochi("SELECT create_distributed_table('beside', 'id', 2)")
    filled.both("CREATE TABLE own (id int)")
    schema = filled.gateway.execute("SELECT current_schema()").fetchone()
    assert schema is not None
    change = "compress", "decompress"
    with cluster.connect() as other:
        other.execute(f"SET search_path TO {schema[0]}, orochi, public")
        for turn, sql in enumerate(_BESIDE):
            filled.both("BEGIN", "INSERT INTO beside VALUES (1), (2)")
            filled.orochi("SELECT create_reference_table('own')")
            other.execute(f"SELECT {change[turn % 2]}_chunk(show_chunks('t'))")
            filled.same(sql)
            filled.both("INSERT INTO beside VALUES (3)")
            filled.check_tables("t", "beside")
            filled.both("COMMIT")
            filled.orochi("SELECT undistribute_table('own')")
            filled.both("DELETE FROM beside")
        filled.both("BEGIN", "INSERT INTO beside VALUES (1), (2)")
        filled.orochi("SELECT create_reference_table('own')")
        other.execute("SELECT compress_chunk(show_chunks('t'))")
        for connection in (filled.gateway, filled.plain):
            with connection.cursor() as cursor, cursor.copy("COPY t (id, k) FROM STDIN") as copy:
                copy.write("5001\tcopied\n5002\tcopied\n")
        filled.both("COMMIT")
    filled.check_tables("t", "beside")


_KEYED = (
    "UPDATE t SET id = 5 WHERE id = 6",
    "UPDATE t SET id = id + 1 WHERE id = 119",
    "UPDATE t SET id = id + 1000 WHERE id > 110",
    "UPDATE t SET id = x.i FROM (VALUES (7, 'k1')) x(i, k) WHERE t.k = x.k AND t.id = 10",
    "INSERT INTO t VALUES (12, 'new', 0)",
    "INSERT INTO t SELECT 13, 'new', 0",
    "INSERT INTO t VALUES (14, 'new', 0), (999, 'new', 0) ON CONFLICT DO NOTHING",
    "INSERT INTO t VALUES (15, 'new', 0) ON CONFLICT (id) DO UPDATE SET id = 16",
    "INSERT INTO t VALUES (15, 'new', 0) ON CONFLICT (id) DO UPDATE SET id = 516 RETURNING *",
    """MERGE INTO t USING (VALUES (20, 'm'), (2000, 'm')) s(i, k) ON id = s.i
       WHEN MATCHED THEN UPDATE SET k = s.k WHEN NOT MATCHED THEN INSERT VALUES (s.i, s.k, 1)""",
    "MERGE INTO t USING (VALUES (21)) s(i) ON id = s.i WHEN MATCHED THEN UPDATE SET id = 22",
    "UPDATE t SET id = 31 WHERE id = 30",
    "UPDATE t SET id = 3031 WHERE id = 30",
)


@pytest.mark.parametrize("block", [False, True])
def test_unique_keys_hold_against_stripes(filled: oracle.Pair, *, block: bool) -> None:
    filled.orochi("SELECT compress_chunk(show_chunks('t'))")
    if block:
        filled.both("BEGIN")
    for sql in _KEYED:
        if block:
            filled.both("SAVEPOINT each")
        answer = filled.same(sql)
        if block and answer.sqlstate:
            filled.both("ROLLBACK TO each")
        filled.check_tables("t")
    if block:
        filled.both("COMMIT")
    filled.check_tables("t")
