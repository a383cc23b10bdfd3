"""The stripe file: its byte layout, and the footer that describes it.

A stripe is written once and never changed. Integers are little-endian; every part starts at a
multiple of 8 bytes; every byte of the file is covered by a CRC-32 or compared with a constant.

    header   16 bytes   magic "OROSTRIP", format version u32, CRC-32 of the 12 bytes before u32
    parts               column after column, no gaps: its dictionary if it has one, its column chunks,
                        chunk group after chunk group, its filter if it has one
    footer              see below
    trailer  24 bytes   footer length u64, CRC-32 of the footer u32, CRC-32 of the 12 bytes before
                        u32, magic "OROSTRIP"

A **column chunk** holds one column of one chunk group, compressed as a whole by its block
compressor, then padded to 8 bytes. Uncompressed it is the validity bitmap (least significant bit
first, padded to 8; absent when no value or every value is null), then the values that are not
null in the codec's encoding.

A **dictionary** holds values in the plain encoding, in the order of their bytes; the column chunks then
are `shared_dictionary` codes into it. A **filter** is the column chunks' bloom filters, one after the other
(see `bloom`). Both may be block-compressed and are padded as chunks are.

    footer:  row count u32, chunk group count u32, column count u32, heap length u32
             rows of each chunk group u32 each (padded to 8)
             each column: type OID u32, typmod i32, carrier u8, parts u8 (1 dictionary, 2 filter), name
             length u16, name (then padded to 8)
             each column, dictionary then filter, those there are: a record of 40 bytes
                 offset u64, stored size u64, payload size u64, CRC-32 u32, entries u32, block
                 compressor u8, 0 u8 ×7
             each column, each chunk group: a record of 80 bytes
                 offset u64, stored size u64 (padding excluded), payload size u64 (uncompressed),
                 raw size u64 (as Arrow), CRC-32 of stored bytes and padding u32, rows u32,
                 null count u32, flags u16, codec u8, block compressor u8, minimum 8 bytes, maximum 8 bytes,
                 sum 16 bytes
             heap: bounds of strings and binary, to which minimum and maximum refer by
             offset u32, length u32 (padded to 8)

Minimum and maximum of integers and booleans are i64, of floats f64; the sum of integers is a
128-bit integer, of floats an f64. Flags: 1 minimum, 2 maximum, 4 sum present, 8 bounds exact.
"""

from __future__ import annotations

import dataclasses
import functools
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orochi.storage.columnar import bounds, skiplist
from orochi.storage.compression import buffers, registry

MAGIC = b"OROSTRIP"
#: What is written; version 1 is the same without dictionaries and filters.
VERSION = 2
_READABLE = (1, 2)

_HEADER = struct.Struct("<8sII")
_TRAILER = struct.Struct("<QII8s")
_COUNTS = struct.Struct("<IIII")
_COLUMN = struct.Struct("<IiBBH")
_HEAD = "<QQQQIIIHBB"
_RECORD = struct.Struct(f"{_HEAD}8s8s16s")
_PART = struct.Struct("<QQQIIB7x")
_RECORD_DTYPE = np.dtype(
    {
        "names": [
            *("offset", "stored", "payload", "checksum", "rows", "nulls", "flags", "codec", "block"),
            *("minimum", "maximum"),
        ],
        "formats": ["<u8", "<u8", "<u8", "<u4", "<u4", "<u4", "<u2", "u1", "u1", "<i8", "<i8"],
        "offsets": [0, 8, 16, 32, 36, 40, 44, 46, 47, 48, 56],
        "itemsize": _RECORD.size,
    }
)

HEADER_SIZE = _HEADER.size
TRAILER_SIZE = _TRAILER.size

_DICTIONARY, _FILTER = 1, 2
_HAS_MINIMUM, _HAS_MAXIMUM, _HAS_SUM, _EXACT = 1, 2, 4, 8

#: Whether there is a codec, or a block compressor, of each number.
_KNOWN_CODECS = np.isin(np.arange(256), list(registry.NAMES))
_KNOWN_BLOCKS = np.isin(np.arange(256), list(registry.BLOCK_NAMES))

