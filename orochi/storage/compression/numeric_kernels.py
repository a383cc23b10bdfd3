"""Compiled loops between PostgreSQL's binary numeric and an integer with its number of decimals.

The binary form is four big-endian int16 (digit groups, weight of the first group, sign, display
scale) and the groups, in base 10,000, without zero groups at either end. Only that canonical form
is taken apart; `write` makes the same bytes again.
"""

# numba infers the scalars; to mypy they are numpy's, and decorated functions untyped.
# mypy: disallow-untyped-decorators=False
# mypy: disable-error-code="arg-type,assignment,no-any-return,return-value"

from __future__ import annotations

import numba
import numpy as np
from numba import types

from orochi.storage.compression.buffers import Vector

#: Most decimal digits, decimals included, that an integer is trusted with.
DIGITS = 18
#: What one value can take: the head and five groups on either side of the point.
MOST_BYTES = 28

_POWERS = np.array([10**power for power in range(DIGITS + 1)], np.int64)

_U8_IN = types.Array(types.uint8, 1, "C", readonly=True)
_I32_IN = types.Array(types.int32, 1, "C", readonly=True)
_I64_IN = types.Array(types.int64, 1, "C", readonly=True)
_U8 = types.Array(types.uint8, 1, "C")
_I32 = types.Array(types.int32, 1, "C")
_I64 = types.Array(types.int64, 1, "C")
_U32 = types.Array(types.uint32, 1, "C")


@numba.njit(types.int64(_U8_IN, types.int64), cache=True, nogil=True)
def _short(data: Vector, at: int) -> int:
    return (np.int64(data[at]) << 8) | np.int64(data[at + 1])


@numba.njit(types.int64(_U8_IN, types.int64, types.int64), cache=True, nogil=True)
def _whole(data: Vector, at: int, size: int) -> int:
    """The value times ten to its scale; -1 when it is negative, has no such form or is not canonical."""
    if size < 8 or size & 1:
        return -1
    count = (size - 8) >> 1
    scale = _short(data, at + 6)
    if _short(data, at) != count or scale > DIGITS:
        return -1
    weight = _short(data, at + 2)
    if weight >= 32_768:
        weight -= 65_536
    if count == 0:
        return 0 if weight == 0 else -1
    first, last = _short(data, at + 8), _short(data, at + size - 2)
    exponent = scale + 4 * (weight - count + 1)
    if first == 0 or last == 0 or exponent <= -4:
        return -1
    leading = 4 if first > 999 else 3 if first > 99 else 2 if first > 9 else 1
    if weight > 4 or 4 * weight + leading + scale > DIGITS:
        return -1
    total = np.int64(0)
    for index in range(count):
        group = _short(data, at + 8 + 2 * index)
        if group > 9_999:
            return -1
        if index == count - 1 and exponent < 0:
            power = _POWERS[-exponent]
            if group % power:
                return -1
            return total * (10_000 // power) + group // power
        total = total * 10_000 + group
    return total * _POWERS[exponent]


@numba.njit(types.int64(_I32_IN, _U8_IN, _I64, _I64, _U32), cache=True, nogil=True)
def split(offsets: Vector, data: Vector, scales: Vector, values: Vector, misses: Vector) -> int:
    """Scale and scaled integer of each value, and the positions of those that have none.

    A miss repeats the value before it, so that it costs nothing in the packed streams.
    """
    found = 0
    scale, value = np.int64(0), np.int64(0)
    for row in range(scales.size):
        at = np.int64(offsets[row])
        size = np.int64(offsets[row + 1]) - at
        whole = _whole(data, at, size)
        sign = _short(data, at + 4) if whole >= 0 else 0
        if whole < 0 or (sign != 0 and sign != 0x4000) or (sign == 0x4000 and whole == 0):
            misses[found] = row
            found += 1
        else:
            scale = _short(data, at + 6)
            value = -whole if sign else whole
        scales[row] = scale
        values[row] = value
    return found


@numba.njit(types.int64(_I64_IN, _I64_IN, _I32, _U8), cache=True, nogil=True)
def write(scales: Vector, values: Vector, offsets: Vector, data: Vector) -> int:
    """The inverse of `split`; how many bytes were written, -1 when a scale or a value cannot be.

    `data` has room for `MOST_BYTES` a value.
    """
    groups = np.empty(10, np.int64)
    end = 0
    offsets[0] = 0
    for row in range(values.size):
        scale, value = scales[row], values[row]
        if scale < 0 or scale > DIGITS:
            return -1
        negative = value < 0
        if negative:
            value = -value
        if value < 0 or value >= _POWERS[DIGITS]:
            return -1
        power = _POWERS[scale]
        whole = value // power
        part = value - whole * power
        first = 5
        while whole:
            first -= 1
            rest = whole // 10_000
            groups[first] = whole - rest * 10_000
            whole = rest
        weight = 4 - first
        last = 5
        left = scale
        while part:
            if left >= 4:
                left -= 4
                group = part // _POWERS[left]
                part -= group * _POWERS[left]
            else:
                group = part * _POWERS[4 - left]
                part = 0
            if last == first and group == 0:
                first += 1
                weight -= 1
            groups[last] = group
            last += 1
        while last > first and groups[last - 1] == 0:
            last -= 1
        count = last - first
        if count == 0:
            weight = 0
        weight &= 0xFFFF
        data[end] = 0
        data[end + 1] = count
        data[end + 2] = weight >> 8
        data[end + 3] = weight & 255
        data[end + 4] = 0x40 if negative else 0
        data[end + 5] = 0
        data[end + 6] = 0
        data[end + 7] = scale
        end += 8
        for index in range(first, last):
            data[end] = groups[index] >> 8
            data[end + 1] = groups[index] & 255
            end += 2
        offsets[row + 1] = end
    return end


@numba.njit(types.boolean(_I64_IN, types.int64, _I64), cache=True, nogil=True)
def rescale(scales: Vector, scale: int, values: Vector) -> bool:
    """Brings each value from its own scale to a common one, in place; False if one does not fit."""
    for row in range(values.size):
        more = scale - scales[row]
        if more < 0 or more > DIGITS:
            return False
        power = _POWERS[more]
        if values[row] > _POWERS[DIGITS] // power or values[row] < -(_POWERS[DIGITS] // power):
            return False
        values[row] *= power
    return True
