"""The socket under a client connection: bytes into messages, messages into queued replies.

Every request ends in exactly one ReadyForQuery, and replies are matched to requests in order. A
`tap` sees the raw bytes instead: the gateway's relay and its hot path use it.
"""

from __future__ import annotations

import asyncio
import collections
import socket
import typing
from collections.abc import Callable, Sequence
from typing import TypeVar

from orochi import errors
from orochi.pgwire import codec, login, messages
from orochi.pgwire import reply as replies

AnyReply = TypeVar("AnyReply", bound=replies.Reply)

_length_at = codec.length_at


class Connection(asyncio.Protocol):
    """One connection to a server; `client.PgConnection` adds the requests.

    Attributes:
        status: transaction status of the last ReadyForQuery: I, T or E.
        parameters: what ParameterStatus messages told.
        pid, secret: the server's key for cancel requests.
        closed: the connection is gone.
        cancelled: a cancel request was made, which may arrive at any time.
        notified: set when a NotificationResponse came, or the connection broke.
        on_async: receives asynchronous messages (notices, notifications, parameters): kind, payload.
        tap: if set, receives all bytes read instead of the reply queue; b"" when the connection broke.
        on_writable: told False when the server does not take what is written, and True when it does.
    """

    def __init__(self) -> None:
        self.status = "I"
        self.parameters: dict[str, str] = {}
        self.pid = 0
        self.secret = b""
        self.closed = False
        self.cancelled = False
        self.host = ""
        self.port = 0
        self.on_async: Callable[[int, bytes], None] | None = None
        self.tap: Callable[[bytes], None] | None = None
        self.on_writable: Callable[[bool], None] | None = None
        self.notified = asyncio.Event()
        self.transport: asyncio.Transport | None = None
        self._prepared: collections.OrderedDict[object, bytes] = collections.OrderedDict()
        self._replies: collections.deque[replies.Reply] = collections.deque()
        self._partial = bytearray()
        self._need = 0
        self._drained: asyncio.Future[None] | None = None
        self._writable = True
        self._lost = ""
        self._login: login.Login | None = None

    async def open(self, host: str, port: int) -> None:
        """Open the socket only; no startup packet is sent."""
        loop = asyncio.get_running_loop()
        self.host, self.port = host, port
        if host.startswith("/"):
            await loop.create_unix_connection(lambda: self, f"{host}/.s.PGSQL.{port}")
        else:
            await loop.create_connection(lambda: self, host, port)

    def send(self, data: bytes, reply: replies.Reply) -> None:
        """Write a request that ends in one ReadyForQuery, and queue its reply."""
        if self.closed or self.transport is None:
            raise self._unavailable()
        self._replies.append(reply)
        self.transport.write(data)

    def send_all(self, requests: Sequence[tuple[bytes, replies.Reply]]) -> None:
        """Write several requests at once, and queue their replies."""
        if self.closed or self.transport is None:
            raise self._unavailable()
        self._replies.extend(reply for _, reply in requests)
        self.transport.write(b"".join(data for data, _ in requests))

    async def request(self, data: bytes, reply: AnyReply) -> AnyReply:
        """Send a request and wait for the end of its reply; raises the server's error."""
        self.send(data, reply)
        await reply.done
        reply.check()
        return reply

    @property
    def busy(self) -> bool:
        """Whether some request has not been answered to its end."""
        return bool(self._replies) or self.tap is not None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write bytes that belong to a request under way."""
        if self.closed or self.transport is None:
            raise self._unavailable()
        self.transport.write(data)

    async def drain(self) -> None:
        """Wait until the server has taken most of what was written."""
        if not self._writable and not self.closed:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)

    def pause_reading(self) -> None:
        """Stop reading from the server."""
        if self.transport is not None and not self.closed:
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read from the server again."""
        if self.transport is not None and not self.closed:
            self.transport.resume_reading()

    def close(self) -> None:
        """Say goodbye and close."""
        if self.transport is not None and not self.closed:
            self.transport.write(messages.TERMINATE)
            self.transport.close()

    def abort(self) -> None:
        """Close without a word; requests under way fail."""
        if self.transport is not None:
            self.transport.abort()
        self._break("connection aborted")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self.transport = typing.cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        sock = transport.get_extra_info("socket")
        if sock is not None:
            keep_alive(sock)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._break(str(exc) if exc is not None else "the server closed the connection")

    def pause_writing(self) -> None:
        """Called by the transport when its buffer is full."""
        self._writable = False
        if self.on_writable is not None:
            self.on_writable(False)

    def resume_writing(self) -> None:
        """Called by the transport when its buffer has room."""
        self._writable = True
        self._wake_writers()
        if self.on_writable is not None:
            self.on_writable(True)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        tap = self.tap
        if tap is not None:
            tap(data)
        else:
            self.process(data)

    def process(self, data: bytes) -> None:
        """Cut `data` into messages and give them to the reply at the head of the queue."""
        partial = self._partial
        if partial:
            partial += data
            if len(partial) < self._need:
                return
            data = bytes(partial)
            partial.clear()
        pos, size, need = 0, len(data), 5
        while size - pos >= 5:
            kind = data[pos]
            length = _length_at(data, pos + 1)[0]
            if length < 4:
                self._protocol_error()
                return
            end = pos + 1 + length
            if end > size:
                need = end - pos
                break
            if kind == 0x44 or kind == 0x64:  # D: DataRow, d: CopyData
                pos = self._run_of(kind, data, pos, size)
            else:
                self._message(kind, data[pos + 5 : end])
                pos = end
        if pos < size:
            partial += data[pos:] if pos else data
            self._need = need

    def _run_of(self, kind: int, data: bytes, start: int, size: int) -> int:
        """Hand over a run of DataRow or CopyData messages; the offset after it."""
        pos, count, copied = start, 0, []
        while size - pos >= 5 and data[pos] == kind:
            length = _length_at(data, pos + 1)[0]
            end = pos + 1 + length
            if end > size or length < 4:
                break
            if kind == 0x64:
                copied.append(data[pos + 5 : end])
            count += 1
            pos = end
        if not self._replies:
            return pos
        if kind == 0x64:
            self._replies[0].copied(copied)
        else:
            self._replies[0].rows(data, start, pos, count)
        return pos

    def _message(self, kind: int, payload: bytes) -> None:
        if kind == 0x5A:  # Z: ReadyForQuery
            self.status = chr(payload[0])
            if self._replies:
                self._replies.popleft().finish()
        elif kind in b"NAS":  # NoticeResponse, NotificationResponse, ParameterStatus
            if kind == 0x53:
                name, value = messages.parse_parameter_status(payload)
                self.parameters[name] = value
            elif kind == 0x41:
                self.notified.set()
            if self.on_async is not None:
                self.on_async(kind, payload)
        elif kind in b"RK" and self._login is not None:
            self._authenticate(kind, payload)
        elif self._replies:
            if kind == 0x43 and payload in (b"DISCARD ALL\0", b"DEALLOCATE ALL\0"):
                self._prepared.clear()
            self._replies[0].message(kind, payload)

    def _authenticate(self, kind: int, payload: bytes) -> None:
        assert self._login is not None
        if kind == 0x4B:  # K: BackendKeyData
            self.pid = _length_at(payload, 0)[0]
            self.secret = payload[4:]
            return
        try:
            answer = self._login.answer(payload)
        except errors.OrochiError as error:
            self._login.error = error
            self.abort()
            return
        if answer is not None:
            self.write(answer)

    def _protocol_error(self) -> None:
        self._lost = "the server sent an invalid message"
        self.abort()

    def _break(self, reason: str) -> None:
        if self.closed:
            return
        self.closed = True
        self._lost = self._lost or reason
        self.notified.set()
        self._wake_writers()
        tap, self.tap = self.tap, None
        if tap is not None:
            tap(b"")
        while self._replies:
            reply = self._replies.popleft()
            if not isinstance(reply, login.Login) or reply.error is None:
                said = reply.error.message if reply.error is not None else None
                reply.error = self._unavailable(said)
            reply.finish()

    def _unavailable(self, detail: str | None = None) -> errors.NodeUnavailable:
        reason = self._lost or "connection is closed"
        return errors.NodeUnavailable(
            f"connection to PostgreSQL at {self.host}:{self.port} lost", detail=detail or reason
        )

    def _wake_writers(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)


def keep_alive(sock: socket.socket) -> None:
    """Let the kernel notice a dead peer within about a minute."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
