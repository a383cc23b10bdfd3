"""pg_dump through the gateway restores to plain PostgreSQL with every row, and with nothing of Orochi's own."""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from tests.support import cluster as clusters
from tests.support import layouts, oracle, pairs, services

TABLES = ("events", "items", "kinds", "plain_one", "numbered", "busy")

SETUP = (
    "CREATE TABLE kinds (id integer PRIMARY KEY, name text UNIQUE)",
    "INSERT INTO kinds SELECT g, 'kind ' || g FROM generate_series(1, 5) AS g",
    "CREATE TABLE items (id bigint PRIMARY KEY, kind integer REFERENCES kinds, tags text[], doc jsonb)",
    "CREATE INDEX items_by_kind ON items (kind)",
    "COMMENT ON TABLE items IS 'what is sold'",
    (
        "CREATE TABLE numbered (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n integer,"
        " twice integer GENERATED ALWAYS AS (n * 2) STORED)"
    ),
    "CREATE TABLE plain_one (id integer PRIMARY KEY, what text)",
    "INSERT INTO plain_one SELECT g, 'row ' || g FROM generate_series(1, 3) AS g",
    "CREATE FUNCTION item_count() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM dumped.items'",
    "CREATE VIEW busy AS SELECT tenant, count(*) AS n FROM events GROUP BY tenant",
)


@pytest.fixture(scope="module")
def pair(cluster: clusters.Cluster) -> Iterator[oracle.Pair]:
    """The gateway's side of a schema with every kind of table, and the database to restore into."""
    found = pairs.opened(cluster, "dumped")
    found.both("CREATE SCHEMA dumped", layouts.EVENTS)
    layouts.place(found, "events", "both-compressed", key="tenant", time="at", interval="40 days")
    found.both(layouts.FILL, *SETUP)
    layouts.compress(found, "events", "both-compressed")
    found.orochi("SELECT create_reference_table('kinds'), create_distributed_table('items', 'id', 4)")
    found.orochi("SELECT create_distributed_table('numbered', 'id', 4)")
    found.both(
        "INSERT INTO items SELECT g, g % 5 + 1, ARRAY[g::text, NULL], jsonb_build_object('g', g)"
        " FROM generate_series(1, 50) AS g",
        "INSERT INTO numbered (n) SELECT g FROM generate_series(1, 20) AS g",
        "INSERT INTO events (tenant, at, id) VALUES (1, '2024-03-10', 999)",
    )
    yield found
    pairs.close(found, "dumped")


@pytest.mark.parametrize(
    ("dump", "restore"),
    [
        (("-N", "nyc"), "psql"),
        (("-N", "nyc", "-N", "orochi*", "-Fc"), "pg_restore"),
        (("-n", "dumped", "--inserts", "--rows-per-insert=50"), "psql"),
    ],
    ids=["everything", "custom", "inserts"],
)
def test_a_dump_restores(
    cluster: clusters.Cluster,
    pair: oracle.Pair,
    tmp_path: pathlib.Path,
    dump: tuple[str, ...],
    restore: str,
) -> None:
    file = str(tmp_path / "dump")
    _run("pg_dump", "-d", cluster.dsn, "-f", file, *dump)
    with cluster.connect_coordinator() as admin:
        admin.execute("DROP DATABASE IF EXISTS restored")
        admin.execute("CREATE DATABASE restored")
    target = clusters.with_dbname(cluster.coordinator_dsn, "restored")
    if restore == "psql":
        _run("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", target, "-f", file)
    else:
        _run("pg_restore", "--exit-on-error", "-d", target, file)
    with cluster.connect_coordinator("restored") as restored:
        restored.execute("SET search_path TO dumped")
        both = oracle.Pair(pair.gateway, restored)
        both.check_tables(*TABLES)
        both.same("SELECT item_count()")
        restored.execute("INSERT INTO items VALUES (1000, 1); INSERT INTO numbered (n) VALUES (1)")
        left = restored.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname ~ 'orochi|timescale'"
        ).fetchall()
        left += restored.execute("SELECT tgname FROM pg_trigger WHERE tgname ~* 'orochi'").fetchall()
        left += restored.execute("SELECT srvname FROM pg_foreign_server").fetchall()
        assert left == []


def test_a_table_alone(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    text = _run("pg_dump", "-d", cluster.dsn, "-t", "dumped.items", "--data-only")
    rows = text.split("FROM stdin;\n")[1].split("\\.\n")[0].splitlines()
    assert len(rows) == 50


def test_past_the_gateway_it_is_refused(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    with pytest.raises(AssertionError, match="a dump past the Orochi gateway would lack"):
        _run("pg_dump", "-d", cluster.coordinator_dsn, "-n", "dumped")


def _run(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [services.postgres_binary(program), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
