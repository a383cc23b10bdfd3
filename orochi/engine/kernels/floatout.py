"""Compiled loops that print doubles as PostgreSQL's float8out does.

A decimal of at most 15 digits that reads back as the double is the only one of that many digits which
does, so without its trailing zeros it is the shortest. Whether one of up to six decimals does, one
division tells. The shortest digits of others of usual size are found as in R. Giulietti, "The Schubfach
way to render doubles" (2020). What is left is for slower printing.
"""

# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disable-error-code="return-value, arg-type, assignment"

from __future__ import annotations

import numba
import numpy as np
from numba import types

from orochi.engine.kernels.copyrows import Vector

#: Bytes that a value takes at most.
DOUBLE_SIZE = 24
#: Where digits are looked for here: of larger ones, decimals may lie half way between two doubles.
_LEAST, _LIMIT = 1e-4, 1e15
_MOST_DIGITS = 17

_U8 = types.Array(types.uint8, 1, "C")
_U8_IN = types.Array(types.uint8, 1, "C", readonly=True)
_I32 = types.Array(types.int32, 1, "C")
_I64_IN = types.Array(types.int64, 1, "C", readonly=True)
_U64_IN = types.Array(types.uint64, 1, "C", readonly=True)
_F64_IN = types.Array(types.float64, 1, "C", readonly=True)
_FRACTION_BITS, _HIDDEN = 52, 1 << 52
_HALF_WORD, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
_ONE, _TWO, _FOUR, _TEN = np.uint64(1), np.uint64(2), np.uint64(4), np.uint64(10)
_SIGN_SHIFT, _BELOW_SIGN = np.uint64(63), np.uint64((1 << 63) - 1)


def _powers() -> tuple[int, Vector, Vector, Vector, Vector]:
    """For the exponents q of doubles `c * 2**q` of usual size, from the least on.

    The least, and by exponent: `k`, the greatest with `10**k <= 2**q`; the shift `h` that the paper
    derives; and `10**-k` as a number of 126 bits, rounded up, its upper and its lower 63.
    """
    first, last = (int(np.frexp(size)[1]) - _FRACTION_BITS - 1 for size in (_LEAST, _LIMIT))
    decimals, shifts, upper, lower = [], [], [], []
    for exponent in range(first, last + 1):
        k = next(k for k in range(0, -400, -1) if 10**-k >= 2**-exponent)
        power = 10**-k
        size = power.bit_length() - 1
        scaled = (power << 125 - size if size <= 125 else power >> size - 125) + 1
        decimals.append(-k)
        shifts.append(exponent + size + 2)
        upper.append(scaled >> 63)
        lower.append(scaled & ((1 << 63) - 1))
    return (
        first,
        np.array(decimals, np.int64),
        np.array(shifts, np.uint64),
        np.array(upper, np.uint64),
        np.array(lower, np.uint64),
    )


_FIRST, _DECIMALS, _SHIFTS, _UPPER, _LOWER = _powers()


@numba.njit(types.uint64(types.uint64, types.uint64), cache=True, nogil=True)
def _upper_product(one: int, other: int) -> int:
    """The upper 64 bits of a product."""
    low, high = one & _LOW, one >> _HALF_WORD
    other_low, other_high = other & _LOW, other >> _HALF_WORD
    middle = high * other_low + ((low * other_low) >> _HALF_WORD)
    carried = low * other_high + (middle & _LOW)
    return high * other_high + (middle >> _HALF_WORD) + (carried >> _HALF_WORD)


@numba.njit(types.uint64(types.uint64, types.uint64, types.uint64), cache=True, nogil=True)
def _scaled(upper: int, lower: int, value: int) -> int:
    """`value` times the power, to odd: its last bit says that there was a rest."""
    rest = ((upper * value) >> _ONE) + _upper_product(lower, value)
    whole = _upper_product(upper, value) + (rest >> _SIGN_SHIFT)
    return whole | (((rest & _BELOW_SIGN) + _BELOW_SIGN) >> _SIGN_SHIFT)


