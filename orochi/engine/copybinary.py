"""PostgreSQL's binary COPY format to Arrow carrier columns and back, a batch at a time.

The carrier form (`orochi.pgtypes`) holds exactly the values PostgreSQL sends, so decoding and
encoding only move bytes and turn them round; every type travels, known or not. Streams may be cut
anywhere: a row that is not whole waits for the rest.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orochi import errors, pgtypes
from orochi.engine.kernels import copyrows

SIGNATURE = b"PGCOPY\n\xff\r\n\0"
#: What starts a stream without OIDs or extensions, and what ends it.
HEADER = SIGNATURE + bytes(8)
TRAILER = b"\xff\xff"

#: Rows of a decoded batch at most, and bytes gathered before they are decoded.
BATCH_ROWS = 65_536
BATCH_BYTES = 4 << 20

_NULL = b"\xff\xff\xff\xff"
Vector = npt.NDArray[Any]


class Column(Protocol):
    """What decoding must know of a column."""

    @property
    def name(self) -> str:
        """The Arrow field's name."""

    @property
    def type_oid(self) -> int:
        """The PostgreSQL type."""


def schema(columns: Sequence[Column]) -> pa.Schema:
    """The Arrow schema of carrier columns."""
    return pa.schema([pa.field(column.name, pgtypes.carrier(column.type_oid)) for column in columns])


class RowScanner:
    """Cuts a binary COPY stream into runs of whole rows, wherever the stream was cut before."""

    def __init__(self, column_count: int, batch_bytes: int = BATCH_BYTES) -> None:
        self._columns = column_count
        self._batch_bytes = batch_bytes
        self._parts: list[bytes | bytearray | memoryview] = []
        self._size = 0
        self._wanted = batch_bytes
        self._begun = False
        self._ended = False

    def feed(self, data: bytes | bytearray | memoryview) -> list[Rows]:
        """Take more of the stream; the rows that are worth a batch by now."""
        self._parts.append(data)
        self._size += len(data)
        return self._scan(last=False) if self._size >= self._wanted else []

    def finish(self) -> list[Rows]:
        """The rest, at the end of the stream.

        Raises:
            DataCorrupted: the stream ends inside a row.
        """
        rows = self._scan(last=True)
        if self._size and not self._ended:
            raise _malformed("the stream ends inside a row")
        return rows

    def _scan(self, *, last: bool) -> list[Rows]:
        data = b"".join(self._parts)
        found: list[Rows] = []
        at = self._skip_header(data)
        stopped = copyrows.NEED_MORE
        while at is not None and not self._ended:
            rows, stopped, begin = self._scan_once(data, at)
            if rows.count:
                found.append(rows)
            progressed, at = begin > at, begin
            if stopped == copyrows.TRAILER:
                self._ended = True
            elif stopped == copyrows.MALFORMED:
                raise _malformed(f"a row does not have {self._columns} fields")
            elif stopped == copyrows.NEED_MORE or not progressed:
                break
        rest = b"" if self._ended else data[at or 0 :]
        self._parts = [rest] if rest else []
        self._size = len(rest)
        # one row may be larger than a batch: wait for twice as much rather than look at it each time
        self._wanted = max(self._batch_bytes, 2 * len(rest))
        return found

    def _scan_once(self, data: bytes, at: int) -> tuple[Rows, int, int]:
        possible = (len(data) - at) // (2 + 4 * self._columns) + 1
        capacity = min(BATCH_ROWS, possible)
        row_starts = np.empty(capacity + 1, np.int64)
        starts = np.empty((capacity, self._columns), np.int64)
        lengths = np.empty((capacity, self._columns), np.int32)
        view = np.frombuffer(data, np.uint8)
        count, begin, stopped = copyrows.scan_rows(view, at, self._columns, row_starts, starts, lengths)
        return Rows(view, count, row_starts, starts, lengths), stopped, begin

    def _skip_header(self, data: bytes) -> int | None:
        """Where rows begin; None while the header is not whole."""
        if self._begun:
            return 0
        if len(data) < len(HEADER):
            return None
        if not data.startswith(SIGNATURE):
            raise _malformed("the signature is missing")
        flags, extension = struct.unpack_from(">iI", data, len(SIGNATURE))
        if flags & 0x10000:
            raise _malformed("rows with OIDs are not supported")
        if len(data) < len(HEADER) + extension:
            return None
        self._begun = True
        return len(HEADER) + int(extension)


