"""Arrow batches to DataRow messages, a batch at a time: what the gateway sends without PostgreSQL's help.

Binary results are the carrier's own values. Text results are printed by `textforms`. What neither
covers `can_encode` refuses, and the caller lets the coordinator PostgreSQL print it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from orochi import pgtypes
from orochi.engine import copybinary
from orochi.engine.kernels import copyrows, textout
from orochi.executor import context, textforms, zones

_HEADER = 7  # DataRow's type, length and field count
#: Bytes in carrier form that are encoded at a time, in memory that is used again, and those that are not worth a thread.
_ENCODED_BYTES, _QUICK_BYTES = 256 << 10, 64 << 10
#: Larger batches are encoded in pieces: Arrow offsets of a column are int32.
_PIECE_BYTES = 256 << 20


class Column(Protocol):
    """What encoding must know of a column."""

    @property
    def name(self) -> str:
        """Its name, for messages."""

    @property
    def type_oid(self) -> int:
        """The PostgreSQL type."""


def column_formats(formats: Sequence[int], count: int) -> tuple[int, ...]:
    """A format for each of `count` columns, from a Bind message's: none is text, one is for all."""
    if len(formats) <= 1:
        return (tuple(formats) or (0,)) * count
    return tuple(formats)


def can_encode(columns: Sequence[Column], formats: Sequence[int], settings: Mapping[str, str]) -> bool:
    """Whether `encode_rows` gives exactly the bytes PostgreSQL would send.

    Args:
        columns: the result's columns.
        formats: as in a Bind message.
        settings: the session's; a setting that matters and is absent counts as unknown.
    """
    utf8 = (textforms.setting(settings, "client_encoding") or "utf8") in {"utf8", "utf-8", "unicode"}
    for column, fmt in zip(columns, column_formats(formats, len(columns)), strict=True):
        is_text = fmt == 0 or column.type_oid in pgtypes.CHARACTER
        if is_text and not utf8:
            return False
        if fmt == 0 and not textforms.is_supported(column.type_oid, settings):
            return False
    return True


async def ready(
    session: context.Session, columns: Sequence[Column], formats: Sequence[int]
) -> dict[str, str] | None:
    """The settings to call `encode_rows` with, or None if PostgreSQL must print these columns.

    Compares the session's time zone with the server's once a process, where that decides.
    """
    settings = {**session.coordinator.parameters, **session.settings}
    zone = textforms.zone_name(settings)
    printed = zip(columns, column_formats(formats, len(columns)), strict=True)
    if not zones.is_asked(zone) and any(c.type_oid == pgtypes.TIMESTAMPTZ and f == 0 for c, f in printed):
        moments = zones.samples(zone)
        array = "{" + ",".join(map(str, moments)) + "}"
        answer = await session.coordinator.fetch(zones.SAMPLE_SQL, (array.encode(),))
        zones.learn(zone, moments, (answer.rows[0][0] or b"").decode())
    return settings if can_encode(columns, formats, settings) else None


async def encoded(
    batch: pa.RecordBatch, columns: Sequence[Column], formats: Sequence[int], settings: Mapping[str, str]
) -> AsyncIterator[tuple[bytes | memoryview, int]]:
    """What `encode_rows` gives, some hundred KiB at a time and beside the event loop unless that is soon done."""
    rows = max(1, _ENCODED_BYTES * batch.num_rows // max(batch.nbytes, 1))
    for at in range(0, batch.num_rows, rows):
        piece = batch.slice(at, rows)
        if piece.nbytes > _QUICK_BYTES:
            yield await asyncio.to_thread(_messages, piece, columns, formats, settings), piece.num_rows
        else:
            yield _messages(piece, columns, formats, settings), piece.num_rows


def encode_rows(
    batch: pa.RecordBatch, columns: Sequence[Column], formats: Sequence[int], settings: Mapping[str, str]
) -> tuple[bytes, int]:
    """DataRow messages for every row of a batch, and how many they are."""
    return bytes(_messages(batch, columns, formats, settings)), batch.num_rows


def _messages(
    batch: pa.RecordBatch, columns: Sequence[Column], formats: Sequence[int], settings: Mapping[str, str]
) -> bytes | memoryview:
    rows = batch.num_rows
    if rows > 1 and batch.nbytes > _PIECE_BYTES:
        half = rows // 2
        parts = (batch.slice(0, half), batch.slice(half))
        return b"".join(_messages(part, columns, formats, settings) for part in parts)
    wanted = column_formats(formats, len(columns))
    sizes = np.full(rows, _HEADER + 4 * len(columns), np.int64)
    fields = []
    for array, column, fmt in zip(batch.columns, columns, wanted, strict=True):
        field = (
            _binary(array, column.type_oid)
            if fmt == 1
            else textforms.column(array, column.type_oid, settings)
        )
        _add_sizes(field, sizes)
        fields.append(field)
    ends = np.cumsum(sizes)
    out = np.empty(int(ends[-1]) if rows else 0, np.uint8)
    cursors = ends - sizes
    textout.row_headers(out, cursors, sizes, len(columns))
    cursors += _HEADER
    for first, data, valid in fields:
        if isinstance(first, int):
            copyrows.put_fixed(out, cursors, data, first, valid)
        else:
            copyrows.put_fields(out, cursors, first, data, valid)
    return out.data


def _add_sizes(field: tuple[Any, Any, Any], sizes: Any) -> None:
    first, _, valid = field
    if isinstance(first, int):
        sizes += valid.astype(np.int64) * first
    else:
        copyrows.add_lengths(first, valid, sizes)


def _binary(array: pa.Array, type_oid: int) -> tuple[Any, Any, Any]:
    """Width or offsets, bytes, validity."""
    values, offsets, valid, width = copybinary.prepare(array, type_oid)
    return (width if offsets is None else offsets), values, valid