#: Carrier types by their number on disk.
_CARRIERS: tuple[pa.DataType, ...] = (
    pa.bool_(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.uint32(),
    pa.float32(),
    pa.float64(),
    pa.string(),
    pa.binary(),
)


class MalformedError(ValueError):
    """Bytes that are not a stripe's header, footer or trailer."""


@dataclasses.dataclass(frozen=True, slots=True)
class StripeColumn:
    """A column to write: name and PostgreSQL type."""

    name: str
    type_oid: int
    typmod: int = -1


@dataclasses.dataclass(frozen=True, slots=True)
class ColumnChunk:
    """Where one column chunk lies, how it is encoded, and what the skip list knows of it.

    Attributes:
        codec, block: names, as in `orochi.storage.compression.registry`.
        stored_size: bytes in the file without padding; `payload_size` before block compression; `raw_size` as
            an Arrow array.
    """

    column: str
    group: int
    offset: int
    stored_size: int
    payload_size: int
    raw_size: int
    checksum: int
    codec: str
    block: str
    stats: skiplist.Stats

    @property
    def extent(self) -> int:
        """Bytes it takes in the file, with its padding."""
        return self.stored_size + buffers.pad(self.stored_size)

    @property
    def minimum_text(self) -> str | None:
        """The lower bound as text for the catalog; binary as hexadecimal."""
        return bounds.text(self.stats.minimum)

    @property
    def maximum_text(self) -> str | None:
        """The upper bound as text for the catalog; binary as hexadecimal."""
        return bounds.text(self.stats.maximum)


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Where a column's dictionary or filter lies; `entries` is how many values or filters it has."""

    offset: int
    stored_size: int
    payload_size: int
    checksum: int
    entries: int
    block: str

    @property
    def extent(self) -> int:
        """Bytes it takes in the file, with its padding."""
        return self.stored_size + buffers.pad(self.stored_size)


@dataclasses.dataclass(frozen=True)
class FooterColumn:
    """A column of a stripe.

    Attributes:
        load: its chunks; a column that nobody looks at is not taken apart.
        records: what a footer that was read says of its chunks, a record each; None while a stripe is written.
    """

    name: str
    type_oid: int
    typmod: int
    arrow: pa.DataType
    load: Callable[[], tuple[ColumnChunk, ...]]
    dictionary: Part | None = None
    filter: Part | None = None
    records: npt.NDArray[np.void] | None = dataclasses.field(default=None, compare=False, repr=False)

    @functools.cached_property
    def outline(self) -> skiplist.Stats:
        """`stats` without their sum, and without taking the column apart if its values are numbers."""
        if self.records is None or buffers.is_bytes(self.arrow):
            return self.stats
        records, nulls = self.records, int(self.records["nulls"].sum())
        valued = records[records["nulls"] < records["rows"]] if nulls else records
        low, high = valued["minimum"], valued["maximum"]
        if pa.types.is_floating(self.arrow):
            low, high = low.view(np.float64), high.view(np.float64)
        flags = int(np.bitwise_and.reduce(valued["flags"])) if len(valued) else _EXACT
        return skiplist.Stats(
            int(records["rows"].sum()),
            nulls,
            np.fmin.reduce(low).item() if flags & _HAS_MINIMUM else None,
            np.maximum.reduce(high).item() if flags & _HAS_MAXIMUM else None,
            flags & _EXACT != 0,
        )

    def extent(self, first: int, last: int) -> tuple[int, int]:
        """Offset and size of the chunks of neighbouring chunk groups, both inclusive."""
        if self.records is None:
            start, end = self.chunks[first].offset, self.chunks[last]
            return start, end.offset + end.extent - start
        start, end = int(self.records["offset"][first]), self.records[last]
        return start, int(end["offset"]) + (int(end["stored"]) + 7) // 8 * 8 - start

    @functools.cached_property
    def chunks(self) -> tuple[ColumnChunk, ...]:
        """Its chunks, one a chunk group."""
        return self.load()

    @functools.cached_property
    def stats(self) -> skiplist.Stats:
        """What is known of all its values."""
        return skiplist.merge([chunk.stats for chunk in self.chunks])


@dataclasses.dataclass(frozen=True, slots=True)
class Footer:
    """All there is to know of a stripe without reading its column chunks."""

    row_count: int
    group_rows: tuple[int, ...]
    columns: tuple[FooterColumn, ...]
    size_bytes: int

    def column(self, name: str) -> FooterColumn | None:
        """The column of that name, or None when the stripe was written without it."""
        return next((column for column in self.columns if column.name == name), None)


def header() -> bytes:
    """The file's first bytes."""
    start = struct.pack("<8sI", MAGIC, VERSION)
    return start + struct.pack("<I", zlib.crc32(start))


def check_header(data: bytes) -> None:
    """Raises MalformedError unless `data` is the header of a file this code can read."""
    if len(data) != HEADER_SIZE:
        raise MalformedError("the file is too short")
    magic, version, checksum = _HEADER.unpack(data)
    if magic != MAGIC or zlib.crc32(data[:12]) != checksum:
        raise MalformedError("the header is damaged")
    if version not in _READABLE:
        raise MalformedError(f"format version {version} is unknown")


def trailer(footer: bytes) -> bytes:
    """The file's last bytes."""
    start = struct.pack("<QI", len(footer), zlib.crc32(footer))
    return start + struct.pack("<I8s", zlib.crc32(start), MAGIC)


def read_trailer(data: bytes, file_size: int) -> tuple[int, int, int]:
    """Offset, length and CRC-32 of the footer."""
    if len(data) != TRAILER_SIZE:
        raise MalformedError("the file is too short")
    length, checksum, own, magic = _TRAILER.unpack(data)
    if magic != MAGIC or zlib.crc32(data[:12]) != own:
        raise MalformedError("the trailer is damaged")
    offset = file_size - TRAILER_SIZE - length
    if offset < HEADER_SIZE:
        raise MalformedError("the footer is longer than the file")
    return offset, length, checksum


def encode_footer(group_rows: Sequence[int], columns: Sequence[FooterColumn]) -> bytes:
    """The footer's bytes."""
    heap = bytearray()
    records = [_pack_part(part) for column in columns for part in (column.dictionary, column.filter) if part]
    records += [_record(chunk, column.arrow, heap) for column in columns for chunk in column.chunks]
    parts = [
        _COUNTS.pack(sum(group_rows), len(group_rows), len(columns), len(heap)),
        _padded(struct.pack(f"<{len(group_rows)}I", *group_rows)),
        _padded(b"".join(_describe(column) for column in columns)),
        *records,
        _padded(bytes(heap)),
    ]
    return b"".join(parts)


def decode_footer(data: bytes, checksum: int, footer_offset: int, file_size: int) -> Footer:
    """The footer of a file of `file_size` bytes; MalformedError unless all of it is consistent."""
    if zlib.crc32(data) != checksum:
        raise MalformedError("the footer is damaged")
    try:
        return _decode_footer(data, footer_offset, file_size)
    except (struct.error, IndexError, KeyError, UnicodeDecodeError) as error:
        raise MalformedError(f"the footer makes no sense: {error}") from error


def _decode_footer(data: bytes, footer_offset: int, file_size: int) -> Footer:
    row_count, group_count, column_count, heap_length = _COUNTS.unpack_from(data)
    at = _COUNTS.size
    group_rows = struct.unpack_from(f"<{group_count}I", data, at)
    at += group_count * 4 + buffers.pad(group_count * 4)
    described = []
    start = at
    for _ in range(column_count):
        type_oid, typmod, carrier, parts, length = _COLUMN.unpack_from(data, at)
        at += _COLUMN.size
        described.append((data[at : at + length].decode(), type_oid, typmod, _CARRIERS[carrier], parts))
        at += length
    at += buffers.pad(at - start)
    extras = []
    for *_, parts in described:
        pair: list[Part | None] = []
        for flag in (_DICTIONARY, _FILTER):
            pair.append(_read_part(data, at) if parts & flag else None)
            at += _PART.size if parts & flag else 0
        extras.append(pair)
    heap_at = at + column_count * group_count * _RECORD.size
    heap = data[heap_at : heap_at + heap_length]
    records = np.frombuffer(data, _RECORD_DTYPE, column_count * group_count, at)
    records = records.reshape(column_count, group_count)
    _check_records(records, group_rows)
    ends = np.cumsum((records["stored"] + 7) // 8 * 8, axis=1, dtype=np.int64)
    expected = HEADER_SIZE
    columns, starts = [], []
    for number, ((name, type_oid, typmod, arrow, _), (dictionary, bloom)) in enumerate(
        zip(described, extras, strict=True)
    ):
        starts.append(_follows(dictionary, expected, f'dictionary of "{name}"'))
        filled = starts[-1] + (int(ends[number, -1]) if group_count else 0)
        expected = _follows(bloom, filled, f'filter of "{name}"')
        load = functools.partial(
            _read_chunks, data, at + number * group_count * _RECORD.size, group_count, name, arrow, heap
        )
        columns.append(FooterColumn(name, type_oid, typmod, arrow, load, dictionary, bloom, records[number]))
    if expected != footer_offset or sum(group_rows) != row_count:
        raise MalformedError("the column chunks do not fill the file")
    begins = np.concatenate((np.zeros((column_count, 1), np.int64), ends[:, :-1]), axis=1)
    if (records["offset"] != begins[:, :group_count] + np.array(starts, np.int64)[:, None]).any():
        raise MalformedError("a column chunk is misplaced")
    return Footer(row_count, tuple(group_rows), tuple(columns), file_size)


def _check_records(records: npt.NDArray[np.void], group_rows: Sequence[int]) -> None:
    """What must hold for any chunk to be read."""
    if (records["rows"] != np.array(group_rows, np.uint32)).any():
        raise MalformedError("a column chunk has other rows than its chunk group")
    if not (_KNOWN_CODECS[records["codec"]] & _KNOWN_BLOCKS[records["block"]]).all():
        raise MalformedError("a column chunk has an unknown codec")


def _read_chunks(
    data: bytes, at: int, count: int, name: str, arrow: pa.DataType, heap: bytes
) -> tuple[ColumnChunk, ...]:
    tail, values = bounds.reader_of(arrow, heap)
    records = struct.iter_unpack(_HEAD + tail, data[at : at + count * _RECORD.size])
    return tuple(_read_record(record, name, group, values) for group, record in enumerate(records))


def _follows(part: Part | None, expected: int, name: str) -> int:
    """Where the next part begins."""
    if part is None:
        return expected
    if part.offset != expected:
        raise MalformedError(f"{name} is misplaced")
    return expected + part.extent


def _describe(column: FooterColumn) -> bytes:
    name = column.name.encode()
    carrier = _CARRIERS.index(column.arrow)
    parts = (_DICTIONARY if column.dictionary else 0) | (_FILTER if column.filter else 0)
    return _COLUMN.pack(column.type_oid, column.typmod, carrier, parts, len(name)) + name


def _pack_part(part: Part) -> bytes:
    block = registry.BLOCK_IDS[part.block]
    return _PART.pack(part.offset, part.stored_size, part.payload_size, part.checksum, part.entries, block)


def _read_part(data: bytes, at: int) -> Part:
    offset, stored, payload, checksum, entries, block = _PART.unpack_from(data, at)
    return Part(offset, stored, payload, checksum, entries, registry.BLOCK_NAMES[block])


def _record(chunk: ColumnChunk, arrow: pa.DataType, heap: bytearray) -> bytes:
    stats = chunk.stats
    flags = _EXACT if stats.exact else 0
    flags |= _HAS_MINIMUM if stats.minimum is not None else 0
    flags |= _HAS_MAXIMUM if stats.maximum is not None else 0
    flags |= _HAS_SUM if stats.total is not None else 0
    return _RECORD.pack(
        chunk.offset,
        chunk.stored_size,
        chunk.payload_size,
        chunk.raw_size,
        chunk.checksum,
        stats.rows,
        stats.null_count,
        flags,
        registry.IDS[chunk.codec],
        registry.BLOCK_IDS[chunk.block],
        bounds.pack_bound(stats.minimum, arrow, heap),
        bounds.pack_bound(stats.maximum, arrow, heap),
        bounds.pack_sum(stats.total),
    )


def _read_record(
    record: tuple[Any, ...], column: str, group: int, values: Callable[..., tuple[Any, Any, Any]]
) -> ColumnChunk:
    offset, stored, payload, raw_size, checksum, rows, nulls, flags, codec, block = record[:10]
    minimum, maximum, total = values(*record[10:])
    stats = skiplist.Stats(
        rows,
        nulls,
        minimum if flags & _HAS_MINIMUM else None,
        maximum if flags & _HAS_MAXIMUM else None,
        flags & _EXACT != 0,
        total if flags & _HAS_SUM else None,
    )
    return ColumnChunk(
        column,
        group,
        offset,
        stored,
        payload,
        raw_size,
        checksum,
        registry.NAMES[codec],
        registry.BLOCK_NAMES[block],
        stats,
    )


def _padded(data: bytes) -> bytes:
    return data + bytes(buffers.pad(len(data)))
