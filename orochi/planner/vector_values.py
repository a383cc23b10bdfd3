"""Typed expressions of the vectorised engine, and how PostgreSQL's operators act on them.

Every kind is one that the engine holds exactly as PostgreSQL does. Decimals carry their display scale
in their type; where it depends on the row (`CASE ... ELSE 0`), an expression that gives it goes along.
What is not certain to be PostgreSQL's value raises `NotVectorised`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum

from orochi import pgtypes
from orochi.planner import literals

#: Above this many decimals a product has little room left before the point.
_MOST_DECIMALS = 24
_MOST_DIGITS = 38
_EPOCH = dt.datetime(2000, 1, 1)  # noqa: DTZ001
_BITS = {pgtypes.INT2: "SMALLINT", pgtypes.INT4: "INTEGER", pgtypes.INT8: "BIGINT"}
_WIDTH = {pgtypes.INT2: 5, pgtypes.INT4: 10, pgtypes.INT8: 19}


class NotVectorised(Exception):
    """Something is not known to answer as PostgreSQL does."""


class Kind(enum.Enum):
    """What an expression holds."""

    INTEGER = "integer"
    DECIMAL = "decimal"
    #: A numeric whose number of decimals is not known: it is compared, and not shown.
    NUMBER = "number"
    TEXT = "text"
    #: `character(n)`: blanks at the end do not count.
    PADDED = "padded"
    BOOLEAN = "boolean"
    TIME = "time"
    FLOAT = "float"
    #: A constant without a type, which takes the other side's.
    UNKNOWN = "unknown"


EXACT = frozenset({Kind.INTEGER, Kind.DECIMAL})
NUMBERS = EXACT | {Kind.NUMBER}
GROUPED = EXACT | {Kind.TEXT, Kind.PADDED, Kind.BOOLEAN, Kind.TIME}
SHOWN = GROUPED | {Kind.FLOAT}


@dataclasses.dataclass(frozen=True, slots=True)
class Value:
    """An expression.

    Attributes:
        sql: for the engine, safe to put anywhere.
        kind: what it holds.
        oid: PostgreSQL's type of an integer, time, text or float.
        digits, scale: of a decimal; `digits` is the length of padded text too, 0 for none known.
        row_scale: where the scale is not the same for all rows, an expression of the row's.
        constant: what it is a constant of.
    """

    sql: str
    kind: Kind
    oid: int = 0
    digits: int = 0
    scale: int = 0
    row_scale: str | None = None
    constant: literals.Constant | None = None


def column(sql: str, oid: int, typmod: int) -> Value:
    """A column of a scan."""
    if oid in pgtypes.INTEGERS:
        return Value(sql, Kind.INTEGER, oid)
    if oid == pgtypes.NUMERIC:
        if typmod < 0:
            return Value(sql, Kind.NUMBER)
        digits, scale = (typmod - 4 >> 16) & 0xFFFF, (typmod - 4) & 0x7FF
        if digits > 18 or scale > digits:
            raise NotVectorised
        return Value(sql, Kind.DECIMAL, digits=digits, scale=scale)
    if oid in (pgtypes.TEXT, pgtypes.VARCHAR):
        return Value(sql, Kind.TEXT, oid)
    if oid == pgtypes.BPCHAR and typmod > 4:
        return Value(sql, Kind.PADDED, oid, digits=typmod - 4)
    if oid == pgtypes.BOOL:
        return Value(sql, Kind.BOOLEAN, oid)
    if oid in pgtypes.TIMES:
        return Value(sql, Kind.TIME, oid)
    if oid in pgtypes.FLOATS:
        return Value(sql, Kind.FLOAT, oid)
    raise NotVectorised


def text(value: str) -> str:
    """A string constant."""
    if "\0" in value:
        raise NotVectorised
    return "'" + value.replace("'", "''") + "'"


def constant(found: literals.Constant) -> Value:
    """A constant; times stay without SQL until they meet what they are compared with."""
    if found.text is None:
        return Value("NULL", Kind.UNKNOWN, constant=found)
    if found.oid in pgtypes.INTEGERS:
        return Value(
            f"CAST({int(found.text)} AS {_BITS[found.oid]})", Kind.INTEGER, found.oid, constant=found
        )
    if found.oid == pgtypes.NUMERIC:
        return _decimal(found)
    if found.oid == pgtypes.BOOL:
        return Value("TRUE" if found.text in ("t", "true") else "FALSE", Kind.BOOLEAN, found.oid)
    if found.oid in (pgtypes.TEXT, pgtypes.VARCHAR):
        return Value(text(found.text), Kind.TEXT, found.oid, constant=found)
    if found.oid in (pgtypes.UNKNOWN, *pgtypes.TIMES):
        return Value("", Kind.UNKNOWN, found.oid, constant=found)
    raise NotVectorised


def _decimal(found: literals.Constant) -> Value:
    assert found.text is not None
    digits = found.text.strip()
    body = digits.lstrip("+-")
    whole, _, part = body.partition(".")
    if not (whole + part).isdigit() or len(whole + part) > 18:
        raise NotVectorised
    size = max(len(whole.lstrip("0")) + len(part), 1)
    sql = f"CAST('{digits}' AS DECIMAL({size}, {len(part)}))"
    return Value(sql, Kind.DECIMAL, digits=size, scale=len(part), constant=found)


def as_decimal(value: Value) -> Value:
    """An exact number as a decimal."""
    if value.kind is Kind.DECIMAL:
        return value
    if value.kind is not Kind.INTEGER:
        raise NotVectorised
    digits = _WIDTH[value.oid]
    if value.constant is not None and value.constant.text is not None:
        digits = len(str(abs(int(value.constant.text))))
    return Value(f"CAST({value.sql} AS DECIMAL({digits}, 0))", Kind.DECIMAL, digits=digits)


def arithmetic(name: str, left: Value, right: Value) -> Value:
    """`left name right`, of exact numbers; the engine raises what overflows."""
    if left.kind not in EXACT or right.kind not in EXACT or left.row_scale or right.row_scale:
        raise NotVectorised
    if left.kind is right.kind is Kind.INTEGER:
        oid = max(left.oid, right.oid, key=_WIDTH.__getitem__)
        sides = (
            side.sql if side.oid == oid else f"CAST({side.sql} AS {_BITS[oid]})" for side in (left, right)
        )
        return Value(f"({f' {name} '.join(sides)})", Kind.INTEGER, oid)
    one, other = as_decimal(left), as_decimal(right)
    scale = one.scale + other.scale if name == "*" else max(one.scale, other.scale)
    if scale > _MOST_DECIMALS:
        raise NotVectorised
    if name == "*":
        digits = one.digits + other.digits
    else:
        digits = max(one.digits - one.scale, other.digits - other.scale) + scale + 1
    return Value(
        f"({one.sql} {name} {other.sql})", Kind.DECIMAL, digits=min(digits, _MOST_DIGITS), scale=scale
    )


def negative(value: Value) -> Value:
    """`- value`."""
    if value.kind not in EXACT or value.row_scale:
        raise NotVectorised
    return dataclasses.replace(value, sql=f"(-{value.sql})", constant=None)


def stripped(value: Value) -> Value:
    """Padded text as text, without the blanks at its end."""
    if value.kind is Kind.PADDED:
        return Value(f"rtrim({value.sql}, ' ')", Kind.TEXT, pgtypes.TEXT)
    return value


def as_text(value: Value) -> Value:
    """What is to be a text."""
    if value.kind is Kind.UNKNOWN and value.constant is not None and value.oid in (0, pgtypes.UNKNOWN):
        if value.constant.text is None:
            return value
        return Value(text(value.constant.text), Kind.TEXT, pgtypes.TEXT, constant=value.constant)
    found = stripped(value)
    if found.kind is not Kind.TEXT:
        raise NotVectorised
    return found


def unified(values: list[Value], conditions: list[str]) -> Value:
    """The type that the branches of a CASE or COALESCE have together, `sql` still empty.

    Args:
        values: the branches, constants without a type among them.
        conditions: what chooses each, for `row_scale`; the last may be an ELSE, and has none then.
    """
    typed = [value for value in values if value.kind is not Kind.UNKNOWN]
    loose = [value for value in values if value.kind is Kind.UNKNOWN]
    if not typed or any(value.row_scale for value in typed):
        raise NotVectorised
    kinds = {value.kind for value in typed}
    if any(value.constant is None or value.constant.text is not None for value in loose) and kinds != {
        Kind.TEXT
    }:
        raise NotVectorised
    if kinds == {Kind.INTEGER}:
        return Value("", Kind.INTEGER, max((value.oid for value in typed), key=_WIDTH.__getitem__))
    if kinds <= EXACT:
        decimals = [as_decimal(value) for value in typed]
        scale = max(value.scale for value in decimals)
        digits = max(value.digits - value.scale for value in decimals) + scale
        mixed = len({value.scale for value in decimals}) > 1
        listed = _row_scale(values, conditions) if mixed else None
        return Value("", Kind.DECIMAL, digits=min(digits, _MOST_DIGITS), scale=scale, row_scale=listed)
    if (len(kinds) == 1 and kinds <= {Kind.TEXT, Kind.BOOLEAN}) or kinds == {Kind.TIME}:
        if len({value.oid for value in typed}) > 1 and kinds != {Kind.TEXT}:
            raise NotVectorised
        return Value("", typed[0].kind, typed[0].oid)
    raise NotVectorised


def _row_scale(values: list[Value], conditions: list[str]) -> str:
    if not conditions:
        raise NotVectorised
    scales = ["NULL" if value.kind is Kind.UNKNOWN else str(as_decimal(value).scale) for value in values]
    pairs = " ".join(f"WHEN {test} THEN {scale}" for test, scale in zip(conditions, scales, strict=False))
    rest = f" ELSE {scales[-1]}" if len(scales) > len(conditions) else ""
    return f"(CASE {pairs}{rest} END)"


def cast(value: Value, target: Value) -> str:
    """A branch in the type that all branches have."""
    if value.kind is Kind.UNKNOWN:
        return as_text(value).sql if target.kind is Kind.TEXT else "NULL"
    if target.kind is Kind.INTEGER:
        return value.sql if value.oid == target.oid else f"CAST({value.sql} AS {_BITS[target.oid]})"
    if target.kind is Kind.DECIMAL:
        found = as_decimal(value)
        if (found.digits, found.scale) == (target.digits, target.scale):
            return found.sql
        return f"CAST({found.sql} AS DECIMAL({target.digits}, {target.scale}))"
    return value.sql


def literal(type_oid: int, value: float | str) -> str:
    """A carrier value as the engine's constant of the column's native type."""
    if isinstance(value, str):
        if "\0" in value:
            raise NotVectorised
        return "'" + value.replace("'", "''") + "'"
    if type_oid in pgtypes.FLOATS:
        return f"CAST({float(value)!r} AS DOUBLE)"
    number = int(value)
    if type_oid not in pgtypes.TIMES:
        return str(number) if -(2**63) <= number < 2**63 else _refuse()
    try:
        unit = dt.timedelta(days=number) if type_oid == pgtypes.DATE else dt.timedelta(microseconds=number)
        moment = _EPOCH + unit
    except OverflowError:
        return _refuse()
    if type_oid == pgtypes.DATE:
        return f"DATE '{moment:%Y-%m-%d}'" if moment.year >= 1000 else _refuse()
    text = moment.isoformat(sep=" ")
    if moment.year < 1000:
        return _refuse()
    return f"TIMESTAMPTZ '{text}+00'" if type_oid == pgtypes.TIMESTAMPTZ else f"TIMESTAMP '{text}'"


def _refuse() -> str:
    """As an expression: what the engine's constants cannot say."""
    raise NotVectorised
