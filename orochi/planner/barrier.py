"""Tables read behind a barrier: a sub-SELECT that no condition of the statement is pushed into."""

from __future__ import annotations

from orochi.catalog import snapshot as snapshots
from orochi.planner import context, edit, names, parse, tree
from orochi.planner.tree import ast


def text(columns: tuple[str, ...], relation: str) -> str:
    """The sub-SELECT in place of a relation's name."""
    listed = ", ".join(names.quoted(column) for column in columns) or "*"
    return f"(SELECT {listed} FROM {relation} OFFSET 0)"


def behind(statement: parse.Statement, ctx: context.PlanContext) -> str:
    """The statement with a barrier before each Orochi table, or view over one, that it reads; without ONLY."""
    scopes = names.resolve(statement.tree, ctx)
    editor = edit.Editor(statement)
    for level in scopes.levels:
        target = None if isinstance(level.stmt, ast.SelectStmt) else level.stmt.relation
        for item in level.relations.values():
            node = item.node
            if node is target or not isinstance(node, ast.RangeVar):
                continue
            if isinstance(item, names.Other) and item.kind == "cte":
                continue
            found = names.find_relation(
                ctx.snapshot, ctx.search_path, ctx.temp_tables, node.schemaname, node.relname
            )
            if not isinstance(found, (snapshots.Table, snapshots.View)):
                continue
            alias = f" AS {names.quoted(node.relname)}" if node.alias is None else ""
            editor.relation(node, text((), _qualified(found)) + alias)
    return editor.result()


def only(node: tree.Node) -> bool:
    """Whether the statement says ONLY of a table: a shell alone has no rows."""
    return any(isinstance(part, ast.RangeVar) and not part.inh for part in tree.walk(node))


def _qualified(found: snapshots.Table | snapshots.View) -> str:
    return f"{names.quoted(found.schema)}.{names.quoted(found.name)}"
