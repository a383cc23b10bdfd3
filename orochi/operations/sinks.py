"""Sinks to derive others from: one that hands everything on, one that lets everything pass, one that keeps rows."""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator, Sequence

import pyarrow as pa

from orochi import errors
from orochi.engine import copybinary
from orochi.executor import context
from orochi.pgwire import messages


class Forwarding:
    """A sink in front of another."""

    def __init__(self, sink: context.Sink) -> None:
        self._sink = sink
        self.formats: tuple[int, ...] = sink.formats

    async def columns(self, columns: Sequence[messages.FieldDescription]) -> None:
        """Hand the columns on."""
        await self._sink.columns(columns)

    async def rows(self, data: bytes | memoryview, count: int) -> None:
        """Hand `count` whole DataRow messages on."""
        await self._sink.rows(data, count)

    async def complete(self, tag: str) -> None:
        """Hand the command tag on."""
        await self._sink.complete(tag)

    async def notice(self, message: str, *, severity: str = "NOTICE", hint: str | None = None) -> None:
        """Hand a notice on."""
        await self._sink.notice(message, severity=severity, hint=hint)

    def copy_in(self, overall_format: int, column_formats: Sequence[int]) -> AsyncIterator[bytes]:
        """The client's COPY data."""
        return self._sink.copy_in(overall_format, column_formats)

    async def copy_out(self, overall_format: int, column_formats: Sequence[int]) -> None:
        """Announce COPY data."""
        await self._sink.copy_out(overall_format, column_formats)

    async def copy_data(self, payload: bytes) -> None:
        """Hand COPY data on."""
        await self._sink.copy_data(payload)

    async def copy_done(self) -> None:
        """Hand the end of COPY data on."""
        await self._sink.copy_done()


class Silent:
    """A sink of a part of a statement, which has nobody to tell."""

    formats: tuple[int, ...] = ()

    async def columns(self, columns: Sequence[messages.FieldDescription]) -> None:
        """They are known."""

    async def rows(self, data: bytes | memoryview, count: int) -> None:
        """Drop `count` whole DataRow messages."""

    async def complete(self, tag: str) -> None:
        """Nothing more comes."""

    async def notice(self, message: str, *, severity: str = "NOTICE", hint: str | None = None) -> None:
        """Drop a notice."""

    def copy_in(self, overall_format: int, column_formats: Sequence[int]) -> AsyncIterator[bytes]:
        """Such a part reads no data.

        Raises:
            ProtocolViolation: always.
        """
        raise errors.ProtocolViolation("COPY inside another statement")

    async def copy_out(self, overall_format: int, column_formats: Sequence[int]) -> None:
        """Such a part sends no COPY data."""

    async def copy_data(self, payload: bytes) -> None:
        """Such a part sends no COPY data."""

    async def copy_done(self) -> None:
        """Such a part sends no COPY data."""


class Keeping(Silent, abc.ABC):
    """A sink that can take rows as they are in the gateway."""

    @abc.abstractmethod
    def keep(self, columns: Sequence[copybinary.Column], batch: pa.RecordBatch) -> bool:
        """Take all rows of an answer in carrier form; False, to be given them as messages, if they do not suit."""
