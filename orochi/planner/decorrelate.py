"""Aggregates computed for each row of an outer query, computed for all of its keys at once instead.

`(SELECT agg(x) FROM t WHERE t.k = o.k AND ...)` becomes a stage `SELECT t.k, agg(x) FROM t WHERE ...
GROUP BY t.k` and, in the place of the sub-SELECT, a look-up of the one row of the key. If conditions on
`o` alone leave few of its rows, or a condition `o.k IN (...)` of what is a stage already, only their keys are computed
for. Where no row has the key the look-up gives what the aggregate gives of no rows: NULL, or 0 for a count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from orochi import pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.planner import analyze, cost, labels, names, parse, prepare, pull, recursive, spread, staged, tree
from orochi.planner import plan as plans
from orochi.planner.tree import ast

#: Aggregates that are NULL over no rows.
_NULL_WHEN_EMPTY = frozenset(
    {
        "sum", "avg", "min", "max", "any_value", "bool_and", "bool_or", "every", "bit_and", "bit_or",
        "bit_xor", "stddev", "stddev_pop", "stddev_samp", "variance", "var_pop", "var_samp", "array_agg",
        "string_agg", "json_agg", "jsonb_agg",
    }
)  # fmt: skip
#: Operators that are NULL where an argument is.
_STRICT = frozenset({"+", "-", "*", "/", "%", "||", "=", "<>", "<", ">", "<=", ">="})

#: Keys are asked for first if they are so few, and so many times fewer than the rows of their table.
_MOST_KEYS, _FEWER = 100_000, 8


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """The conditions of a sub-SELECT: pairs of equal expressions, inner and outer, and the rest."""

    pairs: tuple[tuple[tree.Node, tree.Node], ...]
    rest: tuple[tree.Node, ...]


def aggregate(
    level: names.Level,
    prepared: prepare.Prepared,
    builder: recursive.Builder,
    staged_before: Mapping[int, tree.Node],
) -> tree.Node | None:
    """What stands in the place of a correlated sub-SELECT of one aggregate; None for any other one.

    Args:
        level: the sub-SELECT.
        prepared: the statement.
        builder: takes its stage.
        staged_before: by the ids of other sub-SELECTs, the SELECTs of stages that stand in their places.

    Raises:
        NeedsColumns: the columns of its stage must be asked for.
        Unfit: its rows cannot be carried to a node.
    """
    stmt = level.stmt
    if not _is_plain(stmt, prepared) or not _is_scalar(stmt, prepared):
        return None
    value, empty = _when_empty(stmt.targetList[0].val, prepared)
    if value is None:
        return None
    inside = {id(level)} | {id(i) for i in prepared.scopes.levels if i.is_below(level)}
    if not _is_known(inside, prepared):
        return None
    split = split_where(level, prepared, inside)
    if split is None:
        return None
    asked = (
        *_asked(level, prepared, split.pairs),
        *_listed(level, prepared, split.pairs, builder, staged_before),
    )
    keys = [f"orochi_k{number}" for number in range(len(split.pairs))]
    targets = [
        *(ast.ResTarget(name=name, val=inner) for name, (inner, _) in zip(keys, split.pairs, strict=True)),
        ast.ResTarget(name="orochi_v", val=value),
    ]
    grouped = tree.changed(
        stmt,
        targetList=tuple(targets),
        whereClause=tree.conjunction(split.rest),
        groupClause=tuple(inner for inner, _ in split.pairs),
        sortClause=None,
    )
    if asked:
        fewer = tree.changed(grouped, whereClause=tree.conjunction((*split.rest, *asked)))
        grouped = fewer if _is_planned(fewer, builder) else grouped
    made = builder.add(grouped, indexes=(tuple(keys),))
    alias = f"orochi_{made.name}"
    found = parse.parse_one(f"SELECT {empty.format(f'{alias}.orochi_v')}").tree
    terms = tuple(
        ast.A_Expr(kind=_equals().kind, name=tree.names("="), lexpr=tree.column(alias, name), rexpr=outer)
        for name, (_, outer) in zip(keys, split.pairs, strict=True)
    )
    return tree.changed(
        found,
        fromClause=(recursive.stage_relation(made, alias),),
        whereClause=tree.conjunction(terms),
    )


def _asked(
    level: names.Level, prepared: prepare.Prepared, pairs: tuple[tuple[tree.Node, tree.Node], ...]
) -> tuple[tree.Node, ...]:
    """Conditions that leave of the keys those which some row asks for, where its table's own filter leaves few."""
    found = []
    for inner, outer in pairs:
        key = prepared.analysis.key(outer, level) if tree.is_column(outer) else None
        if key is None:
            continue
        reference = prepared.analysis.reference(key)
        column = reference.table.column(key[1])
        if staged.is_stage(reference.table) or reference.hidden or reference.sampled or column is None:
            continue
        if column.collation not in (None, 'pg_catalog."default"'):
            continue
        terms = pull.own_terms(reference, prepared)
        rows = cost.filtered_rows(reference, prepared)
        if not terms or rows > _MOST_KEYS or rows * _FEWER > cost.rows_of(reference.table):
            continue
        listed = " AND ".join(f"({term})" for term in terms)
        sql = f"SELECT {names.quoted(column.name)} FROM {names.qualified(reference.table)} WHERE {listed}"
        link = parse.parse_one(f"SELECT 1 WHERE 1 IN ({sql})").tree.whereClause
        found.append(tree.changed(link, testexpr=inner))
    return tuple(found)


