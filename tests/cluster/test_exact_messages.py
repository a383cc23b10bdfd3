"""Where an error comes among the messages, and that statements seen before are answered as if new."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import pytest

from tests.support import cluster as clusters
from tests.support import layouts, oracle, wire

_ERRORS = {
    "folded": [wire.query("SELECT 1/0 FROM events")],
    "folded-router": [wire.query("SELECT 1/0 FROM events WHERE tenant = 3")],
    "running": [wire.query("SELECT 1/(tenant-tenant) FROM events")],
    "running-router": [wire.query("SELECT 1/(tenant-tenant) FROM events WHERE tenant = 3")],
    "in-block": [
        wire.query("BEGIN"),
        wire.query("SELECT 1/(tenant-tenant) FROM events"),
        wire.query("ROLLBACK"),
    ],
    "several": [wire.query("SELECT 1; SELECT sum(1/(tenant-tenant)) FROM events; SELECT 2")],
    "several-folded": [wire.query("UPDATE events SET what = 'lost' WHERE id = 2; SELECT 1/0; SELECT 2")],
    "several-local": [wire.query("SELECT count(*) FROM events; SELECT 1/(x-x) FROM generate_series(1,3) x")],
    "returning": [
        wire.query("INSERT INTO events (tenant, at, id) VALUES (1, '2024-03-09 22:37Z', 1) RETURNING id")
    ],
    "no-columns": [wire.query("SELECT FROM events WHERE tenant = 3"), wire.query("SELECT FROM events")],
    "executemany": [
        wire.parse("n", "INSERT INTO events (tenant, at, id) VALUES ($1, '2024-03-10', $2)") + wire.SYNC,
        b"".join(
            wire.bind("", "n", ["1", number]) + wire.describe("P", "") + wire.execute()
            for number in ("1001", "1002", "x", "1003")
        )
        + wire.SYNC,
    ],
}
_BOUND = [
    ("SELECT id FROM events WHERE tenant = $1", "x"),
    ("SELECT id FROM events WHERE tenant = $1", "99999999999"),
    ("SELECT count(*) FROM events WHERE at > $1", "2024-02-30"),
    ("SELECT count(*) FROM events WHERE at > $1", "now"),
    ("SELECT count(*) FROM events WHERE amount > $1", "1e3"),
    ("INSERT INTO events (tenant, at, id) VALUES ($1, '2024-03-10', 7)", "zz"),
    ("INSERT INTO events (tenant, at, id) VALUES (1, $1, 7)", "zz"),
    ("UPDATE events SET amount = $1 WHERE tenant = 2", "99999999"),
]
for _number, (_sql, _value) in enumerate(_BOUND):
    _bind = wire.bind("", "", [_value]) + wire.describe("P", "") + wire.execute() + wire.SYNC
    _ERRORS[f"bind-{_number}"] = [wire.parse("", _sql) + _bind]
    _ERRORS[f"bind-again-{_number}"] = [wire.parse("", _sql) + _bind, _bind, wire.parse("", _sql) + _bind]


@pytest.fixture(scope="module", params=["distributed", "both-compressed"])
def filled(request: pytest.FixtureRequest, module_pair: oracle.Pair) -> oracle.Pair:
    module_pair.both("DROP TABLE IF EXISTS events")
    layouts.events(module_pair, request.param)
    return module_pair


@pytest.mark.parametrize("name", _ERRORS)
def test_order_of_messages(cluster: clusters.Cluster, filled: oracle.Pair, name: str) -> None:
    schema = filled.orochi("SELECT current_schema()")[0][0]
    transcripts = []
    for dsn in (cluster.dsn, clusters.with_dbname(cluster.coordinator_dsn, "plain")):
        with wire.client(dsn) as client:
            client.exchange(wire.query(f"SET search_path TO {schema}, orochi, public"))
            transcripts.append([_readable(client.exchange(step)) for step in _ERRORS[name]])
            client.send(wire.TERMINATE)
    assert transcripts[0] == transcripts[1]
    filled.check_tables("events")


def _readable(answers: list[tuple[str, bytes]]) -> list[tuple[object, ...]]:
    """Every message in its place; of columns only how many they are, of errors what is said of them."""
    kept: list[tuple[object, ...]] = []
    for kind, body in answers:
        if kind == "E":
            error = wire.fields(body)
            kept.append((kind, error["C"], error["M"]))
        elif kind == "T":
            kept.append((kind, struct.unpack("!H", body[:2])))
        elif kind not in "NS":
            kept.append((kind, body))
    return kept


_REPEATED = [
    "SELECT id, what FROM events WHERE tenant = {i} ORDER BY id",
    "SELECT id + {i}, id * 2 - {i} FROM events WHERE tenant = {i} AND what = 'kind {i}' ORDER BY id, at",
    "SELECT 1 / (tenant - {i}) FROM events WHERE tenant = {i}",
    "SELECT id FROM events WHERE tenant = {i} ORDER BY id DESC LIMIT {i} OFFSET 2",
    "SELECT id FROM events WHERE tenant = {i} AND id IN ({i}, 1{i}, 2{i}) ORDER BY 1",
    "SELECT id FROM events WHERE tenant = -{i}",
    "SELECT id FROM events WHERE tenant = 3000000000{i}",
    "SELECT id FROM events WHERE tenant = '{i}' ORDER BY id",
    "SELECT FROM events WHERE tenant = {i}",
    "UPDATE events SET amount = amount + {i} WHERE tenant = {i}",
    "UPDATE events SET what = 'neu {i}' WHERE tenant = {i} AND id < 9 RETURNING id, what",
    "INSERT INTO events (tenant, at, id, what) VALUES ({i}, '2024-03-10', 90{i}, 'Ünï {i}')",
    "INSERT INTO events (tenant, at, id, amount) VALUES ({i}, '2024-03-10', 91{i}, 1) ON CONFLICT DO NOTHING",
    "DELETE FROM events WHERE tenant = {i} AND id = 90{i}",
    "SELECT nope FROM events WHERE tenant = {i}",
    "SELECT count(*) FROM events WHERE tenant = {i} /* {i} */",
]


@pytest.mark.parametrize("sql", _REPEATED)
def test_texts_that_differ_in_literals(filled: oracle.Pair, sql: str) -> None:
    """From the third on, the simple protocol's texts are one prepared statement."""
    for number in range(1, 6):
        filled.same(sql.format(i=number))
    filled.check_tables("events")


