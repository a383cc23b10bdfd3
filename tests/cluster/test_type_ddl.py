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
