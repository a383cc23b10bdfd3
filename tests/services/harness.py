"""A session over real databases of one server, without gateway, workers and Redis, to test operations."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import psycopg

from orochi import ids, settings
from orochi.catalog import bootstrap, store
from orochi.catalog import snapshot as snapshots
from orochi.executor import context, node_pool, transaction
from orochi.pgwire import client, messages
from orochi.planner import builtins, parse
from tests.support import services


class Databases:
    """A coordinator database and two node databases of one server, with Orochi's catalog."""

    def __init__(self, dsn: str) -> None:
        self.port = int(psycopg.conninfo.conninfo_to_dict(dsn)["port"])
        self.settings = settings.Settings(coordinator_dsn=self.dsn("co"), node_pool_size=6)
        with psycopg.connect(dsn, autocommit=True) as connection:
            for name in ("co", "n1", "n2", "plain"):
                connection.execute(f"CREATE DATABASE {name}")
        bootstrap.migrate(self.dsn("co"))
        for name in ("n1", "n2"):
            bootstrap.prepare_node(self.dsn(name))
            bootstrap.register_node(self.dsn("co"), self.dsn(name))

    def dsn(self, name: str) -> str:
        return f"postgresql://orochi@127.0.0.1:{self.port}/{name}"

    def run(self, name: str, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn(name), autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def databases() -> Iterator[Databases]:
    with services.postgres() as server:
        yield Databases(server.dsn)


class Runtime:
    """The services of a gateway process that writing needs."""

    def __init__(self, databases: Databases) -> None:
        self.current = snapshots.EMPTY
        self.nodes = node_pool.NodePool(databases.settings, lambda: self.current.nodes)
        self.builtins = builtins.EMPTY
        self.collation = "C"
        self.transport: Any = None

    def snapshot(self) -> snapshots.Snapshot:
        return self.current

    async def refresh(self) -> snapshots.Snapshot:
        async with self.service() as connection:
            self.current = await store.load(connection)
        return self.current

    def service(self) -> node_pool.Lease:
        return self.nodes.service()


class Sink:
    """Gathers what a client would see."""

    def __init__(self, data: Sequence[bytes] = ()) -> None:
        self.formats: tuple[int, ...] = ()
        self.fields: tuple[messages.FieldDescription, ...] = ()
        self.values: list[tuple[str | None, ...]] = []
        self.tag = ""
        self.notices: list[str] = []
        self.copied: list[bytes] = []
        self._data = data

    async def columns(self, columns: Sequence[messages.FieldDescription]) -> None:
        self.fields = tuple(columns)

    async def rows(self, data: bytes | memoryview, count: int) -> None:
        raw, at = bytes(data), 0
        while at < len(raw):
            row = messages.parse_data_row(raw, at + 5)
            self.values.append(tuple(None if value is None else value.decode() for value in row))
            at += 1 + int.from_bytes(raw[at + 1 : at + 5], "big")

    async def complete(self, tag: str) -> None:
        self.tag = tag

    async def notice(self, message: str, *, severity: str = "NOTICE", hint: str | None = None) -> None:
        self.notices.append(message)

    async def copy_in(self, overall_format: int, column_formats: Sequence[int]) -> AsyncIterator[bytes]:
        for piece in self._data:
            yield piece

    async def copy_out(self, overall_format: int, column_formats: Sequence[int]) -> None: ...

    async def copy_data(self, payload: bytes) -> None:
        self.copied.append(payload)

    async def copy_done(self) -> None: ...


class Session:
    """One client's session."""

    def __init__(self, runtime: Runtime, coordinator: client.PgConnection, secret: str) -> None:
        self.runtime: Any = runtime
        self.coordinator = coordinator
        self.query_id = ids.new_query_id()
        self.user = "orochi"
        self.settings: Mapping[str, str] = {"TimeZone": "UTC"}
        self.search_path = ("public",)
        self.temp_tables: frozenset[str] = frozenset()
        self.transaction = transaction.Transaction(runtime.nodes, lambda: self.settings)
        self._own: snapshots.Snapshot | None = None
        self._secret = secret

    @property
    def comes_back(self) -> bool:
        return False

    @property
    def catalog_is_own(self) -> bool:
        return self._own is not None

    def plan_anew(self) -> None: ...

    def snapshot(self) -> snapshots.Snapshot:
        return self._own or self.runtime.snapshot()

    async def catalog_changed(self) -> None:
        self._own = await store.load(self.coordinator)

    async def catalog_execute(self, sql: str) -> list[tuple[str | None, ...]]:
        if self.coordinator.status == "I":
            await self.coordinator.fetch("BEGIN")
        token = store.gateway_token(self._secret, self.coordinator.pid, sql)
        result = await self.coordinator.fetch(store.GATEWAY_EXECUTE_SQL, [token.encode(), sql.encode()])
        return [tuple(json.loads(row[0] or b"[]")) for row in result.rows]

    async def begin(self) -> None:
        await self.coordinator.query("BEGIN")
        self.transaction.in_block = True

    async def commit(self) -> str:
        tag = await self.transaction.commit(self.coordinator)
        self.transaction.in_block = False
        self._own = None
        return tag

    async def rollback(self) -> None:
        await self.transaction.rollback()
        if self.coordinator.status != "I":
            await self.coordinator.query("ROLLBACK")
        self.transaction.in_block = False
        self._own = None

    async def execute(self, sql: str, *values: str | None, data: Sequence[bytes] = ()) -> Sink:
        """Run one statement through the operation for its kind, as the gateway would."""
        from orochi.operations import copy, insert, modify, truncate

        statement = parse.parse_one(sql)
        fields, parameters = None, None
        if statement.kind not in (parse.Kind.COPY, parse.Kind.TRUNCATE):
            oids, fields = await self.coordinator.describe(sql)
            encoded = tuple(None if value is None else value.encode() for value in values)
            parameters = context.Parameters(encoded, (0,) * len(values), oids)
        operation = {
            parse.Kind.INSERT: insert.execute,
            parse.Kind.UPDATE: modify.execute,
            parse.Kind.DELETE: modify.execute,
            parse.Kind.COPY: copy.execute,
            parse.Kind.TRUNCATE: truncate.execute,
        }[statement.kind]
        sink = Sink(data)
        try:
            await operation(self, statement, parameters, fields, sink)  # type: ignore[arg-type]
        except BaseException:
            if not self.transaction.in_block:
                await self.rollback()
            raise
        return sink

    async def call(self, work: Any, *arguments: Any) -> None:
        """Run a function of Orochi's API in a transaction of its own."""
        await self.begin()
        try:
            await work(self, *arguments)
        except BaseException:
            await self.rollback()
            raise
        await self.commit()
        await self.runtime.refresh()


async def connect(databases: Databases) -> Session:
    """A session on fresh connections."""
    runtime = Runtime(databases)
    await runtime.refresh()
    async with runtime.service() as service:
        result = await service.fetch(builtins.QUERY)
        found = [tuple(None if value is None else value.decode() for value in row) for row in result.rows]
        runtime.builtins = builtins.from_rows(found)
    coordinator = await client.PgConnection.connect("127.0.0.1", databases.port, "orochi", None, "co")
    ((secret,),) = databases.run("co", "SELECT secret FROM orochi.orochi_secret")
    return Session(runtime, coordinator, secret)
