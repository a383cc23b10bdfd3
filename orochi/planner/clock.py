"""Which statements may ask what time it is, so that all of their parts are to be told one time.

Parts of a statement run as statements of their own, and PostgreSQL's now() stands still only within a transaction.
A word too many costs a BEGIN and a COMMIT; so texts are searched, not parsed.
"""

from __future__ import annotations

import re

from orochi.catalog import snapshot as snapshots
from orochi.planner import labels, parse, tree
from orochi.planner.tree import ast

_ASKS = re.compile(
    r"\b(?:now|age|(?:transaction|statement)_timestamp|current_(?:timestamp|date|time)|local(?:time|timestamp))\b"
    # input of a date or time may be a word that means now
    r"|'\s*(?:today|tomorrow|yesterday)\b",
    re.IGNORECASE,
)

_OWN = "statement_timestamp"


def may_be_asked(sql: str, snapshot: snapshots.Snapshot) -> bool:
    """Whether the text of a statement, or a view that it may name, mentions the clock."""
    if _ASKS.search(sql):
        return True
    return any(view.name in sql and _ASKS.search(view.definition) for view in snapshot.views.values())


def begun_now(statement: parse.Statement) -> parse.Statement:
    """A statement that is a transaction by itself, told that its own time is the transaction's.

    What asks for the one may do so later than what asks for the other, by a statement of its own.
    """
    if _OWN not in statement.sql.lower():
        return statement

    def change(node: tree.Node) -> tree.Node | None:
        if (
            isinstance(node, ast.ResTarget)
            and node.name is None
            and any(_is_own(p) for p in tree.walk(node.val))
        ):
            return tree.changed(node, name=labels.output_name(node), val=tree.transform(node.val, change))
        if _is_own(node):
            return tree.changed(node, funcname=tree.names("pg_catalog", "transaction_timestamp"))
        return None

    try:
        return parse.parse_one(parse.deparse(tree.transform(statement.tree, change)))
    except parse.CannotDeparse:
        return statement


def _is_own(node: tree.Node) -> bool:
    return isinstance(node, ast.FuncCall) and tree.strings(node.funcname)[-1] == _OWN and not node.args
