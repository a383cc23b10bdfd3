"""Hypertables from outside: dimensions, chunks by every bound, sizes, what now is, and TimescaleDB's refusals."""

from __future__ import annotations

import datetime as dt
import threading
import time
from typing import Any

import psycopg
import pytest

from tests.support import cluster as clusters
from tests.support import oracle

_DAY = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def metrics(module_pair: oracle.Pair) -> oracle.Pair:
    """`metrics`, a hypertable with a dimension by hash, ten days in it; `plain` beside it, filled."""
    module_pair.orochi("CREATE TABLE metrics (at timestamptz, device text, v float8)")
    module_pair.orochi("SELECT create_hypertable('metrics', 'at', 'device', 2, INTERVAL '5 days')")
    module_pair.orochi(
        "INSERT INTO metrics SELECT timestamptz '2024-01-01' + g * interval '1 day', 'd' || g % 3, g FROM generate_series(0, 9) g"
    )
    module_pair.orochi("CREATE TABLE plain (at timestamptz, id int PRIMARY KEY)")
    module_pair.orochi("INSERT INTO plain VALUES (now(), 1)")
    return module_pair


def _notices(connection: psycopg.Connection[Any], query: str) -> list[str]:
    found: list[str] = []
    connection.add_notice_handler(keep := lambda notice: found.append(notice.message_primary or ""))
    connection.execute(query)
    connection.remove_notice_handler(keep)
    return found


def test_dimensions(metrics: oracle.Pair) -> None:
    columns = (
        "column_name, column_type::text, dimension_type, time_interval, integer_interval, num_partitions"
    )
    query = f"SELECT {columns} FROM timescaledb_information.dimensions WHERE hypertable_name = 'metrics' ORDER BY dimension_number"
    assert metrics.orochi(query) == [
        ("at", "timestamp with time zone", "Time", dt.timedelta(days=5), None, None),
        ("device", "text", "Space", None, None, 2),
    ]
    [row] = metrics.orochi(
        "SELECT num_dimensions, num_chunks, primary_dimension FROM timescaledb_information.hypertables"
        " WHERE hypertable_name = 'metrics'"
    )
    assert row == (2, 3 * 2, "at")  # chunks of a range are on every shard
    said = _notices(
        metrics.gateway, "SELECT add_dimension('metrics', by_hash('device', 2), if_not_exists => true)"
    )
    assert said == ['column "device" is already a dimension, skipping']


def test_added_later(module_pair: oracle.Pair) -> None:
    """A filled table becomes a hypertable, and one by hash, with all its rows."""
    module_pair.orochi("CREATE TABLE later (n int, k int, v text)")
    module_pair.orochi("INSERT INTO later SELECT g, g % 7, g::text FROM generate_series(1, 300) g")
    said = _notices(module_pair.gateway, "SELECT create_hypertable('later', by_range('n', 100))")
    assert said == ['adding not-null constraint to column "n"', "migrating data to chunks"]
    assert module_pair.orochi("SELECT created FROM add_dimension('later', 'k', 3)") == [(True,)]
    assert module_pair.orochi("SELECT count(*), sum(n), count(DISTINCT k) FROM later") == [(300, 45150, 7)]
    assert module_pair.orochi("SELECT count(*) FROM show_chunks('later', older_than => 200)") == [(6,)]
    module_pair.orochi("SELECT set_chunk_time_interval('later', 50, 'n')")
    module_pair.orochi("INSERT INTO later VALUES (410, 1, 'x')")
    ends = "SELECT max(range_end_integer - range_start_integer) FROM orochi.chunks WHERE range_start_integer >= 400"
    assert module_pair.orochi(f"{ends} AND hypertable = 'later'::regclass::text") == [(50,)]


