"""DDL of types that shards' columns may have: which type, what nodes are to run, whether rows are to be seen."""

from __future__ import annotations

import dataclasses

from orochi.planner import parse, tree

_KINDS = frozenset({"OBJECT_TYPE", "OBJECT_DOMAIN", "OBJECT_DOMCONSTRAINT", "OBJECT_ATTRIBUTE"})
#: ALTER DOMAIN that checks rows: ADD CONSTRAINT, SET NOT NULL, VALIDATE.
_CHECKING = frozenset("COV")


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """What a statement does to types.

    Attributes:
        names: each type as the statement names it, schema first if it says one.
        drops: they go; else there is one, and it changes.
        sees_rows: rows are checked, or their stored form changes.
        adds_value: an enum gets one more label.
        new_schema: where it moves.
        schemas: all types in these go.
    """

    names: tuple[tuple[str, ...], ...]
    drops: bool = False
    sees_rows: bool = False
    adds_value: bool = False
    new_schema: str | None = None
    schemas: tuple[str, ...] = ()


def read(node: tree.Node) -> Change | None:
    """The change that a statement makes to types; None if it makes none that nodes must follow."""
    match type(node).__name__:
        case "AlterEnumStmt":
            renames = node.oldVal is not None
            return Change((tree.strings(node.typeName),), sees_rows=renames, adds_value=not renames)
        case "AlterDomainStmt":
            return Change((tree.strings(node.typeName),), sees_rows=node.subtype in _CHECKING)
        case "RenameStmt" if node.renameType.name in _KINDS:
            return Change((_named(node),))
        case "AlterObjectSchemaStmt" if node.objectType.name in _KINDS:
            return Change((tree.strings(node.object),), new_schema=node.newschema)
        case "AlterTableStmt" if node.objtype.name == "OBJECT_TYPE":
            return Change((_named(node),), sees_rows=True)
        case "DropStmt" if node.removeType.name in _KINDS:
            return Change(tuple(tree.strings(item.names) for item in node.objects), drops=True)
        case "DropStmt" if node.removeType.name == "OBJECT_SCHEMA":
            return Change((), drops=True, schemas=tree.strings(node.objects))
    return None


def _named(node: tree.Node) -> tuple[str, ...]:
    relation = node.relation
    if relation is None:
        return tree.strings(node.object)
    return (relation.schemaname, relation.relname) if relation.schemaname else (relation.relname,)


def for_node(node: tree.Node, schema: str, name: str) -> str:
    """The statement's text for a server whose search path leads elsewhere."""
    parts = (tree.ast.String(sval=schema), tree.ast.String(sval=name))
    if getattr(node, "relation", None) is not None:
        return parse.deparse(
            tree.changed(node, relation=tree.changed(node.relation, schemaname=schema, relname=name))
        )
    if getattr(node, "typeName", None) is not None:
        return parse.deparse(tree.changed(node, typeName=parts))
    return parse.deparse(tree.changed(node, object=parts))
