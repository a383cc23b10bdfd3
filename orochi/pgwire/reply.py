"""What a server answers to one request, gathered message by message, up to its ReadyForQuery.

A connection holds its replies in a queue: requests may be sent before earlier ones are answered,
and a request whose caller went away is still read to its end, so the stream never loses its place.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable
from typing import Generic, TypeVar

from orochi import errors
from orochi.pgwire import messages

#: Bytes of unread rows above which a streaming reply stops reading from the socket.
HIGH_WATER = 1 << 20

Item = TypeVar("Item")


class Reply:
    """A reply whose rows are kept.

    Attributes:
        done: set when ReadyForQuery arrived or the connection broke.
        error: the first ErrorResponse, or NodeUnavailable.
        parsed, bound: ParseComplete, BindComplete were seen.
        type_oids: of a ParameterDescription, if one came.
        fields: of the last RowDescription; None after NoData.
        results: one for each CommandComplete (or empty query).
    """

    __slots__ = (
        "_rows",
        "bound",
        "copy_started",
        "done",
        "error",
        "fields",
        "parsed",
        "results",
        "type_oids",
    )

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.copy_started: asyncio.Future[None] | None = None
        self.error: errors.OrochiError | None = None
        self.parsed = self.bound = False
        self.type_oids: tuple[int, ...] = ()
        self.fields: tuple[messages.FieldDescription, ...] | None = None
        self.results: list[messages.QueryResult] = []
        self._rows: list[tuple[bytes | None, ...]] = []

    def rows(self, data: bytes, start: int, end: int, count: int) -> None:
        """`count` whole DataRow messages lie in `data[start:end]`."""
        for _ in range(count):
            self._rows.append(messages.parse_data_row(data, start + 5))
            start += 1 + int.from_bytes(data[start + 1 : start + 5], "big")

    def copied(self, pieces: list[bytes]) -> None:
        """Payloads of CopyData messages; dropped where nobody asked for them."""

    def message(self, kind: int, payload: bytes) -> None:
        """Any other message but ReadyForQuery and the asynchronous ones."""
        if kind == 0x43:  # C: CommandComplete
            self._statement_done(messages.decode(payload[:-1]))
        elif kind == 0x54:  # T: RowDescription
            self.fields = messages.parse_row_description(payload)
        elif kind == 0x45:  # E: ErrorResponse
            if self.error is None:
                self.error = error = messages.parse_error(payload)
                error.began = self.bound
            self._wake_copy()
        elif kind == 0x31:  # 1: ParseComplete
            self.parsed = True
        elif kind == 0x32:  # 2: BindComplete
            self.bound = True
        elif kind == 0x74:  # t: ParameterDescription
            self.type_oids = messages.parse_parameter_description(payload)
        elif kind == 0x6E:  # n: NoData
            self.fields = None
        elif kind == 0x49:  # I: EmptyQueryResponse
            self._statement_done("")
        elif kind == 0x47:  # G: CopyInResponse
            self._wake_copy()

    def finish(self) -> None:
        """ReadyForQuery arrived, or the connection broke and `error` says so."""
        self._wake_copy()
        if not self.done.done():
            self.done.set_result(None)

    def check(self) -> None:
        """Raise what the server answered, if it was an error."""
        if self.error is not None:
            raise self.error

    def failed(self) -> bool:
        """Whether an error has come."""
        return self.error is not None

    @property
    def tag(self) -> str:
        """The last command tag."""
        return self.results[-1].tag if self.results else ""

    def _statement_done(self, tag: str) -> None:
        self.results.append(messages.QueryResult(self.fields or (), self._rows, tag))
        self._rows = []
        self.fields = None if not self.type_oids else self.fields

    def _wake_copy(self) -> None:
        if self.copy_started is not None and not self.copy_started.done():
            self.copy_started.set_result(None)


class Streaming(Reply, Generic[Item]):
    """A reply whose rows (or copied data) are handed over as they arrive, with back-pressure."""

    __slots__ = ("_abandoned", "_held", "_pause", "_paused", "_queue", "_resume", "_waiter")

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        super().__init__()
        self._pause = pause
        self._resume = resume
        self._queue: collections.deque[tuple[Item, int]] = collections.deque()
        self._held = 0
        self._paused = False
        self._abandoned = False
        self._waiter: asyncio.Future[None] | None = None

    async def take(self) -> Item | None:
        """The next piece; None at the end of the reply, successful or not."""
        while not self._queue:
            if self.done.done():
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        item, size = self._queue.popleft()
        self._held -= size
        if self._paused and self._held < HIGH_WATER // 2:
            self._paused = False
            self._resume()
        return item

    def abandon(self) -> None:
        """Nobody takes any more: drop what comes."""
        self._abandoned = True
        self._queue.clear()
        if self._paused:
            self._paused = False
            self._resume()

    def finish(self) -> None:
        """The reply ended."""
        super().finish()
        self._wake()

    def _put(self, item: Item, size: int) -> None:
        if self._abandoned:
            return
        self._queue.append((item, size))
        self._held += size
        if self._held > HIGH_WATER and not self._paused:
            self._paused = True
            self._pause()
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class RowStream(Streaming[tuple[memoryview, int]]):
    """Yields raw DataRow messages: a view of whole messages and their count."""

    __slots__ = ()

    def rows(self, data: bytes, start: int, end: int, count: int) -> None:
        """Queue the rows."""
        self._put((memoryview(data)[start:end], count), end - start)


class CopyStream(Streaming[bytes]):
    """Yields the payload of a COPY TO STDOUT, many CopyData messages joined."""

    __slots__ = ()

    def copied(self, pieces: list[bytes]) -> None:
        """Queue the data."""
        joined = b"".join(pieces)
        self._put(joined, len(joined))


class CopyMessages(Streaming[list[bytes]]):
    """Yields the payloads of a COPY TO STDOUT as the server cut them: one row each, as clients expect."""

    __slots__ = ()

    def copied(self, pieces: list[bytes]) -> None:
        """Queue the payloads."""
        self._put(pieces, sum(map(len, pieces)))