_GENERATED = (
    "SELECT timestamptz '2024-01-01' + g * interval '10 minutes', 'd' || g % 7, g * 7919 % 1000 - 500, g"
    " FROM generate_series({}, {}) g"
)
_OVERLAPS = """
WITH stripes AS (
    SELECT f.chunk_id, floor((b.bounds -> 0 ->> 0)::numeric / {width}) AS low,
        floor((b.bounds -> 0 ->> 1)::numeric / {width}) AS high, f.row_count AS rows
    FROM orochi._stripe_bounds(NULL) b JOIN orochi.orochi_stripes f USING (stripe_id)
    JOIN orochi.orochi_chunks c USING (chunk_id) JOIN orochi.orochi_shards s USING (shard_id)
    WHERE s.table_oid = '{table}'::regclass)
SELECT count(*), count(*) FILTER (WHERE low < before) FROM (
    SELECT low, max(high) OVER (PARTITION BY chunk_id ORDER BY low, high
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) + 1 AS before FROM stripes) s
"""


def _explained(pair: oracle.Pair, query: str) -> str:
    return "\n".join(line for (line,) in pair.orochi(f"EXPLAIN {query}"))


@pytest.mark.parametrize("partitioning", ["", ", 'dev', 2"])
def test_dimension_by_range(module_pair: oracle.Pair, partitioning: str) -> None:
    """Stripes end where its ranges do, and conditions on it exclude them; rows stay PostgreSQL's through all."""
    pair, table = module_pair, "cut" if not partitioning else "cut2"
    pair.both(f'CREATE TABLE {table} (at timestamptz NOT NULL, dev text, "Grad ü" int, v float8)')
    pair.orochi(
        f"SELECT create_hypertable('{table}', 'at'{partitioning}, chunk_time_interval => interval '5 days')"
    )
    pair.orochi(
        f"ALTER TABLE {table} SET (orochi.stripe_row_limit = 400, orochi.chunk_group_row_limit = 100)"
    )
    pair.both(f"INSERT INTO {table} {_GENERATED.format(0, 1999)}")
    said = _notices(pair.gateway, f"SELECT add_dimension('{table}', 'Grad ü', chunk_time_interval => 100)")
    assert said == ['adding not-null constraint to column "Grad ü"']
    assert pair.orochi(
        "SELECT column_name, dimension_type, integer_interval FROM timescaledb_information.dimensions"
        f" WHERE hypertable_name = '{table}' ORDER BY dimension_number DESC LIMIT 1"
    ) == [("Grad ü", "Time", 100)]
    pair.both(f"INSERT INTO {table} {_GENERATED.format(2000, 2999)}")
    pair.orochi(f"SELECT compress_chunk(c) FROM show_chunks('{table}') c")
    [(stripes, overlapping)] = pair.orochi(_OVERLAPS.format(table=table, width=100))
    assert (stripes > 15, overlapping) == (True, 0)
    narrow = f'SELECT count(*), sum(v), min("Grad ü") FROM {table} WHERE "Grad ü" BETWEEN 120 AND 180'
    assert "stripes excluded" in _explained(pair, narrow)
    late = f"INSERT INTO {table} {_GENERATED.format(500, 900)}"
    pair.both(late, f'UPDATE {table} SET "Grad ü" = "Grad ü" + 1000 WHERE "Grad ü" IN (150, -3)')
    pair.both(f'DELETE FROM {table} WHERE "Grad ü" < -490')
    joined = f'SELECT count(*), sum(b.v) FROM {table} a JOIN {table} b USING (at, dev) WHERE a."Grad ü" > 480'
    prepared = f'SELECT count(*) FROM {table} WHERE "Grad ü" = ANY (%s) OR "Grad ü" > %s'
    for change in (
        f"SELECT recompress_chunk(c) FROM show_chunks('{table}') c",
        f"SELECT set_chunk_time_interval('{table}', 250, 'Grad ü')",
        f"SELECT decompress_chunk(c), compress_chunk(c) FROM show_chunks('{table}') c",
    ):
        for query in (narrow, joined, f'SELECT * FROM {table} WHERE "Grad ü" IN (-7, 1150, 3)'):
            pair.same(query)
        pair.same(prepared, [[-480, 12], 900])
        pair.orochi(change)
    pair.check_tables(table)
    assert pair.orochi(_OVERLAPS.format(table=table, width=250))[0][1] == 0
    with pytest.raises(psycopg.errors.FeatureNotSupported, match='cannot drop dimension "Grad ü"'):
        pair.gateway.execute(f'ALTER TABLE {table} DROP COLUMN "Grad ü"')
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="cannot alter the type of dimension"):
        pair.gateway.execute(f'ALTER TABLE {table} ALTER COLUMN "Grad ü" TYPE bigint')
    with pytest.raises(psycopg.errors.NotNullViolation, match='null value in column "Grad ü"'):
        pair.gateway.execute(f"INSERT INTO {table} VALUES ('2024-01-03', 'd1', NULL, 1)")
    pair.both(f'ALTER TABLE {table} RENAME COLUMN "Grad ü" TO "G""x"')
    pair.same(f'SELECT count(*) FROM {table} WHERE "G""x" > 1100')


