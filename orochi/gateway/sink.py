"""Where a statement's answer goes: to the client, or into a portal that is read piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from orochi import errors
from orochi.gateway import client_socket, portal
from orochi.gateway import relay as relays
from orochi.pgwire import messages


class ClientSink:
    """Writes to the client, with back-pressure.

    Attributes:
        formats: result format of each column; () = all text, one = all alike.
        tag: the command tag, once `complete` was called.
    """

    def __init__(
        self,
        client: client_socket.ClientSocket,
        relay: relays.Relay,
        formats: tuple[int, ...] = (),
        *,
        simple: bool,
    ) -> None:
        """Answer in the simple protocol (columns announced, tag held until `send_tag`) or the extended."""
        self.formats = formats
        self.tag: str | None = None
        self._client = client
        self._relay = relay
        self._simple = simple
        self._columns = b""

    async def columns(self, columns: Sequence[messages.FieldDescription]) -> None:
        """Announce the result's columns with its first rows, where the client did not ask by Describe."""
        if self._simple:
            self._columns = messages.row_description(columns)

    @property
    def announces(self) -> bool:
        """Whether columns wait to be announced."""
        return bool(self._columns)

    def announce(self) -> None:
        """Announce the columns now."""
        if self._columns:
            self._client.write(self._columns)
            self._columns = b""

    async def rows(self, data: bytes | memoryview, count: int) -> None:
        """Send whole DataRow messages."""
        if self._columns:
            self.announce()
        self._client.write(data)
        if not self._client.writable:
            await self._client.drain()

    async def complete(self, tag: str) -> None:
        """Send CommandComplete; in the simple protocol only after the commit."""
        self.tag = tag
        if not self._simple:
            self._client.write(messages.command_complete(tag))

    def send_tag(self) -> None:
        """The statement's effects are committed, or part of an open block: say so."""
        if self._simple and self.tag is not None:
            self.announce()
            self._client.write(messages.command_complete(self.tag))

    async def notice(self, message: str, *, severity: str = "NOTICE", hint: str | None = None) -> None:
        """Send a NoticeResponse."""
        self._client.write(messages.notice_response(message, severity, hint=hint))

    async def copy_in(self, overall_format: int, column_formats: Sequence[int]) -> AsyncIterator[bytes]:
        """Send CopyInResponse and yield CopyData payloads until CopyDone.

        Raises:
            QueryCanceled: the client sent CopyFail.
        """
        self._client.write(messages.copy_response(b"G", overall_format, column_formats))
        while True:
            kind, payload = await self._relay.next_message()
            if kind == 0x64:  # d: CopyData
                pieces = [payload, *self._relay.inbox.take_run(0x64)]
                yield b"".join(pieces) if len(pieces) > 1 else payload
            elif kind == 0x63:  # c: CopyDone
                return
            elif kind == 0x66:  # f: CopyFail
                reason = messages.decode(payload.rstrip(b"\0"))
                raise errors.QueryCanceled(f"COPY from stdin failed: {reason}")
            elif kind not in b"HS":  # Flush and Sync are ignored here, as PostgreSQL does
                raise errors.ProtocolViolation(
                    f"unexpected message type 0x{kind:02X} during COPY from stdin", sqlstate="08P01"
                )

    async def copy_out(self, overall_format: int, column_formats: Sequence[int]) -> None:
        """Send CopyOutResponse."""
        self._client.write(messages.copy_response(b"H", overall_format, column_formats))

    async def copy_data(self, payload: bytes) -> None:
        """Send one CopyData message."""
        self._client.write(messages.copy_data(payload))
        if not self._client.writable:
            await self._client.drain()

    async def copy_done(self) -> None:
        """Send CopyDone."""
        self._client.write(messages.COPY_DONE)


class SpoolSink(ClientSink):
    """Keeps the rows for a portal instead of sending them."""

    def __init__(
        self,
        client: client_socket.ClientSocket,
        relay: relays.Relay,
        formats: tuple[int, ...],
        spool: portal.Spool,
    ) -> None:
        super().__init__(client, relay, formats, simple=False)
        self._spool = spool

    async def rows(self, data: bytes | memoryview, count: int) -> None:
        """Keep the rows."""
        self._spool.add(data)

    async def complete(self, tag: str) -> None:
        """Keep the tag."""
        self.tag = tag
        self._spool.tag = tag
        self._spool.rewind()
