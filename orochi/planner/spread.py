"""Whether a query can be answered shard by shard: each row of its answer comes from rows of one shard.

That is so where all distributed tables in it are co-located and joined on their distribution
columns, reference tables are joined to them, and every sub-SELECT reads only rows of the shard
that the row it is evaluated for lies in.
"""

from __future__ import annotations

import dataclasses

from orochi.catalog import snapshot as snapshots
from orochi.planner import (
    analyze,
    invoked,
    labels,
    lookup,
    names,
    outer,
    prepare,
    safety,
    scans,
    tree,
    unions,
)
from orochi.planner.tree import ast


class Unfit(Exception):
    """A strategy does not fit the statement; the text says why, for EXPLAIN."""


@dataclasses.dataclass(frozen=True, slots=True)
class Spread:
    """How a relation's rows lie.

    Attributes:
        distributed: over the shards; else every node has all of them.
        keys: distribution columns that each row carries the value of.
        single: all in one shard, so that any query of it is answered there.
    """

    distributed: bool
    keys: tuple[analyze.ColumnKey, ...] = ()
    single: bool = False


REPLICATED = Spread(False)


def refuse(prepared: prepare.Prepared, node: tree.Node) -> None:
    """Raise Unfit unless all of the statement may run on nodes."""
    for level in prepared.scopes.levels:
        for item in level.relations.values():
            if isinstance(item, names.Other) and item.kind == "local":
                raise Unfit(f"relation {item.alias} is on the coordinator only")
        if not isinstance(level.stmt, ast.SelectStmt):
            raise Unfit("it modifies data")
    reason = safety.problem(
        node, prepared.ctx, safety.node_types(prepared.references, prepared.ctx.search_path)
    )
    if reason is not None:
        raise Unfit(reason)
    if not scans.colocated(prepared.references):
        raise Unfit("its tables are not co-located")
    if outer.lifts_aggregates(prepared):
        raise Unfit("an aggregate in a sub-SELECT belongs to the query around it")


