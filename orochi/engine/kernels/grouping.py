"""Compiled loops of the fused aggregate: rows to cells of a dense table, and one state a cell.

`cells` holds each row's cell, -1 for a row that is left out. `valid` has a byte a row, or is empty
where no value is null. Floats are in PostgreSQL's order: NaN is greater than all else.
"""

# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types

from orochi.engine.kernels.copyrows import Vector

_U8 = types.Array(types.uint8, 1, "C", readonly=True)
_I32 = types.Array(types.int32, 1, "C")
_I32_IN = types.Array(types.int32, 1, "C", readonly=True)
_I64 = types.Array(types.int64, 1, "C")
_I64_IN = types.Array(types.int64, 1, "C", readonly=True)
_F64 = types.Array(types.float64, 1, "C")
_F64_IN = types.Array(types.float64, 1, "C", readonly=True)
_PAIR = types.UniTuple(types.int64, 2)


@numba.njit(_PAIR(_I64_IN, _U8, _I32_IN), cache=True, nogil=True)
def extent(values: Vector, valid: Vector, cells: Vector) -> Any:
    """Least and greatest value of the rows that count; the first is greater if there are none."""
    low, high = np.int64(2**63 - 1), np.int64(-(2**63))
    for row in range(values.size):
        if cells[row] >= 0 and (valid.size == 0 or valid[row]):
            low = min(low, values[row])
            high = max(high, values[row])
    return low, high


@numba.njit(
    types.void(_I64_IN, _U8, types.int64, types.int64, types.int64, types.int64, _I32), cache=True, nogil=True
)
def fold_buckets(
    values: Vector, valid: Vector, width: int, origin: int, first: int, count: int, cells: Vector
) -> None:
    """Each row's cell times `count`, plus the number of its value's bucket after `first`; `count - 1` is null."""
    last_low, last = np.int64(1), np.int64(0)  # the bucket before: neighbours often share it
    last_high = np.int64(0)
    for row in range(values.size):
        cell = cells[row]
        if cell < 0:
            continue
        if valid.size and valid[row] == 0:
            cells[row] = cell * count + count - 1
            continue
        value = values[row]
        if value < last_low or value >= last_high:
            last = (value - origin) // width - first
            last_low = (last + first) * width + origin
            last_high = last_low + width
        cells[row] = np.int32(cell * count + last)


@numba.njit(types.void(_I32_IN, types.int64, _I32), cache=True, nogil=True)
def fold_codes(codes: Vector, count: int, cells: Vector) -> None:
    """Each row's cell times `count`, plus its code."""
    for row in range(codes.size):
        if cells[row] >= 0:
            cells[row] = np.int32(cells[row] * count + codes[row])


@numba.njit(types.void(_I32_IN, _U8, _I64), cache=True, nogil=True)
def count(cells: Vector, valid: Vector, counts: Vector) -> None:
    """Rows of each cell with a value."""
    if valid.size == 0:
        for row in range(cells.size):
            if cells[row] >= 0:
                counts[cells[row]] += 1
        return
    for row in range(cells.size):
        if cells[row] >= 0 and valid[row]:
            counts[cells[row]] += 1


@numba.njit(
    [types.void(_I32_IN, _U8, _F64_IN, _F64), types.void(_I32_IN, _U8, _I64_IN, _I64)], cache=True, nogil=True
)
def add(cells: Vector, valid: Vector, values: Vector, sums: Vector) -> None:
    """Add each value to its cell's sum."""
    if valid.size == 0:
        for row in range(cells.size):
            cell = cells[row]
            if cell >= 0:
                sums[cell] += values[row]
        return
    for row in range(cells.size):
        cell = cells[row]
        if cell >= 0 and valid[row]:
            sums[cell] += values[row]


@numba.njit(types.int64(_I32_IN, _I64), cache=True, nogil=True)
def runs(cells: Vector, starts: Vector) -> int:
    """Where runs of rows of one cell begin, and after them the end; how many they are, or -1 without room."""
    found = 0
    for row in range(cells.size):
        if row == 0 or cells[row] != cells[row - 1]:
            if found + 1 >= starts.size:
                return -1
            starts[found] = row
            found += 1
    starts[found] = cells.size
    return found


@numba.njit(
    [types.void(_I32_IN, _I64, _F64_IN, _F64), types.void(_I32_IN, _I64, _I64_IN, _I64)],
    cache=True,
    nogil=True,
)
def add_runs(cells: Vector, starts: Vector, values: Vector, sums: Vector) -> None:
    """What `add` does where no value is null, run by run: four sums at a time, which do not wait for each other."""
    for run in range(starts.size - 1):
        at, end = starts[run], starts[run + 1]
        cell = cells[at]
        if cell < 0:
            continue
        first = second = third = fourth = sums[cell] * 0
        while at + 4 <= end:
            first += values[at]
            second += values[at + 1]
            third += values[at + 2]
            fourth += values[at + 3]
            at += 4
        while at < end:
            first += values[at]
            at += 1
        sums[cell] += (first + second) + (third + fourth)


@numba.njit(
    [types.void(_I32_IN, _U8, _F64_IN, _F64), types.void(_I32_IN, _U8, _I64_IN, _I64)], cache=True, nogil=True
)
def least(cells: Vector, valid: Vector, values: Vector, found: Vector) -> None:
    """Each cell's least value; cells begin with NaN or the greatest integer."""
    for row in range(cells.size):
        cell = cells[row]
        if cell >= 0 and (valid.size == 0 or valid[row]):
            value, best = values[row], found[cell]
            if value < best or best != best:
                found[cell] = value


@numba.njit(
    [types.void(_I32_IN, _U8, _F64_IN, _F64), types.void(_I32_IN, _U8, _I64_IN, _I64)], cache=True, nogil=True
)
def greatest(cells: Vector, valid: Vector, values: Vector, found: Vector) -> None:
    """Each cell's greatest value; cells begin with minus infinity or the least integer."""
    for row in range(cells.size):
        cell = cells[row]
        if cell >= 0 and (valid.size == 0 or valid[row]):
            value = values[row]
            if value > found[cell] or value != value:
                found[cell] = value


@numba.njit(types.void(_I32_IN, _I64_IN, types.boolean, _I64), cache=True, nogil=True)
def best_rows(cells: Vector, values: Vector, descending: bool, rows: Vector) -> None:
    """Each cell's row with the greatest value, or the least; `rows` begins with -1, which stays without rows."""
    for row in range(cells.size):
        cell = cells[row]
        if cell < 0:
            continue
        best = rows[cell]
        if best < 0 or (values[row] > values[best] if descending else values[row] < values[best]):
            rows[cell] = row
