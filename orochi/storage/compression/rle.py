"""Run-length encoding: each run's value once, then the runs' lengths.

For sorted and slowly changing columns. Integer run values are themselves an `integers` stream
(times repeated once a series become a constant difference), others are plain.

    run count u32, 1 if the values are packed integers u8, 0 u8 ×3, length of the values u64
    values (padded to 8), run lengths as an `integers` stream
"""

from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa

from orochi.storage.compression import buffers, integers, plain

ID, NAME = 5, "rle"

_HEADER = struct.Struct("<IBBBBQ")


def encode(array: pa.Array) -> bytes | None:
    """None when runs are shorter than two values on average, and for bool."""
    if pa.types.is_boolean(array.type) or len(array) == 0:
        return None
    starts = _run_starts(array)
    if len(starts) * 2 > len(array):
        return None
    heads = array.take(pa.array(starts))
    lengths = np.diff(starts, append=len(array))
    dtype = buffers.dtype_of(array.type)
    packed = dtype is not None and dtype.kind != "f"
    table = integers.encode(buffers.as_int64(heads), (0, 1, 2)) if packed else plain.pack(heads)
    header = _HEADER.pack(len(starts), packed, 0, 0, 0, len(table))
    return b"".join((header, table, bytes(buffers.pad(len(table))), integers.encode(lengths, (0,))))


def decode(data: buffers.Data, count: int, arrow_type: pa.DataType) -> pa.Array:
    """The inverse of `encode`."""
    if count == 0:
        return pa.array([], arrow_type)
    dtype = buffers.dtype_of(arrow_type)
    if dtype is not None:
        buffer, out = buffers.allocate(count, dtype)
        decode_into(data, out)
        return buffers.wrap(arrow_type, count, buffer)
    runs, _, table, lengths = _parts(data, count)
    heads = plain.decode(table, runs, arrow_type)
    return heads.take(pa.array(np.repeat(np.arange(runs), lengths)))


def decode_into(data: buffers.Data, out: buffers.Vector) -> None:
    """Fixed-width values into `out`."""
    if not len(out):
        return
    runs, packed, table, lengths = _parts(data, len(out))
    if packed:
        heads: buffers.Vector = np.empty(runs, np.int64)
        integers.decode_into(table, heads)
        heads = heads.astype(out.dtype)
    else:
        heads = np.empty(runs, out.dtype)
        plain.decode_into(table, heads)
    out[:] = np.repeat(heads, lengths)


def _run_starts(array: pa.Array) -> buffers.Int64s:
    if buffers.dtype_of(array.type) is not None:
        keys = buffers.as_int64(array)
    else:
        keys = buffers.as_int64(array.dictionary_encode().indices)
    return np.concatenate(([0], np.flatnonzero(keys[1:] != keys[:-1]) + 1)).astype(np.int64)


def _parts(data: buffers.Data, count: int) -> tuple[int, bool, buffers.Vector, buffers.Int64s]:
    octets = buffers.raw(data)
    runs, packed, _, _, _, length = _HEADER.unpack_from(octets.data)
    end = _HEADER.size + length
    lengths = np.empty(runs, np.int64)
    integers.decode_into(octets[end + buffers.pad(length) :], lengths)
    if int(lengths.min()) < 0 or int(lengths.sum()) != count:
        raise ValueError("runs do not add up")
    return runs, bool(packed), octets[_HEADER.size : end], lengths
