"""What is NULL whatever the rows are: PostgreSQL folds it before it reads one, and so computes nothing inside of it.

Only built-in operators by their plain names count, all of which give NULL where one side is NULL.
"""

from __future__ import annotations

from collections.abc import Iterator

from orochi import pgtypes
from orochi.planner import literals, tree
from orochi.planner.tree import ast

_STRICT = literals.COMPARISONS | {"+", "-", "*", "/", "%"}


def is_null(node: tree.Node) -> bool:
    """Whether the expression is NULL for every row."""
    if isinstance(node, ast.A_Const):
        return bool(node.isnull)
    if isinstance(node, ast.TypeCast):
        # a domain may refuse NULL
        return bool(literals.type_oid(node.typeName)) and is_null(node.arg)
    if isinstance(node, ast.CoalesceExpr):
        return all(is_null(item) for item in node.args)
    if isinstance(node, ast.BoolExpr):  # NOT NULL, NULL AND NULL, NULL OR NULL
        return all(is_null(item) for item in node.args)
    return isinstance(node, ast.A_Expr) and _operator_is_null(node)


def never(term: tree.Node) -> bool:
    """Whether a condition holds for no row: it is false or NULL, or asks for a place between NULL and something."""
    if is_null(term):
        return True
    value = literals.constant(term)
    if value is not None and value.oid == pgtypes.BOOL:
        return value.text is None or value.text.lower() in ("f", "false")
    between = isinstance(term, ast.A_Expr) and term.kind.name == "AEXPR_BETWEEN"
    return between and any(is_null(bound) for bound in term.rexpr)


def live(node: tree.Node) -> Iterator[tree.Node]:
    """The nodes of a tree, without those that make no difference because what they are part of is NULL."""
    if isinstance(node, tuple):
        for item in node:
            yield from live(item)
    elif isinstance(node, ast.Node):
        yield node
        if not is_null(node):
            for name in tree.fields(node):
                yield from live(getattr(node, name))


def _operator_is_null(node: tree.Node) -> bool:
    names = tree.strings(node.name)
    plain = len(names) == 1 or names[0] == "pg_catalog"
    match node.kind.name:
        case "AEXPR_OP":
            sides = [side for side in (node.lexpr, node.rexpr) if side is not None]
            return plain and names[-1] in _STRICT and any(is_null(side) for side in sides)
        case "AEXPR_IN" | "AEXPR_NULLIF" | "AEXPR_BETWEEN" | "AEXPR_NOT_BETWEEN":
            return plain and is_null(node.lexpr)
    return False
