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
    dtype = buffers.dtype_of(array.type)
    if dtype is not None and dtype.kind != "f":
        return encode_integers(buffers.as_int64(array))
    starts = _run_starts(array)
    if len(starts) * 2 > len(array):
        return None
    return _pack(starts, len(array), 0, plain.pack(array.take(pa.array(starts))))


def encode_integers(values: buffers.Int64s) -> bytes | None:
    """What `encode` gives for an array of these integers, at least one."""
    starts = _starts(values)
    if len(starts) * 2 > len(values):
        return None
    return _pack(starts, len(values), 1, integers.encode(values[starts], (0, 1, 2)))


def count(data: bytes) -> int:
    """How many runs encoded bytes have."""
    return int(_HEADER.unpack_from(data)[0])


def _pack(starts: buffers.Int64s, count: int, packed: int, table: bytes) -> bytes:
    lengths = np.empty(len(starts), np.int64)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1] = count - starts[-1]
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
        return _starts(buffers.as_int64(array))
    return _starts(buffers.as_int64(array.dictionary_encode().indices))


def _starts(values: buffers.Int64s) -> buffers.Int64s:
    from orochi.storage.compression import int_kernels

    starts = np.empty(len(values) + 1, np.int64)
    return starts[: int_kernels.run_starts(values, starts)]


def _parts(data: buffers.Data, count: int) -> tuple[int, bool, buffers.Vector, buffers.Int64s]:
    octets = buffers.raw(data)
    runs, packed, _, _, _, length = _HEADER.unpack_from(octets.data)
    end = _HEADER.size + length
    lengths = np.empty(runs, np.int64)
    integers.decode_into(octets[end + buffers.pad(length) :], lengths)
    if int(lengths.min()) < 0 or int(lengths.sum()) != count:
        raise ValueError("runs do not add up")
    return runs, bool(packed), octets[_HEADER.size : end], lengths
