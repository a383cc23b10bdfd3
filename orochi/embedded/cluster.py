"""A cluster on one machine: which servers there are, on which ports, in which order they start.

`run` owns the data directory from its first line to its last. Whatever ends it (a signal, an error,
the end of the process that asked for it), it returns only when none of its processes is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
import os
import pathlib
import signal
from collections.abc import Callable
from typing import Any

import structlog

from orochi.embedded import fleet, nursery, objectstore, ports, postgres, process, state, supervisor, valkey

log = structlog.get_logger()

_POSTGRES_TIER, _STORE_TIER = 0, 1
Report = Callable[[str, dict[str, Any]], None]


class Refused(Exception):
    """The options do not fit the data directory, or the machine; the message says what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What `orochi up` was asked for; None means "as before", or the default on a new directory."""

    data_dir: pathlib.Path
    port: int | None = None
    nodes: int | None = None
    workers: int | None = None
    s3: bool | None = None
    owner: int | None = None  # stop when this process ends


class Cluster:
    """The servers of one data directory. `report` hears `(event, details)` as they happen."""

    def __init__(self, options: Options, report: Report) -> None:
        self._options = options
        self._report = report
        self._data_dir = options.data_dir.resolve()
        self._state = _remembered(options)
        self._nursery = nursery.open_nursery(
            fleet.python_environment(self._data_dir) | {"OROCHI_DATA_DIR": str(self._data_dir)},
            self._log("nursery"),
        )
        self._supervisor = supervisor.Supervisor(self._service_changed, self._nursery)
        self._install: postgres.Install | None = None
        self._store: objectstore.Server | None = None

    async def run(self) -> None:
        """Start everything, keep it running until told to stop, and end it.

        Raises:
            Refused: the options do not fit.
            supervisor.StartFailed: a process did not become healthy.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop.set)
        owner = asyncio.create_task(self._watch_owner(stop))
        try:
            if await _unless_stopped(self._start(), stop):
                self._enter(state.Phase.RUNNING)
                self._report("up", self._state.info)
                await self._supervisor.watch(stop)
        finally:
            owner.cancel()
            self._enter(state.Phase.STOPPING)
            self._report("stopping", {})
            if self._nursery is not None:
                self._nursery.close()
            await self._supervisor.stop()
            self._clean()
            self._state.processes = []
            self._enter(state.Phase.STOPPED)
            self._report("stopped", {})

    async def _start(self) -> None:
        self._state.supervisor = process.Identity.of(os.getpid())
        self._enter(state.Phase.STARTING)
        try:
            self._state.ports = ports.assign(
                self._port_names(),
                self._state.ports,
                {} if self._options.port is None else {"gateway": self._options.port},
            )
            self._install = await asyncio.to_thread(postgres.find_install)
        except (OSError, LookupError) as error:
            raise Refused(str(error)) from error
        warm = asyncio.create_task(asyncio.to_thread(importlib.import_module, "orochi.embedded.registry"))
        broker, stores = self._valkey(), self._stores()
        servers = self._servers(self._install)
        outer = [self._supervisor.launch(spec) for spec in (broker.spec(_STORE_TIER), *stores)]
        fresh = await postgres.initialise_all(servers)
        await self._supervisor.start([server.spec(_POSTGRES_TIER) for server in servers])
        await asyncio.gather(*(server.create_database() for server in servers), warm)
        nodes = [server for server in servers if server.role == "nodes"]
        node_ids = await asyncio.to_thread(
            _install_catalog, servers[0].dsn(), [server.dsn() for server in nodes or servers]
        )
        await self._supervisor.wait_ready(outer)
        self._state.info = self._info(servers, broker)
        crew = self._fleet(servers[0], broker)
        specs = [crew.gateway()]
        for number, node_id in enumerate(node_ids, start=1):
            specs += crew.workers(node_id, self._node_folder(number), self._state.workers)
        if self._nursery is not None:
            await asyncio.to_thread(self._nursery.wait_ready)
        synced = asyncio.create_task(postgres.sync_all(fresh))
        await self._supervisor.start([*specs, crew.beat(), crew.flower()])
        await synced
        self._state.info["pids"] = self._pids()

    def _port_names(self) -> list[str]:
        numbered = (
            [f"node{number}" for number in range(1, self._state.nodes + 1)] if self._state.nodes > 1 else []
        )
        stores = list(objectstore.PORTS) if self._state.s3 else []
        return ["gateway", "coordinator", *numbered, "redis", "flower", *stores]

    def _servers(self, install: postgres.Install) -> list[postgres.Server]:
        """The coordinator, and the data nodes beside it; a single node is the coordinator itself."""
        names = ["coordinator"]
        if self._state.nodes > 1:
            names += [f"node{number}" for number in range(1, self._state.nodes + 1)]
        return [
            postgres.Server(
                name=name,
                role="coordinator" if name == "coordinator" else "nodes",
                folder=self._folder(name, 0o711),
                port=self._state.ports[name],
                password=self._state.secret("postgres"),
                install=install,
                log=self._log(name),
            )
            for name in names
        ]

    def _valkey(self) -> valkey.Server:
        return valkey.Server(
            self._folder("valkey"),
            self._state.ports["redis"],
            self._state.secret("redis"),
            self._log("valkey"),
        )

    def _stores(self) -> list[process.Spec]:
        if not self._state.s3:
            return []
        self._store = objectstore.Server(
            self._folder("s3"),
            {name: self._state.ports[name] for name in objectstore.PORTS},
            self._state.secret("s3"),
            self._log("s3"),
        )
        return [self._store.spec(_STORE_TIER)]

    def _fleet(self, coordinator: postgres.Server, broker: valkey.Server) -> fleet.Fleet:
        settings = {
            "OROCHI_COORDINATOR_DSN": coordinator.dsn(),
            "OROCHI_REDIS_URL": broker.url,
            "OROCHI_NODE_USER": postgres.USER,
            "OROCHI_NODE_PASSWORD": coordinator.password,
            "OROCHI_GATEWAY_HOST": ports.LOOPBACK,
            "OROCHI_GATEWAY_PORT": str(self._state.ports["gateway"]),
            "OROCHI_PARALLEL_WORKERS": str(self._state.workers),
        }
        return fleet.Fleet(
            data_dir=self._data_dir,
            settings=settings if self._store is None else settings | self._store.settings(),
            nodes=self._state.nodes,
            gateway_dsn=self._state.info["dsn"],
            gateway_port=self._state.ports["gateway"],
            flower_port=self._state.ports["flower"],
            flower_password=self._state.secret("flower"),
        )

    def _info(self, servers: list[postgres.Server], broker: valkey.Server) -> dict[str, Any]:
        """What `orochi up --json` prints."""
        coordinator = servers[0]
        nodes = servers[1:] or servers
        gateway = dataclasses.replace(coordinator, port=self._state.ports["gateway"])
        flower = f"{fleet.FLOWER_USER}:{self._state.secret('flower')}@{ports.LOOPBACK}:{self._state.ports['flower']}"
        info: dict[str, Any] = {
            "dsn": gateway.dsn(),
            "coordinator_dsn": coordinator.dsn(),
            "node_dsns": [server.dsn() for server in nodes],
            "redis_url": broker.url,
            "flower_url": f"http://{flower}",
            "dashboard_url": None,
            "data_dir": str(self._data_dir),
            "pids": {},
        }
        if self._store is not None:
            info["s3"] = {
                "endpoint": self._store.endpoint,
                "bucket": objectstore.BUCKET,
                "access_key": objectstore.ACCESS_KEY,
                "secret_key": self._store.secret_key,
            }
        return info

    def _pids(self) -> dict[str, list[int]]:
        return state.pids_of([service.snapshot() for service in self._supervisor.services])

    def _service_changed(self, service: supervisor.Service) -> None:
        self._state.processes = [item.snapshot() for item in self._supervisor.services]
        if self._state.info:
            self._state.info["pids"] = self._pids()
        state.save(self._data_dir, self._state)
        self._report("service", dataclasses.asdict(service.snapshot()))

    def _enter(self, phase: state.Phase) -> None:
        self._state.phase = phase
        state.save(self._data_dir, self._state)

    async def _watch_owner(self, stop: asyncio.Event) -> None:
        owner = None if self._options.owner is None else process.Identity.of(self._options.owner)
        while self._options.owner is not None:
            if owner is None or owner.process() is None:
                log.info("owner.ended", pid=self._options.owner)
                stop.set()
                return
            await asyncio.sleep(1.0)

    def _clean(self) -> None:
        if self._install is not None:
            self._install.remove_copy()
        if self._store is not None:
            self._store.remove_sockets()

    def _node_folder(self, number: int) -> pathlib.Path:
        return self._folder(f"node{number}", 0o711)

    def _folder(self, name: str, mode: int = 0o700) -> pathlib.Path:
        path = self._data_dir / name
        path.mkdir(exist_ok=True, mode=mode)
        return path

    def _log(self, name: str) -> pathlib.Path:
        return self._data_dir / "logs" / f"{name}.log"


