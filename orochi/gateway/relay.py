"""The relay: bytes between a client and its coordinator connection, untouched.

Messages are walked over only to know three things: whether a statement is Orochi's, whether the
server is idle, and which settings changed. The unit of decision is one simple Query, or one batch of
extended messages up to its Sync; a unit is relayed whole or handed whole to the session, which then
owns both connections until the unit ends (`busy`). Units are never reordered.

`pending` counts the ReadyForQuery messages the server still owes for what was relayed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from orochi import errors
from orochi.gateway import client_socket, ending, rights
from orochi.gateway import texts as texts_module
from orochi.pgwire import client as pg_client
from orochi.pgwire import codec, messages

if TYPE_CHECKING:
    from orochi.gateway import portal
    from orochi.gateway import session as session_module

log = structlog.get_logger()

_length_at = codec.length_at
_LIMIT = codec.MESSAGE_LIMIT
_OURS = texts_module.TOUCHES | texts_module.SPECIAL
_SETTINGS, _CATALOG = texts_module.SETTINGS, texts_module.CATALOG
_METHOD = texts_module.METHOD

#: Bytes of an unfinished unit above which the session takes it, piece by piece.
_UNIT_LIMIT = 1 << 20
#: Bytes waiting for a busy session above which the client is not read.
_INBOX_LIMIT = 1 << 20


class Relay:
    """The streams of one session.

    Attributes:
        busy: a unit is being handled by the session; the relay only collects input.
        exclusive: every unit is the session's: nodes take part in its transaction, or such.
        inbox: input for a busy session.
        changing: relayed prepared statements that change settings or the catalog, with their flags.
        named, unnamed: relayed prepared statements: SQL by name, and the last unnamed Parse message.
        ours, portals: prepared statements and portals that are the session's.
        mask: flags of texts that the session must see: those that make tables, too, unless it is known
            that the session's new tables are not columnar.
        lifts: the hot path may know texts of the simple protocol.
        settings_dirty: a relayed statement may have changed session settings, or what names mean.
        catalog_dirty: a relayed statement may have changed the catalog: the session must look before
            the next unit, as not even its words can be judged.
    """

    def __init__(
        self,
        client: client_socket.ClientSocket,
        server: pg_client.PgConnection,
        texts: texts_module.Texts,
    ) -> None:
        self.client = client
        self.server = server
        self.texts = texts
        self.session: session_module.Session | None = None
        self.busy = False
        self.exclusive, self.pending, self.inbox = False, 0, codec.Splitter()
        self.named: dict[bytes, bytes] = {}
        self.unnamed = b""
        self.ours: dict[bytes, portal.Prepared] = {}
        self.portals: dict[bytes, portal.Portal] = {}
        self.mask, self.lifts = _OURS | _CATALOG, False
        self.settings_dirty, self.catalog_dirty, self.isolation_set = True, False, False
        self.rights, self.ending = rights.Watch(), ending.Ending(self)
        self.changing: dict[bytes, int] = {}
        self.copying = False
        texts.cache()
        self._version = texts.version
        self._held, self._need, self._skip, self._fragment = bytearray(), 0, 0, b""
        self._after_sync = False
        self._change: asyncio.Future[None] | None = None
        client.on_data, client.on_writable = self.from_client, self._client_writable
        server.on_writable = client.server_writable
        server.tap = self.from_server

    def from_client(self, data: bytes) -> None:
        """Bytes from the client."""
        if self.busy:
            self.inbox.feed(data)
            if len(self.inbox) > _INBOX_LIMIT:
                self.client.pause(client_socket.INBOX_FULL)
            self.changed()
            return
        held = self._held
        if held:
            held += data
            if len(held) < self._need:
                return
            data = bytes(held)
            held.clear()
        try:
            self._dispatch(data)
        except errors.ProtocolViolation as error:
            self.refuse(error)
        except Exception as error:
            log.exception("relay.failed", error=type(error).__name__)
            self.refuse(errors.OrochiError("internal error of the gateway"))

    def refuse(self, error: errors.OrochiError) -> None:
        """End the connection with a fatal error."""
        self.client.write(messages.error_response(error, "FATAL"))
        self.client.close()

    def _dispatch(self, data: bytes) -> None:
        """Relay the leading units that may pass; keep the incomplete rest; stop at one of the session's."""
        known = self.texts.cache()
        if self._version != self.texts.version:
            self._catalog_moved()
        exclusive = self.exclusive or self.catalog_dirty
        start = pos = 0
        size = len(data)
        need = 5
        while size - pos >= 5:
            kind = data[pos]
            length = _length_at(data, pos + 1)[0]
            if length < 4 or length > _LIMIT:
                codec.check_length(kind, length)
            end = pos + 1 + length
            if end > size:
                need = end - pos
                break
            if kind == 0x53:  # S: Sync
                if exclusive:
                    return self._hand_over(data, start)
                self.pending += 1
                self._after_sync = True
                start = end
            elif kind in b"dcf":  # CopyData, CopyDone, CopyFail
                start = end
            elif kind == 0x58:  # X: Terminate
                self._forward(data, end)
                self.client.close()
                return None
            elif exclusive:
                return self._hand_over(data, start)
            elif kind == 0x51 and not pos and self.lifts and self._hot(data, pos):
                return None
            elif kind == 0x51:  # Q: Query
                sql = data[pos + 5 : end - 1]
                flags = known.get(sql)
                if flags is None:
                    flags = self.texts.flags(sql)
                if flags:
                    if flags & self.mask:
                        return self._hand_over(data, start)
                    self.touched(flags)
                    exclusive = exclusive or self.catalog_dirty
                self.pending += 1
                self._after_sync = False
                start = end
                if self.ours:
                    self.ours.pop(b"", None)
            elif kind == 0x50:  # P: Parse
                if data[pos + 5] == 0 and not pos and self._hot(data, pos):
                    return None
                if self._parse_is_ours(data, pos + 5, end):
                    return self._hand_over(data, start)
                exclusive = exclusive or self.catalog_dirty
            elif kind == 0x48:  # H: Flush
                return self._hand_over(data, start)
            elif kind == 0x46:  # F: FunctionCall
                self.pending += 1
                start = end
            elif kind not in b"BDEC":
                start = end  # not a message of the protocol: the server says so
            elif self.ours or self.portals or self.changing:
                if kind == 0x42 and not pos and self._hot(data, pos):
                    return None
                if self._names_ours(kind, data, pos + 5, end):
                    return self._hand_over(data, start)
            elif kind == 0x43 and data[pos + 5] == 0x53:  # C: Close of a statement
                self.named.pop(data[pos + 6 : end - 1], None)
            pos = end
        if start:
            self._forward(data, start)
        if start < size:
            if size - start > _UNIT_LIMIT and pos > start:
                return self._hand_over(data, start, forwarded=True)
            self._held += data[start:] if start else data
            self._need = pos - start + need
        return None

    def _hot(self, data: bytes, pos: int) -> bool:
        """Whether the hot path takes the batch at `pos`, before which nothing waits."""
        if self.pending or self.session is None:
            return False
        taken = self.session.try_hot(data, pos)
        if taken:
            self.busy = True
            if taken < len(data):
                self.inbox.feed(data[taken:])
        return taken > 0

    def _parse_is_ours(self, data: bytes, at: int, end: int) -> bool:
        middle = data.find(b"\0", at, end)
        last = data.find(b"\0", middle + 1, end)
        if middle < 0 or last < 0:
            return False
        name, sql = data[at:middle], data[middle + 1 : last]
        flags = self.texts.flags(sql)
        if flags:
            if flags & self.mask:
                return True
            self.touched(flags)
        self.note_changing(name, flags)
        if name:
            self.named[name] = sql
            return name in self.ours
        self.unnamed = data[at - 5 : end]
        self.ours.pop(b"", None)
        return False

    def _names_ours(self, kind: int, data: bytes, at: int, end: int) -> bool:
        """Whether a Bind, Describe, Execute or Close names a statement or portal of the session's."""
        if kind == 0x42:  # B: portal, statement
            middle = data.find(b"\0", at, end)
            name = data[middle + 1 : data.find(b"\0", middle + 1, end)]
            if name in self.ours:
                return True
            if name in self.changing:
                self.touched(self.changing[name])
            portal = data[at:middle]
            if portal or portal not in self.portals:
                return portal in self.portals
            del self.portals[portal]
            return False
        if kind == 0x45:  # E: portal
            return data[at : data.find(b"\0", at, end)] in self.portals
        name = data[at + 1 : end - 1]
        if data[at] == 0x50:
            return name in self.portals
        if kind == 0x43:
            self.ours.pop(name, None)
            self.named.pop(name, None)
        return False

    def note_changing(self, name: bytes, flags: int) -> None:
        """A statement with these flags was prepared under this name, and passed on."""
        if flags & (_SETTINGS | _CATALOG | texts_module.RIGHTS):
            self.changing[name] = flags
        elif self.changing:
            self.changing.pop(name, None)

    def touched(self, flags: int) -> None:
        """A statement with these flags was passed on."""
        self.rights.touched(flags)
        if flags & _CATALOG:
            self.catalog_dirty = True
        elif not flags & _SETTINGS:
            return
        self.settings_dirty = True
        if flags & _METHOD:
            self.mask = _OURS | _CATALOG
        self.isolation_set = self.isolation_set or bool(flags & texts_module.ISOLATION)
        if self.session is not None and (self.server.status != "I" or self.pending):
            self.session.settings_revert = True

    def method_known(self, method: str | None) -> None:
        """The session's new tables are stored so, until a setting changes that; None if it may have."""
        self.mask = _OURS | _CATALOG if method in ("columnar", None) else _OURS

    def _catalog_moved(self) -> None:
        """Statements prepared when they were nothing to us may read Orochi tables now."""
        self._version = self.texts.version
        self.settings_dirty = True  # a schema on the search path may be there now
        session = self.session
        if session is None:
            return
        for name, sql in self.named.items():
            if name not in self.ours and self.texts.flags(sql) & texts_module.TOUCHES:
                session.adopt(name, sql)
        if self.unnamed and b"" not in self.ours:
            parsed = messages.parse_parse(self.unnamed[5:])
            if self.texts.flags(parsed.sql) & texts_module.TOUCHES:
                session.adopt(b"", parsed.sql)

    def _forward(self, data: bytes, end: int) -> None:
        transport = self.server.transport
        if transport is None or self.server.closed:
            return
        transport.write(data if end == len(data) else data[:end])

    def _hand_over(self, data: bytes, start: int, *, forwarded: bool = False) -> None:
        if start and not forwarded:
            self._forward(data, start)
        self.busy = True
        self.inbox.feed(data[start:])
        if self.session is not None:
            self.session.start_unit()

    def from_server(self, data: bytes) -> None:
        """Bytes from the coordinator while the relay owns it."""
        if not data:
            self.client.close()
            self.changed()
        elif self.catalog_dirty or self.ending.held:
            self.ending.pass_on(data)
        else:
            self.client.write(data)
            self.watch(data)

    @property
    def between_messages(self) -> bool:
        """Whether all messages seen of the server are whole."""
        return not self._skip and not self._fragment

    def watch(self, data: bytes) -> None:
        """Walk over the server's bytes for what the relay must know."""
        if self._fragment:
            data = self._fragment + data
            self._fragment = b""
        pos, size = self._skip, len(data)
        while size - pos >= 5:
            kind = data[pos]
            end = pos + 1 + _length_at(data, pos + 1)[0]
            if kind == 0x5A:  # Z: ReadyForQuery
                if end > size:
                    break
                self._ready(data[pos + 5])
            elif kind == 0x53:  # S: ParameterStatus
                if end > size:
                    break
                name, value = messages.parse_parameter_status(data[pos + 5 : end])
                self.server.parameters[name] = value
            elif kind == 0x47:  # G: CopyInResponse
                self.copying = True
                if self._after_sync and self.pending and not self.busy:
                    self.pending -= 1  # in COPY the server ignores the Sync that followed
                self.changed()
            pos = end
        if pos > size:
            self._skip = pos - size
        else:
            self._skip = 0
            self._fragment = data[pos:]
        if self._change is not None and not self.pending:
            self.changed()

    def _ready(self, status: int) -> None:
        if self.pending:
            self.pending -= 1
        self.copying = False
        text = "I" if status == 0x49 else "T" if status == 0x54 else "E"
        server = self.server
        self.rights.ready(text if not self.pending else "T")
        if text != server.status:
            server.status = text
            if text == "I" and self.session is not None:
                self.session.block_ended()

    def _client_writable(self, writable: bool) -> None:
        server = self.server
        if server.tap is not None:
            (server.resume_reading if writable else server.pause_reading)()
        if self.session is not None:
            self.session.client_writable(writable)

    def changed(self) -> None:
        """Wake the session if it waits for input, or for the server to be idle."""
        change, self._change = self._change, None
        if change is not None and not change.done():
            change.set_result(None)

    async def wait(self) -> None:
        """Wait until something arrived from either side.

        Raises:
            client_socket.ClientGone: the client or the coordinator connection is closed.
        """
        if self.client.closed:
            raise client_socket.ClientGone
        if self.server.closed:
            raise errors.NodeUnavailable("the connection to the coordinator was lost")
        self._change = asyncio.get_running_loop().create_future()
        await self._change

    async def take_server(self) -> None:
        """Wait until the server has answered all that was relayed, and own it."""
        while self.pending or not self.between_messages or self.ending.held:
            await self.wait()
        self.server.tap = None
        if not self.client.writable:
            self.server.resume_reading()

    async def next_message(self) -> tuple[int, bytes]:
        """The client's next message.

        Raises:
            client_socket.ClientGone: there is none any more.
            ProtocolViolation: its length is impossible.
        """
        while True:
            message = self.inbox.next()
            if message is not None:
                if len(self.inbox) < _INBOX_LIMIT // 2:
                    self.client.resume(client_socket.INBOX_FULL)
                return message
            self.client.resume(client_socket.INBOX_FULL)
            await self.wait()

    async def forward(self, data: bytes, ready: int = 1) -> None:
        """Relay `data` and its answers, up to `ready` ReadyForQuery messages; COPY data too."""
        self.pending += ready
        self.give_server()
        self.server.write(data)
        while self.pending:
            if self.copying and self.inbox.peek() is not None:
                kind, payload = await self.next_message()
                if kind in b"dcf":
                    self.server.write(messages.message(bytes((kind,)), payload))
                    await self.server.drain()
                if kind in b"cf":
                    self.copying = False
                continue
            if self.copying:
                self.client.resume(client_socket.INBOX_FULL)  # the next message may be large
            await self.wait()
        await self.ending.over()
        self.server.tap = None
        if not self.client.writable:
            self.server.resume_reading()

    def give_server(self) -> None:
        """Let the relay own the server again."""
        self.server.tap = self.from_server
        if not self.client.writable:
            self.server.pause_reading()

    def resume(self) -> None:
        """The busy session's unit has ended: relay what came in the meantime."""
        self.busy = False
        if self.server.tap is None:
            self.give_server()
        self.client.resume(client_socket.INBOX_FULL)
        if len(self.inbox):
            self.from_client(self.inbox.take())
