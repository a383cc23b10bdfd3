"""ALTER and DROP of enums and domains reach the nodes' types and the rows in stripes."""

from __future__ import annotations

from tests.support import layouts, oracle

_STATEMENTS = (
    "ALTER TYPE mood ADD VALUE 'happy'",
    "INSERT INTO felt VALUES (100, '2024-01-02', 'happy', 3)",
    "SELECT m, count(*) FROM felt GROUP BY m ORDER BY m",
    "ALTER TYPE mood ADD VALUE IF NOT EXISTS 'meh' BEFORE 'ok'",
    "UPDATE felt SET m = 'meh' WHERE k = 3",
    "SELECT k, m FROM felt WHERE m >= 'meh' ORDER BY m, k",
    "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",
    "SELECT m, count(*) FROM felt GROUP BY m ORDER BY m",
    "SELECT k FROM felt WHERE m = 'blue'",
    "ALTER TYPE mood RENAME TO feeling",
    "INSERT INTO felt VALUES (101, '2024-01-02', 'blue'::feeling, 3)",
    "ALTER DOMAIN level ADD CONSTRAINT low CHECK (VALUE < 100)",
    "INSERT INTO felt VALUES (102, '2024-01-02', 'ok', 1000)",
    "ALTER DOMAIN level ADD CONSTRAINT none CHECK (VALUE > 5)",
    "ALTER DOMAIN level DROP CONSTRAINT low",
    "INSERT INTO felt VALUES (102, '2024-01-02', 'ok', 1000)",
    "ALTER DOMAIN level RENAME TO height",
    "INSERT INTO felt VALUES (103, '2024-01-02', 'ok', NULL)",
    "ALTER DOMAIN height SET NOT NULL",
    "ALTER TYPE nothing ADD VALUE 'x'",
    "DROP TYPE feeling",
    "DROP TYPE feeling CASCADE",
    "SELECT * FROM felt WHERE k < 3 ORDER BY k",
    "CREATE TYPE feeling AS ENUM ('other')",
    "ALTER TABLE felt ADD COLUMN m feeling DEFAULT 'other'",
    "SELECT m, count(*) FROM felt GROUP BY m",
    "CREATE TYPE _two AS ENUM ('x')",
    "CREATE TYPE two AS (a int, b text)",
    "ALTER TABLE felt ADD COLUMN two two",
    "DROP TYPE _two",
    "ALTER TABLE felt DROP COLUMN two",
    "CREATE DOMAIN word AS text DEFAULT 'none' CHECK (VALUE <> 'bad')",
    "CREATE DOMAIN must AS int NOT NULL",
    "ALTER TABLE felt ADD COLUMN w word",
    "ALTER TABLE felt ADD COLUMN n must",
    "ALTER TABLE felt ADD COLUMN n must DEFAULT 3",
    "ALTER TABLE felt ADD COLUMN b word DEFAULT 'bad'",
    "INSERT INTO felt (k, at, n) VALUES (200, '2024-01-02', 1), (201, '2024-01-02', DEFAULT) RETURNING *",
    "INSERT INTO felt (k, at, w) VALUES (202, '2024-01-02', NULL)",
    "ALTER DOMAIN word SET DEFAULT 'some'",
    "INSERT INTO felt (k, at) VALUES (203, '2024-01-02')",
    "UPDATE felt SET w = DEFAULT WHERE k = 2",
    "SELECT k, w, n FROM felt ORDER BY k",
)


def test_types(pair: oracle.Pair) -> None:
    pair.both(
        "CREATE TYPE mood AS ENUM ('sad', 'ok')",
        "CREATE DOMAIN level AS int CHECK (VALUE > 0)",
        "CREATE TABLE felt (k int, at timestamptz NOT NULL, m mood, p level)",
    )
    layouts.place(pair, "felt", "both", key="k", time="at")
    pair.both(
        "INSERT INTO felt SELECT g, '2024-01-01', CASE WHEN g % 2 = 0 THEN 'sad' ELSE 'ok' END::mood, g"
        " FROM generate_series(1, 20) AS g"
    )
    layouts.compress(pair, "felt", "both-compressed")
    for sql in _STATEMENTS:
        pair.same(sql, details=not sql.startswith("DROP"))
    pair.both("BEGIN", "ALTER TYPE feeling RENAME VALUE 'other' TO 'same'", "ROLLBACK")
    pair.check_tables("felt")