class Rows:
    """A run of whole rows inside a piece of a stream, their fields found but not read."""

    def __init__(self, data: Vector, count: int, row_starts: Vector, starts: Vector, lengths: Vector) -> None:
        self._data = data
        self.count = count
        self._row_starts = row_starts
        self._starts = starts
        self._lengths = lengths

    def column(self, position: int, type_oid: int, name: str = "") -> pa.Array:
        """One column in carrier form.

        Raises:
            DataCorrupted: a value does not have its type's width.
        """
        valid = np.empty(self.count, np.uint8)
        fixed = pgtypes.FIXED.get(type_oid)
        if fixed is None:
            return self._variable(position, type_oid, valid)
        out = np.empty(self.count * fixed.width, np.uint8)
        nulls = copyrows.gather_fixed(
            self._starts, self._lengths, position, self.count, fixed.width, self._data, out, valid
        )
        if nulls < 0:
            raise _malformed(f"column {name or position} has values that are not {fixed.width} bytes wide")
        if fixed.arrow == pa.bool_():
            out = np.packbits(out, bitorder="little")
        return pa.Array.from_buffers(
            fixed.arrow, self.count, [_bitmap(valid, nulls), pa.py_buffer(out)], null_count=nulls
        )

    def take(self, index: Vector) -> bytes:
        """The bytes of rows `index`, in that order, without header and trailer."""
        index = np.ascontiguousarray(index, np.int64)
        offsets = self._row_starts
        ends = np.cumsum(offsets[index + 1] - offsets[index])
        out = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
        targets = np.concatenate([np.zeros(1, np.int64), ends[:-1]]) if len(ends) else ends
        copyrows.take_rows(self._data, offsets, index, targets, out)
        return out.tobytes()

    def split(self, destinations: Vector) -> dict[int, bytes]:
        """The rows' bytes by destination, each destination's rows in their order here."""
        order = np.argsort(destinations, kind="stable")
        found, firsts = np.unique(np.asarray(destinations)[order], return_index=True)
        pieces = np.split(order, firsts[1:])
        return {int(destination): self.take(piece) for destination, piece in zip(found, pieces, strict=True)}

    def _variable(self, position: int, type_oid: int, valid: Vector) -> pa.Array:
        offsets = np.empty(self.count + 1, np.int32)
        nulls = copyrows.field_offsets(self._lengths, position, self.count, offsets, valid)
        out = np.empty(int(offsets[-1]), np.uint8)
        copyrows.gather_fields(self._starts, self._lengths, position, self.count, self._data, out)
        buffers = [_bitmap(valid, nulls), pa.py_buffer(offsets), pa.py_buffer(out)]
        return pa.Array.from_buffers(pgtypes.carrier(type_oid), self.count, buffers, null_count=nulls)


