"""The protocol message by message: what the gateway says is what PostgreSQL says to the same bytes."""

from __future__ import annotations

import struct
import time

import pytest

from tests.support import cluster as clusters
from tests.support import layouts, oracle, wire

_SCRIPTS = {
    "simple": [wire.query("SELECT count(*) FROM events")],
    "several": [
        wire.query("SELECT 1; SELECT id FROM events WHERE id < 3; UPDATE events SET what = 'x' WHERE id = 1")
    ],
    "several-with-error": [wire.query("UPDATE events SET what = 'lost' WHERE id = 2; SELECT 1/0; SELECT 2")],
    "empty": [wire.query(""), wire.query(";")],
    "block": [
        wire.query("BEGIN"),
        wire.query("SELECT count(*) FROM events"),
        wire.query("SELECT nope FROM events"),
        wire.query("SELECT 1"),
        wire.query("COMMIT"),
    ],
    "extended": [
        wire.parse("", "SELECT id FROM events WHERE tenant = $1 ORDER BY id")
        + wire.bind("", "", ["3"])
        + wire.describe("P", "")
        + wire.execute()
        + wire.SYNC
    ],
    "named": [
        wire.parse("one", "SELECT id, what FROM events WHERE tenant = $1 AND id < $2")
        + wire.describe("S", "one")
        + wire.SYNC,
        wire.bind("p", "one", ["3", "50"]) + wire.describe("P", "p") + wire.execute("p") + wire.SYNC,
        wire.bind("", "one", [None, "50"], binary=True) + wire.execute() + wire.SYNC,
        wire.parse("one", "SELECT 1") + wire.SYNC,
        wire.message(b"C", b"Sone\0") + wire.SYNC,
        wire.bind("", "one", ["1", "2"]) + wire.SYNC,
    ],
    "suspended": [
        wire.query("BEGIN"),
        wire.parse("", "SELECT id FROM events ORDER BY id")
        + wire.bind("c", "", [])
        + wire.execute("c", 7)
        + wire.SYNC,
        wire.execute("c", 5) + wire.execute("c", 0) + wire.SYNC,
        wire.query("COMMIT"),
    ],
    "pipelined": [
        wire.parse("", "INSERT INTO events (tenant, at, id) VALUES ($1, '2024-03-10', 7777)")
        + wire.bind("", "", ["3"])
        + wire.execute()
        + wire.parse("", "SELECT count(*) FROM events WHERE id = 7777")
        + wire.bind("", "", [])
        + wire.execute()
        + wire.SYNC,
    ],
    "pipelined-error": [
        wire.parse("", "UPDATE events SET what = 'gone' WHERE id = 3")
        + wire.bind("", "", [])
        + wire.execute()
        + wire.parse("", "SELECT 1 / (tenant - tenant) FROM events")
        + wire.bind("", "", [])
        + wire.execute()
        + wire.parse("", "SELECT 1")
        + wire.bind("", "", [])
        + wire.execute()
        + wire.SYNC,
    ],
    "bind-error": [
        wire.parse("", "SELECT id FROM events WHERE tenant = $1")
        + wire.bind("", "", ["x"])
        + wire.execute()
        + wire.SYNC
    ],
    "no-such-portal": [wire.execute("nowhere") + wire.SYNC, wire.describe("S", "nowhere") + wire.SYNC],
    "too-many-values": [
        wire.parse("", "SELECT id FROM events WHERE tenant = $1")
        + wire.bind("", "", ["1", "2"])
        + wire.execute()
        + wire.SYNC
    ],
    "copy-out": [wire.query("COPY (SELECT id FROM events ORDER BY id LIMIT 5) TO STDOUT")],
    "copy-in": [
        wire.query("COPY events (tenant, at, id) FROM STDIN")
        + wire.message(b"d", b"1\t2024-03-10\t50")
        + wire.message(b"d", b"00\n")
        + wire.message(b"c")
    ],
    "copy-fail": [
        wire.query("COPY events (tenant, at, id) FROM STDIN")
        + wire.message(b"d", b"1\t2024-03-10\t5001\n")
        + wire.message(b"f", b"no\0")
    ],
    "copy-extended": [
        wire.parse("", "COPY events (tenant, at, id) FROM STDIN")
        + wire.bind("", "", [])
        + wire.execute()
        + wire.SYNC
        + wire.message(b"d", b"2\t2024-03-10\t5002\n")
        + wire.message(b"c")
        + wire.SYNC
    ],
    "no-data": [
        wire.parse("", "DELETE FROM events WHERE id = 50")
        + wire.describe("S", "")
        + wire.bind("", "", [])
        + wire.describe("P", "")
        + wire.execute()
        + wire.SYNC
    ],
}


