"""Compiled loop that deals rows out by the range that their hash falls into."""

# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

import numba
import numpy as np
from numba import types

from orochi.engine.kernels.copyrows import Vector

_I32_IN = types.Array(types.int32, 1, "C", readonly=True)
_I64_IN = types.Array(types.int64, 1, "C", readonly=True)
_I64 = types.Array(types.int64, 1, "C")
_FEW = 8


@numba.njit(types.void(_I32_IN, _I64_IN, _I64, _I64), cache=True, nogil=True)
def deal(hashes: Vector, starts: Vector, order: Vector, ends: Vector) -> None:
    """Row numbers, those of the first range first, each range's in their order.

    Args:
        hashes: of each row, none below the first start.
        starts: of the ranges, ascending; a range reaches to the start of the next.
        order: the row numbers are written there.
        ends: and there the position in `order` after each range's last row.
    """
    ranges = starts.size
    part = np.empty(hashes.size, np.int32)
    counts = np.zeros(ranges + 1, np.int64)
    for row in range(hashes.size):
        low, high = 0, ranges
        while high - low > _FEW:
            middle = (low + high) >> 1
            if starts[middle] <= hashes[row]:
                low = middle
            else:
                high = middle
        # no branches, which nobody could foresee
        for number in range(low + 1, high):
            low += starts[number] <= hashes[row]
        part[row] = low
        counts[low + 1] += 1
    for number in range(ranges):
        counts[number + 1] += counts[number]
    for row in range(hashes.size):
        number = part[row]
        order[counts[number]] = row
        counts[number] += 1
    # each count has moved on to where its range ends
    ends[:] = counts[:ranges]
