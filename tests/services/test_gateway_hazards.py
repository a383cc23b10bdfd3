"""What hostile, broken or merely unusual clients send to the gateway's socket."""

from __future__ import annotations

import pathlib
import socket
import ssl
import struct
import time
from collections.abc import Iterator

import psutil
import psycopg
import pytest

from orochi.pgwire import codec, messages
from tests.support import gateway, services

HERE = b"/* orochi_here */"
_TLS = pathlib.Path(gateway.__file__).parent / "tls"


@pytest.fixture(scope="module")
def running() -> Iterator[gateway.Running]:
    options = {
        "gateway_max_connections": 8,
        "gateway_auth_timeout": 6.0,
        "tls_cert": _TLS / "cert.pem",  # for localhost, self-signed, used by tests alone
        "tls_key": _TLS / "key.pem",
    }
    with services.postgres() as server, gateway.running(server, **options) as started:
        yield started


class Raw:
    """A client that sends what it is told."""

    def __init__(self, running: gateway.Running, *, login: bool = True) -> None:
        self.socket = socket.create_connection(("127.0.0.1", running.port), timeout=60)
        self._splitter = codec.Splitter()
        if login:
            self.send(messages.startup({"user": "orochi", "database": "postgres"}))
            self.until(b"Z")

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def receive(self) -> tuple[bytes, bytes]:
        """The next message; (b"", b"") at the end."""
        while (message := self._splitter.next()) is None:
            data = self.socket.recv(65_536)
            if not data:
                return b"", b""
            self._splitter.feed(data)
        return bytes((message[0],)), message[1]

    def until(self, kind: bytes) -> list[tuple[bytes, bytes]]:
        """All messages up to the first of this kind."""
        found = []
        while True:
            message = self.receive()
            found.append(message)
            if message[0] in (kind, b""):
                return found

    def kinds(self, until: bytes = b"Z") -> str:
        return b"".join(kind for kind, _ in self.until(until) if kind not in (b"S", b"N")).decode()

    def error(self) -> str:
        """The SQLSTATE of the error that comes."""
        return messages.parse_error(self.until(b"E")[-1][1]).sqlstate

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def raw(running: gateway.Running) -> Iterator[Raw]:
    opened = Raw(running)
    yield opened
    opened.close()


@pytest.mark.parametrize("length", [0, 7, 10_001, 2**31 - 1, -1])
def test_impossible_startup_lengths(running: gateway.Running, length: int) -> None:
    client = Raw(running, login=False)
    client.send(struct.pack("!ii", length, 3 << 16))
    assert client.error() == "08P01"
    assert client.receive()[0] == b""


def test_unknown_protocol(running: gateway.Running) -> None:
    client = Raw(running, login=False)
    client.send(struct.pack("!ii", 8, 2 << 16))
    assert client.error() == "0A000"


@pytest.mark.parametrize("body", [b"user\0orochi", b"user\0", b"\0\0\0x"])
def test_malformed_startup(running: gateway.Running, body: bytes) -> None:
    client = Raw(running, login=False)
    client.send(struct.pack("!ii", 8 + len(body), 3 << 16), body)
    assert client.error() == "08P01"


def test_plaintext_behind_an_encryption_request_is_dropped(running: gateway.Running) -> None:
    client = Raw(running, login=False)
    client.send(
        struct.pack("!ii", 8, codec.SSL_REQUEST), messages.startup({"user": "orochi", "database": "postgres"})
    )
    received = client.socket.recv(1000)
    assert received[:1] == b"E"
    assert client.socket.recv(1000) == b""


def test_gssenc_is_declined_and_login_goes_on(running: gateway.Running) -> None:
    client = Raw(running, login=False)
    client.send(struct.pack("!ii", 8, codec.GSSENC_REQUEST))
    assert client.socket.recv(1) == b"N"
    client.send(messages.startup({"user": "orochi", "database": "postgres"}))
    assert client.kinds().endswith("Z")


def test_tls(running: gateway.Running) -> None:
    for mode in ("disable", "prefer", "require"):
        with running.connect(sslmode=mode) as connection:
            rows = connection.execute("SELECT repeat('x', 100000) FROM generate_series(1, 50)").fetchall()
            assert len(rows) == 50
            assert connection.pgconn.ssl_in_use == (mode != "disable")
            connection.execute("SELECT 1 /* orochi_here */")
    client = Raw(running, login=False)
    client.send(struct.pack("!ii", 8, codec.SSL_REQUEST))
    assert client.socket.recv(1) == b"S"
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    secured = context.wrap_socket(client.socket)
    secured.sendall(struct.pack("!ii", 8, codec.SSL_REQUEST))
    assert secured.recv(1) == b"E"


