"""A scan's predicates as SQL over its heap relation, so that partitions and indexes serve it.

Predicates are implied by the query, so one that has no certain SQL form is left out.
"""

from __future__ import annotations

from orochi import pgtypes
from orochi.engine import contract, placeholders
from orochi.storage.columnar import predicates

_OPERATORS = frozenset({"=", "<", "<=", ">", ">="})
_EXTREMES = {
    pgtypes.DATE: (-(2**31), 2**31 - 1),
    pgtypes.TIMESTAMP: (-(2**63), 2**63 - 1),
    pgtypes.TIMESTAMPTZ: (-(2**63), 2**63 - 1),
}


def rows_sql(scan: contract.Scan) -> str:
    """A SELECT of the heap rows that can matter to the scan, with its columns."""
    names = ", ".join(placeholders.quote(column.name) for column in scan.columns)
    return f"SELECT {names} FROM {scan.relation}{where(scan)}"


def where(scan: contract.Scan) -> str:
    """` WHERE ...`, or nothing."""
    types = {column.name: column.type_oid for column in scan.columns}
    conditions = [
        condition
        for predicate in scan.predicates
        if (condition := _condition(predicate, types.get(predicate.column))) is not None
    ]
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _condition(predicate: predicates.Predicate, type_oid: int | None) -> str | None:
    name = placeholders.quote(predicate.column)
    if predicate.op == "isnull":
        return f"{name} IS NULL"
    if predicate.op == "notnull":
        return f"{name} IS NOT NULL"
    if type_oid is None:
        return None
    literals = [_literal(value, type_oid) for value in predicate.values]
    if not literals or None in literals:
        return None
    if predicate.op in _OPERATORS and len(literals) == 1:
        return f"{name} {predicate.op} {literals[0]}"
    if predicate.op == "in":
        return f"{name} IN ({', '.join(literal for literal in literals if literal)})"
    return None


def _literal(value: object, type_oid: int) -> str | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    if type_oid in pgtypes.INTEGERS:
        return f"'{value}'::int8"
    if value in _EXTREMES.get(type_oid, ()):
        return None
    if type_oid == pgtypes.DATE:
        return f"('2000-01-01'::date + ({value}))"
    moment = f"('2000-01-01 00:00:00'::timestamp + '{value} microseconds'::interval)"
    if type_oid == pgtypes.TIMESTAMPTZ:
        return f"({moment} AT TIME ZONE 'UTC')"  # immutable, so that partitions are excluded by planning
    return moment if type_oid == pgtypes.TIMESTAMP else None
