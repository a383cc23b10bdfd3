"""What a query does about stripes in the archive, as `orochi.frozen_reads` says: error, skip, or wait for them."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence

from orochi import errors
from orochi.executor import context, names
from orochi.pgwire import messages
from orochi.planner import fragment as plan_fragment
from orochi.storage.objects import places

SETTING = "orochi.frozen_reads"
_TIMEOUT_SECONDS = 600.0
#: Between two looks at a restore, in seconds, and between two notices of how far it is.
_FIRST_LOOK, _LONGEST_LOOK, _TELL_EVERY = 0.5, 60.0, 60.0
_NAMED = 5


async def readable(
    session: context.Session, fragments: list[plan_fragment.Fragment]
) -> list[plan_fragment.Fragment]:
    """The fragments with stripes that can be read: frozen ones are left out, or restored.

    Raises:
        OrochiError: 55000, there are frozen ones and the session takes that for an error.
    """
    found: dict[int, list[str]] = {}
    for part in fragments:
        for scan in part.scans:
            for stripe in scan.stripes:
                if stripe.path.startswith(places.FROZEN):
                    found.setdefault(part.node_id, []).append(stripe.path)
    if not found:
        return fragments
    match session.settings.get(SETTING, "error").lower():
        case "error":
            raise _refused(found)
        case "skip":
            tell(
                session,
                f"skipping frozen {_chunks(found)}",
                "SET orochi.frozen_reads = 'wait' restores them.",
            )
            return _with_stripes(fragments, lambda path: None if path.startswith(places.FROZEN) else path)
        case "wait":
            await _restored(session, found)
            return _with_stripes(fragments, places.thawed)
        case other:
            raise errors.InvalidParameter(
                f'invalid value for parameter "{SETTING}": "{other}"',
                hint="Available values: error, skip, wait.",
            )


def _refused(found: dict[int, list[str]]) -> errors.OrochiError:
    first = min(places.chunk_of(path) for paths in found.values() for path in paths)
    return errors.OrochiError(
        f"the query reads frozen {_chunks(found)}",
        sqlstate="55000",
        hint=f"SELECT move_chunk_to_tier('{first}', 'cold') restores a chunk;"
        " SET orochi.frozen_reads = 'wait' restores them for the query, 'skip' leaves them out.",
    )


def _chunks(found: dict[int, list[str]]) -> str:
    chunks = sorted({places.chunk_of(path) for paths in found.values() for path in paths})
    listed = ", ".join(chunks[:_NAMED])
    more = f" and {len(chunks) - _NAMED} more" if len(chunks) > _NAMED else ""
    return f"chunk{'s' if len(chunks) > 1 else ''} {listed}{more}"


def _with_stripes(
    fragments: Sequence[plan_fragment.Fragment], renamed: Callable[[str], str | None]
) -> list[plan_fragment.Fragment]:
    """The fragments with other paths for their stripes, None for none."""
    changed = []
    for part in fragments:
        scans = []
        for scan in part.scans:
            kept = []
            for stripe in scan.stripes:
                path = renamed(stripe.path)
                if path is not None:
                    kept.append(dataclasses.replace(stripe, path=path))
            scans.append(dataclasses.replace(scan, stripes=tuple(kept)))
        changed.append(dataclasses.replace(part, scans=tuple(scans)))
    return changed


async def _restored(session: context.Session, found: dict[int, list[str]]) -> None:
    """Ask for the objects, and wait until all can be read."""
    waiting = Waiting(session, _chunks(found))
    while True:
        answers = await asyncio.gather(
            *(
                session.runtime.transport.run_task(
                    node_id, names.RESTORE_STRIPES, {"paths": paths}, timeout=_TIMEOUT_SECONDS
                )
                for node_id, paths in found.items()
            )
        )
        ready = sum(int(answer["ready"]) for answer in answers)
        total = sum(int(answer["total"]) for answer in answers)
        if ready == total:
            return
        await waiting.pause(ready, total)


class Waiting:
    """The pauses between looks at a restore, each longer than the last, and what the client hears of it."""

    def __init__(self, session: context.Session, what: str) -> None:
        self._session = session
        self._what = what
        self._pause = _FIRST_LOOK
        self._told = 0.0

    async def pause(self, ready: int, total: int) -> None:
        """Wait for the next look."""
        now = time.monotonic()
        if not self._told or now - self._told >= _TELL_EVERY:
            self._told = now
            tell(self._session, f"restoring {self._what}: {ready} of {total} objects are there")
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_LOOK)


def tell(session: context.Session, message: str, hint: str | None = None) -> None:
    """Send the client a notice, as if its coordinator had."""
    notice = messages.notice_response(message, hint=hint)
    if session.coordinator.on_async is not None:
        session.coordinator.on_async(notice[0], notice[5:])
