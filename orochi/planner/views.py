"""Views over Orochi tables, put into the statement as the sub-SELECTs they stand for.

The coordinator would run a view's definition over the empty shells; inlined, its tables are seen
and planned as if the user had written them.
"""

from __future__ import annotations

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.planner import context, edit, names, parse, tree

#: Views of views of views: more than this is a cycle in a stale catalog.
DEPTH = 40


def expand(statement: parse.Statement, ctx: context.PlanContext) -> parse.Statement:
    """`statement` with every view over Orochi tables that it reads replaced by its definition."""
    for _ in range(DEPTH):
        scopes = names.resolve(statement.tree, ctx)
        if not scopes.views:
            return statement
        editor = edit.Editor(statement)
        for node, view in scopes.views:
            editor.relation(node, _subselect(node, view), keep_alias=False)
        for column, _ in scopes.columns:
            parts = tree.strings(column.fields)
            if len(parts) > 2 and any(parts[-3:-1] == (view.schema, view.name) for _, view in scopes.views):
                editor.column(
                    column, ".".join(part if part == "*" else names.quoted(part) for part in parts[-2:])
                )
        statement = parse.parse_one(editor.result())
    raise errors.OrochiError("views are nested too deeply", sqlstate="54001")


def _subselect(node: tree.Node, view: snapshots.View) -> str:
    alias = node.alias.aliasname if node.alias is not None else view.name
    given = tree.strings(node.alias.colnames) if node.alias is not None else ()
    columns = ", ".join(names.quoted(name) for name in (*given, *view.columns[len(given) :]))
    listed = f"({columns})" if columns else ""
    return f"({view.definition.strip().rstrip(';')}) AS {names.quoted(alias)}{listed}"
