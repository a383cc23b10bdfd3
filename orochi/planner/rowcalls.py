"""Functions of a table's row, spelled in the way that is read everywhere.

`t.f` is `f(t)` where the table has no column `f`, and of the row that an INSERT gives back, or of `old` and `new`, only
PostgreSQL's shell knows the type. So what is planned says `f(t.*)`, or names the columns.
"""

from __future__ import annotations

from collections.abc import Mapping

from orochi.catalog import snapshot as snapshots
from orochi.planner import context, labels, lookup, names, parse, tree
from orochi.planner.tree import ast


def replaced(statement: parse.Statement, scopes: names.Scopes, ctx: context.PlanContext) -> parse.Statement:
    """`statement` with such calls spelled out; as it is where there are none."""
    taken = {
        id(argument)
        for node in tree.walk(statement.tree)
        if isinstance(node, ast.FuncCall)
        for argument in node.args or ()
    }
    known = {
        id(node): value
        for node, level in scopes.columns
        if (value := _value(node, level, ctx, is_argument=id(node) in taken)) is not None
    }
    if not known:
        return statement

    def put(node: tree.Node) -> tree.Node | None:
        if isinstance(node, ast.ColumnRef) and id(node) in known:
            return known[id(node)]
        if isinstance(node, ast.ResTarget) and node.name is None and id(node.val) in known:
            return tree.changed(node, val=known[id(node.val)], name=labels.output_name(node))
        return None

    try:
        return parse.parse_one(parse.deparse(tree.transform(statement.tree, put)))
    except parse.CannotDeparse:
        return statement


def _value(
    node: tree.Node, level: names.Level, ctx: context.PlanContext, *, is_argument: bool
) -> tree.Node | None:
    parts = tree.strings(node.fields)
    if is_argument and len(parts) == 1:
        table = _given_back(level, ctx).get(parts[0])
        if table is None or table.column(parts[0]) is not None:
            return None
        return _expression(_row(parts[0], table))
    if len(parts) < 2 or parts[-1] == "*" or parts[-1] in names.SYSTEM_COLUMNS:
        return None
    function = names.quoted(parts[-1])
    reference = lookup.find_alias(parts[:-1], level)
    if reference is not None:
        row = ".".join(map(names.quoted, parts[:-1]))
        return None if parts[-1] in reference.visible else _expression(f"{function}({row}.*)")
    table = _given_back(level, ctx).get(parts[0]) if len(parts) == 2 else None
    if table is None or table.column(parts[1]) is not None:
        return None
    return _expression(f"{function}({_row(parts[0], table)})")


def _given_back(level: names.Level, ctx: context.PlanContext) -> Mapping[str, snapshots.Table]:
    """Names of rows of the table that a statement writes, apart from the target of UPDATE, DELETE and MERGE."""
    stmt = level.stmt
    relation = None if isinstance(stmt, ast.SelectStmt) else getattr(stmt, "relation", None)
    if relation is None:
        return {}
    table = names.find_relation(
        ctx.snapshot, ctx.search_path, ctx.temp_tables, relation.schemaname, relation.relname
    )
    if not isinstance(table, snapshots.Table):
        return {}
    clause = stmt.returningClause
    renamed = {option.option.name: option.value for option in (clause.options if clause else None) or ()}
    found = {
        renamed.get("RETURNING_OPTION_OLD", "old"): table,
        renamed.get("RETURNING_OPTION_NEW", "new"): table,
    }
    if isinstance(stmt, ast.InsertStmt):
        found[relation.alias.aliasname if relation.alias is not None else relation.relname] = table
        if stmt.onConflictClause is not None:
            found["excluded"] = table
    return found


def _expression(sql: str) -> tree.Node:
    return parse.parse_one(f"SELECT {sql}").tree.targetList[0].val


def _row(alias: str, table: snapshots.Table) -> str:
    """A whole row as a value of the table's type; NULL where there is no such row."""
    columns = ", ".join(f"{names.quoted(alias)}.{names.quoted(column.name)}" for column in table.columns)
    row = f"ROW({columns})::{names.qualified(table)}"
    return f"CASE WHEN {names.quoted(alias)} IS DISTINCT FROM NULL THEN {row} END"
