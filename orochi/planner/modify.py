"""UPDATE and DELETE of Orochi tables: the statement itself, sent to the shards that can hold its rows."""

from __future__ import annotations

import dataclasses

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.planner import (
    context,
    edit,
    lookup,
    names,
    parse,
    prepare,
    router,
    safety,
    scans,
    spread,
    subqueries,
    tree,
)
from orochi.planner import (
    fragment as fragments,
)
from orochi.planner import (
    plan as plans,
)
from orochi.planner.tree import ast

NeedsSubqueries = subqueries.NeedsSubqueries
SubqueryResult = context.SubqueryResult

_READ_FIRST = "Read the other table in a statement of its own, or compare the distribution columns of both."


def target(statement: parse.Statement, ctx: context.PlanContext) -> snapshots.Table | None:
    """The Orochi table that an UPDATE or DELETE modifies; None if it modifies another table.

    Raises:
        FeatureNotSupported: it modifies a view over Orochi tables.
    """
    node = statement.tree.relation
    found = names.find_relation(ctx.snapshot, ctx.search_path, ctx.temp_tables, node.schemaname, node.relname)
    if isinstance(found, snapshots.View):
        raise errors.FeatureNotSupported(
            f'cannot modify view "{found.name}" over an Orochi table', hint="Modify the table itself."
        )
    return found


def plan(statement: parse.Statement, ctx: context.PlanContext) -> plans.Modify:
    """The plan of one UPDATE or DELETE of an Orochi table.

    Raises:
        NeedsFolding, NeedsSubqueries: provide the values, then call again.
        FeatureNotSupported: no shard can run it on its own.
    """
    table = target(statement, ctx)
    assert table is not None
    _check_assignments(statement.tree, table)
    prepared = _materialised(prepare.prepare(statement, ctx), table)
    _check(prepared, table)
    item = _target_reference(prepared)
    shards = tuple(shard.index for shard in prepared.pruned[id(item)].shards)
    if scans.is_distributed(item):
        shards = tuple(index for index in shards if index in _kept(prepared))
    key: plans.Key | None = None
    if len(shards) == 1 and table.kind is not snapshots.TableKind.REFERENCE:
        key = plans.HashKey(table.shards[shards[0]].hash_min)
    return _plan(prepared, item, key, shards)


def template(
    statement: parse.Statement, type_oids: tuple[int, ...], ctx: context.PlanContext
) -> plans.Modify | None:
    """A plan for any parameters, where a parameter or a constant picks the one shard; else None."""
    try:
        table = target(statement, ctx)
        if table is None or table.kind is snapshots.TableKind.REFERENCE:
            return None
        if table.referenced_by and (_rekeys(statement.tree, table) or statement.kind is parse.Kind.DELETE):
            return None  # rows that refer to these may have to be looked at, too
        _check_assignments(statement.tree, table)
        prepared = prepare.prepare(statement, ctx, template=True)
        if any(safety.folded_calls(prepared.statement.tree, ctx)) or _outside(prepared, table):
            return None
        _check(prepared, table)
        item = _target_reference(prepared)
        key: plans.Key
        if scans.is_distributed(item):
            key = router.template_key(prepared, prepared.references, type_oids)
        else:
            key = plans.HashKey(table.shards[0].hash_min)
        return _plan(prepared, item, key, ())
    except (spread.Unfit, parse.CannotDeparse, errors.FeatureNotSupported):
        return None


def _plan(
    prepared: prepare.Prepared, item: names.Reference, key: plans.Key | None, shards: tuple[int, ...]
) -> plans.Modify:
    try:
        sql = router.rewrite(prepared)
    except parse.CannotDeparse as error:
        raise errors.FeatureNotSupported(
            "this form of UPDATE or DELETE of an Orochi table is not supported", detail=str(error)
        ) from error
    return plans.Modify(
        key=key,
        shard_indexes=shards,
        tables=router.tables(prepared),
        target=item.table.oid,
        sql=sql,
        predicates=recalled(item, prepared),
        returning=bool(_returning(prepared.statement.tree)),
        rekeys=_rekeys(prepared.statement.tree, item.table),
    )


def recalled(item: names.Reference, prepared: prepare.Prepared) -> tuple[fragments.Predicate, ...]:
    """What rows to recall of the target: all, if the statement reads the table under another name too."""
    mentions = [other for other in prepared.references if other.table.oid == item.table.oid]
    return prepared.pruned[id(item)].predicates if len(mentions) == 1 else ()


