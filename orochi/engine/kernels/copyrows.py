"""Compiled loops over PostgreSQL's binary COPY rows: find fields, gather and scatter their bytes.

A row is an int16 field count, then for each field an int32 length (-1 for NULL) and its bytes, all
big-endian. Loops move bytes only; what they mean is the caller's business. Inputs are read-only
and signatures explicit, so no call can compile another variant.
"""

# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disable-error-code="return-value, arg-type"

from __future__ import annotations

from typing import Any, TypeAlias

import numba
import numpy as np
import numpy.typing as npt
from numba import types

Vector: TypeAlias = npt.NDArray[Any]

#: What `scan_rows` reports beside a count of rows: more bytes are needed, the trailer was met,
#: the capacity is used up, or the field count of a row is not the expected one.
NEED_MORE, TRAILER, FULL, MALFORMED = 0, 1, 2, 3

_U8_IN = types.Array(types.uint8, 1, "C", readonly=True)
_I64_IN = types.Array(types.int64, 1, "C", readonly=True)
_I32_IN = types.Array(types.int32, 1, "C", readonly=True)
_U8 = types.Array(types.uint8, 1, "C")
_I64 = types.Array(types.int64, 1, "C")
_I32 = types.Array(types.int32, 1, "C")
_I64_2D = types.Array(types.int64, 2, "C")
_I32_2D = types.Array(types.int32, 2, "C")
_ONE, _TWO, _THREE = np.uint64(1), np.uint64(2), np.uint64(3)
_FIELDS = types.Tuple((types.int64, types.int64, types.int64))


@numba.njit(types.int64(_U8_IN, types.int64), cache=True, nogil=True, inline="never")
def _int32_at(data: Vector, at: int) -> int:
    value = (
        (np.int64(data[at]) << 24)
        | (np.int64(data[at + 1]) << 16)
        | (np.int64(data[at + 2]) << 8)
        | np.int64(data[at + 3])
    )
    return value - 4294967296 if value >= 2147483648 else value


@numba.njit(_FIELDS(_U8_IN, types.int64, types.int64, _I64, _I64_2D, _I32_2D), cache=True, nogil=True)
def scan_rows(
    data: Vector, begin: int, columns: int, row_starts: Vector, starts: Vector, lengths: Vector
) -> tuple[int, int, int]:
    """Find the fields of all whole rows from `begin` on.

    Fills, for each row, where it starts, and for each of its fields where the bytes start and how
    many there are (-1 for NULL). `row_starts` has one entry more than the other two have rows.

    Returns:
        how many rows, where the rest begins, and why it stopped.
    """
    size = data.size
    capacity = starts.shape[0]
    at = begin
    rows = 0
    while True:
        row_starts[rows] = at
        if at + 2 > size:
            return rows, at, NEED_MORE
        count = (np.int64(data[at]) << 8) | np.int64(data[at + 1])
        if count == 65535:
            return rows, at + 2, TRAILER
        if count != columns:
            return rows, at, MALFORMED
        if rows == capacity:
            return rows, at, FULL
        cursor = at + 2
        for column in range(columns):
            if cursor + 4 > size:
                return rows, at, NEED_MORE
            length = _int32_at(data, cursor)
            cursor += 4
            if length < -1:
                return rows, at, MALFORMED
            starts[rows, column] = cursor
            lengths[rows, column] = length
            if length > 0:
                cursor += length
                if cursor > size:
                    return rows, at, NEED_MORE
        at = cursor
        rows += 1


@numba.njit(
    types.int64(_I64_2D, _I32_2D, types.int64, types.int64, types.int64, _U8_IN, _U8, _U8),
    cache=True,
    nogil=True,
)
def gather_fixed(
    starts: Vector,
    lengths: Vector,
    column: int,
    rows: int,
    width: int,
    data: Vector,
    out: Vector,
    valid: Vector,
) -> int:
    """Copy a fixed-width column, reversed to little-endian; the number of NULLs, or -1 on a wrong width."""
    nulls = 0
    for row in range(rows):
        length = lengths[row, column]
        base = row * width
        if length == -1:
            valid[row] = 0
            nulls += 1
            for i in range(width):
                out[base + i] = 0
        elif length != width:
            return -1
        else:
            valid[row] = 1
            last = starts[row, column] + width - 1
            for i in range(width):
                out[base + i] = data[last - i]
    return nulls


