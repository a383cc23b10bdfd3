"""Compiled loop that reads numeric's binary form into scaled integers."""

# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

import numba
import numpy as np
from numba import types

from orochi.engine.kernels.copyrows import Vector

_U8_IN = types.Array(types.uint8, 1, "C", readonly=True)
_I32 = types.Array(types.int32, 1, "C")
_I64 = types.Array(types.int64, 1, "C")

#: Larger magnitudes are refused, so that a step of ten thousand cannot overflow.
_LIMIT = 900_000_000_000_000


@numba.njit(types.boolean(_I32, _U8_IN, _U8_IN, types.int64, _I64), cache=True, nogil=True)
def scaled(source: Vector, data: Vector, valid: Vector, scale: int, out: Vector) -> bool:
    """Each value times ten to the `scale`; False if one is NaN, infinite, too large or has more digits."""
    for row in range(valid.size):
        out[row] = 0
        if valid[row] == 0:
            continue
        at = np.int64(source[row])
        count = (np.int64(data[at]) << 8) | np.int64(data[at + 1])
        weight = (np.int64(data[at + 2]) << 8) | np.int64(data[at + 3])
        if weight >= 32_768:
            weight -= 65_536
        sign = (np.int64(data[at + 4]) << 8) | np.int64(data[at + 5])
        if sign >= 0xC000:
            return False
        value = np.int64(0)
        # digits that carry weight -1 and less are decimals, four at a time
        for index in range(count):
            digit = (np.int64(data[at + 8 + 2 * index]) << 8) | np.int64(data[at + 9 + 2 * index])
            decimals = 4 * (index - weight)
            shift = scale - decimals
            if value > _LIMIT:
                return False
            if shift >= 0:
                value = value * 10_000 + digit
            elif shift > -4:
                power = 10 ** (-shift)
                if digit % power:
                    return False
                value = value * (10_000 // power) + digit // power
            elif digit:
                return False
        rest = scale - 4 * (count - 1 - weight)
        while rest > 0 and count > 0:
            if value > _LIMIT * 100:
                return False
            value *= 10
            rest -= 1
        out[row] = -value if sign == 0x4000 else value
    return True
