"""Carrier columns printed as PostgreSQL's output functions print them, byte for byte.

Only types, styles and settings proven equal to a real server by test are here; the rest is for
the coordinator PostgreSQL to print.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from orochi import pgtypes
from orochi.engine import copybinary
from orochi.engine.kernels import floatout, textout
from orochi.executor import zones

Vector = npt.NDArray[Any]

_WIDENED = frozenset({pgtypes.INT2, pgtypes.INT4, pgtypes.INT8, pgtypes.OID})
_DATED = frozenset({pgtypes.DATE, pgtypes.TIMESTAMP, pgtypes.TIMESTAMPTZ})
_SUPPORTED = (
    _WIDENED
    | _DATED
    | pgtypes.FLOATS
    | pgtypes.CHARACTER
    | {pgtypes.BOOL, pgtypes.TIME, pgtypes.NUMERIC, pgtypes.UUID, pgtypes.BYTEA, pgtypes.JSONB}
) - {pgtypes.XML}  # its binary form keeps the encoding declaration, its text does not


def setting(settings: Mapping[str, str], name: str) -> str | None:
    """A setting by its name in whatever case it was given, lower-cased; None if it is not there."""
    return next((value.lower() for key, value in settings.items() if key.lower() == name), None)


def is_supported(type_oid: int, settings: Mapping[str, str]) -> bool:
    """Whether `column` prints this type under these settings as PostgreSQL does."""
    if type_oid not in _SUPPORTED:
        return False
    if type_oid in pgtypes.FLOATS:
        return int(setting(settings, "extra_float_digits") or 1) >= 1
    if type_oid == pgtypes.BYTEA:
        return (setting(settings, "bytea_output") or "hex") == "hex"
    if type_oid in _DATED and not (setting(settings, "datestyle") or "").startswith("iso"):
        return False
    if type_oid == pgtypes.TIMESTAMPTZ:
        return zones.is_known(zone_name(settings))
    return True


def zone_name(settings: Mapping[str, str]) -> str:
    """The session's TimeZone as it is spelled; empty if it is not known."""
    return next((value for key, value in settings.items() if key.lower() == "timezone"), "")


def column(array: pa.Array, type_oid: int, settings: Mapping[str, str]) -> tuple[Vector, Vector, Vector]:
    """A column's text: int32 offsets, bytes, and one byte a value saying whether it is not NULL."""
    valid = copybinary.validity(array)
    rows = len(array)
    if type_oid in pgtypes.CHARACTER:
        offsets, data = variable(array)
        return offsets, data, valid
    if type_oid == pgtypes.FLOAT4:
        return (*variable(_float_text(array, single=True)), valid)
    if type_oid == pgtypes.FLOAT8:
        return (*_doubles(array, valid), valid)
    offsets = np.zeros(rows + 1, np.int32)
    if type_oid == pgtypes.BOOL:
        out = np.empty(rows, np.uint8)
        textout.booleans(_bytes_of(array), valid, offsets, out)
    elif type_oid in pgtypes.FIXED:
        out = _fixed(array, type_oid, settings, valid, offsets)
    else:
        out = _from_binary(array, type_oid, valid, offsets)
    return offsets, out, valid


def variable(array: pa.Array) -> tuple[Vector, Vector]:
    """Offsets and bytes of a string or binary array, NULLs of no length left to the caller."""
    if len(array) == 0:
        return np.zeros(1, np.int32), np.empty(0, np.uint8)
    _, offsets, data = array.buffers()
    begin = np.frombuffer(offsets, np.int32, len(array) + 1, array.offset * 4).copy()
    return begin, np.frombuffer(data or b"", np.uint8)


def _fixed(
    array: pa.Array, type_oid: int, settings: Mapping[str, str], valid: Vector, offsets: Vector
) -> Vector:
    rows = len(array)
    values = np.ascontiguousarray(_values(array), np.int64)
    if type_oid in (pgtypes.TIMESTAMP, pgtypes.TIMESTAMPTZ):
        out = np.empty(rows * textout.TIMESTAMP_SIZE, np.uint8)
        with_zone = type_oid == pgtypes.TIMESTAMPTZ
        # what NULL slots hold is not defined, and must not make years to look up
        shifts = (
            zones.shifts(zone_name(settings), np.where(valid == 1, values, 0))
            if with_zone
            else np.empty(0, np.int32)
        )
        textout.timestamps(values, shifts, with_zone, valid, offsets, out)
    elif type_oid == pgtypes.DATE:
        out = np.empty(rows * textout.DATE_SIZE, np.uint8)
        textout.dates(values, valid, offsets, out)
    elif type_oid == pgtypes.TIME:
        out = np.empty(rows * textout.TIME_SIZE, np.uint8)
        textout.times(values, valid, offsets, out)
    else:
        out = np.empty(rows * textout.INTEGER_SIZE, np.uint8)
        textout.integers(values, valid, offsets, out)
    return out


