"""EXPLAIN says which strategy and why, the same each time; EXPLAIN ANALYZE says what happened."""

from __future__ import annotations

import pytest

from tests.support import oracle


@pytest.fixture
def pair(flights_pair: oracle.Pair) -> oracle.Pair:
    return flights_pair


def explain(pair: oracle.Pair, sql: str, options: str = "") -> str:
    return "\n".join(str(row[0]) for row in pair.orochi(f"EXPLAIN {options} {sql}"))


_QUERIES = {
    "router": "SELECT * FROM airports WHERE faa = 'IAH'",
    "aggregate": "SELECT carrier, count(*), avg(dep_delay) FROM flights GROUP BY carrier",
    "co-located": "SELECT count(*) FROM flights f JOIN airports a ON a.faa = f.dest",
    "reference": "SELECT l.name, count(*) FROM flights f JOIN airlines l USING (carrier) GROUP BY 1",
    "exchange": "SELECT count(*) FROM flights f JOIN weather w ON w.origin = f.origin AND w.time_hour = f.time_hour",
    "pull": "SELECT count(*) FROM flights WHERE random() < 2",
    "time": "SELECT count(*) FROM flights WHERE time_hour < '2013-02-01'",
}


@pytest.mark.parametrize("name", _QUERIES)
def test_names_orochi_and_is_stable(pair: oracle.Pair, name: str) -> None:
    text = explain(pair, _QUERIES[name])
    assert "Orochi" in text
    assert text == explain(pair, _QUERIES[name])


def test_strategies_differ(pair: oracle.Pair) -> None:
    texts = {name: explain(pair, sql).lower() for name, sql in _QUERIES.items()}
    assert "router" in texts["router"]
    assert "aggregate" in texts["aggregate"]
    assert "pull" in texts["pull"]
    assert "exchange: broadcast" in texts["exchange"]
    assert "pull" not in texts["exchange"]
    assert "pull" not in texts["co-located"]
    assert "pull" not in texts["reference"]


def test_time_excludes_chunks(pair: oracle.Pair) -> None:
    assert explain(pair, _QUERIES["time"]) != explain(pair, "SELECT count(*) FROM flights")


def test_analyze(pair: oracle.Pair) -> None:
    text = explain(pair, _QUERIES["aggregate"], "(ANALYZE)").lower()
    assert "rows" in text
    assert "ms" in text or "time" in text


def test_local_explain_is_postgresqls(pair: oracle.Pair) -> None:
    pair.both("ANALYZE holidays")
    sql = "EXPLAIN (COSTS OFF) SELECT * FROM holidays WHERE day = '2013-07-04'"
    assert pair.orochi(sql) == pair.plain.execute(sql).fetchall()


def test_wire_shape_is_postgresqls(pair: oracle.Pair) -> None:
    ours = oracle.ask(pair.gateway, f"EXPLAIN {_QUERIES['aggregate']}")
    theirs = oracle.ask(pair.plain, f"EXPLAIN {_QUERIES['aggregate']}")
    assert (ours.names, ours.types, ours.tag) == (theirs.names, theirs.types, "EXPLAIN")


def test_explain_of_a_bad_query(pair: oracle.Pair) -> None:
    pair.same("EXPLAIN SELECT nonsense FROM flights")
    pair.same("EXPLAIN SELECT * FROM no_such_table")


def test_small_reads_have_no_tasks(pair: oracle.Pair) -> None:
    """Few bytes of heap are read without tasks, unless the setting says otherwise; errors and rows are alike."""
    pair.both("CREATE TABLE few (a int, b int, t text)")
    pair.orochi("SELECT create_distributed_table('few', 'a', 4)")
    pair.both("INSERT INTO few SELECT g, g % 3, 'x' || g FROM generate_series(1, 40) g")
    counted = "SELECT b, count(*), max(t) FROM few GROUP BY b"
    joined = "SELECT count(*) FROM few x JOIN few y ON x.b = y.a WHERE x.t <> (SELECT min(t) FROM few)"
    large = (
        "SELECT sum(length(t || t)) FROM (SELECT a, t || repeat('y', 60000) AS t FROM few) s GROUP BY a % 2"
    )
    for tasks in (False, True):
        pair.orochi(f"SET orochi.small_query_bytes TO {0 if tasks else 'DEFAULT'}")
        for sql in (counted, joined):
            assert ("Tasks: none, small" in explain(pair, sql)) is not tasks
        pair.same(counted)
        pair.same(joined)
        pair.same("SELECT repeat(t, 9000) FROM few")
        pair.same("SELECT sum(1 / (b - 1)) FROM few")
        pair.same(large)
    pair.orochi("RESET orochi.small_query_bytes")
    assert "Tasks" not in explain(pair, _QUERIES["aggregate"])
    pair.both("DROP TABLE few")


def test_few_chunks_of_many_rows_are_small(pair: oracle.Pair) -> None:
    """What counts of a hypertable's heap is what its time leaves."""
    pair.both("CREATE TABLE long (at timestamptz NOT NULL, k int, t text)")
    pair.orochi("SELECT create_hypertable('long', 'at', chunk_time_interval => interval '1 day')")
    pair.orochi("SELECT create_distributed_table('long', 'k', 2)")
    pair.both(
        "INSERT INTO long SELECT timestamptz '2024-01-01 00:00+00' + g * interval '1 minute', g, repeat('x', 200)"
        " FROM generate_series(0, 8000) g"
    )
    whole = "SELECT k % 3, count(*), min(at) FROM long GROUP BY 1"
    part = whole.replace(" GROUP", " WHERE at >= '2024-01-02 10:00+00' AND at < '2024-01-02 12:00+00' GROUP")
    assert "Tasks: none, small" not in explain(pair, whole)
    assert "Tasks: none, small" in explain(pair, part)
    pair.same(whole)
    pair.same(part)
    pair.both("DROP TABLE long")
