"""Merged groups of the fused aggregate as carrier columns, of exactly the types PostgreSQL gives them."""

from __future__ import annotations

import decimal
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orochi import pgtypes
from orochi.engine import contract, copybinary, grouping, native, shapes

Vector = npt.NDArray[Any]

#: PostgreSQL's division: significant digits of a quotient at least, digits of a group.
_QUOTIENT_DIGITS, _GROUP_DIGITS = 16, 4


def of_groups(
    shape: shapes.Shape, groups: grouping.Partial, outputs: Sequence[contract.OutputColumn]
) -> pa.RecordBatch:
    """A row a group.

    Raises:
        Unsupported: a column has not the type that the shape gives.
    """
    arrays = [_array(output, groups, column) for output, column in zip(shape.outputs, outputs, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=copybinary.schema(outputs))


def _array(output: shapes.Output, groups: grouping.Partial, column: contract.OutputColumn) -> pa.Array:
    carrier, oid = pgtypes.carrier(column.type_oid), column.type_oid
    if output.kind == "key":
        key = groups.keys[output.index]
        key = key.dictionary_decode() if pa.types.is_dictionary(key.type) else key
        return key if key.type == carrier else key.cast(carrier)
    if output.kind == "count":
        counts = groups.valued[output.column] if output.column else groups.counts
        return _typed(counts, None, oid, {pgtypes.INT8})
    valued = groups.valued[output.column]
    missing = valued == 0
    if output.kind in ("min", "max"):
        return _typed(groups.states[output.kind, output.column], missing, oid, None)
    sums = groups.states["sum", output.column]
    if output.kind == "moment":
        element = (valued.astype(np.float64), sums, np.zeros(len(sums)))[output.index - 1]
        return _typed(element, None, oid, {pgtypes.FLOAT8})
    if sums.dtype.kind == "f":
        if not np.isfinite(sums).all():
            raise native.Unsupported("a sum that is not finite")
        values = sums / np.maximum(valued, 1) if output.kind == "avg" else sums
        return _typed(values, missing, oid, {pgtypes.FLOAT8})
    if output.kind == "sum" and oid == pgtypes.INT8:
        return _typed(sums, missing, oid, None)
    if oid != pgtypes.NUMERIC:
        raise native.Unsupported(f"{output.kind} is not of type {oid}")
    pairs = zip(sums.tolist(), valued.tolist(), strict=True)
    numbers = (_average(total, count) if output.kind == "avg" else (total, 0) for total, count in pairs)
    return pa.array(
        [None if gone else _binary(*number) for number, gone in zip(numbers, missing, strict=True)],
        pa.binary(),
    )


def _typed(values: Vector, missing: Vector | None, oid: int, allowed: set[int] | None) -> pa.Array:
    if allowed is not None and oid not in allowed:
        raise native.Unsupported(f"a result is not of type {oid}")
    carrier = pgtypes.carrier(oid)
    if missing is not None and missing.any():
        values = np.where(missing, 0, values)
        return pa.array(values, mask=missing).cast(carrier)
    found = pa.array(values)
    return found if found.type == carrier else found.cast(carrier)


def _binary(value: int, scale: int) -> bytes:
    digits = tuple(int(digit) for digit in str(abs(value)))
    return native.numeric_binary(decimal.Decimal((int(value < 0), digits, -scale)))


def _average(total: int, count: int) -> tuple[int, int]:
    """`total / count` as PostgreSQL's numeric: digits and scale; (0, 0) for no rows."""
    if count == 0:
        return 0, 0
    scale = _scale(abs(total), count)
    numerator = abs(total) * 10**scale
    quotient = (2 * numerator + count) // (2 * count)  # half away from zero
    return (-quotient if total < 0 else quotient), scale


def _scale(dividend: int, divisor: int) -> int:
    """The scale that PostgreSQL chooses for a quotient of whole numbers."""
    weight1, first1 = _leading(dividend)
    weight2, first2 = _leading(divisor)
    weight = weight1 - weight2 - (1 if first1 <= first2 else 0)
    return min(max(_QUOTIENT_DIGITS - weight * _GROUP_DIGITS, 0), 1000)


def _leading(value: int) -> tuple[int, int]:
    """Weight and value of the first group of four digits; of zero (0, 0)."""
    text = str(value)
    weight = (len(text) - 1) // _GROUP_DIGITS
    return weight, int(text[: len(text) - weight * _GROUP_DIGITS])