def _from_binary(array: pa.Array, type_oid: int, valid: Vector, offsets: Vector) -> Vector:
    source, data = variable(array)
    size = int(source[-1] - source[0])
    if type_oid == pgtypes.NUMERIC:
        out = np.empty(textout.numerics_size(source, data, valid), np.uint8)
        textout.numerics(source, data, valid, offsets, out)
    elif type_oid == pgtypes.UUID:
        out = np.empty(len(array) * textout.UUID_SIZE, np.uint8)
        textout.uuids(source, data, valid, offsets, out)
    elif type_oid == pgtypes.BYTEA:
        out = np.empty(2 * (size + len(array)), np.uint8)
        textout.byteas(source, data, valid, offsets, out)
    else:
        out = np.empty(size, np.uint8)
        textout.after_version(source, data, valid, offsets, out)
    return out


def _values(array: pa.Array) -> Vector:
    fixed_type = array.type
    dtype = np.dtype(fixed_type.to_pandas_dtype())
    if len(array) == 0:
        return np.empty(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)


def _bytes_of(array: pa.Array) -> Vector:
    if len(array) == 0:
        return np.empty(0, np.uint8)
    bits = np.frombuffer(array.buffers()[1], np.uint8)
    return np.unpackbits(bits, count=array.offset + len(array), bitorder="little")[array.offset :].copy()


def _doubles(array: pa.Array, valid: Vector) -> tuple[Vector, Vector]:
    """Offsets and bytes: decimals of few digits at once, the rest by `_float_text`."""
    rows = len(array)
    values = np.ascontiguousarray(_values(array))
    offsets, odd = np.empty(rows + 1, np.int32), np.empty(rows, np.uint8)
    out = np.empty(rows * floatout.DOUBLE_SIZE, np.uint8)
    left = floatout.doubles(values, valid, offsets, out, odd)
    if not left:
        return offsets, out
    if left > rows // 2:
        return variable(_float_text(array, single=False))
    chosen = pa.array(odd == 1)
    rest = _float_text(array.filter(chosen), single=False)
    printed = pa.Array.from_buffers(pa.string(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(out)])
    return variable(pc.replace_with_mask(printed, chosen, rest))


def _float_text(array: pa.Array, *, single: bool) -> pa.Array:
    """float4out and float8out with `extra_float_digits` of 1 or more.

    Arrow prints the shortest digits that read back, as PostgreSQL does, and in the same form over
    the range kept here. The rest is printed one by one.
    """
    text = array.cast(pa.string())
    values = _values(array)
    size = np.abs(values)
    with np.errstate(invalid="ignore"):
        plain = ((size >= 1e-4) & (size < (1e6 if single else 1e10))) | (size == 0)
    odd = ~plain & (copybinary.validity(array) == 1)
    if not odd.any():
        return text
    printed = [float_text(float(value), single=single) for value in values[odd]]
    return pc.replace_with_mask(text, pa.array(odd), pa.array(printed, pa.string()))


def float_text(value: float, *, single: bool = False) -> str:
    """One float as PostgreSQL prints it."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    digits, exponent = _shortest(abs(value), single=single)
    if -4 <= exponent < (6 if single else 15):
        if exponent < 0:
            return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
        whole, rest = digits[: exponent + 1].ljust(exponent + 1, "0"), digits[exponent + 1 :]
        return f"{sign}{whole}.{rest}" if rest else f"{sign}{whole}"
    mantissa = f"{digits[0]}.{digits[1:]}" if len(digits) > 1 else digits
    return f"{sign}{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def _shortest(value: float, *, single: bool) -> tuple[str, int]:
    """The digits PostgreSQL picks, and the decimal exponent of the first.

    Like Python it takes the fewest that lie nearer to this float than to any other, but never a
    decimal exactly half way to the next float, which some readers would round away.
    """
    text = np.format_float_scientific(np.float32(value) if single else value, unique=True, trim="-")
    digits, exponent = _parts(text)
    # below this a midpoint has more digits than the float itself, so it is never the shortest
    if value >= (2.0**24 if single else 2.0**53):
        for precision in range(len(digits), 17):
            if not _is_midpoint(digits, exponent, value, single=single):
                break
            digits, exponent = _parts(f"{value:.{precision}e}")
    return digits, exponent


def _parts(text: str) -> tuple[str, int]:
    mantissa, _, exponent = text.partition("e")
    digits = mantissa.replace(".", "").rstrip("0")
    return digits or "0", int(exponent)


def _is_midpoint(digits: str, exponent: int, value: float, *, single: bool) -> bool:
    zeros = exponent - len(digits) + 1
    decimal, exact = int(digits) * 10 ** max(zeros, 0), int(value)
    if zeros < 0 or decimal == exact:
        return False
    towards = math.inf if decimal > exact else 0.0
    neighbour = (
        float(np.nextafter(np.float32(value), np.float32(towards)))
        if single
        else math.nextafter(value, towards)
    )
    return not math.isinf(neighbour) and 2 * decimal == exact + int(neighbour)
