"""`PgConnection`: one connection to a PostgreSQL server, on asyncio.

Every request ends in exactly one ReadyForQuery, and replies are matched to requests in order. An
error is raised only after the server is ready again, so the connection is usable at once; a
connection that broke raises `NodeUnavailable` and stays `closed`. Rows can be had raw, to be
passed on untouched. A `tap` sees the raw bytes instead of the reply queue: the gateway's relay and
its hot path use it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Self

from orochi import errors
from orochi.pgwire import connection, login, messages
from orochi.pgwire import reply as replies

OnRows = Callable[[memoryview, int], Awaitable[None]]
#: A prepared statement that is not there, or whose result has other columns now.
_UNUSABLE = frozenset({"26000", "0A000"})
_COPY_PIECE = 1 << 20
_NO_NAME = b""


class PgConnection(connection.Connection):
    """A client connection; made by `connect`, used by one task at a time.

    Attributes:
        scratch: name of the statement and portal that `fetch`, `stream` and `describe` use; a
            name other than the empty one keeps them from replacing the unnamed ones.
        prepared_limit: how many statements `execute_prepared` keeps.
    """

    def __init__(self, prepared_limit: int = 500) -> None:
        super().__init__()
        self.scratch = _NO_NAME
        self.prepared_limit = prepared_limit
        self._names = itertools.count(1)

    @classmethod
    async def connect(
        cls,
        host: str,
        port: int,
        user: str,
        password: str | None = None,
        dbname: str | None = None,
        *,
        options: Mapping[str, str] | None = None,
        timeout: float = 10.0,
        prepared_limit: int = 500,
    ) -> Self:
        """Connect and log in.

        Args:
            host: a name, an address, or a directory holding the server's Unix socket.
            port: the server's port.
            user: the role.
            password: for SCRAM-SHA-256, MD5 or clear text, as the server asks.
            dbname: the database; the role's name if None.
            options: further startup parameters, such as `application_name` or any setting.
            timeout: seconds for all of it.
            prepared_limit: prepared statements kept on the connection.

        Raises:
            NodeUnavailable: no connection, or no answer in time.
            RemoteError: the server refused the login.
        """
        self = cls(prepared_limit)
        parameters = {"user": user, "database": dbname or user, "client_encoding": "UTF8", **(options or {})}
        try:
            async with asyncio.timeout(timeout):
                await self.open(host, port)
                self._login = login.Login(user, password)
                await self.request(messages.startup(parameters), self._login)
        except (OSError, TimeoutError) as error:
            self.abort()
            raise errors.NodeUnavailable(f"could not connect to {host}:{port}", detail=str(error)) from error
        except BaseException:
            self.abort()
            raise
        finally:
            self._login = None
        return self

    async def query(self, sql: str) -> list[messages.QueryResult]:
        """Run SQL, possibly several statements, by the simple protocol; values come as text."""
        reply = await self.request(messages.query(sql), replies.Reply())
        return reply.results

    async def fetch(
        self,
        sql: str,
        values: Sequence[bytes | None] = (),
        formats: Sequence[int] = (),
        type_oids: Sequence[int] = (),
        result_formats: Sequence[int] = (),
    ) -> messages.QueryResult:
        """Run one statement with bound parameters; its whole result."""
        request = self._extended(sql, values, formats, type_oids, result_formats, describe=True)
        reply = await self.request(request, replies.Reply())
        return reply.results[-1] if reply.results else messages.QueryResult((), [], "")

    async def describe(
        self, sql: str, type_oids: Sequence[int] = ()
    ) -> tuple[tuple[int, ...], tuple[messages.FieldDescription, ...] | None]:
        """Parameter types and result columns (None if it returns no rows) as the server infers them."""
        name = self.scratch
        request = b"".join(
            (
                messages.close(b"S", name) if name else b"",
                messages.parse(name, messages.encode(sql), type_oids),
                messages.describe(b"S", name),
                messages.close(b"S", name) if name else b"",
                messages.SYNC,
            )
        )
        reply = await self.request(request, replies.Reply())
        return reply.type_oids, reply.fields

    async def stream(
        self,
        sql: str,
        values: Sequence[bytes | None],
        formats: Sequence[int],
        type_oids: Sequence[int],
        result_formats: Sequence[int],
        on_rows: OnRows,
    ) -> str:
        """Run one statement, handing raw DataRow messages to `on_rows`; the command tag."""
        request = self._extended(sql, values, formats, type_oids, result_formats, describe=False)
        return await self._stream(request, on_rows)

    def stream_request(self, sql: str, values: Sequence[bytes | None]) -> tuple[bytes, replies.RowStream]:
        """One statement with binary parameters and binary rows, to be given to `send_all`."""
        formats = (1,) if values else ()
        return self._extended(sql, values, formats, (), (1,), describe=False), self.row_stream()

    async def execute_prepared(
        self,
        sql: str,
        values: Sequence[bytes | None],
        formats: Sequence[int],
        type_oids: Sequence[int],
        result_formats: Sequence[int],
        on_rows: OnRows,
        *,
        key: object = None,
    ) -> str:
        """Like `stream`, keeping the statement prepared on this connection, under `key`, for the next time."""
        key = key or (sql, tuple(type_oids))
        name, before = self.prepare(key, sql, type_oids)
        request = b"".join(
            (
                before,
                messages.bind(_NO_NAME, name, formats, values, result_formats),
                messages.EXECUTE_ALL,
                messages.SYNC,
            )
        )
        reply = self.row_stream()
        try:
            return await self._stream(request, on_rows, reply)
        except errors.OrochiError as error:
            if (before and not reply.parsed) or error.sqlstate in _UNUSABLE:
                self._prepared.pop(key, None)
            raise

    def prepare(self, key: object, sql: str, type_oids: Sequence[int] = ()) -> tuple[bytes, bytes]:
        """The name of the prepared statement for `key`, and the messages that must go first.

        The messages are empty when the statement is prepared already; else they are a Parse,
        maybe after the Close of the statement used longest ago. If the Parse fails, call `forget`.
        """
        name = self._prepared.get(key)
        if name is not None:
            self._prepared.move_to_end(key)
            return name, b""
        before = b""
        if len(self._prepared) >= self.prepared_limit:
            before = messages.close(b"S", self._prepared.popitem(last=False)[1])
        name = b"orochi_%d" % next(self._names)
        self._prepared[key] = name
        return name, before + messages.parse(name, messages.encode(sql), type_oids)

    async def forget_prepared(self) -> None:
        """Drop every prepared statement, here and on the server."""
        if self._prepared:
            await self.query("DEALLOCATE ALL")

    def forget(self, key: object) -> None:
        """The prepared statement of `key` does not exist after all."""
        self._prepared.pop(key, None)

    async def copy_out(self, sql: str) -> AsyncIterator[bytes]:
        """Run COPY ... TO STDOUT; yields its data in pieces that may hold many CopyData messages."""
        reply = replies.CopyStream(self.pause_reading, self.resume_reading)
        self.send(messages.query(sql), reply)
        try:
            while (piece := await reply.take()) is not None:
                yield piece
        finally:
            reply.abandon()
        reply.check()

    async def copy_out_messages(self, sql: str, on_messages: Callable[[list[bytes]], Awaitable[None]]) -> str:
        """Run COPY ... TO STDOUT, handing over CopyData payloads as the server cut them; the command tag."""
        reply = replies.CopyMessages(self.pause_reading, self.resume_reading)
        self.send(messages.query(sql), reply)
        try:
            while (pieces := await reply.take()) is not None:
                await on_messages(pieces)
        except BaseException:
            reply.abandon()
            raise
        reply.check()
        return reply.tag

    async def copy_in(self, sql: str, chunks: AsyncIterable[bytes] | Iterable[bytes]) -> str:
        """Run COPY ... FROM STDIN with `chunks` as its data; the command tag.

        If `chunks` raises, the COPY is failed on the server and the exception goes on.
        """
        reply = replies.Reply()
        reply.copy_started = asyncio.get_running_loop().create_future()
        self.send(messages.query(sql), reply)
        try:
            await reply.copy_started
            if not reply.failed() and not reply.done.done():
                async for chunk in _each(chunks):
                    if reply.failed():
                        break
                    for at in range(0, len(chunk), _COPY_PIECE):
                        self.write(messages.copy_data(memoryview(chunk)[at : at + _COPY_PIECE]))
                    if not self._writable:
                        await self.drain()
                self.write(messages.COPY_DONE)
        except BaseException as error:
            if not self.closed and not reply.done.done():
                self.write(messages.copy_fail(str(error)[:200] or type(error).__name__))
                if isinstance(error, Exception):
                    await reply.done
            raise
        await reply.done
        reply.check()
        return reply.tag

    async def wait_notification(self, timeout: float) -> bool:
        """Wait for a NOTIFY on a channel this connection listens to; False if none came in time."""
        try:
            async with asyncio.timeout(timeout):
                await self.notified.wait()
        except TimeoutError:
            return False
        self.notified.clear()
        return not self.closed

    def cancel(self) -> Awaitable[None]:
        """Ask the server, over a connection of its own, to cancel what runs on this one.

        From the call on `cancelled` says that it may hit anything that runs here later.
        """
        self.cancelled = True
        return cancel(self.host, self.port, self.pid, self.secret)

    async def _stream(self, request: bytes, on_rows: OnRows, reply: replies.RowStream | None = None) -> str:
        reply = reply or self.row_stream()
        self.send(request, reply)
        try:
            while (item := await reply.take()) is not None:
                await on_rows(item[0], item[1])
        except BaseException:
            reply.abandon()
            raise
        reply.check()
        return reply.tag

    def row_stream(self) -> replies.RowStream:
        """A reply to be given to `send`, whose rows are taken raw."""
        return replies.RowStream(self.pause_reading, self.resume_reading)

    def _extended(
        self,
        sql: str,
        values: Sequence[bytes | None],
        formats: Sequence[int],
        type_oids: Sequence[int],
        result_formats: Sequence[int],
        *,
        describe: bool,
    ) -> bytes:
        name = self.scratch
        return b"".join(
            (
                messages.close(b"P", name) + messages.close(b"S", name) if name else b"",
                messages.parse(name, messages.encode(sql), type_oids),
                messages.bind(name, name, formats, values, result_formats),
                messages.describe(b"P", name) if describe else b"",
                messages.execute(name),
                messages.close(b"P", name) + messages.close(b"S", name) if name else b"",
                messages.SYNC,
            )
        )


async def cancel(host: str, port: int, pid: int, secret: bytes, timeout: float = 5.0) -> None:
    """Send a CancelRequest; returns when the server closed the connection, or quietly gives up."""
    try:
        async with asyncio.timeout(timeout):
            if host.startswith("/"):
                reader, writer = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
            else:
                reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(messages.cancel_request(pid & 0xFFFFFFFF, secret))
                await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return


async def _each(chunks: AsyncIterable[bytes] | Iterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(chunks, AsyncIterable):
        async for chunk in chunks:
            yield chunk
    else:
        for chunk in chunks:
            yield chunk
