"""Compiled loops that decode many column chunks in one call: nothing of Python between them.

They read the streams of `integers`, `rle`, `alp`, `numeric` and `shared_dictionary` from one vector of
64-bit words. `starts` and `ends` are each chunk's words, `counts` its values; each loop answers the
number of the first chunk that makes no sense (or that it cannot decode), -1 if there is none. No read
goes past a chunk's end, whatever its bytes say.
"""

# numba infers the scalars; to mypy they are numpy's, and decorated functions untyped.
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disable-error-code="arg-type,assignment,call-overload,index,no-any-return,operator,return-value"

from __future__ import annotations

import numba
import numpy as np
from numba import types

from orochi.storage.compression import float_kernels, int_kernels, numeric_kernels
from orochi.storage.compression.buffers import Vector

_I64_IN = types.Array(types.int64, 1, "C", readonly=True)
_U64_IN = types.Array(types.uint64, 1, "C", readonly=True)
_I32 = types.Array(types.int32, 1, "C")
_I64 = types.Array(types.int64, 1, "C")
_F64 = types.Array(types.float64, 1, "C")
_TENS = np.array([10.0**power for power in range(23)], np.float64)

_RLE = 1


@numba.njit(types.void(_I64, types.int64, types.int64, types.boolean), cache=True, nogil=True)
def _restore(out: Vector, base: int, scale: int, zigzag: bool) -> None:
    if zigzag or scale != 1:
        int_kernels.restore(out, base, scale, zigzag)
    elif base != 0:
        for i in range(out.size):
            out[i] += base


@numba.njit(types.int64(_U64_IN, types.int64, types.int64, types.int64, _I64), cache=True, nogil=True)
def _stream(words: Vector, at: int, end: int, count: int, out: Vector) -> int:
    """An `integers` stream of `count` values into `out`; where it ends, -1 if it makes no sense."""
    if at + 5 > end or count < 1:
        return -1
    head = words[at]
    order = np.int64(head & np.uint64(255))
    width = np.int64((head >> np.uint64(8)) & np.uint64(255))
    zigzag = (head >> np.uint64(16)) & np.uint64(255)
    exceptions = np.int64(head >> np.uint64(32))
    first, step = np.int64(words[at + 1]), np.int64(words[at + 2])
    base, scale = np.int64(words[at + 3]), np.int64(words[at + 4])
    at += 5
    packed = count - order
    if order > 2 or packed < 0 or width > 64:
        return -1
    blocks = packed // int_kernels.BLOCK
    tail = packed - blocks * int_kernels.BLOCK
    patches = at + blocks * int_kernels.LANES * width + (tail * width + 63) // 64
    positions = patches + exceptions
    stop = positions + (exceptions + 1) // 2
    if stop > end:
        return -1
    packed_out = out[order:count]
    if width == 0:
        packed_out[:] = 0
    else:
        int_kernels.unpack(words[at:patches], width, packed_out)
    for i in range(exceptions):
        half = words[positions + (i >> 1)]
        position = np.int64((half >> np.uint64(32)) if i & 1 else (half & np.uint64(0xFFFFFFFF)))
        if position >= packed:
            return -1
        packed_out[position] = np.int64(words[patches + i])
    _restore(packed_out, base, scale, zigzag != 0)
    if order == 1:
        total = first
        out[0] = total
        for i in range(1, count):
            total += out[i]
            out[i] = total
    elif order == 2:
        total = first
        out[0] = total
        total += step
        out[1] = total
        for i in range(2, count):
            step += out[i]
            total += step
            out[i] = total
    return stop


@numba.njit(
    types.int64(_U64_IN, types.int64, types.int64, types.int64, _I64, _I64, _I64), cache=True, nogil=True
)
def _runs(words: Vector, at: int, end: int, count: int, heads: Vector, lengths: Vector, out: Vector) -> int:
    """An `rle` stream of packed integers into `out`; 0, or -1 if it makes no sense."""
    if at + 2 > end:
        return -1
    runs = np.int64(words[at] & np.uint64(0xFFFFFFFF))
    packed = (words[at] >> np.uint64(32)) & np.uint64(255)
    size = np.int64(words[at + 1])
    if packed != 1 or runs < 1 or runs > count or size < 0 or size > (end - at) * 8:
        return -1
    middle = at + 2 + (size + 7) // 8
    if middle > end or _stream(words, at + 2, middle, runs, heads) < 0:
        return -1
    if _stream(words, middle, end, runs, lengths) < 0:
        return -1
    row = 0
    for run in range(runs):
        length = lengths[run]
        if length < 0 or length > count - row:
            return -1
        for i in range(row, row + length):
            out[i] = heads[run]
        row += length
    return 0 if row == count else -1


@numba.njit(types.int64(_I64_IN), cache=True, nogil=True)
def longest(counts: Vector) -> int:
    """The rows of the longest chunk; 1 at least."""
    most = 1
    for i in range(counts.size):
        if counts[i] > most:
            most = counts[i]
    return most