def _rekeys(node: tree.Node, table: snapshots.Table) -> bool:
    """Whether a column of a unique key is assigned to, or computed from others."""
    if not isinstance(node, ast.UpdateStmt):
        return False
    return table.rekeyed_by({item.name for item in node.targetList})


def _returning(node: tree.Node) -> tree.Node:
    clause = node.returningClause
    return clause.exprs if clause is not None else None


def _target_reference(prepared: prepare.Prepared) -> names.Reference:
    return next(item for item in prepared.scopes.levels[0].references if item.target)


def _kept(prepared: prepare.Prepared) -> set[int]:
    """Shards that no inner-joined table of FROM or USING rules out."""
    kept: set[int] | None = None
    for item in prepared.scopes.levels[0].references:
        if scans.is_distributed(item) and item.level is prepared.scopes.levels[0] and _inner(item, prepared):
            mine = {shard.index for shard in prepared.pruned[id(item)].shards}
            kept = mine if kept is None else kept & mine
    return kept or set()


def _inner(item: names.Reference, prepared: prepare.Prepared) -> bool:
    return prepared.analysis.filters(item) == prepared.analysis.where(item.level)


def _check_assignments(node: tree.Node, table: snapshots.Table) -> None:
    """Refuse to move rows between shards or chunks, and defaults that only the coordinator can tell."""
    if not isinstance(node, ast.UpdateStmt):
        return
    for item in node.targetList:
        if item.name == table.distribution_column:
            raise errors.FeatureNotSupported(
                f'cannot change the distribution column "{item.name}" of table "{table.name}"',
                hint="Delete the row and insert it again, in one transaction.",
            )
        if table.dimension is not None and item.name == table.dimension.column:
            raise errors.FeatureNotSupported(
                f'cannot change the time column "{item.name}" of hypertable "{table.name}"',
                hint="Delete the row and insert it again, in one transaction.",
            )
        column = table.column(item.name)
        if column is not None and (column.default_is_volatile or column.identity) and _is_default(item.val):
            raise errors.FeatureNotSupported(
                f'cannot set column "{item.name}" to a default that is computed on the coordinator',
                hint="Give the value itself.",
            )


def _is_default(node: tree.Node) -> bool:
    return any(isinstance(part, ast.SetToDefault) for part in tree.walk(node, stop=(ast.SelectStmt,)))


def _materialised(prepared: prepare.Prepared, table: snapshots.Table) -> prepare.Prepared:
    """The statement after its foreign sub-SELECTs and FROM items became values."""
    outside = _outside(prepared, table)
    if not outside:
        return prepared
    if any(_is_correlated(node, prepared) for node in outside if isinstance(node, ast.SubLink)):
        raise errors.FeatureNotSupported(
            f'a sub-SELECT depends on the row of table "{table.name}" and reads rows of other shards',
            hint=_READ_FIRST,
        )
    editor = edit.Editor(prepared.statement)
    try:
        found = [
            subqueries.of_sublink(node, prepared, editor)
            if isinstance(node, ast.SubLink)
            else subqueries.of_from(node, prepared, editor)
            for node in outside
        ]
    except parse.CannotDeparse as error:
        raise errors.FeatureNotSupported(
            "a sub-SELECT in UPDATE or DELETE of an Orochi table cannot be run first", hint=_READ_FIRST
        ) from error
    statement = subqueries.substitute(prepared.statement, found, editor, prepared.ctx)
    return prepare.prepare(statement, dataclasses.replace(prepared.ctx, parameters=()))


def _outside(prepared: prepare.Prepared, table: snapshots.Table) -> list[tree.Node]:
    """The sub-SELECTs and FROM items that a shard of `table` cannot evaluate for its own rows."""
    top = prepared.scopes.levels[0]
    item = _target_reference(prepared)
    foreign = [node for node in _from_items(top) if _is_foreign_from(node, top, item, prepared)]
    return foreign + [
        node for node in _sublinks(top) if not _is_local(_levels_of(node, prepared), item, prepared)
    ]


