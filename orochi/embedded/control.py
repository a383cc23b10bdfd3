"""Looking at a cluster and stopping it, from another process than its supervisor."""

from __future__ import annotations

import dataclasses
import pathlib
import signal
import time
from typing import Any

import psutil

from orochi.embedded import process, state

_STOP_SECONDS = 90.0


class StopFailed(Exception):
    """A process could not be ended."""


def stop(data_dir: pathlib.Path, timeout: float = _STOP_SECONDS) -> bool:
    """End a cluster and wait until nothing of it is left; False if none was running.

    Raises:
        StopFailed: a process is still there, not even killed by SIGKILL.
    """
    if not state.is_locked(data_dir):
        return state.end_leftovers(data_dir) > 0
    supervisor = _supervisor_of(data_dir)
    if supervisor is not None:
        supervisor.signal(signal.SIGTERM)
    if state.wait_unlocked(data_dir, timeout):
        return True
    if supervisor is not None:
        supervisor.signal(signal.SIGKILL)
    if not state.wait_unlocked(data_dir, 5.0):
        raise StopFailed(f"the supervisor of {data_dir} does not end")
    state.end_leftovers(data_dir)
    return True


def _supervisor_of(data_dir: pathlib.Path) -> process.Identity | None:
    """Who holds the lock; it writes its name a moment after it took it."""
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        known = state.load(data_dir)
        if known is not None and known.supervisor is not None and known.supervisor.process() is not None:
            return known.supervisor
        time.sleep(0.05)
    return None


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One process in `orochi status`."""

    name: str
    role: str
    pid: int
    port: int | None
    health: str
    restarts: int
    uptime: float | None
    memory: int | None


def status(data_dir: pathlib.Path) -> tuple[state.Phase, dict[str, Any], list[Line]]:
    """The phase, what `orochi up --json` printed with the pids of now, and every process.

    Raises:
        FileNotFoundError: no cluster was ever started on the directory.
    """
    known = state.load(data_dir)
    if known is None:
        raise FileNotFoundError(f"no cluster in {data_dir}")
    phase = known.phase if state.is_locked(data_dir) else state.Phase.STOPPED
    processes = known.processes if phase is not state.Phase.STOPPED else []
    info = known.info | {"pids": state.pids_of(processes)}
    return phase, info, [_line(item) for item in processes]


def _line(item: state.ProcessState) -> Line:
    uptime = memory = None
    running = item.identity.process()
    if running is not None:
        try:
            uptime, memory = time.time() - item.created, int(running.memory_info().rss)
        except psutil.Error:
            running = None
    health = "restarting" if running is None else "up" if item.healthy else "starting"
    return Line(item.name, item.role, item.pid, item.port, health, item.restarts, uptime, memory)
