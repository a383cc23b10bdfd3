"""Counts of distinct values that are made of the shards' groups before the final SQL.

`count(DISTINCT x)` over rows that the shards grouped by their groups and `x` is mere counting, where values are equal
if their carriers are. The gateway does it in Arrow, and the final SQL reads one row a group instead of one a value.
"""

from __future__ import annotations

from collections.abc import Sequence

from orochi import pgtypes
from orochi.planner import aggregates, lookup, names, pieces, prepare, spread, tree
from orochi.planner import plan as plans

#: Types of which values are equal if and only if their carriers are; those of strings in the default collation.
_EXACT = pgtypes.INTEGERS | {pgtypes.BOOL, pgtypes.DATE, pgtypes.TEXT, pgtypes.VARCHAR}


class NotCounted(Exception):
    """An aggregate of distinct values that is another than their count."""


def counted(
    prepared: prepare.Prepared, level: names.Level, groups: Sequence[tree.Node], values: Sequence[tree.Node]
) -> plans.Counted | None:
    """What the gateway is to count, if groups and the one value are plain columns of suitable types; else None.

    Args:
        prepared: the statement.
        level: its query level.
        groups: what it groups by; grouping sets are refused.
        values: what shards group by beside that.
    """
    if len(values) != 1 or not groups or spread.group_expressions(level) is None:
        return None
    if not all(_is_exact(node, prepared, level) for node in (*groups, *values)):
        return None
    return plans.Counted(tuple(f"g{index}" for index in range(len(groups))), "d0", "n0")


def _is_exact(node: tree.Node, prepared: prepare.Prepared, level: names.Level) -> bool:
    if not tree.is_column(node):
        return False
    found = lookup.find_column(node, level)
    column = found[0].table.column(found[1]) if found is not None else None
    if column is None or column.type_oid != column.base_oid or column.collation is not None:
        return False
    if column.type_oid == pgtypes.BPCHAR:
        return column.typmod > 4 and prepared.ctx.bytewise
    if column.type_oid in (pgtypes.TEXT, pgtypes.VARCHAR):
        return prepared.ctx.bytewise
    return column.type_oid in _EXACT


def argument(node: tree.Node) -> tree.Node:
    """What a count of distinct values counts.

    Raises:
        NotCounted: it is another aggregate, or has more to it.
    """
    parts = tree.strings(node.funcname)
    if parts not in (("count",), ("pg_catalog", "count")) or node.agg_filter is not None or node.agg_order:
        raise NotCounted
    if len(node.args or ()) != 1 or not tree.is_column(node.args[0]) or node.func_variadic:
        raise NotCounted
    return node.args[0]


def final(counted: plans.Counted, value: tree.Node) -> tree.Node:
    """The count over what the gateway made, of a column of the shards' rows.

    Raises:
        NotCounted: the column is not the one that is counted.
    """
    if tree.strings(value.fields)[-1] != counted.value:
        raise NotCounted
    return aggregates.sql(f"CAST(COALESCE(sum({pieces.RELATION}.{counted.name}), 0) AS bigint)")
