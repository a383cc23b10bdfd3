"""Predicates applied exactly to carrier columns, a whole stripe at a time.

Ranges over integers are compiled loops, over floats one numexpr expression; sets and strings go through pyarrow.
Semantics are those of `predicates`: null passes only `isnull`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numexpr
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from orochi.storage.columnar import predicates, range_kernels
from orochi.storage.compression import buffers

Mask = npt.NDArray[np.bool_]
#: What ranges have a compiled loop for.
_COMPILED = frozenset({np.dtype(np.int32), np.dtype(np.int64)})


def mask(columns: Mapping[str, pa.Array], wanted: Sequence[predicates.Predicate]) -> Mask | None:
    """Which rows pass all predicates; None when all do. Each column named must be given."""
    conditions = [
        (columns[predicate.column], predicates.condition(predicate, columns[predicate.column].type))
        for predicate in wanted
    ]
    return evaluate(conditions)


def evaluate(conditions: Sequence[tuple[pa.Array, predicates.Condition]]) -> Mask | None:
    """`mask` for predicates already reduced, each with its column."""
    passed: Mask | None = None
    numeric: list[tuple[pa.Array, predicates.Range]] = []
    for array, condition in conditions:
        if isinstance(condition, predicates.Nothing):
            return np.zeros(len(array), np.bool_)
        if pa.types.is_null(array.type):
            if isinstance(condition, predicates.Range | predicates.Members):
                return np.zeros(len(array), np.bool_)
            continue
        if isinstance(condition, predicates.Range) and buffers.dtype_of(array.type) is not None:
            numeric.append((array, condition))
        else:
            passed = _both(passed, _one(array, condition))
    if numeric:
        passed = _both(passed, _ranges(numeric))
    if passed is not None and passed.all():
        return None
    return passed


def _ranges(wanted: Sequence[tuple[pa.Array, predicates.Range]]) -> Mask | None:
    """All numeric ranges in one expression, less the nulls."""
    terms: list[str] = []
    names: dict[str, Any] = {}
    passed: Mask | None = None
    for array, condition in wanted:
        passed = _both(passed, _valid(array))
        values = buffers.values(array)
        if values.dtype in _COMPILED:
            passed = _both(passed, _within(values, condition))
            continue
        if values.dtype.kind == "f":
            values = _doubles(values)
        name = f"c{len(names)}"
        before = len(terms)
        terms.extend(_terms(name, names, condition, values))
        if len(terms) > before:
            names[name] = values
    if not terms or not any(isinstance(value, np.ndarray) and value.size for value in names.values()):
        return passed
    found = numexpr.evaluate(" & ".join(terms), local_dict=names, global_dict={})
    return _both(passed, np.asarray(found, np.bool_))


def _within(values: buffers.Vector, wanted: predicates.Range) -> Mask | None:
    """Integers in a range, in one loop."""
    if wanted.low is None and wanted.high is None:
        return None
    limits = np.iinfo(values.dtype)
    low = limits.min if wanted.low is None else wanted.low + wanted.low_open
    high = limits.max if wanted.high is None else wanted.high - wanted.high_open
    found = np.zeros(len(values), np.bool_)
    if low <= high and low <= limits.max and high >= limits.min:
        kind = values.dtype.type
        range_kernels.within(values, kind(max(low, limits.min)), kind(min(high, limits.max)), found)
    return found


def _terms(name: str, names: dict[str, Any], wanted: predicates.Range, values: buffers.Vector) -> list[str]:
    """Comparisons for one range; operands are added to `names`."""
    floating = values.dtype.kind == "f"
    if predicates.is_nan(wanted.low):
        return [f"({name} != {name})"]
    kind = np.float64 if floating else np.int64
    terms: list[str] = []
    if wanted.low is not None:
        operand = f"{name}_low"
        names[operand] = kind(wanted.low)
        term = f"({name} {'>' if wanted.low_open else '>='} {operand})"
        if floating and wanted.high is None:
            term = f"({term} | ({name} != {name}))"
        terms.append(term)
    if wanted.high is not None and not predicates.is_nan(wanted.high):
        operand = f"{name}_high"
        names[operand] = kind(wanted.high)
        terms.append(f"({name} {'<' if wanted.high_open else '<='} {operand})")
    return terms


def _one(array: pa.Array, condition: predicates.Condition) -> Mask | None:
    """One condition that is not a numeric range."""
    if isinstance(condition, predicates.Anything):
        return None
    if pa.types.is_dictionary(array.type):
        return _coded(array, condition)
    if isinstance(condition, predicates.IsNull):
        return _flags(array.is_null())
    if isinstance(condition, predicates.Members):
        return _members(array, condition)
    if isinstance(condition, predicates.Range):
        return _byte_range(array, condition)
    return np.zeros(len(array), np.bool_)


def _coded(array: pa.Array, condition: predicates.Condition) -> Mask | None:
    """A condition decided once for each value of a dictionary."""
    valid = _valid(array)
    if isinstance(condition, predicates.IsNull):
        return np.zeros(len(array), np.bool_) if valid is None else ~valid
    passed = evaluate([(array.dictionary, condition)])
    if passed is None or not len(passed):
        return valid
    return _both(valid, passed[buffers.values(array.indices)])


def _byte_range(array: pa.Array, wanted: predicates.Range) -> Mask | None:
    """A range over strings, binary or booleans."""
    passed = _valid(array)
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int32())
    elif pa.types.is_string(array.type):
        array = array.view(pa.binary())
    low, high = (bound.encode() if isinstance(bound, str) else bound for bound in (wanted.low, wanted.high))
    if low is not None and low == high:
        return _both(passed, _flags(pc.equal(array, pa.scalar(low, array.type))))
    if low is not None:
        compare = pc.greater if wanted.low_open else pc.greater_equal
        passed = _both(passed, _flags(compare(array, pa.scalar(low, array.type))))
    if high is not None:
        compare = pc.less if wanted.high_open else pc.less_equal
        passed = _both(passed, _flags(compare(array, pa.scalar(high, array.type))))
    return passed


def _members(array: pa.Array, wanted: predicates.Members) -> Mask:
    if pa.types.is_floating(array.type):
        values = _doubles(buffers.values(array))
        found = np.isin(values, np.array(wanted.values, np.float64))
        if wanted.nan:
            found |= np.isnan(values)
        if array.null_count:
            found &= _flags(array.is_valid())
        return found
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int32())
    return _flags(pc.is_in(array, value_set=pa.array(wanted.values, array.type)))


def _doubles(values: buffers.Vector) -> buffers.Vector:
    with np.errstate(invalid="ignore"):  # signalling NaN
        return values.astype(np.float64, copy=False)


def _valid(array: pa.Array) -> Mask | None:
    return _flags(array.is_valid()) if array.null_count else None


def _flags(array: pa.Array) -> Mask:
    """A boolean array as numpy flags, null as False."""
    if array.null_count:
        array = array.fill_null(False)
    return np.asarray(array.to_numpy(zero_copy_only=False), np.bool_)


def _both(left: Mask | None, right: Mask | None) -> Mask | None:
    if left is None or right is None:
        return right if left is None else left
    return np.logical_and(left, right)
