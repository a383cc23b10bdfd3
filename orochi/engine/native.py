"""Carrier columns to the Arrow types an SQL engine computes on, and its results back to carrier.

A value that the native type cannot hold (an infinite date, numeric NaN) is refused, and so is a
result that is not exactly of its column's type; the caller then asks PostgreSQL.
"""

from __future__ import annotations

import decimal
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orochi import pgtypes
from orochi.engine import contract, copybinary
from orochi.engine.kernels import numericin
from orochi.storage.columnar import range_kernels
from orochi.storage.compression import buffers, numeric_kernels

_SHIFT_MICROSECONDS = pgtypes.EPOCH_SHIFT_SECONDS * 1_000_000
_AS_IS = frozenset(
    {
        pgtypes.BOOL,
        pgtypes.INT2,
        pgtypes.INT4,
        pgtypes.INT8,
        pgtypes.FLOAT4,
        pgtypes.FLOAT8,
        pgtypes.TEXT,
        pgtypes.VARCHAR,
        pgtypes.BPCHAR,
    }
)
_DECIMAL_DIGITS = 18
#: Before the first year of the era both engines count years differently.
_FIRST_DAY = -730_119


class Unsupported(Exception):
    """The native engine cannot hold these values; PostgreSQL can."""


def to_native(batch: pa.RecordBatch, columns: Sequence[contract.OutputColumn]) -> pa.RecordBatch:
    """A carrier batch with native types, its columns named as `columns`."""
    arrays = [to(array, column) for array, column in zip(batch.columns, columns, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=native_schema(columns))


def native_schema(columns: Sequence[contract.OutputColumn]) -> pa.Schema:
    """The native types of `columns`.

    Raises:
        Unsupported: a type has none.
    """
    return pa.schema([pa.field(column.name, _native_type(column)) for column in columns])


def _native_type(column: contract.OutputColumn) -> pa.DataType:
    oid = column.type_oid
    if oid in _AS_IS:
        return pgtypes.carrier(oid)
    if oid == pgtypes.DATE:
        return pa.date32()
    if oid == pgtypes.TIMESTAMP:
        return pa.timestamp("us")
    if oid == pgtypes.TIMESTAMPTZ:
        return pa.timestamp("us", tz="UTC")
    if oid == pgtypes.NUMERIC and column.typmod >= 0:
        precision, scale = numeric_typmod(column.typmod)
        if precision <= _DECIMAL_DIGITS and 0 <= scale <= precision:
            return pa.decimal64(precision, scale)
    raise Unsupported(f"type {column.type_name} has no native form")


def numeric_typmod(typmod: int) -> tuple[int, int]:
    """Precision and scale of a `numeric(p, s)`."""
    value = typmod - 4
    scale = value & 0x7FF
    return (value >> 16) & 0xFFFF, scale - 2048 if scale >= 1024 else scale


def to(array: pa.Array, column: contract.OutputColumn) -> pa.Array:
    """A carrier array as the column's native type.

    Raises:
        Unsupported: the type or a value has none.
    """
    target = _native_type(column)
    if column.type_oid in _AS_IS:
        return array
    if column.type_oid == pgtypes.NUMERIC:
        return scaled_decimals(array, target) if pa.types.is_int64(array.type) else _decimals(array, target)
    is_date = column.type_oid == pgtypes.DATE
    by = pgtypes.EPOCH_SHIFT_DAYS if is_date else _SHIFT_MICROSECONDS
    first = _FIRST_DAY if is_date else _FIRST_DAY * 86_400_000_000
    last = (2**31 if is_date else 2**63) - 1 - by
    if not array.null_count:
        values = buffers.values(array)
        buffer, out = buffers.allocate(len(values), values.dtype)
        kind = values.dtype.type
        if not range_kernels.shift(values, kind(by), kind(first), kind(last), out):
            raise Unsupported("an infinite or far date")
        return pa.Array.from_buffers(target, len(values), [None, buffer])
    if len(array) - array.null_count:
        low, high = pc.min_max(array).as_py().values()
        if low < first or high > last:
            raise Unsupported("an infinite or far date")
    return pc.add(array, pa.scalar(by, array.type)).cast(target)


def _decimals(array: pa.Array, target: pa.DataType) -> pa.Array:
    rows = len(array)
    out = np.empty(rows, np.int64)
    data, offsets, valid, _ = copybinary.prepare(array, pgtypes.NUMERIC)
    assert offsets is not None
    if not numericin.scaled(offsets, data, valid, target.scale, out):
        raise Unsupported("a numeric that is not a short decimal")
    bitmap = pa.py_buffer(np.packbits(valid, bitorder="little")) if array.null_count else None
    return pa.Array.from_buffers(target, rows, [bitmap, pa.py_buffer(out)])


def scaled_decimals(array: pa.Array, target: pa.DataType) -> pa.Array:
    """Integers that are decimals of `target`'s scale already, without a copy."""
    return pa.Array.from_buffers(target, len(array), array.buffers(), array.null_count, array.offset)


def from_native(table: pa.Table, columns: Sequence[contract.OutputColumn]) -> list[pa.RecordBatch]:
    """An engine's result in carrier form.

    Raises:
        Unsupported: it does not have the columns' types.
    """
    if table.num_columns != len(columns):
        raise Unsupported("the engine gave another number of columns")
    schema = copybinary.schema(columns)
    batches = []
    for batch in table.to_batches(max_chunksize=copybinary.BATCH_ROWS):
        try:
            arrays = [
                _from(array, column.type_oid) for array, column in zip(batch.columns, columns, strict=True)
            ]
        except pa.ArrowInvalid as error:
            raise Unsupported(str(error)) from error
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return batches


def _from(array: pa.Array, type_oid: int) -> pa.Array:
    given, types = array.type, pa.types
    if type_oid in pgtypes.INTEGERS and (types.is_integer(given) or _is_whole_decimal(given)):
        return array.cast(pgtypes.carrier(type_oid))  # safe: what does not fit is an error
    if type_oid in pgtypes.FLOATS | {pgtypes.BOOL, pgtypes.TEXT, pgtypes.VARCHAR, pgtypes.BPCHAR}:
        if given == pgtypes.carrier(type_oid):
            return array
    elif type_oid == pgtypes.DATE and types.is_date32(given):
        return pc.subtract_checked(array.cast(pa.int32()), pa.scalar(pgtypes.EPOCH_SHIFT_DAYS, pa.int32()))
    elif type_oid in (pgtypes.TIMESTAMP, pgtypes.TIMESTAMPTZ) and types.is_timestamp(given):
        if given.unit == "us" and (given.tz is not None) == (type_oid == pgtypes.TIMESTAMPTZ):
            return pc.subtract_checked(array.cast(pa.int64()), pa.scalar(_SHIFT_MICROSECONDS, pa.int64()))
    elif type_oid == pgtypes.NUMERIC and (types.is_decimal(given) or types.is_integer(given)):
        short = _short_numerics(array)
        if short is not None:
            return short
        return pa.array([None if v is None else numeric_binary(v) for v in array.to_pylist()], pa.binary())
    elif type_oid == pgtypes.NUMERIC and types.is_string(given):  # each with its own decimals
        values = [None if v is None else numeric_binary(decimal.Decimal(v)) for v in array.to_pylist()]
        return pa.array(values, pa.binary())
    raise Unsupported(f"type {type_oid} cannot be made of {given}")


def _short_numerics(array: pa.Array) -> pa.Array | None:
    """Decimals of at most 18 digits in numeric's binary form; None if there are others."""
    rows = len(array)
    if not pa.types.is_decimal128(array.type) or rows == 0 or not 0 <= array.type.scale <= _DECIMAL_DIGITS:
        return None
    words = np.frombuffer(array.buffers()[1], np.int64)[2 * array.offset : 2 * (array.offset + rows)]
    low, high = words[::2], words[1::2]
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    if not ((high == low >> 63) & (np.abs(low) < 10**_DECIMAL_DIGITS) | ~valid).all():
        return None
    numbers = np.where(valid, low, 0)
    offsets = np.empty(rows + 1, np.int32)
    data = np.empty(rows * numeric_kernels.MOST_BYTES, np.uint8)
    size = numeric_kernels.write(np.full(rows, array.type.scale), numbers, offsets, data)
    if size < 0:
        return None
    bitmap = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(
        pa.binary(), rows, [bitmap, pa.py_buffer(offsets), pa.py_buffer(data[:size].copy())]
    )


def _is_whole_decimal(given: pa.DataType) -> bool:
    return bool(pa.types.is_decimal(given) and given.scale == 0)


def numeric_value(data: bytes) -> decimal.Decimal:
    """A number in numeric's binary form, with its decimals.

    Raises:
        Unsupported: it is NaN or infinite, or has more than 38 decimals.
    """
    count, weight, sign, scale = struct.unpack_from(">HhHH", data)
    if sign not in (0, 0x4000) or scale > 38:
        raise Unsupported("a numeric that is not a decimal")
    number = 0
    for digit in struct.unpack_from(f">{count}H", data, 8):
        number = number * 10_000 + digit
    # the last group's lowest digit stands for ten to this power
    power = 4 * (weight - count + 1) + scale
    number = number * 10**power if power >= 0 else number // 10**-power
    return decimal.Decimal((int(sign != 0), tuple(map(int, str(number))), -scale))


def numeric_binary(value: decimal.Decimal | int) -> bytes:
    """A finite number in numeric's binary form, with its own number of decimals."""
    sign, digits, exponent = decimal.Decimal(value).as_tuple()
    assert isinstance(exponent, int)
    scale = max(-exponent, 0)
    text = "".join(map(str, digits)) + "0" * max(exponent, 0)
    text = text.rjust(scale + 1, "0")
    whole, part = text[: len(text) - scale], text[len(text) - scale :]
    whole = whole.rjust(-(-len(whole) // 4) * 4, "0")
    part = part.ljust(-(-len(part) // 4) * 4, "0")
    groups: list[Any] = [int((whole + part)[at : at + 4]) for at in range(0, len(whole) + len(part), 4)]
    weight = len(whole) // 4 - 1
    while groups and groups[0] == 0:
        groups.pop(0)
        weight -= 1
    while groups and groups[-1] == 0:
        groups.pop()
    if not groups:
        sign, weight = 0, 0
    head = struct.pack(">hhHh", len(groups), weight, 0x4000 if sign else 0, scale)
    return head + struct.pack(f">{len(groups)}h", *groups)