def _listed(
    level: names.Level,
    prepared: prepare.Prepared,
    pairs: tuple[tuple[tree.Node, tree.Node], ...],
    builder: recursive.Builder,
    staged_before: Mapping[int, tree.Node],
) -> Iterator[tree.Node]:
    """Conditions that leave the keys which the outer WHERE looks for in a small stage; it drops rows of others."""
    if level.parent is None or not level.references:
        return
    most = max(cost.rows_of(reference.table) for reference in level.references) // _FEWER
    for term in tree.conjuncts(level.parent.stmt.whereClause):
        if not isinstance(term, ast.SubLink) or term.subLinkType.name != "ANY_SUBLINK" or term.operName:
            continue
        select = staged_before.get(id(term.subselect))
        if select is None or not tree.is_column(term.testexpr):
            continue
        (source,) = select.fromClause
        table = next(
            t for t in builder.ctx.snapshot.tables.values() if t.name == source.relname and staged.is_stage(t)
        )
        key = prepared.analysis.key(term.testexpr, level.parent)
        if key is None or cost.rows_of(table) > min(most, _MOST_KEYS):
            continue
        for inner, outer in pairs:
            if not tree.is_column(outer) or prepared.analysis.key(outer, level) != key:
                continue
            if _are_alike(inner, key, table.columns[0], level, prepared):
                yield tree.changed(term, testexpr=inner, subselect=select)


def _are_alike(
    inner: tree.Node,
    outer: analyze.ColumnKey,
    listed: snapshots.Column,
    level: names.Level,
    prepared: prepare.Prepared,
) -> bool:
    """Whether equality of the first with the second, and of that with the third, is the first's with the third."""
    key = prepared.analysis.key(inner, level) if tree.is_column(inner) else None
    if key is None:
        return False
    columns = [prepared.analysis.reference(item).table.column(item[1]) for item in (key, outer)]
    if any(column is None or column.collation not in (None, 'pg_catalog."default"') for column in columns):
        return False
    types = {listed.base_oid, *(column.base_oid for column in columns if column is not None)}
    return len(types) == 1 or types <= pgtypes.INTEGERS | {pgtypes.NUMERIC}


def _is_planned(select: tree.Node, builder: recursive.Builder) -> bool:
    """Whether a SELECT can be a stage without pulling tables.

    Raises:
        NeedsColumns: its columns must be asked for.
    """
    trial = builder.fork()
    try:
        trial.add(select)
    except spread.Unfit:
        return False
    return not any(
        isinstance(stage.plan, plans.Distributed) and stage.plan.strategy == "pull" for stage in trial.stages
    )


def _equals() -> tree.Node:
    return parse.parse_one("SELECT 1 = 1").tree.targetList[0].val


