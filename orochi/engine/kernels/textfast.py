"""Compiled loops for the usual data of COPY: no quote inside a field, no escape, few distinct strings.

They find fields without a branch a byte, and strings as codes into the words that came before. Whatever
is not so they decline, and `textin` reads it.
"""

# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disable-error-code="return-value, arg-type, assignment"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import extending, types

from orochi.engine.kernels.copyrows import Vector

_U8_IN = types.Array(types.uint8, 1, "C", readonly=True)
_U8 = types.Array(types.uint8, 1, "C")
_I16 = types.Array(types.int16, 1, "C")
_I32 = types.Array(types.int32, 1, "C")
_U8_ROWS = types.Array(types.uint8, 2, "C")
_I32_ROWS = types.Array(types.int32, 2, "C")
_U64_ROWS = types.Array(types.uint64, 2, "C")

#: Rows whose fields are found together.
_BLOCK = 1024
#: Odd numbers that spread bits upwards.
_MIX, _MIX_MORE = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F


def _equal(typing: Any, data: Any, at: Any, byte: Any) -> Any:
    """Which of 64 bytes are `byte`, a bit each; the caller sees to it that they are there."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        kind = ir.VectorType(ir.IntType(8), 64)
        place = builder.gep(array.data, [arguments[1]])
        many = builder.load(builder.bitcast(place, kind.as_pointer()))
        many.align = 1
        one = builder.insert_element(ir.Constant(kind, ir.Undefined), arguments[2], ir.IntType(32)(0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64)
        wanted = builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), lanes)
        return builder.bitcast(builder.icmp_unsigned("==", many, wanted), ir.IntType(64))

    return types.uint64(data, types.int64, types.uint8), generate


def _lowest(typing: Any, bits: Any) -> Any:
    """The place of the lowest bit that is set; there must be one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(types.uint64), generate


def _many(typing: Any, bits: Any) -> Any:
    """How many bits are set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


_equal_at: Callable[[Vector, int, int], int] = extending.intrinsic(_equal)
_lowest_bit: Callable[[int], int] = extending.intrinsic(_lowest)
_bit_count: Callable[[int], int] = extending.intrinsic(_many)


@numba.njit(types.UniTuple(types.int64, 3)(_U8_IN, types.int64, types.int64, _I32), cache=True, nogil=True)
def marks(data: Vector, delimiter: int, special: int, out: Vector) -> tuple[int, int, int]:
    """Where delimiters and newlines are, in `out`; how many both are, how many newlines, how many bytes `special`.

    `out` has as many places as the data has bytes.
    """
    between, mark, newline = np.uint8(delimiter), np.uint8(special), np.uint8(10)
    found, lines, specials, at = 0, 0, 0, 0
    while at + 64 <= data.size:
        ends = _equal_at(data, at, newline)
        lines += _bit_count(ends)
        specials += _bit_count(_equal_at(data, at, mark))
        bits = ends | _equal_at(data, at, between)
        while bits != np.uint64(0):
            out[found] = at + _lowest_bit(bits)
            found += 1
            bits &= bits - np.uint64(1)
        at += 64
    while at < data.size:
        byte = data[at]
        if byte == between or byte == newline:  # noqa: SIM109 - as compiled code has it
            out[found] = at
            found += 1
            lines += byte == newline
        specials += byte == mark
        at += 1
    return found, lines, specials


@numba.njit(types.boolean(_U8_IN, _I32, types.int64), cache=True, nogil=True)
def is_regular(data: Vector, at: Vector, columns: int) -> bool:
    """Whether marks are rows of so many fields, if every row has one newline among them."""
    for last in range(columns - 1, at.size, columns):
        if data[at[last]] != 10:
            return False
    return at.size > 0 and at[at.size - 1] == data.size - 1


@numba.njit(
    types.int64(_U8_IN, _I32, types.int64, types.int64, _U8_IN, _I32_ROWS, _I32_ROWS, _U8_ROWS),
    cache=True,
    nogil=True,
)
def fields(
    data: Vector,
    at: Vector,
    quote: int,
    escapes: int,
    null: Vector,
    starts: Vector,
    ends: Vector,
    valid: Vector,
) -> int:
    """Fields between marks, as `textin.split_csv` and `textin.split_text` give them.

    Returns how many quotes, or backslashes, these are: those of whole quoted fields, or of NULLs. They must be
    all that the data has, or a field is not what lies between two marks. -1: it is not.

    Args:
        data: rows, each ended by a newline.
        at: its marks, which are regular.
        quote: CSV's quote, or -1 for text.
        escapes: backslashes in text's `null`.
        null: how NULL is written.
        starts: of each column a row of offsets.
        ends: the same.
        valid: 0 is NULL.
    """
    columns, used = starts.shape[0], 0
    rows = at.size // columns
    for begin in range(0, rows, _BLOCK):  # a column of some rows after another: they stay in the cache
        stop = min(begin + _BLOCK, rows)
        for column in range(columns):
            mark = begin * columns + column
            for row in range(begin, stop):
                first = np.int64(at[mark - 1]) + 1 if mark > 0 else 0
                end, kind = np.int64(at[mark]), 1
                mark += columns
                if quote >= 0 and end > first and data[first] == quote:
                    if end - first < 2 or data[end - 1] != quote:
                        return -1
                    first, end = first + 1, end - 1
                    used += 2
                elif end - first == null.size:
                    kind = 0
                    for offset in range(null.size):
                        if data[first + offset] != null[offset]:
                            kind = 1
                            break
                    if kind == 0:
                        used += escapes
                starts[column, row] = first
                ends[column, row] = end
                valid[column, row] = kind
    return used


@numba.njit(types.int64(_U8_IN, types.int64), cache=True, nogil=True)
def last_csv_row(data: Vector, quote: int) -> int:
    """Where the last row that is surely whole ends: after a newline with an even number of quotes before it."""
    mark, quotes = np.uint8(quote), 0
    for at in range(data.size):
        quotes += data[at] == mark
    inside = quotes % 2 == 1
    for at in range(data.size - 1, -1, -1):
        if data[at] == mark:
            inside = not inside
        elif data[at] == 10 and not inside:
            return at + 1
    return 0


def _load(typing: Any, data: Any, at: Any) -> Any:
    """Eight bytes as they lie in memory, wherever that is; the caller sees to it that they are there."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(array.data, [arguments[1]])
        word = builder.load(builder.bitcast(place, ir.IntType(64).as_pointer()))
        word.align = 1
        return word

    return types.uint64(data, types.int64), generate


