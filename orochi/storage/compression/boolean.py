"""Booleans as one bit a value, least significant bit first: Arrow's own layout."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from orochi.storage.compression import buffers

ID, NAME = 3, "boolean"


def encode(array: pa.Array) -> bytes | None:
    """None for any other type."""
    if not pa.types.is_boolean(array.type):
        return None
    if len(array) == 0:
        return b""
    first = array.offset % 8
    octets = np.frombuffer(array.buffers()[1], np.uint8)[array.offset // 8 :]
    if first:
        flags = np.unpackbits(octets, bitorder="little")[first : first + len(array)]
        return np.packbits(flags, bitorder="little").tobytes()
    packed = octets[: (len(array) + 7) // 8].copy()
    if len(array) % 8:
        packed[-1] &= (1 << len(array) % 8) - 1
    return packed.tobytes()


def decode(data: buffers.Data, count: int, arrow_type: pa.DataType) -> pa.Array:
    """The inverse of `encode`."""
    size = (count + 7) // 8
    octets = buffers.raw(data)[:size]
    if len(octets) != size:
        raise ValueError("too few bits")
    return buffers.wrap(arrow_type, count, pa.py_buffer(octets))
