"""One column chunk: an Arrow array with nulls to stored bytes, and back.

Codecs see dense values only; the validity bitmap goes in front of them here, and values are
spread to their rows again here. What null slots hold is zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from orochi.storage.columnar import dictionaries, skiplist
from orochi.storage.columnar import format as layout
from orochi.storage.compression import boolean, buffers, chooser, registry, shared_dictionary

#: What turns a codec's bytes into fixed-width values.
Filler: TypeAlias = Callable[[buffers.Data, buffers.Vector], None]


def encode(
    array: pa.Array,
    type_oid: int,
    *,
    compression: str,
    level: int,
    codec: str | None,
    choose: Callable[..., chooser.Encoded] = chooser.encode,
) -> tuple[bytes, chooser.Encoded, skiplist.Stats]:
    """The bytes to store, padding included, how they came about, and the statistics.

    `choose` encodes as `chooser.encode` does, and may remember what it chose before.
    """
    nulls = array.null_count
    bitmap = b""
    dense = array
    if nulls:
        dense = array.drop_null()
        if len(dense):
            bitmap = boolean.encode(array.is_valid()) or b""
            bitmap += bytes(buffers.pad(len(bitmap)))
    encoded = choose(dense, compression=compression, level=level, codec=codec, prefix=bitmap)
    stored = bytes(encoded.data)
    return stored + bytes(buffers.pad(len(stored))), encoded, skiplist.compute(array, type_oid)


def encode_codes(
    codes: buffers.Int64s,
    facts: dictionaries.Facts,
    values: pa.Array,
    type_oid: int,
    *,
    compression: str,
    level: int,
) -> tuple[bytes, chooser.Encoded, skiplist.Stats]:
    """What `encode` gives, of codes into a shared dictionary that is in the order of bytes; -1 is null."""
    rows = len(codes)
    if facts.ends is None:
        missing = pa.nulls(rows, values.type)
        return encode(missing, type_oid, compression=compression, level=level, codec=None)
    dense, bitmap = codes, b""
    if facts.nulls:
        dense = codes[codes >= 0]
        bitmap = boolean.encode(pa.array(codes >= 0)) or b""
        bitmap += bytes(buffers.pad(len(bitmap)))
    data = bitmap + shared_dictionary.encode(dense)
    encoded = chooser.store(data, shared_dictionary.ID, compression=compression, level=level)
    stored = bytes(encoded.data)
    stats = skiplist.between(*facts.ends, values.type, type_oid, rows, facts.nulls)
    return stored + bytes(buffers.pad(len(stored))), encoded, stats


def decode(stored: pa.Buffer, chunk: layout.ColumnChunk, arrow: pa.DataType) -> pa.Array:
    """The chunk's array. ValueError, struct.error or an Arrow error when the bytes make no sense."""
    rows, nulls = chunk.stats.rows, chunk.stats.null_count
    if nulls == rows:
        return pa.nulls(rows, arrow)
    payload, bitmap = _split(stored, chunk)
    dense = _codec(chunk).decode(payload, rows - nulls, arrow)
    return dense if bitmap is None else _spread(dense, bitmap, rows, nulls)


def decode_into(
    stored: pa.Buffer,
    chunk: layout.ColumnChunk,
    out: buffers.Vector,
    valid: buffers.Vector | None,
    fill: Filler | None = None,
) -> None:
    """A chunk's fixed-width values into `out`; its validity into `valid` (all True on entry).

    `fill` takes the place of the codec: it makes other values of its bytes.
    """
    rows, nulls = chunk.stats.rows, chunk.stats.null_count
    if nulls == rows:
        out[:] = 0
        if valid is not None:
            valid[:] = False
        return
    payload, bitmap = _split(stored, chunk)
    fill = fill or registry.FIXED[registry.IDS[chunk.codec]].decode_into
    if bitmap is None:
        fill(payload, out)
        return
    if valid is None:
        raise ValueError("a chunk without nulls has a bitmap")
    dense = np.empty(rows - nulls, out.dtype)
    fill(payload, dense)
    flags = _flags(bitmap, rows, nulls)
    valid[:] = flags
    out[:] = 0
    out[flags] = dense


def validity(flags: buffers.Vector) -> pa.Buffer:
    """Row flags as an Arrow validity bitmap."""
    return pa.py_buffer(np.packbits(flags, bitorder="little"))


def _codec(chunk: layout.ColumnChunk) -> registry.Codec:
    return registry.CODECS[registry.IDS[chunk.codec]]


def _split(stored: pa.Buffer, chunk: layout.ColumnChunk) -> tuple[Any, buffers.Vector | None]:
    """The codec's bytes, and the bitmap when some values are null."""
    payload: Any = stored.slice(0, chunk.stored_size)
    if chunk.block != "none":
        payload = registry.BLOCKS[registry.BLOCK_IDS[chunk.block]].decompress(payload, chunk.payload_size)
    if not chunk.stats.null_count:
        return payload, None
    size = (chunk.stats.rows + 7) // 8
    bitmap = buffers.raw(payload)[:size]
    return payload.slice(size + buffers.pad(size)), bitmap


def _flags(bitmap: buffers.Vector, rows: int, nulls: int) -> buffers.Vector:
    flags = np.unpackbits(bitmap, count=rows, bitorder="little").view(np.bool_)
    if np.count_nonzero(flags) != rows - nulls:
        raise ValueError("the bitmap does not fit the null count")
    return flags


def _spread(dense: pa.Array, bitmap: buffers.Vector, rows: int, nulls: int) -> pa.Array:
    """`dense` at the rows whose bit is set."""
    flags = _flags(bitmap, rows, nulls)
    valid = pa.py_buffer(bitmap)
    if buffers.is_bytes(dense.type):
        _, offsets, data = dense.buffers()
        ends = np.frombuffer(offsets, np.int32, len(dense) + 1)
        buffer, spread = buffers.allocate(rows + 1, np.dtype(np.int32))
        spread[0] = 0
        np.take(ends, np.cumsum(flags), out=spread[1:], mode="clip")
        return pa.Array.from_buffers(dense.type, rows, [valid, buffer, data or pa.py_buffer(b"")], nulls)
    if pa.types.is_boolean(dense.type):
        values = np.zeros(rows, np.bool_)
        values[flags] = dense.to_numpy(zero_copy_only=False)
        return pa.Array.from_buffers(dense.type, rows, [valid, validity(values)], nulls)
    buffer, out = buffers.allocate(rows, np.dtype(dense.type.to_pandas_dtype()))
    out[:] = 0
    out[flags] = buffers.values(dense)
    return pa.Array.from_buffers(dense.type, rows, [valid, buffer], nulls)