def _remembered(options: Options) -> state.State:
    """The state of the directory with the options applied to it."""
    try:
        old = state.load(options.data_dir)
    except ValueError as error:
        raise Refused(str(error)) from error
    workers_default = max(1, min(4, (os.cpu_count() or 1) // (options.nodes or (old.nodes if old else 1))))
    if old is None:
        return state.State(options.nodes or 1, options.workers or workers_default, bool(options.s3))
    nodes = old.nodes if options.nodes is None else options.nodes
    if nodes < old.nodes:
        raise Refused(
            f"{options.data_dir} has {old.nodes} nodes with data on them; it cannot run with {nodes}"
        )
    if old.nodes == 1 < nodes:
        raise Refused(
            f"{options.data_dir} was made with one node, whose coordinator holds the data; "
            f"start {nodes} nodes on a new directory"
        )
    old.nodes = nodes
    old.workers = options.workers or old.workers
    old.s3 = old.s3 if options.s3 is None else options.s3
    return old


async def _unless_stopped(work: Any, stop: asyncio.Event) -> bool:
    """Run `work`; False if it was cancelled because `stop` was set first."""
    task, stopped = asyncio.ensure_future(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return True
        return False
    finally:
        for each in (task, stopped):
            each.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stopped
        await asyncio.gather(task, return_exceptions=True)


def _install_catalog(coordinator_dsn: str, node_dsns: list[str]) -> list[int]:
    from orochi.embedded import registry  # slow to import: done while servers start

    return registry.install(coordinator_dsn, node_dsns)


def prepare_folder(data_dir: pathlib.Path) -> None:
    """Create the data directory; a new one can be entered, but not listed, by PostgreSQL's user."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o711 if os.geteuid() == 0 else 0o700)
    (data_dir / "logs").mkdir(exist_ok=True, mode=0o700)


def run(options: Options, report: Report) -> None:
    """Run a cluster on the directory until it is told to stop.

    Raises:
        state.AlreadyRunning: another supervisor has the directory.
        Refused: the options do not fit.
        supervisor.StartFailed: a process did not become healthy.
    """
    prepare_folder(options.data_dir)
    lock = state.Lock(options.data_dir)
    lock.acquire()
    try:
        state.end_leftovers(options.data_dir)
        process.adopt_orphans()
        asyncio.run(Cluster(options, report).run())
    finally:
        lock.release()
