"""COPY FROM into a table whose large loads become stripes.

The client's text or CSV is read here where it is spelled plainly; a piece with anything else in it goes
through PostgreSQL's own COPY into the staging table, as everything does where options, types or
constraints need PostgreSQL. Either way the rows end in one `bulk.Load`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Sequence

import pyarrow as pa

from orochi import errors, pgtypes
from orochi.engine import copytext
from orochi.executor import context
from orochi.operations import bulk, load_target, stage, writes
from orochi.planner import copy as plans

#: Bytes of the client's data that are read together.
PIECE_BYTES = 4 << 20
_LINE = re.compile(r"(?<=, line )\d+")
_UTC = frozenset({"utc", "gmt", "etc/utc", "etc/gmt", "uct", "zulu"})


async def load(
    session: context.Session, plan: plans.CopyFrom, target: load_target.Target, sink: context.Sink
) -> int:
    """Take all the client's rows; how many they were."""
    loading = bulk.Load(session, target)
    try:
        async with contextlib.AsyncExitStack() as stack:
            columns = _readable(session, plan, target)
            if columns is None or plan.plain is None:
                await stack.enter_async_context(stage.table(session, target.table))
                await stage_all(session, plan, sink)
                await bulk.load_relation(session, loading, stage.RELATION, target.columns)
            else:
                stream = _Stream(session, plan, plan.plain, loading, columns, stack)
                await stream.take(sink)
            await loading.finish()
    finally:
        await loading.close()
    return loading.rows


async def stage_all(session: context.Session, plan: plans.CopyFrom, sink: context.Sink) -> int:
    """Run the COPY into the staging table; how many rows it took."""
    if not plan.from_client:
        return writes.affected((await session.coordinator.fetch(plan.sql)).tag)
    return writes.affected(await session.coordinator.copy_in(plan.sql, _client_data(sink, plan)))


async def _client_data(sink: context.Sink, plan: plans.CopyFrom) -> AsyncIterator[bytes]:
    # reached only once PostgreSQL has accepted the statement
    overall = int(plan.binary)
    async for data in sink.copy_in(overall, (overall,) * len(plan.columns)):
        yield data


def _readable(
    session: context.Session, plan: plans.CopyFrom, target: load_target.Target
) -> list[copytext.Column] | None:
    """The columns of the data, if their values can be read here and nothing else is to be computed."""
    encoding = session.coordinator.parameters.get("client_encoding", "").lower()
    if encoding not in ("utf8", "utf-8", "unicode"):
        return None
    if any(item.type == "c" for item in target.shell.constraints):
        return None
    found = []
    for column in target.columns:
        if column.name not in plan.columns:
            if column.default_sql is not None or column.identity or column.not_null:
                return None
        elif column.type_oid != column.base_oid or not copytext.is_readable(column.base_oid, column.typmod):
            return None
    for name in plan.columns:
        column_ = target.table.column(name)
        assert column_ is not None
        found.append(copytext.Column(name, column_.base_oid, column_.typmod, column_.not_null))
    return found


