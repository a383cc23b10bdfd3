"""Frame of reference: integers as packed offsets from a base, outliers patched (PFOR).

Goldstein, Ramakrishnan, Shaft, "Compressing Relations and Indexes", ICDE 1998; patches after
Zukowski et al., ICDE 2006. See `integers` for the stream.
"""

from __future__ import annotations

import pyarrow as pa

from orochi.storage.compression import buffers, integer_codec

ID, NAME = 1, "frame_of_reference"


def encode(array: pa.Array) -> bytes | None:
    """None for types that are not integers, and when packing saves nothing."""
    return integer_codec.encode(array, (0,))


def decode(data: buffers.Data, count: int, arrow_type: pa.DataType) -> pa.Array:
    """The inverse of `encode`."""
    return integer_codec.decode(data, count, arrow_type)


def decode_into(data: buffers.Data, out: buffers.Vector) -> None:
    """Values into `out`."""
    integer_codec.decode_into(data, out)