@numba.njit(types.uint64(types.uint64, types.uint64, types.uint64, types.uint64), cache=True, nogil=True)
def _shortest(fraction: int, shift: int, upper: int, lower: int) -> int:
    """The shortest number that, over the power of ten, is nearer to this double than to any other."""
    four = fraction * _FOUR
    value = _scaled(upper, lower, four << shift)
    low = _scaled(upper, lower, (four - _TWO) << shift) + _ONE
    high = _scaled(upper, lower, (four + _TWO) << shift)
    below = value >> _TWO
    tens = below // _TEN * _TEN
    low_is_in, high_is_in = low <= tens * _FOUR, (tens + _TEN) * _FOUR + _ONE <= high
    if low_is_in != high_is_in:
        return tens if low_is_in else tens + _TEN
    low_is_in, high_is_in = low <= below * _FOUR, (below + _ONE) * _FOUR + _ONE <= high
    if low_is_in != high_is_in:
        return below if low_is_in else below + _ONE
    middle = below * _TWO + _ONE
    twice = value >> _ONE
    if twice < middle or (value == middle * _TWO and below & _ONE == 0):
        return below
    return below + _ONE


@numba.njit(types.int64(_U8, types.int64, types.int64, types.int64), cache=True, nogil=True)
def _print(out: Vector, at: int, scaled: int, decimals: int) -> int:
    """A non-negative number of so many decimals, without trailing zeros."""
    while decimals > 0 and scaled % 10 == 0:
        scaled //= 10
        decimals -= 1
    count, limit = 1, 10
    while count < _MOST_DIGITS and scaled >= limit:
        count += 1
        limit *= 10
    if count <= decimals:
        count = decimals + 1
    before = count - decimals
    # all digits where those after the point belong, two at a time, then those before it a place to the left
    shift = 1 if decimals > 0 else 0
    to = at + count + shift - 1
    while scaled >= 10:
        rest = scaled // 100
        pair = scaled - rest * 100
        out[to], out[to - 1] = 48 + pair % 10, 48 + pair // 10
        to, scaled = to - 2, rest
    if scaled > 0:
        out[to] = 48 + scaled
        to -= 1
    while to >= at + shift:
        out[to] = 48
        to -= 1
    if shift:
        for place in range(at, at + before):
            out[place] = out[place + 1]
        out[at + before] = 46
    return at + count + shift


@numba.njit(
    types.int64(_F64_IN, _I64_IN, _U8_IN, _I64_IN, _U64_IN, _U64_IN, _U64_IN, _I32, _U8, _U8),
    cache=True,
    nogil=True,
)
def _doubles(
    values: Vector,
    bits: Vector,
    valid: Vector,
    decimals_of: Vector,
    shifts: Vector,
    upper: Vector,
    lower: Vector,
    offsets: Vector,
    out: Vector,
    odd: Vector,
) -> int:
    at, left = 0, 0
    offsets[0] = 0
    for row in range(values.size):
        odd[row] = 0
        if valid[row] != 0:
            value = values[row]
            size = abs(value)
            decimals, digits = -1, np.int64(0)
            if size < _LIMIT and np.rint(size) == size:
                decimals, digits = 0, np.int64(size)
            elif _LEAST <= size < _LIMIT:
                if size < 1e9:
                    scaled = np.rint(size * 100.0)
                    if scaled / 100.0 == size:
                        decimals, digits = 2, np.int64(scaled)
                    else:
                        scaled = np.rint(size * 1e6)
                        if scaled / 1e6 == size:
                            decimals, digits = 6, np.int64(scaled)
                fraction = bits[row] & (_HIDDEN - 1)
                if decimals < 0 and fraction != 0:  # below powers of two the next double is nearer
                    at_power = ((bits[row] >> _FRACTION_BITS) & 0x7FF) - 1075 - _FIRST
                    decimals = decimals_of[at_power]
                    digits = np.int64(
                        _shortest(
                            np.uint64(fraction | _HIDDEN), shifts[at_power], upper[at_power], lower[at_power]
                        )
                    )
            if decimals < 0:
                odd[row] = 1
                left += 1
            else:
                if value < 0.0 or (value == 0.0 and np.signbit(value)):
                    out[at] = 45
                    at += 1
                at = _print(out, at, digits, decimals)
        offsets[row + 1] = at
    return left


def doubles(values: Vector, valid: Vector, offsets: Vector, out: Vector, odd: Vector) -> int:
    """Print what it can, nothing for others, which are marked `odd`; how many those are."""
    return int(
        _doubles(values, values.view(np.int64), valid, _DECIMALS, _SHIFTS, _UPPER, _LOWER, offsets, out, odd)
    )
