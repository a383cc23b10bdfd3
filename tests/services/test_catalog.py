"""The catalog in a real PostgreSQL: installation, the SQL functions, triggers, views, and the snapshot."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic import autogenerate, migration

from orochi.catalog import api, bootstrap, models, store
from orochi.pgwire import client
from orochi.sharding import hashing
from tests.services import harness

#: (call, result) as TimescaleDB answers.
BUCKETS = [
    ("time_bucket('1 week', timestamptz '2024-03-31 12:00+00')", "2024-03-25 00:00:00+00"),
    ("time_bucket('5 min', timestamp '1969-12-31 23:59')", "1969-12-31 23:55:00"),
    ("time_bucket('1 month', timestamptz '2024-03-31 12:00+00')", "2024-03-01 00:00:00+00"),
    ("time_bucket('3 months', timestamp '1999-03-31 12:00')", "1999-01-01 00:00:00"),
    ("time_bucket('1 year', date '1995-05-05')", "1995-01-01"),
    ("time_bucket('1 day', timestamptz '2024-03-31 12:00+00', 'Europe/Berlin')", "2024-03-30 23:00:00+00"),
    ("time_bucket('1 day', timestamptz '2024-04-01 12:00+00', 'Europe/Berlin')", "2024-03-31 22:00:00+00"),
    (
        "time_bucket('1 day', timestamptz '2024-03-31 00:30+00', 'Europe/Berlin', \"offset\" => '2 hours')",
        "2024-03-30 01:00:00+00",
    ),
    (
        "time_bucket('1 week', timestamptz '2024-03-31 12:00+00', origin => '2024-01-02')",
        "2024-03-26 00:00:00+00",
    ),
    ("time_bucket('1 hour', timestamp '2024-03-31 12:10', interval '30 min')", "2024-03-31 11:30:00"),
    ("time_bucket('1 week', date '2024-03-31')", "2024-03-25"),
    ("time_bucket(10, -5)", "-10"),
    ("time_bucket(10, 25, 7)", "17"),
    ("time_bucket(10::bigint, 25::bigint)", "20"),
    ("time_bucket(10::smallint, (-1)::smallint)", "-10"),
    ("time_bucket('1 month', timestamp 'infinity')", "infinity"),
    ("time_bucket('1 day', NULL::date)", None),
]


@pytest.fixture(scope="module")
def databases() -> Iterator[harness.Databases]:
    with harness.databases() as found:
        yield found


@pytest.fixture
def catalog(databases: harness.Databases) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(databases.dsn("co"), autocommit=True) as connection:
        yield connection


def one(connection: psycopg.Connection[Any], sql: str) -> Any:
    row = connection.execute(sql.encode()).fetchone()
    return None if row is None else row[0]


def version(connection: psycopg.Connection[Any]) -> int:
    return int(one(connection, store.VERSION_SQL))


def register(connection: psycopg.Connection[Any], table: str) -> None:
    """A catalog entry with two shards, as create_distributed_table would write it."""
    connection.execute(
        f"INSERT INTO orochi.orochi_tables (table_oid, kind, distribution_attnum)"
        f" VALUES ('{table}'::regclass, 'distributed', 1)".encode()
    )
    connection.execute(
        f"WITH s AS (INSERT INTO orochi.orochi_shards (table_oid, shard_index, hash_min, hash_max) VALUES"
        f" ('{table}'::regclass, 0, -2147483648, -1), ('{table}'::regclass, 1, 0, 2147483647) RETURNING shard_id)"
        f" INSERT INTO orochi.orochi_shard_placements (shard_id, node_id) SELECT shard_id, 1 FROM s".encode()
    )


def test_migrating_again_changes_nothing(
    databases: harness.Databases, catalog: psycopg.Connection[Any]
) -> None:
    before = version(catalog)
    bootstrap.migrate(databases.dsn("co"))
    assert version(catalog) == before
    first = bootstrap.register_node(databases.dsn("co"), databases.dsn("n1"))
    assert first == bootstrap.register_node(databases.dsn("co"), databases.dsn("n1")) == 1
    path = one(catalog, "SHOW search_path")
    assert [part.strip() for part in path.split(",")] == ["public", "orochi_api"]  # the role is called orochi


def test_migrations_give_the_models_tables(databases: harness.Databases) -> None:
    engine = sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(databases.dsn("co")),
        poolclass=sa.pool.NullPool,
    )
    options: dict[str, Any] = {
        "include_schemas": True,
        "include_object": lambda thing, name, kind, *_: kind != "table" or thing.schema == models.SCHEMA,
        "compare_server_default": False,
    }
    with engine.connect() as connection:
        context = migration.MigrationContext.configure(connection, opts=options)
        found = autogenerate.compare_metadata(context, models.Base.metadata)
    assert [change for change in found if "orochi_alembic_version" not in str(change)] == []


@pytest.mark.parametrize(("call", "expected"), BUCKETS)
def test_time_bucket(catalog: psycopg.Connection[Any], call: str, expected: str | None) -> None:
    assert one(catalog, f"SELECT ({call})::text") == expected


def test_time_bucket_is_inlined(catalog: psycopg.Connection[Any]) -> None:
    plan = catalog.execute(
        "EXPLAIN (VERBOSE, COSTS OFF) SELECT time_bucket('1 hour', d) FROM (VALUES (now()), (now())) v(d)"
    ).fetchall()
    assert "date_bin(" in str(plan)


@pytest.mark.parametrize(
    ("call", "sqlstate"),
    [
        ("time_bucket('1 month 1 day', now())", "0A000"),
        ("time_bucket(0, 1)", "22023"),
        ("time_bucket('0 s', now())", "22023"),
    ],
)
def test_time_bucket_errors(catalog: psycopg.Connection[Any], call: str, sqlstate: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        catalog.execute(f"SELECT {call}".encode())
    assert caught.value.sqlstate == sqlstate


def test_first_and_last(catalog: psycopg.Connection[Any]) -> None:
    rows = catalog.execute(
        "SELECT first(v, t), last(v, t), first(t, v) FROM (VALUES (1.5, 3), (NULL, 1), (2.5, 2), (9, NULL::int)) x(v, t)"
    ).fetchall()
    assert [str(value) for value in rows[0]] == ["None", "1.5", "3"]
    assert one(catalog, "SELECT last(1, 2) FROM (SELECT) x WHERE false") is None


@pytest.mark.parametrize(
    ("literal", "type_oid", "value"),
    [
        ("5", 23, 5),
        ("(-7)::smallint", 21, -7),
        ("8589934597::bigint", 20, 8589934597),
        ("'abc'::text", 25, "abc"),
        ("'äöü'::varchar", 1043, "äöü"),
        ("date '2024-02-29'", 1082, (dt.date(2024, 2, 29) - dt.date(2000, 1, 1)).days),
        ("timestamptz '2000-01-01 00:00:01+00'", 1184, 1_000_000),
        ("timestamp '1999-12-31 23:59:59'", 1114, -1_000_000),
        ("'00000000-0000-0000-0000-000000000001'::uuid", 2950, bytes(15) + b"\1"),
    ],
)
def test_hash_value_is_the_planners(
    catalog: psycopg.Connection[Any], literal: str, type_oid: int, value: object
) -> None:
    assert one(catalog, f"SELECT hash_value({literal})") == hashing.hash_value(type_oid, value)


def test_functions_refuse_past_the_gateway(catalog: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.errors.FeatureNotSupported) as caught:
        catalog.execute("SELECT compress_chunk(5)")
    assert "must be called through the Orochi gateway" in str(caught.value)
    assert caught.value.diag.message_hint
    twins = one(catalog, "SELECT count(*) FROM pg_proc WHERE proname LIKE '\\_call\\_%'")
    assert twins == len(api.FUNCTIONS)


def test_twins_describe_calls(catalog: psycopg.Connection[Any]) -> None:
    catalog.execute('CREATE TABLE "Od d"(a int)')
    call = one(
        catalog,
        """SELECT orochi._call_create_hypertable('"Od d"', 'a', chunk_time_interval => interval '2 months')""",
    )
    assert call["function"] == "create_hypertable"
    arguments = call["arguments"]
    assert arguments["relation"]["text"] == '"Od d"'
    assert arguments["relation"]["oid"] == one(catalog, """SELECT '"Od d"'::regclass::oid::bigint""")
    assert (arguments["chunk_time_interval"]["kind"], arguments["chunk_time_interval"]["text"]) == (
        "interval",
        "2 mons",
    )
    assert arguments["if_not_exists"] == {"text": "false"}
    call = one(catalog, "SELECT orochi._call_drop_chunks('\"Od d\"', newer_than => 5)")
    assert call["arguments"]["newer_than"]["kind"] == "integer"
    assert call["arguments"]["older_than"] is None


def test_the_version_moves_with_what_plans_depend_on(catalog: psycopg.Connection[Any]) -> None:
    catalog.execute("CREATE TABLE v(id int PRIMARY KEY, x text DEFAULT 'a')")
    register(catalog, "v")
    catalog.execute("SET orochi.follows TO on")  # as the gateway does
    moving = [
        "UPDATE orochi.orochi_shards SET layout = layout + 1",
        "ALTER TABLE v ADD COLUMN y int",
        "ALTER TABLE v DROP COLUMN y",
        "CREATE UNIQUE INDEX v_i ON v(id, x)",
        "DROP INDEX v_i",
        "CREATE VIEW vv AS SELECT id FROM v",
        "DROP VIEW vv",
    ]
    still = [
        "UPDATE orochi.orochi_shards SET row_count = 5, size_bytes = 6",
        "UPDATE orochi.orochi_nodes SET last_heartbeat = now()",
        "CREATE TABLE elsewhere(a int PRIMARY KEY)",
        "CREATE INDEX elsewhere_i ON elsewhere(a)",
        "DROP TABLE elsewhere",
        "CREATE SCHEMA orochi_s1_1",
        "ALTER SCHEMA orochi_s1_1 RENAME TO orochi_s1_2",
        "DROP SCHEMA orochi_s1_2 CASCADE",
    ]
    for statement in moving:
        before = version(catalog)
        catalog.execute(statement.encode())
        assert version(catalog) > before, statement
    for statement in still:
        before = version(catalog)
        catalog.execute(statement.encode())
        assert version(catalog) == before, statement


def test_a_snapshot_of_one_moment(catalog: psycopg.Connection[Any]) -> None:
    catalog.execute(
        "CREATE TABLE snap(id int, at timestamptz DEFAULT now(), c text COLLATE \"C\" DEFAULT 'x',"
        " g int GENERATED ALWAYS AS (id * 2) STORED, s serial, PRIMARY KEY (id, at))"
    )
    register(catalog, "snap")
    catalog.execute("CREATE VIEW snap_view AS SELECT s.id FROM snap s")
    catalog.execute("CREATE VIEW snap_view2 AS SELECT * FROM snap_view")
    snapshot = store.load_sync(catalog)
    table = snapshot.table("public", "snap")
    assert table is not None
    assert table.distribution_column == "id"
    assert table.unique_keys == (("id", "at"),)
    assert [shard.hash_min for shard in table.shards] == [-(2**31), 0]
    by_name = {column.name: column for column in table.columns}
    assert {name: column.default_is_volatile for name, column in by_name.items()} == {
        "id": False, "at": True, "c": False, "g": False, "s": True,
    }  # fmt: skip
    assert by_name["c"].collation == 'pg_catalog."C"'
    assert by_name["g"].generated == "s"
    assert "public.snap" in snapshot.views["public", "snap_view"].definition
    assert "public.snap_view" in snapshot.views["public", "snap_view2"].definition


def test_a_dropped_shell_leaves_the_catalog(catalog: psycopg.Connection[Any]) -> None:
    catalog.execute("CREATE SCHEMA gone")
    catalog.execute("CREATE TABLE gone.t(id int)")
    register(catalog, "gone.t")
    shards = [
        row[0] for row in catalog.execute("SELECT shard_id FROM orochi.shards WHERE table_name = 'gone.t'")
    ]
    with catalog.transaction(force_rollback=True):
        catalog.execute("DROP TABLE gone.t")
    assert one(catalog, "SELECT count(*) FROM orochi.tables WHERE table_name = 'gone.t'") == 1
    catalog.execute("DROP SCHEMA gone CASCADE")
    assert one(catalog, "SELECT count(*) FROM orochi.tables WHERE table_name = 'gone.t'") == 0
    queued = catalog.execute("SELECT object_id FROM orochi.orochi_cleanup WHERE kind = 'shard'").fetchall()
    assert {row[0] for row in queued} >= set(shards)


def test_the_gateways_rights_need_its_token(catalog: psycopg.Connection[Any]) -> None:
    secret = one(catalog, "SELECT secret FROM orochi.orochi_secret")
    catalog.execute("DROP ROLE IF EXISTS joe")
    catalog.execute("CREATE ROLE joe")
    catalog.execute("SET ROLE joe")
    pid = catalog.info.backend_pid
    query = "SELECT * FROM orochi._gateway_execute(%s, %s)"
    statement = "SELECT 1::int, NULL::text, 'x'"
    assert catalog.execute(query, (store.gateway_token(secret, pid, statement), statement)).fetchall() == [
        (["1", None, "x"],)
    ]
    for token in (
        store.gateway_token(secret, pid + 1, statement),
        store.gateway_token("guess", pid, statement),
        store.gateway_token(secret, pid, "SELECT 2"),
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            catalog.execute(query, (token, statement))
    for hidden in ("orochi_secret", "orochi_transactions", "orochi_cleanup"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            catalog.execute(f"SELECT * FROM orochi.{hidden}".encode())
    catalog.execute("SELECT * FROM orochi.tables, orochi.chunks, timescaledb_information.hypertables")


#: What changes only where rows of `parts` are; all else there is stays the same object.
PLACES = [
    "INSERT INTO orochi.orochi_chunks (chunk_id, shard_id, range_start, range_end) SELECT 901, {first}, 0, 10",
    (
        "INSERT INTO orochi.orochi_stripes (stripe_id, chunk_id, node_id, path, row_count, size_bytes)"
        " VALUES (801, 901, 1, 'a', 3, 9), (802, 901, 1, 'b', 4, 9)"
    ),
    "UPDATE orochi.orochi_stripes SET path = 'c' WHERE stripe_id = 802",
    "UPDATE orochi.orochi_chunks SET tier = 'warm' WHERE chunk_id = 901",
    "UPDATE orochi.orochi_chunks SET generation = 2 WHERE chunk_id = 901",
    "UPDATE orochi.orochi_shards SET layout = layout + 1 WHERE shard_id = {first}",
    (
        "WITH moved AS (UPDATE orochi.orochi_chunks SET generation = 3 WHERE chunk_id = 901 RETURNING chunk_id)"
        " DELETE FROM orochi.orochi_stripes s USING moved m WHERE s.chunk_id = m.chunk_id AND s.stripe_id = 801"
    ),
    "DELETE FROM orochi.orochi_stripes WHERE chunk_id = 901",
    "DELETE FROM orochi.orochi_chunks WHERE chunk_id = 901",
    "UPDATE orochi.orochi_shards SET row_count = 4711 WHERE shard_id = {first}; SELECT orochi._bump_layout('{{{first}}}')",
]


def test_what_came_after_a_snapshot(databases: harness.Databases, catalog: psycopg.Connection[Any]) -> None:
    asyncio.run(_what_came_after_a_snapshot(databases, catalog))


async def _what_came_after_a_snapshot(databases: harness.Databases, catalog: psycopg.Connection[Any]) -> None:
    for name in ("parts", "others"):
        catalog.execute(f"CREATE TABLE {name}(id int)".encode())
        register(catalog, name)
    catalog.execute("SET orochi.follows TO on")  # as the gateway does
    first = one(catalog, "SELECT min(shard_id) FROM orochi.orochi_shards WHERE table_oid = 'parts'::regclass")
    reader = await client.PgConnection.connect("127.0.0.1", databases.port, "orochi", None, "co")
    try:
        before = await store.load(reader)
        for statement in PLACES:
            catalog.execute(statement.format(first=first).encode())
            after = await store.load_after(reader, before)
            assert after is not None, statement
            assert after == await store.load(reader), statement
            assert after != before, statement
            assert after.shape is before.shape
            assert after.table("public", "others") is before.table("public", "others")
            before = after
        for statement in (
            "ALTER TABLE others ADD COLUMN y int",
            "SELECT orochi._bump_layout()",
            "TRUNCATE orochi.orochi_stripes CASCADE",
        ):
            catalog.execute(statement.encode())
            assert await store.load_after(reader, before) is None, statement
            before = await store.load(reader, after=before)
        catalog.execute(f"UPDATE orochi.orochi_shards SET layout = 7 WHERE shard_id = {first}".encode())
        catalog.execute(
            "WITH gone AS (DELETE FROM orochi.orochi_catalog_changes RETURNING weight)"
            " INSERT INTO orochi.orochi_catalog_changes (weight, is_layout) SELECT sum(weight), true FROM gone"
        )
        assert await store.load_after(reader, before) is None, "changes that were folded"
    finally:
        reader.close()


def test_what_a_transaction_sees_after_a_snapshot(
    databases: harness.Databases, catalog: psycopg.Connection[Any]
) -> None:
    asyncio.run(_what_a_transaction_sees_after_a_snapshot(databases, catalog))


async def _what_a_transaction_sees_after_a_snapshot(
    databases: harness.Databases, catalog: psycopg.Connection[Any]
) -> None:
    catalog.execute("CREATE TABLE undone(id int)")
    register(catalog, "undone")
    update = "UPDATE orochi.orochi_shards SET layout = layout + 1 WHERE table_oid = 'undone'::regclass"
    reader = await client.PgConnection.connect("127.0.0.1", databases.port, "orochi", None, "co")
    try:
        committed = await store.load(reader)
        await reader.query(f"BEGIN; SAVEPOINT a; {update}")
        own = await store.load_after(reader, committed)
        assert own is not None
        assert {
            shard.layout for shard in own.tables[one(catalog, "SELECT 'undone'::regclass::oid")].shards
        } == {2}
        await reader.query("ROLLBACK TO a")
        assert await store.load_after(reader, own) is None, "what made it was rolled back"
        assert await store.load(reader, after=own) == committed
        await reader.query("COMMIT; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        catalog.execute(update.encode())
        newer = store.load_sync(catalog)
        assert await store.load_after(reader, newer) is None, "the transaction's moment is an older one"
        assert await store.load(reader, after=newer) == committed
    finally:
        reader.close()
