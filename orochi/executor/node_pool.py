"""Connections to node databases, shared by all sessions of a gateway.

A connection handed out is idle, outside any transaction, and has exactly the session settings it
was asked for: those that change what SQL means or how values print. One with the same settings is
preferred; another is reset first. What comes back broken or inside a transaction is closed. Node
sessions look names up in `pg_catalog` alone, as every name Orochi sends there is qualified.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from collections.abc import Callable, Mapping
from types import TracebackType

from psycopg import conninfo

from orochi import errors, ids
from orochi import settings as process_settings
from orochi.catalog import snapshot as snapshots
from orochi.catalog import twophase
from orochi.executor import consistent, deadlock
from orochi.pgwire import client

#: Session settings that a node must share with the client's session.
MIRRORED = frozenset(
    {
        "array_nulls",
        "backslash_quote",
        "bytea_output",
        "client_encoding",
        "datestyle",
        "default_text_search_config",
        "escape_string_warning",
        "extra_float_digits",
        "intervalstyle",
        "lc_messages",
        "lc_monetary",
        "lc_numeric",
        "lc_time",
        "lock_timeout",
        "quote_all_identifiers",
        "standard_conforming_strings",
        "statement_timeout",
        "timezone",
        "timezone_abbreviations",
        "transform_null_equals",
        "work_mem",
        "xmlbinary",
        "xmloption",
    }
)
_WAIT_SECONDS = 30.0
_CONNECT_SECONDS = 10.0

Signature = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and as whom to connect."""

    host: str
    port: int
    dbname: str
    user: str
    password: str | None


def mirrored(settings: Mapping[str, str]) -> Signature:
    """The part of a session's settings that its node connections get, in canonical order."""
    return tuple(
        sorted((name.lower(), value) for name, value in settings.items() if name.lower() in MIRRORED)
    )


