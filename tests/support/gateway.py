"""A gateway over plain servers, with an engine that needs no catalog: for tests of the protocol alone.

A statement is "ours" when its text says so in a comment: `/* orochi_here */` runs it on the client's
own connection, `/* orochi_node */` on node 1 inside the session's transaction. Statements on table
`spread` have a generic plan over four shards on node 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import threading
from collections.abc import AsyncIterator, Iterator, Sequence

import psycopg
import uvloop

from orochi import ids
from orochi import settings as process_settings
from orochi.catalog import snapshot as snapshots
from orochi.executor import context, node_pool
from orochi.gateway import listener, portal, session
from orochi.pgwire import messages
from orochi.planner import insert, parse
from orochi.planner import plan as plans
from orochi.sharding import hashing
from tests.support import services

SPREAD = ids.TableId(1)
_SPREAD_SQL = re.compile(r"\bspread\b")


class _Words:
    def touches(self, sql: str) -> bool:
        return "orochi_" in sql or _SPREAD_SQL.search(sql) is not None


class _Transport:
    async def cancel(self, query_id: str) -> None:
        return


class Runtime:
    """The services that a gateway needs, over one server with a second database as its node."""

    def __init__(self, settings: process_settings.Settings, server: services.Server) -> None:
        node = snapshots.Node(ids.NodeId(1), "127.0.0.1", server.port, "node", "data", "active", True)
        self.layout = 1
        self.refreshed = 0
        self._node = node
        self._classifier = _Words()
        self._snapshot = self._make()
        self.nodes = node_pool.NodePool(settings, lambda: {node.node_id: node})
        self.transport = _Transport()

    def _make(self) -> snapshots.Snapshot:
        shards = tuple(
            snapshots.Shard(ids.ShardId(index), index, low, high, (ids.NodeId(1),), self.layout)
            for index, (low, high) in enumerate(hashing.shard_ranges(4))
        )
        column = snapshots.Column("id", 1, 23, 23, -1, "integer", True)
        table = snapshots.Table(
            SPREAD, "public", "spread", snapshots.TableKind.DISTRIBUTED, (column,), shards, None, "id", 23
        )
        return snapshots.Snapshot(
            self.layout, {SPREAD: table}, {("public", "spread"): SPREAD}, {self._node.node_id: self._node}, {}
        )

    def move(self) -> None:
        """The catalog now says the next layout."""
        self.layout += 1

    def classifier(self) -> _Words:
        return self._classifier

    def snapshot(self) -> snapshots.Snapshot:
        return self._snapshot

    async def refresh(self) -> snapshots.Snapshot:
        self.refreshed += 1
        if self._snapshot.version != self.layout:
            self._snapshot = self._make()
        return self._snapshot

    def service(self) -> node_pool.Lease:
        return self.nodes.service()


class Engine:
    """Runs what says it is ours, as it says."""

    slow = 0

    def concerns(self, session: context.Session, statement: parse.Statement, *, ever: bool = False) -> bool:
        return "orochi_" in statement.sql or _SPREAD_SQL.search(statement.sql) is not None

    def forget_rights(self) -> None:
        """It keeps none."""

    def of_lists(self, session: context.Session, text: str) -> parse.Statement | None:
        """All texts are parsed."""
        return None

    async def renew_rights(self, session: context.Session, prepared: portal.Prepared) -> None:
        """It asks for none."""

    async def execute(
        self,
        session: context.Session,
        statement: parse.Statement,
        parameters: context.Parameters | None,
        fields: tuple[messages.FieldDescription, ...] | None,
        sink: context.Sink,
    ) -> None:
        self.slow += 1
        if fields is not None:
            await sink.columns(fields)
        await sink.complete(await self._run(session, statement, parameters, sink))

    async def _run(
        self,
        session: context.Session,
        statement: parse.Statement,
        parameters: context.Parameters | None,
        sink: context.Sink,
    ) -> str:
        connection, sql = session.coordinator, statement.sql
        if "orochi_node" in sql or _SPREAD_SQL.search(sql):
            connection = await session.transaction.node(1, write=True)
            sql = re.sub(r"\bremote\b", "public.remote", sql)
        if _SPREAD_SQL.search(sql):
            sql = _SPREAD_SQL.sub(f"{self._shard(session, parameters)}.spread", sql)
        if statement.kind is parse.Kind.COPY:
            if statement.tree.is_from:

                async def data() -> AsyncIterator[bytes]:
                    async for chunk in sink.copy_in(0, [0]):
                        yield chunk

                return await connection.copy_in(sql, data())
            await sink.copy_out(0, [0])
            async for chunk in connection.copy_out(sql):
                await sink.copy_data(chunk)
            await sink.copy_done()
            return "COPY"
        return await connection.stream(
            sql,
            parameters.values if parameters else (),
            parameters.formats if parameters else (),
            parameters.type_oids if parameters else (),
            sink.formats,
            sink.rows,
        )

    def _shard(self, session: context.Session, parameters: context.Parameters | None) -> str:
        if parameters is None or not parameters.values:
            return "public"
        table = session.snapshot().tables[SPREAD]
        hashed = hashing.hash_wire(parameters.type_oids[0], parameters.values[0], parameters.formats[0])
        return table.shard_for_hash(hashed or 0).schema

    def allowed(
        self, session: session.Session, prepared: portal.Prepared, formats: Sequence[int] = ()
    ) -> bool:
        return True

    def template(self, session: session.Session, prepared: portal.Prepared) -> portal.Template | None:
        sql = messages.decode(prepared.sql)
        if _SPREAD_SQL.search(sql) is None or not prepared.type_oids:
            return None
        sql = _SPREAD_SQL.sub("orochi_shard_0.spread", sql)
        key = plans.ParamKey(1, prepared.type_oids[0])
        if prepared.statement.kind is parse.Kind.SELECT:
            return plans.Router(key, (SPREAD,), sql)
        if prepared.statement.kind is parse.Kind.INSERT:
            return insert.Template(key, None, SPREAD, sql, False)
        return plans.Modify(key, (), (SPREAD,), SPREAD, sql, (), False)


@dataclasses.dataclass(slots=True)
class Running:
    """A gateway under test."""

    server: services.Server
    port: int
    runtime: Runtime
    engine: Engine
    gateway: listener.Gateway
    loop: asyncio.AbstractEventLoop

    def connect(self, **options: object) -> psycopg.Connection[tuple[object, ...]]:
        """A psycopg connection through the gateway."""
        arguments = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": "orochi",
            "dbname": "postgres",
            **options,
        }
        return psycopg.connect(**arguments)  # type: ignore[arg-type]

    def direct(self, dbname: str = "postgres", **options: object) -> psycopg.Connection[tuple[object, ...]]:
        """A psycopg connection past the gateway."""
        arguments = {"host": "127.0.0.1", "port": self.server.port, "user": "orochi", "dbname": dbname}
        return psycopg.connect(**arguments, **options)  # type: ignore[arg-type]


def _prepare_databases(server: services.Server) -> None:
    base = f"host=127.0.0.1 port={server.port} user=orochi"
    with psycopg.connect(f"{base} dbname=postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE node")
        connection.execute("CREATE SCHEMA orochi")
        connection.execute("CREATE TABLE orochi.decisions (gid text, node_id int)")
        connection.execute(
            "CREATE FUNCTION orochi._record_decision(text, int[]) RETURNS void LANGUAGE sql AS "
            "$$ INSERT INTO orochi.decisions SELECT $1, unnest($2) $$"
        )
        connection.execute("CREATE TABLE spread (id int PRIMARY KEY, value text)")
        connection.execute("CREATE TABLE local (id int PRIMARY KEY, value text)")
        connection.execute("CREATE TABLE remote (id int PRIMARY KEY, value text)")
    with psycopg.connect(f"{base} dbname=node", autocommit=True) as connection:
        connection.execute("CREATE TABLE public.remote (id int PRIMARY KEY, value text)")
        for index in range(4):
            connection.execute(f"CREATE SCHEMA orochi_s{index}_1")
            connection.execute(f"CREATE TABLE orochi_s{index}_1.spread (id int PRIMARY KEY, value text)")


@contextlib.contextmanager
def running(server: services.Server, **options: object) -> Iterator[Running]:
    """A gateway in a thread of its own, for the length of the block."""
    _prepare_databases(server)
    settings = process_settings.Settings(
        coordinator_dsn=f"postgresql://orochi@127.0.0.1:{server.port}/postgres",
        gateway_port=0,
        **options,  # type: ignore[arg-type]
    )
    found: list[Running] = []
    ready, stop = threading.Event(), asyncio.Event()

    async def main() -> None:
        runtime, engine = Runtime(settings, server), Engine()
        gateway = listener.Gateway(runtime, settings, engine)
        port = await gateway.start()
        found.append(Running(server, port, runtime, engine, gateway, asyncio.get_running_loop()))
        ready.set()
        await stop.wait()
        await gateway.stop()
        await runtime.nodes.close()

    def target() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    if not ready.wait(60):
        raise RuntimeError("the gateway did not start")
    try:
        yield found[0]
    finally:
        found[0].loop.call_soon_threadsafe(stop.set)
        thread.join(60)
