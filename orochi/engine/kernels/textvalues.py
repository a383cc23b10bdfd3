"""Compiled loops that read fields of COPY's text and CSV forms into carrier values.

They read the plain spellings only, those whose meaning no setting changes. Each says whether all
values were so; what is spelled otherwise is PostgreSQL's to read, or to refuse.
"""

# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disable-error-code="return-value, arg-type, assignment"

from __future__ import annotations

import numba
import numpy as np
from numba import types

from orochi.engine.kernels.copyrows import Vector

_U8_IN = types.Array(types.uint8, 1, "C", readonly=True)
_U8 = types.Array(types.uint8, 1, "C")
_I32 = types.Array(types.int32, 1, "C")
_I64 = types.Array(types.int64, 1, "C")
_F64 = types.Array(types.float64, 1, "C")

_DAY_MICROSECONDS = 86_400_000_000
#: Powers of ten that a double holds exactly.
_POWERS = tuple(float(10**power) for power in range(23))
_EXACT = 1 << 53


@numba.njit(types.boolean(_U8_IN, _I32, _I32, _U8, types.int64, _I64), cache=True, nogil=True)
def integers(data: Vector, starts: Vector, ends: Vector, valid: Vector, limit: int, out: Vector) -> bool:
    """Decimal integers from `-limit - 1` to `limit`."""
    for row in range(out.size):
        out[row] = 0
        if valid[row] == 0:
            continue
        at, end = starts[row], ends[row]
        negative = at < end and data[at] == 45
        if negative:
            at += 1
        if not 0 < end - at <= 18:
            return False
        value = np.int64(0)
        while at < end:
            digit = np.int64(data[at]) - 48
            if digit < 0 or digit > 9:
                return False
            value = value * 10 + digit
            at += 1
        if negative:
            value = -value
        if value > limit or value < -limit - 1:
            return False
        out[row] = value
    return True


@numba.njit(types.UniTuple(types.int64, 2)(_U8_IN, types.int64, types.int64), cache=True, nogil=True)
def _short(data: Vector, at: int, end: int) -> tuple[int, int]:
    """At most 15 digits, a point among them, as an integer and its decimals; -1 decimals for all else."""
    if not 0 < end - at <= 15:
        return 0, -1
    value, point, digits = np.int64(0), end, 0
    while at < end:
        digit = np.int64(data[at]) - 48
        if 0 <= digit <= 9:
            value = value * 10 + digit
            digits += 1
        elif digit == -2 and point == end:
            point = at
        else:
            return 0, -1
        at += 1
    if digits == 0:
        return 0, -1
    return value, max(end - 1 - point, 0)


@numba.njit(types.int64(_U8_IN, _I32, _I32, _U8, _F64, _U8), cache=True, nogil=True)
def floats(data: Vector, starts: Vector, ends: Vector, valid: Vector, out: Vector, unread: Vector) -> int:
    """Decimal numbers whose double one division or multiplication gives exactly (Clinger's fast path).

    Other numbers are marked in `unread`; how many, or -1 if something is no number.
    """
    left = 0
    for row in range(out.size):
        out[row] = 0.0
        unread[row] = 0
        if valid[row] == 0:
            continue
        at, end = np.int64(starts[row]), np.int64(ends[row])
        value, decimals = _short(data, at, end)
        if decimals >= 0:
            out[row] = np.float64(value) / _POWERS[decimals] if decimals > 0 else np.float64(value)
            continue
        if end - at == 3 and data[at] == 78 and data[at + 1] == 97 and data[at + 2] == 78:
            out[row] = np.nan
            continue
        negative = at < end and data[at] == 45
        if negative:
            at += 1
        digits, any_digit = 0, False
        value, decimals = np.int64(0), 0
        pointed = False
        while at < end:
            byte = data[at]
            if 48 <= byte <= 57:
                any_digit = True
                if digits > 0 or byte != 48:
                    digits += 1
                if digits <= 18:
                    value = value * 10 + (np.int64(byte) - 48)
                if pointed:
                    decimals += 1
            elif byte == 46 and not pointed:
                pointed = True
            else:
                break
            at += 1
        if not any_digit:
            return -1
        exponent = 0
        if at < end:
            if data[at] != 101 and data[at] != 69:
                return -1
            at += 1
            below = at < end and data[at] == 45
            if at < end and (data[at] == 45 or data[at] == 43):
                at += 1
            if not 0 < end - at <= 4:
                return -1
            while at < end:
                if data[at] < 48 or data[at] > 57:
                    return -1
                exponent = exponent * 10 + (np.int64(data[at]) - 48)
                at += 1
            if below:
                exponent = -exponent
        exponent -= decimals
        if digits > 18 or value > _EXACT or exponent > 22 or exponent < -22:
            unread[row] = 1
            left += 1
            continue
        number = np.float64(value)
        if exponent < 0:
            number = number / _POWERS[-exponent]
        elif exponent > 0:
            number = number * _POWERS[exponent]
        out[row] = -number if negative else number
    return left


