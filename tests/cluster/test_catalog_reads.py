"""What the gateway knows of the catalog, it learns without waiting for what sessions lock."""

from __future__ import annotations

import concurrent.futures

import psycopg

from tests.support import cluster as clusters
from tests.support import oracle


def _one(connection: psycopg.Connection[tuple[object, ...]], sql: str) -> object:
    row = connection.execute(sql).fetchone()  # type: ignore[call-overload]
    return None if row is None else row[0]


def test_a_locked_table_holds_up_nobody_else(
    pair: oracle.Pair, other: psycopg.Connection[tuple[object, ...]]
) -> None:
    """While one has a table and a view of it for himself, others make tables, and read and write those."""
    me = pair.gateway
    me.execute("CREATE TABLE doubled (a int, b int GENERATED ALWAYS AS (a * 2) STORED, c text DEFAULT 'c')")
    me.execute("SELECT create_distributed_table('doubled', 'a', 4)")
    me.execute("CREATE VIEW seen AS SELECT a, b FROM doubled WHERE b > 2")
    me.execute("INSERT INTO doubled (a) SELECT g FROM generate_series(1, 9) AS g")
    assert _one(other, "SELECT count(*) FROM seen") == 8
    me.execute("BEGIN")
    me.execute("LOCK TABLE seen IN ACCESS EXCLUSIVE MODE")
    other.execute("CREATE TABLE fresh (a int, b int GENERATED ALWAYS AS (a + 1) STORED)")
    other.execute("SELECT create_distributed_table('fresh', 'a', 4)")
    other.execute("CREATE VIEW news AS SELECT sum(b) AS s FROM fresh")
    other.execute("INSERT INTO fresh (a) SELECT g FROM generate_series(1, 9) AS g")
    assert _one(other, "SELECT s FROM news") == 54
    me.execute("COMMIT")
    other.execute("INSERT INTO doubled (a) VALUES (100)")
    assert _one(other, "SELECT sum(b) FROM doubled") == 290
    assert _one(other, "SELECT sum(b) FROM seen") == 288
    assert _one(other, "UPDATE doubled SET a = a + 1 WHERE a = 100 RETURNING b") == 202


def test_tables_come_and_go_beside_each_other(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    """What one drops another may be reading the catalog of: neither is told, in or out of a block."""
    schema = _one(pair.gateway, "SELECT current_schema()")

    def rounds(number: int) -> None:
        with cluster.connect(prepare_threshold=None) as connection:
            connection.execute(f"SET search_path TO {schema}, orochi, public")
            for _ in range(6):
                connection.execute(
                    f"CREATE TABLE brief{number} (a int, b int GENERATED ALWAYS AS (a * 2) STORED)"
                )
                connection.execute(f"SELECT create_distributed_table('brief{number}', 'a', 2)")
                connection.execute(f"CREATE VIEW seen{number} AS SELECT a, b FROM brief{number}")
                connection.execute(f"CREATE INDEX ON brief{number} (b)")
                with connection.transaction():
                    connection.execute(f"ALTER TABLE brief{number} ADD COLUMN z int")
                    connection.execute(f"INSERT INTO brief{number} (a) VALUES (1)")
                assert connection.execute(f"SELECT * FROM seen{number}").fetchall() == [(1, 2)]
                connection.execute(f"DROP TABLE brief{number} CASCADE")

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(rounds, number) for number in range(3)]:
            done.result()
