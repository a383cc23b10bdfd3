"""A client that speaks the protocol byte by byte, to say what no library would say."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import secrets
import socket
import struct
from collections.abc import Iterator

from psycopg import conninfo


def message(kind: bytes, body: bytes = b"") -> bytes:
    """A message with its length."""
    return kind + struct.pack("!I", len(body) + 4) + body


def query(sql: str) -> bytes:
    """A simple query."""
    return message(b"Q", sql.encode() + b"\0")


def parse(name: str, sql: str) -> bytes:
    """Parse, with no parameter types given."""
    return message(b"P", name.encode() + b"\0" + sql.encode() + b"\0" + struct.pack("!H", 0))


def bind(portal: str, statement: str, values: list[str | None], *, binary: bool = False) -> bytes:
    """Bind with text parameters."""
    body = portal.encode() + b"\0" + statement.encode() + b"\0" + struct.pack("!HH", 0, len(values))
    for value in values:
        body += (
            struct.pack("!i", -1)
            if value is None
            else struct.pack("!i", len(value.encode())) + value.encode()
        )
    return message(b"B", body + struct.pack("!HH", 1, int(binary)))


def describe(kind: str, name: str) -> bytes:
    """Describe a statement ('S') or a portal ('P')."""
    return message(b"D", kind.encode() + name.encode() + b"\0")


def execute(portal: str = "", rows: int = 0) -> bytes:
    """Execute a portal, at most `rows` rows of it."""
    return message(b"E", portal.encode() + b"\0" + struct.pack("!I", rows))


SYNC, FLUSH, TERMINATE = message(b"S"), message(b"H"), message(b"X")


class Client:
    """A logged-in connection; `exchange` sends bytes and returns the answers up to ReadyForQuery."""

    def __init__(self, dsn: str, *, login: bool = True) -> None:
        self.options = {
            name: str(value) for name, value in conninfo.conninfo_to_dict(dsn).items() if value is not None
        }
        self.socket = socket.create_connection((self.options["host"], int(self.options["port"])), timeout=60)
        self.buffer = b""
        self.key = (0, b"")
        if login:
            self.send(self.startup())
            self._log_in()

    def startup(self, **parameters: str) -> bytes:
        """The first message of a connection."""
        pairs = {"user": self.options["user"], "database": self.options["dbname"]} | parameters
        body = struct.pack("!HH", 3, 0)
        body += (
            b"".join(name.encode() + b"\0" + value.encode() + b"\0" for name, value in pairs.items()) + b"\0"
        )
        return struct.pack("!I", len(body) + 4) + body

    def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self.socket.sendall(data)

    def read(self) -> tuple[str, bytes]:
        """The next message: its kind and its body."""
        kind = self._take(1)
        (length,) = struct.unpack("!I", self._take(4))
        return kind.decode(), self._take(length - 4)

    def _take(self, count: int) -> bytes:
        while len(self.buffer) < count:
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("closed")
            self.buffer += data
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def exchange(self, *messages: bytes, ready: int = 1) -> list[tuple[str, bytes]]:
        """Send, and read until `ready` ReadyForQuery messages have come."""
        self.send(b"".join(messages))
        answers = []
        while ready:
            answers.append(self.read())
            ready -= answers[-1][0] == "Z"
        return answers

    def kinds(self, *messages: bytes, ready: int = 1) -> str:
        """The kinds of the answers in a row; ReadyForQuery shows its status, as in `Z:T`."""
        answers = self.exchange(*messages, ready=ready)
        return " ".join(
            f"Z:{body.decode()}" if kind == "Z" else kind for kind, body in answers if kind not in "NS"
        )

    def _log_in(self) -> None:
        while True:
            kind, body = self.read()
            if kind == "Z":
                return
            if kind == "K":
                self.key = (struct.unpack("!I", body[:4])[0], body[4:])
            elif kind == "E":
                raise ConnectionError(body.decode(errors="replace"))
            elif kind == "R" and struct.unpack("!I", body[:4])[0] == 10:
                self._scram()

    def _scram(self) -> None:
        nonce = secrets.token_urlsafe(18)
        first = f"n=,r={nonce}"
        start = b"SCRAM-SHA-256\0" + struct.pack("!I", len(first) + 3) + b"n,," + first.encode()
        self.send(message(b"p", start))
        server = self.read()[1][4:].decode()
        fields = dict(part.split("=", 1) for part in server.split(","))
        salted = hashlib.pbkdf2_hmac(
            "sha256", self.options["password"].encode(), base64.b64decode(fields["s"]), int(fields["i"])
        )
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        without_proof = f"c=biws,r={fields['r']}"
        signed = f"{first},{server},{without_proof}".encode()
        signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self.send(message(b"p", f"{without_proof},p={base64.b64encode(proof).decode()}".encode()))

    def until_closed(self, seconds: float = 30) -> str:
        """The kinds of all messages until the server hangs up, which it must do in time."""
        self.socket.settimeout(seconds)
        kinds = ""
        try:
            while True:
                kinds += self.read()[0]
        except ConnectionError:
            return kinds

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self.socket.close()


@contextlib.contextmanager
def client(dsn: str, *, login: bool = True) -> Iterator[Client]:
    """A client for the length of the block."""
    made = Client(dsn, login=login)
    try:
        yield made
    finally:
        made.close()


def fields(body: bytes) -> dict[str, str]:
    """The fields of an ErrorResponse."""
    return {part[:1].decode(): part[1:].decode() for part in body.split(b"\0") if part}
