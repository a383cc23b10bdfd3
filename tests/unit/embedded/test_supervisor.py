from __future__ import annotations

import asyncio
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest

from orochi.embedded import process, supervisor


def _spec(
    folder: pathlib.Path,
    name: str,
    script: str,
    *,
    tier: int = 0,
    ready: bool = False,
    stop_timeout: float = 5.0,
    start_timeout: float = 60.0,
) -> process.Spec:
    marker = folder / f"{name}.ready"

    async def is_ready() -> bool:
        return marker.exists()

    return process.Spec(
        name=name,
        role=name,
        tier=tier,
        argv=["/bin/sh", "-c", script],
        environment={"PATH": os.environ["PATH"], "READY": str(marker)},
        cwd=folder,
        log=folder / f"{name}.log",
        ready=is_ready if ready else None,
        stop_timeout=stop_timeout,
        start_timeout=start_timeout,
        prepare=lambda: marker.unlink(missing_ok=True),
    )


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def _until(check: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def test_waits_until_ready_and_restarts_what_dies(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        kept = supervisor.Supervisor(lambda _service: None)
        await kept.start([_spec(tmp_path, "a", 'sleep 0.1; touch "$READY"; exec sleep 60', ready=True)])
        (service,) = kept.services
        assert service.condition is supervisor.Condition.UP
        first, stop = service.child.pid, asyncio.Event()
        watching = asyncio.create_task(kept.watch(stop))
        os.kill(first, signal.SIGKILL)
        await _until(lambda: service.restarts == 1 and service.condition is supervisor.Condition.UP)
        assert service.child.pid != first
        stop.set()
        await watching
        await kept.stop()
        assert _gone(service.child.pid)

    asyncio.run(main())


def test_a_process_that_exits_at_once_is_an_error_that_shows_its_log(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        kept = supervisor.Supervisor(lambda _service: None)
        good = _spec(tmp_path, "good", "exec sleep 60")
        bad = _spec(tmp_path, "bad", "echo what went wrong >&2; exit 3", ready=True)
        try:
            with pytest.raises(supervisor.StartFailed, match=r"(?s)bad exited with 3 .*what went wrong"):
                await kept.start([good, bad])
        finally:
            await kept.stop()
        assert all(_gone(service.child.pid) for service in kept.services)

    asyncio.run(main())


def test_a_process_that_never_answers_is_an_error(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        kept = supervisor.Supervisor(lambda _service: None)
        try:
            with pytest.raises(supervisor.StartFailed, match="did not answer within"):
                await kept.start([_spec(tmp_path, "mute", "exec sleep 60", ready=True, start_timeout=0.3)])
        finally:
            await kept.stop()

    asyncio.run(main())


def test_restarts_back_off(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        kept = supervisor.Supervisor(lambda _service: None)
        kept.supervise([_spec(tmp_path, "crash", "exit 1")])
        stop = asyncio.Event()
        watching = asyncio.create_task(kept.watch(stop))
        await asyncio.sleep(1.5)
        restarts = kept.services[0].restarts
        await _until(lambda: kept.services[0].restarts > 0)
        stop.set()
        await watching
        await kept.stop()
        assert restarts <= 4

    asyncio.run(main())


def test_what_was_healthy_is_back_at_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_STABLE_SECONDS", -1.0)
    buried: list[int] = []

    async def main() -> None:
        kept = supervisor.Supervisor(lambda _service: None)
        spec = _spec(tmp_path, "a", 'touch "$READY"; exec sleep 60', ready=True)
        await kept.start([dataclasses.replace(spec, bury=lambda: buried.append(kept.services[0].child.pid))])
        (service,) = kept.services
        stop = asyncio.Event()
        watching = asyncio.create_task(kept.watch(stop))
        for count in range(1, 4):
            os.kill(service.child.pid, signal.SIGKILL)
            await _until(
                lambda n=count: service.restarts == n and service.condition is supervisor.Condition.UP
            )
            assert service.failures == 1
        stop.set()
        await watching
        await kept.stop()

    asyncio.run(main())
    assert len(set(buried)) == 3


def test_stops_tiers_in_reverse_and_kills_what_does_not_listen(tmp_path: pathlib.Path) -> None:
    order = tmp_path / "order"

    async def main() -> list[int]:
        kept = supervisor.Supervisor(lambda _service: None)
        tell = 'trap \'echo {0} >> "{1}"; exit 0\' TERM; touch "$READY"; while :; do sleep 0.05; done'
        await kept.start([_spec(tmp_path, "low", tell.format("low", order), tier=0, ready=True)])
        deaf = "trap '' TERM; sleep 60 & sleep 61 & wait; wait"
        await kept.start(
            [
                _spec(tmp_path, "high", tell.format("high", order), tier=1, ready=True),
                _spec(tmp_path, "deaf", deaf, tier=1, stop_timeout=0.3),
            ]
        )
        await _until(lambda: len(process.descendants(kept.services[-1].child.pid)) == 2)
        pids = [below.pid for service in kept.services for below in process.descendants(service.child.pid)]
        await kept.stop()
        return pids + [service.child.pid for service in kept.services]

    pids = asyncio.run(main())
    assert order.read_text().split() == ["high", "low"]
    assert len(pids) >= 5
    assert all(_gone(pid) for pid in pids)


def test_children_die_with_a_supervisor_that_is_killed(tmp_path: pathlib.Path) -> None:
    script = f"""
import pathlib, sys, time
from orochi.embedded import process
child = process.spawn(process.Spec(name="c", role="c", tier=0, argv=["/bin/sleep", "60"],
    environment={{}}, cwd=pathlib.Path({str(tmp_path)!r}), log=pathlib.Path({str(tmp_path / "c.log")!r})))
print(child.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not _gone(child)
        parent.kill()
    asyncio.run(_until(lambda: _gone(child)))


def test_an_identity_is_not_fooled_by_a_reused_pid() -> None:
    mine = process.Identity.of(os.getpid())
    assert mine is not None
    assert mine.process() is not None
    assert process.Identity(mine.pid, mine.created - 100).process() is None
    assert process.Identity(mine.pid, mine.created - 100).signal(signal.SIGKILL) is False


def test_large_logs_are_moved_aside(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"x\n" * (9 << 20))
    process.rotate(log)
    assert not log.exists()
    assert process.tail(tmp_path / "a.log.1", 2) == "x\nx"
    assert process.tail(log) == ""
