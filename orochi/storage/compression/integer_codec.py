"""What frame of reference and delta share: carrier integers to an `integers` stream and back.

Kernels know int64 only; narrower types are widened before and narrowed after, which is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from orochi.storage.compression import buffers, integers


def encode(array: pa.Array, orders: Sequence[int]) -> bytes | None:
    """A stream of one of the orders, or None when the type or the size does not fit."""
    dtype = buffers.dtype_of(array.type)
    if dtype is None or dtype.kind == "f" or len(array) <= min(orders):
        return None
    data = integers.encode(buffers.as_int64(array), orders)
    return data if len(data) < len(array) * dtype.itemsize else None


def decode(data: buffers.Data, count: int, arrow_type: pa.DataType) -> pa.Array:
    """The inverse of `encode`."""
    dtype = buffers.dtype_of(arrow_type)
    if dtype is None:
        raise ValueError(f"{arrow_type} is not an integer type")
    buffer, out = buffers.allocate(count, dtype)
    decode_into(data, out)
    return buffers.wrap(arrow_type, count, buffer)


def decode_into(data: buffers.Data, out: buffers.Vector) -> None:
    """Values into `out`, narrowed to its type."""
    if not len(out):
        return
    if out.dtype == np.int64:
        integers.decode_into(data, out)
        return
    wide = np.empty(len(out), np.int64)
    integers.decode_into(data, wide)
    np.copyto(out, wide, casting="unsafe")