def test_labels_of_a_type_that_the_block_made_may_be_used_in_it(pair: oracle.Pair) -> None:
    pair.both("CREATE TYPE old AS ENUM ('a')", "BEGIN", "CREATE TYPE new AS ENUM ('x')")
    pair.both("CREATE TABLE uses (k int, n new, o old)")
    layouts.place(pair, "uses", "distributed", key="k", time="")
    for sql in (
        "ALTER TYPE new ADD VALUE 'y'",
        "INSERT INTO uses VALUES (1, 'y', 'a'), (2, 'x', 'a') RETURNING *",
        "ALTER TYPE old ADD VALUE 'b'",
        "SELECT * FROM uses WHERE n = 'y'",
        "INSERT INTO uses VALUES (3, 'y', 'b')",
        "ROLLBACK",
    ):
        pair.same(sql)
    pair.both("DROP TYPE old")


def test_types_go_with_their_schema(pair: oracle.Pair) -> None:
    pair.both(
        "CREATE TABLE stays (k int, v int)",
        "CREATE FUNCTION kept() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM stays'",
    )
    layouts.place(pair, "stays", "distributed", key="k", time="")
    for labels, label in (("'a', 'b'", "b"), ("'c', 'a'", "c")):
        pair.both(
            "CREATE SCHEMA with_types",
            f"CREATE TYPE with_types.e AS ENUM ({labels})",
            f"CREATE DOMAIN with_types.d AS with_types.e CHECK (VALUE <> '{label}')",
            "CREATE TYPE with_types.c AS (x int, y with_types.e)",
            "CREATE TABLE with_types.t (k int, e with_types.e, c with_types.c)",
            "ALTER TABLE stays ADD COLUMN d with_types.d",
        )
        layouts.place(pair, "with_types.t", "distributed", key="k", time="")
        pair.same(f"INSERT INTO with_types.t VALUES (1, '{label}', (1, '{label}')), (2, 'a', (2, 'a'))")
        pair.same("SELECT * FROM with_types.t ORDER BY e")
        pair.same("INSERT INTO stays VALUES (1, 1, 'a')")
        pair.same(f"INSERT INTO stays VALUES (1, 1, '{label}')", details=False)
        pair.same("DROP SCHEMA with_types", details=False)
        pair.both("BEGIN", "DROP SCHEMA with_types CASCADE", "ROLLBACK")
        pair.same("SELECT * FROM with_types.t ORDER BY e")
        pair.same("SELECT * FROM stays")
        pair.same("DROP SCHEMA with_types CASCADE")
        pair.same("SELECT * FROM stays")
        pair.same("SELECT kept()")
    pair.same("DROP SCHEMA IF EXISTS with_types, nothing_there CASCADE")
    pair.same("DROP SCHEMA with_types CASCADE")


def test_own_functions_in_indexes_are_refused(pair: oracle.Pair) -> None:
    pair.both("CREATE TABLE own (k int, v int)")
    layouts.place(pair, "own", "distributed", key="k", time="")
    pair.orochi("CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2'")
    for sql in (
        "CREATE INDEX ON own (twice(v))",
        "CREATE INDEX CONCURRENTLY ON own (twice(v))",
        "ALTER TABLE own ADD CHECK (twice(v) > 0)",
        "ALTER TABLE own ADD COLUMN g int GENERATED ALWAYS AS (twice(v)) STORED",
    ):
        assert oracle.ask(pair.gateway, sql).sqlstate == "0A000", sql
    pair.same("INSERT INTO own VALUES (1, 1)")
    pair.check_tables("own")
