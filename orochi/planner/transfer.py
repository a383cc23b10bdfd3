"""INSERT ... SELECT and MERGE that every shard can do for itself: no row leaves its node.

That is so where the rows to be written lie in the shard that they are read from: source and target
are co-located and the distribution column is handed on as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.planner import (
    context,
    edit,
    insert,
    modify,
    names,
    parse,
    prepare,
    router,
    safety,
    scans,
    spread,
    tree,
)
from orochi.planner import (
    plan as plans,
)
from orochi.planner.tree import ast


def plan_insert(statement: parse.Statement, ctx: context.PlanContext) -> plans.Modify:
    """The plan of an INSERT ... SELECT.

    Raises:
        NeedsFolding: provide the values, then call again.
        Unfit, CannotDeparse: rows have to be staged.
    """
    node = statement.tree
    table = insert.resolve(node.relation, ctx.snapshot, ctx.search_path, ctx.temp_tables)
    if node.onConflictClause is not None or node.returningClause is not None or node.withClause is not None:
        raise spread.Unfit("ON CONFLICT, RETURNING or WITH")
    if node.override.name != "OVERRIDING_NOT_SET":
        raise spread.Unfit("OVERRIDING")
    if node.selectStmt is None or node.selectStmt.valuesLists:
        raise spread.Unfit("no SELECT")
    prepared = prepare.prepare(statement, ctx)
    level = next(item for item in prepared.scopes.levels if item.stmt is prepared.statement.tree.selectStmt)
    _check_nodes(prepared, prepared.statement.tree)
    checker = spread.Checker(prepared)
    found = checker.derived(level)
    _check_colocated(table, prepared.references)
    targets = _targets(node, table, level)
    _check_defaults(table, [column.name for column, _ in targets])
    for column, output in targets:
        if column.name == table.distribution_column:
            _check_key(column, output, level, prepared, found)
            break
    else:
        raise spread.Unfit("the distribution column gets no value")
    if any(
        prepared.pruned[id(item)].stripes(shard)
        for item in prepared.references
        for shard in item.table.shards
    ):
        raise spread.Unfit("compressed rows are to be read")
    kept: set[int] = set()
    for item in prepared.references:
        if scans.is_distributed(item):
            kept.update(shard.index for shard in prepared.pruned[id(item)].shards)
    read = router.tables(prepared)
    tables = read if table.oid in read else (*read, table.oid)
    sql = router.rewrite(prepared)
    again = parse.parse_one(sql)
    editor = edit.Editor(again)
    schema = f"orochi_shard_{tables.index(table.oid)}"
    editor.relation(again.tree.relation, f"{schema}.{names.quoted(table.name)}")
    return plans.Modify(None, tuple(sorted(kept)), tables, table.oid, editor.result(), (), False)


def plan_merge(statement: parse.Statement, ctx: context.PlanContext) -> plans.Modify:
    """The plan of a MERGE.

    Raises:
        NeedsFolding: provide the values, then call again.
        Unfit, CannotDeparse: it has to be rehearsed.
    """
    if statement.tree.withClause is not None:
        raise spread.Unfit("WITH")
    table = insert.resolve(statement.tree.relation, ctx.snapshot, ctx.search_path, ctx.temp_tables)
    prepared = prepare.prepare(statement, ctx)
    level = prepared.scopes.levels[0]
    _check_nodes(prepared, prepared.statement.tree)
    found = spread.Checker(prepared).level(level)
    if not found.distributed:
        raise spread.Unfit("its rows are not bound to shards")
    _check_colocated(table, prepared.references)
    target = next(item for item in level.references if item.target)
    for clause in prepared.statement.tree.mergeWhenClauses:
        _check_action(clause, table, level, prepared, found)
    return plans.Modify(
        key=None,
        shard_indexes=tuple(shard.index for shard in _shards(target, prepared)),
        tables=router.tables(prepared),
        target=table.oid,
        sql=router.rewrite(prepared),
        predicates=modify.recalled(target, prepared),
        returning=statement.tree.returningClause is not None,
    )


def _shards(target: names.Reference, prepared: prepare.Prepared) -> Sequence[snapshots.Shard]:
    """Every shard if rows may be inserted: what the target has says nothing of what it lacks."""
    clauses = prepared.statement.tree.mergeWhenClauses
    inserts = any(clause.commandType.name == "CMD_INSERT" for clause in clauses)
    return target.table.shards if inserts else prepared.pruned[id(target)].shards


def _check_nodes(prepared: prepare.Prepared, node: tree.Node) -> None:
    for level in prepared.scopes.levels:
        for item in level.relations.values():
            if isinstance(item, names.Other) and item.kind == "local":
                raise spread.Unfit(f"relation {item.alias} is on the coordinator only")
    types = safety.node_types(prepared.references, prepared.ctx.search_path)
    reason = safety.problem(node, prepared.ctx, types)
    if reason is not None:
        raise spread.Unfit(reason)
    for column, _ in prepared.scopes.columns:
        if tree.strings(column.fields)[-1] in names.SYSTEM_COLUMNS:
            raise spread.Unfit("a system column")


def _check_colocated(table: snapshots.Table, references: Iterable[names.Reference]) -> None:
    listed = list(references)
    if table.kind is not snapshots.TableKind.DISTRIBUTED:
        raise spread.Unfit("the target is not distributed")
    if not scans.colocated(listed):
        raise spread.Unfit("its tables are not co-located")
    for item in listed:
        same = item.table.oid == table.oid or (
            table.colocation_id is not None and item.table.colocation_id == table.colocation_id
        )
        if scans.is_distributed(item) and not same:
            raise spread.Unfit("source and target are not co-located")


def _targets(
    node: tree.Node, table: snapshots.Table, level: names.Level
) -> list[tuple[snapshots.Column, tree.Node]]:
    """Each column that is given, with the expression or column that it gets."""
    outputs: list[tree.Node] = []
    for item in level.stmt.targetList or ():
        parts = tree.strings(item.val.fields) if isinstance(item.val, ast.ColumnRef) else ()
        if parts == ("*",):
            if len(level.relations) != 1 or len(level.references) != 1:
                raise spread.Unfit("a star over several tables")
            outputs += [tree.column(name) for name in level.references[0].visible]
        elif "*" in parts:
            raise spread.Unfit("a star")
        else:
            outputs.append(item.val)
    columns: list[snapshots.Column] = []
    for target in node.cols or ():
        column = table.column(target.name)
        if column is None or target.indirection:
            raise spread.Unfit("a part of a column is assigned")
        columns.append(column)
    return list(zip(columns or table.columns, outputs, strict=False))


def _check_defaults(table: snapshots.Table, given: Sequence[str]) -> None:
    """The columns left out must have defaults that a node computes as well."""
    if table.dimension is not None or any(shard.has_stripes for shard in table.shards):
        raise spread.Unfit("new rows may need chunks, or keys of compressed rows")
    for column in table.columns:
        if column.identity:
            raise spread.Unfit("an identity column")
        if column.name not in given and column.default_is_volatile and not column.generated:
            raise spread.Unfit("a default is computed on the coordinator")


def _check_key(
    column: snapshots.Column,
    output: tree.Node,
    level: names.Level,
    prepared: prepare.Prepared,
    found: spread.Spread,
) -> None:
    """What the distribution column gets must be the key of the shard's own rows, of the same type."""
    key = prepared.analysis.key(output, level) if tree.is_column(output) else None
    if key is None or key not in found.keys:
        raise spread.Unfit("the distribution column is not handed on")
    source = prepared.analysis.reference(key).table.column(key[1])
    if source is None or (source.type_oid, source.typmod) != (column.type_oid, column.typmod):
        raise spread.Unfit("the distribution column changes its type")


