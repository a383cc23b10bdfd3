"""Compiled loops that print carrier values as PostgreSQL's output functions do.

Each writes value after value into `out` and Arrow offsets into `offsets`; NULLs print nothing.
`out` must be large enough; every function says how much a value needs at most.
"""

# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disable-error-code="return-value, arg-type"

from __future__ import annotations

import numba
import numpy as np
from numba import types

from orochi.engine.kernels.copyrows import Vector

INTEGER_SIZE, TIMESTAMP_SIZE, DATE_SIZE, TIME_SIZE, UUID_SIZE = 20, 52, 20, 20, 36

_DAY = 86_400_000_000
_POSITIVE = 9_223_372_036_854_775_807
_U8_IN = types.Array(types.uint8, 1, "C", readonly=True)
_I64_IN = types.Array(types.int64, 1, "C", readonly=True)
_I32_IN = types.Array(types.int32, 1, "C", readonly=True)
_U8 = types.Array(types.uint8, 1, "C")
_I32 = types.Array(types.int32, 1, "C")


@numba.njit(types.int64(_U8, types.int64, types.int64, types.int64), cache=True, nogil=True)
def _digits(out: Vector, at: int, value: int, least: int) -> int:
    """Print a non-negative number with at least so many digits."""
    count = 1
    rest = value // 10
    while rest:
        count += 1
        rest //= 10
    count = max(count, least)
    for i in range(count - 1, -1, -1):
        out[at + i] = 48 + value % 10
        value //= 10
    return at + count


@numba.njit(types.int64(_U8, types.int64, types.boolean), cache=True, nogil=True)
def _infinity(out: Vector, at: int, negative: bool) -> int:
    if negative:
        out[at] = 45
        at += 1
    word = (105, 110, 102, 105, 110, 105, 116, 121)
    for i in range(8):
        out[at + i] = word[i]
    return at + 8


@numba.njit(types.int64(_U8, types.int64, types.int64), cache=True, nogil=True)
def _date(out: Vector, at: int, days: int) -> int:
    """Print the day of the proleptic Gregorian calendar; 1 before Christ is printed as year 1.

    Days are counted from 2000-01-01. Howard Hinnant's `civil_from_days`.
    """
    shifted = days + 730_425  # from 0000-03-01
    era = shifted // 146_097
    day_of_era = shifted - era * 146_097
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month + 2) // 5 + 1
    year = year_of_era + era * 400
    month += 3
    if month > 12:
        month -= 12
        year += 1
    at = _digits(out, at, year if year > 0 else 1 - year, 4)
    out[at] = 45
    at = _digits(out, at + 1, month, 2)
    out[at] = 45
    return _digits(out, at + 1, day, 2)


#: The last day before year 1, counted from 2000-01-01.
_LAST_DAY_BC = -730_120


@numba.njit(types.int64(_U8, types.int64, types.int64), cache=True, nogil=True)
def _era(out: Vector, at: int, days: int) -> int:
    if days > _LAST_DAY_BC:
        return at
    out[at] = 32
    out[at + 1] = 66
    out[at + 2] = 67
    return at + 3


