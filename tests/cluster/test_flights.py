"""Real queries over real data: through the gateway they give plain PostgreSQL's rows, names and types."""

from __future__ import annotations

import re

import pytest

from tests.support import cluster as clusters
from tests.support import flights, oracle

_QUERIES = flights.queries()
_SEPARATOR = "@@@"


@pytest.fixture
def pair(flights_pair: oracle.Pair) -> oracle.Pair:
    return flights_pair


@pytest.mark.parametrize("query", _QUERIES, ids=lambda query: query.identity)
@pytest.mark.parametrize("binary", [False, True], ids=["simple", "extended-binary"])
def test_query(pair: oracle.Pair, query: flights.Query, binary: bool) -> None:
    pair.both(*query.settings)
    try:
        pair.same(query.sql, binary=binary)
    finally:
        pair.both(*(f"RESET {setting.split()[1]}" for setting in query.settings))


@pytest.mark.parametrize("file", sorted({query.file for query in _QUERIES}))
def test_psql_prints_the_same(cluster: clusters.Cluster, pair: oracle.Pair, file: str) -> None:
    script = "SET search_path TO nyc, orochi, public;\n"
    for query in _QUERIES:
        if query.file == file:
            resets = "".join(f"RESET {setting.split()[1]};\n" for setting in query.settings)
            settings = "".join(f"{setting};\n" for setting in query.settings)
            script += f"\\echo {_SEPARATOR} {query.name}\n{settings}{query.sql};\n{resets}"
    options = ("-A", "-q", "-P", "null=<null>")
    ours = cluster.psql(*options, sql=script)
    theirs = cluster.psql(*options, sql=script, dsn=clusters.with_dbname(cluster.coordinator_dsn, "plain"))
    assert ours.returncode == 0, ours.stderr[-2000:]
    assert theirs.returncode == 0, theirs.stderr[-2000:]
    expected = _blocks(theirs.stdout)
    answered = _blocks(ours.stdout)
    by_name = {query.name: query.sql for query in _QUERIES if query.file == file}
    assert list(answered) == list(expected)
    for name, lines in expected.items():
        if re.search("float|stddev|avg|sum", by_name[name]) and "weather" in by_name[name]:
            continue  # sums of floats: test_query compares them with the tolerance they need
        if oracle.is_ordered(by_name[name]):
            assert answered[name] == lines, name
        else:
            assert sorted(answered[name]) == sorted(lines), name


def _blocks(output: str) -> dict[str, list[str]]:
    parts = output.split(f"{_SEPARATOR} ")[1:]
    return {name: lines for name, *lines in (part.rstrip("\n").split("\n") for part in parts)}


@pytest.mark.parametrize("prepare", [False, True], ids=["unnamed", "named"])
@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        ("SELECT count(*), avg(distance) FROM flights WHERE dest = %s", ["IAH", "ANC", None, "nowhere"]),
        (
            "SELECT f.flight, a.name FROM flights f JOIN airports a ON a.faa = f.dest WHERE a.faa = %s",
            ["ANC", "LEX"],
        ),
        (
            "SELECT dest, count(*) FROM flights WHERE time_hour >= %s::timestamptz GROUP BY 1",
            ["2013-12-20", "infinity"],
        ),
        ("SELECT origin, max(temp) FROM weather WHERE month = %s GROUP BY 1", [1, 12, 13]),
        (
            "SELECT carrier, flight FROM flights WHERE dest = ANY (%s) AND month = 5",
            [["ANC", "HNL"], [], [None]],
        ),
        ("SELECT %s::int + count(*) FROM airlines", [1, -1]),
        (
            "SELECT time_hour, flight FROM flights ORDER BY time_hour, flight, carrier, tailnum LIMIT %s",
            [0, 3, None],
        ),
    ],
    ids=["key", "join", "time", "filter", "array", "output", "limit"],
)
def test_parameters(pair: oracle.Pair, sql: str, parameters: list[object], prepare: bool) -> None:
    for value in [*parameters, *parameters]:
        pair.same(sql, (value,), prepare=prepare, binary=prepare)


def test_half_of_the_chunks_are_compressed(pair: oracle.Pair) -> None:
    [(compressed, total)] = pair.orochi(
        "SELECT count(*) FILTER (WHERE is_compressed), count(*) FROM orochi.chunks WHERE hypertable LIKE '%flights'"
    )
    assert total > compressed >= total // 2 > 0


def test_rows_do_not_lie_in_the_coordinator(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    with cluster.connect_coordinator() as direct:
        direct.execute("SET session_replication_role = replica")
        answer = oracle.ask(direct, "SELECT count(*) FROM ONLY nyc.flights")
    assert answer.sqlstate is not None or answer.values == [("0",)]


def test_sql_prepare_and_execute(pair: oracle.Pair) -> None:
    pair.both(
        "PREPARE by_dest(text, int) AS SELECT carrier, count(*) FROM flights WHERE dest = $1 AND month >= $2 GROUP BY 1"
    )
    try:
        for month in (1, 6, 12):
            pair.same(f"EXECUTE by_dest('BOS', {month})")
        pair.same("EXECUTE by_dest('BOS')")
    finally:
        pair.both("DEALLOCATE by_dest")


def test_cursor(pair: oracle.Pair) -> None:
    pair.both(
        "BEGIN",
        "DECLARE c SCROLL CURSOR FOR SELECT flight, carrier, time_hour, tailnum FROM flights ORDER BY 3, 2, 1, 4",
    )
    try:
        for move in (
            "FETCH 3 FROM c",
            "FETCH BACKWARD 1 FROM c",
            "MOVE 10 IN c",
            "FETCH NEXT FROM c",
            "CLOSE c",
        ):
            pair.same(move, ordered=True)
    finally:
        pair.both("ROLLBACK")


def test_create_table_as(pair: oracle.Pair) -> None:
    pair.both("DROP TABLE IF EXISTS per_day")
    pair.same("CREATE TABLE per_day AS SELECT month, day, count(*) AS n FROM flights GROUP BY month, day")
    pair.same("SELECT * FROM per_day")
    pair.both("DROP TABLE per_day")


def test_create_temp_table_as_and_join_it(pair: oracle.Pair) -> None:
    pair.both("CREATE TEMP TABLE far AS SELECT DISTINCT dest FROM flights WHERE distance > 2000")
    pair.same("SELECT f.dest, count(*) FROM flights AS f JOIN far USING (dest) GROUP BY f.dest")
    pair.both("DROP TABLE far")


def test_copy_query_to_stdout(pair: oracle.Pair) -> None:
    for options in ("", " WITH (FORMAT csv, HEADER)", " WITH (FORMAT binary)"):
        sql = "SELECT dest, count(*), min(time_hour) FROM flights GROUP BY dest ORDER BY dest"
        ours, theirs = pair.copy_out(f"COPY ({sql}) TO STDOUT{options}")
        assert ours == theirs
    ours, theirs = pair.copy_out("COPY flights (dest, carrier, flight, time_hour) TO STDOUT")
    assert sorted(ours.splitlines()) == sorted(theirs.splitlines())
