"""What a gap-filling query is made of: expressions and the columns that hold them, and the calls of locf and interpolate."""

from __future__ import annotations

from collections.abc import Sequence

from orochi import errors
from orochi.planner import gapfill_range, parse, tree
from orochi.planner.tree import ast

_POINT_LENGTH = 2
_LEVEL = "SELECT *{} FROM (SELECT 1) orochi_rows"


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


def nothing_before(count: str, value: str, near: str) -> str:
    """Whether a row takes what its call gives for the time before, as SQL.

    It does where no row was found before it. One that was found earlier than filling starts counts
    unless its value is NULL; what comes earlier than that itself takes nothing.

    Args:
        count: the column with the number of rows found until this one.
        value: the call's value, of a row.
        near: the window whose first row is the last one found.
    """
    early = f"pg_catalog.first_value(orochi_bucket) {near} < orochi_start"
    empty = f"pg_catalog.first_value({value}) {near} IS NULL"
    return f"orochi_bucket >= orochi_start AND ({count} = 0 OR ({early} AND {empty}))"


def levels(rows: tree.Node, added: Sequence[Sequence[str]], order: str) -> tree.Node:
    """Rows with more columns, level by level, in order, as a FROM item."""
    source = tree.changed(parse.parse_one(_LEVEL.format("")).tree.fromClause[0], subquery=rows)
    for columns in added:
        if columns:
            select = parse.parse_one(_LEVEL.format(", " + ", ".join(columns))).tree
            source = tree.changed(source, subquery=tree.changed(select, fromClause=(source,)))
    ordered = parse.parse_one(f"{_LEVEL.format('')} ORDER BY {order}").tree
    return tree.changed(source, subquery=tree.changed(ordered, fromClause=(source,)))


def with_found(select: tree.Node, found: tree.Node) -> tree.Node:
    """A statement whose WITH query is `found`."""

    def replace(node: tree.Node) -> tree.Node | None:
        if isinstance(node, ast.CommonTableExpr):
            return tree.changed(node, ctequery=found)
        return None

    return tree.transform(select, replace)


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
