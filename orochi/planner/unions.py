"""UNION ALL in FROM: what keeps its branches from being answered shard by shard, whatever each of them is."""

from __future__ import annotations

from orochi.planner import continuous, lookup, names, prepare, tree


def obstacle(level: names.Level, prepared: prepare.Prepared) -> str | None:
    """Why the set operation `level` cannot be answered by each shard for itself; None: each branch is to be checked."""
    stmt = level.stmt
    if stmt.op.name != "SETOP_UNION" or not stmt.all:
        return "a set operation in FROM"
    if stmt.withClause is not None or stmt.sortClause or stmt.limitCount or stmt.limitOffset:
        return "a set operation in FROM"
    if not continuous.is_of_parts(stmt) and _has_stripes(level, prepared):
        return "branches of a set operation over stripes are faster each by itself"
    for node, where in prepared.scopes.columns:
        found = lookup.origin(node, where) if where.is_below(level) and tree.is_column(node) else None
        column = found[0].table.column(found[1]) if found is not None else None
        if column is not None and column.collation not in (None, 'pg_catalog."default"'):
            return "a set operation of columns with a collation of their own"
    return None


def _has_stripes(level: names.Level, prepared: prepare.Prepared) -> bool:
    return any(
        prepared.pruned[id(item)].stripes(shard)
        for other in prepared.scopes.levels
        if other.is_below(level)
        for item in other.references
        for shard in prepared.pruned[id(item)].shards
    )