class Checker:
    """The check of one prepared statement."""

    def __init__(self, prepared: prepare.Prepared) -> None:
        self._analysis = prepared.analysis
        self._prepared = prepared

    def level(self, level: names.Level) -> Spread:
        """How the FROM and WHERE of one query level spread, its sub-SELECTs being safe.

        Raises:
            Unfit: rows of several shards would have to meet.
        """
        root = self._analysis.joins[id(level)]
        if root is None:
            found = REPLICATED
        else:
            found = self._item(root, self._analysis.where(level))
        self._sublinks(level, found)
        return found

    def closed(
        self, keys: tuple[analyze.ColumnKey, ...], terms: analyze.Terms, key: analyze.ColumnKey
    ) -> bool:
        """Whether a column equals one of `keys` where `terms` hold."""
        classes = self._analysis.classes(terms)
        return any(classes.equal(key, other) for other in keys)

    def _item(self, item: analyze.Item, terms: analyze.Terms) -> Spread:
        if isinstance(item, names.Reference):
            if item.hidden or item.sampled:
                raise Unfit("a join alias or TABLESAMPLE hides a table")
            if item.table.kind is snapshots.TableKind.SINGLE:
                return Spread(True, single=True)
            if not scans.is_distributed(item):
                return REPLICATED
            assert item.table.distribution_column is not None
            return Spread(True, ((id(item), item.table.distribution_column),))
        if isinstance(item, names.Other):
            return self._other(item)
        return self._join(item, terms)

    def _other(self, item: names.Other) -> Spread:
        if item.kind in ("values", "function"):
            return REPLICATED
        if item.kind != "subquery" or item.level is None:
            raise Unfit(f"{item.kind} {item.alias} in FROM")
        if not self._reads_distributed(item.level):
            return REPLICATED
        return self.derived(item.level)

    def derived(self, level: names.Level) -> Spread:
        """How the result of a sub-SELECT of FROM spreads."""
        stmt = level.stmt
        if stmt.larg is not None:
            return self._union(level)
        if stmt.withClause is not None or stmt.lockingClause:
            raise Unfit("WITH or a lock inside FROM")
        found = self.level(level)
        if not found.distributed:
            raise Unfit("a sub-SELECT of FROM reads tables in a way that is not understood")
        if stmt.limitCount is not None or stmt.limitOffset is not None:
            raise Unfit("LIMIT inside FROM")
        if is_aggregated(stmt, self._prepared) and not self.grouped_by_key(level, found):
            raise Unfit("an aggregate inside FROM is not grouped by the distribution column")
        if stmt.distinctClause is not None and not self._outputs_key(level, found):
            raise Unfit("DISTINCT inside FROM without the distribution column")
        if not self.windows_by_key(level, found):
            raise Unfit("a window inside FROM is not partitioned by the distribution column")
        if stmt.sortClause and order_shows(level, self._prepared):
            raise Unfit("the order of a sub-SELECT in FROM shows in the answer")
        return found

    def _union(self, level: names.Level) -> Spread:
        """How a UNION ALL spreads: rows of every shard, if each branch gives those of the shard alone."""
        reason = unions.obstacle(level, self._prepared)
        if reason is not None:
            raise Unfit(reason)
        for arm in level.arms:
            if not self._reads_distributed(arm):
                raise Unfit("a branch of a set operation reads no distributed table")
            self.derived(arm)
        return Spread(True)

    def grouped_by_key(self, level: names.Level, spread: Spread) -> bool:
        """Whether each group lies in one shard: GROUP BY has a distribution column."""
        grouped = group_expressions(level)
        return grouped is not None and any(self._is_key(item, level, spread) for item in grouped)

    def windows_by_key(self, level: names.Level, spread: Spread) -> bool:
        """Whether each window partition lies in one shard."""
        named = {item.name: item for item in level.stmt.windowClause or ()}
        for window in windows(level.stmt):
            seen = 0
            while window.refname or window.name:
                following = named.get(window.refname or window.name)
                if following is None or following is window or seen > len(named):
                    break
                if window.partitionClause:
                    break
                window, seen = following, seen + 1
            parts = window.partitionClause or ()
            if not any(self._is_key(item, level, spread) for item in parts):
                return False
        return True

    def _outputs_key(self, level: names.Level, spread: Spread) -> bool:
        stmt = level.stmt
        items = tuple(item for item in stmt.distinctClause if item is not None)  # DISTINCT ON, else (None,)
        if items:
            return any(self._is_key(item, level, spread) for item in items)
        return any(
            labels.is_star(item) or self._is_key(item.val, level, spread) for item in stmt.targetList or ()
        )

    def _is_key(self, node: tree.Node, level: names.Level, spread: Spread) -> bool:
        key = self._analysis.key(node, level) if tree.is_column(node) else None
        return key is not None and self.closed(spread.keys, self._analysis.where(level), key)

    def _join(self, item: analyze.Join, terms: analyze.Terms) -> Spread:
        level = _level_of(item)
        inside = terms
        if item.kind != "JOIN_INNER":
            on = tuple((term, level) for term in item.terms) if level is not None else ()
            inside = (
                terms
                + on
                + _inner(item.right, level)
                + (_inner(item.left, level) if item.kind == "JOIN_FULL" else ())
            )
        left = self._item(item.left, terms if item.kind != "JOIN_FULL" else inside)
        if left.distributed and not left.single and self._is_bound(item.right, left.keys):
            return left
        right = self._item(item.right, inside)
        if not left.distributed and not right.distributed:
            return REPLICATED
        if left.single or right.single:
            if left.single == left.distributed and right.single == right.distributed:
                return Spread(True, single=True)
            raise Unfit("a table with one shard is joined with a distributed one")
        if left.distributed and right.distributed:
            classes = self._analysis.classes(inside)
            if not any(classes.equal(a, b) for a in left.keys for b in right.keys):
                raise Unfit("distributed tables are not joined on their distribution columns")
            if item.kind == "JOIN_INNER":
                return Spread(True, left.keys + right.keys)
            return Spread(True, left.keys if item.kind == "JOIN_LEFT" else ())
        if item.kind == "JOIN_FULL" or (item.kind == "JOIN_LEFT" and right.distributed):
            raise Unfit("an outer join keeps rows of a table that every node has")
        return left if left.distributed else right

    def _is_bound(self, item: analyze.Item, keys: tuple[analyze.ColumnKey, ...]) -> bool:
        """Whether a LATERAL sub-SELECT reads, for each row with such keys, rows of its shard only."""
        if not isinstance(item, names.Other) or item.level is None or item.level.place != "lateral":
            return False
        if item.level.stmt.withClause is not None or item.level.stmt.lockingClause:
            return False
        inside = [
            reference
            for other in self._prepared.scopes.levels
            if other is item.level or other.is_below(item.level)
            for reference in other.references
        ]
        return any(map(scans.is_distributed, inside)) and self._are_bound(inside, list(keys))

    def _are_bound(self, inside: list[names.Reference], accepted: list[analyze.ColumnKey]) -> bool:
        """Whether tables are read by one of the `accepted` distribution columns, or one that equals such."""
        for reference in inside:
            if reference.table.kind is snapshots.TableKind.SINGLE or reference.sampled or reference.hidden:
                return False
            if not scans.is_distributed(reference):
                continue
            key = (id(reference), str(reference.table.distribution_column))
            classes = self._analysis.classes(self._analysis.quals(reference))
            if not any(classes.equal(key, other) for other in accepted):
                return False
            accepted.append(key)
        return True

    def _sublinks(self, level: names.Level, spread: Spread) -> None:
        """Check that sub-SELECTs in expressions of `level` stay within the shard of the row."""
        accepted = [
            (id(item), str(item.table.distribution_column))
            for item in _under(level)
            if scans.is_distributed(item)
        ]
        below = [other for other in self._prepared.scopes.levels if _is_sublink_of(other, level)]
        for inner in below:
            for reference in inner.references:
                if not scans.is_distributed(reference):
                    continue
                if not spread.distributed:
                    raise Unfit("a sub-SELECT reads a distributed table for rows that every node has")
                key = (id(reference), str(reference.table.distribution_column))
                classes = self._analysis.classes(self._analysis.quals(reference))
                if not any(classes.equal(key, other) for other in accepted):
                    raise Unfit("a sub-SELECT is not bound to its row by the distribution column")
                accepted.append(key)

    def _reads_distributed(self, level: names.Level) -> bool:
        return any(
            scans.is_distributed(item)
            for other in self._prepared.scopes.levels
            if other is level or other.is_below(level)
            for item in other.references
        )


