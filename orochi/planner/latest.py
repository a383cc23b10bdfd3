"""Last points that a LATERAL sub-SELECT looks up row by row, found for all keys at once instead.

`FROM o, LATERAL (SELECT ... FROM t WHERE t.k = o.k AND ... ORDER BY t.at DESC LIMIT 1)` over stripes has no index to
look in. So a stage `SELECT DISTINCT ON (t.k) ... FROM t WHERE ... ORDER BY t.k, t.at DESC` finds the row of each key,
and the sub-SELECT reads that in the place of `t`. It still says which is the first, unless surely only one
row of the stage has the key: whatever `=` means for other types and collations, the best of the best rows is the best.
A sub-SELECT of an expression that is like this, and is not answered shard by shard, is made the same (`exchange`).
"""

from __future__ import annotations

from pglast import enums

from orochi import pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.planner import (
    ctes,
    decorrelate,
    literals,
    lookup,
    names,
    parse,
    pieces,
    prepare,
    pull,
    recursive,
    safety,
    scans,
    spread,
    tree,
)
from orochi.planner import (
    plan as plans,
)
from orochi.planner.tree import ast

_KEYS = pgtypes.INTEGERS | pgtypes.TIMES | {pgtypes.TEXT, pgtypes.VARCHAR, pgtypes.BOOL, pgtypes.UUID}
_DEFAULT_COLLATION = 100
_DEFAULT = (None, 'pg_catalog."default"')


def plan(prepared: prepare.Prepared, choose: recursive.Choose) -> plans.SelectPlan | None:
    """A plan with such stages; None where the statement has no such sub-SELECT.

    Args:
        prepared: the statement.
        choose: plans any SELECT, of a stage or of what is left.

    Raises:
        NeedsColumns, NeedsFolding: the session has to be asked, then plan again.
    """
    if not any(level.place == "lateral" for level in prepared.scopes.levels):
        return None
    builder = recursive.Builder(prepared.ctx, choose)
    replaced: dict[int, tree.Node] = {}
    try:
        ctes.refuse_qualified(prepared.scopes)
        for level in prepared.scopes.levels:
            found = looked_up(level, prepared, builder) if level.place == "lateral" else None
            if found is not None:
                replaced[id(level.stmt)] = found
        if not replaced:
            return None
        changed = ctes.statement(recursive.replaced(prepared.statement.tree, replaced))
        return builder.finish(choose(changed, builder.ctx))
    except (spread.Unfit, parse.CannotDeparse):
        return None


def looked_up(
    level: names.Level, prepared: prepare.Prepared, builder: recursive.Builder, *, indexed: bool = False
) -> tree.Node | None:
    """The sub-SELECT over a stage of last points, which has an index if it is `indexed`; None if it is another one.

    Raises:
        Unfit: the stage's rows cannot be carried.
        NeedsColumns, NeedsFolding: the session has to be asked.
    """
    stmt = level.stmt
    if not _takes_the_first(level, prepared):
        return None
    (reference,) = level.references
    split = decorrelate.split_where(level, prepared, {id(level)})
    if split is None or len(split.pairs) != 1:
        return None
    ((inner, outer),) = split.pairs
    (order,) = pieces.sort_keys(level)
    key, first = (_own_column(node, reference, level, prepared) for node in (inner, order.expression))
    if key is None or first is None or order.collation or key.base_oid not in _KEYS:
        return None
    columns = pull.used_columns(prepared)[id(reference)]
    if any(column.collation not in _DEFAULT for column in columns):
        return None
    made = builder.add(
        _last_points(reference, columns, (key, first), order.words, split.rest),
        indexes=((key.name,),) if indexed else (),
        columns=tuple(map(scans.output, columns)),
    )
    terms = tree.conjuncts(stmt.whereClause)
    asked = next(term for term in terms if not any(term is other for other in split.rest))
    looked = tree.changed(
        stmt, fromClause=(recursive.stage_relation(made, reference.alias),), whereClause=asked
    )
    return _unordered(looked) if _is_alike(key, outer, level, prepared) else looked


