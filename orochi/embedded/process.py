"""One child process: how it is described, started and ended.

A child leads a session of its own, so a terminal's Ctrl-C reaches only the supervisor, and the
kernel signals it when the supervisor dies, whatever killed that: no child outlives it.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import IO, Protocol

import psutil

from orochi.embedded import accounts

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_ROTATE_BYTES = 16 << 20

# Looked up here, in the parent: between fork and exec nothing may be imported or allocated much.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclasses.dataclass(frozen=True)
class Spec:
    """What to run and how to treat it.

    Attributes:
        name: unique in a supervisor; also the log file's name.
        role: the key of `pids` it is listed under.
        tier: services of a higher tier are stopped before those of a lower one.
        environment: the whole environment, nothing is inherited.
        ready: True once it answers; None means "as soon as it runs".
        log: gets stdout and stderr; None leaves them where ours go.
        account: the user to run as, None for oneself.
        stop_signal: asks for an orderly end; `stop_timeout` seconds later it is killed.
        death_signal: what the kernel sends when the supervisor dies.
        restart_delay: seconds before the first restart; later ones back off.
        prepare: called before each start (removes what a crash left).
        bury: called when it has died by itself (ends what lives on without it).
        orochi: the arguments if it is one of Orochi's own commands, which a nursery can fork.
    """

    name: str
    role: str
    tier: int
    argv: Sequence[str]
    environment: Mapping[str, str]
    cwd: pathlib.Path
    log: pathlib.Path | None
    ready: Callable[[], Awaitable[bool]] | None = None
    port: int | None = None
    account: accounts.Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout: float = 10.0
    death_signal: signal.Signals = signal.SIGKILL
    restart_delay: float = 0.0
    start_timeout: float = 120.0
    prepare: Callable[[], None] | None = None
    bury: Callable[[], None] | None = None
    orochi: Sequence[str] | None = None


class Child(Protocol):
    """A process that this one waits for."""

    pid: int

    def poll(self) -> int | None:
        """Its exit code, negative for a signal, once it has ended."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises `subprocess.TimeoutExpired`."""

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""

    def kill(self) -> None:
        """Send it SIGKILL."""


class Adopted:
    """A child that another process forked for us (`nursery`)."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, negative for a signal, once it has ended."""
        if self._code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self._code = -1  # someone else collected it
            else:
                self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it has not ended in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(0.02)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signal.SIGKILL)


def spawn(spec: Spec) -> subprocess.Popen[bytes]:
    """Start the process. To be called from the main thread only.

    The kernel counts the thread that forked as the parent whose death is signalled, so a
    thread that ends would take the child with it.
    """
    if spec.prepare is not None:
        spec.prepare()
    account: dict[str, object] = {} if spec.account is None else spec.account.popen_arguments()
    with output(spec.log) as log:
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            list(spec.argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=spec.cwd,
            env=dict(spec.environment),
            start_new_session=True,
            preexec_fn=_follow_parent(spec.death_signal),  # noqa: PLW1509  (it takes no lock)
            **account,
        )


def output(log: pathlib.Path | None) -> contextlib.AbstractContextManager[IO[bytes] | None]:
    """The log opened for appending; None where there is none."""
    if log is None:
        return contextlib.nullcontext()
    rotate(log)
    return log.open("ab")


def _follow_parent(death_signal: signal.Signals) -> Callable[[], None]:
    parent = os.getpid()
    return lambda: follow_parent(death_signal, parent)


def follow_parent(death_signal: signal.Signals, parent: int) -> None:
    """Have the kernel send this process a signal when its parent dies (Linux)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it died before that
            os._exit(1)


def set_name(name: str) -> None:
    """What `top` calls this process (Linux)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def adopt_orphans() -> None:
    """Make this process the parent of grandchildren whose own parent dies (Linux)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def rotate(log: pathlib.Path) -> None:
    """Move a log that grew large aside, keeping one old file."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _ROTATE_BYTES:
            log.replace(log.with_suffix(".log.1"))


def tail(log: pathlib.Path | None, lines: int = 15) -> str:
    """The last lines of a log, to show with an error."""
    if log is None:
        return ""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """A process for ever: the pid alone is reused by the kernel."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """Of a running process, or None."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    def process(self) -> psutil.Process | None:
        """The process, if it still is this one and no zombie."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < 0.05
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal to it; False if it is gone."""
        process = self.process()
        if process is None:
            return False
        try:
            process.send_signal(number)
        except psutil.Error:
            return False
        return True


def descendants(pid: int) -> list[Identity]:
    """All processes below `pid`; sessions and process groups do not matter."""
    try:
        found = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
    identities = (Identity.of(child.pid) for child in found)
    return [identity for identity in identities if identity is not None]


def end(identities: Sequence[Identity], timeout: float) -> None:
    """Give processes that should be gone `timeout` seconds, then kill those that are not."""
    deadline = time.monotonic() + timeout
    left = [identity for identity in identities if identity.process() is not None]
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = [identity for identity in left if identity.process() is not None]
    for identity in left:
        identity.signal(signal.SIGKILL)
