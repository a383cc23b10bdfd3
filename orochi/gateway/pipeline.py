"""Consecutive executions of single-shard prepared statements inside one batch, run together.

`executemany` sends thousands of Bind, Describe, Execute in a row; a network round trip for each
would cost more than the work. Writes are gathered, sent to each node in one piece, and their answers
put in the client's order. An error counts from its place in that order: nothing that the client sent
after it has happened.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from orochi import errors
from orochi.executor import node_errors
from orochi.gateway import hotpath, portal
from orochi.gateway import sink as sinks
from orochi.pgwire import client, messages
from orochi.pgwire import reply as replies

if TYPE_CHECKING:
    from orochi.gateway import session as sessions
    from orochi.planner import plan

_MOST = 1000
_MOST_BYTES = 4 << 20
_SAVEPOINT = "orochi_batch"


class _Item:
    """One execution, and its answer once it has one."""

    __slots__ = ("answer", "error", "held", "target")

    def __init__(self, held: portal.Portal, target: portal.Target) -> None:
        self.held = held
        self.target = target
        self.answer: bytes | None = None
        self.error: errors.OrochiError | None = None


class Batch:
    """Executions gathered, and the replies that go between theirs."""

    def __init__(self, session: sessions.Session) -> None:
        self._session = session
        self._items: list[_Item] = []
        self._out: list[bytes | _Item] = []
        self._size = 0
        self._in_transaction = False

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._out)

    @property
    def full(self) -> bool:
        """Whether it should run now."""
        return len(self._items) >= _MOST or self._size >= _MOST_BYTES

    def reply(self, data: bytes) -> None:
        """Send `data` to the client, after the answers of what was added before."""
        self._out.append(data)

    def add(self, held: portal.Portal, target: portal.Target, *, in_transaction: bool) -> None:
        """Add an execution, whose rows are returned all at once."""
        item = _Item(held, target)
        self._items.append(item)
        self._out.append(item)
        self._size += 64 + sum(len(value) for value in held.bind.values if value is not None)
        self._in_transaction = in_transaction

    async def run(self) -> None:
        """Run all, send the answers, and be empty again.

        Raises:
            OrochiError: of the first execution that failed; the answers before it were sent.
        """
        items, self._items, self._size = self._items, [], 0
        out, self._out = self._out, []
        if len(items) == 1 and isinstance(items[0].held.prepared.template, portal.ROUTER):
            await self._read(items[0])
        elif len(items) == 1 and not self._in_transaction:
            await self._write_alone(items[0])
        elif items:
            await self._write_together(items)
        await self._send(out)

    async def _send(self, out: list[bytes | _Item]) -> None:
        pieces: list[bytes] = []
        error: errors.OrochiError | None = None
        for piece in out:
            if isinstance(piece, bytes):
                pieces.append(piece)
                continue
            if piece.error is not None:
                error = piece.error
                if isinstance(error, errors.RemoteError) and error.began is False:
                    _unbind(pieces)
                break
            pieces.append(piece.answer or b"")
        self._session.client.write(b"".join(pieces))
        await self._session.client.drain()
        if error is not None:
            error = self._session.transaction.told(error)
            if isinstance(error, errors.RemoteError):
                node_errors.for_client(error, self._session.snapshot(), self._session.search_path)
            raise error

    # --- reads -----------------------------------------------------------------------------------

    async def _read(self, item: _Item) -> None:
        """A SELECT: its rows go to the client as they come."""
        session = self._session
        sink = sinks.ClientSink(session.client, session.relay, simple=False)
        sent = False

        async def on_rows(data: memoryview, count: int) -> None:
            nonlocal sent
            sent = True
            await sink.rows(data, count)

        transaction, marked = session.transaction, False
        # what one snapshot has shown, or what is written, is not given up
        kept = transaction.wrote or (transaction.steady and bool(transaction.participants))
        try:
            if self._in_transaction:
                template = item.held.prepared.template
                assert isinstance(template, portal.ROUTER)
                if transaction.wrote and not transaction.steady and self._may_move(template):
                    await transaction.savepoint(_SAVEPOINT)
                    marked = True
                connection = await transaction.node(item.target.node_id, write=template.locks)
                tag = await _execute(connection, item, on_rows)
                if marked:
                    await transaction.release(_SAVEPOINT)
            else:
                async with session.runtime.nodes.lease(item.target.node_id, session.settings) as connection:
                    session.reading = connection
                    try:
                        tag = await _execute(connection, item, on_rows)
                    finally:
                        session.reading = None
            item.answer = messages.command_complete(tag)
        except errors.OrochiError as error:
            if sent or not hotpath.needs_long_way(error):
                item.error = _without_position(error)
                return
            if marked:
                await transaction.rollback_to(_SAVEPOINT)
                await transaction.release(_SAVEPOINT)
            elif self._in_transaction and not kept:
                await transaction.rollback()
            elif self._in_transaction:
                item.error = errors.SerializationFailure(
                    "the layout of a shard changed while the statement ran",
                    hint="Run the transaction again.",
                )
                return
            await self._long_way(item)

    def _may_move(self, template: plan.Router) -> bool:
        """Whether shards that it reads may get another layout in everyday work, as those with chunks do."""
        tables = self._session.snapshot().tables
        found = [tables[oid] for oid in template.tables if oid in tables]
        return any(table.dimension is not None or table.storage_type == "columnar" for table in found)

    # --- writes ----------------------------------------------------------------------------------

    async def _write_alone(self, item: _Item) -> None:
        """One write that is a transaction by itself."""
        pieces: list[bytes] = []

        async def on_rows(data: memoryview, count: int) -> None:
            pieces.append(bytes(data))

        try:
            async with self._session.transaction.autocommit(item.target.node_id) as connection:
                tag = await _execute(connection, item, on_rows)
            item.answer = b"".join((*pieces, messages.command_complete(tag)))
        except errors.OrochiError as error:
            if hotpath.needs_long_way(error, alone=True):
                await self._long_way(item)
            else:
                item.error = _without_position(error)

    async def _write_together(self, items: list[_Item]) -> None:
        """Writes of one transaction; an execution that must take the long way does so in its turn."""
        while items:
            failed = await self._attempt(items)
            if failed is None:
                return
            error = items[failed].error
            assert error is not None
            if not hotpath.needs_long_way(error):
                return
            for item in items[: failed + 1]:
                item.answer = item.error = None
            if failed and await self._attempt(items[:failed]) is not None:
                return
            await self._long_way(items[failed])
            if items[failed].error is not None:
                return
            items = items[failed + 1 :]

    async def _attempt(self, items: list[_Item]) -> int | None:
        """Run all on their nodes; the position of the first that failed, with nothing then done."""
        session = self._session
        by_node: dict[int, list[_Item]] = {}
        for item in items:
            by_node.setdefault(item.target.node_id, []).append(item)
        joined = [
            (await session.transaction.node(node_id, write=True), own) for node_id, own in by_node.items()
        ]
        results = await asyncio.gather(
            *(_run_on(connection, own) for connection, own in joined), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        failed = next((at for at, item in enumerate(items) if item.error is not None), None)
        ending = "RELEASE SAVEPOINT" if failed is None else "ROLLBACK TO SAVEPOINT"
        # the savepoint itself goes too, so that a long transaction does not pile them up
        also = "" if failed is None else f"; RELEASE SAVEPOINT {_SAVEPOINT}"
        await asyncio.gather(*(connection.query(f"{ending} {_SAVEPOINT}{also}") for connection, _ in joined))
        return failed

    async def _long_way(self, item: _Item) -> None:
        """Run by the planner; the answer is kept for its turn."""
        session, held = self._session, item.held
        await session.runtime.refresh()
        spool = portal.Spool()
        try:
            sink = sinks.SpoolSink(session.client, session.relay, held.result_formats, spool)
            prepared = held.prepared
            await session.execute(prepared.statement, held.parameters, prepared.fields, sink)
            pieces, _, _ = spool.take(0)
            item.answer = b"".join((*pieces, messages.command_complete(spool.tag)))
        except errors.OrochiError as error:
            item.error = error
        finally:
            spool.close()


class _BatchReply(replies.Reply):
    """The answers of the executions of one request."""

    __slots__ = ("_at", "_items", "_pieces")

    def __init__(self, items: list[_Item]) -> None:
        super().__init__()
        self._items = items
        self._at = 0
        self._pieces: list[bytes] = []

    def rows(self, data: bytes, start: int, end: int, count: int) -> None:
        """Rows of a RETURNING."""
        self._pieces.append(data[start:end])

    def message(self, kind: int, payload: bytes) -> None:
        """The end of one execution, or an error: the rest is skipped."""
        if kind == 0x32:  # 2: BindComplete
            self.bound = True
        elif kind == 0x43:  # C: CommandComplete
            self.bound = False
            self._items[self._at].answer = b"".join((*self._pieces, messages.message(b"C", payload)))
            self._at += 1
            self._pieces.clear()
        elif kind == 0x45:  # E: ErrorResponse
            error = messages.parse_error(payload)
            error.began = self.bound
            self.error = self._items[self._at].error = _without_position(error)


async def _run_on(connection: client.PgConnection, items: list[_Item]) -> None:
    """One node's executions, in one request."""
    parts: list[bytes] = []
    fresh = []
    for item in items:
        bind, key = item.held.bind, item.target.key
        name, before = connection.prepare(key, item.target.sql, key[1])
        if before:
            parts.append(before)
            fresh.append(key)
        parts += (
            messages.bind(b"", name, bind.formats, bind.values, bind.result_formats),
            messages.EXECUTE_ALL,
        )
    parts.append(messages.SYNC)
    savepoint, reply = replies.Reply(), _BatchReply(items)
    connection.send(messages.query(f"SAVEPOINT {_SAVEPOINT}"), savepoint)
    connection.send(b"".join(parts), reply)
    await reply.done
    savepoint.check()
    if reply.error is not None:
        for key in fresh if reply.error.sqlstate != "0A000" else [item.target.key for item in items]:
            connection.forget(key)
        if connection.closed:
            raise reply.error


async def _execute(connection: client.PgConnection, item: _Item, on_rows: client.OnRows) -> str:
    bind, key = item.held.bind, item.target.key
    return await connection.execute_prepared(
        key[0], bind.values, bind.formats, key[1], bind.result_formats, on_rows, key=key
    )


def _unbind(pieces: list[bytes]) -> None:
    """A node refused to bind the last execution: it was not bound, nor described."""
    if messages.BIND_COMPLETE in pieces:
        while pieces.pop() != messages.BIND_COMPLETE:
            continue


def _without_position(error: errors.OrochiError) -> errors.OrochiError:
    """A position points into the shard's SQL, not the client's."""
    if isinstance(error, errors.RemoteError):
        error.fields.pop("P", None)
    return error
