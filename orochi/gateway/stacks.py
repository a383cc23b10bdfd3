"""What a gateway is doing, on request: SIGUSR1 writes the stack of every task to the log.

Celery's workers answer the same signal with the stacks of their threads. A stack says where a task
waits; it holds no statement and no value. The threads' stacks come first, straight from the signal
handler: they are written even when the event loop itself is stuck.
"""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import sys
from collections.abc import Iterator
from typing import Any

import structlog

log = structlog.get_logger()

#: Awaited objects name the coroutine below them in one of these.
_FRAMES = ("cr_frame", "gi_frame", "ag_frame")
_AWAITED = ("cr_await", "gi_yieldfrom", "ag_await")


def install() -> None:
    """Answer SIGUSR1 in this process; called where the event loop runs."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, write)
    faulthandler.register(signal.SIGUSR1, file=sys.stderr, all_threads=True, chain=True)


def write() -> None:
    """Log each task that has not ended, with the calls it waits in, outermost first."""
    tasks = asyncio.all_tasks()
    log.warning("gateway.stacks", tasks=len(tasks))
    for task in tasks:
        log.warning("gateway.stack", task=task.get_name(), stack=" > ".join(calls(task.get_coro())))


def calls(awaited: Any) -> Iterator[str]:
    """The coroutines from `awaited` down to what is waited for, as `file:line function`."""
    while awaited is not None:
        frame = _first(awaited, _FRAMES)
        if frame is not None:
            name = frame.f_code.co_filename.rsplit("/", 1)[-1]
            yield f"{name}:{frame.f_lineno} {frame.f_code.co_name}"
        awaited = _first(awaited, _AWAITED)


def _first(of: Any, names: tuple[str, ...]) -> Any:
    return next((found for name in names if (found := getattr(of, name, None)) is not None), None)
