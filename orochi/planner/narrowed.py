"""Conditions of a query on a continuous aggregate, put into the parts that answer for it.

What is read of an aggregate is its finished buckets and, by UNION ALL, those aggregated live. A condition on its
columns goes into both: to the finished buckets as it is, to the live part as a condition on rows where it is about
groups, else as one on whole groups. So shards and chunks are pruned, and one series is read from its shard. The
condition stays where it was too, so a part may be narrowed less than could be, never more.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Hashable, Iterator, Mapping

from pglast import enums

from orochi import pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.planner import context, continuous, literals, parse, safety, tree, views
from orochi.planner.tree import ast

Terms = tuple[tree.Node, ...]
_MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "="}
_TYPES = {
    pgtypes.TIMESTAMPTZ: parse.type_name("timestamptz"),
    pgtypes.TIMESTAMP: parse.type_name("timestamp"),
}
#: Times that may be moved by a bucket without leaving their type.
_USUAL_YEARS = range(1, 10_000)


@dataclasses.dataclass(frozen=True, slots=True)
class _Union:
    """The two parts of an aggregate as it is read."""

    finished: tree.Node
    live: tree.Node
    bucket: snapshots.Bucket


#: Statements put together from views, as they come again while nothing is written to finished buckets.
_KEPT = 200
_kept: collections.OrderedDict[Hashable, tuple[snapshots.Snapshot, parse.Statement]] = (
    collections.OrderedDict()
)


def expanded(given: parse.Statement, ctx: context.PlanContext) -> parse.Statement:
    """`given` with its views expanded, and its conditions moved into the aggregates that it reads."""
    key = (given.sql, ctx.search_path, ctx.temp_tables, id(ctx.snapshot))
    known = _kept.get(key)
    if known is not None and known[0] is ctx.snapshot:
        return known[1]
    whole = views.expand(given, ctx)
    if not any(
        isinstance(node, ast.RangeVar) and node.schemaname == continuous.SCHEMA
        for node in tree.walk(whole.tree)
    ):
        return whole
    try:
        found = _Narrowing(ctx).run(whole.tree)
        result = whole if found is whole.tree else parse.parse_one(parse.deparse(found))
    except parse.CannotDeparse:
        result = whole
    _kept[key] = ctx.snapshot, result
    while len(_kept) > _KEPT:
        _kept.popitem(last=False)
    return result


class _Narrowing:
    """One statement, from the outermost query inwards."""

    def __init__(self, ctx: context.PlanContext) -> None:
        self._ctx = ctx
        self._done: dict[int, tree.Node] = {}

    def run(self, root: tree.Node) -> tree.Node:
        return tree.transform(root, self._visit)

    def _visit(self, node: tree.Node) -> tree.Node | None:
        if not isinstance(node, ast.SelectStmt) or not node.fromClause or id(node) in self._done:
            return None
        terms = tuple(term for term in tree.conjuncts(node.whereClause) if self._is_movable(term))
        items = node.fromClause
        if terms:
            alone = len(items) == 1 and not isinstance(items[0], ast.JoinExpr)
            moved = tuple(self._item(item, terms, alone=alone) for item in items)
            if any(a is not b for a, b in zip(items, moved, strict=True)):
                node = tree.changed(node, fromClause=moved)
        self._done[id(node)] = node  # kept, so that no other node gets its id
        return tree.transform(node, self._visit)

    def _is_movable(self, term: tree.Node) -> bool:
        parts = list(tree.walk(term))
        return (
            any(isinstance(part, ast.ColumnRef) for part in parts)
            and not any(isinstance(part, (ast.SubLink, ast.CollateClause, ast.A_Star)) for part in parts)
            and safety.problem(term, self._ctx, frozenset()) is None
        )

    def _item(self, item: tree.Node, terms: Terms, *, alone: bool) -> tree.Node:
        if isinstance(item, ast.JoinExpr) and item.alias is None:
            kind = item.jointype.name
            left, right = item.larg, item.rarg
            if kind in ("JOIN_INNER", "JOIN_LEFT"):
                left = self._item(left, terms, alone=False)
            if kind in ("JOIN_INNER", "JOIN_RIGHT"):
                right = self._item(right, terms, alone=False)
            same = left is item.larg and right is item.rarg
            return item if same else tree.changed(item, larg=left, rarg=right)
        if not isinstance(item, ast.RangeSubselect) or item.alias is None or item.lateral:
            return item
        stmt = item.subquery
        names = _names(item)
        own = tuple(term for term in terms if _is_about(term, item.alias.aliasname, names, alone=alone))
        if not own:
            return item
        union = self._union(stmt)
        if union is not None:
            return tree.changed(item, subquery=self._narrow(stmt, union, names, own))
        if _hands_on(stmt):
            moved = _replaced(own, dict(zip(names, _values(stmt), strict=False)), plain=True)
            if moved:
                return tree.changed(item, subquery=_where(stmt, moved))
        return item

    def _union(self, stmt: tree.Node) -> _Union | None:
        """The parts of an aggregate, if the sub-SELECT is one."""
        if not continuous.is_of_parts(stmt):
            return None
        (source,) = stmt.larg.fromClause
        table = self._ctx.snapshot.table(source.schemaname or "", source.relname)
        for aggregate in self._ctx.snapshot.aggregates if table is not None else ():
            if table is not None and aggregate.materialization_oid == table.oid:
                return _Union(stmt.larg, stmt.rarg, aggregate.bucket)
        return None

    def _narrow(self, stmt: tree.Node, union: _Union, names: tuple[str, ...], terms: Terms) -> tree.Node:
        live, values = union.live, _values(union.live)
        finished = _where(
            union.finished, _replaced(terms, dict(zip(names, _values(union.finished), strict=False)))
        )
        grouped = {
            name: value for name, value in zip(names, values, strict=False) if value in live.groupClause
        }
        of_rows = _replaced(terms, grouped)
        of_groups = _replaced(
            tuple(term for term in terms if not set(_columns_of(term)) <= set(grouped)),
            dict(zip(names, values, strict=False)),
        )
        near = self._near(union, names, terms)
        live = _where(live, near + of_rows)
        if of_groups:
            live = tree.changed(
                live, havingClause=tree.conjunction(tree.conjuncts(live.havingClause) + of_groups)
            )
        return tree.changed(stmt, larg=finished, rarg=live)

    def _near(self, union: _Union, names: tuple[str, ...], terms: Terms) -> Terms:
        """What conditions on the bucket say of the time of its rows, which chunks are pruned by."""
        bucket = union.bucket
        if bucket.width is None:
            return ()
        position, _, column = continuous.bucket_of(union.live)
        found: list[tree.Node] = []
        for term in terms:
            for name, operator, value in _comparisons(term):
                if name != names[position]:
                    continue
                if operator in ("=", ">", ">="):
                    found.append(_operation(">" if operator == ">" else ">=", column, value))
                if operator in ("=", "<", "<=") and bucket.type_oid in _TYPES and self._is_usual(value):
                    placed = ast.TypeCast(arg=value, typeName=_TYPES[bucket.type_oid])
                    found.append(
                        _operation("<", column, _operation("+", placed, _microseconds(bucket.width)))
                    )
        return tuple(found)

    def _is_usual(self, value: tree.Node) -> bool:
        """Whether a bucket's width can be added to a time without an error: a literal of a year with four digits."""
        constant = literals.constant(value)
        text = constant.text if constant is not None else None
        return (
            text is not None
            and len(text) >= 10
            and text[:4].isdigit()
            and text[4] == "-"
            and int(text[:4]) in _USUAL_YEARS
            and "BC" not in text.upper()
        )


