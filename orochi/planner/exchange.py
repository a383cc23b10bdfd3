"""Exchange: rows are moved between nodes, so that what was not co-located can be joined there.

What a statement is made of becomes stages that run before it, step by step: WITH queries, of FROM's sub-SELECTs
too, then sub-SELECTs of expressions, then those of FROM that give few rows, then tables. After each step the
rest is planned anew, by the simplest strategy that fits.
"""

from __future__ import annotations

from collections.abc import Callable

from orochi.catalog import snapshot as snapshots
from orochi.planner import (
    arrange,
    continuous,
    ctes,
    decorrelate,
    given,
    homes,
    latest,
    names,
    parse,
    prepare,
    recursive,
    regrouped,
    scans,
    spread,
    staged,
    tree,
)
from orochi.planner import (
    plan as plans,
)
from orochi.planner.tree import ast

Wanted = Callable[[names.Level, prepare.Prepared], bool]


def plan(
    prepared: prepare.Prepared, choose: recursive.Choose, by_shards: arrange.ByShards
) -> plans.SelectPlan:
    """A plan of several stages for a statement that no single one answers.

    Args:
        prepared: the statement.
        choose: plans any SELECT, of a stage or of what is left.
        by_shards: plans a prepared SELECT shard by shard, or raises Unfit.

    Raises:
        Unfit: the statement has a part that stages do not help with.
        NeedsColumns, NeedsFolding: the session has to be asked, then plan again.
        CannotDeparse: a part cannot be printed faithfully.
    """
    stmt = prepared.statement.tree
    if not isinstance(stmt, ast.SelectStmt) or prepare.locking(prepared):
        raise spread.Unfit("not a plain SELECT")
    if not any(not staged.is_stage(item.table) for item in prepared.references):
        raise spread.Unfit("it reads nothing but stages")
    ctes.refuse_qualified(prepared.scopes)
    builder = recursive.Builder(prepared.ctx, choose)
    if stmt.withClause is not None:
        stmt = ctes.eliminate(stmt, builder)
        return builder.finish(choose(ctes.statement(stmt), builder.ctx))
    if stmt.larg is not None:
        return builder.finish(choose(ctes.statement(_branches(stmt, prepared, builder)), builder.ctx))
    whole = regrouped.plan(prepared, builder, choose)
    if whole is not None:
        return whole
    changed = _with_inside(prepared, builder)
    if changed is None:
        changed = _sublinks(prepared, builder)
    if changed is None:
        changed = _from_items(prepared, builder, wanted=_is_reducing)
    if changed is None:
        try:
            return arrange.plan(prepared, builder, by_shards)
        except spread.Unfit:
            changed = _from_items(prepared, builder, lambda _level, _prepared: True, unions=True)
            if changed is None:
                raise
    return builder.finish(choose(ctes.statement(changed), builder.ctx))


def _branches(node: tree.Node, prepared: prepare.Prepared, builder: recursive.Builder) -> tree.Node:
    """A set operation of stages: each branch that reads an Orochi table is one."""
    if node.larg is not None:
        if node.larg.withClause is not None or node.rarg.withClause is not None:
            raise spread.Unfit("WITH inside a set operation")
        return tree.changed(
            node,
            larg=_branches(node.larg, prepared, builder),
            rarg=_branches(node.rarg, prepared, builder),
        )
    level = next(item for item in prepared.scopes.levels if item.stmt is node)
    if not recursive.reads_orochi(level, prepared):
        return node
    if any(isinstance(target.val, ast.A_Const) for target in node.targetList or ()):
        raise spread.Unfit("the type of a constant is decided by another branch")
    return recursive.stage_select(builder.add(node))


def _with_inside(prepared: prepare.Prepared, builder: recursive.Builder) -> tree.Node | None:
    """The statement with the outermost WITH clause inside FROM turned into stages; None if there is none.

    Under nothing but FROM its queries name nothing outside. Clauses further inside follow when the rest is planned.
    """
    for level in prepared.scopes.levels:
        if level.stmt.withClause is None or not recursive.reads_orochi(level, prepared):
            continue
        above: names.Level | None = level
        while above is not None and above.place in ("from", "arm"):
            above = above.parent
        if above is not None and above.place == "top":
            return recursive.replaced(
                prepared.statement.tree, {id(level.stmt): ctes.eliminate(level.stmt, builder)}
            )
    return None


# -- sub-SELECTs


def _sublinks(prepared: prepare.Prepared, builder: recursive.Builder) -> tree.Node | None:
    """The statement with sub-SELECTs of expressions turned into stages; None if there is nothing to do."""
    replaced: dict[int, tree.Node] = {}
    for level in prepared.scopes.levels:
        if level.place != "sublink" or level.parent is None or _is_inside_sublink(level.parent):
            continue
        beside = spread.is_aggregated(level.parent.stmt, prepared) and given.is_beside(level)
        if not recursive.reads_orochi(level, prepared, distributed=not beside):
            continue
        closed = recursive.is_closed(level, prepared)
        if _is_bound(level, prepared) and not (beside and closed):
            continue
        if closed:
            made = builder.add(_named_outputs(level.stmt))
            replaced[id(level.stmt)] = recursive.stage_select(made)
            continue
        found = decorrelate.aggregate(level, prepared, builder, replaced)
        if found is None:
            found = latest.looked_up(level, prepared, builder, indexed=True)
        if found is not None:
            replaced[id(level.stmt)] = found
    return recursive.replaced(prepared.statement.tree, replaced) if replaced else None