def test_dimensions_of_times(module_pair: oracle.Pair) -> None:
    """Rows lie by dates and times, infinite ones and the first and last too, also where a load writes the stripes."""
    pair = module_pair
    pair.both("CREATE TABLE shipped (n bigint NOT NULL, day date NOT NULL, seen timestamptz NOT NULL, v int)")
    pair.orochi("SELECT create_hypertable('shipped', by_range('n', 100000))")
    pair.orochi("ALTER TABLE shipped SET (orochi.compress, orochi.stripe_row_limit = 2000)")
    pair.orochi("SELECT add_dimension('shipped', by_range('day', interval '7 days'))")
    pair.orochi("SELECT add_dimension('shipped', by_range('seen', interval '1 day'))")
    ends = ["infinity", "-infinity", "4714-11-24 BC", "290000-01-01", "1969-12-31", "2000-01-01"]
    lines = [f"{n},{day},{seen},{n}" for n, (day, seen) in enumerate([(a, b) for a in ends for b in ends])]
    start = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
    for n in range(36, 12_000):
        seen = start + dt.timedelta(minutes=7 * (n * 13 % 9973))
        lines.append(f"{n},{(start + dt.timedelta(days=n % 90)).date()},{seen.isoformat()},{n % 5}")
    pair.copy_in("COPY shipped FROM STDIN (FORMAT csv)", "\n".join(lines).encode())
    queries = [
        "SELECT count(*), sum(v) FROM shipped WHERE day = '2024-03-09'",
        "SELECT * FROM shipped WHERE day = '-infinity' OR day > '200000-01-01'",
        "SELECT count(*), min(n) FROM shipped WHERE seen >= '2024-03-05' AND seen < '2024-03-06 12:00'",
        "SELECT count(*) FROM shipped WHERE seen < '1970-01-01' AND day > '1960-01-01'",
    ]
    for written in ("by the load", "by PostgreSQL"):
        for query in queries:
            pair.same(query)
        assert "stripes excluded" in _explained(pair, queries[0]), written
        pair.orochi("SELECT decompress_chunk(c), compress_chunk(c) FROM show_chunks('shipped') c")
    pair.check_tables("shipped")


def test_stripes_by_time(module_pair: oracle.Pair) -> None:
    """Stripes whose times a condition rules out are not read, whoever wrote them; rows stay PostgreSQL's."""
    pair = module_pair
    pair.both("CREATE TABLE spans (at timestamptz NOT NULL, dev text, v float8)")
    pair.orochi("SELECT create_hypertable('spans', by_range('at', interval '30 days'))")
    pair.orochi("ALTER TABLE spans SET (orochi.compress, orochi.stripe_row_limit = 400)")
    start = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
    rows = [(start + dt.timedelta(minutes=5 * n), f"d{n % 7}", n % 11) for n in range(12_000)]
    lines = [f"{at.isoformat()},{dev},{v}" for at, dev, v in rows] + ["infinity,d1,1", "-infinity,d2,"]
    pair.copy_in("COPY spans FROM STDIN (FORMAT csv)", "\n".join(lines).encode())
    narrow = "SELECT dev, count(*), sum(v) FROM spans WHERE at >= '2024-03-04' AND at < '2024-03-05 7:00' GROUP BY 1"
    queries = [
        narrow,
        "SELECT count(*), min(at) FROM spans WHERE at = '2024-03-08' OR at > '2024-04-01' OR at <= '-infinity'",
        "SELECT * FROM spans WHERE at BETWEEN '2024-03-07 10:00' AND '2024-03-07 10:20'",
        "SELECT count(*), max(v) FROM spans WHERE at = 'infinity'",
    ]
    for change in (
        "UPDATE spans SET at = at + interval '3 days' WHERE at BETWEEN '2024-03-01' AND '2024-03-01 11:00'",
        "INSERT INTO spans VALUES ('2024-03-04 12:00:01', 'd9', 5)",
        "DELETE FROM spans WHERE at BETWEEN '2024-03-04 12:00' AND '2024-03-04 15:00'",
    ):
        for query in queries:
            pair.same(query)
        assert "stripes excluded" in _explained(pair, narrow)
        pair.both(change)
        pair.same(narrow)
        pair.orochi("SELECT recompress_chunk(c) FROM show_chunks('spans') c")
    pair.both("ALTER TABLE spans RENAME COLUMN at TO seen")
    for query in queries:
        pair.same(query.replace("at ", "seen ").replace("min(at)", "min(seen)"))
    pair.check_tables("spans")


