"""Views of Arrow arrays as numpy vectors and back, without copies where none is needed.

Results are allocated from the Arrow pool: two thirds of a naive decode is page faults of fresh
memory. Every byte vector that codecs read words from is aligned to 8 bytes here, so kernels are
compiled for one kind of array only.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

#: What codecs decode from: bytes, or a buffer of the Arrow pool.
Data: TypeAlias = Any
Vector: TypeAlias = npt.NDArray[Any]
Int64s: TypeAlias = npt.NDArray[np.int64]

_DTYPES: dict[Any, np.dtype[Any]] = {
    pa.int16(): np.dtype(np.int16),
    pa.int32(): np.dtype(np.int32),
    pa.int64(): np.dtype(np.int64),
    pa.uint32(): np.dtype(np.uint32),
    pa.float32(): np.dtype(np.float32),
    pa.float64(): np.dtype(np.float64),
}


def dtype_of(arrow_type: pa.DataType) -> np.dtype[Any] | None:
    """The numpy type of a fixed-width numeric carrier; None for bool, string and binary."""
    return _DTYPES.get(arrow_type)


def is_bytes(arrow_type: pa.DataType) -> bool:
    """Whether values are of variable length."""
    return bool(pa.types.is_string(arrow_type) or pa.types.is_binary(arrow_type))


def raw(data: Data) -> npt.NDArray[np.uint8]:
    """Encoded bytes as an 8-byte aligned vector (copied only if they are not aligned)."""
    if len(data) == 0:
        return np.empty(0, np.uint8)
    view = np.frombuffer(data, np.uint8)
    return view if view.ctypes.data % 8 == 0 else view.copy()


def values(array: pa.Array) -> Vector:
    """The values of a fixed-width array; what null slots hold is undefined."""
    dtype = _DTYPES[array.type]
    if len(array) == 0:
        return np.empty(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)


def as_int64(array: pa.Array) -> Int64s:
    """The values widened to int64, or the bits of floats widened as signed integers."""
    return bits(values(array))


def bits(vector: Vector) -> Int64s:
    """A numeric vector as int64: integers by value, floats by their bits."""
    if vector.dtype.kind == "f":
        vector = vector.view(np.int32 if vector.dtype.itemsize == 4 else np.int64)
    return np.ascontiguousarray(vector, np.int64)


def allocate(count: int, dtype: np.dtype[Any]) -> tuple[pa.Buffer, Vector]:
    """Room for `count` values in the Arrow pool, and a writable view of it."""
    buffer = pa.allocate_buffer(count * dtype.itemsize)
    if count == 0:
        return buffer, np.empty(0, dtype)
    return buffer, np.frombuffer(buffer, dtype)


def wrap(
    arrow_type: pa.DataType, count: int, buffer: pa.Buffer, validity: pa.Buffer | None = None
) -> pa.Array:
    """An array over a values buffer."""
    return pa.Array.from_buffers(arrow_type, count, [validity, buffer])


def byte_parts(array: pa.Array) -> tuple[npt.NDArray[np.int32], memoryview]:
    """Offsets (count + 1, starting at 0) and the bytes of a string or binary array."""
    if len(array) == 0:
        return np.zeros(1, np.int32), memoryview(b"")
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32, len(array) + 1, array.offset * 4)
    first, last = int(offsets[0]), int(offsets[-1])
    data = memoryview(b"") if data_buffer is None else memoryview(data_buffer)[first:last]
    return (offsets - offsets[0] if first else offsets), data


def from_lengths(arrow_type: pa.DataType, lengths: Vector, data: Data) -> pa.Array:
    """A string or binary array from each value's length and all values' bytes."""
    count = len(lengths)
    buffer, offsets = allocate(count + 1, np.dtype(np.int32))
    offsets[0] = 0
    np.cumsum(lengths, out=offsets[1:])
    return pa.Array.from_buffers(arrow_type, count, [None, buffer, pa.py_buffer(data)])


def pad(size: int) -> int:
    """How many zero bytes bring `size` to a multiple of 8."""
    return -size % 8
