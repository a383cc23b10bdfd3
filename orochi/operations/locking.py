"""Locks of relations on nodes that are had all together or not at all, so that nobody waits long for who waits.

Whoever holds some of them and waits for others may deadlock with writers, of which PostgreSQL then chooses one to
fail; and who comes meanwhile waits behind. So a try is short, all is let go after it, and another one follows.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Mapping, Sequence

from orochi import errors
from orochi.executor import context

#: The first tries hold up no insert noticeably; the others less than deadlock_timeout, so that nobody becomes a victim.
_SHORT, _SHORT_TRIES, _LONG = "70ms", 30, "700ms"
_PAUSE_SECONDS = (0.05, 0.3)
_BUSY = frozenset({"55P03", "40P01"})
_UNITS = {"": 0.001, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


async def exclude_all(session: context.Session, relations: Mapping[int, Sequence[str]]) -> None:
    """Lock each node's relations (quoted, with ONLY) against everybody, for the rest of the transaction.

    It ends with the locks, by the session's lock_timeout, or when the statement is cancelled.

    Raises:
        OrochiError: 55P03, as lock_timeout says.
    """
    own = session.settings.get("lock_timeout", "0")
    limit = _seconds(own)
    began = time.monotonic()
    for number in itertools.count():
        timeout = _SHORT if number < _SHORT_TRIES else _LONG
        asked = [_try(session, node_id, names, timeout, own) for node_id, names in relations.items() if names]
        results = await asyncio.gather(*asked, return_exceptions=True)
        refused = [result for result in results if isinstance(result, BaseException)]
        for error in refused:
            if not isinstance(error, errors.RemoteError) or error.sqlstate not in _BUSY:
                raise error
        await asyncio.gather(*(_end(session, node_id, kept=not refused) for node_id in relations))
        if not refused:
            return
        if limit and time.monotonic() - began >= limit:
            raise errors.OrochiError("canceling statement due to lock timeout", sqlstate="55P03")
        await asyncio.sleep(random.uniform(*_PAUSE_SECONDS))


async def _try(session: context.Session, node_id: int, names: Sequence[str], timeout: str, own: str) -> None:
    connection = await session.transaction.node(node_id, write=True)
    await connection.query(
        f"SAVEPOINT orochi_locking; SET LOCAL lock_timeout TO '{timeout}';"
        f" LOCK TABLE {', '.join(names)} IN ACCESS EXCLUSIVE MODE; SET LOCAL lock_timeout TO '{own}'"
    )


async def _end(session: context.Session, node_id: int, *, kept: bool) -> None:
    connection = await session.transaction.node(node_id, write=True)
    if not kept:
        await connection.query("ROLLBACK TO SAVEPOINT orochi_locking")
    await connection.query("RELEASE SAVEPOINT orochi_locking")


def _seconds(setting: str) -> float:
    """A time as SHOW prints it; 0 if there is none, or it is not understood."""
    digits = setting.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = _UNITS.get(setting[len(digits) :])
    return int(digits) * unit if unit is not None and digits.isdigit() else 0.0
