"""What a cluster remembers in its data directory: `cluster.json`, and the lock of its supervisor.

The file is readable by its owner only, since it holds passwords, and is always replaced whole. The
lock belongs to the open file of a running supervisor; the kernel drops it with the process, so a
crash leaves no stale lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import fcntl
import json
import os
import pathlib
import secrets
import time
from typing import Any

from orochi.embedded import process

_FILE = "cluster.json"
_LOCK = "supervisor.lock"
_VERSION = 1
_ROLES = ("gateway", "coordinator", "nodes", "workers", "redis", "s3", "beat", "flower")


class Phase(enum.StrEnum):
    """Where a cluster is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclasses.dataclass(slots=True)
class ProcessState:
    """A supervised process, as last seen by its supervisor."""

    name: str
    role: str
    pid: int
    created: float
    port: int | None
    restarts: int
    healthy: bool

    @property
    def identity(self) -> process.Identity:
        """The process itself."""
        return process.Identity(self.pid, self.created)


@dataclasses.dataclass(slots=True)
class State:
    """All that is kept between runs. Only the supervisor writes it."""

    nodes: int
    workers: int
    s3: bool = False
    phase: Phase = Phase.STOPPED
    supervisor: process.Identity | None = None
    ports: dict[str, int] = dataclasses.field(default_factory=dict)
    secrets: dict[str, str] = dataclasses.field(default_factory=dict)
    processes: list[ProcessState] = dataclasses.field(default_factory=list)
    info: dict[str, Any] = dataclasses.field(default_factory=dict)

    def secret(self, name: str) -> str:
        """A password, made on first use and then kept."""
        return self.secrets.setdefault(name, secrets.token_hex(16))


def load(data_dir: pathlib.Path) -> State | None:
    """What the directory remembers, or None if no cluster was ever started on it.

    Raises:
        ValueError: the file is of another version or damaged.
    """
    path = data_dir / _FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if not isinstance(raw, dict) or raw.pop("version", None) != _VERSION:
        raise ValueError(f"{path} was not written by this version of Orochi")
    supervisor = raw.pop("supervisor")
    try:
        return State(
            phase=Phase(raw.pop("phase")),
            supervisor=None if supervisor is None else process.Identity(**supervisor),
            processes=[ProcessState(**item) for item in raw.pop("processes")],
            **raw,
        )
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def save(data_dir: pathlib.Path, state: State) -> None:
    """Replace the file; a reader sees the old one or the new one."""
    path = data_dir / _FILE
    temporary = path.with_suffix(".json.new")
    text = json.dumps({"version": _VERSION} | dataclasses.asdict(state), indent=2)
    with open(
        os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
    ) as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class AlreadyRunning(Exception):
    """Another supervisor holds the data directory."""


class Lock:
    """The right to run a cluster on a data directory."""

    def __init__(self, data_dir: pathlib.Path) -> None:
        self._path = data_dir / _LOCK
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take it. `is_locked` of another process may hold it for an instant, so try for a while.

        Raises:
            AlreadyRunning: someone else has it.
        """
        for pause in (0.01, 0.05, 0.2, None):
            if self.try_acquire():
                return
            if pause is not None:
                time.sleep(pause)
        raise AlreadyRunning(str(self._path.parent))

    def try_acquire(self) -> bool:
        """Take it if it is free now."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Give it up."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_locked(data_dir: pathlib.Path) -> bool:
    """Whether a supervisor runs on the directory now."""
    if not (data_dir / _LOCK).exists():
        return False
    lock = Lock(data_dir)
    if not lock.try_acquire():
        return True
    lock.release()
    return False


def wait_unlocked(data_dir: pathlib.Path, timeout: float) -> bool:
    """Wait until no supervisor runs on the directory; False if one still does."""
    deadline = time.monotonic() + timeout
    while is_locked(data_dir):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def running_processes(state: State) -> list[process.Identity]:
    """Processes of an earlier run that are still there, with all below them."""
    found: dict[int, process.Identity] = {}
    for item in state.processes:
        with contextlib.suppress(OSError):
            if item.identity.process() is not None:
                found[item.pid] = item.identity
                found |= {child.pid: child for child in process.descendants(item.pid)}
    return list(found.values())


def end_leftovers(data_dir: pathlib.Path) -> int:
    """End what a supervisor that was killed left behind; how many processes that were."""
    with contextlib.suppress(ValueError):
        old = load(data_dir)
        if old is not None:
            left = running_processes(old)
            # The kernel has told PostgreSQL to shut down when its supervisor died: give it time.
            process.end(left, timeout=10.0)
            return len(left)
    return 0


def pids_of(processes: list[ProcessState]) -> dict[str, list[int]]:
    """Process ids by role. A single node is the coordinator's server, listed under both."""
    pids: dict[str, list[int]] = {role: [] for role in _ROLES}
    for item in processes:
        pids[item.role].append(item.pid)
    if not pids["nodes"]:
        pids["nodes"] = list(pids["coordinator"])
    if not pids["s3"]:
        del pids["s3"]
    return pids