@pytest.fixture(scope="module", params=["distributed", "both-compressed"])
def filled(request: pytest.FixtureRequest, module_pair: oracle.Pair) -> oracle.Pair:
    module_pair.both("DROP TABLE IF EXISTS events")
    layouts.events(module_pair, request.param)
    return module_pair


@pytest.mark.parametrize("name", _SCRIPTS)
def test_same_messages_as_postgresql(cluster: clusters.Cluster, filled: oracle.Pair, name: str) -> None:
    schema = filled.orochi("SELECT current_schema()")[0][0]
    transcripts = []
    for dsn in (cluster.dsn, clusters.with_dbname(cluster.coordinator_dsn, "plain")):
        with wire.client(dsn) as client:
            client.exchange(wire.query(f"SET search_path TO {schema}, orochi, public"))
            transcripts.append([readable(client.exchange(step)) for step in _SCRIPTS[name]])
            client.send(wire.TERMINATE)
    assert transcripts[0] == transcripts[1]
    filled.check_tables("events")


def readable(answers: list[tuple[str, bytes]]) -> list[tuple[object, ...]]:
    """Messages without what may differ: table OIDs, source lines, notices, the order of unordered rows."""
    kept: list[tuple[object, ...]] = []
    for kind, body in answers:
        if kind in "NS":
            continue
        if kind == "E":
            error = wire.fields(body)
            while kept and kept[-1][0] in {"T", "2"}:
                kept.pop()  # how far a statement got before it failed is not promised
            kept.append((kind, error["S"], error["C"], error["M"]))
        elif kind == "T":
            kept.append((kind, *_columns(body)))
        else:
            kept.append((kind, body))
    rows = sorted(item for item in kept if item[0] == "D")
    return [rows.pop(0) if item[0] == "D" else item for item in kept]


def _columns(body: bytes) -> list[tuple[bytes, tuple[int, ...]]]:
    (count,), rest, found = struct.unpack("!H", body[:2]), body[2:], []
    for _ in range(count):
        name, rest = rest.split(b"\0", 1)
        _table, _number, *kind = struct.unpack("!IHIhiH", rest[:18])
        found.append((name, tuple(kind)))
        rest = rest[18:]
    return found


def test_ssl_and_gss_requests_are_answered(cluster: clusters.Cluster) -> None:
    for code in (80877103, 80877104):
        with wire.client(cluster.dsn, login=False) as client:
            client.send(struct.pack("!II", 8, code))
            assert client.socket.recv(1) == b"N"
            client.send(client.startup())
            assert client.read()[0] == "R"


def test_protocol_versions(cluster: clusters.Cluster) -> None:
    with wire.client(cluster.dsn, login=False) as client:
        start = client.startup()
        client.send(start[:4] + struct.pack("!HH", 2, 0) + start[8:])
        assert client.until_closed() == "E"


