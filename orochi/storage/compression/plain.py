"""Plain: values as they are, little-endian; the codec that always fits.

Strings and binary are stored as in Parquet's DELTA_LENGTH_BYTE_ARRAY: all lengths, bit-packed
(uuids and other equal lengths take nothing), then all bytes.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from orochi.storage.compression import buffers, integers

ID, NAME = 0, "plain"


def encode(array: pa.Array) -> bytes | None:
    """None for bool only: any other dense carrier array can be stored plain."""
    return None if pa.types.is_boolean(array.type) else pack(array)


def pack(array: pa.Array) -> bytes:
    """What `encode` gives, for an array known not to be bool."""
    if len(array) == 0:
        return b""
    if not buffers.is_bytes(array.type):
        return buffers.values(array).tobytes()
    offsets, data = buffers.byte_parts(array)
    lengths = np.diff(offsets).astype(np.int64)
    return b"".join((integers.encode(lengths, (0,)), data))


def decode(data: buffers.Data, count: int, arrow_type: pa.DataType) -> pa.Array:
    """The inverse of `encode`."""
    dtype = buffers.dtype_of(arrow_type)
    if dtype is not None:
        buffer, out = buffers.allocate(count, dtype)
        decode_into(data, out)
        return buffers.wrap(arrow_type, count, buffer)
    if count == 0:
        return pa.array([], arrow_type)
    lengths = np.empty(count, np.int64)
    start = integers.decode_into(data, lengths)
    total = int(lengths.sum())
    octets = buffers.raw(data)[start : start + total]
    if len(octets) != total or int(lengths.min()) < 0:
        raise ValueError("plain strings too short")
    return buffers.from_lengths(arrow_type, lengths, octets)


def decode_into(data: buffers.Data, out: buffers.Vector) -> None:
    """Fixed-width values into `out`."""
    if len(out):
        out[:] = buffers.raw(data)[: out.nbytes].view(out.dtype)
