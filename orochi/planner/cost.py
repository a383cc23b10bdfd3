"""What moving rows costs, from the numbers that statistics left in the catalog.

The model is small: a broadcast sends a relation to every node, a repartition sends it once, and
both must write it where it arrives. Where nothing is known of a table a default is taken, so plans
do not wait for statistics; estimates choose between right plans only.
"""

from __future__ import annotations

from orochi.catalog import snapshot as snapshots
from orochi.planner import invoked, names, prepare, staged, tree
from orochi.planner.tree import ast

#: A table that nothing is known about.
DEFAULT_ROWS = 1_000
#: What remains after a condition: an equality, another one.
_EQUAL, _OTHER = 0.1, 0.4
#: Bytes of a value in carrier form where the type does not tell.
_WIDE = 24
_WIDTHS = {16: 1, 21: 2, 23: 4, 20: 8, 700: 4, 701: 8, 1082: 4, 1114: 8, 1184: 8, 1700: 12, 18: 1}
#: A relation at most so large is broadcast without looking further: a hash exchange has a start too.
SMALL_BYTES = 256 << 10
#: What one more relation costs a fragment that joins it: its node's PostgreSQL plans the join anew.
_RELATION = 256


def rows_of(table: snapshots.Table) -> int:
    """How many rows the table is thought to have."""
    counted = sum(shard.row_count for shard in table.shards)
    striped = sum(s.row_count for shard in table.shards for chunk in shard.chunks for s in chunk.stripes)
    if staged.is_stage(table):
        return max(counted, 1)
    return max(counted, striped) or DEFAULT_ROWS


def width_of(columns: tuple[snapshots.Column, ...]) -> int:
    """Bytes of a row of these columns."""
    return sum(_WIDTHS.get(column.base_oid, _WIDE) for column in columns)


def selectivity(terms: tuple[tree.Node, ...]) -> float:
    """The share of a table's rows that such conditions leave."""
    share = 1.0
    for term in terms:
        share *= _EQUAL if tree.operator(term) == "=" else _OTHER
    return share


def filtered_rows(reference: names.Reference, prepared: prepare.Prepared) -> int:
    """How many rows of a mention of a table are thought to pass the conditions on it alone."""
    own = tuple(
        term
        for term, level in prepared.analysis.filters(reference)
        if _names_only(term, level, reference, prepared)
    )
    kept = prepared.pruned[id(reference)].shards
    share = len(kept) / max(len(reference.table.shards), 1)
    return max(int(rows_of(reference.table) * selectivity(own) * share), 1)


def _names_only(
    term: tree.Node, level: names.Level, reference: names.Reference, prepared: prepare.Prepared
) -> bool:
    columns = [node for node in tree.walk(term) if isinstance(node, ast.ColumnRef)]
    keys = [prepared.analysis.key(node, level) for node in columns]
    return bool(columns) and all(key is not None and key[0] == id(reference) for key in keys)


def broadcast(size: int, nodes: int) -> int:
    """The cost of sending a relation of so many bytes to every node."""
    return size * max(nodes, 1) if size > SMALL_BYTES else size


def repartition(size: int) -> int:
    """The cost of dealing a relation out to the shards it meets."""
    return size + SMALL_BYTES


def joined(fragments: int, relations: int) -> int:
    """The cost of a join that so many fragments make, each with so many relations that came to it."""
    return fragments * relations * _RELATION


def result_rows(prepared: prepare.Prepared) -> int:
    """How many rows a SELECT is thought to give: those of its largest table, fewer if it groups."""
    top = prepared.scopes.levels[0]
    stmt = top.stmt
    inputs = [filtered_rows(item, prepared) for item in prepared.references] or [1]
    rows = max(inputs)
    if isinstance(stmt, ast.SelectStmt):
        if stmt.groupClause:
            rows = max(rows // 5, 1)
        elif _aggregates(stmt, prepared):
            rows = 1
        limit = getattr(getattr(getattr(stmt.limitCount, "val", None), "ival", None), "real", None)
        if limit is not None:
            rows = min(rows, int(limit))
    return rows


def _aggregates(stmt: tree.Node, prepared: prepare.Prepared) -> bool:
    return any(
        invoked.is_aggregate(node, prepared.ctx.builtins)
        for node in tree.walk(stmt.targetList or (), stop=(ast.SelectStmt,))
    )
