"""Compiled loops that read COPY's text and CSV forms: rows into fields, fields into strings.

What is spelled in a way that only PostgreSQL reads is reported, not read.
"""

# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disable-error-code="return-value, arg-type, assignment"

from __future__ import annotations

import numba
from numba import types

from orochi.engine.kernels.copyrows import Vector

_U8_IN = types.Array(types.uint8, 1, "C", readonly=True)
_U8 = types.Array(types.uint8, 1, "C")
_I32 = types.Array(types.int32, 1, "C")
_U8_ROWS = types.Array(types.uint8, 2, "C")
_I32_ROWS = types.Array(types.int32, 2, "C")


@numba.njit(types.boolean(_U8_IN, types.int64, types.int64, _U8_IN), cache=True, nogil=True)
def _equals(data: Vector, start: int, end: int, word: Vector) -> bool:
    if end - start != word.size:
        return False
    for at in range(word.size):  # noqa: SIM110 - as compiled code has it
        if data[start + at] != word[at]:
            return False
    return True


@numba.njit(types.int64(_U8_IN, types.int64, _U8_IN, _I32_ROWS, _I32_ROWS, _U8_ROWS), cache=True, nogil=True)
def split_text(
    data: Vector, delimiter: int, null: Vector, starts: Vector, ends: Vector, valid: Vector
) -> int:
    r"""Fields of rows in COPY's text form, which end with a newline; how many rows, or -1.

    Where the fields lie goes into `starts` and `ends`, a row of them for each column; a row of `valid`
    has 0 for NULL. A backslash means -1, but for the NULL of `\N`.
    """
    columns = starts.shape[0]
    row, column, start, escaped = 0, 0, 0, False
    for at in range(data.size):
        byte = data[at]
        if byte == 92:
            escaped = True
        elif byte == delimiter or byte == 10:
            if column >= columns:
                return -1
            is_null = _equals(data, start, at, null)
            if escaped and not is_null:
                return -1
            starts[column, row] = start
            ends[column, row] = at
            valid[column, row] = 0 if is_null else 1
            start, escaped = at + 1, False
            column += 1
            if byte == 10:
                if column != columns:
                    return -1
                row, column = row + 1, 0
    return row if start == data.size else -1


@numba.njit(
    types.int64(_U8_IN, types.int64, types.int64, _U8_IN, _I32_ROWS, _I32_ROWS, _U8_ROWS),
    cache=True,
    nogil=True,
)
def split_csv(
    data: Vector, delimiter: int, quote: int, null: Vector, starts: Vector, ends: Vector, valid: Vector
) -> int:
    """The same of CSV. `valid` has 2 for a quoted field that has quotes inside, which are doubled."""
    columns = starts.shape[0]
    size = data.size
    row, column, at = 0, 0, 0
    while at < size:
        if column >= columns:
            return -1
        kind = 1
        start = at
        if data[at] == quote:
            start = at = at + 1
            while True:
                while at < size and data[at] != quote:
                    at += 1
                if at + 1 >= size:
                    return -1
                if data[at + 1] != quote:
                    break
                kind = 2
                at += 2
            end = at
            at += 1
            if data[at] != delimiter and data[at] != 10:
                return -1
        else:
            while at < size and data[at] != delimiter and data[at] != 10:
                if data[at] == quote:
                    return -1
                at += 1
            if at >= size:
                return -1
            end = at
            if _equals(data, start, end, null):
                kind = 0
        starts[column, row] = start
        ends[column, row] = end
        valid[column, row] = kind
        column += 1
        if data[at] == 10:
            if column != columns:
                return -1
            row, column = row + 1, 0
        at += 1
    return row if column == 0 else -1


@numba.njit(types.int64(_I32, _I32, _U8, _I32), cache=True, nogil=True)
def offsets(starts: Vector, ends: Vector, valid: Vector, out: Vector) -> int:
    """Arrow offsets of fields as they are; how much they are at most."""
    total = 0
    out[0] = 0
    for row in range(out.size - 1):
        if valid[row] != 0:
            total += ends[row] - starts[row]
        out[row + 1] = total
    return total


@numba.njit(types.void(_U8_IN, _I32, _I32, _U8, types.int64, _I32, _U8), cache=True, nogil=True)
def texts(
    data: Vector, starts: Vector, ends: Vector, valid: Vector, quote: int, bounds: Vector, out: Vector
) -> None:
    """The fields' bytes; doubled quotes become one, and `bounds` what follows from that."""
    to = 0
    for row in range(bounds.size - 1):
        if valid[row] != 0:
            at, end = starts[row], ends[row]
            doubled = valid[row] == 2
            while at < end:
                out[to] = data[at]
                at += 2 if doubled and data[at] == quote else 1
                to += 1
        bounds[row + 1] = to


@numba.njit(types.int64(_U8_IN, types.int64), cache=True, nogil=True)
def last_row(data: Vector, escape: int) -> int:
    """Where text's last row that is surely whole ends: after a newline with no backslash before it."""
    end, at = 0, 0
    while at < data.size:
        byte = data[at]
        if byte == escape:
            at += 1
        elif byte == 10:
            end = at + 1
        at += 1
    return end