def _under(level: names.Level) -> list[names.Reference]:
    """The tables of a level's FROM, those inside sub-SELECTs of FROM too."""
    found = list(level.references)
    for item in level.relations.values():
        if isinstance(item, names.Other) and item.kind == "subquery" and item.level is not None:
            found += _under(item.level)
    return found


def _is_sublink_of(level: names.Level, top: names.Level) -> bool:
    """Whether `level` is a sub-SELECT in an expression of `top`, or anywhere inside such a one."""
    current = level
    while current.parent is not None and current.parent is not top:
        current = current.parent
    return current.parent is top and current.place in ("sublink", "cte")


def _level_of(item: analyze.Item) -> names.Level | None:
    for leaf in analyze.members(item):
        if isinstance(leaf, names.Reference):
            return leaf.level
        if leaf.level is not None:
            return leaf.level.parent
    return None


def _inner(item: analyze.Item, level: names.Level | None) -> analyze.Terms:
    return analyze.inner_terms(item, level) if level is not None else ()


def group_expressions(level: names.Level) -> tuple[tree.Node, ...] | None:
    """What GROUP BY groups by, positions and output names resolved; None for grouping sets."""
    grouped = level.stmt.groupClause or ()
    if any(isinstance(item, ast.GroupingSet) for item in grouped):
        return None
    return tuple(group_expression(item, level) for item in grouped)


