"""The end of an answer, withheld until the gateway knows what the statement did to the catalog.

A client that heard of the end of its CREATE, ALTER or DROP may tell another, whose next statement must
find the new names. So what ends the answer, ReadyForQuery, waits for the catalog; the rows before it do not.
Sessions of other gateways hear of it by NOTIFY, a moment later.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from orochi import errors

if TYPE_CHECKING:
    from orochi.gateway import relay as relays
    from orochi.gateway import session as sessions

_IDLE = b"Z\0\0\0\5I"
#: Nobody waits for longer: the next unit of the session looks again.
_SECONDS = 10.0


async def learn(session: sessions.Session) -> None:
    """If committed statements may have changed the catalog past us, read it; failing that, the next unit will."""
    relay = session.relay
    if not relay.catalog_dirty or session.coordinator.status != "I":
        return
    with contextlib.suppress(errors.OrochiError, OSError, TimeoutError):
        async with asyncio.timeout(_SECONDS):
            await session.runtime.refresh()
        relay.catalog_dirty = False


class Ending:
    """Passes a server's bytes to the client of `relay`, all but such an end.

    Attributes:
        held: what is withheld, and what the server sent after it.
    """

    def __init__(self, relay: relays.Relay) -> None:
        self._relay = relay
        self._task: asyncio.Task[None] | None = None
        self.held = bytearray()

    def pass_on(self, data: bytes) -> None:
        """Bytes from the server while the catalog may have changed, or while something is withheld."""
        relay = self._relay
        relay.watch(data)
        if self.held:
            self.held += data
            return
        ends = relay.between_messages and not relay.pending and relay.server.status == "I"
        if relay.session is None or not ends or not data.endswith(_IDLE):
            relay.client.write(data)
            return
        relay.client.write(data[: -len(_IDLE)])
        self.held += _IDLE
        if not relay.busy:  # else the session is in `forward`, which calls `over`
            self._task = asyncio.get_running_loop().create_task(self.over())

    async def over(self) -> None:
        """Learn what there is to learn, and let go of what is withheld."""
        relay = self._relay
        if not self.held:
            return
        try:
            if relay.session is not None:
                await learn(relay.session)
        finally:
            held = bytes(self.held)
            self.held.clear()
            relay.client.write(held)
            relay.changed()
