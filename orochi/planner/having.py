"""HAVING without GROUP BY: what PostgreSQL knows of the only group before it reads a row.

Where nothing is aggregated, the group is there whatever FROM gives, so PostgreSQL does not scan. Where something is,
terms of HAVING that are one value for the statement are a gate to WHERE as well. Both matter to what may fail.
"""

from __future__ import annotations

from orochi.planner import context, parse, tree
from orochi.planner.tree import ast

_AGGREGATES = (ast.JsonArrayAgg, ast.JsonObjectAgg, ast.GroupingFunc)


def gated(statement: parse.Statement, ctx: context.PlanContext) -> parse.Statement:
    """`statement` with what HAVING rules out put into WHERE too; as it is where it has no such HAVING."""
    if not any(getattr(node, "havingClause", None) for node in tree.walk(statement.tree)):
        return statement

    def gate(node: tree.Node) -> tree.Node | None:
        if not isinstance(node, ast.SelectStmt) or node.havingClause is None or node.groupClause:
            return None
        if not node.fromClause:
            return None
        inner = tree.transform(tree.changed(node, havingClause=None), gate)
        inner = tree.changed(inner, havingClause=node.havingClause)
        parts = (node.targetList or (), node.havingClause, node.sortClause or (), node.distinctClause or ())
        if not any(_may_aggregate(part, ctx) for part in parts):
            terms = (ast.A_Const(isnull=False, val=ast.Boolean(boolval=False)),)
        else:
            terms = tuple(term for term in tree.conjuncts(node.havingClause) if _is_constant(term, ctx))
        return tree.changed(inner, whereClause=tree.conjunction(tree.conjuncts(inner.whereClause) + terms))

    try:
        found = tree.transform(statement.tree, gate)
        return statement if found is statement.tree else parse.parse_one(parse.deparse(found))
    except parse.CannotDeparse:
        return statement


def _may_aggregate(part: tree.Node, ctx: context.PlanContext) -> bool:
    for node in tree.walk(part):
        if isinstance(node, _AGGREGATES):
            return True
        if isinstance(node, ast.FuncCall):
            found = ctx.builtins.function(tree.strings(node.funcname))
            if found is None or "a" in found.kinds:
                return True
    return False


def _is_constant(term: tree.Node, ctx: context.PlanContext) -> bool:
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