class Decoder:
    """A binary COPY stream into record batches: `feed` each piece, then `finish`."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = tuple(columns)
        self._schema = schema(self._columns)
        self._scanner = RowScanner(len(self._columns))

    def feed(self, data: bytes | bytearray | memoryview) -> list[pa.RecordBatch]:
        """Take more of the stream; the batches that are complete by now."""
        return [self._batch(rows) for rows in self._scanner.feed(data)]

    def finish(self) -> list[pa.RecordBatch]:
        """The last batches, at the end of the stream."""
        return [self._batch(rows) for rows in self._scanner.finish()]

    def _batch(self, rows: Rows) -> pa.RecordBatch:
        arrays = [
            rows.column(position, column.type_oid, column.name)
            for position, column in enumerate(self._columns)
        ]
        return record_batch(self._schema, arrays, rows.count)


def record_batch(batch_schema: pa.Schema, arrays: Sequence[pa.Array], rows: int) -> pa.RecordBatch:
    """A batch that knows its number of rows even when it has no columns."""
    if arrays:
        return pa.RecordBatch.from_arrays(list(arrays), schema=batch_schema)
    return pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([])))


class RowSplitter:
    """Sends each row of a binary COPY stream somewhere by its key, reading no other column."""

    def __init__(self, column_count: int, key_columns: Sequence[tuple[int, int]]) -> None:
        """Expect `column_count` columns; `key_columns` are (position, type OID)."""
        self._scanner = RowScanner(column_count)
        self._keys = tuple(key_columns)

    def feed(self, data: bytes | bytearray | memoryview) -> list[tuple[tuple[pa.Array, ...], Rows]]:
        """Take more of the stream; key columns and rows, `rows.split(destinations)` cuts them."""
        return [self._with_keys(rows) for rows in self._scanner.feed(data)]

    def finish(self) -> list[tuple[tuple[pa.Array, ...], Rows]]:
        """The last of them, at the end of the stream."""
        return [self._with_keys(rows) for rows in self._scanner.finish()]

    def _with_keys(self, rows: Rows) -> tuple[tuple[pa.Array, ...], Rows]:
        return tuple(rows.column(position, type_oid) for position, type_oid in self._keys), rows


def decode(data: bytes, columns: Sequence[Column]) -> pa.RecordBatch:
    """A whole stream as one batch."""
    decoder = Decoder(columns)
    batches = [*decoder.feed(data), *decoder.finish()]
    if not batches:
        return _empty(columns)
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def encode(
    batch: pa.RecordBatch, columns: Sequence[Column], header: bool = True, trailer: bool = True
) -> bytes:
    """A batch in carrier form as binary COPY rows.

    Args:
        batch: columns in the order of `columns`; their own names do not matter.
        columns: the PostgreSQL types.
        header: begin with the stream's header.
        trailer: end with the stream's trailer.
    """
    rows = batch.num_rows
    prepared = [prepare(array, column.type_oid) for array, column in zip(batch.columns, columns, strict=True)]
    sizes = np.full(rows, 2 + 4 * len(prepared), np.int64)
    for _, offsets, valid, width in prepared:
        if offsets is None:
            sizes += valid.astype(np.int64) * width
        else:
            copyrows.add_lengths(offsets, valid, sizes)
    ends = np.cumsum(sizes)
    before = len(HEADER) if header else 0
    total = int(ends[-1]) if rows else 0
    out = np.empty(before + total + (len(TRAILER) if trailer else 0), np.uint8)
    out[:before] = np.frombuffer(HEADER, np.uint8)[:before]
    if trailer:
        out[-len(TRAILER) :] = 255
    cursors = before + ends - sizes
    copyrows.put_counts(out, cursors, len(prepared))
    for values, offsets, valid, width in prepared:
        if offsets is None:
            copyrows.put_fixed(out, cursors, values, width, valid)
        else:
            copyrows.put_fields(out, cursors, offsets, values, valid)
    return out.tobytes()


def tuples(batch: pa.RecordBatch, columns: Sequence[Column]) -> list[bytes]:
    """Each row of a batch, of which there are not many, as `encode` has it."""
    head = struct.pack("!h", len(columns))
    fields = (_fields(*item) for item in zip(batch.columns, (c.type_oid for c in columns), strict=True))
    return [head + b"".join(row) for row in zip(*fields, strict=True)]


def _fields(array: pa.Array, type_oid: int) -> list[bytes]:
    values, offsets, valid, width = prepare(array, type_oid)
    if offsets is None:
        data, ends = values.reshape(-1, width)[:, ::-1].tobytes(), range(0, len(values) + 1, width)
    else:
        data, ends = values.tobytes(), offsets.tolist()
    return [
        struct.pack("!i", end - begin) + data[begin:end] if ok else _NULL
        for begin, end, ok in zip(ends[:-1], ends[1:], valid.tolist(), strict=True)
    ]


def encode_array(array: pa.Array, type_oid: int) -> bytes:
    """A column as the binary form of a one-dimensional PostgreSQL array."""
    rows = len(array)
    if rows == 0:
        return struct.pack(">iiI", 0, 0, type_oid)
    values, offsets, valid, width = prepare(array, type_oid)
    sizes = np.full(rows, 4, np.int64)
    if offsets is None:
        sizes += valid.astype(np.int64) * width
    else:
        copyrows.add_lengths(offsets, valid, sizes)
    ends = np.cumsum(sizes)
    out = np.empty(int(ends[-1]), np.uint8)
    cursors = ends - sizes
    if offsets is None:
        copyrows.put_fixed(out, cursors, values, width, valid)
    else:
        copyrows.put_fields(out, cursors, offsets, values, valid)
    head = struct.pack(">iiIii", 1, int(array.null_count > 0), type_oid, rows, 1)
    return head + out.tobytes()


def validity(array: pa.Array) -> Vector:
    """One byte a value: 1 where it is not NULL."""
    if array.null_count == 0:
        return _read_only(np.ones(len(array), np.uint8))
    bits = np.frombuffer(array.buffers()[0], np.uint8)
    unpacked = np.unpackbits(bits, count=array.offset + len(array), bitorder="little")
    return _read_only(np.ascontiguousarray(unpacked[array.offset :]))


def warm() -> None:
    """Load every compiled loop, so that the first real row does not wait for it."""
    columns = (_Sample("a", pgtypes.INT4), _Sample("b", pgtypes.TEXT), _Sample("c", pgtypes.BOOL))
    arrays = [pa.array([1, None], pa.int32()), pa.array(["x", None]), pa.array([True, None])]
    data = encode(pa.RecordBatch.from_arrays(arrays, schema=schema(columns)), columns)
    decode(data, columns)
    splitter = RowSplitter(3, ((0, pgtypes.INT4),))
    splitter.feed(data)
    for _, rows in splitter.finish():
        rows.split(np.zeros(rows.count, np.int64))


class _Sample:
    def __init__(self, name: str, type_oid: int) -> None:
        self.name = name
        self.type_oid = type_oid


def _empty(columns: Sequence[Column]) -> pa.RecordBatch:
    arrays = [pa.array([], pgtypes.carrier(column.type_oid)) for column in columns]
    return record_batch(schema(columns), arrays, 0)


def prepare(array: pa.Array, type_oid: int) -> tuple[Vector, Vector | None, Vector, int]:
    """Values as bytes, offsets (None if of fixed width), validity, width."""
    expected = pgtypes.carrier(type_oid)
    if array.type != expected:
        raise TypeError(f"type {type_oid} is carried as {expected}, not {array.type}")
    valid = validity(array)
    fixed = pgtypes.FIXED.get(type_oid)
    if fixed is None:
        if len(array) == 0:
            return _read_only(np.empty(0, np.uint8)), np.zeros(1, np.int32), valid, 0
        _, offsets_buffer, data_buffer = array.buffers()
        offsets = np.frombuffer(offsets_buffer, np.int32, len(array) + 1, array.offset * 4).copy()
        data = np.frombuffer(data_buffer or b"", np.uint8)
        return _read_only(data), offsets, valid, 0
    if len(array) == 0:
        return _read_only(np.empty(0, np.uint8)), None, valid, fixed.width
    if fixed.arrow == pa.bool_():
        bits = np.frombuffer(array.buffers()[1], np.uint8)
        values = np.unpackbits(bits, count=array.offset + len(array), bitorder="little")[array.offset :]
        return _read_only(np.ascontiguousarray(values)), None, valid, 1
    begin, size = array.offset * fixed.width, len(array) * fixed.width
    return np.frombuffer(array.buffers()[1], np.uint8, size, begin), None, valid, fixed.width


def _read_only(values: Vector) -> Vector:
    values = values.view()
    values.flags.writeable = False
    return values


def _bitmap(valid: Vector, nulls: int) -> pa.Buffer | None:
    return pa.py_buffer(np.packbits(valid, bitorder="little")) if nulls else None


def _malformed(detail: str) -> errors.DataCorrupted:
    return errors.DataCorrupted("a binary COPY stream is malformed", detail=detail, sqlstate="22P04")
