"""A statement that found a layout changed again and again gets its turn: changes of layouts wait for it, briefly.

Each compressed chunk gives its shard a new layout, and a statement over many shards has to begin again
when one of them changed under it. While chunk after chunk is compressed on a busy machine it might never end.
So after some tries it holds a lock that who is about to change a layout waits for
(`chunkstate.let_readers`), for a moment only: nobody's lock here can be a deadlock.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import AsyncIterator

import structlog

from orochi import errors
from orochi.executor import context
from orochi.timeseries import chunkstate

log = structlog.get_logger()

#: Tries that meet a new layout before a statement asks for its turn.
TRIES = 2
#: How long to try to get the lock; without it the statement goes on as before.
_SECONDS, _POLL_SECONDS = 2.0, 0.02


class _Gate:
    """The lock of one process: all its statements that want their turn share one connection for it."""

    def __init__(self) -> None:
        self._changing = asyncio.Lock()
        self._holders = 0
        self._open = contextlib.AsyncExitStack()

    async def enter(self, runtime: context.Runtime) -> None:
        async with self._changing:
            if self._holders == 0:
                await self._take(runtime)
            self._holders += 1

    async def leave(self) -> None:
        async with self._changing:
            self._holders -= 1
            if self._holders == 0:
                await self._open.aclose()

    async def _take(self, runtime: context.Runtime) -> None:
        catalog = await self._open.enter_async_context(runtime.service())
        deadline = time.monotonic() + _SECONDS
        try:
            while time.monotonic() < deadline:
                # ends with its transaction, and so with whatever ends that
                found = await catalog.query(
                    f"BEGIN; SELECT pg_try_advisory_xact_lock_shared({chunkstate.TURN_LOCK})"
                )
                if found[-1].rows[0][0] == b"t":
                    self._open.push_async_callback(catalog.query, "ROLLBACK")
                    return
                await catalog.query("ROLLBACK")
                await asyncio.sleep(_POLL_SECONDS)
        except BaseException:
            await self._open.aclose()
            raise


_gates: weakref.WeakKeyDictionary[context.Runtime, _Gate] = weakref.WeakKeyDictionary()


@contextlib.asynccontextmanager
async def taken(session: context.Session, tries: int) -> AsyncIterator[None]:
    """Have layouts keep still for the block, if there were more `tries` than `TRIES` and it can be had."""
    if tries < TRIES:
        yield
        return
    gate = _gates.setdefault(session.runtime, _Gate())
    entered = False
    try:
        await gate.enter(session.runtime)
        entered = True
    except errors.OrochiError as error:  # without it nothing is wrong, only slower
        log.info("turn.not_taken", error=error.message)
    try:
        yield
    finally:
        if entered:
            await asyncio.shield(gate.leave())