def _is_bound(level: names.Level, prepared: prepare.Prepared) -> bool:
    """Whether the rows that a sub-SELECT reads lie in the shard of the row it is evaluated for."""
    assert level.parent is not None
    outer = _under(level.parent)
    inner = [
        item
        for other in prepared.scopes.levels
        if other is level or other.is_below(level)
        for item in other.references
    ]
    if not scans.colocated([*outer, *inner]):
        return False
    accepted = [homes.key(item) for item in outer if scans.is_distributed(item)]
    for item in inner:
        if item.table.kind is snapshots.TableKind.SINGLE:
            return False
        if not scans.is_distributed(item):
            continue
        classes = prepared.analysis.classes(prepared.analysis.quals(item))
        if not any(classes.equal(homes.key(item), other) for other in accepted):
            return False
        accepted.append(homes.key(item))
    return True


def _under(level: names.Level) -> list[names.Reference]:
    """The tables of a level's FROM, those inside sub-SELECTs of FROM too."""
    found = list(level.references)
    for item in level.relations.values():
        if isinstance(item, names.Other) and item.kind == "subquery" and item.level is not None:
            found += _under(item.level)
    return found


def _named_outputs(stmt: tree.Node) -> tree.Node:
    """A sub-SELECT of an expression with names of ours for its columns: nobody sees the names.

    EXISTS may select nothing at all.
    """
    if stmt.larg is not None or stmt.valuesLists:
        return stmt
    if not stmt.targetList:
        one = parse.parse_one("SELECT 1 AS c0").tree.targetList
        return tree.changed(stmt, targetList=one)
    return stmt


def _is_inside_sublink(level: names.Level) -> bool:
    current: names.Level | None = level
    while current is not None:
        if current.place == "sublink":
            return True
        current = current.parent
    return False


def _is_reducing(level: names.Level, prepared: prepare.Prepared) -> bool:
    """Whether a sub-SELECT of FROM gives fewer rows than it reads, and not shard by shard."""
    stmt = level.stmt
    if stmt.larg is not None or stmt.limitCount is not None or stmt.limitOffset is not None:
        return True
    if not spread.is_aggregated(stmt, prepared) and stmt.distinctClause is None:
        return False
    for item in spread.group_expressions(level) or ():
        key = prepared.analysis.key(item, level) if tree.is_column(item) else None
        if key is None:
            continue
        reference = prepared.analysis.reference(key)
        if scans.is_distributed(reference) and reference.table.distribution_column == key[1]:
            return False
    return True


def _from_items(
    prepared: prepare.Prepared, builder: recursive.Builder, wanted: Wanted, *, unions: bool = False
) -> tree.Node | None:
    """The statement with sub-SELECTs of FROM turned into stages; None if none was.

    Those that shards answer by themselves stay, but for UNION ALL with `unions`: it cannot be dealt out otherwise.
    """
    checker = spread.Checker(prepared)
    replaced: dict[int, tree.Node] = {}
    for level in prepared.scopes.levels:
        for item in level.relations.values():
            if not isinstance(item, names.Other) or item.kind != "subquery" or item.level is None:
                continue
            inner = item.level
            if inner.place != "from" or item.alias is None or _is_under(inner, replaced):
                continue
            if not recursive.reads_orochi(inner, prepared) or not wanted(inner, prepared):
                continue
            if not recursive.is_closed(inner, prepared):
                continue
            if scans.colocated(prepared.references) and not (unions and inner.arms):
                try:
                    checker.derived(inner)
                    continue
                except spread.Unfit:
                    pass
            if continuous.is_of_parts(inner.stmt):
                replaced.update(_parts(inner, checker, builder))
                continue
            made = builder.add(inner.stmt, tree.strings(item.node.alias.colnames))
            replaced[id(item.node)] = recursive.stage_relation(made, item.alias)
    return recursive.replaced(prepared.statement.tree, replaced) if replaced else None


def _parts(level: names.Level, checker: spread.Checker, builder: recursive.Builder) -> dict[int, tree.Node]:
    """Stages for the parts of a continuous aggregate that are not answered shard by shard, else for both."""
    staged_arms = []
    for arm in level.arms:
        try:
            checker.derived(arm)
        except spread.Unfit:
            staged_arms.append(arm)
    return {id(arm.stmt): recursive.stage_select(builder.add(arm.stmt)) for arm in staged_arms or level.arms}


def _is_under(level: names.Level, replaced: dict[int, tree.Node]) -> bool:
    current = level.parent
    while current is not None:
        for item in current.relations.values():
            if not isinstance(item, names.Other) or id(item.node) not in replaced or item.level is None:
                continue
            if item.level is level or level.is_below(item.level):
                return True
        current = current.parent
    return False