class _Stream:
    """The client's data on its way: one piece is read while the next one comes."""

    def __init__(
        self,
        session: context.Session,
        plan: plans.CopyFrom,
        form: plans.Plain,
        loading: bulk.Load,
        columns: Sequence[copytext.Column],
        stack: contextlib.AsyncExitStack,
    ) -> None:
        self._session = session
        self._plan = plan
        self._plain = form
        self._form = copytext.Format(form.delimiter, form.null, form.quote)
        zone = session.coordinator.parameters.get("TimeZone", "").lower()
        coded = [column.name for column in columns]
        self._reader = copytext.Reader(columns, self._form, utc=zone in _UTC, coded=coded)
        self._load = loading
        self._stack = stack
        self._staged = False
        self._lines = 0
        self._last_piece = b""
        self._data: AsyncIterator[bytes] | None = None
        self._order = [plan.columns.index(c.name) if c.name in plan.columns else -1 for c in loading.columns]

    async def take(self, sink: context.Sink) -> None:
        """Take everything that the client sends."""
        running: asyncio.Task[None] | None = None
        data = self._data = aiter(sink.copy_in(0, (0,) * len(self._plan.columns)))
        held: list[bytes] = []
        header, size, wanted = self._plain.header, 0, PIECE_BYTES
        try:
            async for payload in data:
                held.append(payload)
                size += len(payload)
                if size < wanted and not header:
                    continue
                if header:
                    rows = b"".join(held)
                    end = self._header_end(rows)
                    if b"\r" in rows[:end]:
                        return await self._rest(rows, sql=self._plan.sql)
                    header = not end
                    rows = rows[end:]
                    self._lines += bool(end)
                    held, size = [rows], len(rows)
                    if size < wanted or header:
                        continue
                piece, rest = self._cut(held)
                held, size = [rest], len(rest)
                if not piece:
                    wanted = 2 * size
                    continue
                wanted = PIECE_BYTES
                if running is not None:
                    await running
                    running = None
                if self._ends_or_returns(piece):
                    return await self._rest(piece + rest)
                running = asyncio.create_task(self._read(piece))
            if running is not None:
                await running
                running = None
            await self._last(b"".join(held), header=header)
        finally:
            if running is not None:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    def _cut(self, held: list[bytes]) -> tuple[bytes, bytes]:
        """Whole rows, and what follows them."""
        *before, last = held
        # nearly always a row's end: all before it is joined once and not copied again
        end = last.rfind(b"\n") + 1
        piece, rest = b"".join([*before, last[:end]]), last[end:]
        end = copytext.whole_rows(piece, self._form)
        return (piece, rest) if end == len(piece) else (piece[:end], piece[end:] + rest)

    async def _last(self, piece: bytes, *, header: bool) -> None:
        """What follows the last piece; its last line may lack its end."""
        if not piece or header:
            return
        if self._ends_or_returns(piece):
            await self._rest(piece)
        else:
            await self._read(piece if piece.endswith(b"\n") else piece + b"\n")

    def _header_end(self, held: bytes) -> int:
        """Where CSV's header ends: at the first newline outside quotes; 0 if it is not whole yet."""
        quote, end = self._form.quote.encode(), held.find(b"\n") + 1
        while end and held.count(quote, 0, end) % 2:
            end = held.find(b"\n", end) + 1
        return end

    @staticmethod
    def _ends_or_returns(piece: bytes) -> bool:
        """Whether the rest must be PostgreSQL's: an end of data before its end, or other ends of lines."""
        return b"\r" in piece or (b"\\" in piece and b"\\." in piece)

    async def _read(self, piece: bytes) -> None:
        try:
            batch = await asyncio.to_thread(self._reader.read, piece)
        except copytext.Odd:
            await self._through_postgres(_one(piece), 0)
            self._lines += piece.count(b"\n")
        else:
            await self._load.add(self._complete(batch))
            self._lines += self._reader.lines
        self._last_piece = piece

    async def _rest(self, piece: bytes, sql: str = "") -> None:
        """Give PostgreSQL the data from here on, after a row that shows it how lines have ended so far."""
        client, before = self._data, self._last_piece
        assert client is not None
        last_row = before[copytext.whole_rows(before[:-1], self._form) :]

        async def everything() -> AsyncIterator[bytes]:
            yield last_row + piece
            async for payload in client:
                yield payload

        await self._through_postgres(everything(), int(bool(last_row)), sql)

    async def _through_postgres(self, data: AsyncIterator[bytes], known: int, sql: str = "") -> None:
        """Let PostgreSQL read the rows, of which so many are here already."""
        coordinator = self._session.coordinator
        if not self._staged:
            await self._stack.enter_async_context(stage.table(self._session, self._load.table))
            self._staged = True
        try:
            await coordinator.copy_in(sql or self._plain.again, data)
        except errors.RemoteError as error:
            where = error.fields.get("W")
            if where is None:
                raise
            before = self._lines - known
            told = _LINE.sub(lambda found: str(int(found[0]) + before), where, count=1)
            raise errors.RemoteError({**error.fields, "W": told}) from error
        await bulk.load_relation(self._session, self._load, stage.RELATION, self._load.columns, skip=known)
        await coordinator.query(f"TRUNCATE {stage.RELATION}")

    def _complete(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with all columns of the table, in its order."""
        arrays = [
            batch.column(at) if at >= 0 else pa.nulls(batch.num_rows, pgtypes.carrier(column.base_oid))
            for at, column in zip(self._order, self._load.columns, strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, [column.name for column in self._load.columns])


async def _one(piece: bytes) -> AsyncIterator[bytes]:
    yield piece
