"""Compiled loop that prints doubles which are decimals of few digits, as PostgreSQL's float8out does.

A decimal of at most 15 digits that reads back as the double is the only one of that many digits which
does, so without its trailing zeros it is the shortest. Whether one of up to six decimals does, one
division tells. All other doubles are left to slower printing.
"""

# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disable-error-code="return-value, arg-type, assignment"

from __future__ import annotations

import numba
import numpy as np
from numba import types

from orochi.engine.kernels.copyrows import Vector

#: Bytes that a value takes at most.
DOUBLE_SIZE = 18

_U8 = types.Array(types.uint8, 1, "C")
_U8_IN = types.Array(types.uint8, 1, "C", readonly=True)
_I32 = types.Array(types.int32, 1, "C")
_F64_IN = types.Array(types.float64, 1, "C", readonly=True)


@numba.njit(types.int64(_U8, types.int64, types.int64, types.int64), cache=True, nogil=True)
def _print(out: Vector, at: int, scaled: int, decimals: int) -> int:
    """A non-negative number of so many decimals, without trailing zeros."""
    while decimals > 0 and scaled % 10 == 0:
        scaled //= 10
        decimals -= 1
    count, rest = 1, scaled // 10
    while rest:
        count += 1
        rest //= 10
    if count <= decimals:
        count = decimals + 1
    end = at + count + (1 if decimals > 0 else 0)
    to = end - 1
    for place in range(count):
        if decimals > 0 and place == decimals:
            out[to] = 46
            to -= 1
        out[to] = 48 + scaled % 10
        scaled //= 10
        to -= 1
    return end


@numba.njit(types.int64(_F64_IN, _U8_IN, _I32, _U8, _U8), cache=True, nogil=True)
def doubles(values: Vector, valid: Vector, offsets: Vector, out: Vector, odd: Vector) -> int:
    """Print what it can, nothing for others, which are marked `odd`; how many those are."""
    at, left = 0, 0
    offsets[0] = 0
    for row in range(values.size):
        odd[row] = 0
        if valid[row] != 0:
            value = values[row]
            size = abs(value)
            decimals = -1
            scaled = 0.0
            if size < 1e15 and np.rint(size) == size:
                decimals, scaled = 0, size
            elif 1e-4 <= size < 1e9:
                scaled = np.rint(size * 100.0)
                if scaled / 100.0 == size:
                    decimals = 2
                else:
                    scaled = np.rint(size * 1e6)
                    if scaled / 1e6 == size:
                        decimals = 6
            if decimals < 0:
                odd[row] = 1
                left += 1
            else:
                if value < 0.0 or (value == 0.0 and np.signbit(value)):
                    out[at] = 45
                    at += 1
                at = _print(out, at, np.int64(scaled), decimals)
        offsets[row + 1] = at
    return left
