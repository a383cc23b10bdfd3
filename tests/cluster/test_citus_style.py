"""Statements as Citus's users write them: rows, tags, errors with their DETAIL, and notices as PostgreSQL's."""

from __future__ import annotations

import pytest

from tests.support import layouts, oracle

_TYPES = (
    "CREATE TYPE pos AS (a int, b varchar(20))",
    "CREATE TABLE typed (k int PRIMARY KEY, p pos)",
    "PLACE typed",
    "INSERT INTO typed VALUES (1, (2, 'x')), (2, (3, 'y')), (3, NULL), (4, ROW(4, NULL))",
    "COMPRESS typed",
    "SELECT (p).* FROM typed ORDER BY 1",
    "SELECT k, (p).* FROM typed WHERE k > 1 ORDER BY k",
    "SELECT (max(p)).* FROM typed",
    "CREATE TYPE part AS (x int, y int)",
    "ALTER TYPE pos ADD ATTRIBUTE c part",
    "INSERT INTO typed VALUES (5, (1, 'z', (8, 9)))",
    "SELECT k, (p).a, (p).c.y FROM typed ORDER BY k",
    "ALTER TYPE pos RENAME ATTRIBUTE b TO name",
    "ALTER TYPE pos DROP ATTRIBUTE a",
    "SELECT k, p FROM typed ORDER BY k",
    "DROP TYPE pos",
    "DROP TYPE part CASCADE",
    "DROP TYPE pos CASCADE",
    "SELECT * FROM typed ORDER BY k",
)
_FUNCTIONS = (
    "CREATE TABLE t (id int PRIMARY KEY, g int, name text)",
    "PLACE t",
    "CREATE FUNCTION told(t) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT $1.id || ':' || $1.g $$",
    "CREATE FUNCTION more(x int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN x + 1; END $$",
    "INSERT INTO t SELECT i, i % 3, 'n' || i FROM generate_series(1, 12) i RETURNING more(g)",
    "COMPRESS t",
    "INSERT INTO t VALUES (20, 2, 'x') RETURNING more(id), id",
    "INSERT INTO t VALUES (20, 5, 'y') ON CONFLICT (id) DO UPDATE SET g = more(excluded.g) RETURNING *",
    "INSERT INTO t VALUES (20, 5, 'y') ON CONFLICT (id) DO UPDATE SET g = t.g WHERE more(t.g) < 0",
    "SELECT told(t.*) FROM t ORDER BY id LIMIT 3",
    "SELECT id FROM t WHERE told(t.*) = '7:1'",
    "SELECT g, array_agg(told(t.*) ORDER BY id) FROM t GROUP BY g ORDER BY g",
    "SELECT t.told FROM t WHERE t.told LIKE '1%' ORDER BY id",
    "SELECT g, max(a.told) FROM t a GROUP BY g ORDER BY g",
    "INSERT INTO t AS z VALUES (21, 2, 'x') RETURNING told(z), z.told, old.told, told(new)",
    "INSERT INTO t VALUES (21, 2, 'x') ON CONFLICT (id) DO UPDATE SET name = told(excluded) RETURNING t.told",
    "UPDATE t SET g = g + 1 WHERE id = 21 RETURNING told(old), new.told",
    "DELETE FROM t WHERE id = 21 RETURNING told(old), new.told",
    "SELECT g FROM t TABLESAMPLE BERNOULLI (100) WHERE id = 5",
    "WITH unused AS (SELECT g FROM t) SELECT 1 AS one",
    "WITH unused AS (SELECT 1 / (g - g) FROM t) SELECT x FROM generate_series(1, 2) x UNION VALUES (3)",
    "UPDATE t SET name = told(t.*) WHERE id < 3 RETURNING *",
    "DELETE FROM t WHERE told(t.*) = '11:2' RETURNING told(t)",
    "SELECT (s).id FROM (SELECT * FROM t ORDER BY id LIMIT 3) s ORDER BY 1",
    'SELECT (jsonb_populate_record(t, \'{"name": "z"}\')).name FROM t WHERE id < 4',
    "SELECT * FROM t ORDER BY id",
)
_TABLES = (
    "CREATE SEQUENCE numbers",
    "CREATE TABLE made (k int, s int DEFAULT nextval('numbers'), i int GENERATED ALWAYS AS IDENTITY, v text)",
    "PLACE made",
    "INSERT INTO made (k) VALUES (1), (2), (3) RETURNING *",
    "COMPRESS made",
    "UPDATE made SET i = DEFAULT, s = DEFAULT WHERE k = 2 RETURNING *",
    "UPDATE made SET i = 7",
    "VACUUM made",
    "ALTER TABLE made ADD COLUMN n serial, ADD COLUMN u uuid NOT NULL DEFAULT gen_random_uuid()",
    "SELECT count(DISTINCT n), min(n), max(n), count(DISTINCT u) FROM made",
    "ALTER TABLE made ADD COLUMN r int DEFAULT (random() * 5)::int CHECK (r < 0)",
    "ALTER TABLE made DROP COLUMN n, DROP COLUMN u",
    "SELECT k % 2 AS odd, count(*) FROM made WHERE 1 / (k - 3) > 0 GROUP BY k % 2 HAVING k % 2 = 2",
    "BEGIN",
    "CREATE INDEX CONCURRENTLY ON made (v)",
    "ROLLBACK",
    "ALTER TABLE made SET UNLOGGED",
    "ALTER TABLE made SET LOGGED",
    "DROP SEQUENCE numbers",
    "DROP SEQUENCE numbers CASCADE",
    "INSERT INTO made (k) VALUES (4) RETURNING *",
    "SELECT * FROM made ORDER BY k",
)
_DOMAINS = (
    "CREATE DOMAIN code AS text",
    "CREATE TABLE coded (k int, c code)",
    "PLACE coded",
    "INSERT INTO coded VALUES (1, 'too long'), (2, 'x')",
    "ALTER DOMAIN code ADD CONSTRAINT short CHECK (length(VALUE) < 3) NOT VALID",
    "SELECT * FROM coded ORDER BY k",
    "SELECT max(c), count(DISTINCT c) FROM coded",
    "INSERT INTO coded VALUES (3, 'long')",
    "DROP TABLE coded",
    "DROP DOMAIN code",
    "CREATE DOMAIN code AS int",
    "CREATE TABLE coded (k int, c code)",
    "PLACE coded",
    "INSERT INTO coded VALUES (1, 5)",
    "SELECT * FROM coded",
)


