"""Compiled loops over int64 vectors: bit packing, residuals, running sums.

Packed layout: blocks of 1,024 values in 16 interleaved lanes (value `i` of a block lies in lane
`i % 16`), each lane 64 values of `width` bits in `width` words, so that one shift serves 16
values and the loop vectorises; see Afroozeh and Boncz, "The FastLanes Compression Layout",
VLDB 2023. The last, partial block is packed sequentially.

All arithmetic wraps modulo 2**64. Signatures are explicit: importing this module compiles the
loops or loads them from numba's cache, and no call can compile another variant by accident.
"""

# numba infers the scalars; to mypy they are numpy's, and decorated functions untyped.
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disable-error-code="arg-type,assignment,no-any-return,return-value"

from __future__ import annotations

import numba
import numpy as np
from numba import types

from orochi.storage.compression.buffers import Vector

BLOCK = 1024
LANES = 16

_I64_IN = types.Array(types.int64, 1, "C", readonly=True)
_U64_IN = types.Array(types.uint64, 1, "C", readonly=True)
_U32_IN = types.Array(types.uint32, 1, "C", readonly=True)
_I32 = types.Array(types.int32, 1, "C")
_I64 = types.Array(types.int64, 1, "C")
_U64 = types.Array(types.uint64, 1, "C")
_U32 = types.Array(types.uint32, 1, "C")


@numba.njit(types.uint64(_I64_IN), cache=True, nogil=True, error_model="numpy")
def difference_gcd(values: Vector) -> int:
    """The greatest common divisor of all differences, 0 when all values are equal."""
    divisor = np.uint64(0)
    first = np.uint64(values[0])
    sign = np.uint64(1) << np.uint64(63)
    for i in range(1, values.size):
        other = np.uint64(values[i]) - first
        if other & sign:
            other = np.uint64(0) - other
        while other != np.uint64(0):
            divisor, other = other, divisor % other
        if divisor == np.uint64(1):
            break
    return divisor