def test_nothing_but_answers_while_authenticating(running: gateway.Running) -> None:
    with running.direct(autocommit=True) as admin:
        _require_password(admin)
        try:
            second = messages.startup({"user": "orochi", "database": "postgres"})
            for early in (
                second,
                messages.query("SELECT 1"),
                b"p" + struct.pack("!i", 70_000),
                b"p\xff\xff\xff\xff",
            ):
                client = Raw(running, login=False)
                client.send(messages.startup({"user": "guarded", "database": "postgres"}))
                assert client.receive()[0] == b"R"
                client.send(early)
                assert client.error() == "08P01"
                client.close()
            with running.connect(user="guarded", password="pässwörd") as connection:
                assert connection.execute("SELECT current_user").fetchone() == ("guarded",)
                assert connection.execute("SELECT current_user /* orochi_here */").fetchone() == ("guarded",)
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                running.connect(user="guarded", password="wrong")
            silent = Raw(running, login=False)
            silent.send(messages.startup({"user": "guarded", "database": "postgres"}))
            assert silent.receive()[0] == b"R"
            assert silent.receive() == (b"", b"")
        finally:
            _trust(admin)


def _require_password(admin: psycopg.Connection[tuple[object, ...]]) -> None:
    admin.execute("CREATE ROLE guarded LOGIN PASSWORD 'pässwörd'")
    _write_hba(admin, "host all guarded 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust")


def _trust(admin: psycopg.Connection[tuple[object, ...]]) -> None:
    _write_hba(admin, "host all all 127.0.0.1/32 trust")
    admin.execute("DROP ROLE guarded")


def _write_hba(admin: psycopg.Connection[tuple[object, ...]], text: str) -> None:
    row = admin.execute("SHOW hba_file").fetchone()
    assert row is not None
    selects = " UNION ALL ".join(f"SELECT '{line}'" for line in text.splitlines())
    admin.execute(f"COPY ({selects}) TO '{row[0]}'".encode())
    asked = admin.execute("SELECT clock_timestamp()").fetchone()
    assert asked is not None
    admin.execute("SELECT pg_reload_conf()")
    newer = f"SELECT pg_conf_load_time() >= '{asked[0]}'"
    deadline = time.monotonic() + 60
    while True:  # a new session knows what the postmaster has read
        with psycopg.connect(admin.info.dsn) as direct:
            if direct.execute(newer.encode()).fetchone() == (True,):
                return
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_half_open_connections_end(running: gateway.Running) -> None:
    clients = [Raw(running, login=False) for _ in range(50)]
    clients[0].send(b"\0\0\0")
    with running.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert all(client.receive() == (b"", b"") for client in clients)


def test_too_many_clients(running: gateway.Running) -> None:
    held = [_eventually_connected(running) for _ in range(8)]
    try:
        client = Raw(running, login=False)
        client.send(messages.startup({"user": "orochi", "database": "postgres"}))
        assert client.error() == "53300"
    finally:
        for connection in held:
            connection.close()
    deadline = time.monotonic() + 60
    while running.gateway._sessions:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    _eventually_connected(running).close()


def _eventually_connected(running: gateway.Running) -> psycopg.Connection[tuple[object, ...]]:
    deadline = time.monotonic() + 60
    while True:
        try:
            return running.connect()
        except psycopg.OperationalError:  # sessions that have ended may still be counted
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_wrong_cancel_key_changes_nothing(running: gateway.Running, raw: Raw) -> None:
    with running.connect() as connection:
        pid = connection.info.backend_pid
        raw.send(messages.query("SELECT pg_sleep(0.5)"))
        for secret in (b"\0\0\0\0", b"", b"x" * 300):
            other = Raw(running, login=False)
            other.send(messages.cancel_request(pid, secret))
            assert other.receive() == (b"", b"")
        assert raw.kinds() == "TDCZ"


def test_a_cancel_is_over_when_its_connection_closes(running: gateway.Running) -> None:
    """As with PostgreSQL: a client that waits for it does not hit the statement that it sends next."""
    client = Raw(running, login=False)
    client.send(messages.startup({"user": "orochi", "database": "postgres"}))
    [key] = [body for kind, body in client.until(b"Z") if kind == b"K"]
    for _ in range(30):
        other = Raw(running, login=False)
        other.send(messages.cancel_request(int.from_bytes(key[:4], "big"), key[4:]))
        assert other.receive() == (b"", b"")
        client.send(messages.query("SELECT pg_sleep(0.002)"))
        assert "E" not in client.kinds()
    client.socket.close()


