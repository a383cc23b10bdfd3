"""Parts of an extended batch sent to the coordinator on behalf of a busy session.

A part ends in Flush, not Sync, so that the batch stays one implicit transaction; it is over when
each of its messages was answered, or one of them by an error (the server then skips all until Sync).
"""

from __future__ import annotations

from orochi import errors
from orochi.gateway import portal
from orochi.gateway import relay as relays
from orochi.pgwire import codec, messages

#: Messages that end the answer to one Parse, Bind, Close, Describe or Execute.
_TERMINAL = frozenset(b"123nTCIs")
_length_at = codec.length_at


class PassThrough:
    """Relays the answers of a part to the client.

    Attributes:
        failed: one of them was an error.
    """

    def __init__(self, relay: relays.Relay, replies: int) -> None:
        self.failed = False
        self._relay = relay
        self._left = replies
        self._done = False
        self._skip = 0
        self._fragment = b""

    async def run(self, data: bytes) -> bool:
        """Send `data` and wait for all answers; COPY data in between too. False if one was an error."""
        relay, server = self._relay, self._relay.server
        server.tap = self._from_server
        server.write(data + messages.FLUSH)
        try:
            while not self._done:
                if relay.copying and relay.inbox.peek() is not None:
                    await self._pump()
                else:
                    await relay.wait()
        finally:
            relay.copying = False
            server.tap = None
        return not self.failed

    async def _pump(self) -> None:
        """Pass one of the client's messages to a COPY FROM STDIN under way."""
        relay = self._relay
        kind, payload = await relay.next_message()
        if kind in b"dcf":
            relay.server.write(messages.message(bytes((kind,)), payload))
            await relay.server.drain()
        if kind in b"cf":
            relay.copying = False
            relay.server.write(messages.FLUSH)

    def _from_server(self, data: bytes) -> None:
        relay = self._relay
        if not data:
            relay.changed()
            return
        relay.client.write(data)
        if self._fragment:
            data = self._fragment + data
            self._fragment = b""
        pos, size = self._skip, len(data)
        while size - pos >= 5:
            kind = data[pos]
            end = pos + 1 + _length_at(data, pos + 1)[0]
            if kind == 0x53 and end > size:
                break
            self._message(kind, data, pos, end)
            pos = end
        self._skip = max(0, pos - size)
        if pos < size:
            self._fragment = data[pos:]
        # what is left of a big message must pass too before the session may write
        if (self.failed or not self._left) and not self._skip and not self._fragment:
            self._done = True
            relay.changed()

    def _message(self, kind: int, data: bytes, pos: int, end: int) -> None:
        if kind in _TERMINAL:
            self._left -= 1
        elif kind == 0x45:  # E: ErrorResponse
            self.failed = True
        elif kind == 0x47:  # G: CopyInResponse
            self._relay.copying = True
            self._relay.changed()
        elif kind == 0x53:  # S: ParameterStatus
            name, value = messages.parse_parameter_status(data[pos + 5 : end])
            self._relay.server.parameters[name] = value


class Capture:
    """Keeps the answers to a Parse and a Describe of a statement; only an error goes to the client.

    Attributes:
        type_oids, fields: what the server inferred.
        error: the ErrorResponse, if there was one.
    """

    def __init__(self, relay: relays.Relay, replies: int) -> None:
        self.type_oids: tuple[int, ...] = ()
        self.fields: tuple[messages.FieldDescription, ...] | None = None
        self.error: errors.RemoteError | None = None
        self._relay = relay
        self._left = replies
        self._splitter = codec.Splitter()

    async def run(self, data: bytes) -> None:
        """Send `data` and wait for its answers."""
        server = self._relay.server
        server.tap = self._from_server
        server.write(data + messages.FLUSH)
        try:
            while self._left and self.error is None:
                await self._relay.wait()
        finally:
            server.tap = None

    def _from_server(self, data: bytes) -> None:
        self._splitter.feed(data)
        while (message := self._splitter.next()) is not None:
            kind, payload = message
            if kind in _TERMINAL:
                self._left -= 1
            if kind == 0x74:  # t: ParameterDescription
                self.type_oids = messages.parse_parameter_description(payload)
            elif kind == 0x54:  # T: RowDescription
                self.fields = messages.parse_row_description(payload)
            elif kind == 0x45:  # E: ErrorResponse
                self.error = messages.parse_error(payload)
            elif kind in b"NA":
                self._relay.client.write(messages.message(bytes((kind,)), payload))
        self._relay.changed()


def sync_comes(inbox: codec.Splitter) -> bool:
    """Whether the batch's Sync is here already, and no other Execute before it."""
    offset = 0
    while (found := inbox.peek(offset)) is not None:
        kind, _, offset = found
        if kind == 0x53:
            return True
        if kind in b"EQH":
            return False
    return False


async def describe(relay: relays.Relay, prepared: portal.Prepared) -> Capture:
    """What the coordinator says now of a prepared statement's text, or of the statement if nothing is known of it."""
    scratch = relay.server.scratch
    parts = [messages.describe(b"S", prepared.name)]
    if prepared.described:
        # by its text: names may have come to mean others without the coordinator's own plan being told
        parse = messages.parse(scratch, prepared.server_sql, prepared.type_oids)
        close = messages.close(b"S", scratch)
        parts = [close, parse, messages.describe(b"S", scratch), close]
    capture = Capture(relay, len(parts))
    await capture.run(b"".join(parts))
    return capture