def _is_correlated(node: tree.Node, prepared: prepare.Prepared) -> bool:
    """Whether a sub-SELECT names a column of an Orochi table outside itself."""
    inside = _levels_of(node, prepared)
    for column, level in prepared.scopes.columns:
        if level in inside:
            found = lookup.find_column(column, level) or (lookup.is_whole_row(column, level), "")
            if found[0] is not None and found[0].level not in inside:
                return True
    return False


def _from_items(top: names.Level) -> list[tree.Node]:
    return [
        item.node
        for item in top.relations.values()
        if not (isinstance(item, names.Reference) and item.target)
    ]


def _is_foreign_from(
    node: tree.Node, top: names.Level, item: names.Reference, prepared: prepare.Prepared
) -> bool:
    relation = top.relations[id(node)]
    if isinstance(relation, names.Reference):
        return not _fits(relation, item, prepared)
    if relation.kind in ("values", "function"):
        return False
    if relation.kind == "subquery" and not node.lateral:
        assert relation.level is not None
        return not _is_local(_levels_of(node, prepared), item, prepared)
    return relation.kind == "local"


def _fits(relation: names.Reference, item: names.Reference, prepared: prepare.Prepared) -> bool:
    """Whether the shards of the target have the rows of `relation` that can meet theirs."""
    if relation.table.kind is snapshots.TableKind.SINGLE and item.table.kind is not relation.table.kind:
        return False  # its one shard is on one node, the target's rows are on others too
    if not scans.is_distributed(relation):
        return scans.colocated([item, relation])
    if not scans.is_distributed(item) or not scans.colocated([item, relation]):
        return False
    classes = prepared.analysis.classes(prepared.analysis.quals(relation))
    return classes.equal(
        (id(relation), str(relation.table.distribution_column)),
        (id(item), str(item.table.distribution_column)),
    )


def _sublinks(top: names.Level) -> list[tree.Node]:
    stmt = top.stmt
    parts = (getattr(stmt, "targetList", None) or (), stmt.whereClause, _returning(stmt) or ())
    return [
        node
        for part in parts
        if part is not None
        for node in tree.walk(part, stop=(ast.SelectStmt,))
        if isinstance(node, ast.SubLink)
    ]


def _levels_of(node: tree.Node, prepared: prepare.Prepared) -> list[names.Level]:
    selects = {id(part) for part in tree.walk(node) if isinstance(part, ast.SelectStmt)}
    return [level for level in prepared.scopes.levels if id(level.stmt) in selects]


def _is_local(levels: list[names.Level], item: names.Reference, prepared: prepare.Prepared) -> bool:
    """Whether a shard can evaluate these query levels for its own rows of the target."""
    for level in levels:
        for relation in level.relations.values():
            if isinstance(relation, names.Other):
                if relation.kind == "local":
                    return False
            elif not _fits(relation, item, prepared):
                return False
    reads = [relation for level in levels for relation in level.references]
    types = safety.node_types([*reads, item], prepared.ctx.search_path)
    return not any(safety.problem(level.stmt, prepared.ctx, types) for level in levels)


def _check(prepared: prepare.Prepared, table: snapshots.Table) -> None:
    """Refuse what the shards cannot run.

    Raises:
        FeatureNotSupported: with a hint.
    """
    item = _target_reference(prepared)
    if prepared.statement.tree.withClause is not None:
        raise errors.FeatureNotSupported(
            "WITH in UPDATE or DELETE of an Orochi table is not supported",
            hint="Write the query as a sub-SELECT in its place.",
        )
    is_reference = table.kind is snapshots.TableKind.REFERENCE
    reason = safety.problem(
        prepared.statement.tree,
        prepared.ctx,
        safety.node_types(prepared.references, prepared.ctx.search_path),
        allow_volatile=not is_reference,
    )
    if reason is None and any(_outside(prepared, table)):
        reason = "it reads rows that the table's shards do not have"
    if reason is None:
        try:
            found = spread.Checker(prepared).level(prepared.scopes.levels[0])
            if scans.is_distributed(item) and not found.distributed:
                reason = "its rows are not bound to the table's shards"
            if is_reference and found.distributed:
                reason = "a reference table cannot be modified from a distributed one"
        except spread.Unfit as unfit:
            reason = str(unfit)
    if reason is not None:
        raise errors.FeatureNotSupported(
            f'cannot run this statement on the shards of table "{table.name}": {reason}', hint=_READ_FIRST
        )
