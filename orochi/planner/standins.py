"""Names of copies, put in the place of the tables that a rehearsed statement writes."""

from __future__ import annotations

from collections.abc import Mapping

from orochi.planner import edit, names, tree
from orochi.planner.tree import ast

#: What stands for the columns of the constraint that ON CONFLICT ON CONSTRAINT names, a view having none.
CONSTRAINT = "orochi_constraint_"


def put(editor: edit.Editor, statement: tree.Node, copies: Mapping[int, str]) -> None:
    """Let the statement speak of copies.

    Args:
        editor: of the statement's text.
        statement: its tree.
        copies: the copies' SQL names by the ids of the relations' nodes.
    """
    for node in tree.walk(statement):
        if isinstance(node, ast.InsertStmt) and id(node.relation) in copies:
            _insert(editor, node)
        if isinstance(node, ast.RangeVar) and id(node) in copies:
            alias = f" AS {names.quoted(node.relname)}" if node.alias is None else ""
            editor.relation(node, copies[id(node)] + alias)


def _insert(editor: edit.Editor, node: tree.Node) -> None:
    infer = node.onConflictClause.infer if node.onConflictClause is not None else None
    if infer is not None and infer.conname:
        editor.tokens(infer.location, 3, f"({CONSTRAINT}{infer.location})")
    name = (node.relation.schemaname, node.relation.relname)
    for part in tree.walk((node.onConflictClause or (), node.returningClause or ()), stop=(ast.SelectStmt,)):
        if isinstance(part, ast.ColumnRef) and len(part.fields) > 2 and node.relation.alias is None:
            parts = tree.strings(part.fields)
            if parts[:2] == name:
                last = "*" if parts[-1] == "*" else names.quoted(parts[-1])
                editor.column(part, f"{names.quoted(name[1])}.{last}")