class _Bucket:
    """The connections of one endpoint's key."""

    def __init__(self) -> None:
        self.idle: list[tuple[client.PgConnection, Signature, Endpoint]] = []
        self.total = 0
        self.waiters: collections.deque[asyncio.Future[None]] = collections.deque()

    def wake(self) -> None:
        """Let the longest waiting acquirer try again."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


class NodePool:
    """Pools of connections by node, and one to the coordinator as Orochi's own role."""

    def __init__(
        self,
        settings: process_settings.Settings,
        nodes: Callable[[], Mapping[ids.NodeId, snapshots.Node]],
    ) -> None:
        """Build an empty pool; `nodes` gives the registry as it is when a connection is made."""
        self._nodes = nodes
        self._size = settings.node_pool_size
        self._service = service_endpoint(settings)
        self._user = settings.node_user or self._service.user
        secret = settings.node_password
        self._password = secret.get_secret_value() if secret is not None else self._service.password
        self._buckets: dict[int | None, _Bucket] = {}
        self._leased: dict[client.PgConnection, tuple[int | None, Signature, Endpoint]] = {}
        self.deadlocks = deadlock.Detector(self._connect_apart, self.data_nodes)
        self.consistent = consistent.Taker(self)
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._cluster_id: str | None = None

    async def cluster_id(self) -> str:
        """The cluster's identity, as in the names of its prepared transactions."""
        if self._cluster_id is None:
            async with self.service() as connection:
                value = (await connection.query(twophase.CLUSTER_ID_SQL))[-1].rows[0][0]
            self._cluster_id = (value or b"").decode()
        return self._cluster_id

    def data_nodes(self) -> tuple[int, ...]:
        """The nodes that a query may have to read, by id."""
        return tuple(sorted(int(node.node_id) for node in self._nodes().values() if node.state != "down"))

    def lease(self, node_id: int, settings: Mapping[str, str] | None = None) -> Lease:
        """`async with pool.lease(node, settings) as connection`."""
        return Lease(self, node_id, settings or {})

    def service(self, settings: Mapping[str, str] | None = None) -> Lease:
        """A connection to the coordinator as Orochi's own role, with a session's settings if given."""
        return Lease(self, None, settings or {})

    async def acquire(self, node_id: int | None, settings: Mapping[str, str]) -> client.PgConnection:
        """A connection for the caller alone, until `release`; None is the coordinator.

        Raises:
            NodeUnavailable: the node cannot be reached.
            OrochiError: 53300, no connection came free in time.
        """
        wanted = mirrored(settings)
        bucket = self._buckets.setdefault(node_id, _Bucket())
        endpoint = self._endpoint(node_id)
        while True:
            if self._closed:
                raise errors.NodeUnavailable("the gateway is shutting down")
            found = _take_idle(bucket, wanted, endpoint)
            if found is not None:
                connection, current = found
                if current == wanted or await self._reset(bucket, connection, node_id, wanted):
                    self._leased[connection] = (node_id, wanted, endpoint)
                    return connection
                continue
            if bucket.total < self._size:
                connection = await self._connect(bucket, node_id, endpoint, wanted)
                self._leased[connection] = (node_id, wanted, endpoint)
                return connection
            await _wait(bucket, node_id)

    def take(self, node_id: int, signature: Signature) -> client.PgConnection | None:
        """An idle connection that has exactly these settings already, at once; None if there is none."""
        bucket = self._buckets.get(node_id)
        if bucket is None or self._closed:
            return None
        endpoint = self._endpoint(node_id)
        for at in range(len(bucket.idle) - 1, -1, -1):
            connection, current, where = bucket.idle[at]
            if current == signature and where == endpoint and not connection.closed:
                del bucket.idle[at]
                self._leased[connection] = (node_id, signature, endpoint)
                return connection
        return None

    def has_room(self, node_id: int) -> bool:
        """Whether a connection to the node is to be had without waiting for another session."""
        bucket = self._buckets.get(node_id)
        return bucket is None or bool(bucket.idle) or bucket.total < self._size

    def release(self, connection: client.PgConnection) -> None:
        """Give a connection back; one that is not idle is closed, and what it runs cancelled.

        One that was told to cancel is closed too: that may arrive late, and must not hit another session.
        """
        usable = not (connection.closed or connection.cancelled or connection.busy)
        if self._closed or not usable or connection.status != "I":
            self.discard(connection)
            return
        entry = self._leased.pop(connection, None)
        if entry is None:
            return
        node_id, signature, endpoint = entry
        self._buckets[node_id].idle.append((connection, signature, endpoint))
        self._buckets[node_id].wake()

    def discard(self, connection: client.PgConnection) -> None:
        """Close a leased connection, in whatever state it is."""
        entry = self._leased.pop(connection, None)
        if entry is None:
            return
        if connection.busy and not connection.closed:
            # the server would notice a closed socket only when it next writes to it
            task = asyncio.get_running_loop().create_task(_cancel_and_close(connection))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        else:
            connection.close()
        bucket = self._buckets[entry[0]]
        bucket.total -= 1
        bucket.wake()

    async def close(self) -> None:
        """Close every connection, leased ones too."""
        self._closed = True
        await self.deadlocks.close()
        await self.consistent.close()
        for bucket in self._buckets.values():
            for connection, _, _ in bucket.idle:
                connection.close()
            bucket.idle.clear()
            while bucket.waiters:
                bucket.wake()
        for connection in list(self._leased):
            self.discard(connection)
        await asyncio.gather(*self._closing)

    async def _connect_apart(self, node_id: int | None) -> client.PgConnection:
        return await _open(self._endpoint(node_id))

    def _endpoint(self, node_id: int | None) -> Endpoint:
        if node_id is None:
            return self._service
        node = self._nodes().get(ids.NodeId(node_id))
        if node is None:
            raise errors.NodeUnavailable(f"node {node_id} is not in the catalog")
        return Endpoint(node.host, node.port, node.dbname, self._user, self._password)

    async def _connect(
        self, bucket: _Bucket, node_id: int | None, endpoint: Endpoint, wanted: Signature
    ) -> client.PgConnection:
        bucket.total += 1  # before the first await, so that the bound holds
        connection: client.PgConnection | None = None
        try:
            connection = await asyncio.wait_for(_open(endpoint), _CONNECT_SECONDS)
            await connection.query(_settings_sql(node_id, wanted, fresh=True))
        except BaseException as error:
            bucket.total -= 1
            bucket.wake()
            if connection is not None:
                connection.close()
            if isinstance(error, (OSError, errors.NodeUnavailable)) or _starting(error):
                raise errors.NodeUnavailable(
                    f"{_name(node_id)} at {endpoint.host}:{endpoint.port} cannot be reached: {error}"
                ) from error
            raise
        return connection

    async def _reset(
        self, bucket: _Bucket, connection: client.PgConnection, node_id: int | None, wanted: Signature
    ) -> bool:
        try:
            await connection.query(_settings_sql(node_id, wanted, fresh=False))
            # constants in a prepared statement were read under the old settings
            await connection.forget_prepared()
        except errors.OrochiError as error:
            connection.close()
            bucket.total -= 1
            bucket.wake()
            if isinstance(error, errors.RemoteError):
                raise
            return False
        except BaseException:
            connection.close()
            bucket.total -= 1
            bucket.wake()
            raise
        return True