def _is_plain(stmt: tree.Node, prepared: prepare.Prepared) -> bool:
    if stmt.larg is not None or stmt.withClause is not None or stmt.groupClause or stmt.havingClause:
        return False
    if stmt.distinctClause or stmt.windowClause or stmt.limitCount or stmt.limitOffset or stmt.lockingClause:
        return False
    if len(stmt.targetList or ()) != 1 or labels.is_star(stmt.targetList[0]) or not stmt.fromClause:
        return False
    return bool(spread.aggregates(stmt, prepared)) and not spread.windows(stmt)


def _is_scalar(stmt: tree.Node, prepared: prepare.Prepared) -> bool:
    return any(
        isinstance(node, ast.SubLink) and node.subselect is stmt and node.subLinkType.name == "EXPR_SUBLINK"
        for node in tree.walk(prepared.statement.tree)
    )


def _when_empty(node: tree.Node, prepared: prepare.Prepared) -> tuple[tree.Node | None, str]:
    """What the stage computes, and how the look-up makes the value of it (`{}` is the stage's column)."""
    if _is_count(node, prepared):
        return node, "coalesce(pg_catalog.sum({}), 0)::bigint"
    if _is_null_when_empty(node, prepared):
        return node, "{}"
    if isinstance(node, ast.CoalesceExpr) and len(node.args) == 2:
        first, second = node.args
        if _is_null_when_empty(first, prepared) and isinstance(second, ast.A_Const):
            return first, "coalesce((pg_catalog.array_agg({}))[1], " + parse.deparse_expression(second) + ")"
    return None, ""


def _is_count(node: tree.Node, prepared: prepare.Prepared) -> bool:
    return (
        isinstance(node, ast.FuncCall)
        and tree.strings(node.funcname)[-1] == "count"
        and prepared.ctx.builtins.is_aggregate(tree.strings(node.funcname))
    )


def _is_null_when_empty(node: tree.Node, prepared: prepare.Prepared) -> bool:
    """Whether an expression over aggregates is NULL when they are of no rows."""
    if isinstance(node, ast.FuncCall):
        parts = tree.strings(node.funcname)
        return parts[-1] in _NULL_WHEN_EMPTY and prepared.ctx.builtins.is_aggregate(parts)
    if isinstance(node, ast.TypeCast):
        return _is_null_when_empty(node.arg, prepared)
    if tree.operator(node) in _STRICT:
        sides = (node.lexpr, node.rexpr)
        good = [_is_null_when_empty(side, prepared) for side in sides]
        return all(ok or isinstance(side, ast.A_Const) for ok, side in zip(good, sides, strict=True)) and any(
            good
        )
    return False


def _is_known(inside: set[int], prepared: prepare.Prepared) -> bool:
    """Whether the column names of every relation in these levels are known."""
    return all(
        recursive.visible(item) is not None
        for level in prepared.scopes.levels
        if id(level) in inside
        for item in level.relations.values()
    )


def split_where(level: names.Level, prepared: prepare.Prepared, inside: set[int]) -> Split | None:
    """The conditions, if the only way out of the sub-SELECT is by equalities in its WHERE."""
    where = {id(node): at for node, at in prepared.scopes.columns if id(at) in inside}

    def ways(node: tree.Node) -> set[bool]:
        """Whether columns of an expression are inside (True) or outside (False)."""
        return {
            recursive.resolves_inside(part, where[id(part)], inside)
            for part in tree.walk(node)
            if isinstance(part, ast.ColumnRef) and id(part) in where
        }

    pairs, rest = [], []
    for term in tree.conjuncts(level.stmt.whereClause):
        if False not in ways(term):
            rest.append(term)
            continue
        if tree.operator(term) != "=":
            return None
        sides = (term.lexpr, term.rexpr)
        if any(isinstance(part, ast.SubLink) for side in sides for part in tree.walk(side)):
            return None
        inner = next((side for side in sides if ways(side) == {True}), None)
        outer = next((side for side in sides if ways(side) == {False}), None)
        if inner is None or outer is None:
            return None
        pairs.append((inner, outer))
    others = (level.stmt.fromClause, level.stmt.targetList)
    if not pairs or False in ways(others):
        return None
    return Split(tuple(pairs), tuple(rest))