def test_now_of_integers(module_pair: oracle.Pair) -> None:
    """Policies on integer times ask the function that was set, which may read the table itself."""
    module_pair.orochi("CREATE TABLE ticks (n bigint, v int)")
    module_pair.orochi("SELECT create_hypertable('ticks', 'n', chunk_time_interval => 10)")
    module_pair.orochi("INSERT INTO ticks SELECT g, g FROM generate_series(1, 60) g")
    for name, result, kind in (
        ("newest", "bigint", "STABLE"),
        ("narrow", "int", "STABLE"),
        ("loose", "bigint", "VOLATILE"),
    ):
        module_pair.orochi(
            f"CREATE FUNCTION {name}() RETURNS {result} LANGUAGE sql {kind} AS 'SELECT max(n)::{result} FROM ticks'"
        )
    _refused(
        module_pair, "set_integer_now_func('ticks', 'narrow')", "22023", "return type of integer_now_func"
    )
    _refused(
        module_pair,
        "set_integer_now_func('ticks', 'loose')",
        "22023",
        "must take no arguments and it must be STABLE",
    )
    _refused(module_pair, "add_retention_policy('ticks', 25)", "0A000", "integer time column")
    module_pair.orochi("SELECT set_integer_now_func('ticks', 'newest')")
    _refused(
        module_pair, "set_integer_now_func('ticks', 'newest')", "42710", "custom time function already set"
    )
    module_pair.orochi("SELECT set_integer_now_func('ticks', 'newest', replace_if_exists => true)")
    # buckets up to the greatest number, of which the last has no end
    module_pair.orochi(f"INSERT INTO ticks VALUES ({2**63 - 1}, 0)")
    for width in (1, 10):
        query = f"SELECT time_bucket({width}::bigint, n) AS b, count(*), sum(v) FROM ticks GROUP BY 1"
        module_pair.orochi(f"CREATE MATERIALIZED VIEW by_{width} WITH (orochi.continuous) AS {query}")
        module_pair.orochi(f"INSERT INTO ticks VALUES ({2**63 - 1}, {width}), (55, {width})")
        for _ in range(2):
            assert sorted(module_pair.orochi(f"SELECT * FROM by_{width}")) == sorted(
                module_pair.orochi(query)
            )
            module_pair.orochi(f"SELECT refresh_continuous_aggregate('by_{width}')")
    module_pair.orochi(f"DELETE FROM ticks WHERE n = {2**63 - 1}")
    assert module_pair.orochi("SELECT max(b) FROM by_1") == [(60,)]
    [(job,)] = module_pair.orochi("SELECT add_retention_policy('by_10', 25)")  # now is its source's
    module_pair.orochi(f"CALL run_job({job})")
    assert module_pair.orochi("SELECT min(b) FROM by_10 WHERE b > 0") == [(10,)]
    module_pair.orochi("DROP MATERIALIZED VIEW by_1, by_10")
    [(job,)] = module_pair.orochi("SELECT add_retention_policy('ticks', 25)")
    module_pair.orochi(f"CALL run_job({job})")
    assert module_pair.orochi("SELECT min(n), max(n) FROM ticks") == [(30, 60)]