@numba.njit(types.int64(_U8, types.int64, types.int64), cache=True, nogil=True)
def _clock(out: Vector, at: int, microseconds: int) -> int:
    seconds = microseconds // 1_000_000
    fraction = microseconds - seconds * 1_000_000
    at = _digits(out, at, seconds // 3600, 2)
    out[at] = 58
    at = _digits(out, at + 1, seconds // 60 % 60, 2)
    out[at] = 58
    at = _digits(out, at + 1, seconds % 60, 2)
    if fraction:
        out[at] = 46
        at = _digits(out, at + 1, fraction, 6)
        while out[at - 1] == 48:
            at -= 1
    return at


@numba.njit(types.int64(_U8, types.int64, types.int64), cache=True, nogil=True)
def _zone(out: Vector, at: int, shift: int) -> int:
    out[at] = 43 if shift >= 0 else 45
    shift = abs(shift)
    at = _digits(out, at + 1, shift // 3600, 2)
    if shift % 3600:
        out[at] = 58
        at = _digits(out, at + 1, shift // 60 % 60, 2)
    if shift % 60:
        out[at] = 58
        at = _digits(out, at + 1, shift % 60, 2)
    return at


@numba.njit(types.void(_I64_IN, _U8_IN, _I32, _U8), cache=True, nogil=True)
def integers(values: Vector, valid: Vector, offsets: Vector, out: Vector) -> None:
    """int2, int4, int8 and oid, widened."""
    at = 0
    offsets[0] = 0
    for row in range(values.size):
        if valid[row]:
            value = values[row]
            if value < 0:
                out[at] = 45
                at += 1
                if value == -_POSITIVE - 1:  # has no positive counterpart
                    at = _digits(out, at, 922_337_203_685_477_580, 1)
                    out[at] = 56
                    at += 1
                else:
                    at = _digits(out, at, -value, 1)
            else:
                at = _digits(out, at, value, 1)
        offsets[row + 1] = at


@numba.njit(types.void(_I64_IN, _I32_IN, types.boolean, _U8_IN, _I32, _U8), cache=True, nogil=True)
def timestamps(
    values: Vector, shifts: Vector, with_zone: bool, valid: Vector, offsets: Vector, out: Vector
) -> None:
    """Timestamp and timestamptz in ISO style; `shifts` are the zone's seconds east of UTC."""
    at = 0
    offsets[0] = 0
    for row in range(values.size):
        value = values[row]
        if not valid[row]:
            pass
        elif value == _POSITIVE or value == -_POSITIVE - 1:
            at = _infinity(out, at, value < 0)
        else:
            shift = np.int64(shifts[row]) if with_zone else 0
            value += shift * 1_000_000
            days = value // _DAY
            at = _date(out, at, days)
            out[at] = 32
            at = _clock(out, at + 1, value - days * _DAY)
            if with_zone:
                at = _zone(out, at, shift)
            at = _era(out, at, days)
        offsets[row + 1] = at


@numba.njit(types.void(_I64_IN, _U8_IN, _I32, _U8), cache=True, nogil=True)
def dates(values: Vector, valid: Vector, offsets: Vector, out: Vector) -> None:
    """Date in ISO style, widened to int64."""
    at = 0
    offsets[0] = 0
    for row in range(values.size):
        value = values[row]
        if not valid[row]:
            pass
        elif value == 2_147_483_647 or value == -2_147_483_648:
            at = _infinity(out, at, value < 0)
        else:
            at = _era(out, _date(out, at, value), value)
        offsets[row + 1] = at


@numba.njit(types.void(_I64_IN, _U8_IN, _I32, _U8), cache=True, nogil=True)
def times(values: Vector, valid: Vector, offsets: Vector, out: Vector) -> None:
    """Time of day."""
    at = 0
    offsets[0] = 0
    for row in range(values.size):
        if valid[row]:
            at = _clock(out, at, values[row])
        offsets[row + 1] = at


@numba.njit(types.void(_U8_IN, _U8_IN, _I32, _U8), cache=True, nogil=True)
def booleans(values: Vector, valid: Vector, offsets: Vector, out: Vector) -> None:
    """Bool, given one byte a value: one byte each."""
    at = 0
    offsets[0] = 0
    for row in range(values.size):
        if valid[row]:
            out[at] = 116 if values[row] else 102
            at += 1
        offsets[row + 1] = at


@numba.njit(types.int64(_U8, types.int64, types.uint8), cache=True, nogil=True)
def _hex(out: Vector, at: int, value: int) -> int:
    high = value >> 4
    low = value & 15
    out[at] = high + 48 if high < 10 else high + 87
    out[at + 1] = low + 48 if low < 10 else low + 87
    return at + 2


@numba.njit(types.void(_I32, _U8_IN, _U8_IN, _I32, _U8), cache=True, nogil=True)
def uuids(source: Vector, data: Vector, valid: Vector, offsets: Vector, out: Vector) -> None:
    """Uuid, `source` being the offsets of `data`."""
    at = 0
    offsets[0] = 0
    for row in range(valid.size):
        if valid[row]:
            for i in range(16):
                if i == 4 or i == 6 or i == 8 or i == 10:
                    out[at] = 45
                    at += 1
                at = _hex(out, at, data[source[row] + i])
        offsets[row + 1] = at


@numba.njit(types.void(_I32, _U8_IN, _U8_IN, _I32, _U8), cache=True, nogil=True)
def byteas(source: Vector, data: Vector, valid: Vector, offsets: Vector, out: Vector) -> None:
    """Bytea in hex style: two bytes, and two for each of its own."""
    at = 0
    offsets[0] = 0
    for row in range(valid.size):
        if valid[row]:
            out[at] = 92
            out[at + 1] = 120
            at += 2
            for i in range(source[row], source[row + 1]):
                at = _hex(out, at, data[i])
        offsets[row + 1] = at


@numba.njit(types.void(_I32, _U8_IN, _U8_IN, _I32, _U8), cache=True, nogil=True)
def after_version(source: Vector, data: Vector, valid: Vector, offsets: Vector, out: Vector) -> None:
    """Jsonb: its binary form is a version byte and the text."""
    at = 0
    offsets[0] = 0
    for row in range(valid.size):
        if valid[row]:
            for i in range(source[row] + 1, source[row + 1]):
                out[at] = data[i]
                at += 1
        offsets[row + 1] = at


@numba.njit(types.int64(_U8_IN, types.int64), cache=True, nogil=True)
def _word(data: Vector, at: int) -> int:
    return (np.int64(data[at]) << 8) | np.int64(data[at + 1])


@numba.njit(types.int64(_U8_IN, types.int64), cache=True, nogil=True)
def _weight(data: Vector, at: int) -> int:
    weight = _word(data, at + 2)
    return weight - 65_536 if weight >= 32_768 else weight


@numba.njit(types.int64(_I32, _U8_IN, _U8_IN), cache=True, nogil=True)
def numerics_size(source: Vector, data: Vector, valid: Vector) -> int:
    """Bytes that `numerics` needs for all values."""
    total = 0
    for row in range(valid.size):
        if valid[row]:
            at = np.int64(source[row])
            total += 12 + 4 * max(_weight(data, at) + 1, 0) + (_word(data, at + 6) & 16_383)
    return total


@numba.njit(types.int64(_U8_IN, types.int64, types.int64, types.int64), cache=True, nogil=True)
def _group(data: Vector, at: int, count: int, index: int) -> int:
    """The base-10000 digit at `index`, zero outside those stored."""
    return _word(data, at + 8 + 2 * index) if 0 <= index < count else 0


@numba.njit(types.int64(_U8_IN, types.int64, _U8, types.int64), cache=True, nogil=True)
def _numeric(data: Vector, at: int, out: Vector, to: int) -> int:
    count, weight, sign, scale = _word(data, at), _weight(data, at), _word(data, at + 4), _word(data, at + 6)
    if sign == 0xC000:
        out[to], out[to + 1], out[to + 2] = 78, 97, 78
        return to + 3
    if sign == 0xD000 or sign == 0xF000:
        to = _infinity(out, to, sign == 0xF000)
        out[to - 8] = 73
        return to
    if sign == 0x4000:
        out[to] = 45
        to += 1
    if weight < 0:
        out[to] = 48
        to += 1
    for index in range(weight + 1):
        to = _digits(out, to, _group(data, at, count, index), 1 if index == 0 else 4)
    if scale:
        out[to] = 46
        to += 1
        begin = to
        for index in range((scale + 3) // 4):
            to = _digits(out, to, _group(data, at, count, weight + 1 + index), 4)
        to = begin + scale
    return to


@numba.njit(types.void(_I32, _U8_IN, _U8_IN, _I32, _U8), cache=True, nogil=True)
def numerics(source: Vector, data: Vector, valid: Vector, offsets: Vector, out: Vector) -> None:
    """Numeric, from its binary form."""
    at = 0
    offsets[0] = 0
    for row in range(valid.size):
        if valid[row]:
            at = _numeric(data, source[row], out, at)
        offsets[row + 1] = at


@numba.njit(types.void(_U8, _I64_IN, _I64_IN, types.int64), cache=True, nogil=True)
def row_headers(out: Vector, begins: Vector, sizes: Vector, columns: int) -> None:
    """DataRow's type, length and field count for each row."""
    for row in range(begins.size):
        at = begins[row]
        length = sizes[row] - 1
        out[at] = 68
        out[at + 1] = (length >> 24) & 255
        out[at + 2] = (length >> 16) & 255
        out[at + 3] = (length >> 8) & 255
        out[at + 4] = length & 255
        out[at + 5] = (columns >> 8) & 255
        out[at + 6] = columns & 255
