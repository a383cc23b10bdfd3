"""Dictionary: each distinct value once, then bit-packed codes.

For strings, binary and low-cardinality numbers. Floats are told apart by their bits, so NaN
payloads and -0.0 survive. Codes are an `integers` stream of order 0.

    distinct count u32, 0 u32, length of the plain dictionary u64
    plain dictionary (padded to 8), codes
"""

from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa

from orochi.storage.compression import buffers, integers, plain

ID, NAME = 4, "dictionary"

_HEADER = struct.Struct("<IIQ")


def encode(array: pa.Array) -> bytes | None:
    """None when most values are distinct, when it is not smaller, and for bool."""
    if pa.types.is_boolean(array.type) or len(array) == 0:
        return None
    dtype = buffers.dtype_of(array.type)
    keys = array
    if dtype is not None:
        keys = pa.array(buffers.as_int64(array))
    encoded = keys.dictionary_encode()
    distinct = len(encoded.dictionary)
    if distinct > len(array) // 2 + 1:
        return None
    if dtype is None:
        table = plain.pack(encoded.dictionary)
    else:
        narrow = f"i{dtype.itemsize}"
        table = buffers.values(encoded.dictionary).astype(narrow).tobytes()
    codes = integers.encode(buffers.as_int64(encoded.indices), (0,))
    header = _HEADER.pack(distinct, 0, len(table))
    data = b"".join((header, table, bytes(buffers.pad(len(table))), codes))
    return data if len(data) < _plain_size(array) else None


def decode(data: buffers.Data, count: int, arrow_type: pa.DataType) -> pa.Array:
    """The inverse of `encode`."""
    if count == 0:
        return pa.array([], arrow_type)
    dtype = buffers.dtype_of(arrow_type)
    if dtype is not None:
        buffer, out = buffers.allocate(count, dtype)
        decode_into(data, out)
        return buffers.wrap(arrow_type, count, buffer)
    distinct, table, packed = _parts(data)
    return plain.decode(table, distinct, arrow_type).take(pa.array(_codes(packed, count, distinct)))


def decode_into(data: buffers.Data, out: buffers.Vector) -> None:
    """Fixed-width values into `out`."""
    if not len(out):
        return
    distinct, table, packed = _parts(data)
    entries = np.empty(distinct, out.dtype)
    plain.decode_into(table, entries)
    np.take(entries, _codes(packed, len(out), distinct), out=out, mode="clip")


def _parts(data: buffers.Data) -> tuple[int, buffers.Vector, buffers.Vector]:
    octets = buffers.raw(data)
    distinct, _, length = _HEADER.unpack_from(octets.data)
    end = _HEADER.size + length
    return distinct, octets[_HEADER.size : end], octets[end + buffers.pad(length) :]


def _codes(packed: buffers.Vector, count: int, distinct: int) -> buffers.Int64s:
    codes = np.empty(count, np.int64)
    integers.decode_into(packed, codes)
    if int(codes.max()) >= distinct or int(codes.min()) < 0:
        raise ValueError("code outside the dictionary")
    return codes


def _plain_size(array: pa.Array) -> int:
    dtype = buffers.dtype_of(array.type)
    if dtype is not None:
        return len(array) * dtype.itemsize
    offsets, _ = buffers.byte_parts(array)
    return int(offsets[-1]) + len(array)
