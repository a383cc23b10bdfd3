"""Constants: from the tree to carrier values, and from values to SQL literals, exactly or not at all.

Pruning compares carrier values (`orochi.pgtypes`). A constant whose meaning for a column is not
certain here gives no restriction: pruning less is slow, pruning wrongly loses rows.
"""

from __future__ import annotations

import dataclasses
import fractions
import re
from collections.abc import Iterable

import numpy as np

from orochi import pgtypes
from orochi.planner import tree
from orochi.planner.tree import ast
from orochi.sharding import values

#: Names a type may be written with, in a tree or by `format_type`.
TYPE_OIDS: dict[str, int] = {
    "bool": pgtypes.BOOL,
    "boolean": pgtypes.BOOL,
    "int2": pgtypes.INT2,
    "smallint": pgtypes.INT2,
    "int4": pgtypes.INT4,
    "integer": pgtypes.INT4,
    "int8": pgtypes.INT8,
    "bigint": pgtypes.INT8,
    "float4": pgtypes.FLOAT4,
    "real": pgtypes.FLOAT4,
    "float8": pgtypes.FLOAT8,
    "double precision": pgtypes.FLOAT8,
    "numeric": pgtypes.NUMERIC,
    "text": pgtypes.TEXT,
    "varchar": pgtypes.VARCHAR,
    "character varying": pgtypes.VARCHAR,
    "bpchar": pgtypes.BPCHAR,
    "date": pgtypes.DATE,
    "time": pgtypes.TIME,
    "timestamp": pgtypes.TIMESTAMP,
    "timestamp without time zone": pgtypes.TIMESTAMP,
    "timestamptz": pgtypes.TIMESTAMPTZ,
    "timestamp with time zone": pgtypes.TIMESTAMPTZ,
    "interval": pgtypes.INTERVAL,
    "money": pgtypes.MONEY,
    "uuid": pgtypes.UUID,
    "json": pgtypes.JSON,
    "jsonb": pgtypes.JSONB,
    "bytea": pgtypes.BYTEA,
    "oid": pgtypes.OID,
    "unknown": pgtypes.UNKNOWN,
}
#: What `format_type` prints for these means a length of one when it is read back in a cast.
_UNSIZED = {"character": "bpchar", "bit": '"bit"', "character[]": "bpchar[]", "bit[]": '"bit"[]'}
_NUMBERS = pgtypes.INTEGERS | pgtypes.FLOATS | {pgtypes.NUMERIC}
_TEXTS = frozenset({pgtypes.TEXT, pgtypes.VARCHAR})
_DECIMAL = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?\s*")
_NO_OFFSET = re.compile(r"\s*\d{4}-\d{1,2}-\d{1,2}([ T]\d{1,2}:\d{2}(:\d{2}(\.\d{1,6})?)?)?\s*")
_DAY = 86_400_000_000
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "="}
COMPARISONS = frozenset(_FLIPPED)


@dataclasses.dataclass(frozen=True, slots=True)
class Literal:
    """A typed constant; `text` in the type's input form, None for NULL. `type_oid` 0: only the name is known."""

    type_oid: int
    type_name: str
    text: str | None

    @property
    def oid(self) -> int:
        """The type's OID, found by name where it was not given; 0 if it is none known here."""
        return self.type_oid or TYPE_OIDS.get(self.type_name, 0)

    @property
    def sql(self) -> str:
        """The constant as an SQL expression, safe in any place and under any setting."""
        name = _UNSIZED.get(self.type_name, self.type_name)
        return f"({'NULL' if self.text is None else quote(self.text)}::{name})"


class NeedsFolding(Exception):
    """Planning needs values that only the client's session can tell.

    Evaluate every expression once, on the client's session and in its transaction, add the typed
    results to `PlanContext.folded` under the expression's text, and plan again.
    """

    def __init__(self, expressions: Iterable[str]) -> None:
        self.expressions = tuple(dict.fromkeys(expressions))
        super().__init__(", ".join(self.expressions))


@dataclasses.dataclass(frozen=True, slots=True)
class Constant:
    """A constant of a tree: its type (UNKNOWN for an untyped string or NULL) and its text."""

    oid: int
    text: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Zone:
    """What reading a constant depends on: the session's TimeZone, and whether text compares bytewise."""

    timezone: str
    bytewise: bool