@pytest.mark.parametrize(
    ("bounds", "starts"),
    [
        ("", [0, 5, 10]),
        (", older_than => timestamptz '2024-01-05'", [0]),
        (", newer_than => '2024-01-02'::date", [5, 10]),
        (", '2024-01-10', '2023-12-29'", [0, 5]),
        (", older_than => interval '1 day'", [0, 5, 10]),
        (", created_before => now() + interval '1 day'", [0, 5, 10]),
        (", created_after => interval '1 day', created_before => '1 hour'", []),
    ],
)
def test_show_chunks(metrics: oracle.Pair, bounds: str, starts: list[int]) -> None:
    shown = metrics.orochi(
        f"SELECT DISTINCT c.range_start FROM show_chunks('metrics'{bounds}) s JOIN orochi.chunks c ON c.chunk_name = s ORDER BY 1"
    )
    first = metrics.orochi(
        "SELECT min(range_start) FROM orochi.chunks WHERE hypertable = 'metrics'::regclass::text"
    )[0][0]
    assert [row[0] for row in shown] == [first + dt.timedelta(days=days) for days in starts]


def test_sizes(metrics: oracle.Pair) -> None:
    """Each chunk's bytes now, of the heap and of stripes; they add up to the table's on each node."""
    assert metrics.orochi(
        "SELECT count(compress_chunk(c)) FROM show_chunks('metrics', older_than => '2024-01-05') c"
    ) == [(2,)]
    chunks = metrics.orochi("SELECT * FROM chunks_detailed_size('metrics')")
    assert [f"{row[0]}.{row[1]}" for row in chunks] == [
        row[0] for row in metrics.orochi("SELECT show_chunks('metrics')")
    ]
    assert all(table + indexes + toast == total > 0 for _, _, table, indexes, toast, total, _ in chunks)
    by_node = {
        row[-1]: row[:-1] for row in metrics.orochi("SELECT * FROM hypertable_detailed_size('metrics')")
    }
    assert by_node == {
        node: tuple(sum(row[at] for row in chunks if row[-1] == node) for at in range(2, 6))
        for node in {row[-1] for row in chunks}
    }
    whole = sum(row[5] for row in chunks)
    metrics.orochi("CREATE SCHEMA sized; CREATE TABLE sized.apart (ts timestamp NOT NULL)")
    metrics.orochi("SELECT create_hypertable('sized.apart', 'ts')")  # no name on the search_path
    assert metrics.orochi("SELECT hypertable_size('metrics'), hypertable_size(NULL)") == [(whole, None)]
    assert metrics.orochi(
        "SELECT hypertable_name, pg_size_pretty(hypertable_size(hypertable_name::regclass)) AS size"
        " FROM timescaledb_information.hypertables h"
        " WHERE hypertable_name = 'metrics' AND hypertable_size(format('%%I.%%I', hypertable_schema, hypertable_name)::regclass) > %s"
        " GROUP BY 1, 2 ORDER BY hypertable_size(hypertable_name::regclass) DESC LIMIT 3",
        (whole - 1,),
    ) == metrics.orochi(f"SELECT 'metrics'::name, pg_size_pretty({whole}::bigint)")
    metrics.orochi("DROP SCHEMA sized CASCADE")
    sizes = dict(
        metrics.orochi(
            "SELECT chunk_name, size_bytes FROM orochi.chunks"
            " WHERE is_compressed AND hypertable = 'metrics'::regclass::text"
        )
    )
    exact = {f"{row[0]}.{row[1]}": row[2] for row in chunks}
    assert sizes
    assert all(0 < size <= exact[name] for name, size in sizes.items())


def test_drop_chunks(metrics: oracle.Pair) -> None:
    names = [
        row[0]
        for row in metrics.orochi("SELECT show_chunks('metrics', newer_than => timestamptz '2024-01-05')")
    ]
    dropped = metrics.orochi(
        "SELECT drop_chunks('metrics', newer_than => timestamptz '2024-01-05', verbose => true)"
    )
    assert [row[0] for row in dropped] == names
    left = metrics.orochi("SELECT max(at) < timestamptz '2024-01-10', min(at) FROM metrics")
    assert left == [(True, _DAY)]


