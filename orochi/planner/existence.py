"""EXISTS asks whether there is a row, never what is in it: so columns that it selects need not be read."""

from __future__ import annotations

from orochi.planner import parse, tree
from orochi.planner.tree import ast

#: What makes of a SELECT's rows others, or fewer, by what its target list says.
_CLAUSES = (
    "distinctClause",
    "groupClause",
    "havingClause",
    "windowClause",
    "sortClause",
    "limitCount",
    "limitOffset",
    "lockingClause",
    "intoClause",
    "withClause",
    "valuesLists",
    "larg",
)


def bare(statement: parse.Statement) -> parse.Statement:
    """`statement` with a constant for what each EXISTS selects, where that is columns; the same where none does."""
    exists = [node for node in tree.walk(statement.tree) if _selects_columns(node)]
    if not exists:
        return statement
    wanted = {id(node.subselect) for node in exists}
    one = parse.parse_one("SELECT 1").tree.targetList

    def replace(node: tree.Node) -> tree.Node | None:
        if id(node) not in wanted:
            return None
        inside = tree.changed(node, targetList=None)
        return tree.changed(tree.transform(inside, replace), targetList=one)

    try:
        return parse.parse_one(parse.deparse(tree.transform(statement.tree, replace)))
    except parse.CannotDeparse:
        return statement


def _selects_columns(node: tree.Node) -> bool:
    if not isinstance(node, ast.SubLink) or node.subLinkType.name != "EXISTS_SUBLINK":
        return False
    inner = node.subselect
    if not isinstance(inner, ast.SelectStmt) or not inner.targetList or not inner.fromClause:
        return False
    if any(getattr(inner, name) for name in _CLAUSES):
        return False
    return all(_is_column(target.val) for target in inner.targetList)


def _is_column(node: tree.Node) -> bool:
    """Whether an output is a column for sure, or several: `t.f` may be a call."""
    return isinstance(node, ast.ColumnRef) and (
        len(node.fields) == 1 or isinstance(node.fields[-1], ast.A_Star)
    )
