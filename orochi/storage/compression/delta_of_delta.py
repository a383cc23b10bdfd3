"""Delta of delta: integers as packed differences of differences, outliers patched.

For times at regular distances, whose second differences are zero: Pelkonen et al., "Gorilla: A
Fast, Scalable, In-Memory Time Series Database", VLDB 2015, section 4.1.1, with its bit-serial
code replaced by patched packing. See `integers` for the stream.
"""

from __future__ import annotations

import pyarrow as pa

from orochi.storage.compression import buffers, integer_codec

ID, NAME = 10, "delta_of_delta"


def encode(array: pa.Array) -> bytes | None:
    """None for types that are not integers, and when packing saves nothing."""
    return integer_codec.encode(array, (2,))


def decode(data: buffers.Data, count: int, arrow_type: pa.DataType) -> pa.Array:
    """The inverse of `encode`."""
    return integer_codec.decode(data, count, arrow_type)


def decode_into(data: buffers.Data, out: buffers.Vector) -> None:
    """Values into `out`."""
    integer_codec.decode_into(data, out)