@numba.njit(
    types.void(_I64_IN, types.int64, types.int64, types.boolean, _U64),
    cache=True,
    nogil=True,
    error_model="numpy",
)
def residuals(values: Vector, base: int, scale: int, zigzag: bool, out: Vector) -> None:
    """`(value - base) / scale`, folded to unsigned by zigzag or by reinterpretation."""
    if scale == 1:
        for i in range(values.size):
            out[i] = np.uint64(values[i] - base)
    else:
        for i in range(values.size):
            out[i] = np.uint64((values[i] - base) // scale)
    if zigzag:
        for i in range(values.size):
            signed = np.int64(out[i])
            out[i] = np.uint64((signed << 1) ^ (signed >> 63))


@numba.njit(
    types.UniTuple(types.int64, 2)(
        _I64_IN, types.int64, types.int64, types.boolean, types.int64, types.int64
    ),
    cache=True,
    nogil=True,
    error_model="numpy",
)
def best_width(
    values: Vector, base: int, scale: int, zigzag: bool, count: int, exception_bytes: int
) -> tuple[int, int]:
    """The width that packs `count` values like these in the fewest bytes, and how many those are.

    What residuals are made of is as in `residuals`; wider ones are exceptions.
    """
    histogram = np.zeros(65, np.int64)
    for i in range(values.size):
        difference = values[i] - base
        if scale != 1:
            difference //= scale
        if zigzag:
            difference = (difference << 1) ^ (difference >> 63)
        folded = np.uint64(difference)
        length = 0
        for step in (32, 16, 8, 4, 2, 1):
            if folded >> np.uint64(step):
                folded >>= np.uint64(step)
                length += step
        histogram[length + np.int64(folded)] += 1
    best, best_size = 64, np.int64(0x7FFFFFFFFFFFFFFF)
    wider = values.size
    for width in range(65):
        wider -= histogram[width]
        if histogram[width] == 0 and width > 0:
            continue
        words = count // BLOCK * LANES * width + (count % BLOCK * width + 63) // 64
        size = words * 8 + wider * exception_bytes * count // values.size
        if size < best_size:
            best, best_size = width, size
    return best, best_size


@numba.njit(
    types.Tuple((types.int64, types.int64, types.boolean, types.int64, types.int64))(
        _I64_IN, types.int64, types.int64, types.int64
    ),
    cache=True,
    nogil=True,
    error_model="numpy",
)
def cheapest(
    values: Vector, most_judged: int, most_ranked: int, exception_bytes: int
) -> tuple[int, int, bool, int, int]:
    """The base, scale, folding, width and size that pack `values` (one at least) best.

    About `most_judged` of the values tell the width, and about `most_ranked` of those the quantiles.
    """
    count = values.size
    divisor = difference_gcd(values)
    if divisor == np.uint64(0):
        return values[0], 1, False, 0, 0
    low, high = values[0], values[0]
    for i in range(count):
        low, high = min(low, values[i]), max(high, values[i])
    # residuals that wrap are no multiples
    scale = np.int64(1)
    if np.uint64(high) - np.uint64(low) < np.uint64(1) << np.uint64(63):
        scale = np.int64(divisor)
    judged = values[:: max(1, count // most_judged) | 1].copy()
    ranked = np.sort(judged[:: max(1, judged.size // most_ranked) | 1])
    quantile, median = ranked[ranked.size // 50], ranked[ranked.size // 2]
    width, size = best_width(judged, low, scale, False, count, exception_bytes)
    best = (low, scale, False, width, size)
    width, size = best_width(judged, median, scale, True, count, exception_bytes)
    if size < best[4]:
        best = (median, scale, True, width, size)
    if quantile != low:
        width, size = best_width(judged, quantile, scale, False, count, exception_bytes)
        if size < best[4]:
            best = (quantile, scale, False, width, size)
    return best


@numba.njit(types.int64(_U64, types.int64, _U32, _U64), cache=True, nogil=True)
def extract_exceptions(values: Vector, width: int, positions: Vector, exceptions: Vector) -> int:
    """Moves values wider than `width` bits out, leaving 0; how many there were."""
    found = 0
    for i in range(values.size):
        if values[i] >> np.uint64(width):
            positions[found] = i
            exceptions[found] = values[i]
            values[i] = 0
            found += 1
    return found


@numba.njit(types.void(_U64_IN, types.int64, _U64), cache=True, nogil=True)
def pack(values: Vector, width: int, words: Vector) -> None:
    """Packs values of at most `width` (1 to 64) bits into zeroed `words`."""
    blocks = values.size // BLOCK
    bits = np.uint64(width)
    for block in range(blocks):
        first = block * LANES * width
        for row in range(64):
            bit = row * width
            word = first + (bit >> 6) * LANES
            source = block * BLOCK + row * LANES
            shift = np.uint64(bit & 63)
            for lane in range(LANES):
                words[word + lane] |= values[source + lane] << shift
            if shift + bits > np.uint64(64):
                rest = np.uint64(64) - shift
                for lane in range(LANES):
                    words[word + LANES + lane] |= values[source + lane] >> rest
    tail = blocks * LANES * width
    for i in range(blocks * BLOCK, values.size):
        bit = (i - blocks * BLOCK) * width
        word = tail + (bit >> 6)
        shift = np.uint64(bit & 63)
        words[word] |= values[i] << shift
        if shift + bits > np.uint64(64):
            words[word + 1] |= values[i] >> (np.uint64(64) - shift)


@numba.njit(types.void(_U64_IN, types.int64, _I64), cache=True, nogil=True)
def unpack(words: Vector, width: int, out: Vector) -> None:
    """The inverse of `pack`, for a width of 1 to 64."""
    blocks = out.size // BLOCK
    bits = np.uint64(width)
    mask = np.uint64(0xFFFFFFFFFFFFFFFF) >> (np.uint64(64) - bits)
    for block in range(blocks):
        first = block * LANES * width
        for row in range(64):
            bit = row * width
            word = first + (bit >> 6) * LANES
            target = block * BLOCK + row * LANES
            shift = np.uint64(bit & 63)
            if shift + bits > np.uint64(64):
                rest = np.uint64(64) - shift
                for lane in range(LANES):
                    low = words[word + lane] >> shift
                    high = words[word + LANES + lane] << rest
                    out[target + lane] = np.int64((low | high) & mask)
            else:
                for lane in range(LANES):
                    out[target + lane] = np.int64((words[word + lane] >> shift) & mask)
    tail = blocks * LANES * width
    for i in range(blocks * BLOCK, out.size):
        bit = (i - blocks * BLOCK) * width
        word = tail + (bit >> 6)
        shift = np.uint64(bit & 63)
        value = words[word] >> shift
        if shift + bits > np.uint64(64):
            value |= words[word + 1] << (np.uint64(64) - shift)
        out[i] = np.int64(value & mask)


@numba.njit(types.void(_I64, _U32_IN, _U64_IN), cache=True, nogil=True)
def patch(out: Vector, positions: Vector, exceptions: Vector) -> None:
    """Puts exceptions back where `extract_exceptions` left zeros."""
    for i in range(positions.size):
        out[np.int64(positions[i])] = np.int64(exceptions[i])


@numba.njit(types.void(_I64, types.int64, types.int64, types.boolean), cache=True, nogil=True)
def restore(out: Vector, base: int, scale: int, zigzag: bool) -> None:
    """The inverse of `residuals`, in place."""
    if zigzag:
        for i in range(out.size):
            folded = np.uint64(out[i])
            sign = np.uint64(0) - (folded & np.uint64(1))
            out[i] = np.int64((folded >> np.uint64(1)) ^ sign) * scale + base
    elif scale == 1:
        for i in range(out.size):
            out[i] += base
    else:
        for i in range(out.size):
            out[i] = out[i] * scale + base


@numba.njit(types.void(_I64_IN, types.int64, _I64), cache=True, nogil=True)
def running_sum(differences: Vector, first: int, out: Vector) -> None:
    """`out[0] = first`, each next value the one before plus its difference."""
    total = first
    out[0] = total
    for i in range(differences.size):
        total += differences[i]
        out[i + 1] = total


@numba.njit(types.void(_I64_IN, types.int64, types.int64, _I64), cache=True, nogil=True)
def double_running_sum(differences: Vector, first: int, step: int, out: Vector) -> None:
    """Second-order `running_sum`: `step` is the first difference."""
    total = first
    out[0] = total
    total += step
    out[1] = total
    for i in range(differences.size):
        step += differences[i]
        total += step
        out[i + 2] = total


@numba.njit(types.UniTuple(types.int64, 4)(_I64_IN, _I64_IN), cache=True, nogil=True)
def code_facts(codes: Vector, lengths: Vector) -> tuple[int, int, int, int]:
    """Of codes, -1 is null: how many are null, the least and the greatest other one, the bytes of their values.

    `lengths` are those of the dictionary's values.
    """
    nulls, low, high, total = 0, lengths.size, -1, 0
    for i in range(codes.size):
        code = codes[i]
        if code < 0:
            nulls += 1
        else:
            low, high = min(low, code), max(high, code)
            total += lengths[code]
    return nulls, low, high, total


@numba.njit(types.int64(_I64_IN, _I64), cache=True, nogil=True)
def run_starts(values: Vector, starts: Vector) -> int:
    """Where runs of equal values begin, in `starts`, which has a place more than values; how many there are."""
    found = 0
    for i in range(values.size):
        starts[found] = i
        found += i == 0 or values[i] != values[i - 1]
    return found


@numba.njit(types.boolean(_I64_IN, types.int64, _I32), cache=True, nogil=True)
def narrow_codes(codes: Vector, distinct: int, out: Vector) -> bool:
    """Codes as int32; False if one does not lie between 0 and `distinct`."""
    seen = np.uint64(0)
    limit = np.uint64(distinct)
    for i in range(codes.size):
        seen |= np.uint64(np.uint64(codes[i]) >= limit)
        out[i] = np.int32(codes[i])
    return seen == np.uint64(0)
