"""What a statement that makes a table says of columnar storage, as far as its text must tell.

`USING columnar` is PostgreSQL's own clause for an access method; storage options in the namespaces
of Orochi and its predecessors are no PostgreSQL options, so they are read here and cut out of the
statement's text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from orochi.planner import ddl, parse, tree

METHOD = "columnar"
_MAKERS = frozenset({"CreateStmt", "CreateTableAsStmt"})


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """A table that a statement makes, its rows to be columnar.

    Attributes:
        schema, name: as written; without a schema, it is made in the first of the search path.
        statement: what PostgreSQL runs: without Orochi's options.
        options: those options, their namespaces cut off.
    """

    schema: str | None
    name: str
    statement: parse.Statement
    options: Mapping[str, str]


def makes(node: tree.Node, default_method: str = "") -> bool:
    """Whether a statement makes a permanent table with columnar storage.

    Args:
        node: its tree.
        default_method: the session's `default_table_access_method`.
    """
    kind = type(node).__name__
    if kind not in _MAKERS:
        return False
    target, relation = _target(node), _relation(node)
    if relation.relpersistence == "t" or relation.schemaname == "pg_temp":
        return False
    if kind == "CreateStmt" and (node.partspec is not None or node.partbound is not None):
        return False
    if kind == "CreateTableAsStmt" and node.objtype.name != "OBJECT_TABLE":
        return False
    own, _ = ddl.split_options(target.options or (), reset=False)
    wanted = own.get("storage_type")
    if wanted is not None:
        return wanted == METHOD
    return (target.accessMethod or default_method) == METHOD


def alters(node: tree.Node) -> bool:
    """Whether an ALTER TABLE changes how rows are stored."""
    if type(node).__name__ != "AlterTableStmt" or node.objtype.name != "OBJECT_TABLE":
        return False
    for command in node.cmds:
        if command.subtype.name == "AT_SetAccessMethod" and command.name == METHOD:
            return True
        if command.subtype.name == "AT_SetRelOptions":
            own, _ = ddl.split_options(command.def_, reset=False)
            if "storage_type" in own:
                return True
    return False


def made(statement: parse.Statement, *, has_method: bool) -> Made:
    """The table that a statement for which `makes` holds is to make.

    Args:
        statement: it.
        has_method: the server knows the access method; otherwise its name is cut out, too.

    Raises:
        CannotDeparse: its options cannot be cut out of its text.
    """
    node = statement.tree
    relation = _relation(node)
    own, rest = ddl.split_options(_target(node).options or (), reset=False)
    return Made(
        schema=relation.schemaname,
        name=relation.relname,
        statement=statement if has_method and not own else _changed(node, rest, has_method=has_method),
        options={name: value for name, value in own.items() if name != "storage_type"},
    )


def _relation(node: tree.Node) -> tree.Node:
    return node.relation if type(node).__name__ == "CreateStmt" else node.into.rel


def _target(node: tree.Node) -> tree.Node:
    """The part of the statement that holds the access method and the options."""
    return node if type(node).__name__ == "CreateStmt" else node.into


def _changed(node: tree.Node, options: tuple[tree.Node, ...], *, has_method: bool) -> parse.Statement:
    target = _target(node)
    changed = tree.changed(
        target, options=options or None, accessMethod=target.accessMethod if has_method else None
    )
    if target is not node:
        changed = tree.changed(node, into=changed)
    return parse.parse_one(parse.deparse(changed))
