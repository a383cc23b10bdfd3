"""Compiled loop that counts the distinct values of each group, both told by one number."""

# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types

from orochi.engine.kernels.copyrows import Vector

_I64_IN = types.Array(types.int64, 1, "C", readonly=True)
_I64 = types.Array(types.int64, 1, "C")
#: 2 ** 64 divided by the golden ratio: numbers next to each other do not stay so.
_SCATTER = np.uint64(0x9E3779B97F4A7C15)


@numba.njit(inline="always")
def _slot(number: int, shift: Any) -> Any:
    return np.int64((np.uint64(number) * _SCATTER) >> shift)


@numba.njit(types.UniTuple(_I64, 2)(_I64_IN, types.int64), cache=True, nogil=True)
def counted(numbers: Vector, size: int) -> tuple[Vector, Vector]:
    """A row of each group by its place, the first, and how many different numbers the group has.

    Args:
        numbers: of each row, none negative; rows of one group have the same quotient by `size`.
        size: more than the values of a group can be.
    """
    bits = 4
    while (1 << bits) < 2 * numbers.size:
        bits += 1
    shift, mask = np.uint64(64 - bits), (1 << bits) - 1
    seen, places = np.full(1 << bits, -1, np.int64), np.full(1 << bits, -1, np.int64)
    groups, rows = np.empty(numbers.size, np.int64), np.empty(numbers.size, np.int64)
    counts = np.zeros(numbers.size, np.int64)
    found = 0
    for row in range(numbers.size):
        number = numbers[row]
        at = _slot(number, shift)
        while seen[at] != -1 and seen[at] != number:
            at = (at + 1) & mask
        if seen[at] == number:
            continue
        seen[at] = number
        group = number // size
        at = _slot(group, shift)
        while places[at] != -1 and groups[places[at]] != group:
            at = (at + 1) & mask
        if places[at] == -1:
            places[at] = found
            groups[found] = group
            rows[found] = row
            found += 1
        counts[places[at]] += 1
    return rows[:found].copy(), counts[:found].copy()
