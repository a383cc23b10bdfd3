"""A batch of extended-protocol messages, up to its Sync, that the relay did not let pass.

Messages are handled in order. Those that are not ours go on to the coordinator, as many at a time
as are there, and their answers come back untouched. Statements of ours are prepared on the
coordinator too, which checks them and tells their types; they are bound and executed here.

Outside a block the whole batch is one implicit transaction: as soon as more than one statement runs
in it, the coordinator is put in a block that ends at Sync, so that both sides commit together.
"""

from __future__ import annotations

import re
from collections.abc import Coroutine
from typing import TYPE_CHECKING

from orochi import errors
from orochi.gateway import (
    bindcheck,
    bodies,
    client_socket,
    control,
    encodings,
    ending,
    exchange,
    executes,
    hotpath,
    pipeline,
    portal,
    simple,
)
from orochi.gateway import sink as sinks
from orochi.pgwire import messages, reply
from orochi.planner import parse

if TYPE_CHECKING:
    from orochi.gateway import session as sessions

_CONTROL = re.compile(
    rb"\s*(?:begin|start|commit|end|rollback|abort|savepoint|release|prepare|deallocate|discard|execute)\b",
    re.IGNORECASE,
)


class Unit:
    """One batch.

    Attributes:
        failed: a message failed; all others until Sync are skipped.
    """

    def __init__(self, session: sessions.Session) -> None:
        self.session, self.relay, self.client = session, session.relay, session.client
        self.failed = False
        self._open = False  # the coordinator has had messages of this batch and no Sync yet
        self._skipping = False  # it skips everything until Sync
        self._hidden = False  # the implicit transaction is a block on the coordinator
        self._executed = self._executed_there = 0  # statements run so far: here or there, and there
        self._group: list[bytes] = []  # messages to be passed on
        self._group_executes = 0
        self._changing = 0  # flags of statements of this batch that were passed on
        self._batch = pipeline.Batch(session)

    async def run(self) -> None:
        """Handle messages until the batch has ended and ReadyForQuery is sent."""
        inbox = self.relay.inbox
        while True:
            if inbox.peek() is None:
                await self._attempt(self._flush())
            kind, payload = await self.relay.next_message()
            if kind == 0x53:  # S: Sync
                await self._attempt(self._flush())
                await self._end()
                self.client.write(messages.ready_for_query(self.session.coordinator.status))
                return
            if kind == 0x58:  # X: Terminate
                self.client.close()
                raise client_socket.ClientGone
            if kind == 0x51:  # Q: a simple query ends the batch too
                if not self.failed:
                    await self._attempt(self._flush())
                    await self._end()
                    await simple.run(self.session, payload)
                    return
            elif kind == 0x48:  # H: Flush
                await self._attempt(self._flush())
            elif not self.failed and kind in b"PBDEC":
                await self._attempt(self._handle(kind, payload))

    async def _attempt(self, step: Coroutine[None, None, None]) -> None:
        """Run a step; its error goes to the client, and the rest of the batch is skipped."""
        if self.failed:
            step.close()
            return
        try:
            await step
        except errors.OrochiError as error:
            if self.session.coordinator.closed:
                raise
            self._group.clear()
            self.failed = True
            self.client.write(messages.error_response(error))

    async def _handle(self, kind: int, payload: bytes) -> None:
        if kind == 0x50:
            await self._parse(payload)
        elif kind == 0x42:
            await self._bind(payload)
        elif kind == 0x45:
            await self._execute(payload)
        else:
            await self._describe_or_close(kind, payload)

    async def _parse(self, payload: bytes) -> None:
        if payload[0] == 0 and (again := self.session.recent.again(payload)) is not None:
            await self._flush_group()
            if not self.failed:
                self.relay.ours[b""] = again
                self.relay.unnamed = b""
                self._reply(messages.PARSE_COMPLETE)
            return
        payload = await bodies.rewritten(self.session, payload)
        message = messages.parse_parse(payload)
        statement = await self._ours(message.sql, kept=bool(message.name))
        if statement is None:
            self.relay.note_changing(message.name, self.relay.texts.flags(message.sql))
            if message.name:
                self.relay.named[message.name] = message.sql
            else:
                self.relay.unnamed = messages.message(b"P", payload)
                self.relay.ours.pop(b"", None)
            await self._pass_on(b"P", payload)
            return
        await self._flush()
        if not self.failed:
            await self._prepare(message, payload, statement)

    async def _ours(self, sql: bytes, *, kept: bool) -> parse.Statement | None:
        """The statement, if the session must run it; one that is kept may become ours at any time."""
        if self.relay.catalog_dirty and self.session.coordinator.status != "E":
            await self._flush()
            if self._executed_there:
                await self._hide()
            if not self.failed:
                await self.session.sync_catalog()
        flags = self.relay.texts.flags(sql)
        is_control = _CONTROL.match(sql) is not None
        known = flags & self.relay.mask or is_control or self.relay.exclusive
        if not known and not self.session.catalog_is_own:
            return None
        statements = self.session.parse(sql)
        if len(statements) != 1:
            return None
        if control.is_control(statements[0]):
            return statements[0]
        if self.session.coordinator.status == "E":
            return None
        await self._settings()
        ours = executes.prepared(self.session, statements[0]) is not None
        ours = ours or self.session.engine.concerns(self.session, statements[0], ever=kept)
        return statements[0] if ours and not self.failed else None

    async def _prepare(self, message: messages.Parse, payload: bytes, statement: parse.Statement) -> None:
        capture = exchange.Capture(self.relay, 2)
        self._open = True
        prepared = portal.Prepared(message.name, message.sql, statement)
        await capture.run(prepared.parse_message(payload) + messages.describe(b"S", message.name))
        if capture.error is not None:
            self._skipping = True
            raise capture.error
        prepared.describe(capture.type_oids, capture.fields, self.session.meaning())
        self.relay.ours[message.name] = prepared
        self.relay.named.pop(message.name, None)
        if not message.name:
            self.relay.unnamed = b""
            self.session.recent.add(payload, prepared)
        self.client.write(messages.PARSE_COMPLETE)

    async def _described(self, prepared: portal.Prepared) -> None:
        """Ask for the types of a statement that became ours after it was prepared, or whose tables may be others.

        Raises:
            RemoteError: as PostgreSQL refuses a prepared statement whose result has changed.
        """
        if self.relay.settings_dirty and self.session.coordinator.status != "E":
            await self._settings()
        is_new = prepared.described_in == self.session.meaning() or not prepared.name
        if self.failed or (prepared.described and is_new):
            return
        await self._flush()
        self._open = True
        capture = await exchange.describe(self.relay, prepared)
        if capture.error is not None:
            self._skipping = True
            raise capture.error
        prepared.describe_again(capture.type_oids, capture.fields, self.session.meaning())

    # --- Bind, Describe, Close ---------------------------------------------------------------------

    async def _bind(self, payload: bytes) -> None:
        name, at = messages.cstring(payload, 0)
        statement_name, _ = messages.cstring(payload, at)
        prepared = self.relay.ours.get(statement_name) or self._control(statement_name)
        if prepared is None:
            self._changing |= self.relay.changing.get(statement_name, 0)
            held = self.relay.portals.get(name)
            if held is not None and not name:
                held.close()
                del self.relay.portals[name]
            await self._pass_on(b"B", payload)
            return
        await self._described(prepared)
        bind = messages.parse_bind(payload)
        prepared.check(bind)
        if self.session.coordinator.status == "E" and not control.is_control(prepared.statement):
            raise errors.OrochiError(
                "current transaction is aborted, commands ignored until end of transaction block",
                sqlstate="25P02",
            )
        if name and name in self.relay.portals:
            raise errors.OrochiError(f'cursor "{messages.decode(name)}" already exists', sqlstate="42P03")
        held = portal.Portal(prepared, bind)
        if not await self._is_valid(name, held):
            return
        await self._flush_group()
        self.relay.portals[name] = held
        self._reply(messages.BIND_COMPLETE)

    async def _is_valid(self, name: bytes, held: portal.Portal) -> bool:
        """Whether the values are valid for their types, or a node is to say so; False after an error."""
        encoding = self.session.coordinator.parameters.get("client_encoding", "")
        encodings.require_readable(held.parameters, encoding)
        if bindcheck.is_plainly_valid(held.parameters, encoding):
            return True
        if not self.relay.settings_dirty and hotpath.target(self.session, held) is not None:
            return True
        await self._flush()
        if self.failed:
            return False
        self._open = True
        try:
            await bindcheck.probe(self.relay, name, held)
        except errors.RemoteError:
            self._skipping = True
            raise
        return True

    def _control(self, name: bytes) -> portal.Prepared | None:
        """A relayed prepared BEGIN, COMMIT and the like is ours once a batch is."""
        sql = self.relay.named.get(name)
        if not name and self.relay.unnamed:
            sql = messages.parse_parse(self.relay.unnamed[5:]).sql
        if sql is None or _CONTROL.match(sql) is None:
            return None
        prepared = self.session.adopt(name, sql)
        if prepared is not None and not control.is_control(prepared.statement):
            del self.relay.ours[name]
            return None
        return prepared

    async def _describe_or_close(self, kind: int, payload: bytes) -> None:
        target, name = messages.parse_target(payload)
        if target == 0x50 and name in self.relay.portals:
            held = self.relay.portals[name]
            if kind == 0x44:
                self._reply(held.prepared.description(held.result_formats))
            else:
                held.close()
                del self.relay.portals[name]
                self._reply(messages.CLOSE_COMPLETE)
            return
        if kind == 0x44 and target == 0x53 and not name and b"" in self.relay.ours:
            prepared = self.relay.ours[b""]  # the coordinator may not have it: see `_again`
            await self._described(prepared)
            await self._flush_group()
            if not self.failed:
                self._reply(messages.parameter_description(prepared.type_oids) + prepared.description(()))
            return
        if kind == 0x43 and target == 0x53:
            self.relay.ours.pop(name, None)
            self.relay.named.pop(name, None)
        await self._pass_on(bytes((kind,)), payload)

    def _reply(self, data: bytes) -> None:
        if self._batch:
            self._batch.reply(data)
        else:
            self.client.write(data)

    async def _execute(self, payload: bytes) -> None:
        name, limit = messages.parse_execute(payload)
        held = self.relay.portals.get(name)
        if held is None:
            self._group_executes += 1
            await self._pass_on(b"E", payload)
            self.relay.touched(self._changing)
            return
        if held.spool is not None:
            await self._flush()
            held.spool.send(self.client.write, limit)
            return
        if held.started:
            await self._flush()
            if held.prepared.fields is None:
                raise errors.OrochiError(f'portal "{messages.decode(name)}" cannot be run', sqlstate="55000")
            self.client.write(messages.command_complete("SELECT 0"))
            return
        held.started = True
        statement = held.prepared.statement
        if control.is_control(statement):
            await self._flush()
            if not self.failed:
                await self._run_control(statement)
            return
        if self.relay.settings_dirty:
            await self._settings()
        if not limit or held.prepared.fields is None:
            first = self._executed == 0 and not self._batch and exchange.sync_comes(self.relay.inbox)
            alone = first and self.session.coordinator.status == "I" and not self._hidden
            target = hotpath.target(self.session, held, alone=alone)
            if target is not None and not self.relay.settings_dirty:
                await self._flush_group()
                await self._hot(held, target, alone=alone)
                return
        await self._flush()
        if not self.failed:
            await self._run(held, limit)

    async def _hot(self, held: portal.Portal, target: portal.Target, *, alone: bool) -> None:
        self._executed += 1
        if self._executed_there:
            await self._hide()
        self._batch.add(held, target, in_transaction=not alone or self._hidden)
        if self._batch.full or isinstance(held.prepared.template, portal.ROUTER):
            await self._flush()

    async def _run(self, held: portal.Portal, limit: int) -> None:
        session = self.session
        statement, parameters, fields = held.prepared.statement, held.parameters, held.prepared.fields
        implicit = session.coordinator.status == "I"
        if implicit and (
            self._executed
            or not exchange.sync_comes(self.relay.inbox)
            or simple.needs_block(session, statement)
        ):
            await self._hide()
        self._executed += 1
        inner = executes.prepared(session, statement)
        if inner is not None:
            statement, parameters, fields = await executes.bind(session, statement, inner)
        if not limit or held.prepared.fields is None:
            sink = sinks.ClientSink(self.client, self.relay, held.result_formats, simple=False)
            await session.execute(statement, parameters, fields, sink)
            session.ran(statement.sql.encode())
            return
        held.spool = portal.Spool()
        await session.execute(
            statement,
            parameters,
            fields,
            sinks.SpoolSink(self.client, self.relay, held.result_formats, held.spool),
        )
        held.spool.send(self.client.write, limit)

    async def _run_control(self, statement: parse.Statement) -> None:
        session = self.session
        if control.is_begin(statement) and self._hidden:
            self._hidden = False
            self.client.write(messages.command_complete("BEGIN"))
            return
        if statement.kind is parse.Kind.TRANSACTION:
            self._hidden = False
        tag = await control.run(session, statement)
        if statement.kind is parse.Kind.TRANSACTION:
            self._executed = self._executed_there = 0
        self.client.write(messages.command_complete(tag))

    # --- the coordinator's part ----------------------------------------------------------------------

    async def _pass_on(self, kind: bytes, payload: bytes) -> None:
        if self._batch:
            await self._flush()
        self._group.append(messages.message(kind, payload))

    async def _flush(self) -> None:
        """Send what waits, and see its answers through."""
        if self._batch:
            await self._batch.run()
        await self._flush_group()

    async def _flush_group(self) -> None:
        group, executes = self._group, self._group_executes
        if not group or self.failed:
            return
        self._group, self._group_executes = [], 0
        if executes and self.session.transaction.participants and not self._hidden:
            await self._hide()
        self._open = True
        self._executed += executes
        self._executed_there += executes
        if not await exchange.PassThrough(self.relay, len(group)).run(b"".join(group)):
            self.failed = self._skipping = True

    async def _settings(self) -> None:
        if self.relay.settings_dirty:
            await self._flush()
            if self._executed_there:
                await self._hide()
            if self.failed:
                return
        await self.session.refresh_settings()

    async def _hide(self) -> None:
        """Make the implicit transaction a block on the coordinator; what ran there already is in it."""
        if self.session.coordinator.status == "I" and not self._hidden:
            await self.session.begin()
            self._hidden = True
            self.session.transaction.in_block = True

    async def _end(self) -> None:
        """Sync: end the coordinator's part of the batch, and the implicit transaction."""
        session = self.session
        if self._open:
            closing = reply.Reply()
            session.coordinator.send(messages.SYNC, closing)
            await closing.done
            self._open = False
            if closing.error is not None:
                if session.coordinator.closed:
                    raise closing.error
                self._report(closing.error)
        self.relay.touched(self._changing)
        implicit = self._hidden or session.coordinator.status == "I"
        try:
            if self.failed:
                await session.fail(implicit=implicit)
            elif implicit:
                await simple.commit(session)
                await ending.learn(session)
        except errors.OrochiError as error:
            if session.coordinator.closed:
                raise
            self._report(error)
            await session.fail(implicit=implicit)

    def _report(self, error: errors.OrochiError) -> None:
        if not self.failed:
            self.client.write(messages.error_response(error))
        self.failed = True
