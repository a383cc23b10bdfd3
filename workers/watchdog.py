"""Ends a worker process that lives but takes no more tasks, so that its supervisor starts another.

A Celery consumer can come back from the loss of its broker without listening to its queues again:
the process beats, tasks wait, nobody takes them. A worker that has nothing to do for a while, while
there is something in a queue that it should consume, is such a one; an idle consumer takes a message
within milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import redis
import structlog
from celery.worker import state

log = structlog.get_logger()

_LOOK_SECONDS = 1.0
#: How long a message may lie in the queue of an idle consumer. Long against a consumer's pace, short
#: against the patience of who waits for the task.
DEAF_SECONDS = 8.0


class Watchdog:
    """Judges a worker by what it has begun, what it is busy with, and what waits for it. No I/O."""

    def __init__(self, patience: float = DEAF_SECONDS) -> None:
        """`patience`: seconds that an idle worker may leave messages lying."""
        self._patience = patience
        self._since: float | None = None
        self._begun = -1

    def is_deaf(self, *, begun: int, busy: bool, waiting: int, now: float) -> bool:
        """Whether the worker leaves its messages lying: `begun` tasks so far, `waiting` messages now."""
        if busy or not waiting or begun != self._begun:
            self._begun, self._since = begun, None
            return False
        if self._since is None:
            self._since = now
        return now - self._since >= self._patience


def start(url: str, queues: Callable[[], Iterable[str]]) -> None:
    """Watch this process from a thread of its own; `queues` names what it should consume at the moment."""
    watching = threading.Thread(target=_watch, args=(url, queues), name="watchdog", daemon=True)
    watching.start()


def _watch(url: str, queues: Callable[[], Iterable[str]]) -> None:
    client, dog = redis.Redis.from_url(url, socket_timeout=10), Watchdog()
    while True:
        time.sleep(_LOOK_SECONDS)
        waiting = 0
        with contextlib.suppress(redis.RedisError, OSError):  # no broker: nothing waits
            waiting = _waiting(client, tuple(queues()))
        begun, busy = state.all_total_count[0], bool(state.reserved_requests or state.active_requests)
        if dog.is_deaf(begun=begun, busy=busy, waiting=waiting, now=time.monotonic()):
            log.error("worker.deaf", waiting=waiting, begun=begun)
            os._exit(1)  # its loop may hang where no signal reaches it; it holds no task that could be lost


def _waiting(client: Any, queues: tuple[str, ...]) -> int:
    """How many messages lie in the queues."""
    pipeline = client.pipeline(transaction=False)
    for queue in queues:
        pipeline.llen(queue)
    return sum(pipeline.execute())
