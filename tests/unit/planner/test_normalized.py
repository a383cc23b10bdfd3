"""What statements are counted under."""

from __future__ import annotations

import pytest

from orochi.planner import normalized


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select * from t where a = 1 and b = 'x''y';", "select * from t where a = $1 and b = $2"),
        ("SELECT $1, 5, $2", "SELECT $1, $3, $2"),
        ('SELECT "a 1", a1, t2.c3 FROM t2 -- 5\n', 'SELECT "a 1", a1, t2.c3 FROM t2 -- 5'),
        ("SELECT E'it\\'s', $$x 1$$, $q$ $1 $q$, B'101', 1.5e-3", "SELECT $1, $2, $3, $4, $5"),
        ("INSERT INTO t VALUES (1,'a'), (2, 'b') RETURNING 3", "INSERT INTO t VALUES ($1,$2) /*, ... */ RETURNING $3"),
        ("SELECT 1 WHERE a IN (1, 2,3) OR b = 4", "SELECT $1 WHERE a IN ($2 /*, ... */) OR b = $3"),
        ("SELECT date'2020-01-01', 'not ended", "SELECT date$1, $2"),
        ("DELETE FROM t", "DELETE FROM t"),
    ],
)  # fmt: skip
def test_constants_get_numbers(sql: str, expected: str) -> None:
    assert normalized.normalize(sql) == expected


def test_texts_that_differ_in_constants_are_one() -> None:
    texts = normalized.Texts()
    rows = [f"INSERT INTO t VALUES {', '.join(f'({i}, {i}.5)' for i in range(count))}" for count in (2, 900)]
    assert texts.find(rows[0]) == texts.find(rows[1])
    assert texts.find("SELECT 1") != texts.find("SELECT a")
    assert len(texts.find("SELECT " + "a + " * 10_000)[0]) < normalized.LONGEST
