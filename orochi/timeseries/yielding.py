"""Work that gives way: heavy steps of maintenance yield the processor to queries, and so do servers' processes that serve them.

Linux knows the priority of a thread, and how long it may go on before others that wake up are let in: to them a
low priority alone would mean to wait for the end of each slice that it has begun. What is done under locks keeps the process's own: whoever waits for a lock must
not wait for a step that waits for everybody else.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import platform
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any, TypeVar

import psycopg

Result = TypeVar("Result")

#: Of 40 priorities nearly the last: a fiftieth of the processor that a query gets.
_NICE = 18
_PROCESSES = pathlib.Path("/proc")
#: Linux shares processors by session first, where it has such groups.
_AUTOGROUP = _PROCESSES / "self" / "autogroup"
#: sched_setattr(2), which libraries do not wrap: its number; and a struct sched_attr of its first version.
_SET_ATTRIBUTES = {"x86_64": 314, "aarch64": 274}.get(platform.machine())
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
#: Nanoseconds; since Linux 6.12 those with shorter slices, some 3 ms, interrupt one who has longer ones.
_LONG_SLICE = 20_000_000
#: Others than root may change that ten times a second, all together.
_GROUP_ATTEMPTS, _GROUP_PAUSE_SECONDS = 6, 0.025


def done(work: Callable[[], Result], nice: int = _NICE) -> Result:
    """What `work` gives, done by a thread that yields to everybody."""
    with futures.ThreadPoolExecutor(1, "yielding", _yield, (nice,)) as pool:
        return pool.submit(work).result()


def _yield(nice: int) -> None:
    with contextlib.suppress(OSError):
        lower(threading.get_native_id(), nice)


def lower(thread: int, nice: int) -> None:
    """Give a thread, by its number, a priority, and slices so long that whoever wakes up interrupts it.

    Raises:
        OSError: it is not there, or not ours.
    """
    os.setpriority(os.PRIO_PROCESS, thread, nice)
    if _SET_ATTRIBUTES is not None:
        wanted = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_BATCH, 0, nice, 0, _LONG_SLICE, 0, 0)
        ctypes.CDLL(None).syscall(_SET_ATTRIBUTES, thread, wanted, 0)  # refused by what knows no slices


def session(nice: int) -> None:
    """Have all of our session yield, or no more; nothing is done where it is others' session as well."""
    if os.getsid(0) != os.getpid():
        return
    for _ in range(_GROUP_ATTEMPTS):
        try:
            _AUTOGROUP.write_text(str(nice))
        except BlockingIOError:
            time.sleep(_GROUP_PAUSE_SECONDS)
        except OSError:  # there are no such groups
            return
        else:
            return


def serve(connection: psycopg.Connection[Any], nice: int) -> bool:
    """Have the server's process of a connection yield as much as ours does; False where it is not on this host, or others'."""
    pid = connection.info.backend_pid
    try:
        # ours by the port that it prints, not another of the same number elsewhere
        with socket.socket(fileno=os.dup(connection.fileno())) as sock:
            port = sock.getsockname()[1] if sock.family in (socket.AF_INET, socket.AF_INET6) else None
        title = (_PROCESSES / str(pid) / "cmdline").read_bytes()
        if port is None or not title.startswith(b"postgres") or b"(%d)" % port not in title:
            return False
        lower(pid, nice)
    except OSError:
        return False
    return True
