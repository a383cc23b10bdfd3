"""A statement is told one time, whichever of its parts ask, and however many transactions they would be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import layouts, oracle

_WINDOW = "SELECT id, now() AS n, row_number() OVER (ORDER BY id) AS r FROM events"
#: Each gives one row, of one moment.
_STATEMENTS = (
    f"SELECT count(DISTINCT n) + count(*) FILTER (WHERE n <> now()) FROM ({_WINDOW}) w",
    f"SELECT bool_and(n = transaction_timestamp() AND n = current_timestamp) FROM ({_WINDOW} LIMIT 5) w",
    f"WITH w AS MATERIALIZED ({_WINDOW}) SELECT min(n) = now(), max(n) = now() FROM w JOIN events USING (id)",
    f"SELECT (SELECT max(n) FROM ({_WINDOW}) w) = now() FROM events LIMIT 1",
    "SELECT bool_and(m = now()) FROM (SELECT tenant, max(now()) AS m FROM events GROUP BY tenant) g",
    "SELECT min(now()) = max(transaction_timestamp()), count(*) FROM events WHERE at < now()",
    "SELECT bool_and(n = now()) FROM (SELECT now() AS n FROM events UNION ALL SELECT now() FROM notes) u",
    f"SELECT bool_and(a.n = b.n) FROM ({_WINDOW}) a JOIN (SELECT id, now() AS n FROM events) b USING (id)",
    f"SELECT bool_and(n::date = current_date AND n::timestamp = localtimestamp) FROM ({_WINDOW}) w",
    "SELECT bool_and(n = now()) FROM told JOIN events USING (id)",
    f"SELECT count(DISTINCT n) FROM ({_WINDOW.replace('now()', 'clock_timestamp()')}) w HAVING count(*) > 1",
    f"SELECT bool_and(1 / (r - 2) < 9) FROM ({_WINDOW}) w WHERE n = now() AND r > 2",
)


@pytest.fixture(scope="module", params=["distributed", "both-compressed"])
def filled(request: pytest.FixtureRequest, module_pair: oracle.Pair) -> Iterator[oracle.Pair]:
    layouts.events(module_pair, request.param)
    module_pair.both(
        "CREATE TABLE notes (a integer)",
        "INSERT INTO notes VALUES (1), (2)",
        f"CREATE VIEW told AS {_WINDOW}",
    )
    yield module_pair
    module_pair.both("DROP TABLE events, notes CASCADE")


@pytest.mark.parametrize("sql", _STATEMENTS)
def test_one_moment(filled: oracle.Pair, sql: str) -> None:
    """Alone, and prepared and in binary."""
    if "clock_timestamp" in sql:  # which goes on
        row = filled.orochi(sql)
        assert row
        return
    filled.same(sql)
    filled.same(sql, prepare=True, binary=True)


def test_a_statement_alone_begins_its_transaction(filled: oracle.Pair) -> None:
    """In a simple Query; in the extended protocol PostgreSQL's own transaction begins with an earlier message."""
    filled.same("SELECT bool_and(at < statement_timestamp() AND now() = statement_timestamp()) FROM events")
    filled.same("SELECT statement_timestamp() = now(), count(*) FROM events GROUP BY statement_timestamp()")


@pytest.mark.parametrize(
    "sql",
    [
        f"UPDATE events e SET what = (w.n = now())::text FROM ({_WINDOW}) w WHERE w.id = e.id",
        f"INSERT INTO events (tenant, at, id, what) SELECT 1, n, 9000 + r, (n = now())::text FROM ({_WINDOW}) w",
        f"DELETE FROM events e USING ({_WINDOW}) w WHERE w.id = e.id AND w.n <> now()",
        "UPDATE events SET tenant = tenant + 1, at = now(), what = 'moved' WHERE id < 20",
    ],
)
def test_one_moment_of_writes(filled: oracle.Pair, sql: str) -> None:
    filled.both(sql)
    filled.same("SELECT what, count(*) FROM events GROUP BY 1 ORDER BY 1")
    filled.same("SELECT count(DISTINCT at) FROM events WHERE at > now() - interval '1 hour'")
