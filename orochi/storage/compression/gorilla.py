"""Gorilla: each double XORed with the one before, its meaningful bits in a bit stream.

Pelkonen et al., "Gorilla: A Fast, Scalable, In-Memory Time Series Database", VLDB 2015, section
4.1.2, with bits filled from the low end of 64-bit words: `0` the same value; `10` meaningful bits
inside the last window; `11` 5 bits leading zeros, 6 bits length less one, the bits. Bit-serial,
hence slow: the chooser takes it only where it is much smaller. float32 travels in the upper half
of a word.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from orochi.storage.compression import buffers

ID, NAME = 6, "gorilla"


def encode(array: pa.Array) -> bytes | None:
    """None for types that are not floats, and when it saves nothing."""
    from orochi.storage.compression import float_kernels

    if not pa.types.is_floating(array.type) or len(array) == 0:
        return None
    vector = buffers.values(array)
    words = np.zeros(2 * len(vector) + 2, np.uint64)
    used = float_kernels.gorilla_encode(_words(vector), words)
    data = words[: -(-used // 64)].tobytes()
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
    single = out.dtype == np.float32
    target = np.empty(len(out), np.uint64) if single else out.view(np.uint64)
    if float_kernels.gorilla_decode(octets[: len(octets) // 8 * 8].view(np.uint64), target) < 0:
        raise ValueError("Gorilla stream too short")
    if single:
        out.view(np.uint32)[:] = target >> np.uint64(32)


def _words(vector: buffers.Vector) -> buffers.Vector:
    if vector.dtype == np.float64:
        return vector.view(np.uint64)
    return vector.view(np.uint32).astype(np.uint64) << np.uint64(32)
