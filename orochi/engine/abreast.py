"""Stripes that a few threads of a process work on side by side: kernels do not hold the interpreter."""

from __future__ import annotations

import concurrent.futures
import functools
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from orochi import settings as process_settings

Result = TypeVar("Result")

#: Threads of one process that work on stripes.
_MOST_THREADS = 4


def run(tasks: Sequence[Callable[[], Result]]) -> list[Result]:
    """What each of the tasks returns, in their order."""
    if len(tasks) > 1 and (threads := _threads()) > 1:
        return list(_pool(os.getpid(), threads).map(lambda task: task(), tasks))
    return [task() for task in tasks]


def _threads() -> int:
    """How many there are: more than there are processors for would only wait for each other."""
    settings = process_settings.get()
    share = (os.cpu_count() or 1) // settings.parallel_workers
    return max(1, min(_MOST_THREADS, settings.stripe_threads or share))


@functools.lru_cache(maxsize=1)
def _pool(_process: int, count: int) -> concurrent.futures.ThreadPoolExecutor:
    """The process's threads; a forked child makes its own."""
    return concurrent.futures.ThreadPoolExecutor(count, thread_name_prefix="orochi-fused")