def group_expression(item: tree.Node, level: names.Level) -> tree.Node:
    """The expression that an item of GROUP BY stands for: an input column comes before an output name."""
    if tree.is_column(item) and len(item.fields) == 1:
        found = lookup.origin(item, level)
        if found is not None and (found[0].level is level or found[0].level.is_below(level)):
            return item
        if any(
            isinstance(other, names.Other) and other.kind != "subquery" for other in level.relations.values()
        ):
            return item  # it may be a column of that
        return _output(item, level.stmt)
    return _position(item, level.stmt)


def sort_expression(item: tree.Node, level: names.Level) -> tree.Node:
    """The expression that an item of ORDER BY stands for: an output name comes before an input column."""
    return _output(item, level.stmt) if tree.is_column(item) else _position(item, level.stmt)


def _position(item: tree.Node, stmt: tree.Node) -> tree.Node:
    if not isinstance(item, ast.A_Const) or not isinstance(item.val, ast.Integer):
        return item
    targets, position = stmt.targetList or (), item.val.ival or 0
    if not 0 < position <= len(targets) or any(labels.is_star(target) for target in targets[:position]):
        return item
    return targets[position - 1].val


def _output(item: tree.Node, stmt: tree.Node) -> tree.Node:
    if len(item.fields) > 1:
        return item
    name = tree.strings(item.fields)[0]
    for target in stmt.targetList or ():
        if not labels.is_star(target) and labels.output_name(target) == name:
            return target.val
    return item


def windows(stmt: tree.Node) -> list[tree.Node]:
    """The OVER of each window function call of one query level."""
    parts = (stmt.targetList or (), stmt.sortClause or (), stmt.distinctClause or ())
    kept = tuple(tuple(item for item in part if item is not None) for part in parts)
    found = (invoked.window(node) for node in tree.walk(kept, stop=(ast.SelectStmt,)))
    return [window for window in found if window is not None]


def aggregates(stmt: tree.Node, prepared: prepare.Prepared) -> list[tree.Node]:
    """The aggregate calls of one query level, those inside window functions' arguments too."""
    distinct = tuple(item for item in stmt.distinctClause or () if item is not None)
    parts = (stmt.targetList, stmt.havingClause, stmt.sortClause, stmt.windowClause, distinct)
    return [
        node
        for node in tree.walk(tuple(part or () for part in parts), stop=(ast.SelectStmt,))
        if invoked.is_aggregate(node, prepared.ctx.builtins)
    ]


def is_aggregated(stmt: tree.Node, prepared: prepare.Prepared) -> bool:
    """Whether a query level groups or aggregates."""
    return bool(stmt.groupClause or stmt.havingClause or aggregates(stmt, prepared))


#: Aggregates whose result is the same in whatever order their input comes.
_UNORDERED = frozenset(
    (
        "count",
        "sum",
        "avg",
        "min",
        "max",
        "bool_and",
        "bool_or",
        "every",
        "bit_and",
        "bit_or",
        "bit_xor",
        "any_value",
        "stddev",
        "stddev_pop",
        "stddev_samp",
        "variance",
        "var_pop",
        "var_samp",
        "corr",
        "covar_pop",
        "covar_samp",
        "range_agg",
        "range_intersect_agg",
    )
)


def order_shows(level: names.Level, prepared: prepare.Prepared) -> bool:
    """Whether the ORDER BY of a sub-SELECT in FROM may be seen in what reads it.

    PostgreSQL promises nothing, but keeps the order through a plain query, into LIMIT, into
    aggregates such as array_agg and into windows without an order of their own.
    """
    around = level.parent
    if around is not None and not isinstance(around.stmt, ast.SelectStmt):
        return True  # rows are inserted in that order: sequences tell
    if around is None or around.stmt.larg is not None or len(around.relations) != 1:
        return False
    stmt = around.stmt
    if any(not window.orderClause for window in windows(stmt)):
        return True
    found = aggregates(stmt, prepared)
    if stmt.groupClause or stmt.havingClause or found:
        return any(not invoked.order(call) and invoked.name(call) not in _UNORDERED for call in found)
    if stmt.sortClause or stmt.distinctClause:
        return False
    return around.place in ("top", "sublink", "cte", "arm") or order_shows(around, prepared)
