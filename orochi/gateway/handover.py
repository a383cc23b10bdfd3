"""Functions' connections that came to one gateway while another serves their caller: handed over to that one.

Functions know the address of one gateway. Each gateway keeps a connection to the coordinator whose name says
where it listens, so all know of each other, and none of one that is gone. What is handed over is passed on as bytes.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import structlog

from orochi import errors
from orochi.pgwire import client as pg_client
from orochi.pgwire import messages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orochi.gateway import client_socket, listener

log = structlog.get_logger()

#: Startup parameter of a connection that must not be handed on again.
HANDED = "orochi.handed_over"
_PREFIX = "orochi gateway "
_NAME = re.compile(re.escape(_PREFIX) + r"(\S+) (\d+)")
_OTHERS = f"""
SELECT DISTINCT application_name FROM pg_catalog.pg_stat_activity
WHERE application_name LIKE '{_PREFIX}%' AND usename = current_user AND application_name <> $1
"""
_SECONDS = 5.0
_PIECE = 1 << 16


class Presence:
    """What tells the other gateways of this one."""

    def __init__(self) -> None:
        self.name = ""
        self._connection: pg_client.PgConnection | None = None

    async def keep(self, gateway: listener.Gateway, address: str, port: int) -> None:
        """Open the connection, if it is not there; `address` is SQL for the host that others reach us by."""
        if self._connection is not None and not self._connection.closed:
            return
        end = gateway.coordinator
        made = await pg_client.PgConnection.connect(end.host, end.port, end.user, end.password, end.dbname)
        named = await made.fetch(
            f"SELECT pg_catalog.set_config('application_name', '{_PREFIX}' || {address} || ' {port}', false)"
        )
        self.name = (named.rows[0][0] or b"").decode()
        self._connection = made

    def close(self) -> None:
        """The gateway stops."""
        if self._connection is not None:
            self._connection.close()


class Handed:
    """The way to the other gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes) -> None:
        self._reader, self._writer, self._first = reader, writer, first

    async def join(self, client: client_socket.ClientSocket) -> None:
        """Pass bytes on both ways until either side is gone."""
        lost = client.on_lost

        def left() -> None:
            self._writer.close()
            lost()

        client.on_lost = left
        client.on_data = self._writer.write
        client.write(self._first)
        try:
            while data := await self._reader.read(_PIECE):
                client.write(data)
                await client.drain()
        except OSError as error:
            log.info("gateway.handover_lost", error=str(error))
        client.close()


async def find(gateway: listener.Gateway, parameters: Mapping[str, str]) -> Handed | None:
    """The gateway that serves the caller of such a connection; None if no other does."""
    try:
        async with gateway.runtime.service() as connection:
            found = await connection.fetch(_OTHERS, (gateway.presence.name.encode(),), (0,), (25,))
    except errors.OrochiError:
        return None
    for row in found.rows:
        named = _NAME.fullmatch((row[0] or b"").decode())
        if named is not None and (handed := await _ask(named[1], int(named[2]), parameters)) is not None:
            return handed
    return None


async def _ask(host: str, port: int, parameters: Mapping[str, str]) -> Handed | None:
    try:
        async with asyncio.timeout(_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(messages.startup({**parameters, HANDED: "on"}))
            head = await reader.readexactly(1)
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return None
    if head != b"R":  # it asks for the password only where it serves the caller
        writer.close()
        return None
    return Handed(reader, writer, head)