@pytest.mark.parametrize("protocol", ["simple", "extended", "named"])
@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE events ADD COLUMN extra int DEFAULT 7",
        "ALTER TABLE events ALTER COLUMN what TYPE varchar(30)",
        "CREATE TEMPORARY TABLE events (tenant int, id int)",
        "SET search_path TO pg_catalog",
        "SET DateStyle TO 'SQL, DMY'",
    ],
)
def test_repeated_statements_see_changes(pair: oracle.Pair, change: str, protocol: str) -> None:
    layouts.events(pair, "distributed")
    parameters = None if protocol == "simple" else [3]
    sql = f"SELECT * FROM events WHERE tenant = {'%s' if parameters else 3} ORDER BY id"
    if protocol == "named":
        for connection in (pair.gateway, pair.plain):
            connection.prepare_threshold = 5
    for step in range(8):
        if step == 4:
            pair.both(change)
        pair.same(sql, parameters, prepare=protocol == "named")


def test_repeated_statements_see_other_sessions(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    layouts.events(pair, "distributed")
    schema = pair.orochi("SELECT current_schema()")[0][0]
    sql = f"SELECT count(*) FROM {schema}.events WHERE tenant = 3"
    pair.orochi("CREATE ROLE repeats LOGIN PASSWORD 'read'")
    try:
        pair.orochi(f"GRANT USAGE ON SCHEMA {schema} TO repeats")
        pair.orochi("GRANT SELECT ON events TO repeats")
        with cluster.connect(user="repeats", password="read") as reader:
            for _ in range(4):
                assert oracle.ask(reader, sql).values == [("29",)]
            pair.orochi("REVOKE SELECT ON events FROM repeats")
            assert oracle.ask(reader, sql).sqlstate == "42501"
            pair.orochi("GRANT SELECT ON events TO repeats")
            for _ in range(4):
                assert oracle.ask(reader, sql).values == [("29",)]
            pair.orochi(f"REVOKE USAGE ON SCHEMA {schema} FROM repeats")
            refused = lambda: oracle.ask(reader, sql).sqlstate == "42501"  # noqa: E731
            _soon(refused)
    finally:
        pair.orochi(f"REVOKE ALL ON SCHEMA {schema} FROM repeats")
        pair.orochi("DROP OWNED BY repeats")
        pair.orochi("DROP ROLE repeats")


def _soon(true: Callable[[], bool]) -> None:
    """Rights once seen are taken for granted for three seconds."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


_CURSORS = [
    """BEGIN; DECLARE c CURSOR FOR SELECT id, what FROM events ORDER BY id; FETCH 3 FROM c; MOVE 2 IN c;
    FETCH FORWARD 2 FROM c; FETCH ALL FROM c; FETCH c; CLOSE c; COMMIT; FETCH c""",
    """BEGIN; DECLARE c SCROLL CURSOR FOR SELECT id FROM events WHERE tenant = 3 ORDER BY id; FETCH LAST FROM c;
    FETCH BACKWARD 2 FROM c; FETCH ABSOLUTE 4 FROM c; FETCH RELATIVE -1 FROM c; ROLLBACK; FETCH c""",
    """BEGIN; DECLARE c CURSOR FOR SELECT id FROM events ORDER BY ratio, id; FETCH 3 FROM c;
    FETCH BACKWARD 2 FROM c; MOVE LAST FROM c; FETCH PRIOR FROM c; ROLLBACK""",
    "DECLARE c CURSOR FOR SELECT id FROM events",
    """DECLARE c CURSOR WITH HOLD FOR SELECT id FROM events ORDER BY id; FETCH 2 FROM c;
    UPDATE events SET id = id WHERE tenant = 1; FETCH 2 FROM c; CLOSE c; FETCH 2 FROM c""",
    """BEGIN; UPDATE events SET what = 'mine' WHERE tenant = 2; DECLARE c CURSOR WITH HOLD FOR
    SELECT id, what FROM events WHERE tenant = 2 ORDER BY id; FETCH 2 FROM c; COMMIT; FETCH 2 FROM c;
    SELECT name, is_holdable FROM pg_cursors WHERE name = 'c'; CLOSE ALL; FETCH 2 FROM c""",
    """BEGIN; DECLARE c CURSOR FOR SELECT id FROM events ORDER BY id; FETCH 2 FROM c; SAVEPOINT a; FETCH 2 FROM c;
    ROLLBACK TO a; FETCH 2 FROM c; UPDATE events SET what = 'x' WHERE tenant = 4; FETCH 2 FROM c; COMMIT""",
    "BEGIN; DECLARE c CURSOR FOR SELECT nope FROM events; ROLLBACK",
    """PREPARE p(int) AS SELECT id FROM events WHERE tenant = $1 ORDER BY id; EXECUTE p(3); EXECUTE p('x');
    EXECUTE p(1, 2); EXECUTE p; CREATE TEMPORARY TABLE made AS EXECUTE p(2); SELECT * FROM made ORDER BY 1;
    DROP TABLE made; DEALLOCATE p; EXECUTE p(1)""",
]


@pytest.mark.parametrize("script", _CURSORS)
def test_cursors_and_prepared_statements_of_sql(filled: oracle.Pair, script: str) -> None:
    for sql in script.split(";"):
        filled.same(sql)
    filled.check_tables("events")


def test_explain_execute(filled: oracle.Pair) -> None:
    filled.orochi("PREPARE explained(int) AS SELECT id FROM events WHERE tenant = $1")
    plan = filled.orochi("EXPLAIN EXECUTE explained(3)")
    assert plan[0][0].startswith("Orochi ")
    assert any("1 of 4" in line for (line,) in plan)
    analyzed = filled.orochi("EXPLAIN ANALYZE EXECUTE explained(3)")
    assert any(line.strip().startswith("Actual Rows: ") for (line,) in analyzed)
    filled.orochi("DEALLOCATE explained")


def test_a_block_leaves_no_table_of_its_cursors(filled: oracle.Pair) -> None:
    filled.orochi("BEGIN")
    filled.orochi("DECLARE c CURSOR FOR SELECT id FROM events")
    filled.orochi("COMMIT")
    left = (
        "SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relname LIKE 'orochi%%'"
    )
    before = filled.orochi(left)
    filled.orochi("BEGIN")
    filled.orochi("DECLARE c CURSOR FOR SELECT id FROM events")
    filled.orochi("COMMIT")
    assert filled.orochi(left) == before