def _names(item: tree.Node) -> tuple[str, ...]:
    given = tree.strings(item.alias.colnames)
    stmt = item.subquery
    while isinstance(stmt, ast.SelectStmt) and stmt.larg is not None:
        stmt = stmt.larg
    own = tuple(
        target.name or (tree.strings(target.val.fields)[-1] if tree.is_column(target.val) else "")
        for target in getattr(stmt, "targetList", None) or ()
    )
    return (*given, *own[len(given) :])


def _values(stmt: tree.Node) -> Terms:
    return tuple(target.val for target in stmt.targetList)


def _columns_of(term: tree.Node) -> Iterator[str]:
    for node in tree.walk(term):
        if isinstance(node, ast.ColumnRef):
            yield tree.strings(node.fields)[-1]


def _is_about(term: tree.Node, alias: str, names: tuple[str, ...], *, alone: bool) -> bool:
    """Whether all columns of a term are those of one FROM item."""
    for node in tree.walk(term):
        if not isinstance(node, ast.ColumnRef):
            continue
        parts = tree.strings(node.fields)
        if parts[-1] not in names or not parts[-1] or names.count(parts[-1]) != 1:
            return False
        if len(parts) == 1 and not alone:
            return False
        if len(parts) > 2 or (len(parts) == 2 and parts[0] != alias):
            return False
    return True