def quote(text: str) -> str:
    """A string literal that means `text` whatever `standard_conforming_strings` says."""
    quoted = "'" + text.replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def type_oid(name: tree.Node) -> int:
    """The OID of a built-in scalar type given by a TypeName without modifiers; 0 for any other."""
    parts = tree.strings(name.names)
    if name.typmods or name.arrayBounds or name.setof or name.pct_type:
        return 0
    if len(parts) > 1 and parts[0] != "pg_catalog":
        return 0
    return TYPE_OIDS.get(parts[-1], 0)


def constant(node: tree.Node) -> Constant | None:
    """The constant that `node` is, or None."""
    if isinstance(node, ast.A_Const):
        return _plain(node)
    if isinstance(node, ast.TypeCast):
        inside, oid = constant(node.arg), type_oid(node.typeName)
        if inside is None or not oid:
            return None
        if inside.oid in (pgtypes.UNKNOWN, oid) or inside.text is None:
            return Constant(oid, inside.text)
        if inside.oid in pgtypes.INTEGERS and oid in (*pgtypes.INTEGERS, pgtypes.NUMERIC):
            return Constant(oid, inside.text)
        if inside.oid in (*pgtypes.INTEGERS, pgtypes.NUMERIC) and oid == pgtypes.FLOAT8:
            return Constant(oid, inside.text)
    return None


def _plain(node: tree.Node) -> Constant | None:
    if node.isnull:
        return Constant(pgtypes.UNKNOWN, None)
    value = node.val
    if isinstance(value, ast.Integer):
        return Constant(pgtypes.INT4, str(value.ival or 0))
    if isinstance(value, ast.Float):
        try:
            number = int(value.fval)
        except ValueError:
            return Constant(pgtypes.NUMERIC, value.fval)
        if -(2**31) <= number < 2**31:
            return Constant(pgtypes.INT4, value.fval)
        return Constant(pgtypes.INT8 if -(2**63) <= number < 2**63 else pgtypes.NUMERIC, value.fval)
    if isinstance(value, ast.String):
        return Constant(pgtypes.UNKNOWN, value.sval)
    if isinstance(value, ast.Boolean):
        return Constant(pgtypes.BOOL, "t" if value.boolval else "f")
    return None


def flipped(name: str) -> str:
    """The comparison that `b op a` is when `a name b` is meant."""
    return _FLIPPED[name]


Bound = tuple[str, int | float | str]


def compare(column: int, name: str, value: Constant, zone: Zone) -> Bound | None:
    """`column name value` as a comparison of carrier values; None when that is not certain.

    Args:
        column: the column's base type.
        name: one of `= < <= > >=`.
        value: a constant that is not NULL.
        zone: the session's settings.

    Returns:
        The operator and the carrier value; an `=` that no value satisfies comes back as None too.
    """
    if value.text is None:
        return None
    if column in pgtypes.INTEGERS:
        return _compare_integer(column, name, value)
    if column in pgtypes.FLOATS:
        return _compare_float(column, name, value)
    if column in pgtypes.TIMES:
        return _compare_time(column, name, value, zone)
    if column in _TEXTS and value.oid in (*_TEXTS, pgtypes.UNKNOWN):
        return (name, value.text) if name == "=" or zone.bytewise else None
    return None


def _compare_integer(column: int, name: str, value: Constant) -> Bound | None:
    assert value.text is not None
    if value.oid == pgtypes.UNKNOWN or value.oid in pgtypes.INTEGERS:
        read = values.from_text(column if value.oid == pgtypes.UNKNOWN else pgtypes.INT8, value.text)
        return (name, read) if isinstance(read, int) else None
    if value.oid == pgtypes.NUMERIC and _DECIMAL.fullmatch(value.text):
        return _rounded(name, fractions.Fraction(value.text.strip()))
    return None


def _rounded(name: str, exact: fractions.Fraction) -> Bound | None:
    """A comparison of integers with a fraction as one with an integer."""
    floor = exact.numerator // exact.denominator
    if exact == floor:
        return name, floor
    return {"<": ("<=", floor), "<=": ("<=", floor), ">": (">", floor), ">=": (">", floor)}.get(name)


