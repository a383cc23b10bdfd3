"""Aggregates that stand in a sub-SELECT and belong to a query around it.

PostgreSQL evaluates an aggregate at the innermost level whose columns its arguments name: in
`SELECT (SELECT max(o.a)) FROM o` it is the outer query that aggregates, and has one row.
"""

from __future__ import annotations

from collections.abc import Iterator

from orochi.planner import invoked, names, prepare, tree
from orochi.planner.tree import ast


def lifts_aggregates(prepared: prepare.Prepared) -> bool:
    """Whether an aggregate of a sub-SELECT belongs to an outer query, or may: unknown names count so."""
    inner = [level for level in prepared.scopes.levels if level.outer is not None]
    if not inner:
        return False
    levels = {id(node): level for node, level in prepared.scopes.columns}
    return any(_is_outer(call, level, levels) for level in inner for call in _aggregates(level, prepared))


def _aggregates(level: names.Level, prepared: prepare.Prepared) -> Iterator[tree.Node]:
    parts = tuple(
        getattr(level.stmt, name)
        for name in tree.fields(level.stmt)
        if name not in ("larg", "rarg", "withClause") and getattr(level.stmt, name) is not None
    )
    for node in tree.walk(parts, stop=(ast.SelectStmt,)):
        is_call = isinstance(node, ast.FuncCall)  # of an aggregate as a window function too
        if (is_call and prepared.ctx.builtins.is_aggregate(tree.strings(node.funcname))) or (
            invoked.is_aggregate(node, prepared.ctx.builtins)
        ):
            yield node


def _is_outer(call: tree.Node, level: names.Level, levels: dict[int, names.Level]) -> bool:
    parts = (call.args or (), call.agg_order or ()) if isinstance(call, ast.FuncCall) else (call,)
    owners = [
        _owner(node, levels[id(node)])
        for node in tree.walk(parts)
        if isinstance(node, ast.ColumnRef) and id(node) in levels
    ]
    around = [owner for owner in owners if owner is None or not owner.is_below(level)]
    return bool(around) and not any(owner is level for owner in around)


def _owner(node: tree.Node, level: names.Level) -> names.Level | None:
    """The level whose FROM a column reference names; None if that is not known."""
    parts = tree.strings(node.fields)
    current: names.Level | None = level
    while current is not None:
        for item in current.relations.values():
            if item.alias == (parts[0] if len(parts) < 3 else parts[-2]):
                return current
            if len(parts) == 1 and isinstance(item, names.Reference) and parts[0] in item.visible:
                return current
            if len(parts) == 1 and isinstance(item, names.Other):
                if item.columns is None:
                    return None
                if parts[0] in item.columns:
                    return current
        current = current.outer
    return None