@numba.njit(types.int64(_U8_IN, types.int64, types.int64), cache=True, nogil=True)
def _number(data: Vector, at: int, count: int) -> int:
    """So many digits; -1 if they are none."""
    value = 0
    for index in range(at, at + count):
        digit = np.int64(data[index]) - 48
        if digit < 0 or digit > 9:
            return -1
        value = value * 10 + digit
    return value


@numba.njit(types.int64(_U8_IN, types.int64, types.int64), cache=True, nogil=True)
def _day(data: Vector, at: int, end: int) -> int:
    """The day since 2000-01-01 of `YYYY-MM-DD`; a number below all days if it is none.

    Howard Hinnant's `days_from_civil`.
    """
    if end - at < 10 or data[at + 4] != 45 or data[at + 7] != 45:
        return -10_000_000
    year, month, day = _number(data, at, 4), _number(data, at + 5, 2), _number(data, at + 8, 2)
    if year < 1 or month < 1 or month > 12 or day < 1:
        return -10_000_000
    last = 31
    if month == 4 or month == 6 or month == 9 or month == 11:
        last = 30
    elif month == 2:
        last = 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    if day > last:
        return -10_000_000
    if month <= 2:
        year -= 1
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 730_425


@numba.njit(types.boolean(_U8_IN, _I32, _I32, _U8, _I64), cache=True, nogil=True)
def dates(data: Vector, starts: Vector, ends: Vector, valid: Vector, out: Vector) -> bool:
    """`YYYY-MM-DD`."""
    for row in range(out.size):
        out[row] = 0
        if valid[row] == 0:
            continue
        day = _day(data, starts[row], ends[row])
        if ends[row] - starts[row] != 10 or day <= -10_000_000:
            return False
        out[row] = day
    return True


@numba.njit(types.int64(_U8_IN, types.int64, types.int64), cache=True, nogil=True)
def _offset(data: Vector, at: int, end: int) -> int:
    """Minutes of `Z`, `+HH` or `+HH:MM`; a number above all if it is none."""
    if end - at == 1 and data[at] == 90:
        return 0
    if (end - at != 3 and end - at != 6) or (data[at] != 43 and data[at] != 45):
        return 1_000_000
    hours, minutes = _number(data, at + 1, 2), 0
    if end - at == 6:
        minutes = _number(data, at + 4, 2)
        if data[at + 3] != 58 or minutes < 0 or minutes > 59:
            return 1_000_000
    if hours < 0 or hours > 14:
        return 1_000_000
    whole = hours * 60 + minutes
    return -whole if data[at] == 45 else whole


@numba.njit(types.boolean(_U8_IN, types.int64, types.int64, types.int64, types.int64), cache=True, nogil=True)
def _is_again(data: Vector, at: int, end: int, before: int, before_end: int) -> bool:
    """Whether two fields have the same bytes: those of a time differ at the end first."""
    if end - at != before_end - before:
        return False
    for back in range(1, end - at + 1):  # noqa: SIM110 - as compiled code has it
        if data[end - back] != data[before_end - back]:
            return False
    return True


@numba.njit(
    types.boolean(_U8_IN, _I32, _I32, _U8, types.boolean, types.boolean, _I64), cache=True, nogil=True
)
def timestamps(
    data: Vector, starts: Vector, ends: Vector, valid: Vector, zoned: bool, utc: bool, out: Vector
) -> bool:
    """`YYYY-MM-DD HH:MM:SS` with at most six decimals; `zoned`, with an offset, which `utc` lets be left out."""
    for row in range(out.size):
        out[row] = 0
        if valid[row] == 0:
            continue
        at, end = np.int64(starts[row]), np.int64(ends[row])
        if row > 0 and _is_again(data, at, end, starts[row - 1], ends[row - 1]) and valid[row - 1] != 0:
            out[row] = out[row - 1]
            continue
        day = _day(data, at, end)
        if end - at < 19 or day <= -10_000_000:
            return False
        if (data[at + 10] != 32 and data[at + 10] != 84) or data[at + 13] != 58 or data[at + 16] != 58:
            return False
        hour, minute = _number(data, at + 11, 2), _number(data, at + 14, 2)
        second = _number(data, at + 17, 2)
        if not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 60):
            return False
        micros = ((hour * 60 + minute) * 60 + second) * 1_000_000
        at += 19
        if at < end and data[at] == 46:
            at += 1
            unit = 1_000_000
            while at < end and 48 <= data[at] <= 57:
                if unit == 1:
                    return False
                unit //= 10
                micros += (np.int64(data[at]) - 48) * unit
                at += 1
            if unit == 1_000_000:
                return False
        if at < end or (zoned and not utc):
            if not zoned:
                return False
            offset = _offset(data, at, end)
            if offset == 1_000_000:
                return False
            micros -= offset * 60_000_000
        out[row] = day * _DAY_MICROSECONDS + micros
    return True


