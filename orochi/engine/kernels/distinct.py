"""Compiled loop that counts the distinct values of each group, both told by numbers."""

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
#: Groups whose numbers are at most so many times as far apart as there are rows are looked up in an array.
_SPREAD = 16
#: Fewer values are sorted faster by insertion.
_FEW = 32


@numba.njit(inline="always")
def _slot(number: int, shift: Any) -> Any:
    return np.int64((np.uint64(number) * _SCATTER) >> shift)


@numba.njit(inline="always")
def _different(values: Any) -> Any:
    """How many there are, which are sorted for that."""
    if values.size > _FEW:
        values.sort()
    different = 1
    for at in range(1, values.size):
        value, to = values[at], at
        while to > 0 and values[to - 1] > value:
            values[to] = values[to - 1]
            to -= 1
        values[to] = value
    for at in range(1, values.size):
        different += values[at] != values[at - 1]
    return different


@numba.njit(types.UniTuple(_I64, 2)(_I64_IN, _I64_IN, types.int64), cache=True, nogil=True)
def counted(groups: Vector, values: Vector, span: int) -> tuple[Vector, Vector]:
    """A row of each group by its place, the first, and how many different values the group has.

    Args:
        groups: the number of each row's group, none negative.
        values: of each row.
        span: more than the number of any group.
    """
    count = groups.size
    is_dense = span // _SPREAD <= count
    bits = 4
    while (1 << bits) < 2 * count:
        bits += 1
    shift, mask = np.uint64(64 - bits), (1 << bits) - 1
    places = np.full(span if is_dense else 1 << bits, -1, np.int32)
    own, rows, ends = np.empty(count, np.int64), np.empty(count, np.int64), np.zeros(count + 1, np.int64)
    found = 0
    for row in range(count):
        group = groups[row]
        at = group
        if not is_dense:
            at = _slot(group, shift)
            while places[at] != -1 and groups[rows[places[at]]] != group:
                at = (at + 1) & mask
        if places[at] == -1:
            places[at] = found
            rows[found] = row
            found += 1
        own[row] = places[at]
        ends[places[at] + 1] += 1
    for place in range(found):
        ends[place + 1] += ends[place]
    # the values of each group side by side: what is looked at together lies together
    dealt, begins = np.empty(count, np.int64), ends[:found].copy()
    for row in range(count):
        dealt[begins[own[row]]] = values[row]
        begins[own[row]] += 1
    counts = np.empty(found, np.int64)
    for place in range(found):
        counts[place] = _different(dealt[ends[place] : ends[place + 1]])
    return rows[:found].copy(), counts
