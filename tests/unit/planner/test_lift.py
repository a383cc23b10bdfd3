"""Literals become parameters only where PostgreSQL would see the very same statement."""

from __future__ import annotations

import pytest

from orochi.planner import lift

LIFTED = [
    ("SELECT a FROM t WHERE id = 12345;", "SELECT a FROM t WHERE id = $1", (23,), ["12345"]),
    ("UPDATE t SET a = a + -7 WHERE id = 5", "UPDATE t SET a = a + -$1 WHERE id = $2", (23, 23), ["7", "5"]),
    ("INSERT INTO t1 VALUES (1, 'Ünï', now())", "INSERT INTO t1 VALUES ($1, $2, now())", (23, 0), None),
    ("SELECT * FROM t WHERE id = 99999999999 LIMIT 3", None, (20, 23), None),
    ("SELECT * FROM t WHERE id = 2147483649", None, (20,), None),
    ("SELECT * FROM t WHERE a IN (1, 2) AND b BETWEEN 3 AND 4", None, (23,) * 4, None),
    ("INSERT INTO t VALUES (1.50, 2)", "INSERT INTO t VALUES ($1, $2)", (1700, 23), ["1.50", "2"]),
    ("DELETE FROM t WHERE name = '' RETURNING *", None, (0,), [""]),
]
KEPT = [
    "SELECT * FROM t",
    "SELECT * FROM t WHERE a = -2147483648",
    "SELECT * FROM t WHERE a = 1234567890123456789",
    "SELECT * FROM t WHERE a = 'it''s'",
    "SELECT * FROM t WHERE a = E'x' AND b = 5",
    "SELECT * FROM t WHERE a = 'x'\n'y'",
    "SELECT * FROM t WHERE a = U&'d' AND b = 1",
    "SELECT * FROM t WHERE a = date '2020-01-01'",
    "SELECT * FROM t WHERE a = $$x$$ AND b = 1",
    "SELECT * FROM t WHERE a = 1.5 AND b = 1",
    "SELECT * FROM t WHERE a = 1 LIMIT 1.5",
    "UPDATE t SET a = 1.5 WHERE b = 1",
    "INSERT INTO t VALUES (1.5e3, 1)",
    "INSERT INTO t VALUES (.5, 1)",
    "INSERT INTO t VALUES (-1.5, 1)",
    "INSERT INTO t VALUES (5., 1)",
    "INSERT INTO t VALUES (1.5 + 1)",
    "INSERT INTO t VALUES (1.5::float8)",
    "SELECT * FROM t WHERE a = 1_000 AND b = 1",
    "SELECT * FROM t WHERE a = 0x1f AND b = 1",
    "SELECT * FROM t WHERE a = $1 AND b = 1",
    "SELECT * FROM t WHERE a = 5 -- 6",
    "SELECT * FROM t WHERE a = 5 /* '6' */",
    'SELECT "a 5 b" FROM t WHERE a = 5',
    """SELECT * FROM t WHERE "x'y" = 'b'""",
    "SELECT * FROM t WHERE a = 5 ORDER BY 1",
    "SELECT 'x' FROM t WHERE a = 5",
    "SELECT a[1] FROM t WHERE b = 5",
    "SELECT sum(a) FROM t WHERE b = 5 GROUP BY c",
    "SELECT DISTINCT a + 1 FROM t WHERE b = 5",
    "SELECT f(3) FROM t WHERE b = 5",
    "SELECT * FROM t WHERE a = 5::bigint",
    "SELECT * FROM t WHERE a || 'x' = 'y'",
    "INSERT INTO t VALUES (1, 'a'), (2, 'b')",
    "INSERT INTO t VALUES (1) ON CONFLICT (a) WHERE b = 5 DO NOTHING",
    "SELECT 1; SELECT * FROM t WHERE a = 3",
    "CREATE TABLE t (a int DEFAULT 5)",
]


@pytest.mark.parametrize(("sql", "wanted", "oids", "values"), LIFTED)
def test_lifted(sql: str, wanted: str | None, oids: tuple[int, ...], values: list[str] | None) -> None:
    lifted = lift.split(sql.encode())
    assert lifted is not None
    assert lifted.type_oids == oids
    statement = lift.template(sql.encode(), lifted)
    assert statement is not None
    assert wanted in (None, statement.sql)
    assert values in (None, [value.decode() for value in lifted.values])


@pytest.mark.parametrize("sql", KEPT)
def test_kept(sql: str) -> None:
    lifted = lift.split(sql.encode())
    assert lifted is None or lift.template(sql.encode(), lifted) is None


def test_texts_that_differ_in_literals_are_one() -> None:
    first, second, other, wide = (
        lift.split(f"SELECT * FROM t1 WHERE a = {a} AND b = {b}".encode())
        for a, b in ((1, "'x'"), (22, "'any thing'"), ("'1'", "'x'"), (3000000000, "'x'"))
    )
    assert first is not None
    assert second is not None
    assert other is not None
    assert wide is not None
    assert (first.rest, first.type_oids) == (second.rest, second.type_oids)
    assert second.values == (b"22", b"any thing")
    assert len({first.type_oids, other.type_oids, wide.type_oids}) == 3
