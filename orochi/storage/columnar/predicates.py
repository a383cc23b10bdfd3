"""Predicates on carrier columns, reduced to intervals and sets.

The skip list and the exact filter both work from the same `Condition`, so pruning and filtering
cannot disagree. PostgreSQL's rules hold: null fails every comparison; for floats NaN equals NaN
and is greater than all else, and -0.0 equals 0.0. Strings and binary compare by bytes: the caller
asks for an order comparison, or for equality of a type whose equal values may differ in bytes
(numeric, padded char), only where bytes decide.

A value that the carrier cannot be compared with makes the predicate say nothing (`Anything`):
predicates only ever remove rows that the query's own WHERE would remove too.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

#: Every integer below is a double of its own.
_EXACT_DOUBLE = 2.0**53


class Predicate(Protocol):
    """`column op values`, raw carrier values; shaped as `orochi.planner.fragment.Predicate`.

    `op` is one of `= < <= > >= in isnull notnull`. For a binary column a `str` value is the
    hexadecimal form of the bytes.
    """

    @property
    def column(self) -> str:
        """The column's name."""

    @property
    def op(self) -> str:
        """The operator."""

    @property
    def values(self) -> tuple[Any, ...]:
        """One operand, several for `in`, none for `isnull` and `notnull`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Anything:
    """Says nothing about a row."""


@dataclasses.dataclass(frozen=True, slots=True)
class Nothing:
    """No row can pass."""


@dataclasses.dataclass(frozen=True, slots=True)
class IsNull:
    """The value is null."""


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """A value that is not null, between bounds; None is unbounded (above: NaN included)."""

    low: Any = None
    high: Any = None
    low_open: bool = False
    high_open: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Members:
    """A value that is one of these (sorted, distinct, NaN apart)."""

    values: tuple[Any, ...]
    nan: bool = False


Condition: TypeAlias = Anything | Nothing | IsNull | Range | Members


def condition(predicate: Predicate, arrow_type: pa.DataType) -> Condition:
    """What `predicate` demands of a value of a column of this carrier type."""
    if predicate.op == "isnull":
        return IsNull()
    if predicate.op == "notnull":
        return Range()
    if predicate.op == "in":
        return _members(predicate.values, arrow_type)
    if predicate.op not in ("=", "<", "<=", ">", ">=") or len(predicate.values) != 1:
        return Anything()
    value = predicate.values[0]
    if value is None:
        return Nothing()
    if pa.types.is_integer(arrow_type) or pa.types.is_boolean(arrow_type):
        return _integer(predicate.op, value, arrow_type)
    if pa.types.is_floating(arrow_type):
        return _float(predicate.op, value)
    return _bytes(predicate.op, value, arrow_type)


def is_nan(value: object) -> bool:
    """Whether a Python value is a float NaN."""
    return isinstance(value, float) and math.isnan(value)


def less(left: Any, right: Any) -> bool:
    """`left < right` in PostgreSQL's order of the carrier."""
    if is_nan(left):
        return False
    return is_nan(right) or bool(left < right)


def _members(values: tuple[Any, ...], arrow_type: pa.DataType) -> Condition:
    found: set[Any] = set()
    nan = False
    for value in values:
        if value is None:
            continue
        single = _single(value, arrow_type)
        if isinstance(single, Anything):
            return single
        if isinstance(single, Range):
            if is_nan(single.low):
                nan = True
            else:
                found.add(single.low)
    if not found and not nan:
        return Nothing()
    return Members(tuple(sorted(found)), nan)


def _single(value: Any, arrow_type: pa.DataType) -> Condition:
    if pa.types.is_integer(arrow_type) or pa.types.is_boolean(arrow_type):
        return _integer("=", value, arrow_type)
    if pa.types.is_floating(arrow_type):
        return _float("=", value)
    return _bytes("=", value, arrow_type)


def _limits(arrow_type: pa.DataType) -> tuple[int, int]:
    if pa.types.is_boolean(arrow_type):
        return 0, 1
    if pa.types.is_unsigned_integer(arrow_type):
        return 0, (1 << arrow_type.bit_width) - 1
    return -(1 << arrow_type.bit_width - 1), (1 << arrow_type.bit_width - 1) - 1


def _integer(op: str, value: Any, arrow_type: pa.DataType) -> Condition:
    """Integer comparisons as a closed interval.

    A float operand is exact below 2**53; above, PostgreSQL would round the *column* to a double.
    """
    least, most = _limits(arrow_type)
    if isinstance(value, float):
        if math.isnan(value):
            return Range() if op in ("<", "<=") else Nothing()
        if math.isinf(value):
            inside = value > 0 if op in ("<", "<=") else value < 0
            return Range() if inside and op != "=" else Nothing()
        if abs(value) >= _EXACT_DOUBLE:
            return Anything()
        floor, ceiling = math.floor(value), math.ceil(value)
        if op == "=" and floor != ceiling:
            return Nothing()
        lower, upper = (ceiling - 1, floor + 1)  # of the integers strictly below, above
    elif isinstance(value, int):
        floor = ceiling = int(value)
        lower, upper = floor - 1, floor + 1
    else:
        return Anything()
    low, high = {
        "=": (floor, floor),
        "<": (least, lower),
        "<=": (least, floor),
        ">": (upper, most),
        ">=": (ceiling, most),
    }[op]
    low, high = max(low, least), min(high, most)
    return Range(low, high) if low <= high else Nothing()


def _float(op: str, value: Any) -> Condition:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return Anything()
    try:
        value = float(value)
    except OverflowError:
        return Anything()
    if math.isnan(value):
        found: dict[str, Condition] = {
            "=": Range(math.nan, math.nan),
            ">=": Range(math.nan, math.nan),
            ">": Nothing(),
            "<": Range(None, math.inf),
            "<=": Range(),
        }
        return found[op]
    return {
        "=": Range(value, value),
        "<": Range(None, value, high_open=True),
        "<=": Range(None, value),
        ">": Range(value, None, low_open=True),
        ">=": Range(value, None),
    }[op]


def _bytes(op: str, value: Any, arrow_type: pa.DataType) -> Condition:
    if pa.types.is_binary(arrow_type):
        if isinstance(value, str):
            try:
                value = bytes.fromhex(value)
            except ValueError:
                return Anything()
        if not isinstance(value, bytes):
            return Anything()
    elif not isinstance(value, str):
        return Anything()
    return {
        "=": Range(value, value),
        "<": Range(None, value, high_open=True),
        "<=": Range(None, value),
        ">": Range(value, None, low_open=True),
        ">=": Range(value, None),
    }[op]
