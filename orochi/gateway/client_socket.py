"""The client's socket: who reads its bytes, and when reading or writing must wait."""

from __future__ import annotations

import asyncio
import typing
from collections.abc import Callable

from orochi.pgwire import connection

#: Reasons to stop reading from a client; reading goes on when none is left.
SERVER_FULL = 1
INBOX_FULL = 2
CONNECTING = 4

_HIGH_WATER = 1 << 18


class ClientGone(Exception):
    """The client's connection is gone; what runs for it should stop."""


class ClientSocket(asyncio.Protocol):
    """One client connection.

    Attributes:
        on_data: receives every piece read.
        on_lost: called once when the connection is gone.
        on_writable: told False when the client does not take what is written, and True when it does.
        writable: the last of these.
        closed: the connection is gone.
        peer: the client's address and port; None if it has none.
    """

    def __init__(self, accepted: Callable[[ClientSocket], None]) -> None:
        self._accepted = accepted
        self._reasons = 0
        self._drained: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport | None = None
        self.on_data: Callable[[bytes], None] = _ignore_data
        self.on_lost: Callable[[], None] = _ignore
        self.on_writable: Callable[[bool], None] = _ignore_flag
        self.writable = True
        self.closed = False
        self.peer: tuple[str | None, int | None] = (None, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop, again when TLS starts."""
        first = self.transport is None
        self.transport = typing.cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self.transport.set_write_buffer_limits(_HIGH_WATER)
        if first:
            sock = transport.get_extra_info("socket")
            if sock is not None:
                connection.keep_alive(sock)
                self.peer = _peer(transport.get_extra_info("peername"))
            self._accepted(self)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self.on_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        if self.closed:
            return
        self.closed = True
        self._wake()
        self.on_lost()

    def pause_writing(self) -> None:
        """Called by the transport when its buffer is full."""
        self.writable = False
        self.on_writable(False)

    def resume_writing(self) -> None:
        """Called by the transport when its buffer has room."""
        self.writable = True
        self._wake()
        self.on_writable(True)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write; nothing happens once the client is gone."""
        if not self.closed and self.transport is not None:
            self.transport.write(data)

    async def drain(self) -> None:
        """Wait while the client does not take what was written."""
        if not self.writable and not self.closed:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)

    def pause(self, reason: int) -> None:
        """Stop reading for `reason`."""
        if not self._reasons and self.transport is not None and not self.closed:
            self.transport.pause_reading()
        self._reasons |= reason

    def resume(self, reason: int) -> None:
        """`reason` is gone; read on if it was the last."""
        if self._reasons & reason:
            self._reasons &= ~reason
            if not self._reasons and self.transport is not None and not self.closed:
                self.transport.resume_reading()

    def server_writable(self, writable: bool) -> None:
        """Read no more than the server takes."""
        if writable:
            self.resume(SERVER_FULL)
        else:
            self.pause(SERVER_FULL)

    def close(self) -> None:
        """Close after what is written was sent."""
        if self.transport is not None and not self.closed:
            self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self.transport is not None and not self.closed:
            self.transport.abort()

    def _wake(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)


def _ignore_data(_data: bytes) -> None:
    return


def _ignore_flag(_flag: bool) -> None:
    return


def _ignore() -> None:
    return


def _peer(name: object) -> tuple[str | None, int | None]:
    match name:
        case (str(host), int(port), *_):
            return host.partition("%")[0], port
        case _:
            return None, None
