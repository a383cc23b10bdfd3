"""Compiled loops over the bits of doubles: Gorilla, byte-aligned XOR, ALP.

As in `int_kernels`, signatures are explicit and arithmetic on bits is unsigned throughout.
"""

# numba infers the scalars; to mypy they are numpy's, and decorated functions untyped.
# mypy: disallow-untyped-decorators=False
# mypy: disable-error-code="arg-type,assignment,no-any-return,return-value"

from __future__ import annotations

import numba
import numpy as np
from numba import types

from orochi.storage.compression.buffers import Vector

_U8_IN = types.Array(types.uint8, 1, "C", readonly=True)
_I64_IN = types.Array(types.int64, 1, "C", readonly=True)
_U64_IN = types.Array(types.uint64, 1, "C", readonly=True)
_F64_IN = types.Array(types.float64, 1, "C", readonly=True)
_U8 = types.Array(types.uint8, 1, "C")
_I64 = types.Array(types.int64, 1, "C")
_U32 = types.Array(types.uint32, 1, "C")
_U64 = types.Array(types.uint64, 1, "C")
_F64 = types.Array(types.float64, 1, "C")


@numba.njit(types.int64(_U64, types.int64, types.uint64, types.int64), cache=True, nogil=True)
def _put(words: Vector, position: int, value: int, count: int) -> int:
    """Appends the low `count` (0 to 64) bits of `value`; the new bit position."""
    if count == 0:
        return position
    word = position >> 6
    shift = np.uint64(position & 63)
    words[word] |= value << shift
    if (position & 63) + count > 64:
        words[word + 1] |= value >> (np.uint64(64) - shift)
    return position + count


@numba.njit(types.uint64(_U64_IN, types.int64, types.int64), cache=True, nogil=True)
def _get(words: Vector, position: int, count: int) -> int:
    """The `count` (0 to 64) bits at `position`."""
    if count == 0:
        return np.uint64(0)
    word = position >> 6
    shift = np.uint64(position & 63)
    value = words[word] >> shift
    if (position & 63) + count > 64:
        value |= words[word + 1] << (np.uint64(64) - shift)
    return value & (np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - count))


@numba.njit(types.int64(types.uint64), cache=True, nogil=True)
def _bit_length(value: int) -> int:
    length = 0
    for step in (32, 16, 8, 4, 2, 1):
        if value >> np.uint64(step):
            value >>= np.uint64(step)
            length += step
    return length + np.int64(value)


@numba.njit(types.int64(_U64_IN, _U64), cache=True, nogil=True)
def gorilla_encode(values: Vector, words: Vector) -> int:
    """Writes the bit stream into zeroed `words` (2 a value suffice); its length in bits."""
    position = _put(words, 0, values[0], 64)
    low, high = -1, -1  # the window of meaningful bits of the last XOR that set one
    for i in range(1, values.size):
        difference = values[i] ^ values[i - 1]
        if difference == 0:
            position = _put(words, position, np.uint64(0), 1)
            continue
        top = _bit_length(difference)
        bottom = _bit_length(difference & (np.uint64(0) - difference)) - 1
        if low >= 0 and bottom >= low and top <= high:
            position = _put(words, position, np.uint64(1), 2)
        else:
            leading = min(64 - top, 31)
            low, high = bottom, 64 - leading
            position = _put(words, position, np.uint64(3), 2)
            position = _put(words, position, np.uint64(leading), 5)
            position = _put(words, position, np.uint64(high - low - 1), 6)
        position = _put(words, position, difference >> np.uint64(low), high - low)
    return position


@numba.njit(types.int64(_U64_IN, _U64), cache=True, nogil=True)
def gorilla_decode(words: Vector, out: Vector) -> int:
    """The inverse of `gorilla_encode`; bits read, or -1 when the stream is too short."""
    limit = words.size * 64
    if limit < 64:
        return -1
    value = words[0]
    out[0] = value
    position = 64
    low, length = 0, 0
    for i in range(1, out.size):
        if position + 1 > limit:
            return -1
        if _get(words, position, 1) == 0:
            position += 1
            out[i] = value
            continue
        if position + 2 > limit:
            return -1
        fresh = _get(words, position + 1, 1)
        position += 2
        if fresh:
            if position + 11 > limit:
                return -1
            leading = np.int64(_get(words, position, 5))
            length = np.int64(_get(words, position + 5, 6)) + 1
            low = 64 - leading - length
            position += 11
        if position + length > limit or low < 0:
            return -1
        value ^= _get(words, position, length) << np.uint64(low)
        position += length
        out[i] = value
    return position


@numba.njit(types.int64(_U64_IN, _U8, _U8), cache=True, nogil=True)
def xor_encode(values: Vector, controls: Vector, octets: Vector) -> int:
    """Each XOR with the value before: a control byte (zero bytes below, byte count), the bytes."""
    previous = np.uint64(0)
    end = 0
    for i in range(values.size):
        difference = values[i] ^ previous
        previous = values[i]
        low = 0
        if difference:
            while (difference & np.uint64(255)) == 0:
                difference >>= np.uint64(8)
                low += 1
        size = 0
        while difference:
            octets[end + size] = np.uint8(difference & np.uint64(255))
            difference >>= np.uint64(8)
            size += 1
        controls[i] = np.uint8(low << 4 | size)
        end += size
    return end


@numba.njit(types.int64(_U8_IN, _U8_IN, _U64), cache=True, nogil=True)
def xor_decode(controls: Vector, octets: Vector, out: Vector) -> int:
    """The inverse of `xor_encode`; bytes read, or -1 when there are too few."""
    previous = np.uint64(0)
    position = 0
    for i in range(controls.size):
        size = np.int64(controls[i] & 15)
        low = np.int64(controls[i] >> 4)
        if position + size > octets.size or size + low > 8:
            return -1
        difference = np.uint64(0)
        for k in range(size):
            difference |= np.uint64(octets[position + k]) << np.uint64(8 * (low + k))
        position += size
        previous ^= difference
        out[i] = previous
    return position


@numba.njit(
    types.int64(_F64_IN, _U64_IN, types.float64, types.boolean, _I64, _U32),
    cache=True,
    nogil=True,
    error_model="numpy",
)
def alp_encode(values: Vector, bits: Vector, power: float, single: bool, out: Vector, misses: Vector) -> int:
    """Scaled integers, and the positions of values that do not come back bit for bit.

    `bits` are the values' own bits (of float32, widened, when `single`). A miss repeats the
    integer before it, so that it costs nothing in the packed stream.
    """
    found = 0
    last = np.int64(0)
    box64 = np.empty(1, np.float64)
    box32 = np.empty(1, np.float32)
    bits64 = box64.view(np.uint64)
    bits32 = box32.view(np.uint32)
    for i in range(values.size):
        scaled = values[i] * power
        fits = scaled > -9.0e15 and scaled < 9.0e15
        if fits:
            whole = np.int64(np.rint(scaled))
            if single:
                box32[0] = np.float32(np.float64(whole) / power)
                fits = np.uint64(bits32[0]) == bits[i]
            else:
                box64[0] = np.float64(whole) / power
                fits = bits64[0] == bits[i]
        if fits:
            last = whole
        else:
            misses[found] = i
            found += 1
        out[i] = last
    return found


@numba.njit(types.void(_I64_IN, types.float64, _F64), cache=True, nogil=True, error_model="numpy")
def alp_decode(whole: Vector, power: float, out: Vector) -> None:
    """The quotients, correctly rounded: what `alp_encode` compared with."""
    for i in range(whole.size):
        out[i] = np.float64(whole[i]) / power
