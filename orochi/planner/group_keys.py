"""GROUP BY a primary key: what PostgreSQL lets a query say of a table whose key its groups name.

An intermediate has no key of its own, so that where a query relies on one the other columns are named
in GROUP BY too, or the intermediate becomes a table with the key.
"""

from __future__ import annotations

from collections.abc import Mapping

from orochi.catalog import snapshot as snapshots
from orochi.planner import lookup, names, prepare, spread, tree
from orochi.planner.tree import ast

#: Types that GROUP BY does not take: they have no equality of the kind it needs.
_NOT_GROUPABLE = frozenset(
    {114, 142, 600, 601, 602, 603, 604, 628, 718, 199, 143, 1017, 1018, 1019, 1020, 1027}
)


def is_groupable(column: snapshots.Column) -> bool:
    """Whether GROUP BY takes a column of this type."""
    return column.base_oid not in _NOT_GROUPABLE


def primary_key(
    reference: names.Reference, columns: tuple[snapshots.Column, ...], prepared: prepare.Prepared
) -> tuple[str, ...]:
    """The key by which GROUP BY may leave other columns of the table out, if the statement does that."""
    grouped = _grouped_columns(reference, prepared)
    for unique in reference.table.unique_keys:
        wanted = [reference.table.column(name) for name in unique]
        if set(unique) <= set(grouped) and all(column is not None and column.not_null for column in wanted):
            relies = len(columns) > len(grouped) and _names_ungrouped(reference, grouped, prepared)
            return unique if relies else ()
    return ()


def _names_ungrouped(
    reference: names.Reference, grouped: Mapping[str, tree.Node], prepared: prepare.Prepared
) -> bool:
    """Whether what is evaluated for each group may name a column of the table that GROUP BY does not."""
    stmt = reference.level.stmt
    parts = (stmt.targetList, stmt.havingClause, stmt.sortClause, stmt.windowClause, stmt.distinctClause)
    levels = {id(node): level for node, level in prepared.scopes.columns}
    for part in parts:
        listed = part if isinstance(part, tuple) else (part,)
        for node in tree.walk(tuple(item for item in listed if item is not None)):
            if not isinstance(node, ast.ColumnRef):
                continue
            level = levels.get(id(node))
            if level is None or not tree.is_column(node) or lookup.is_whole_row(node, level) is not None:
                return True
            key = prepared.analysis.key(node, level)
            if key is None and tree.strings(node.fields)[-1] in reference.visible:
                return True
            if key is not None and key[0] == id(reference) and key[1] not in grouped:
                return True
    return False


def _grouped_columns(reference: names.Reference, prepared: prepare.Prepared) -> dict[str, tree.Node]:
    """The columns of a table that its query level groups by, with the items of GROUP BY that say so."""
    found = {}
    for item in getattr(reference.level.stmt, "groupClause", None) or ():
        if isinstance(item, ast.GroupingSet):
            return {}
        node = spread.group_expression(item, reference.level)
        key = prepared.analysis.key(node, reference.level) if tree.is_column(node) else None
        if key is not None and key[0] == id(reference):
            found[key[1]] = item
    return found
