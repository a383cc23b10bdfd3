"""One client's session: what is known of it, and the life of its units.

It implements `executor.context.Session`. While a unit runs, the session owns the client's
coordinator connection; between units the relay does. After each unit the connection's transaction
status decides what is kept: participants, portals and an uncommitted catalog end with their block.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from orochi import errors, ids
from orochi.catalog import snapshot as snapshots
from orochi.catalog import store
from orochi.executor import context, node_errors, transaction
from orochi.gateway import (
    activity,
    client_socket,
    control,
    encodings,
    extended,
    hotpath,
    loopback,
    portal,
    readonly,
    recent,
    session_settings,
    simple,
)
from orochi.gateway import relay as relays
from orochi.pgwire import client as pg_client
from orochi.pgwire import messages
from orochi.planner import parse

if TYPE_CHECKING:
    from orochi.gateway import listener

log = structlog.get_logger()

#: Statements that run as other text; where theirs is wrong, PostgreSQL said so when it described them.
_REWRITTEN = frozenset({parse.Kind.SELECT, *readonly.WRITING})
_CANCEL_GRACE = 5.0


class Session:
    """See the module docstring.

    Attributes:
        settings_revert: settings changed inside the open block, so its end may change them back.
        doing: the last statement that was not the coordinator's alone.
        zone: the only setting that reading a distribution or time value depends on.
        savepoints: the open block has savepoints.
        recent: unnamed statements whose Parse need not be asked of the coordinator again.
        sql_prepared: Orochi statements prepared by SQL-level PREPARE.
        hot: the execution of the hot path under way.
        read_only: the transaction refuses to write.
        reading: a node connection outside the transaction that a read of this session uses.
    """

    def __init__(
        self,
        gateway: listener.Gateway,
        client: client_socket.ClientSocket,
        server: pg_client.PgConnection,
        relay: relays.Relay,
        user: str,
    ) -> None:
        self.gateway = gateway
        self.engine = gateway.engine
        self.runtime: Any = gateway.runtime
        self.client = client
        self.coordinator = server
        self.relay = relay
        relay.rights.forget = self.engine.forget_rights
        self.user, self.doing = user, activity.Doing()
        self.query_id = ids.new_query_id()
        self.settings: Mapping[str, str] = {}
        self.signature: tuple[tuple[str, str], ...] = ()
        self.search_path: tuple[str, ...] = ()
        self.temp_tables: frozenset[str] = frozenset()
        self.zone: Mapping[str, str] = {}
        self.transaction = transaction.Transaction(self.runtime.nodes, lambda: self.settings, server.pid)
        self.settings_revert = self.savepoints = False
        self.sql_prepared: dict[str, parse.Statement] = {}
        self.recent = recent.Recent(self)
        self.hot: hotpath.Call | None = None
        self.loop: loopback.Link | None = None
        self.reading: pg_client.PgConnection | None = None
        self._temp_relations: Mapping[str, str] = {}
        self._full_path: tuple[str, ...] = ()
        self.read_only = self._timed_out = self._cleaned = False
        self.isolation = self._default_isolation = "read committed"
        self._own_snapshot: snapshots.Snapshot | None = None
        self._pinned: snapshots.Snapshot | None = None
        self._task: asyncio.Task[None] | None = None
        relay.session = self
        client.on_lost = self._client_lost
        server.scratch = b"orochi_scratch"
        server.on_async = self._on_async

    # --- executor.context.Session ----------------------------------------------------------------

    def snapshot(self) -> snapshots.Snapshot:
        """What this session plans against."""
        if self._own_snapshot is not None:
            return self._own_snapshot
        if self._pinned is not None:
            return self._pinned
        newest: snapshots.Snapshot = self.runtime.snapshot()
        return newest

    def plan_anew(self) -> None:
        """A block of one snapshot has used no node yet: take the newest catalog for it."""
        self._pinned = None
        self._pin()

    def _pin(self) -> None:
        # rows moved to another layout after the block's snapshots were taken would be lost or doubled
        # for it; by an old plan they are missed by name
        if self._pinned is None and self.transaction.steady:
            self._pinned = self.runtime.snapshot()

    def meaning(self) -> tuple[object, ...]:
        """What names in a statement are looked up by; while it is the same, they mean the same."""
        return self.snapshot().shape, self.search_path, self.temp_tables

    async def catalog_changed(self) -> None:
        """Reload the catalog as this session's transaction sees it, until its end."""
        self._own_snapshot = await store.load(self.coordinator, after=self.snapshot())
        self._find_temp_tables()

    async def catalog_execute(self, sql: str) -> list[tuple[str | None, ...]]:
        """Run SQL on the client's connection, in its transaction, with Orochi's own rights."""
        await self.begin()
        token = store.gateway_token(await self.gateway.secret(), self.coordinator.pid, sql)
        result = await self.coordinator.fetch(store.GATEWAY_EXECUTE_SQL, [token.encode(), sql.encode()])
        return [tuple(json.loads(row[0] or b"[]")) for row in result.rows]

    async def begin(self) -> None:
        """Make sure that the coordinator is in a transaction block; an implicit one ends with the statement."""
        if self.coordinator.status == "I":
            await self.coordinator.fetch("BEGIN")

    # --- units -----------------------------------------------------------------------------------

    def start_unit(self, *, refresh: bool = False) -> None:
        """The relay handed over: run the unit at the head of its inbox, maybe on a newer catalog."""
        self._task = asyncio.get_running_loop().create_task(self._unit(refresh=refresh))

    async def _unit(self, *, refresh: bool) -> None:
        try:
            if refresh:
                await self.runtime.refresh()
            await self.relay.take_server()
            self.transaction.in_block = self.coordinator.status != "I"
            await self.sync_catalog()
            kind = await self._next_kind()
            if kind == 0x51:
                _, payload = await self.relay.next_message()
                await simple.run(self, payload)
            else:
                await extended.Unit(self).run()
            await self._settle()
        except client_socket.ClientGone:
            pass
        except asyncio.CancelledError:
            self.relay.refuse(errors.QueryCanceled(self._cancel_message()))
        except errors.OrochiError as error:
            self.relay.refuse(error)
        except Exception as error:
            log.exception("session.failed", error=type(error).__name__)
            self.relay.refuse(errors.OrochiError("internal error of the gateway"))
        finally:
            self._task = None
            if self.client.closed or self.coordinator.closed:
                self.client.close()
                await self._clean_up()
            else:
                self.relay.resume()

    async def _next_kind(self) -> int:
        while (found := self.relay.inbox.peek()) is None:
            if len(self.relay.inbox) >= 5:
                return self.relay.inbox.slice(0, 1)[0]
            await self.relay.wait()
        return found[0]

    async def _settle(self) -> None:
        if self.coordinator.status == "I":
            if self.transaction.participants:
                await self.transaction.rollback()
            self.block_ended()
        else:
            self.transaction.in_block = True
        mine = self.savepoints or self.catalog_is_own or self.loop
        self.relay.exclusive = bool(self.transaction.participants or mine)

    def block_ended(self) -> None:
        """The coordinator is outside any transaction again."""
        if not self.transaction.participants:
            self.transaction.in_block = False
        self.savepoints = False
        self._own_snapshot = self._pinned = None
        self.relay.rights.ready("I")
        self.isolation = self._default_isolation
        if self.settings_revert or self.read_only:
            self.settings_revert = False
            self.relay.settings_dirty = True
            self.relay.method_known(None)
        if self.relay.portals:
            for item in self.relay.portals.values():
                item.close()
            self.relay.portals.clear()

    @property
    def comes_back(self) -> bool:
        """Whether PostgreSQL itself is the client, for a function that it runs."""
        return self.loop is not None

    @property
    def catalog_is_own(self) -> bool:
        """Whether the open transaction changed the catalog."""
        return self._own_snapshot is not None

    async def refresh_settings(self) -> None:
        """Before a statement of ours: know the session's settings and the transaction's isolation."""
        if self.relay.settings_dirty and self.coordinator.status != "E":
            view = await session_settings.read(self.coordinator)
            self.recent.clear()
            self.relay.settings_dirty = self.relay.isolation_set = False
            self.settings, self.signature = view.values, view.signature
            self.relay.method_known(view.values.get("default_table_access_method", ""))
            self.user, self._full_path = view.user, view.search_path
            self.isolation, self._default_isolation = view.isolation, view.default_isolation
            self.read_only = view.read_only
            self._temp_relations = view.temp_relations
            self._find_temp_tables()
            self.zone = {"timezone": self.settings.get("timezone", "UTC")}
        if not self.transaction.participants and (self.loop is None or self.loop.caller is None):
            self.transaction.isolation = self.isolation

    def _find_temp_tables(self) -> None:
        """Names and schemas, as temporary relations and the newest catalog have them."""
        self.temp_tables, self.search_path = session_settings.visible(
            self._temp_relations, self._full_path, self.snapshot()
        )

    def ran(self, sql: bytes) -> None:
        """A statement of this text was run: note what it may have changed."""
        self.relay.touched(self.relay.texts.flags(sql))

    async def sync_catalog(self) -> None:
        """After statements that may have changed the catalog past us: see their effect, committed or not."""
        if not self.relay.catalog_dirty or self.coordinator.status == "E":
            return
        if self.coordinator.status == "I":
            await self.runtime.refresh()
        else:
            result = await self.coordinator.fetch(store.VERSION_SQL)
            if int(result.rows[0][0] or b"0") != self.snapshot().version:
                await self.catalog_changed()
        self.relay.catalog_dirty = False

    # --- statements ------------------------------------------------------------------------------

    async def execute(
        self,
        statement: parse.Statement,
        parameters: context.Parameters | None,
        fields: tuple[messages.FieldDescription, ...] | None,
        sink: context.Sink,
    ) -> None:
        """Run a statement of ours within the session's timeout.

        Raises:
            OrochiError: with the SQLSTATE the client is to see.
        """
        if self.read_only:
            readonly.refuse(self, statement)
        self.query_id = ids.new_query_id()
        self._timed_out = False
        self._pin()
        with activity.measured(self, statement, sink), loopback.running(self, statement), self._deadline():
            try:
                if self.loop is not None:
                    await loopback.check(self, statement)
                await self.engine.execute(self, statement, parameters, fields, sink)
            except asyncio.CancelledError:
                if self._task is not None:
                    self._task.uncancel()
                raise errors.QueryCanceled(self._cancel_message()) from None
            except errors.OrochiError as error:
                if error.sqlstate == "57014" and self._timed_out:
                    raise errors.QueryCanceled(self._cancel_message()) from error
                if (told := self.transaction.told(error)) is not error:
                    raise told from error
                if isinstance(error, errors.RemoteError):
                    node_errors.for_client(error, self.snapshot(), self.search_path)
                if isinstance(error, errors.RemoteError) and statement.kind in _REWRITTEN:
                    error.fields.pop("P", None)  # a position in another text than the client's
                raise
            except client_socket.ClientGone:
                raise
            except Exception as error:
                log.exception("statement.failed", kind=statement.kind.value, error=type(error).__name__)
                raise errors.OrochiError(f"internal error: {type(error).__name__}: {error}") from error

    @contextlib.contextmanager
    def _deadline(self) -> Iterator[None]:
        milliseconds = self.settings.get("statement_timeout", "0")
        if not milliseconds.isdigit() or milliseconds == "0":
            yield
            return
        loop = asyncio.get_running_loop()
        handle = loop.call_later(int(milliseconds) / 1000, self._time_out)
        try:
            yield
        finally:
            handle.cancel()

    def _time_out(self) -> None:
        self._timed_out = True
        self.gateway.background(self.cancel())

    def _cancel_message(self) -> str:
        reason = "statement timeout" if self._timed_out else "user request"
        return f"canceling statement due to {reason}"

    async def fail(self, *, implicit: bool) -> None:
        """After an error: end the implicit transaction, or put the client's block in the failed state."""
        if implicit:
            await self.transaction.rollback()
            if self.coordinator.status != "I":
                await self.coordinator.query("ROLLBACK")
            return
        if not self.savepoints:
            await self.transaction.rollback()  # locks go now, as PostgreSQL's would
        if self.coordinator.status == "T":
            try:
                await self.coordinator.fetch('ROLLBACK TO SAVEPOINT "orochi: a statement on a node failed"')
            except errors.RemoteError:
                return

    async def catalog_committed(self) -> None:
        """After a statement that may have changed the committed catalog: see it at once."""
        await self.runtime.refresh()

    def parse(self, sql: bytes) -> tuple[parse.Statement, ...]:
        """The statements of a text that may be ours; none if PostgreSQL should say what is wrong with it.

        Raises:
            FeatureNotSupported: they are ours, and cannot be read (`encodings.unread`).
        """
        parameters = self.coordinator.parameters
        text = encodings.read(sql, parameters.get("client_encoding", "UTF8"))
        try:
            statements = () if text is None else parse.parse(text)
        except errors.OrochiError:
            return ()
        refusal = encodings.unread(sql, parameters)
        if refusal is None:
            return statements
        if any(control.is_control(s) or self.engine.concerns(self, s, ever=True) for s in statements):
            raise refusal
        return ()

    def adopt(self, name: bytes, sql: bytes) -> portal.Prepared | None:
        """A relayed prepared statement became ours; None if its text is not one statement."""
        statements = self.parse(sql)
        if len(statements) != 1:
            return None
        prepared = portal.Prepared(name, sql, statements[0])
        self.relay.ours[name] = prepared
        return prepared

    def try_hot(self, data: bytes, pos: int) -> int:
        """Start the hot path for the batch at `pos`; its end, or 0 if it must take the long way."""
        try:
            return hotpath.start(self, data, pos)
        except Exception as error:
            log.exception("hotpath.failed", error=type(error).__name__)
            return 0  # the long way reports it

    # --- cancelling, ending ------------------------------------------------------------------------

    async def cancel(self) -> None:
        """Cancel the statement under way; returns when every server was told."""
        task, query_id = self._task, self.query_id
        await asyncio.gather(
            self.coordinator.cancel(),
            self.transaction.cancel(),
            self.runtime.transport.cancel(self.query_id),
            *([self.hot.connection.cancel()] if self.hot is not None else []),
            *([self.reading.cancel()] if self.reading is not None else []),
            return_exceptions=True,
        )
        if task is not None and not task.done():
            self.gateway.background(self._insist(task, query_id))

    async def _insist(self, task: asyncio.Task[None], query_id: str) -> None:
        """Stop the task itself, if its statement does not end by what the servers were told."""
        await asyncio.wait([task], timeout=_CANCEL_GRACE)
        if not task.done() and self._task is task and self.query_id == query_id:
            task.cancel()

    def client_writable(self, writable: bool) -> None:
        """The client takes data again, or not: the hot path's node connection must know."""
        if self.hot is not None:
            self.hot.client_writable(writable)

    def _on_async(self, kind: int, payload: bytes) -> None:
        self.client.write(messages.message(bytes((kind,)), payload))

    def _client_lost(self) -> None:
        self.relay.changed()
        if self._task is not None:
            self.gateway.background(self.cancel())
        elif self.hot is None:
            self.gateway.background(self._leave())

    async def _leave(self) -> None:
        """The client went away while the relay had its connection."""
        if self.relay.pending:
            await self.coordinator.cancel()  # nobody waits for what it runs
        await self._clean_up()

    def hot_ended(self) -> None:
        """The hot path is done: relay on, or clean up after a client that left."""
        self.hot = None
        if self.client.closed:
            self.gateway.background(self._clean_up())
        else:
            self.relay.resume()

    async def _clean_up(self) -> None:
        if self._cleaned:
            return
        self._cleaned = True
        self.coordinator.close()
        for item in self.relay.portals.values():
            item.close()
        self.gateway.forget(self)
        await loopback.leave(self)