def _hands_on(stmt: tree.Node) -> bool:
    """Whether a sub-SELECT hands rows on one by one, so that they may be filtered before it."""
    if not isinstance(stmt, ast.SelectStmt) or stmt.larg is not None or not stmt.fromClause:
        return False
    if any(
        (
            stmt.groupClause,
            stmt.havingClause,
            stmt.distinctClause,
            stmt.limitCount,
            stmt.limitOffset,
            stmt.lockingClause,
            stmt.withClause,
        )
    ):
        return False
    return not any(isinstance(node, ast.FuncCall) for node in tree.walk(stmt.targetList or ()))


def _replaced(terms: Terms, values: Mapping[str, tree.Node], *, plain: bool = False) -> Terms:
    """The terms all of whose columns have a value, with these in their place; `plain`: only where all are columns."""
    result = []
    for term in terms:
        columns = set(_columns_of(term))
        if not columns <= set(values) or (
            plain and not all(tree.is_column(values[name]) for name in columns)
        ):
            continue

        def value_of(node: tree.Node) -> tree.Node | None:
            return values[tree.strings(node.fields)[-1]] if isinstance(node, ast.ColumnRef) else None

        result.append(tree.transform(term, value_of))
    return tuple(result)


def _where(stmt: tree.Node, terms: Terms) -> tree.Node:
    if not terms:
        return stmt
    return tree.changed(stmt, whereClause=tree.conjunction(tree.conjuncts(stmt.whereClause) + terms))


def _operation(operator: str, left: tree.Node, right: tree.Node) -> tree.Node:
    return ast.A_Expr(kind=enums.A_Expr_Kind.AEXPR_OP, name=tree.names(operator), lexpr=left, rexpr=right)


def _microseconds(count: int) -> tree.Node:
    text = ast.A_Const(isnull=False, val=ast.String(sval=f"{count} microseconds"))
    return ast.TypeCast(arg=text, typeName=parse.type_name("interval"))


def _comparisons(term: tree.Node) -> Iterator[tuple[str, str, tree.Node]]:
    """(column, operator, value without columns) of what a term compares."""
    operator = tree.operator(term)
    if operator in _MIRRORED:
        for side, other, name in (
            (term.lexpr, term.rexpr, operator),
            (term.rexpr, term.lexpr, _MIRRORED[operator]),
        ):
            if tree.is_column(side) and not any(_columns_of(other)):
                yield tree.strings(side.fields)[-1], name, other
    elif isinstance(term, ast.A_Expr) and term.kind.name == "AEXPR_BETWEEN" and tree.is_column(term.lexpr):
        low, high = term.rexpr
        if not any(_columns_of((low, high))):
            name = tree.strings(term.lexpr.fields)[-1]
            yield name, ">=", low
            yield name, "<=", high
