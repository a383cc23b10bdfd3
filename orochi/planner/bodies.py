"""What is told of the body of a DO block, which PostgreSQL runs over the shells (docs/adr/0006)."""

from __future__ import annotations

import re

from orochi.catalog import snapshot as snapshots
from orochi.planner import parse, tree
from orochi.planner.tree import ast

_NAME = r'(?:(?:"[^"]+"|\w+)\s*\.\s*)?("[^"]+"|\w+)'
_PAST_CHILDREN = (
    re.compile(rf"\bONLY\s*\(?\s*{_NAME}", re.IGNORECASE),
    re.compile(rf"\bCOPY\s+{_NAME}\s*(?:\([^)]*\)\s*)?TO\b", re.IGNORECASE),
)


def reads_past_children(statement: parse.Statement, snapshot: snapshots.Snapshot) -> str | None:
    """The Orochi table that a DO block reads by ONLY or COPY TO, by which a shell is empty."""
    if not isinstance(statement.tree, ast.DoStmt):
        return None
    body = " ".join(
        part.sval
        for item in statement.tree.args or ()
        for part in tree.walk(item)
        if isinstance(part, ast.String)
    )
    known = {name for _, name in snapshot.names}
    for pattern in _PAST_CHILDREN:
        for found in pattern.findall(body):
            name = found[1:-1] if found.startswith('"') else found.lower()
            if name in known:
                return str(name)
    return None
