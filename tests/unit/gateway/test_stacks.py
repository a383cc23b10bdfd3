"""SIGUSR1 tells where each task waits, and ends nothing."""

from __future__ import annotations

import asyncio
import pathlib
import subprocess
import sys

from orochi.gateway import stacks

_ASKED = """
import asyncio, os, signal
from orochi import logs
from orochi.gateway import stacks

async def deep() -> None:
    await asyncio.sleep(3600)

async def main() -> None:
    stacks.install()
    kept = asyncio.create_task(deep(), name="kept")
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGUSR1)
    for _ in range(20):
        await asyncio.sleep(0.01)
    assert not kept.done()

logs.setup()
asyncio.run(main())
"""


async def _inner(gate: asyncio.Event) -> None:
    await gate.wait()


async def _outer(gate: asyncio.Event) -> None:
    await _inner(gate)


def test_calls_name_the_whole_chain() -> None:
    async def look() -> list[str]:
        gate = asyncio.Event()
        task = asyncio.create_task(_outer(gate))
        await asyncio.sleep(0)
        found = list(stacks.calls(task.get_coro()))
        gate.set()
        await task
        return found

    names = [call.rsplit(" ", 1)[-1] for call in asyncio.run(look())]
    assert names[:3] == ["_outer", "_inner", "wait"]


def test_a_signal_writes_threads_and_tasks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ASKED],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=pathlib.Path(stacks.__file__).parents[2],
    )
    assert "most recent call first" in done.stderr, done.stderr
    assert "kept" in done.stderr
    assert "deep >" in done.stderr