def _check_action(
    clause: tree.Node,
    table: snapshots.Table,
    level: names.Level,
    prepared: prepare.Prepared,
    found: spread.Spread,
) -> None:
    given = {item.name: item for item in clause.targetList or ()}
    if clause.commandType.name == "CMD_UPDATE":
        places = {table.distribution_column, table.dimension.column if table.dimension else None}
        if any(shard.has_stripes for shard in table.shards):
            places |= {name for key in table.unique_keys for name in key}
        if places.intersection(given):
            raise spread.Unfit("rows may move")
        for name, item in given.items():
            column = table.column(name)
            if column is not None and column.default_is_volatile and isinstance(item.val, ast.SetToDefault):
                raise spread.Unfit("a default is computed on the coordinator")
    if clause.commandType.name == "CMD_INSERT":
        columns = list(given) or [column.name for column in table.columns]
        pairs = dict(zip(columns, clause.values or (), strict=False))
        pairs = {name: node for name, node in pairs.items() if not isinstance(node, ast.SetToDefault)}
        _check_defaults(table, list(pairs))
        column = table.column(str(table.distribution_column))
        if column is None or column.name not in pairs:
            raise spread.Unfit("the distribution column gets no value")
        _check_key(column, pairs[column.name], level, prepared, found)


def is_unfit(error: Exception) -> bool:
    """Whether a plan failed because another way must be taken."""
    return isinstance(error, (spread.Unfit, parse.CannotDeparse, errors.FeatureNotSupported))