@numba.njit(types.int64(_U64_IN, _I64_IN, _I64_IN, _I64_IN, _I64_IN, _I64), cache=True, nogil=True)
def integers(words: Vector, starts: Vector, ends: Vector, counts: Vector, kinds: Vector, out: Vector) -> int:
    """Chunks of integers, packed (kind 0) or as runs (1)."""
    most = longest(counts)
    heads, lengths = np.empty(most, np.int64), np.empty(most, np.int64)
    row = 0
    for chunk in range(counts.size):
        values = out[row : row + counts[chunk]]
        if kinds[chunk] == _RLE:
            done = _runs(words, starts[chunk], ends[chunk], values.size, heads, lengths, values)
        else:
            done = _stream(words, starts[chunk], ends[chunk], values.size, values)
        if done < 0:
            return chunk
        row += values.size
    return -1


@numba.njit(types.int64(_U64_IN, _I64_IN, _I64_IN, _I64_IN, _I64_IN, _I32), cache=True, nogil=True)
def narrow_integers(
    words: Vector, starts: Vector, ends: Vector, counts: Vector, kinds: Vector, out: Vector
) -> int:
    """`integers` as int32."""
    wide = np.empty(longest(counts), np.int64)
    row = 0
    for chunk in range(counts.size):
        count = counts[chunk]
        one = chunk + 1
        values = wide[:count]
        if (
            integers(words, starts[chunk:one], ends[chunk:one], counts[chunk:one], kinds[chunk:one], values)
            >= 0
        ):
            return chunk
        part = out[row : row + count]
        for i in range(part.size):
            part[i] = np.int32(values[i])
        row += count
    return -1


@numba.njit(types.int64(_U64_IN, _I64_IN, _I64_IN, _I64_IN, types.int64, _I32), cache=True, nogil=True)
def codes(words: Vector, starts: Vector, ends: Vector, counts: Vector, distinct: int, out: Vector) -> int:
    """Chunks of `shared_dictionary` codes, each below `distinct`."""
    most = longest(counts)
    values, heads, lengths = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    row = 0
    for chunk in range(counts.size):
        count, at, end = counts[chunk], starts[chunk], ends[chunk]
        if at >= end:
            return chunk
        if words[at] & np.uint64(255):
            done = _runs(words, at + 1, end, count, heads, lengths, values)
        else:
            done = _stream(words, at + 1, end, count, values)
        if done < 0:
            return chunk
        if not int_kernels.narrow_codes(values[:count], distinct, out[row : row + count]):
            return chunk
        row += count
    return -1


@numba.njit(
    types.int64(_U64_IN, _I64_IN, _I64_IN, _I64_IN, _F64), cache=True, nogil=True, error_model="numpy"
)
def doubles(words: Vector, starts: Vector, ends: Vector, counts: Vector, out: Vector) -> int:
    """Chunks of `alp` doubles."""
    values = np.empty(longest(counts), np.int64)
    bits = out.view(np.uint64)
    row = 0
    for chunk in range(counts.size):
        count, at, end = counts[chunk], starts[chunk], ends[chunk]
        if at >= end:
            return chunk
        digits = np.int64(words[at] & np.uint64(255))
        missed = np.int64(words[at] >> np.uint64(32))
        exact = at + 1
        positions = exact + missed
        stream = positions + (missed + 1) // 2
        if digits > 15 or stream > end or _stream(words, stream, end, count, values) < 0:
            return chunk
        float_kernels.alp_decode(values[:count], _TENS[digits], out[row : row + count])
        for i in range(missed):
            half = words[positions + (i >> 1)]
            position = np.int64((half >> np.uint64(32)) if i & 1 else (half & np.uint64(0xFFFFFFFF)))
            if position >= count:
                return chunk
            bits[row + position] = words[exact + i]
        row += count
    return -1


@numba.njit(types.int64(_U64_IN, _I64_IN, _I64_IN, _I64_IN, types.int64, _I64), cache=True, nogil=True)
def decimals(words: Vector, starts: Vector, ends: Vector, counts: Vector, scale: int, out: Vector) -> int:
    """Chunks of `numeric` values as integers of one scale; a chunk that has others is answered as wrong."""
    most = longest(counts)
    scales, values = np.empty(most, np.int64), np.empty(most, np.int64)
    row = 0
    for chunk in range(counts.size):
        count, at, end = counts[chunk], starts[chunk], ends[chunk]
        if at >= end or words[at] & np.uint64(0xFFFFFFFF):
            return chunk
        middle = _stream(words, at + 1, end, count, scales)
        if middle < 0 or _stream(words, middle, end, count, values) < 0:
            return chunk
        part = out[row : row + count]
        same = True
        for i in range(count):
            same &= scales[i] == scale
            part[i] = values[i]
        if not same and not numeric_kernels.rescale(scales[:count], scale, part):
            return chunk
        row += count
    return -1
