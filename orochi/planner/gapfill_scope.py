"""What an argument of time_bucket_gapfill depends on: this query's rows, an outer query's, or nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence

from orochi import pgtypes
from orochi.planner import tree
from orochi.planner.tree import ast

_TIME_TEXT = re.compile(
    r"\s*(?:[-+]?\d|-?infinity|now|today|tomorrow|yesterday|epoch|[a-z]{3}\w* \w+ \d)", re.IGNORECASE
)
_TEXT_TYPES = ("text", "varchar", "name")
#: Functions that give a time zone's name.
_TEXT_FUNCTIONS = ("current_setting", "format", "concat")


def own_names(select: tree.Node) -> set[str]:
    """The names by which the query's FROM lets its relations be called."""
    found: set[str] = set()
    waiting = list(select.fromClause or ())
    while waiting:
        item = waiting.pop()
        if isinstance(item, ast.JoinExpr):
            waiting += [item.larg, item.rarg]
        alias = getattr(item, "alias", None)
        if alias is not None:
            found.add(alias.aliasname)
        elif isinstance(item, ast.RangeVar):
            found.add(item.relname)
        elif isinstance(item, ast.RangeFunction):
            found |= {
                tree.strings(part.funcname)[-1] for part in tree.walk(item) if isinstance(part, ast.FuncCall)
            }
    return found


def reads_columns(node: tree.Node, own: set[str]) -> bool:
    """Whether an expression is another one for each row of the query whose relations are `own`.

    A column with the name of a relation that the query does not have is an outer query's, which is
    one value. A column without any is taken for the query's own, but in a sub-SELECT for that one's.
    """
    if isinstance(node, ast.SubLink):
        inner = set().union(
            *(own_names(part) for part in tree.walk(node) if isinstance(part, ast.SelectStmt))
        )
        return any(
            tree.is_column(part) and len(part.fields) > 1 and tree.strings(part.fields)[-2] in own - inner
            for part in tree.walk(node)
        )
    for part in tree.walk(node, stop=(ast.SubLink,)):
        if isinstance(part, ast.SubLink):
            if reads_columns(part, own):
                return True
        elif isinstance(part, ast.ColumnRef):
            names = tree.strings(part.fields) if tree.is_column(part) else ()
            if len(names) < 2 or names[-2] in own:
                return True
    return False


def is_constant(zone: tree.Node) -> bool:
    """Whether a time zone is the same for the whole statement."""
    return not any(
        isinstance(part, (ast.ColumnRef, ast.SubLink))
        or (isinstance(part, ast.FuncCall) and tree.strings(part.funcname)[-1] == "random")
        for part in tree.walk(zone)
    )


def text_parameters(statement: tree.Node, type_oids: Sequence[int]) -> frozenset[int]:
    """The numbers of a statement's parameters that are texts: by their types, or as PREPARE declares them."""
    if isinstance(statement, ast.PrepareStmt):
        declared = enumerate(statement.argtypes or (), 1)
        return frozenset(at for at, kind in declared if tree.strings(kind.names)[-1] in _TEXT_TYPES)
    return frozenset(at for at, oid in enumerate(type_oids, 1) if oid in (pgtypes.TEXT, pgtypes.VARCHAR))


def is_text(node: tree.Node, texts: frozenset[int]) -> bool:
    """Whether an expression is a time zone rather than a point in time, as far as its text shows.

    Args:
        node: the expression.
        texts: the parameters that are texts.
    """
    if isinstance(node, ast.ParamRef):
        return node.number in texts
    if isinstance(node, ast.TypeCast):
        return tree.strings(node.typeName.names)[-1] in _TEXT_TYPES
    if isinstance(node, ast.A_Const):
        return isinstance(node.val, ast.String) and not _TIME_TEXT.match(node.val.sval)
    if isinstance(node, ast.CoalesceExpr):
        return any(is_text(part, texts) for part in node.args)
    if isinstance(node, ast.CaseExpr):
        results = [*(part.result for part in node.args), node.defresult]
        return any(part is not None and is_text(part, texts) for part in results)
    return isinstance(node, ast.FuncCall) and tree.strings(node.funcname)[-1] in _TEXT_FUNCTIONS