@pytest.fixture
def heard(pair: oracle.Pair) -> tuple[list[str], list[str]]:
    """What the two servers say beside their answers."""
    both: tuple[list[str], list[str]] = ([], [])
    for connection, said in zip((pair.gateway, pair.plain), both, strict=True):
        connection.add_notice_handler(
            lambda notice, said=said: said.append(f"{notice.message_primary}\n{notice.message_detail}")
        )
    return both


@pytest.mark.parametrize(
    ("statements", "layout"),
    [
        (_TYPES, "distributed-columnar"),
        (_FUNCTIONS, "distributed-columnar"),
        (_TABLES, "distributed"),
        (_DOMAINS, "distributed"),
    ],
    ids=["types", "functions", "tables", "domains"],
)
def test_statements(
    pair: oracle.Pair, heard: tuple[list[str], list[str]], statements: tuple[str, ...], layout: str
) -> None:
    for sql in statements:
        word, _, table = sql.partition(" ")
        if word == "PLACE":
            layouts.place(pair, table, layout, key="id" if table == "t" else "k", time="")
        elif word == "COMPRESS":
            layouts.compress(pair, table, layout)
        else:
            for said in heard:
                said.clear()
            pair.same(sql)
            assert heard[0] == heard[1], sql


def test_calls_in_parts_of_statements(pair: oracle.Pair) -> None:
    pair.orochi("CREATE TABLE m (at timestamptz NOT NULL, k int)")
    pair.orochi("SELECT create_hypertable('m', 'at')")
    pair.orochi(
        "INSERT INTO m SELECT '2024-01-01Z'::timestamptz + i * interval '1 day', i FROM generate_series(1, 4) i"
    )
    counted = "SELECT count(*) FROM (SELECT compress_chunk(c, true) FROM show_chunks('m') c) s"
    assert pair.orochi(counted) == [(4,)]
    assert pair.orochi(
        "SELECT bool_and(is_compressed) FROM orochi.chunks WHERE hypertable::text LIKE '%m'"
    ) == [(True,)]
    listed = "WITH c AS (SELECT decompress_chunk(c) AS name FROM show_chunks('m') c) SELECT count(DISTINCT name) FROM c"
    assert pair.orochi(listed) == [(4,)]
    assert pair.orochi("SELECT (SELECT add_retention_policy('m', %s::interval)) > 0", ("900 years",)) == [
        (True,)
    ]
    refused = "SELECT * FROM (SELECT compress_chunk(c) FROM show_chunks('m') c) s, m"
    assert oracle.ask(pair.gateway, refused).sqlstate == "0A000"
    pair.orochi("CREATE TABLE far (k int PRIMARY KEY)")
    pair.orochi("SELECT create_reference_table('far')")
    pair.orochi("CREATE TABLE near AS SELECT 1 AS k")
    refers = oracle.ask(pair.gateway, "ALTER TABLE near ADD FOREIGN KEY (k) REFERENCES far")
    assert (refers.sqlstate, refers.hint) == ("0A000", "Distribute near first.")


def test_casts_of_rows_are_refused(pair: oracle.Pair) -> None:
    pair.orochi("CREATE TABLE t (id int, name text)")
    pair.orochi("SELECT create_reference_table('t')")
    pair.orochi("CREATE FUNCTION told(t) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1.name'")
    refused = oracle.ask(pair.gateway, "CREATE CAST (t AS text) WITH FUNCTION told(t)")
    assert (refused.sqlstate, refused.hint) == ("0A000", "Call the function.")
