"""A client's coordinator session is not idle while its statement runs on the nodes.

PostgreSQL ends a session that stays idle in a transaction for `idle_in_transaction_session_timeout`.
The coordinator cannot see that nodes work for it, so while a statement runs in a block, a Sync now and
then shows it. A Sync changes nothing in a block: it takes no snapshot and ends no portal. What is
set below two intervals may still end a session.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from orochi.pgwire import client, messages
from orochi.pgwire import reply as replies

INTERVAL_SECONDS = 0.4


@contextlib.asynccontextmanager
async def kept(coordinator: client.PgConnection) -> AsyncIterator[None]:
    """Keep the session awake until the end; then every answer to a Sync of ours has come."""
    if coordinator.status != "T":
        yield
        return
    loop = asyncio.get_running_loop()
    last: replies.Reply | None = None
    timer: asyncio.TimerHandle | None = None

    def touch() -> None:
        nonlocal last, timer
        if coordinator.closed:
            return
        if not coordinator.busy and coordinator.status == "T":
            last = replies.Reply()
            coordinator.send(messages.SYNC, last)
        timer = loop.call_later(INTERVAL_SECONDS, touch)

    timer = loop.call_later(INTERVAL_SECONDS, touch)  # most statements end before it
    try:
        yield
    finally:
        timer.cancel()
        if last is not None and not last.done.done():
            await asyncio.shield(last.done)