@pytest.mark.parametrize("length", [0, 3, -1, 2**31 - 1])
def test_impossible_message_lengths(raw: Raw, length: int) -> None:
    raw.send(b"Q" + struct.pack("!i", length))
    assert raw.error() == "08P01"
    assert raw.receive()[0] == b""


@pytest.mark.parametrize("mark", [b"", HERE])
def test_error_skips_to_sync(raw: Raw, mark: bytes) -> None:
    for _ in range(2):
        raw.send(
            messages.parse(b"", b"SELECT 1/$1 " + mark, [23]),
            messages.bind(b"", b"", (), [b"0"], ()),
            messages.describe(b"P"),
            messages.execute(),
            messages.bind(b"", b"", (), [b"1"], ()),
            messages.execute(),
            messages.SYNC,
            messages.query("SELECT 7"),
        )
        answered = raw.kinds()
        assert answered in ("12TEZ", "12EZ", "1EZ")
        assert raw.kinds() == "TDCZ"


@pytest.mark.parametrize("mark", [b"", HERE])
def test_bind_and_portal_errors(raw: Raw, mark: bytes) -> None:
    parse = messages.parse(b"s", b"SELECT $1::int, 2 " + mark)
    raw.send(parse, messages.SYNC)
    assert raw.kinds() == "1Z"
    cases = [
        (messages.bind(b"", b"s", (), [], ()), "08P01"),
        (messages.bind(b"", b"s", (), [b"1"], (0, 0, 0)), "08P01"),
        (messages.bind(b"", b"s", (7,), [b"1"], ()), "22023"),
        (messages.bind(b"", b"none", (), [], ()), "26000"),
        (messages.describe(b"P", b"none"), "34000"),
        (messages.describe(b"S", b"none"), "26000"),
        (messages.execute(b"none"), "34000"),
        (messages.bind(b"p", b"s", (), [b"1"], ()) * 2, "42P03"),
        (parse, "42P05"),
    ]
    for message, sqlstate in cases:
        raw.send(message, messages.SYNC)
        found = raw.until(b"Z")
        assert messages.parse_error(found[-2][1]).sqlstate == sqlstate
    raw.send(
        messages.close(b"S", b"s"),
        messages.close(b"S", b"none"),
        messages.close(b"P", b"none"),
        messages.SYNC,
    )
    assert raw.kinds() == "333Z"
    raw.send(messages.bind(b"", b"s", (), [b"1"], ()), messages.SYNC)
    assert raw.error() == "26000"


@pytest.mark.parametrize("mark", [b"", HERE])
def test_portal_read_piece_by_piece(raw: Raw, mark: bytes) -> None:
    raw.send(
        messages.query("BEGIN"),
        messages.parse(b"", b"SELECT n FROM generate_series(1, 5) n " + mark),
        messages.bind(b"p", b"", (), [], ()),
        messages.describe(b"P", b"p"),
        messages.execute(b"p", 2),
        messages.SYNC,
    )
    assert raw.kinds() == "CZ"
    assert raw.kinds() == "12TDDsZ"
    raw.send(messages.execute(b"p", 2), messages.FLUSH)
    assert raw.kinds(until=b"s") == "DDs"
    raw.send(messages.execute(b"p"), messages.execute(b"p"), messages.SYNC)
    found = raw.until(b"Z")
    assert [kind for kind, _ in found] == [b"D", b"C", b"C", b"Z"]
    assert [payload for kind, payload in found if kind == b"C"] == [b"SELECT 1\0", b"SELECT 0\0"]
    raw.send(messages.close(b"P", b"p"), messages.query("COMMIT"))
    raw.until(b"Z")


@pytest.mark.parametrize("mark", [b"", HERE])
def test_flush_answers_before_sync(raw: Raw, mark: bytes) -> None:
    raw.send(messages.parse(b"", b"SELECT $1::text " + mark), messages.describe(b"S"), messages.FLUSH)
    assert raw.kinds(until=b"T") == "1tT"
    raw.send(messages.bind(b"", b"", (), [b"x"], ()), messages.FLUSH)
    assert raw.receive()[0] == b"2"
    raw.send(messages.execute(), messages.FLUSH)
    assert raw.kinds(until=b"C") == "DC"
    raw.send(messages.SYNC)
    assert raw.kinds() == "Z"