@pytest.mark.parametrize(
    "garbage",
    [
        struct.pack("!I", 2**31 + 5) + b"x" * 20,
        struct.pack("!I", 20_000_000) + b"\0\3\0\0",
        struct.pack("!I", 3),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        struct.pack("!IHH", 9, 3, 0) + b"u",
    ],
    ids=["negative", "huge", "short", "http", "truncated-parameters"],
)
def test_bad_first_bytes_end_the_connection(cluster: clusters.Cluster, garbage: bytes) -> None:
    with wire.client(cluster.dsn, login=False) as client:
        client.socket.settimeout(120)
        client.send(garbage)
        data = b"x"
        while data:
            try:
                data = client.socket.recv(4096)
            except ConnectionError:
                break
            assert not data.startswith(b"R")
    with cluster.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize(
    "garbage",
    [
        b"Q" + struct.pack("!I", 2**31 + 1),
        b"Q" + struct.pack("!I", 1),
        b"\xff" + struct.pack("!I", 8) + b"abcd",
    ],
)
def test_bad_messages_end_the_session(cluster: clusters.Cluster, garbage: bytes) -> None:
    with wire.client(cluster.dsn) as client:
        client.send(garbage)
        assert client.until_closed() in {"", "E"}


def test_second_startup_is_no_login(cluster: clusters.Cluster) -> None:
    with wire.client(cluster.dsn, login=False) as client:
        client.send(client.startup())
        assert client.read()[0] == "R"
        client.send(client.startup(user="postgres"))
        assert client.until_closed() in {"", "E"}


def test_nothing_runs_before_authentication(cluster: clusters.Cluster) -> None:
    with wire.client(cluster.dsn, login=False) as client:
        client.send(client.startup() + wire.query("CREATE TABLE public.never_made (a int)"))
        assert client.until_closed() in {"", "R", "RE", "E"}
    with cluster.connect() as connection:
        assert connection.execute("SELECT to_regclass('public.never_made')").fetchone() == (None,)


def test_cancel_needs_the_right_key(cluster: clusters.Cluster) -> None:
    with wire.client(cluster.dsn) as client:
        pid, secret = client.key
        wrong = bytes([secret[0] ^ 1]) + secret[1:]
        client.send(wire.query("SELECT pg_sleep(1.2)"))
        _cancel(cluster, pid, wrong)
        assert [kind for kind, _ in client.exchange()] == ["T", "D", "C", "Z"]
        client.send(wire.query("SELECT pg_sleep(200) /* cancelled */"))
        with cluster.connect_coordinator() as direct:
            running = "SELECT FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(200) /* cancelled */'"
            clusters.eventually(lambda: direct.execute(running).rowcount)
        _cancel(cluster, pid, secret)
        answers = client.exchange()
        assert [kind for kind, _ in answers] == ["T", "E", "Z"]
        assert wire.fields(answers[1][1])["C"] == "57014"


def _cancel(cluster: clusters.Cluster, pid: int, secret: bytes) -> None:
    with wire.client(cluster.dsn, login=False) as other:
        other.send(struct.pack("!III", 12 + len(secret), 80877102, pid) + secret)
        assert other.socket.recv(1) == b""


def test_client_that_vanishes_leaves_nothing_running(cluster: clusters.Cluster, filled: oracle.Pair) -> None:
    schema = filled.orochi("SELECT current_schema()")[0][0]
    with wire.client(cluster.dsn) as client:
        client.exchange(
            wire.query("BEGIN"), wire.query(f"UPDATE {schema}.events SET what = 'never'"), ready=2
        )
        client.send(wire.query("SELECT pg_sleep(60) /* vanished */"))
        time.sleep(0.2)
    filled.check_tables("events")

    def quiet() -> bool:
        with cluster.connect_coordinator() as direct:
            running = direct.execute(
                "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%%vanished */' AND state = 'active' AND pid <> pg_backend_pid()"
            ).fetchall()
        return not running

    clusters.eventually(quiet)
    filled.both("UPDATE events SET what = 'later' WHERE id = 1")  # no lock of the vanished one is in the way
    filled.check_tables("events")