@numba.njit(types.int64(_I32_2D, types.int64, types.int64, _I32, _U8), cache=True, nogil=True)
def field_offsets(lengths: Vector, column: int, rows: int, offsets: Vector, valid: Vector) -> int:
    """Arrow offsets of a variable-length column; the number of NULLs."""
    nulls = 0
    total = np.int32(0)
    offsets[0] = 0
    for row in range(rows):
        length = lengths[row, column]
        if length == -1:
            valid[row] = 0
            nulls += 1
        else:
            valid[row] = 1
            total += length
        offsets[row + 1] = total
    return nulls


@numba.njit(types.void(_I64_2D, _I32_2D, types.int64, types.int64, _U8_IN, _U8), cache=True, nogil=True)
def gather_fields(starts: Vector, lengths: Vector, column: int, rows: int, data: Vector, out: Vector) -> None:
    """Copy a variable-length column's bytes, one value after another."""
    at = 0
    for row in range(rows):
        begin = starts[row, column]
        for i in range(lengths[row, column]):
            out[at + i] = data[begin + i]
        at += max(lengths[row, column], 0)


@numba.njit(types.void(_I32, _U8_IN, _I64), cache=True, nogil=True)
def add_lengths(offsets: Vector, valid: Vector, sizes: Vector) -> None:
    """Add each value's length to its row's size; NULLs add nothing."""
    for row in range(sizes.size):
        if valid[row]:
            sizes[row] += offsets[row + 1] - offsets[row]


@numba.njit(types.void(_U8, _I64, types.int64), cache=True, nogil=True)
def put_counts(out: Vector, cursors: Vector, columns: int) -> None:
    """Write each row's field count and move its cursor past it."""
    for row in range(cursors.size):
        at = cursors[row]
        out[at] = columns >> 8
        out[at + 1] = columns & 255
        cursors[row] = at + 2


@numba.njit(types.int64(_U8, types.int64, types.int64), cache=True, nogil=True)
def _put_length(out: Vector, at: int, length: int) -> int:
    to = np.uint64(at)
    out[to] = (length >> 24) & 255
    out[to + _ONE] = (length >> 16) & 255
    out[to + _TWO] = (length >> 8) & 255
    out[to + _THREE] = length & 255
    return at + 4


@numba.njit(types.void(_U8, types.int64, _U8_IN, types.int64, types.int64), cache=True, nogil=True)
def _copy(out: Vector, at: int, data: Vector, begin: int, length: int) -> None:
    to, start = (
        np.uint64(at),
        np.uint64(begin),
    )  # of what has no sign nothing has to be seen to: a fifth of the time
    for i in range(np.uint64(length)):
        out[to + i] = data[start + i]


@numba.njit(types.void(_U8, _I64, _U8_IN, types.int64, _U8_IN), cache=True, nogil=True)
def put_fixed(out: Vector, cursors: Vector, values: Vector, width: int, valid: Vector) -> None:
    """Write a fixed-width column, given little-endian, as length and big-endian bytes."""
    for row in range(cursors.size):
        at = cursors[row]
        if valid[row] == 0:
            cursors[row] = _put_length(out, at, -1)
        else:
            at = _put_length(out, at, width)
            to, last = np.uint64(at), np.uint64(row * width + width - 1)
            for i in range(np.uint64(width)):
                out[to + i] = values[last - i]
            cursors[row] = at + width


@numba.njit(types.void(_U8, _I64, _I32, _U8_IN, _U8_IN), cache=True, nogil=True)
def put_fields(out: Vector, cursors: Vector, offsets: Vector, data: Vector, valid: Vector) -> None:
    """Write a variable-length column as length and bytes."""
    for row in range(cursors.size):
        at = cursors[row]
        if valid[row] == 0:
            cursors[row] = _put_length(out, at, -1)
        else:
            begin = offsets[row]
            length = offsets[row + 1] - begin
            at = _put_length(out, at, length)
            _copy(out, at, data, begin, length)
            cursors[row] = at + length


@numba.njit(types.void(_U8_IN, _I64, _I64, _I64, _U8), cache=True, nogil=True)
def take_rows(data: Vector, offsets: Vector, index: Vector, targets: Vector, out: Vector) -> None:
    """Copy whole rows `index` to `targets` in `out`."""
    for i in range(index.size):
        begin = offsets[index[i]]
        _copy(out, targets[i], data, begin, offsets[index[i] + 1] - begin)