def _takes_the_first(level: names.Level, prepared: prepare.Prepared) -> bool:
    """Whether it selects of one row, the first by one order, of one table that has stripes."""
    stmt = level.stmt
    if not isinstance(stmt, ast.SelectStmt) or stmt.larg is not None or stmt.withClause or stmt.lockingClause:
        return False
    if stmt.distinctClause or stmt.groupClause or stmt.havingClause or stmt.windowClause or stmt.limitOffset:
        return False
    if pieces.number(stmt.limitCount) != 1 or stmt.limitOption.name == "LIMIT_OPTION_WITH_TIES":
        return False
    if len(stmt.sortClause or ()) != 1 or len(level.relations) != 1 or len(level.references) != 1:
        return False
    if any(other.is_below(level) for other in prepared.scopes.levels):
        return False
    if spread.is_aggregated(stmt, prepared) or spread.windows(stmt):
        return False
    if any(safety.may_return_sets(target.val, prepared.ctx.builtins) for target in stmt.targetList or ()):
        return False
    (reference,) = level.references
    if reference.sampled or reference.hidden or reference.renamed or not reference.node.inh:
        return False
    if not any(chunk.stripes for shard in reference.table.shards for chunk in shard.chunks):
        return False
    return not any(_is_peculiar(node, level) for node, at in prepared.scopes.columns if at is level)


def _is_peculiar(node: tree.Node, level: names.Level) -> bool:
    """Whether a column reference is of a system column, or a whole row as one value: a stage has none."""
    parts = tree.strings(node.fields)
    return parts[-1] in names.SYSTEM_COLUMNS or (
        parts[-1] != "*" and lookup.is_whole_row(node, level) is not None
    )


def _own_column(
    node: tree.Node, reference: names.Reference, level: names.Level, prepared: prepare.Prepared
) -> snapshots.Column | None:
    found = prepared.analysis.key(node, level) if tree.is_column(node) else None
    if found is None or prepared.analysis.reference(found) is not reference:
        return None
    column: snapshots.Column | None = reference.table.column(found[1])
    return column


def _last_points(
    reference: names.Reference,
    columns: tuple[snapshots.Column, ...],
    order: tuple[snapshots.Column, snapshots.Column],
    words: str,
    conditions: tuple[tree.Node, ...],
) -> tree.Node:
    alias = names.quoted(reference.alias)
    listed = ", ".join(f"{alias}.{names.quoted(column.name)}" for column in columns)
    key, first = (f"{alias}.{names.quoted(column.name)}" for column in order)
    select = parse.parse_one(
        f"SELECT DISTINCT ON ({key}) {listed} FROM {names.qualified(reference.table)} AS {alias} "
        f"ORDER BY {key}, {first}{words}"
    ).tree
    return tree.changed(select, whereClause=tree.conjunction(conditions))


def _is_alike(
    key: snapshots.Column, outer: tree.Node, level: names.Level, prepared: prepare.Prepared
) -> bool:
    """Whether surely no two different keys are equal to what the outer row asks for."""
    if not tree.is_column(outer):
        return False
    found = prepared.analysis.key(outer, level)
    if found is None:
        types = {key.base_oid, _local_type(outer, level, prepared)}
    else:
        column = prepared.analysis.reference(found).table.column(found[1])
        if column is None or column.collation not in _DEFAULT:
            return False
        types = {key.base_oid, column.base_oid}
    return len(types) == 1 or types <= pgtypes.INTEGERS


def _local_type(node: tree.Node, level: names.Level, prepared: prepare.Prepared) -> int | None:
    """The type of `alias.column` of the coordinator's own table, if it has the default collation, or none.

    Raises:
        NeedsFolding: the session has to be asked.
    """
    parts, current = tree.strings(node.fields), level.outer
    while len(parts) == 2 and current is not None:
        for item in current.relations.values():
            if item.alias != parts[0]:
                continue
            if not isinstance(item, names.Other) or item.kind != "local":
                return None
            if item.node.alias is not None and item.node.alias.colnames:
                return None
            relation = ".".join(map(names.quoted, filter(None, (item.node.schemaname, item.node.relname))))
            return _asked_type(relation, parts[1], prepared)
        current = current.outer
    return None


def _asked_type(relation: str, column: str, prepared: prepare.Prepared) -> int | None:
    sql = (
        "(SELECT atttypid FROM pg_catalog.pg_attribute WHERE attnum > 0 AND NOT attisdropped AND attcollation IN "
        f"(0, {_DEFAULT_COLLATION}) AND attrelid = pg_catalog.to_regclass({literals.quote(relation)}) "
        f"AND attname = {literals.quote(column)})"
    )
    if sql not in prepared.ctx.folded:
        raise literals.NeedsFolding((sql,))
    value = prepared.ctx.folded[sql]
    return int(value.text) if value is not None and value.text is not None else None


def _unordered(stmt: tree.Node) -> tree.Node:
    """Without ORDER BY and LIMIT: PostgreSQL then joins instead of looking up row by row."""
    return tree.changed(
        stmt, sortClause=None, limitCount=None, limitOption=enums.LimitOption.LIMIT_OPTION_DEFAULT
    )
