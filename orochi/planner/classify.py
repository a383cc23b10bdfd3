"""Whether a statement concerns Orochi at all: fast and on the safe side by text, exactly by tree."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orochi.catalog import snapshot as snapshots
from orochi.planner import builtins, context, gapfill, names, parse, tree
from orochi.planner.tree import ast

_WORD = re.compile(r"[^\W\d][\w$]*")
#: An access method, or a storage type: what uses it makes an Orochi table.
_COLUMNAR = "columnar"
#: PostgreSQL cuts identifiers to this many bytes.
_NAME_BYTES = 63
#: By so many characters names are compared that the cut makes equal; few enough for any encoding.
_BEGINNING = 15
_ALTERING, _TYPES = frozenset({"alter", "drop"}), frozenset({"type", "domain", "schema"})


class Classifier:
    """Says in microseconds which statements need no more than to be relayed.

    It looks at words only, wherever they stand, so it may say yes to a statement that mentions a
    name in a string or a comment; it never says no to one that names an Orochi relation or function.
    """

    def __init__(self, snapshot: snapshots.Snapshot, api_functions: frozenset[str]) -> None:
        found = {name for _, name in snapshot.names} | {name for _, name in snapshot.views} | api_functions
        found |= {index for table in snapshot.tables.values() for index in table.indexes}
        found |= {_COLUMNAR, gapfill.FUNCTION}
        folded = {name.casefold() for name in found}
        self._words = frozenset(name for name in folded if _WORD.fullmatch(name))
        # names that are several words, or none: looked for as they are, with quotes doubled or not
        self._odd = tuple(sorted(folded - self._words))
        self._long = frozenset(name[:_BEGINNING] for name in folded if len(name.encode()) >= _NAME_BYTES)

    def touches(self, sql: str) -> bool:
        """Whether `sql` may name an Orochi table, a view over one, or an Orochi function."""
        text = sql.casefold()
        words = _WORD.findall(text)
        if not self._words.isdisjoint(words):
            return True
        if not (_ALTERING.isdisjoint(words) or _TYPES.isdisjoint(words)):
            return True  # types of columns, alone or with their schema
        if 'u&"' in text:  # escapes may spell any name
            return True
        if self._odd and any(name in text.replace('""', '"') for name in self._odd):
            return True
        return bool(self._long) and any(
            word[:_BEGINNING] in self._long for word in words if len(word.encode()) > _NAME_BYTES
        )


def tables_in(
    node: tree.Node,
    snapshot: snapshots.Snapshot,
    search_path: tuple[str, ...],
    temp_tables: frozenset[str] = frozenset(),
) -> tuple[snapshots.Table, ...]:
    """The Orochi tables that a statement really references, views looked through, each once.

    Of a view's or a rule's definition nothing counts: defining one reads no table.
    """
    return named(node, snapshot, search_path, temp_tables)[0]


def named(
    node: tree.Node,
    snapshot: snapshots.Snapshot,
    search_path: tuple[str, ...],
    temp_tables: frozenset[str] = frozenset(),
) -> tuple[tuple[snapshots.Table, ...], bool]:
    """The same, and whether the statement itself names views over such tables."""
    ctx = context.PlanContext(snapshot, search_path, builtins.EMPTY, temp_tables=temp_tables)
    scopes = names.resolve(node, ctx)
    found = {table.oid: table for table in _tables(node, scopes, ctx, frozenset())}
    return tuple(found.values()), bool(scopes.views)


def may_name(node: tree.Node, snapshot: snapshots.Snapshot) -> bool:
    """Whether a relation is named by the bare name of an Orochi table or of a view over one."""
    known = {name for _, name in snapshot.names} | {name for _, name in snapshot.views}
    return any(
        isinstance(part, ast.RangeVar) and part.schemaname is None and part.relname in known
        for part in tree.walk(node)
    )


def _tables(
    node: tree.Node, scopes: names.Scopes, ctx: context.PlanContext, inside: frozenset[str]
) -> Iterator[snapshots.Table]:
    for reference in scopes.references:
        yield reference.table
    for other in scopes.others:
        found = names.find_relation(
            ctx.snapshot, ctx.search_path, ctx.temp_tables, other.schemaname, other.relname
        )
        if isinstance(found, snapshots.Table):
            yield found
    for _, view in scopes.views:
        if view.definition not in inside:
            (statement,) = parse.parse(view.definition)
            inner = names.resolve(statement.tree, ctx)
            yield from _tables(statement.tree, inner, ctx, inside | {view.definition})
    for parts in _object_names(node):
        schema = parts[-2] if len(parts) > 1 else None
        found = names.find_relation(ctx.snapshot, ctx.search_path, ctx.temp_tables, schema, parts[-1])
        if isinstance(found, snapshots.Table):
            yield found
    for parts in _index_names(node):
        schema = parts[-2] if len(parts) > 1 else None
        for table in ctx.snapshot.tables.values():
            if parts[-1] in table.indexes and schema in (None, table.schema):
                yield table


#: Objects that a name list names with their table in front of them.
_ON_TABLE = frozenset(
    {"OBJECT_TRIGGER", "OBJECT_RULE", "OBJECT_POLICY", "OBJECT_COLUMN", "OBJECT_TABCONSTRAINT"}
)
_TABLES = frozenset({"OBJECT_TABLE", "OBJECT_FOREIGN_TABLE"})


def _object_names(node: tree.Node) -> Iterator[tuple[str, ...]]:
    """Table names that DROP and COMMENT give as lists of strings."""
    if isinstance(node, ast.DropStmt):
        kind, listed = node.removeType.name, node.objects or ()
    elif isinstance(node, (ast.CommentStmt, ast.SecLabelStmt)):
        kind, listed = node.objtype.name, (node.object,)
    else:
        return
    for item in listed:
        if not isinstance(item, tuple):
            continue
        if kind in _TABLES:
            yield tree.strings(item)
        elif kind in _ON_TABLE and len(item) > 1:
            yield tree.strings(item[:-1])


def _index_names(node: tree.Node) -> Iterator[tuple[str, ...]]:
    """Names of indexes that DROP INDEX and ALTER INDEX give."""
    if isinstance(node, ast.DropStmt) and node.removeType.name == "OBJECT_INDEX":
        for item in node.objects or ():
            yield tree.strings(item)
    kind = getattr(node, "renameType", None) or getattr(node, "objtype", None)
    relation = getattr(node, "relation", None)
    if kind is not None and kind.name == "OBJECT_INDEX" and relation is not None:
        yield (relation.schemaname, relation.relname) if relation.schemaname else (relation.relname,)