def test_chunks_of_an_aggregate(module_pair: oracle.Pair) -> None:
    """A continuous aggregate's name stands for the table of its buckets, which lists of hypertables leave out."""
    pair = module_pair
    pair.orochi("CREATE TABLE beats (at timestamptz NOT NULL, v int)")
    pair.orochi("SELECT create_hypertable('beats', 'at')")
    pair.orochi(
        "INSERT INTO beats SELECT timestamptz '2024-03-01' + g * interval '12 hours', g FROM generate_series(0, 79) g"
    )
    pair.orochi(
        "CREATE MATERIALIZED VIEW daily WITH (timescaledb.continuous, timescaledb.chunk_interval = '10 days') AS"
        " SELECT time_bucket('1 day', at) AS day, count(*) FROM beats GROUP BY 1"
    )
    assert (
        pair.orochi(
            "SELECT hypertable_name FROM timescaledb_information.hypertables WHERE hypertable_schema ~ 'agg'"
        )
        == []
    )
    ((table,),) = pair.orochi(
        "SELECT materialization_hypertable_name FROM timescaledb_information.continuous_aggregates WHERE view_name = 'daily'"
    )
    theirs = "SELECT chunk_name FROM orochi.chunks WHERE hypertable ~ %s AND range_end <= '2024-03-21' ORDER BY range_start"
    old = pair.orochi(theirs, (f"{table}$",))
    assert len(old) == 2
    assert pair.orochi("SELECT show_chunks('daily', older_than => timestamptz '2024-03-21')") == old
    assert len(pair.orochi("SELECT show_chunks('daily', newer_than => timestamptz '-infinity')")) == 5
    _refused(
        pair, "drop_chunks('daily', older_than => 5)", "22023", "daily, of type timestamp with time zone"
    )
    pair.orochi("SELECT compress_chunk(c) FROM show_chunks('daily') c")
    stats = "SELECT total_chunks, number_compressed_chunks FROM hypertable_compression_stats('daily')"
    assert pair.orochi(stats) == [(5, 5)]
    assert pair.orochi("SELECT drop_chunks('daily', older_than => timestamptz '2024-03-21')") == old
    assert pair.orochi("SELECT min(day), sum(count) FROM daily") == pair.orochi(
        "SELECT min(at), count(*)::numeric FROM beats WHERE at >= '2024-03-18'"
    )
    pair.orochi(
        "INSERT INTO beats VALUES ('2024-03-02 05:00', 0)"
    )  # its bucket is counted anew, and no other
    pair.orochi(
        "SELECT refresh_continuous_aggregate('daily', '-infinity'::timestamptz, 'infinity'::timestamptz)"
    )
    assert pair.orochi("SELECT count FROM daily WHERE day < '2024-03-18'") == [(3,)]
    pair.orochi("DROP TABLE beats CASCADE")


def test_what_orders_stripes_is_shown(module_pair: oracle.Pair) -> None:
    module_pair.orochi('CREATE TABLE ordered (at timestamptz NOT NULL, "a k" int, "At" int, v int)')
    module_pair.orochi("SELECT create_hypertable('ordered', 'at')")
    module_pair.orochi(
        """ALTER TABLE ordered SET (orochi.segmentby = '"a k"', orochi.orderby = 'at desc, "At" nulls first, v')"""
    )
    found = module_pair.orochi(
        "SELECT attname, segmentby_column_index, orderby_column_index, orderby_asc, orderby_nullsfirst"
        " FROM timescaledb_information.compression_settings WHERE hypertable_name = 'ordered' ORDER BY 2, 3"
    )
    assert found == [
        ("a k", 1, None, None, None),
        ("at", None, 1, False, True),
        ("At", None, 2, True, True),
        ("v", None, 3, True, False),
    ]