@numba.njit(types.boolean(_U8_IN, _I32, _I32, _U8, _U8), cache=True, nogil=True)
def booleans(data: Vector, starts: Vector, ends: Vector, valid: Vector, out: Vector) -> bool:
    """`t` and `f`."""
    for row in range(out.size):
        out[row] = 0
        if valid[row] == 0:
            continue
        byte = data[starts[row]]
        if ends[row] - starts[row] != 1 or (byte != 116 and byte != 102):
            return False
        out[row] = 1 if byte == 116 else 0
    return True


@numba.njit(
    types.int64(_U8_IN, types.int64, types.int64, types.int64, types.int64, _U8, types.int64),
    cache=True,
    nogil=True,
)
def _numeric(data: Vector, at: int, end: int, precision: int, scale: int, out: Vector, to: int) -> int:
    negative = at < end and data[at] == 45
    if negative:
        at += 1
    point = at
    while point < end and 48 <= data[point] <= 57:
        point += 1
    decimals = 0
    if point < end:
        if data[point] != 46:
            return -1
        decimals = end - point - 1
        for index in range(point + 1, end):
            if data[index] < 48 or data[index] > 57:
                return -1
    first = at
    while first < point and data[first] == 48:
        first += 1
    whole = point - first
    if (
        point - at + decimals < 1
        or point - at < 1
        or (point < end and decimals < 1)
        or whole + decimals > 1000
    ):
        return -1
    shown = decimals
    if precision > 0:
        if decimals > scale or whole > precision - scale:
            return -1
        shown = scale
    # groups of four digits, counted from the point
    groups = (whole + 3) // 4
    weight = groups - 1
    total = groups + (decimals + 3) // 4
    count, leading = 0, True
    for group in range(total):
        value = 0
        for place in range(4):
            index = (group - groups) * 4 + place  # of the digit, from the point on
            digit = 0
            if index < 0:
                if point + index >= first:
                    digit = np.int64(data[point + index]) - 48
            elif index < decimals:
                digit = np.int64(data[point + 1 + index]) - 48
            value = value * 10 + digit
        if leading and value == 0:
            weight -= 1
            continue
        leading = False
        out[to + 8 + 2 * count] = value >> 8
        out[to + 9 + 2 * count] = value & 255
        count += 1
    while count > 0 and out[to + 6 + 2 * count] == 0 and out[to + 7 + 2 * count] == 0:
        count -= 1
    if count == 0:
        weight, negative = 0, False
    out[to] = count >> 8
    out[to + 1] = count & 255
    out[to + 2] = (weight >> 8) & 255
    out[to + 3] = weight & 255
    out[to + 4] = 0x40 if negative else 0
    out[to + 5] = 0
    out[to + 6] = shown >> 8
    out[to + 7] = shown & 255
    return 8 + 2 * count


@numba.njit(types.int64(_U8_IN, _I32, _I32, _U8, types.int64, types.int64, _I32, _U8), cache=True, nogil=True)
def numerics(
    data: Vector,
    starts: Vector,
    ends: Vector,
    valid: Vector,
    precision: int,
    scale: int,
    bounds: Vector,
    out: Vector,
) -> int:
    """Decimal numbers in numeric's binary form; how many bytes, or -1.

    With a `precision` (0 is none) a number must fit it as it is, with `scale` decimals at most.
    """
    to = 0
    bounds[0] = 0
    for row in range(bounds.size - 1):
        if valid[row] != 0:
            size = _numeric(data, starts[row], ends[row], precision, scale, out, to)
            if size < 0:
                return -1
            to += size
        bounds[row + 1] = to
    return to
