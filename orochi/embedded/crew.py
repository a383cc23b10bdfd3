"""`orochi worker` on a machine of its own: a node's slots and its background work, supervised.

The processes write to this one's stdout and stderr, as a container's should. While all of them are
healthy a file's time stays fresh, which is what `orochi health worker` looks at.
"""

from __future__ import annotations

import asyncio
import pathlib
import signal
import time

from orochi import settings as settings_module
from orochi.embedded import fleet, nursery, process, supervisor

_BEAT_SECONDS = 5.0
_FRESH_SECONDS = 30.0


def run(node_id: int, settings: settings_module.Settings) -> None:
    """Run the workers of a node until SIGTERM or SIGINT."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    process.adopt_orphans()
    asyncio.run(_run(node_id, settings))


async def _run(node_id: int, settings: settings_module.Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    data_dir = settings.data_dir.resolve()
    forks = nursery.open_nursery(fleet.python_environment(data_dir), None)
    crew = supervisor.Supervisor(lambda _service: None, forks)
    heartbeat = asyncio.create_task(_heartbeat(crew, _marker(settings)))
    try:
        if forks is not None:
            await asyncio.to_thread(forks.wait_ready)
        crew.supervise(
            fleet.worker_specs(node_id, data_dir, data_dir, settings.parallel_workers, {}, logs=None)
        )
        await crew.watch(stop)
    finally:
        heartbeat.cancel()
        if forks is not None:
            forks.close()
        await crew.stop()


async def _heartbeat(crew: supervisor.Supervisor, marker: pathlib.Path) -> None:
    _prepare(marker)
    while True:
        services = crew.services
        healthy = bool(services) and all(each.condition is supervisor.Condition.UP for each in services)
        if healthy:
            _touch(marker)
        await asyncio.sleep(_BEAT_SECONDS if healthy else 0.2)


def _prepare(marker: pathlib.Path) -> None:
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.unlink(missing_ok=True)


def _touch(marker: pathlib.Path) -> None:
    marker.touch()


def is_healthy(settings: settings_module.Settings) -> bool:
    """Whether the workers that use this data directory were all healthy a moment ago."""
    try:
        return time.time() - _marker(settings).stat().st_mtime < _FRESH_SECONDS
    except OSError:
        return False


def _marker(settings: settings_module.Settings) -> pathlib.Path:
    return settings.data_dir / "run" / "worker.healthy"