def test_drop_chunks_lets_writers_go_on(
    module_pair: oracle.Pair, other: psycopg.Connection[Any], cluster: clusters.Cluster
) -> None:
    """A block that has written to one of the chunks writes to another one of them while they are to be dropped."""
    module_pair.orochi("CREATE TABLE both_go (at timestamptz NOT NULL, k int)")
    module_pair.orochi("SELECT create_hypertable('both_go', 'at')")
    module_pair.orochi("SELECT create_distributed_table('both_go', 'k', 2)")
    insert = "INSERT INTO both_go SELECT '2024-01-01'::timestamptz + g * interval '1 day', k FROM generate_series(0, 1) g, unnest({}) k"
    module_pair.orochi(insert.format("ARRAY[1, 2, 3, 4, 5, 6]"))
    (path,) = module_pair.orochi("SHOW search_path")[0]
    other.execute(f"SET search_path TO {path}")
    other.execute("SET lock_timeout TO '120s'")
    dropping = threading.Thread(
        target=other.execute, args=("SELECT drop_chunks('both_go', older_than => timestamptz '2024-02-01')",)
    )
    active = "SELECT count(*) FROM orochi.stat_activity WHERE state = 'active' AND query LIKE 'SELECT drop_chunks%both_go%'"
    with cluster.connect() as looking, module_pair.gateway.transaction():
        module_pair.orochi("INSERT INTO both_go VALUES ('2024-01-01', 1)")
        dropping.start()
        end = time.monotonic() + 60
        while looking.execute(active).fetchone() == (0,) and time.monotonic() < end:
            time.sleep(0.05)
        for k in range(1, 7):
            module_pair.orochi("INSERT INTO both_go VALUES ('2024-01-02', %s)", (k,))
    dropping.join()
    assert module_pair.orochi("SELECT count(*) FROM both_go") == [(0,)]


