"""Calls of Orochi's functions in a sub-SELECT or WITH query, which is executed by itself, before what is around it.

That is the same where PostgreSQL would execute it once and to its end: it depends on nothing around it, and nothing
around it may stop early or leave it out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pglast import ast, enums

from orochi.planner import calls, parse, tree

_CONDITIONAL = (ast.CaseExpr, ast.CoalesceExpr, ast.BoolExpr)


@dataclasses.dataclass(frozen=True, slots=True)
class Nested:
    """A part of a statement that calls functions.

    Attributes:
        inner: the part, a statement by itself.
        node: the part in the statement's tree.
        tree: the statement's tree.
        sql: its text.
    """

    inner: parse.Statement
    node: tree.Node
    tree: tree.Node
    sql: str


def find(statement: parse.Statement) -> Nested | None:
    """The first part of a SELECT that calls functions and may be executed before the rest; None if there is none."""
    top = statement.tree
    if not isinstance(top, ast.SelectStmt):
        return None
    common = {str(item.ctename) for item in tree.walk(top) if isinstance(item, ast.CommonTableExpr)}
    named = {str(item.relname) for item in tree.walk(top) if isinstance(item, ast.RangeVar)}
    if any(getattr(item, "recursive", False) for item in tree.walk(top) if isinstance(item, ast.WithClause)):
        return None
    for node in _parts(top, named):
        inside = [item for item in tree.walk(node) if isinstance(item, ast.SelectStmt) and item is not node]
        if not parse.calls_api(node) or any(parse.calls_api(item) for item in inside):
            continue
        reads = {str(item.relname) for item in tree.walk(node) if isinstance(item, ast.RangeVar)}
        if reads & common:
            return None
        try:
            return Nested(parse.parse_one(parse.deparse(node)), node, top, statement.sql)
        except parse.CannotDeparse:
            return None
    return None


def _parts(top: tree.Node, named: set[str]) -> list[tree.Node]:
    """SELECTs inside `top` that PostgreSQL executes once and to their end."""
    found: list[tree.Node] = []
    stack = [top]
    while stack:
        select = stack.pop()
        if select.limitCount is not None or select.op.name != "SETOP_NONE":
            continue  # it may want fewer rows than there are
        inside: list[tree.Node] = [
            item.ctequery
            for item in (select.withClause.ctes if select.withClause is not None else ())
            if item.ctename in named and isinstance(item.ctequery, ast.SelectStmt)
        ]
        inside += [
            item.subquery
            for item in tree.walk(select.fromClause or (), stop=(ast.RangeSubselect,))
            if isinstance(item, ast.RangeSubselect) and not item.lateral
        ]
        if select.fromClause is None and select.whereClause is None:
            targets = select.targetList or ()
            if not any(isinstance(item, _CONDITIONAL) for item in tree.walk(targets)):
                inside += [
                    item.subselect
                    for item in tree.walk(targets, stop=(ast.SubLink,))
                    if isinstance(item, ast.SubLink) and item.subLinkType is enums.SubLinkType.EXPR_SUBLINK
                ]
        found += inside
        stack += inside
    return found


def with_rows(
    nested: Nested, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str | None]]
) -> parse.Statement:
    """The statement with the rows of its part in the part's place; `columns` are names and types.

    Raises:
        CannotDeparse: its text could not be made.
    """
    listed = parse.parse_one(calls.values(columns, rows)).tree

    def replaced(node: tree.Node) -> tree.Node | None:
        return listed if node is nested.node else None

    return parse.parse_one(parse.deparse(tree.transform(nested.tree, replaced)))
