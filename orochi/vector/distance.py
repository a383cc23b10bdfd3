"""Distances between one vector and a column of them, as pgvector's operators define them.

A `vector` travels as its binary send form: int16 dimensions, int16 zero, then float4 values, all
big-endian (pgvector, `vector_send`). Distances are taken in float64 from float32 elements; pgvector
adds up in float32, so the two agree to about six digits, not in every bit.
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orochi import errors

_HEADER_BYTES = 4
_FLOAT_BYTES = 4


class Metric(enum.Enum):
    """pgvector's operators for the type `vector`."""

    L2 = "<->"
    INNER_PRODUCT = "<#>"  # negative, so that the nearest comes first
    COSINE = "<=>"
    L1 = "<+>"


def matrix(column: pa.Array) -> npt.NDArray[np.float32]:
    """The vectors of a carrier column without NULLs.

    Args:
        column: Arrow binary, each value a `vector` in send form.

    Returns:
        float32, shape (rows, dimensions).

    Raises:
        InvalidParameter: the vectors are of different dimensions (PostgreSQL's 22000 in pgvector).
        DataCorrupted: a value is not a vector.
    """
    rows = len(column)
    if not rows:
        return np.empty((0, 0), np.float32)
    _, offsets_buffer, data_buffer = column.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[column.offset : column.offset + rows + 1]
    widths = np.diff(offsets)
    if (widths != widths[0]).any():
        raise errors.InvalidParameter("different vector dimensions", sqlstate="22000")
    width = int(widths[0])
    if width < _HEADER_BYTES or (width - _HEADER_BYTES) % _FLOAT_BYTES:
        raise errors.DataCorrupted("a value of type vector is malformed")
    raw = np.frombuffer(data_buffer, np.uint8)[offsets[0] : offsets[-1]].reshape(rows, width)
    dimensions = int.from_bytes(raw[0, :2].tobytes(), "big")
    if width != _HEADER_BYTES + _FLOAT_BYTES * dimensions:
        raise errors.DataCorrupted("a value of type vector is malformed")
    values = np.ascontiguousarray(raw[:, _HEADER_BYTES:]).view(">f4")
    return values.astype(np.float32)


def distances(
    vectors: npt.NDArray[np.float32], query: npt.NDArray[np.float32], metric: Metric
) -> npt.NDArray[np.float64]:
    """The distance of each row of `vectors` to `query`.

    Args:
        vectors: shape (rows, dimensions).
        query: shape (dimensions,).
        metric: the operator.

    Returns:
        float64, shape (rows,); NaN where the cosine of a zero vector is asked, as pgvector has it.

    Raises:
        InvalidParameter: the dimensions differ.
    """
    if len(vectors) and vectors.shape[1] != query.shape[0]:
        raise errors.InvalidParameter(
            f"different vector dimensions {vectors.shape[1]} and {query.shape[0]}", sqlstate="22000"
        )
    rows, other = vectors.astype(np.float64), query.astype(np.float64)
    match metric:
        case Metric.L2:
            found = np.sqrt(((rows - other) ** 2).sum(axis=1))
        case Metric.L1:
            found = np.abs(rows - other).sum(axis=1)
        case Metric.INNER_PRODUCT:
            found = -(rows @ other)
        case Metric.COSINE:
            with np.errstate(invalid="ignore", divide="ignore"):
                similarity = (rows @ other) / np.sqrt((rows**2).sum(axis=1) * (other**2).sum())
            found = 1.0 - np.clip(similarity, -1.0, 1.0)
    return np.asarray(found, np.float64)