def test_pipelined_units_are_answered_in_order(raw: Raw) -> None:
    units, wanted = [], []
    for number in range(40):
        mark = HERE if number % 3 == 1 else b""
        sql = b"SELECT %d " % number + mark
        if number % 2:
            units.append(messages.query(sql.decode()))
            wanted.append("TDCZ")
        else:
            units += [
                messages.parse(b"", sql),
                messages.bind(b"", b"", (), [], ()),
                messages.execute(),
                messages.SYNC,
            ]
            wanted.append("12DCZ")
    data = b"".join(units)
    for at in range(0, len(data), 37):
        raw.send(data[at : at + 37])
    for number, kinds in enumerate(wanted):
        found = raw.until(b"Z")
        assert "".join(kind.decode() for kind, _ in found) == kinds
        assert messages.parse_data_row(found[-3][1]) == (b"%d" % number,)


@pytest.mark.parametrize("mark", [b"", HERE])
def test_one_batch_larger_than_the_unit_limit(raw: Raw, mark: bytes) -> None:
    value = b"x" * 100_000
    raw.send(messages.parse(b"s", b"SELECT length($1) " + mark))
    for _ in range(40):
        raw.send(messages.bind(b"", b"s", (), [value], ()), messages.execute())
    raw.send(messages.SYNC)
    found = raw.until(b"Z")
    assert [kind for kind, _ in found] == [b"1", *[b"2", b"D", b"C"] * 40, b"Z"]


def test_implicit_transaction_of_a_batch_ends_at_sync(running: gateway.Running, raw: Raw) -> None:
    def run(sql: bytes) -> bytes:
        return messages.parse(b"", sql) + messages.bind(b"", b"", (), [], ()) + messages.execute()

    raw.send(
        run(b"INSERT INTO local VALUES (900, 'a')"),
        run(b"INSERT INTO remote VALUES (900, 'a') /* orochi_node */"),
        run(b"INSERT INTO remote VALUES (900, 'b') /* orochi_node */"),
        messages.SYNC,
    )
    assert raw.kinds() == "12C12C12EZ"
    with running.direct() as coordinator, running.direct("node") as node:
        assert coordinator.execute("SELECT count(*) FROM local WHERE id = 900").fetchone() == (0,)
        assert node.execute("SELECT count(*) FROM remote WHERE id = 900").fetchone() == (0,)
    raw.send(
        run(b"INSERT INTO local VALUES (901, 'a')"),
        run(b"INSERT INTO remote VALUES (901, 'a') /* orochi_node */"),
        messages.SYNC,
    )
    assert raw.kinds() == "12C12CZ"
    with running.direct() as coordinator, running.direct("node") as node:
        assert coordinator.execute("SELECT count(*) FROM local WHERE id = 901").fetchone() == (1,)
        assert node.execute("SELECT count(*) FROM remote WHERE id = 901").fetchone() == (1,)


def test_client_that_vanishes_leaves_nothing_behind(running: gateway.Running) -> None:
    for sql in (
        "SELECT pg_sleep(250)",
        "SELECT pg_sleep(250) /* orochi_here */",
        "SELECT pg_sleep(250) /* orochi_node */",
    ):
        client = Raw(running)
        client.send(messages.query("BEGIN"), messages.query(sql))
        client.until(b"Z")
        time.sleep(0.2)
        client.close()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with running.direct() as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(250)%' AND pid <> pg_backend_pid() "
                "AND state <> 'idle'"
            ).fetchone()
        if row == (0,) and not running.gateway._sessions:
            return
        time.sleep(0.1)
    pytest.fail(f"left behind: {row}, {running.gateway._sessions}")


@pytest.mark.parametrize("mark", [b"", HERE])
def test_copy_of_messages_larger_than_the_inbox(raw: Raw, mark: bytes) -> None:
    raw.socket.settimeout(60)
    raw.send(messages.query("CREATE TEMP TABLE large (a text)"))
    raw.until(b"Z")
    raw.send(messages.message(b"Q", b"COPY large FROM STDIN " + mark + b"\0"))
    raw.until(b"G")
    for _ in range(12):
        raw.send(messages.message(b"d", b"x" * 2_500_000 + b"\n"))
    raw.send(messages.message(b"c", b""))
    assert raw.until(b"Z")[0] == (b"C", b"COPY 12\0")


@pytest.mark.parametrize("mark", ["", HERE.decode()])
def test_slow_reader_holds_the_server_back(raw: Raw, mark: str) -> None:
    before = psutil.Process().memory_info().rss
    raw.send(messages.query(f"SELECT repeat('x', 1000) FROM generate_series(1, 200000) {mark}"))
    time.sleep(1.5)
    grown = psutil.Process().memory_info().rss - before
    assert grown < 40 << 20, f"{grown} bytes"
    count = 0
    while (kind := raw.receive()[0]) != b"Z":
        count += kind == b"D"
    assert count == 200_000
