"""Compiled loops of filters: which integers lie in a range, and days moved to another epoch."""

# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

import numba
from numba import types

from orochi.storage.compression.buffers import Vector

_I32_IN = types.Array(types.int32, 1, "C", readonly=True)
_I64_IN = types.Array(types.int64, 1, "C", readonly=True)
_I32 = types.Array(types.int32, 1, "C")
_I64 = types.Array(types.int64, 1, "C")
_FLAGS = types.Array(types.boolean, 1, "C")


@numba.njit(
    [
        types.void(_I32_IN, types.int32, types.int32, _FLAGS),
        types.void(_I64_IN, types.int64, types.int64, _FLAGS),
    ],
    cache=True,
    nogil=True,
)
def within(values: Vector, low: int, high: int, out: Vector) -> None:
    """Whether each value is at least `low` and at most `high`."""
    for row in range(values.size):
        out[row] = (values[row] >= low) & (values[row] <= high)


@numba.njit(
    [
        types.boolean(_I32_IN, types.int32, types.int32, types.int32, _I32),
        types.boolean(_I64_IN, types.int64, types.int64, types.int64, _I64),
    ],
    cache=True,
    nogil=True,
)
def shift(values: Vector, by: int, low: int, high: int, out: Vector) -> bool:
    """Each value plus `by`; whether all values were at least `low` and at most `high`."""
    fine = True
    for row in range(values.size):
        fine &= (values[row] >= low) & (values[row] <= high)
        out[row] = values[row] + by
    return fine
