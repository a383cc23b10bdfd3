"""Orochi's own processes in a cluster: gateway, workers, beat and Flower.

They are started as `orochi <command>` like everywhere else, and configured by `OROCHI_*` variables
only, so that what runs here is what runs in production.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import psycopg

from orochi.embedded import ports, probe, process

FLOWER_USER = "orochi"
GATEWAY_TIER, WORKER_TIER, WATCHER_TIER = 2, 2, 3


@dataclasses.dataclass(frozen=True, slots=True)
class Fleet:
    """What all of them are given.

    Attributes:
        data_dir: the cluster's folder; a node's worker gets `node<N>` below it.
        settings: `OROCHI_*` variables common to all, and credentials of the object store.
        nodes: how many nodes' workers share this host.
        gateway_dsn: for the gateway's health check.
    """

    data_dir: pathlib.Path
    settings: Mapping[str, str]
    nodes: int
    gateway_dsn: str
    gateway_port: int
    flower_port: int
    flower_password: str

    def gateway(self) -> process.Spec:
        """The gateway."""
        return self._spec("gateway", GATEWAY_TIER, ["gateway"], {}, self._gateway_answers, self.gateway_port)

    def workers(self, node_id: int, folder: pathlib.Path, slots: int) -> list[process.Spec]:
        """The workers of a node, which keep its stripes in `folder`."""
        threads = max(1, (os.cpu_count() or 1) // (self.nodes * slots))
        settings = {**self.settings, "OROCHI_STRIPE_THREADS": str(threads)}
        return worker_specs(node_id, self.data_dir, folder, slots, settings, logs=self.data_dir / "logs")

    def beat(self) -> process.Spec:
        """The scheduler."""
        folder = self.data_dir / "beat"
        folder.mkdir(exist_ok=True, mode=0o700)
        schedule = folder / "schedule"
        written = _Written(folder, schedule.name)
        spec = self._spec("beat", WATCHER_TIER, ["beat", "--schedule", str(schedule)], {}, written.check)
        return dataclasses.replace(spec, prepare=written.forget)

    def flower(self) -> process.Spec:
        """Flower, on loopback and behind a password."""
        credentials = f"{FLOWER_USER}:{self.flower_password}"

        async def answers() -> bool:
            return await probe.status(self.flower_port, "/healthcheck", credentials) == 200

        options = ["flower", "--host", ports.LOOPBACK, "--port", str(self.flower_port)]
        own = {"FLOWER_BASIC_AUTH": credentials}
        return self._spec("flower", WATCHER_TIER, options, own, answers, self.flower_port)

    async def _gateway_answers(self) -> bool:
        """A whole round: authentication and a statement, through the gateway to the coordinator."""
        try:
            async with await psycopg.AsyncConnection.connect(
                self.gateway_dsn, connect_timeout=3
            ) as connection:
                await connection.execute("SELECT 1")
        except psycopg.Error:
            return False
        return True

    def _spec(
        self,
        name: str,
        tier: int,
        arguments: Sequence[str],
        own: Mapping[str, str],
        ready: Callable[[], Awaitable[bool]],
        port: int | None = None,
    ) -> process.Spec:
        environment = {**self.settings, "OROCHI_DATA_DIR": str(self.data_dir), **own}
        log = self.data_dir / "logs" / f"{name}.log"
        return dataclasses.replace(
            _orochi(arguments, self.data_dir, environment, log),
            name=name,
            role=name,
            tier=tier,
            ready=ready,
            port=port,
        )


def worker_specs(
    node_id: int,
    data_dir: pathlib.Path,
    folder: pathlib.Path,
    slots: int,
    settings: Mapping[str, str],
    *,
    logs: pathlib.Path | None,
) -> list[process.Spec]:
    """A process for each slot of a node, one for its background work and one for jobs.

    Args:
        node_id: whose queues they serve.
        data_dir: for readiness markers and caches.
        folder: the node's own folder, for stripes.
        slots: fragments it runs at the same time.
        settings: variables beside those of this process.
        logs: the folder of log files; None leaves output where ours goes.
    """
    options = {f"worker{node_id}.{slot}": ["--slot", str(slot)] for slot in range(slots)}
    options[f"maintenance{node_id}"] = ["--maintenance"]
    options[f"jobs{node_id}"] = ["--jobs"]
    specs = []
    for name, option in options.items():
        marker = data_dir / "run" / f"{name}.ready"
        environment = {
            **settings,
            "OROCHI_DATA_DIR": str(folder),
            "OROCHI_NODE_ID": str(node_id),
            "OROCHI_READY_FILE": str(marker),
        }
        log = None if logs is None else logs / f"{name}.log"
        base = _orochi(["worker", "--node", str(node_id), *option], data_dir, environment, log)
        specs.append(
            dataclasses.replace(
                base,
                name=name,
                role="workers",
                tier=WORKER_TIER,
                ready=_appears(marker),
                prepare=_removes(marker),
            )
        )
    return specs


def _orochi(
    arguments: Sequence[str], data_dir: pathlib.Path, environment: Mapping[str, str], log: pathlib.Path | None
) -> process.Spec:
    return process.Spec(
        name="",
        role="",
        tier=0,
        argv=[sys.executable, "-m", "orochi.cli", *arguments],
        environment=python_environment(data_dir) | dict(environment),
        cwd=data_dir,
        log=log,
        orochi=arguments,
    )


def python_environment(data_dir: pathlib.Path) -> dict[str, str]:
    """Ours, with the package importable from anywhere and caches kept out of the home folder."""
    root = str(pathlib.Path(__file__).resolve().parents[2])
    path = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return dict(os.environ) | {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(path)),
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",
        "NUMBA_CACHE_DIR": str(_numba_cache(data_dir)),
    }


def _numba_cache(data_dir: pathlib.Path) -> pathlib.Path:
    """In the virtual environment, so that every cluster of it shares compiled kernels."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return pathlib.Path(chosen)
    prefix = pathlib.Path(sys.prefix)
    if sys.prefix != sys.base_prefix and os.access(prefix, os.W_OK):
        return prefix / ".numba-cache"
    return data_dir / "cache" / "numba"


def _appears(marker: pathlib.Path) -> Callable[[], Awaitable[bool]]:
    return _asynchronous(marker.exists)


def _asynchronous(check: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return check()

    return ready


def _removes(marker: pathlib.Path) -> Callable[[], None]:
    def remove() -> None:
        marker.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            marker.unlink()

    return remove


class _Written:
    """Whether a file whose name begins with `prefix` was written since the last `forget`."""

    def __init__(self, folder: pathlib.Path, prefix: str) -> None:
        self._folder, self._prefix, self._since = folder, prefix, time.time()

    def forget(self) -> None:
        """Start anew."""
        self._since = time.time()

    async def check(self) -> bool:
        """For `process.Spec.ready`."""
        return any(path.stat().st_mtime >= self._since for path in self._folder.glob(f"{self._prefix}*"))
