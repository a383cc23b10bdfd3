"""The composition root: the only place that picks implementations.

One `Runtime` serves a gateway process. It keeps the newest committed catalog snapshot, kept fresh
by `NOTIFY orochi_catalog` and by `refresh()`, which compares the version row; a snapshot is never
changed, but replaced by one that shares with it what is as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from typing import TypeAlias

import structlog

from orochi import errors, metrics
from orochi import settings as settings_module
from orochi.catalog import api, store
from orochi.catalog import snapshot as snapshots
from orochi.executor import celery_transport, node_pool, recovery
from orochi.operations import aggregate_plans, privileges, templates
from orochi.pgwire import client
from orochi.planner import builtins, classify

log = structlog.get_logger()

#: Bound on cached generic plans; the least recently used goes first.
PLAN_CACHE_SIZE = 5_000
_RECOVER_AGAIN_SECONDS = 0.5
#: Pause before the catalog is read again where another session's lock kept a new text from being printed.
_HELD_SECONDS = 0.1

#: NotificationResponse, and how one ends that tells of a change of layouts alone (`orochi._bump_layout`).
_NOTIFICATION, _LAYOUT = 0x41, b"\0layout\0"

PlanKey: TypeAlias = tuple[str, tuple[int, ...], tuple[str, ...], frozenset[str]]
CachedPlan: TypeAlias = "templates.Template | None"


class Runtime:
    """Process-wide services of a gateway (`orochi.executor.context.Runtime`)."""

    def __init__(self, settings: settings_module.Settings) -> None:
        self.settings = settings
        self.builtins = builtins.EMPTY
        self.collation = "C"
        self._snapshot = snapshots.EMPTY
        self._classifier = classify.Classifier(snapshots.EMPTY, api.NAMES)
        self._plans: OrderedDict[PlanKey, CachedPlan] = OrderedDict()
        self._loading = asyncio.Lock()
        self._background: tuple[asyncio.Task[None], ...] = ()
        self.nodes = node_pool.NodePool(settings, lambda: self._snapshot.nodes)
        self.transport = celery_transport.CeleryTransport(settings, self.snapshot)

    def snapshot(self) -> snapshots.Snapshot:
        """The newest committed catalog this process knows."""
        return self._snapshot

    def classifier(self) -> classify.Classifier:
        """The classifier built from `snapshot()`."""
        return self._classifier

    async def start(self) -> None:
        """Load builtins and the catalog, and begin to listen for changes."""
        async with self.service() as connection:
            self.builtins = await _load_builtins(connection)
            result = await connection.fetch(
                # release 17 brought `datlocale` and the builtin provider; ICU sorts by bytes in no locale
                "SELECT CASE datlocprovider WHEN 'c' THEN datcollate WHEN 'b' THEN to_jsonb(d)->>'datlocale'"
                " ELSE 'ICU' END FROM pg_database d WHERE datname = current_database()"
            )
            self.collation = (result.rows[0][0] or b"C").decode()
            self._install(await store.load(connection))
        background = self._listen(), self._recover(), self._plan_ahead()
        self._background = tuple(map(asyncio.create_task, background))

    async def close(self) -> None:
        """Stop listening and close every connection."""
        for task in self._background:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self.nodes.close()
        await self.transport.close()

    async def refresh(self) -> snapshots.Snapshot:
        """Reload the committed catalog if its version row moved; returns the newest.

        Who refreshes may hold locks that the catalog's texts are printed under, and others refresh behind
        him: no lock is waited for here but by asking again.
        """
        while True:
            async with self._loading, self.service() as connection:
                result = await connection.fetch(store.VERSION_SQL)
                version = int((result.rows[0][0] or b"0").decode())
                if version == self._snapshot.version:
                    return self._snapshot
                found = await store.load_after(connection, self._snapshot)
                if found is None:
                    whole = await store.load_unheld(connection)
                    found = whole and whole.following(self._snapshot)
                if found is not None:
                    self._install(found)
                    return self._snapshot
            await asyncio.sleep(_HELD_SECONDS)

    def service(self) -> node_pool.Lease:
        """`async with runtime.service() as conn`: a coordinator connection of Orochi's own role."""
        return self.nodes.service()

    def router_plan(
        self,
        sql: str,
        type_oids: tuple[int, ...],
        search_path: tuple[str, ...],
        snapshot: snapshots.Snapshot,
        temp_tables: frozenset[str] = frozenset(),
    ) -> CachedPlan:
        """The generic single-shard template of a prepared statement, or None if it has none.

        Args:
            sql: the statement as the client sent it, with `$n`.
            type_oids: the parameter types PostgreSQL inferred.
            search_path: the session's existing schemas in lookup order.
            snapshot: what the plan must be valid for.
            temp_tables: names of the session's temporary relations.
        """
        key = (sql, type_oids, search_path, temp_tables)
        newest = snapshot is self._snapshot  # another may be of a transaction that is rolled back
        if newest and key in self._plans:
            self._plans.move_to_end(key)
            return self._plans[key]
        plan = templates.template(
            sql,
            type_oids,
            snapshot,
            search_path,
            self.builtins,
            collation=self.collation,
            temp_tables=temp_tables,
        )
        if newest:
            self._plans[key] = plan
        if len(self._plans) > PLAN_CACHE_SIZE:
            self._plans.popitem(last=False)
        return plan

    def _install(self, snapshot: snapshots.Snapshot) -> None:
        metrics.CATALOG_LOADS.inc()
        if snapshot.shape is not self._snapshot.shape:
            self._classifier = classify.Classifier(snapshot, api.NAMES)
        self._snapshot = snapshot
        self._plans.clear()

    async def _listen(self) -> None:
        """Follow NOTIFY for ever; a lost connection is made again, and the catalog reread."""
        while True:
            try:
                async with self.service() as connection:
                    connection.on_async = _heard
                    await connection.query("LISTEN orochi_catalog")
                    privileges.forget()
                    await self.refresh()
                    while not connection.closed:
                        if await connection.wait_notification(timeout=5.0):
                            await self.refresh()
            except (errors.OrochiError, OSError) as error:
                log.warning("catalog.listen_failed", error=str(error))
            await asyncio.sleep(0.5)

    async def _plan_ahead(self) -> None:
        """Be ready for the first write to each continuous aggregate's rows."""
        for aggregate in self._snapshot.aggregates:
            await aggregate_plans.learn_ahead(self, aggregate)

    async def _recover(self) -> None:
        """Finish the commits of dead gateways, even while no worker is there to do it.

        Workers do it too; whoever comes second finds the lock taken, or nothing left. While the coordinator
        is down, ask for it more often: rows stay locked until it is back.
        """
        interval = self.settings.recovery_interval
        while True:
            pause = min(interval, _RECOVER_AGAIN_SECONDS)
            try:
                await asyncio.to_thread(recovery.run, self.settings)
                pause = interval
            except Exception as error:  # the coordinator is down
                log.debug("recovery.postponed", error=type(error).__name__)
            await asyncio.sleep(pause)


def _heard(kind: int, payload: bytes) -> None:
    """A message of the connection that listens: unless only layouts changed, roles may have lost rights."""
    if kind == _NOTIFICATION and not payload.endswith(_LAYOUT):
        privileges.forget()


async def _load_builtins(connection: client.PgConnection) -> builtins.Builtins:
    result = await connection.fetch(builtins.QUERY)
    rows = [tuple(None if v is None else v.decode() for v in row) for row in result.rows]
    return builtins.from_rows(rows)


async def create(settings: settings_module.Settings) -> Runtime:
    """A started runtime.

    Raises:
        NodeUnavailable: the coordinator cannot be reached.
        OrochiError: the catalog is missing: `orochi migrate` was not run.
    """
    runtime = Runtime(settings)
    await runtime.start()
    return runtime
