"""Delta: integers as packed differences from a base, outliers patched.

For keys, jittered times and slow walks. Lemire and Boytsov, "Decoding billions of integers per
second through vectorization", 2015, with a base subtracted *and* outliers patched: with either
alone one of the two common orders of timestamps (by time, by series) packs badly. See `integers`
for the stream.
"""

from __future__ import annotations

import pyarrow as pa

from orochi.storage.compression import buffers, integer_codec

ID, NAME = 2, "delta"


def encode(array: pa.Array) -> bytes | None:
    """None for types that are not integers, and when packing saves nothing."""
    return integer_codec.encode(array, (1,))


def decode(data: buffers.Data, count: int, arrow_type: pa.DataType) -> pa.Array:
    """The inverse of `encode`."""
    return integer_codec.decode(data, count, arrow_type)


def decode_into(data: buffers.Data, out: buffers.Vector) -> None:
    """Values into `out`."""
    integer_codec.decode_into(data, out)