def _refused(pair: oracle.Pair, call: str, state: str, message: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        pair.gateway.execute(f"SELECT {call}")
    assert (caught.value.sqlstate, message in (caught.value.diag.message_primary or "")) == (state, True), (
        caught.value
    )


@pytest.mark.parametrize(
    ("call", "state", "message"),
    [
        ("create_hypertable('plain', 'at')", "0A000", 'cannot create a unique index without the column "at" (used in partitioning)'),
        ("create_hypertable('plain', 'id', chunk_time_interval => interval '1 day')", "22023", "invalid interval type for integer dimension"),
        ("create_hypertable('plain', 'id')", "22023", "integer dimensions require an explicit interval"),
        ("create_hypertable('plain', 'id', chunk_time_interval => 10, migrate_data => false)", "0A000", 'table "plain" is not empty'),
        ("create_hypertable('plain', 'id', 'at', 0)", "22023", "invalid number of partitions: must be between 1 and 32767"),
        ("create_hypertable('metrics', 'at')", "42P16", 'table "metrics" is already a hypertable'),
        ("add_dimension('metrics', 'at', 2)", "42710", 'column "at" is already a dimension'),
        ("add_dimension('metrics', 'v')", "22023", "cannot omit both the number of partitions and an interval"),
        ("add_dimension('metrics', 'v', 2, 5)", "22023", "cannot specify both the number of partitions and the interval"),
        ("add_dimension('metrics', by_range('v', 5))", "42P16", 'invalid type for dimension "v"'),
        ("add_dimension('metrics', by_range('at'))", "42710", 'column "at" is already a dimension'),
        ("add_dimension('metrics', 'none', chunk_time_interval => 5)", "42703", 'column "none" of relation'),
        ("add_dimension('metrics', by_hash('v', 5))", "0A000", "is divided by the hash of column"),
        ("set_chunk_time_interval('plain', 5)", "42809", 'table "plain" is not a hypertable'),
        ("set_chunk_time_interval('metrics', interval '1 day', 'v')", "42704", "does not have a matching dimension"),
        ("set_integer_now_func('metrics', 'version')", "22023", "has no integer time column"),
        ("drop_chunks('plain', interval '1 day')", "42809", "is not a hypertable"),
        ("show_chunks('plain')", "42809", "is not a hypertable"),
        ("hypertable_detailed_size('plain')", "42809", "is not a hypertable"),
        ("drop_chunks('metrics')", "22023", "invalid time range for dropping chunks"),
        ("drop_chunks('metrics', 5)", "22023", "cannot bound the time column"),
        ("show_chunks('metrics', '2024-01-01', '2024-02-01')", "22023", "invalid time range"),
        ("show_chunks('metrics', '2024-01-01', created_before => now())", "22023", "cannot specify"),
    ],
)  # fmt: skip
def test_refused(metrics: oracle.Pair, call: str, state: str, message: str) -> None:
    _refused(metrics, call, state, message)
    metrics.gateway.execute("SELECT 1")


def test_keys_and_triggers(metrics: oracle.Pair) -> None:
    """Unique keys hold the time column and the hashed one; triggers are refused; foreign keys go out."""
    for statement, state in (
        ("CREATE UNIQUE INDEX ON metrics (device)", "0A000"),
        ("CREATE UNIQUE INDEX ON metrics (at)", "0A000"),
        ("ALTER TABLE metrics ADD UNIQUE (v)", "0A000"),
        (
            "CREATE TRIGGER t BEFORE INSERT ON metrics FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "0A000",
        ),
    ):
        assert oracle.ask(metrics.gateway, statement).sqlstate == state, statement
    metrics.orochi("CREATE UNIQUE INDEX ON metrics (at, device)")
    metrics.orochi("CREATE TABLE devices (id text PRIMARY KEY)")
    metrics.orochi("INSERT INTO devices VALUES ('d0'), ('d1'), ('d2')")
    metrics.orochi("SELECT create_reference_table('devices')")
    metrics.orochi("ALTER TABLE metrics ADD FOREIGN KEY (device) REFERENCES devices")
    assert (
        oracle.ask(metrics.gateway, "INSERT INTO metrics VALUES ('2024-01-02', 'd9', 1)").sqlstate == "23503"
    )
    metrics.orochi("INSERT INTO metrics VALUES ('2024-01-02 12:00+00', 'd2', 1)")


@pytest.mark.parametrize("kind", ["timestamptz", "date"])
def test_infinite_times(module_pair: oracle.Pair, kind: str) -> None:
    """An infinite time is in the first or the last chunk, as rows and as stripes."""
    pair = module_pair
    pair.both(f"CREATE TABLE ever_{kind} (at {kind} NOT NULL, k int NOT NULL, v int)")
    pair.orochi(f"SELECT create_distributed_table('ever_{kind}', 'k', 2)")
    days = 1 if kind == "date" else 9  # infinity alone in its chunk, or with finite times
    pair.orochi(f"SELECT create_hypertable('ever_{kind}', 'at', INTERVAL '{days} days')")
    pair.both(
        f"INSERT INTO ever_{kind} VALUES ('infinity', 1, 1), ('-infinity', 2, 2), ('2024-01-01', 1, 3), ('290000-01-01', 2, 4)",
        f"INSERT INTO ever_{kind} VALUES ('infinity', 3, 5)",
        f"INSERT INTO ever_{kind} SELECT '-infinity', g, g FROM generate_series(1, 5) g",
    )
    pair.copy_in(f"COPY ever_{kind} FROM STDIN", b"infinity\t7\t7\n-infinity\t8\t8\n2024-02-01\t3\t3\n")

    def check() -> None:
        for where in (
            "true",
            "at = 'infinity'",
            "at < 'infinity'",
            "at > '2024-01-15' AND k < 3",
            "at <= '-infinity'",
        ):
            pair.same(f"SELECT * FROM ever_{kind} WHERE {where}")
        pair.same(f"SELECT min(at), max(at), count(*) FROM ever_{kind}")
        pair.same(f"SELECT at, count(*), sum(v) FROM ever_{kind} GROUP BY at ORDER BY at")

    check()
    pair.orochi(
        f"CREATE MATERIALIZED VIEW always_{kind} WITH (orochi.continuous) AS"
        f" SELECT time_bucket('1 day', at) AS day, count(*), sum(v) FROM ever_{kind} GROUP BY 1"
    )
    for (chunk,) in pair.orochi(f"SELECT show_chunks('ever_{kind}')"):
        pair.orochi("SELECT compress_chunk(%s)", (chunk,))
    check()
    pair.both(
        f"UPDATE ever_{kind} SET v = v + 1 WHERE at = 'infinity'",
        f"UPDATE ever_{kind} SET at = 'infinity' WHERE at = '2024-01-01'",
        f"DELETE FROM ever_{kind} WHERE at = '-infinity' AND k > 4",
    )
    check()
    days = pair.orochi(f"SELECT day::text, count, sum FROM always_{kind}")
    rows = pair.orochi(f"SELECT at::text, count(*), sum(v) FROM ever_{kind} GROUP BY at")
    assert sorted(days) == sorted(rows)
