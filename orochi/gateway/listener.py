"""The gateway of one process: its sockets, its sessions, cancel requests, and a graceful end."""

from __future__ import annotations

import asyncio
import hmac
import ssl
from collections.abc import Coroutine, Sequence
from typing import Any

import structlog

from orochi import errors, metrics
from orochi import settings as process_settings
from orochi.executor import node_pool
from orochi.gateway import activity, client_socket, handover, loopback, relay, startup, texts
from orochi.gateway import engine as engines
from orochi.gateway import session as sessions
from orochi.pgwire import client as pg_client
from orochi.pgwire import messages

log = structlog.get_logger()

_SHUTDOWN_SECONDS = 10.0
_BACKLOG = 1024
#: How often a gateway looks whether the one that functions connect to is still there.
_ANNOUNCE_SECONDS = 5.0
#: Addresses to listen at that are nobody's to connect to.
_EVERYWHERE = frozenset({"", "*", "0.0.0.0", "::"})


class Gateway:
    """See the module docstring.

    Attributes:
        coordinator: where client sessions are relayed to.
        tls: encrypts clients that ask, if a certificate is configured.
        address: where this gateway itself reaches it.
        presence: tells the other gateways of this one.
        statistics: of sessions and statements.
    """

    def __init__(self, runtime: Any, settings: process_settings.Settings, engine: engines.Engine) -> None:
        """Serve with the services of `runtime`, running statements by `engine`."""
        self.runtime = runtime
        self.settings = settings
        self.engine = engine
        self.coordinator = node_pool.service_endpoint(settings)
        self.tls = _tls(settings)
        self._texts = texts.Texts(runtime)
        self._other_texts = texts.Texts(None)
        self._sessions: dict[tuple[int, bytes], sessions.Session] = {}
        self._clients = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._secret: str | None = None
        self._stopping = False
        self.presence = handover.Presence()
        self.address = self.settings.gateway_host, self.settings.gateway_port
        self.statistics = activity.Statistics(self)
        self._tending: tuple[asyncio.Task[None], ...] = ()

    async def start(self, *, reuse_port: bool = False) -> int:
        """Listen; the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: client_socket.ClientSocket(self._accepted),
            self.settings.gateway_host,
            self.settings.gateway_port,
            reuse_port=reuse_port or None,
            backlog=_BACKLOG,
        )
        port: int = self._server.sockets[0].getsockname()[1]
        host = self.settings.gateway_host
        self.address = "127.0.0.1" if host in _EVERYWHERE else host, port
        await self._announce(port)
        self._tending = loop.create_task(self._keep_announced(port)), loop.create_task(self.statistics.run())
        return port

    async def _keep_announced(self, port: int) -> None:
        """Take over from a gateway that is gone: functions that read shells connect to one of all."""
        while True:
            await asyncio.sleep(_ANNOUNCE_SECONDS)
            await self._announce(port)

    async def _announce(self, port: int) -> None:
        """Tell the coordinator where functions that read shells find us, unless another gateway serves them."""
        host = self.settings.gateway_host
        address = (
            "coalesce(host(inet_client_addr()), '127.0.0.1')"
            if host in _EVERYWHERE
            else "'" + host.replace("'", "''") + "'"
        )
        try:
            await self.presence.keep(self, address, port)
            async with self.runtime.service() as connection:
                known = (await connection.query(loopback.address_sql(address, port)))[-1].rows
            if known and await self._is_gateway(known[0]):
                return
            async with self.runtime.service() as connection:
                await connection.query(f"SELECT orochi._gateway_at({address}, {port})")
        except errors.OrochiError as error:
            log.warning("gateway.no_loopback", error=error.message)

    async def _is_gateway(self, address: Sequence[bytes | None]) -> bool:
        """Whether one of this cluster's gateways answers there."""
        host, port = ((part or b"").decode() for part in address)
        try:
            other = await pg_client.PgConnection.connect(
                host, int(port), loopback.USER, loopback.password(await self.secret()), timeout=5.0
            )
        except errors.OrochiError:
            return False
        other.close()
        return True

    async def stop(self) -> None:
        """Stop listening, let running statements end for a while, and close every session."""
        self._stopping = True
        for task in self._tending:
            task.cancel()
        self.presence.close()
        if self._server is not None:
            self._server.close()
        deadline = asyncio.get_running_loop().time() + _SHUTDOWN_SECONDS
        while self._sessions and asyncio.get_running_loop().time() < deadline:
            self._close_idle()
            await asyncio.sleep(0.05)
        for session in list(self._sessions.values()):
            session.client.abort()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=2.0)

    def _close_idle(self) -> None:
        error = errors.OrochiError("terminating connection due to administrator command", sqlstate="57P01")
        for session in list(self._sessions.values()):
            if not session.relay.busy and not session.relay.pending and session.coordinator.status == "I":
                session.client.write(messages.error_response(error, "FATAL"))
                session.client.close()

    def _accepted(self, client: client_socket.ClientSocket) -> None:
        startup.Startup(self, client)

    def admit(self) -> bool:
        """Count a client in, unless there are too many."""
        if self._clients >= self.settings.gateway_max_connections or self._stopping:
            return False
        self._clients += 1
        metrics.CLIENTS.set(self._clients)
        return True

    def leave(self) -> None:
        """Count a client out."""
        self._clients -= 1
        metrics.CLIENTS.set(self._clients)

    def begin(
        self,
        client: client_socket.ClientSocket,
        server: pg_client.PgConnection,
        parameters: dict[str, str],
        *,
        loopback_from: int | None = None,
    ) -> None:
        """The client is authenticated: relay it from now on.

        Args:
            client: its socket.
            server: its connection to the coordinator.
            parameters: of its startup.
            loopback_from: the backend that it comes from, if a function opened it.
        """
        user = parameters.get("user", "")
        ours = parameters.get("database", user) == self.coordinator.dbname
        if parameters.get("replication", "false") not in ("false", "off", "no", "0"):
            ours = False
        stream = relay.Relay(client, server, self._texts if ours else self._other_texts)
        session = sessions.Session(self, client, server, stream, user)
        if loopback_from is not None:
            session.loop = loopback.Link(self, loopback_from, session.transaction)
            stream.exclusive = True
        self._sessions[server.pid, server.secret] = session

    def open_sessions(self) -> tuple[sessions.Session, ...]:
        """All that are open."""
        return tuple(self._sessions.values())

    def serving(self, pid: int) -> sessions.Session | None:
        """The session whose coordinator connection is the backend `pid`."""
        return next((session for (known, _), session in self._sessions.items() if known == pid), None)

    def forget(self, session: sessions.Session) -> None:
        """The session has ended."""
        key = session.coordinator.pid, session.coordinator.secret
        if self._sessions.get(key) is session:
            del self._sessions[key]
        self.leave()

    async def cancel(self, pid: int, secret: bytes) -> None:
        """A CancelRequest: its key is the coordinator's, which decides by itself for its part."""
        for (known_pid, known_secret), session in list(self._sessions.items()):
            if known_pid == pid and hmac.compare_digest(known_secret, secret):
                await session.cancel()
                return
        await pg_client.cancel(self.coordinator.host, self.coordinator.port, pid, secret)

    async def secret(self) -> str:
        """What proves to the catalog's functions that the gateway speaks."""
        if self._secret is None:
            async with self.runtime.service() as connection:
                result = await connection.fetch("SELECT secret FROM orochi.orochi_secret")
            self._secret = (result.rows[0][0] or b"").decode()
        return self._secret

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that nobody waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("gateway.background_failed", error=repr(task.exception()))


def _tls(settings: process_settings.Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.tls_cert, settings.tls_key)
    return context
