"""What clients do besides queries: catalogs, dumps, pgbench, SQLAlchemy, pipelines, cancel, notify."""

from __future__ import annotations

import os
import subprocess

import psycopg
import pytest
import sqlalchemy

from tests.support import cluster as clusters
from tests.support import layouts, oracle, races, services

_META = [
    "\\d",
    "\\dt",
    "\\df orochi.*",
    "\\l",
    "\\dn",
    "\\du",
    "\\d+ events",
    "\\di",
    "\\dT",
    "\\dx",
    "\\conninfo",
    "\\sf now",
]


def run(program: str, *arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    command = [services.postgres_binary(program), *arguments]
    environment = {**os.environ, "PGCLIENTENCODING": "UTF8"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, env=environment, check=False
    )


@pytest.mark.parametrize("command", _META)
def test_psql_meta_command(cluster: clusters.Cluster, pair: oracle.Pair, command: str) -> None:
    """The gateway relays the catalogs: psql prints what it prints straight at the coordinator."""
    layouts.events(pair, "both")
    schema = pair.orochi("SELECT current_schema()")[0][0]
    script = f"SET search_path TO {schema}, orochi, public;\n{command}\n"
    ours = cluster.psql("-q", sql=script)
    theirs = cluster.psql("-q", sql=script, dsn=cluster.coordinator_dsn)
    assert ours.returncode == 0, ours.stderr
    if command != "\\conninfo":
        assert ours.stdout == theirs.stdout
    assert ours.stdout


def test_psql_variables_and_errors(cluster: clusters.Cluster) -> None:
    done = cluster.psql(
        "-At", "-v", "ON_ERROR_STOP=0", sql="SELECT 1/0;\nSELECT :'SQLSTATE';\n\\echo :LAST_ERROR_MESSAGE\n"
    )
    assert "division by zero" in done.stderr
    done = cluster.psql("-At", sql="SELECT 41 + 1 AS a \\gset\n\\echo :a\nSELECT 1 \\; SELECT 2;\n")
    assert done.stdout.split() == ["42", "1", "2"]


def test_pg_dump_and_restore(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    """A plain schema dumped through the gateway restores elsewhere; an Orochi table's rows come too, or the dump says no."""
    schema = pair.orochi("SELECT current_schema()")[0][0]
    pair.both(
        "CREATE TABLE kept (a int PRIMARY KEY, b text)",
        "INSERT INTO kept SELECT g, 'row ' || g FROM generate_series(1, 50) g",
    )
    dump = run("pg_dump", "-d", cluster.dsn, "-n", schema, "--no-owner")
    assert dump.returncode == 0, dump.stderr
    assert "row 50" in dump.stdout
    with cluster.connect_coordinator() as connection:
        connection.execute("DROP DATABASE IF EXISTS restored")
        connection.execute("CREATE DATABASE restored")
    done = cluster.psql("-q", sql=dump.stdout, dsn=clusters.with_dbname(cluster.coordinator_dsn, "restored"))
    assert done.returncode == 0, done.stderr
    with cluster.connect_coordinator("restored") as connection:
        assert connection.execute(f"SELECT count(*) FROM {schema}.kept").fetchone() == (50,)


def test_pg_dump_of_a_distributed_table_is_never_empty(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    layouts.events(pair, "both-compressed")
    schema = pair.orochi("SELECT current_schema()")[0][0]
    dump = run("pg_dump", "-d", cluster.dsn, "-t", f"{schema}.events", "--data-only")
    rows = [line for line in dump.stdout.splitlines() if "\t" in line]
    assert dump.returncode != 0 or len(rows) == 200, dump.stderr


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_pgbench(cluster: clusters.Cluster, mode: str) -> None:
    made = run("pgbench", "-i", "-s", "1", "-q", cluster.dsn)
    assert made.returncode == 0, made.stderr
    for script in ("tpcb-like", "select-only"):
        done = run("pgbench", "-M", mode, "-b", script, "-c", "2", "-t", "50", "-n", cluster.dsn)
        assert done.returncode == 0, done.stderr
        assert "number of failed transactions: 0 (" in done.stdout, done.stdout


def test_pgbench_on_distributed_tables(cluster: clusters.Cluster) -> None:
    assert run("pgbench", "-i", "-s", "1", "-q", cluster.dsn).returncode == 0
    with cluster.connect() as connection:
        connection.execute("SELECT create_distributed_table('pgbench_accounts', 'aid', 4)")
        try:
            for mode in ("simple", "extended", "prepared"):
                done = run("pgbench", "-M", mode, "-S", "-c", "2", "-t", "100", "-n", cluster.dsn)
                assert done.returncode == 0, done.stderr
                assert "number of failed transactions: 0 (" in done.stdout, done.stdout
            done = run("pgbench", "-M", "prepared", "-c", "2", "-t", "50", "-n", cluster.dsn)
            assert done.returncode == 0, done.stderr
            total = connection.execute("SELECT sum(abalance) FROM pgbench_accounts").fetchone()
            assert total == connection.execute("SELECT sum(delta) FROM pgbench_history").fetchone()
        finally:
            connection.execute(
                "DROP TABLE pgbench_accounts, pgbench_branches, pgbench_tellers, pgbench_history"
            )


def test_sqlalchemy(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    layouts.events(pair, "both-compressed")
    schema = pair.orochi("SELECT current_schema()")[0][0]
    url = sqlalchemy.make_url(cluster.dsn.replace("postgres://", "postgresql://", 1)).set(
        drivername="postgresql+psycopg"
    )
    engine = sqlalchemy.create_engine(url)
    table = sqlalchemy.Table("events", sqlalchemy.MetaData(), schema=schema, autoload_with=engine)
    assert [column.name for column in table.primary_key] == ["tenant", "at", "id"]
    assert isinstance(table.c.amount.type, sqlalchemy.NUMERIC)
    inspector = sqlalchemy.inspect(engine)
    assert inspector.get_table_names(schema=schema) == ["events"]
    assert [check["name"] for check in inspector.get_check_constraints("events", schema=schema)] == [
        "amount_is_sane"
    ]
    with engine.begin() as connection:
        query = (
            sqlalchemy.select(table.c.tenant, sqlalchemy.func.count())
            .group_by(table.c.tenant)
            .order_by(table.c.tenant)
        )
        ours = [tuple(row) for row in connection.execute(query)]
        connection.execute(
            table.insert(), [{"tenant": 1, "at": "2024-03-10", "id": 9000 + n} for n in range(20)]
        )
        connection.execute(table.update().where(table.c.id >= 9000).values(what="from SQLAlchemy"))
    assert ours == pair.plain.execute("SELECT tenant, count(*) FROM events GROUP BY 1 ORDER BY 1").fetchall()
    assert pair.orochi("SELECT count(*) FROM events WHERE what = 'from SQLAlchemy'") == [(20,)]
    engine.dispose()


def test_statements_follow_columns_that_change(pair: oracle.Pair) -> None:
    """What a node's connection has prepared is not run for other columns, in blocks and outside."""
    pair.both("CREATE TABLE changing (id int, v text)")
    pair.orochi("SELECT create_distributed_table('changing', 'id', 4)")
    pair.both("INSERT INTO changing VALUES (1, 'x')")
    changes = ("ADD COLUMN z int", "ALTER v TYPE varchar(9)", "RENAME v TO u", "DROP COLUMN z")
    for change in ("", *changes):
        if change:
            pair.both(f"ALTER TABLE changing {change}")
        for number in range(6):
            if number < 4:
                pair.both("BEGIN")
            pair.same("SELECT * FROM changing WHERE id = %s", (1,))
            pair.same("UPDATE changing SET id = id WHERE id = %s RETURNING *", (1,))
            if number < 4:
                pair.both("COMMIT")


def test_pipeline(pair: oracle.Pair) -> None:
    layouts.events(pair, "distributed")
    for connection in (pair.gateway, pair.plain):
        answers = []
        with connection.pipeline():
            cursors = [
                connection.execute("SELECT id FROM events WHERE tenant = %s ORDER BY id", (n,))
                for n in range(5)
            ]
            connection.execute(
                "INSERT INTO events (tenant, at, id) VALUES (%s, %s, %s)", (1, "2024-03-10", 4000)
            )
            cursors.append(connection.execute("SELECT count(*) FROM events WHERE id = 4000"))
            answers = [cursor.fetchall() for cursor in cursors]
        assert answers[-1] == [(1,)]
    pair.check_tables("events")


def test_pipeline_error_skips_to_sync(pair: oracle.Pair) -> None:
    layouts.events(pair, "distributed")

    def run_and_fail(connection: psycopg.Connection[object]) -> None:
        with connection.pipeline():
            connection.execute("UPDATE events SET what = 'never' WHERE tenant = 1")
            connection.execute("SELECT 1 / (tenant - tenant) FROM events")
            connection.execute("UPDATE events SET what = 'skipped' WHERE tenant = 2")

    for connection in (pair.gateway, pair.plain):
        with pytest.raises(psycopg.errors.DivisionByZero):
            run_and_fail(connection)
    pair.check_tables("events")


@pytest.mark.parametrize(
    "sql", ["SELECT pg_sleep(250)", "SELECT count(pg_sleep(5)) FROM events"], ids=["relayed", "distributed"]
)
def test_cancel(pair: oracle.Pair, sql: str) -> None:
    layouts.events(pair, "both")
    with races.cancelling(pair.gateway), pytest.raises(psycopg.errors.QueryCanceled):
        pair.gateway.execute(sql)
    pair.same("SELECT count(*) FROM events")


def test_cursors_with_row_limits(pair: oracle.Pair) -> None:
    """A portal executed a few rows at a time (the extended protocol's row limit)."""
    layouts.events(pair, "both-compressed")
    for connection in (pair.gateway, pair.plain):
        with connection.transaction(), connection.cursor(name="portal") as cursor:
            cursor.itersize = 30
            cursor.execute("SELECT id FROM events ORDER BY id")
            assert [row[0] for row in cursor] == list(range(1, 201))


def test_stream(pair: oracle.Pair) -> None:
    layouts.events(pair, "both-compressed")
    with pair.gateway.cursor() as cursor:
        assert sorted(row[0] for row in cursor.stream("SELECT id FROM events")) == list(range(1, 201))


def test_another_client_encoding(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    """Text that only the encoding explains is relayed, or refused where an Orochi table is meant."""
    pair.both("CREATE TABLE words (id int, word text)")
    pair.gateway.execute("SELECT create_distributed_table('words', 'id')")
    with psycopg.connect(cluster.dsn, autocommit=True, client_encoding="latin1") as client:
        (path,) = pair.gateway.execute("SHOW search_path").fetchall()[0]
        client.execute(f"SET search_path TO {path}".encode())
        assert client.execute("SELECT 'words: é'").fetchone() == ("words: é",)
        for sql, values in (
            ("SELECT * FROM words WHERE word = 'é'", None),
            ("INSERT INTO words VALUES (1, %s)", ["é"]),
        ):
            with pytest.raises(psycopg.errors.FeatureNotSupported, match="LATIN1"):
                client.execute(sql, values)
        client.execute("INSERT INTO words VALUES (1, chr(233))")
        assert client.execute("SELECT word FROM words").fetchone() == ("é",)


def test_strings_that_do_not_conform(pair: oracle.Pair) -> None:
    """Where a backslash means something else to the server, it is not read as itself."""
    pair.both("CREATE TABLE said (id int, word text)", "SET standard_conforming_strings TO off")
    pair.orochi("SELECT create_distributed_table('said', 'id')")
    for word in (r"'a\nb'", r"E'a\nb'"):
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="backslashes"):
            pair.gateway.execute(f"INSERT INTO said VALUES (1, {word})".encode())
    pair.same(r"SELECT 'a\nb', E'a\nb'")
    pair.both("INSERT INTO said VALUES (1, 'a')", "RESET standard_conforming_strings")
    pair.both(r"INSERT INTO said VALUES (2, 'a\nb'), (3, E'a\nb')")
    pair.same("SELECT * FROM said ORDER BY id")


def test_listen_notify_and_notices(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    notices: list[str] = []
    pair.gateway.add_notice_handler(lambda diagnostic: notices.append(str(diagnostic.message_primary)))
    pair.gateway.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
    assert notices == ["hello"]
    pair.gateway.execute("LISTEN here")
    with cluster.connect() as other:
        other.execute("NOTIFY here, 'there'")
    [notification] = pair.gateway.notifies(timeout=60, stop_after=1)
    assert notification.payload == "there"


def test_parameters_of_the_server(cluster: clusters.Cluster) -> None:
    names = (
        "server_version",
        "server_encoding",
        "client_encoding",
        "TimeZone",
        "DateStyle",
        "standard_conforming_strings",
        "is_superuser",
    )
    with cluster.connect() as ours, cluster.connect_coordinator() as theirs:
        for name in names:
            assert ours.info.parameter_status(name) == theirs.info.parameter_status(name), name
        ours.execute("SET timezone = 'Asia/Tokyo'")
        assert ours.info.parameter_status("TimeZone") == "Asia/Tokyo"


def test_login(cluster: clusters.Cluster) -> None:
    """SCRAM is relayed: PostgreSQL's roles and passwords are the gateway's."""
    with cluster.connect_coordinator() as connection:
        connection.execute("DROP ROLE IF EXISTS guest")
        connection.execute("CREATE ROLE guest LOGIN PASSWORD 'correct horse'")
    try:
        with psycopg.connect(cluster.dsn, user="guest", password="correct horse") as connection:
            assert connection.execute("SELECT current_user").fetchone() == ("guest",)
        for user, dbname in (("nobody_here", None), ("guest", "no_such_database")):
            options = {"user": user, "password": "correct horse"} | ({"dbname": dbname} if dbname else {})
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(cluster.dsn, **options)
    finally:
        with cluster.connect_coordinator() as connection:
            connection.execute("DROP ROLE guest")


def test_roles_and_grants(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    layouts.events(pair, "both-compressed")
    schema = pair.orochi("SELECT current_schema()")[0][0]
    pair.orochi("CREATE ROLE reader LOGIN PASSWORD 'read'")
    try:
        with psycopg.connect(cluster.dsn, user="reader", password="read", autocommit=True) as reader:
            sql = f"SELECT count(*) FROM {schema}.events"
            assert oracle.ask(reader, sql).sqlstate == "42501"
            pair.orochi(f"GRANT USAGE ON SCHEMA {schema} TO reader")
            assert oracle.ask(reader, sql).sqlstate == "42501"
            pair.orochi("GRANT SELECT ON events TO reader")
            assert oracle.ask(reader, sql).values == [("200",)]
            assert oracle.ask(reader, f"DELETE FROM {schema}.events").sqlstate == "42501"
            pair.orochi("REVOKE SELECT ON events FROM reader")
            assert oracle.ask(reader, sql).sqlstate == "42501"
    finally:
        pair.orochi(f"REVOKE ALL ON SCHEMA {schema} FROM reader")
        pair.orochi("DROP OWNED BY reader")
        pair.orochi("DROP ROLE reader")


def test_the_catalog_is_not_among_the_tables(cluster: clusters.Cluster) -> None:
    """Functions are called without a schema, but no relation of Orochi's shows on the search_path."""
    with cluster.connect() as gateway:
        assert (
            gateway.execute(
                "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
                " WHERE pg_table_is_visible(c.oid) AND n.nspname <> 'pg_catalog' AND n.nspname LIKE 'orochi%'"
            ).fetchall()
            == []
        )
        visible = gateway.execute(
            "SELECT DISTINCT proname::text FROM pg_proc WHERE pg_function_is_visible(oid) AND proname IN"
            " ('create_hypertable', 'time_bucket', 'first', 'show_chunks') ORDER BY 1"
        ).fetchall()
        assert visible == [("create_hypertable",), ("first",), ("show_chunks",), ("time_bucket",)]
        gateway.execute("CREATE TABLE seen (at timestamptz NOT NULL, v int)")
        gateway.execute("SELECT create_hypertable('seen', 'at')")
        gateway.execute(
            "INSERT INTO seen SELECT timestamptz '2024-01-01' + g * interval '1h', g FROM generate_series(1, 50) g"
        )
        assert gateway.execute(
            "SELECT count(*) FROM citus_shards WHERE table_name = 'seen'::regclass"
        ).fetchone() == (1,)
        one, two = (
            gateway.execute(
                f"SELECT {schema}time_bucket('1 day', at), {schema}last(v, at), count(*) FROM seen GROUP BY 1 ORDER BY 1"
            ).fetchall()
            for schema in ("", "orochi_api.")
        )
        assert one == two
        gateway.execute("DROP TABLE seen")
