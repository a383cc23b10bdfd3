"""Byte-aligned XOR: as Gorilla, but whole bytes, so it decodes an order of magnitude faster.

Each value XORed with the one before becomes a control byte (how many low bytes are zero, how many
bytes follow) and those bytes. For full-precision floats, where ALP finds no decimals; the block
compressor squeezes the control bytes.

    length of the byte section u64, control bytes (one a value), bytes
"""

from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa

from orochi.storage.compression import buffers

ID, NAME = 7, "xor"

_HEADER = struct.Struct("<Q")


def encode(array: pa.Array) -> bytes | None:
    """None for types that are not floats, and when it saves nothing."""
    from orochi.storage.compression import float_kernels

    if not pa.types.is_floating(array.type) or len(array) == 0:
        return None
    vector = buffers.values(array)
    bits = vector.view(np.uint64) if vector.dtype == np.float64 else vector.view(np.uint32).astype(np.uint64)
    controls, octets = np.empty(len(vector), np.uint8), np.empty(len(vector) * 8, np.uint8)
    size = float_kernels.xor_encode(bits, controls, octets)
    data = b"".join((_HEADER.pack(size), controls.tobytes(), octets[:size].tobytes()))
    return data if len(data) < vector.nbytes else None


def decode(data: buffers.Data, count: int, arrow_type: pa.DataType) -> pa.Array:
    """The inverse of `encode`."""
    dtype = buffers.dtype_of(arrow_type)
    if dtype is None:
        raise ValueError(f"{arrow_type} is not a float type")
    buffer, out = buffers.allocate(count, dtype)
    decode_into(data, out)
    return buffers.wrap(arrow_type, count, buffer)


def decode_into(data: buffers.Data, out: buffers.Vector) -> None:
    """Values into `out`."""
    from orochi.storage.compression import float_kernels

    if not len(out):
        return
    octets = buffers.raw(data)
    (size,) = _HEADER.unpack_from(octets.data)
    start = _HEADER.size + len(out)
    controls, body = octets[_HEADER.size : start], octets[start : start + size]
    single = out.dtype == np.float32
    target = np.empty(len(out), np.uint64) if single else out.view(np.uint64)
    if len(controls) != len(out) or float_kernels.xor_decode(controls, body, target) < 0:
        raise ValueError("XOR stream too short")
    if single:
        out.view(np.uint32)[:] = target