class Lease:
    """A connection of the pool for the length of a block."""

    def __init__(self, pool: NodePool, node_id: int | None, settings: Mapping[str, str]) -> None:
        self._pool = pool
        self._node_id = node_id
        self._settings = settings
        self._connection: client.PgConnection | None = None

    async def __aenter__(self) -> client.PgConnection:
        """Acquire."""
        self._connection = await self._pool.acquire(self._node_id, self._settings)
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection)


def service_endpoint(settings: process_settings.Settings) -> Endpoint:
    """Where `coordinator_dsn` points."""
    parts = conninfo.conninfo_to_dict(settings.coordinator_dsn)
    user = str(parts.get("user") or "postgres")
    password = parts.get("password")
    return Endpoint(
        host=str(parts.get("host") or "127.0.0.1"),
        port=int(parts.get("port") or 5432),
        dbname=str(parts.get("dbname") or user),
        user=user,
        password=None if password is None else str(password),
    )


async def _cancel_and_close(connection: client.PgConnection) -> None:
    await connection.cancel()
    connection.abort()


async def _open(endpoint: Endpoint) -> client.PgConnection:
    return await client.PgConnection.connect(
        host=endpoint.host,
        port=endpoint.port,
        user=endpoint.user,
        password=endpoint.password,
        dbname=endpoint.dbname,
    )


def _take_idle(
    bucket: _Bucket, wanted: Signature, endpoint: Endpoint
) -> tuple[client.PgConnection, Signature] | None:
    """Remove an idle live connection, one with the wanted settings if there is one."""
    live = []
    for entry in bucket.idle:
        connection, _, where = entry
        if connection.closed or where != endpoint:
            connection.close()
            bucket.total -= 1
        else:
            live.append(entry)
    bucket.idle = live
    if not live:
        return None
    # newest first among equals: its server process is warm; else the one unused for longest
    at = next((i for i in range(len(live) - 1, -1, -1) if live[i][1] == wanted), 0)
    connection, signature, _ = live.pop(at)
    return connection, signature


async def _wait(bucket: _Bucket, node_id: int | None) -> None:
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    bucket.waiters.append(waiter)
    try:
        await asyncio.wait_for(waiter, _WAIT_SECONDS)
    except TimeoutError:
        raise errors.OrochiError(
            f"no connection to {_name(node_id)} came free within {_WAIT_SECONDS:g} seconds",
            hint="Raise OROCHI_NODE_POOL_SIZE, or use fewer concurrent transactions.",
            sqlstate="53300",
        ) from None
    except asyncio.CancelledError:
        if waiter.done() and not waiter.cancelled():
            bucket.wake()  # the turn was ours already: pass it on
        raise
    finally:
        if waiter in bucket.waiters:
            bucket.waiters.remove(waiter)


def _settings_sql(node_id: int | None, wanted: Signature, *, fresh: bool) -> str:
    # `RESET ALL` and the rest are one implicit transaction
    parts = [] if fresh else ["RESET ALL"]
    if node_id is not None:
        parts.append("SET search_path = pg_catalog")
    parts.append("SET application_name = 'orochi'")
    parts += [f"SET {name} = {quote_literal(value)}" for name, value in wanted]
    return "; ".join(parts)


def quote_literal(text: str) -> str:
    """An SQL string literal that reads alike whatever `standard_conforming_strings` is."""
    escaped = text.replace("'", "''")
    return f"E'{escaped.replace(chr(92), chr(92) * 2)}'" if "\\" in text else f"'{escaped}'"


def _starting(error: BaseException) -> bool:
    return isinstance(error, TimeoutError) or (
        isinstance(error, errors.OrochiError) and error.sqlstate in {"57P01", "57P02", "57P03"}
    )


def _name(node_id: int | None) -> str:
    return "the coordinator" if node_id is None else f"node {node_id}"
