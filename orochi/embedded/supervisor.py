"""Keeps processes running: starts them in tiers, restarts what dies, ends them in reverse.

A process is `STARTING` until its `ready` says yes, then `UP`; when it exits it is `WAITING` until its
back-off has passed, and is started again, for ever, until `stop`:

    STARTING ──ready──▶ UP ──exit──▶ WAITING ──back-off──▶ STARTING
        └──────exit──────────────────▶┘

All of it runs on one event loop in the main thread (`process.spawn` says why).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence

import psutil
import structlog

from orochi.embedded import nursery, process, state

log = structlog.get_logger()

_POLL_SECONDS = 0.1
_READY_POLL_SECONDS = 0.05
#: A process that was healthy for so long did not die of how it starts.
_STABLE_SECONDS = 1.0
_LONGEST_DELAY = 10.0


class StartFailed(Exception):
    """A process did not become healthy; the message shows the end of its log."""


class Condition(enum.Enum):
    """Where a service is in its life."""

    STARTING = "starting"
    UP = "up"
    WAITING = "waiting"


@dataclasses.dataclass
class Service:
    """A supervised process and its history."""

    spec: process.Spec
    child: process.Child
    created: float
    condition: Condition = Condition.STARTING
    healthy_since: float | None = None
    restarts: int = 0
    failures: int = 0  # in a row; sets the back-off
    due: float = 0.0  # when WAITING: the time of the next start

    def snapshot(self) -> state.ProcessState:
        """For `cluster.json`."""
        return state.ProcessState(
            name=self.spec.name,
            role=self.spec.role,
            pid=self.child.pid,
            created=self.created,
            port=self.spec.port,
            restarts=self.restarts,
            healthy=self.condition is Condition.UP,
        )


class Supervisor:
    """Runs services until told to stop.

    Args:
        changed: is called whenever a pid or a condition changes.
        forks: forks Orochi's own commands; without it they are started like all others.
    """

    def __init__(self, changed: Callable[[Service], None], forks: nursery.Nursery | None = None) -> None:
        self._changed = changed
        self._forks = forks
        self._services: dict[str, Service] = {}
        self._checks: set[asyncio.Task[None]] = set()
        self._reaped = 0.0
        self._strangers = {identity.pid for identity in process.descendants(os.getpid())}

    @property
    def services(self) -> list[Service]:
        """All services, in the order of their start."""
        return list(self._services.values())

    async def start(self, specs: Sequence[process.Spec]) -> None:
        """Start processes and wait until all of them are healthy.

        Raises:
            StartFailed: one exited, or did not answer in its time.
        """
        started = [self.launch(spec) for spec in specs]
        await self.wait_ready(started)

    def launch(self, spec: process.Spec) -> Service:
        """Start a process without waiting."""
        service = Service(spec, *self._spawn(spec))
        self._services[spec.name] = service
        self._changed(service)
        return service

    def supervise(self, specs: Sequence[process.Spec]) -> None:
        """Start processes without waiting; one that never becomes healthy is started again."""
        for spec in specs:
            self._check(self.launch(spec))

    async def wait_ready(self, services: Iterable[Service]) -> None:
        """Wait until all are healthy; the first that fails ends the wait.

        Raises:
            StartFailed: one exited, or did not answer in its time.
        """
        waits = [asyncio.create_task(self._first_ready(service)) for service in services]
        try:
            await asyncio.gather(*waits)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _first_ready(self, service: Service) -> None:
        if await self._becomes_ready(service):
            return
        code = service.child.poll()
        what = (
            f"did not answer within {service.spec.start_timeout:.0f} s"
            if code is None
            else f"exited with {code}"
        )
        raise StartFailed(
            f"{service.spec.name} {what} ({service.spec.log}):\n{process.tail(service.spec.log)}"
        )

    async def _becomes_ready(self, service: Service) -> bool:
        child, deadline = service.child, time.monotonic() + service.spec.start_timeout
        while time.monotonic() < deadline and child is service.child and child.poll() is None:
            if service.spec.ready is None or await service.spec.ready():
                service.condition, service.healthy_since = Condition.UP, time.monotonic()
                self._changed(service)
                return True
            await asyncio.sleep(_READY_POLL_SECONDS)
        return False

    async def watch(self, stop: asyncio.Event) -> None:
        """Restart what dies, until `stop` is set."""
        while not stop.is_set():
            now = time.monotonic()
            for service in self._services.values():
                self._look_at(service, now)
            self._reap_adopted(now)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _POLL_SECONDS)

    def _look_at(self, service: Service, now: float) -> None:
        if service.condition is Condition.WAITING:
            if now >= service.due:
                self._restart(service)
            return
        code = service.child.poll()
        if code is None:
            return
        _end_group(service.child.pid)  # a pool's children would live on beside those of the next start
        if service.spec.bury is not None:
            service.spec.bury()
        if service.healthy_since is not None and now - service.healthy_since > _STABLE_SECONDS:
            service.failures = 0
        service.healthy_since = None
        delay = min(_LONGEST_DELAY, max(service.spec.restart_delay, 0.25 * (2**service.failures - 1)))
        service.failures += 1
        service.due = now + delay
        service.condition = Condition.WAITING
        log.warning("process.exited", name=service.spec.name, code=code, restart_in=delay)
        self._changed(service)

    def _restart(self, service: Service) -> None:
        try:
            service.child, service.created = self._spawn(service.spec)
        except OSError as error:
            service.due = time.monotonic() + _LONGEST_DELAY
            log.error("process.restart_failed", name=service.spec.name, error=str(error))
            return
        service.restarts += 1
        service.condition = Condition.STARTING
        self._changed(service)
        self._check(service)

    def _spawn(self, spec: process.Spec) -> tuple[process.Child, float]:
        child: process.Child | None = None
        if self._forks is not None and spec.orochi is not None:
            with contextlib.suppress(nursery.Gone):
                child = self._forks.spawn(spec)
        if child is None:
            child = process.spawn(spec)
        identity = process.Identity.of(child.pid)
        return child, time.time() if identity is None else identity.created

    def _check(self, service: Service) -> None:
        check = asyncio.create_task(self._recheck(service, service.child))
        self._checks.add(check)
        check.add_done_callback(self._checks.discard)

    async def _recheck(self, service: Service, child: process.Child) -> None:
        if await self._becomes_ready(service):
            log.info("process.ready", name=service.spec.name, pid=child.pid)
        elif child.poll() is None and child is service.child:
            log.error("process.not_ready", name=service.spec.name, pid=child.pid)
            child.kill()  # `watch` sees it exit and starts another

    def _reap_adopted(self, now: float) -> None:
        """Collect grandchildren that ended after their own parent."""
        if now - self._reaped < 5:
            return
        self._reaped = now
        ours = {service.child.pid for service in self._services.values()}
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process().children():
                if child.pid not in ours and child.status() == psutil.STATUS_ZOMBIE:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(child.pid, os.WNOHANG)

    async def stop(self) -> None:
        """End all processes, the highest tier first, and everything below them."""
        for check in self._checks:
            check.cancel()
        for tier in sorted({service.spec.tier for service in self._services.values()}, reverse=True):
            await asyncio.gather(
                *(
                    asyncio.to_thread(_end, service)
                    for service in self._services.values()
                    if service.spec.tier == tier
                )
            )
        left = [child for child in process.descendants(os.getpid()) if child.pid not in self._strangers]
        process.end(left, timeout=0.0)


def _end(service: Service) -> None:
    """Blocks until the process and all below it are gone."""
    child, timeout = service.child, service.spec.stop_timeout
    below = process.descendants(child.pid)
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(service.spec.stop_signal)
    try:
        child.wait(timeout)
    except subprocess.TimeoutExpired:
        log.warning("process.killed", name=service.spec.name)
        below += process.descendants(child.pid)
        child.kill()
        child.wait()
    _end_group(child.pid)
    process.end(below, 2.0)


def _end_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
