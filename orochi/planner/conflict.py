"""ON CONFLICT and RETURNING of an INSERT, made fit to run on a node.

A node knows the table by its name in another schema and looks up functions in `pg_catalog` only:
column references lose the original schema, and whatever does not depend on the row is evaluated
once on the coordinator (`now()` must be the same on all nodes) and put in as a literal.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Container, Mapping, Sequence

from pglast import ast, enums

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.planner import builtins, parse
from orochi.planner import names as relation_names
from orochi.planner import tree as trees

#: Folded expressions are spelled as parameters with numbers from here on, until their values are known.
_FIRST = 1_000_000
_FOLDED = re.compile(r"\$(1\d{6})\b")


@dataclasses.dataclass(frozen=True, slots=True)
class Tail:
    """The two clauses as trees, with `folded` expressions taken out."""

    on_conflict: ast.OnConflictClause | None
    returning: ast.ReturningClause | None
    folded: tuple[str, ...]


def prepare(
    tree: trees.Node,
    table: snapshots.Table,
    search_path: Sequence[str] = (),
    known: builtins.Builtins | None = None,
) -> Tail:
    """The clauses of `tree`, which inserts into `table`.

    Args:
        tree: an INSERT.
        table: its target.
        search_path: schemas in lookup order.
        known: what nodes know as the coordinator does; None: everything that is named.

    Raises:
        FeatureNotSupported: they hold a sub-select or a system column, move a row to another shard, or
            compute with the row what only the coordinator can.
    """
    folded: list[str] = []
    types = relation_names.types_of([table], search_path)
    if known is not None:
        _refuse_own((tree.onConflictClause, tree.returningClause), tree, table, known, types)
    on_conflict = tree.onConflictClause
    if on_conflict is not None:
        _refuse_moves(on_conflict, table)
        on_conflict = _fit(on_conflict, tree, table, folded, types)
    returning = tree.returningClause
    if returning is not None:
        returning = _fit(returning, tree, table, folded, types)
    return Tail(on_conflict, returning, tuple(folded))


def _refuse_own(
    clauses: trees.Node,
    tree: trees.Node,
    table: snapshots.Table,
    known: builtins.Builtins,
    types: Container[str],
) -> None:
    """Refuse functions and types of the user's own, and the row as a value of the table's type."""
    spread = {id(part.val) for part in trees.walk(clauses) if isinstance(part, ast.ResTarget)}
    own = tree.relation.alias.aliasname if tree.relation.alias is not None else tree.relation.relname
    for part in trees.walk(clauses):
        match part:
            case ast.FuncCall():
                foreign = known.function(trees.strings(part.funcname)) is None and not _is_constant(part)
            case ast.TypeName():
                names = trees.strings(part.names)
                foreign = bool(names) and not known.is_type(names) and ".".join(names) not in types
            case ast.ColumnRef():
                names = trees.strings(part.fields)
                star = names[-1] == "*" and len(names) > 1 and id(part) not in spread
                foreign = star or (names == (own,) and table.column(own) is None)
            case _:
                foreign = False
        if foreign:
            raise errors.FeatureNotSupported("ON CONFLICT and RETURNING here are computed on the coordinator")


def fill(sql: str, literals: Mapping[int, str]) -> str:
    """`sql` with folded expressions replaced by the literals of their positions."""
    if not literals:
        return sql
    return _FOLDED.sub(lambda match: literals[int(match.group(1)) - _FIRST], sql)


def _fit(
    node: trees.Node, tree: trees.Node, table: snapshots.Table, folded: list[str], types: Mapping[str, str]
) -> trees.Node:
    def change(item: trees.Node) -> trees.Node | None:
        match item:
            case ast.SubLink():
                raise errors.FeatureNotSupported(
                    "sub-selects in ON CONFLICT or RETURNING of an INSERT into an Orochi table are not supported",
                    hint="Select the value first and pass it as a parameter.",
                )
            case ast.ColumnRef() if trees.strings(item.fields)[-1] in relation_names.SYSTEM_COLUMNS:
                raise errors.FeatureNotSupported("system columns are of one shard")
            case ast.ColumnRef():
                return _unqualified(item, tree, table)
            case ast.TypeName() if item.names and len(item.names) == 1 and item.names[0].sval in types:
                full = parse.type_name(types[item.names[0].sval])
                return trees.changed(item, names=full.names)
            case ast.FuncCall() | ast.SQLValueFunction() if _is_constant(item):
                sql = parse.deparse_expression(item)
                if sql not in folded:
                    folded.append(sql)
                return ast.ParamRef(number=_FIRST + folded.index(sql))
        return None

    return trees.transform(node, change)


def _is_constant(node: trees.Node) -> bool:
    return not any(
        isinstance(item, (ast.ColumnRef, ast.ParamRef, ast.SetToDefault)) for item in trees.walk(node)
    )


def _unqualified(node: trees.Node, tree: trees.Node, table: snapshots.Table) -> trees.Node | None:
    names = trees.strings(node.fields)
    if len(node.fields) >= 3 and names[:2] == (table.schema, table.name) and tree.relation.alias is None:
        return trees.changed(node, fields=tuple(node.fields[1:]))
    return None


def _refuse_moves(clause: trees.Node, table: snapshots.Table) -> None:
    if clause.action != enums.OnConflictAction.ONCONFLICT_UPDATE:
        return
    places = {table.dimension.column} if table.dimension is not None else set()
    if len(table.shards) > 1:  # in one shard the row stays where it is
        places.add(str(table.distribution_column))
    for target in clause.targetList or ():
        if target.name not in places:
            continue
        # the conflicting row has the same key, so this assignment changes nothing
        value = target.val
        same = isinstance(value, ast.ColumnRef) and trees.strings(value.fields) == ("excluded", target.name)
        if not same:
            raise errors.FeatureNotSupported(
                f'ON CONFLICT DO UPDATE cannot change column "{target.name}", which places the row',
                hint="Delete the row and insert it with the new value.",
            )
