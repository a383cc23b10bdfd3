"""Rows that PostgreSQL knows it need not read, which matters to what may fail on one: said in WHERE too.

HAVING without GROUP BY and aggregates: the only group is there whatever FROM gives. Terms of HAVING that are one value
for all rows of a group, or that hold for no group, are a gate to WHERE as well. Aggregates inside of what is NULL anyway
are not computed; where a single table has no others, it is not scanned.
"""

from __future__ import annotations

from orochi.planner import context, nulls, parse, tree
from orochi.planner.tree import ast

_AGGREGATES = (ast.JsonArrayAgg, ast.JsonObjectAgg, ast.GroupingFunc)


_NEVER = ast.A_Const(isnull=False, val=ast.Boolean(boolval=False))


def gated(statement: parse.Statement, ctx: context.PlanContext) -> parse.Statement:
    """`statement` with what rules out all rows put into WHERE too; as it is where nothing does."""
    below: list[tree.Node] = []  # statements that were looked at themselves

    def gate(node: tree.Node) -> tree.Node | None:
        if not isinstance(node, ast.SelectStmt) or not node.fromClause or any(node is item for item in below):
            return None
        terms = _of_having(node, ctx) if node.havingClause is not None else _of_aggregates(node, ctx)
        if not terms:
            return None
        below.append(tree.changed(node, havingClause=None))
        inner = tree.transform(below[-1], gate)
        where = tree.conjunction(tree.conjuncts(inner.whereClause) + terms)
        return tree.changed(inner, havingClause=node.havingClause, whereClause=where)

    try:
        found = tree.transform(statement.tree, gate)
        return statement if found is statement.tree else parse.parse_one(parse.deparse(found))
    except parse.CannotDeparse:
        return statement


def _of_having(node: tree.Node, ctx: context.PlanContext) -> tuple[tree.Node, ...]:
    """What HAVING says of WHERE."""
    terms = tree.conjuncts(node.havingClause)
    if any(isinstance(item, ast.GroupingSet) for item in node.groupClause or ()):
        return ()
    if any(nulls.never(term) for term in terms):
        return (_NEVER,)
    if not node.groupClause:
        parts = (node.targetList or (), node.havingClause, node.sortClause or (), node.distinctClause or ())
        if not any(_may_aggregate(part, ctx) for part in parts):
            return (_NEVER,)
    return tuple(term for term in terms if _is_moved(term, ctx))


def _of_aggregates(node: tree.Node, ctx: context.PlanContext) -> tuple[tree.Node, ...]:
    """Whether all aggregates over a table are inside of what is NULL anyway."""
    if node.whereClause is None or node.groupClause or node.withClause or node.windowClause:
        return ()
    if len(node.fromClause) > 1 or not isinstance(node.fromClause[0], ast.RangeVar):
        return ()
    parts = (node.targetList or (), node.sortClause or (), node.distinctClause or ())
    found = list(tree.walk(parts))
    if not any(isinstance(item, ast.A_Const) and item.isnull for item in found):
        return ()
    if any(isinstance(item, ast.SubLink) or getattr(item, "over", None) is not None for item in found):
        return ()
    live = any(_may_be_aggregate(item, ctx) for item in nulls.live(parts))
    return () if live or not any(_is_aggregate(item, ctx) for item in found) else (_NEVER,)


def _may_aggregate(part: tree.Node, ctx: context.PlanContext) -> bool:
    return any(_may_be_aggregate(node, ctx) for node in tree.walk(part))


def _may_be_aggregate(node: tree.Node, ctx: context.PlanContext) -> bool:
    if isinstance(node, ast.FuncCall):
        found = ctx.builtins.function(tree.strings(node.funcname))
        return found is None or "a" in found.kinds
    return isinstance(node, _AGGREGATES)


def _is_aggregate(node: tree.Node, ctx: context.PlanContext) -> bool:
    found = ctx.builtins.function(tree.strings(node.funcname)) if isinstance(node, ast.FuncCall) else None
    return found is not None and set(found.kinds) == {"a"}


def _is_moved(term: tree.Node, ctx: context.PlanContext) -> bool:
    """Whether PostgreSQL moves a term of HAVING: no aggregates, nothing volatile, no sub-SELECTs."""
    if _may_aggregate(term, ctx):
        return False
    for node in tree.walk(term):
        if isinstance(node, ast.SubLink):
            return False
        if isinstance(node, ast.FuncCall):
            found = ctx.builtins.function(tree.strings(node.funcname))
            if found is None or "v" in found.volatility:
                return False
    return True
