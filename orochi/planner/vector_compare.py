"""Comparisons of the vectorised engine's expressions, by PostgreSQL's rules for their types."""

from __future__ import annotations

from orochi import pgtypes
from orochi.planner import literals
from orochi.planner import vector_values as values
from orochi.planner.vector_values import Kind, NotVectorised, Value

_EQUALITIES = frozenset({"=", "<>"})
NAMES = literals.COMPARISONS | {"<>"}


def compare(name: str, left: Value, right: Value, zone: literals.Zone) -> str:
    """`left name right`, in parentheses.

    Args:
        name: one of `= <> < <= > >=`.
        left: one side.
        right: the other; at most one is a constant without a type.
        zone: the session's settings.
    """
    if left.kind is Kind.UNKNOWN or (_is_number(left) and not _is_number(right)):
        left, right = right, left
        name = name if name in _EQUALITIES else literals.flipped(name)
    if left.kind is Kind.UNKNOWN:
        raise NotVectorised
    if right.kind is Kind.UNKNOWN or (_is_number(right) and left.kind in (Kind.FLOAT, Kind.INTEGER)):
        found = _with_constant(name, left, right, zone)
        if found is not None:
            return found
    if left.kind in values.NUMBERS and right.kind in values.NUMBERS:
        return f"({left.sql} {name} {right.sql})"
    if left.kind is right.kind and left.kind in (Kind.TIME, Kind.BOOLEAN, Kind.FLOAT):
        if left.oid != right.oid:
            raise NotVectorised
        return f"({left.sql} {name} {right.sql})"
    if {left.kind, right.kind} <= {Kind.TEXT, Kind.PADDED}:
        return _texts(name, left, right, zone)
    raise NotVectorised


def _is_number(value: Value) -> bool:
    return value.constant is not None and value.kind in values.EXACT


def _with_constant(name: str, left: Value, right: Value, zone: literals.Zone) -> str | None:
    """A comparison with a constant; None where it is one of numbers like any other."""
    constant = right.constant
    if constant is None:
        raise NotVectorised
    if constant.text is None:
        return f"({left.sql} = NULL)"
    if left.kind in (Kind.TEXT, Kind.PADDED):
        return _texts(name, left, values.as_text(right), zone)
    if left.kind in (Kind.DECIMAL, Kind.NUMBER) and constant.oid == pgtypes.UNKNOWN:
        number = values.constant(literals.Constant(pgtypes.NUMERIC, constant.text))
        return f"({left.sql} {name} {number.sql})"
    if left.kind not in (Kind.TIME, Kind.INTEGER, Kind.FLOAT):
        raise NotVectorised
    negated = name == "<>"
    found = literals.compare(left.oid, "=" if negated else name, constant, zone)
    if found is None:
        if left.kind is Kind.INTEGER and right.kind in values.EXACT:
            return None
        raise NotVectorised
    sql = f"({left.sql} {found[0]} {values.literal(left.oid, found[1])})"
    return f"(NOT {sql})" if negated else sql


def _texts(name: str, left: Value, right: Value, zone: literals.Zone) -> str:
    if name not in _EQUALITIES and not zone.bytewise:
        raise NotVectorised
    if left.kind is Kind.TEXT and right.kind is Kind.PADDED:
        left, right = right, left
        name = name if name in _EQUALITIES else literals.flipped(name)
    if left.kind is Kind.PADDED and right.kind is Kind.TEXT:
        constant = right.constant
        if constant is not None and constant.oid == pgtypes.UNKNOWN and constant.text is not None:
            # it is read as `character`: blanks at its end do not count either
            bare = constant.text.rstrip(" ")
            if name in _EQUALITIES and len(bare) <= left.digits:
                return f"({left.sql} {name} {values.text(bare.ljust(left.digits))})"
            right = Value(values.text(bare), Kind.TEXT, pgtypes.TEXT)
        elif right.oid != pgtypes.TEXT:
            raise NotVectorised
    elif left.kind is Kind.PADDED and left.digits == right.digits and name in _EQUALITIES:
        return f"({left.sql} {name} {right.sql})"
    return f"({values.stripped(left).sql} {name} {values.stripped(right).sql})"
