"""Gathered rows: shards answer FROM and WHERE, and hand on the columns that the rest of the statement names.

Joins and filters run where the rows are. Grouping, windows, DISTINCT and sorting run in the
coordinator's PostgreSQL over those columns, with the statement's own expressions, so that whatever
it says after WHERE keeps its meaning: order of input, volatile functions, collations.
"""

from __future__ import annotations

from pglast import enums

from orochi.planner import (
    decompose,
    given,
    invoked,
    lookup,
    names,
    parse,
    pieces,
    prepare,
    pushdown,
    spread,
    tree,
    vector,
    vector_query,
)
from orochi.planner import (
    plan as plans,
)
from orochi.planner.tree import ast


def plan(prepared: prepare.Prepared, level: names.Level, reason: str) -> plans.Distributed:
    """The plan of a statement whose FROM and WHERE are answered shard by shard; `reason` is why not more is.

    Raises:
        Unfit: an expression needs more than columns of FROM.
        CannotDeparse: a part cannot be printed faithfully.
    """
    stmt = level.stmt
    rewriter = _Rewriter(prepared, level)
    final = tree.changed(
        stmt,
        targetList=tuple(
            ast.ResTarget(name=item.name, val=rewriter.expression(item.expression))
            for item in rewriter.outputs
        ),
        distinctClause=tuple(None if item is None else rewriter.item(item) for item in stmt.distinctClause)
        if stmt.distinctClause
        else None,
        groupClause=tuple(rewriter.group(item) for item in stmt.groupClause or ()) or None,
        havingClause=rewriter.expression(stmt.havingClause) if stmt.havingClause is not None else None,
        windowClause=tuple(rewriter.expression(item) for item in stmt.windowClause or ()) or None,
        sortClause=tuple(tree.changed(item, node=rewriter.item(item.node)) for item in stmt.sortClause or ())
        or None,
        fromClause=(_from(rewriter.columns, level),),
        whereClause=None,
    )
    text = parse.deparse(final)
    parts = (_intermediate(prepared, level, rewriter), *rewriter.given.intermediates())
    return plans.Distributed("pushdown", parts, text, reason=reason)


def _intermediate(prepared: prepare.Prepared, level: names.Level, rewriter: _Rewriter) -> plans.Intermediate:
    columns = rewriter.columns or [ast.A_Const(isnull=False, val=ast.Integer(ival=1))]
    listed = [(f"c{index}", node) for index, node in enumerate(columns)]
    body = ast.SelectStmt(
        targetList=tuple(ast.ResTarget(name=name, val=node) for name, node in listed),
        fromClause=level.stmt.fromClause,
        whereClause=level.stmt.whereClause,
        limitOption=enums.LimitOption.LIMIT_OPTION_DEFAULT,
        op=enums.SetOperation.SETOP_NONE,
        groupDistinct=False,
        all=False,
    )
    folded = pieces.fold(prepared, body)
    scanned = pieces.over_scans(folded, prepared)
    sql = parse.deparse(scanned)
    types = tuple(pieces.named(pieces.known_type(node, level), name) for name, node in listed)
    describe = None
    if any(column.type_oid == 0 for column in types):
        describe = parse.deparse(pieces.over_shells(folded, prepared))
    targets = [(node, "") for node in columns]
    vectorised = vector.rows(prepared, level, targets, None, where_only=True)
    vectorised = vectorised or vector_query.fragment(prepared, scanned)
    return pushdown.intermediate_of(prepared, sql, types, describe, vectorised)


def _from(columns: list[tree.Node], level: names.Level) -> tree.Node:
    """The FROM item of the final query: the intermediate, its columns with the collations of the tables'."""
    collations = [_collation(node, level) for node in columns]
    relation = parse.parse_one(f"SELECT FROM {pieces.FROM}").tree.fromClause[0]
    if not any(collations):
        return relation
    listed = ", ".join(
        f"c{index} COLLATE {collation} AS c{index}" if collation else f"c{index}"
        for index, collation in enumerate(collations)
    )
    text = f"SELECT FROM (SELECT {listed} FROM {pieces.FROM}) AS {pieces.RELATION}"
    return parse.parse_one(text).tree.fromClause[0]


def _collation(node: tree.Node, level: names.Level) -> str | None:
    found = lookup.origin(node, level) if tree.is_column(node) else None
    column = found[0].table.column(found[1]) if found is not None else None
    return column.collation if column is not None else None


class _Rewriter:
    """Turns expressions over FROM into expressions over the columns that shards hand on."""

    def __init__(self, prepared: prepare.Prepared, level: names.Level) -> None:
        self._prepared = prepared
        self._level = level
        self.outputs = pieces.outputs(level)
        self._aggregated = spread.is_aggregated(level.stmt, prepared)
        self._groups = decompose.groups(level) if self._aggregated else []
        self.columns: list[tree.Node] = []
        self.given = given.Given(prepared)

    def expression(self, node: tree.Node) -> tree.Node:
        """What stands in the target list, HAVING or WINDOW; over groups, if the statement has any."""
        return tree.transform(node, self._over_groups if self._aggregated else self._over_rows)

    def item(self, node: tree.Node) -> tree.Node:
        """An item of ORDER BY or DISTINCT ON: an output column, by its position, comes before an input column."""
        if isinstance(node, ast.A_Const):
            return node
        if tree.is_column(node) and len(node.fields) == 1:
            (name,) = tree.strings(node.fields)
            for index, output in enumerate(self.outputs):
                if output.name == name:
                    return pieces.position(index)
        return self.expression(node)

    def group(self, node: tree.Node) -> tree.Node:
        """An item of GROUP BY."""
        if isinstance(node, ast.GroupingSet):
            content = tuple(self.group(item) for item in node.content or ())
            return tree.changed(node, content=content or None)
        if isinstance(node, ast.RowExpr) and node.row_format.name == "COERCE_IMPLICIT_CAST":
            return tree.changed(node, args=tuple(self.group(item) for item in node.args or ()))
        if isinstance(node, ast.A_Const):
            return node
        found = spread.group_expression(node, self._level)
        if found is node:
            return tree.transform(node, self._over_rows)
        return pieces.position(next(i for i, output in enumerate(self.outputs) if output.expression is found))

    def _over_groups(self, node: tree.Node) -> tree.Node | None:
        is_group = pieces.canonical(node, self._level) in self._groups
        if is_group or invoked.is_aggregate(node, self._prepared.ctx.builtins):
            return tree.transform(node, self._over_rows)
        found = self.given.sublink(node, self.expression) if isinstance(node, ast.SubLink) else None
        if found is None and isinstance(node, (ast.ColumnRef, ast.SubLink, ast.SelectStmt)):
            raise spread.Unfit("it needs more than groups and columns of FROM")
        return found

    def _over_rows(self, node: tree.Node) -> tree.Node | None:
        if isinstance(node, ast.SubLink) and not self._aggregated:
            found = self.given.sublink(node, self.expression)
            if found is not None:
                return found
        if isinstance(node, (ast.SubLink, ast.SelectStmt)):
            raise spread.Unfit("a sub-SELECT outside FROM and WHERE")
        if not isinstance(node, ast.ColumnRef):
            return None
        if not tree.is_column(node) or lookup.is_whole_row(node, self._level) is not None:
            raise spread.Unfit("a whole row is a value of the coordinator's type")
        column = pieces.canonical(node, self._level)
        if column not in self.columns:
            self.columns.append(column)
        return tree.column(pieces.RELATION, f"c{self.columns.index(column)}")
