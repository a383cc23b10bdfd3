"""What a gap-filling query is made of: expressions and the columns that hold them, and the calls of locf and interpolate."""

from __future__ import annotations

from orochi import errors
from orochi.planner import gapfill_range, parse, tree
from orochi.planner.tree import ast

_POINT_LENGTH = 2


class Named:
    """Different expressions, with the names of the columns that have their values."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.items: list[tuple[str, tree.Node]] = []

    def name(self, node: tree.Node) -> str | None:
        """The column of an equal expression, if there is one; a node's places in a text do not count."""
        return next((name for name, known in self.items if _alike(known, node)), None)

    def add(self, node: tree.Node) -> str:
        """The column for an expression, a new one if need be."""
        found = self.name(node)
        if found is None:
            found = f"{self._prefix}{len(self.items) + 1}"
            self.items.append((found, node))
        return found


class Carried:
    """The arguments of locf or interpolate."""

    def __init__(self, call: tree.Node) -> None:
        self.name = tree.strings(call.funcname)[-1]
        order = ("value", "prev", "treat_null_as_missing" if self.name == "locf" else "next")
        given = gapfill_range.arguments(call, order)
        self.value, self.prev, self.next = given["value"], given.get("prev"), given.get("next")
        self.nulls_missing = _is_true(given.get("treat_null_as_missing"))


def point(given: tree.Node) -> tuple[tree.Node, tree.Node] | None:
    """The time and the value of an argument of interpolate's: a row, or a sub-SELECT of one."""
    if given is None or (isinstance(given, ast.A_Const) and given.isnull):
        return None
    if isinstance(given, ast.TypeCast):
        return point(given.arg)
    row, select = given, None
    if isinstance(given, ast.SubLink) and given.subLinkType.name == "EXPR_SUBLINK":
        select = given.subselect
        row = select.targetList[0].val if select.targetList and len(select.targetList) == 1 else None
    if not isinstance(row, ast.RowExpr):
        raise errors.FeatureNotSupported(
            "an argument of interpolate is not a row",
            hint="Write (time, value) or (SELECT (time, value) ...).",
        )
    if len(row.args) != _POINT_LENGTH:
        raise errors.InvalidParameter("interpolate RECORD arguments must have 2 elements")
    if select is None:
        return row.args[0], row.args[1]
    parts = (
        tree.changed(given, subselect=tree.changed(select, targetList=(ast.ResTarget(val=part),)))
        for part in row.args
    )
    return next(parts), next(parts)


def _alike(one: tree.Node, other: tree.Node) -> bool:
    """Whether two expressions are the same, or columns of which only one is written with its table."""
    if tree.is_column(one) and tree.is_column(other):
        return gapfill_range.same_column(one, other)
    return type(one) is type(other) and bool(one == other)


def _is_true(node: tree.Node) -> bool:
    if node is None or (isinstance(node, ast.A_Const) and node.isnull):
        return False
    if isinstance(node, ast.A_Const) and isinstance(node.val, ast.Boolean):
        return bool(node.val.boolval)
    raise errors.InvalidParameter("invalid locf argument: treat_null_as_missing must be a BOOL literal")


def text(node: tree.Node) -> str:
    """An expression as text.

    Raises:
        FeatureNotSupported: it has no faithful text.
    """
    try:
        return parse.deparse_expression(node)
    except parse.CannotDeparse as error:
        raise errors.FeatureNotSupported(
            f"an expression in a gap-filling query is not supported: {error}"
        ) from error