def _compare_float(column: int, name: str, value: Constant) -> Bound | None:
    assert value.text is not None
    if value.oid not in (*_NUMBERS, pgtypes.UNKNOWN) or not _DECIMAL.fullmatch(value.text):
        return None
    number = float(value.text)
    if not np.isfinite(number):
        return None
    if column == pgtypes.FLOAT4:
        if value.oid in (pgtypes.UNKNOWN, pgtypes.FLOAT4):
            return _as_float4(name, value.text.strip())
        if value.oid in pgtypes.INTEGERS and abs(number) >= 2**24:
            return None
    return name, number


def _as_float4(name: str, text: str) -> Bound | None:
    """A comparison with the float4 nearest to a decimal, as float4in reads it: rounded once, not by way of float8."""
    with np.errstate(over="ignore"):
        near = np.float32(float(text))
    if not np.isfinite(near):
        return None
    exact = fractions.Fraction(text)
    around = (near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf)))
    finite = [float(item) for item in around if np.isfinite(item)]
    return name, min(finite, key=lambda item: abs(fractions.Fraction(item) - exact))


def _compare_time(column: int, name: str, value: Constant, zone: Zone) -> Bound | None:
    assert value.text is not None
    if value.oid in (column, pgtypes.UNKNOWN):
        return _time(column, name, value.text, zone)
    if column == pgtypes.TIMESTAMPTZ and value.oid in (pgtypes.TIMESTAMP, pgtypes.DATE):
        # the constant is taken as local time of the session
        return _time(column, name, value.text, zone) if _NO_OFFSET.fullmatch(value.text) else None
    if not _NO_OFFSET.fullmatch(value.text):
        return None
    if column == pgtypes.TIMESTAMP and value.oid == pgtypes.DATE:
        return _time(column, name, value.text, zone)
    if column == pgtypes.DATE and value.oid == pgtypes.TIMESTAMP:
        read = values.from_text(pgtypes.TIMESTAMP, value.text)
        return _rounded(name, fractions.Fraction(read, _DAY)) if isinstance(read, int) else None
    return None


def _time(oid: int, name: str, text: str, zone: Zone) -> Bound | None:
    read = values.from_text(oid, text, zone.timezone)
    return (name, read) if isinstance(read, int) else None


def hashable(column: int, value: Constant, zone: Zone) -> int | str | bytes | None:
    """The carrier value that the rows equal to `value` have in a distribution column; None if unsure."""
    if value.text is None:
        return None
    if column == pgtypes.UUID:
        return values.from_text(column, value.text) if value.oid in (column, pgtypes.UNKNOWN) else None
    bound = compare(column, "=", value, zone)
    if bound is None or isinstance(bound[1], float):
        return None
    return bound[1]


def elements(node: tree.Node) -> tuple[Constant, ...] | None:
    """The constants of `ARRAY[...]` or of a one-dimensional array literal of a plain type, or None."""
    if isinstance(node, ast.A_ArrayExpr):
        found = tuple(constant(item) for item in node.elements or ())
        return None if any(item is None for item in found) else found  # type: ignore[return-value]
    if not isinstance(node, ast.TypeCast) or not node.typeName.arrayBounds:
        return None
    element = tree.changed(node.typeName, arrayBounds=None)
    oid = type_oid(element)
    if not oid or len(node.typeName.arrayBounds) != 1:
        return None
    if isinstance(node.arg, ast.A_ArrayExpr):
        inside = elements(node.arg)
        if inside is None or any(item.oid not in (pgtypes.UNKNOWN, oid) for item in inside):
            return None
        return tuple(Constant(oid, item.text) for item in inside)
    text = constant(node.arg)
    if text is None or text.text is None or text.oid != pgtypes.UNKNOWN:
        return None
    items = array_items(text.text)
    return None if items is None else tuple(Constant(oid, item) for item in items)


_ITEM = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^",{}\\]*[^",{}\\\s]))\s*(,|$)')


def array_items(text: str) -> list[str | None] | None:
    """The elements of a one-dimensional array literal, or None for any other form."""
    text = text.strip()
    if not (text.startswith("{") and text.endswith("}")):
        return None
    body = text[1:-1]
    items: list[str | None] = []
    at = 0
    while at < len(body):
        match = _ITEM.match(body, at)
        if match is None or (match.group(3) == "," and match.end() == len(body)):
            return None if body.strip() or items else []
        quoted, bare = match.group(1), match.group(2)
        if quoted is not None:
            items.append(re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL))
        else:
            items.append(None if bare.lower() == "null" else bare)
        at = match.end()
    return items