_word_at: Callable[[Vector, int], int] = extending.intrinsic(_load)


@numba.njit(types.uint64(_U8_IN, types.int64, types.int64), cache=True, nogil=True)
def _word(data: Vector, at: int, size: int) -> int:
    """At most eight bytes as a number."""
    if at + 8 <= data.size:
        whole: int = _word_at(data, at)
        return whole if size >= 8 else whole & ((np.uint64(1) << np.uint64(8 * size)) - np.uint64(1))
    word = np.uint64(0)
    for offset in range(min(size, 8)):
        word |= np.uint64(data[at + offset]) << np.uint64(8 * offset)
    return word


@numba.njit(
    types.int64(_U8_IN, _I32, _I32, _U8, _I32, _U64_ROWS, types.int64, _I32, _U8, _I16),
    cache=True,
    nogil=True,
)
def codes(
    data: Vector,
    starts: Vector,
    ends: Vector,
    valid: Vector,
    table: Vector,
    keys: Vector,
    count: int,
    bounds: Vector,
    words: Vector,
    out: Vector,
) -> int:
    """The fields' codes, 0 for NULL; how many words there are now, or -1 if there is no room for more.

    A word has at most 16 bytes: -1 too if one has more.

    Args:
        data: the fields' bytes.
        starts: where each begins.
        ends: where each ends.
        valid: 0 is NULL.
        table: a hash table of codes, -1 is free; its size is a power of two, twice the most words.
        keys: of each word its bytes as two numbers.
        count: words so far.
        bounds: where each word ends in `words`, after a 0.
        words: their bytes.
        out: the codes.
    """
    mask = table.size - 1
    for row in range(out.size):
        out[row] = 0
        if valid[row] == 0:
            continue
        start, size = np.int64(starts[row]), np.int64(ends[row]) - np.int64(starts[row])
        if size > 16:
            return -1
        first, second = _word(data, start, size), np.uint64(0)
        if size > 8:
            second = _word(data, start + 8, size - 8)
        mixed = (first ^ (second * np.uint64(_MIX_MORE)) ^ np.uint64(size)) * np.uint64(_MIX)
        place = np.int64(mixed >> np.uint64(40)) & mask
        while True:
            code = np.int64(table[place])
            if code < 0:
                begin = np.int64(bounds[count])
                if count >= keys.shape[0] or begin + size > words.size:
                    return -1
                for offset in range(size):
                    words[begin + offset] = data[start + offset]
                keys[count, 0], keys[count, 1] = first, second
                table[place] = count
                code = count
                count += 1
                bounds[count] = begin + size
                break
            same = keys[code, 0] == first and keys[code, 1] == second
            if same and np.int64(bounds[code + 1]) - np.int64(bounds[code]) == size:
                break
            place = (place + 1) & mask
        out[row] = code
    return count
