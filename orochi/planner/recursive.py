"""Sub-SELECTs and WITH queries that are planned by themselves and run first, as stages.

A sub-SELECT that names nothing outside of itself is evaluated once by PostgreSQL too, so its rows
may be got by whatever strategy suits it; the rest of the statement then reads them as a relation in
the sub-SELECT's place. What the place asks for (one row at most, IN, EXISTS, NOT IN with its NULLs)
is still judged by PostgreSQL, wherever the rest runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from orochi.catalog import snapshot as snapshots
from orochi.planner import (
    context,
    cost,
    labels,
    lookup,
    names,
    parse,
    pieces,
    prepare,
    spread,
    staged,
    tree,
)
from orochi.planner import (
    fragment as fragments,
)
from orochi.planner import (
    plan as plans,
)
from orochi.planner.tree import ast

Choose = Callable[[parse.Statement, context.PlanContext], plans.SelectPlan]


class Builder:
    """The stages of a plan that is being made, and the context in which they are relations."""

    def __init__(self, ctx: context.PlanContext, choose: Choose) -> None:
        """Begin with none.

        Args:
            ctx: the context of the statement.
            choose: plans a SELECT by its best strategy.
        """
        self.ctx = ctx
        self.stages: list[plans.Stage] = []
        self._choose = choose
        self._known: dict[str, snapshots.Table] = {}

    def add(
        self,
        select: tree.Node,
        renamed: tuple[str, ...] = (),
        indexes: tuple[tuple[str, ...], ...] = (),
        columns: tuple[fragments.OutputColumn, ...] = (),
        dealt: str = "",
    ) -> snapshots.Table:
        """A stage of this SELECT, its columns renamed; the table that stands for its rows.

        Args:
            select: names nothing outside of itself but stages made before.
            renamed: names for its first columns.
            indexes: what its rows are looked up by.
            columns: its columns where they are known; else the coordinator is asked.
            dealt: by which column its rows will be dealt out: such a stage is not shared with others.

        Raises:
            Unfit: its rows cannot be carried to a node.
            NeedsColumns: its columns must be asked for.
        """
        sql = parse.deparse(select)
        key = f"{renamed} {indexes} {dealt} {sql}"
        cached = self._known.get(key)
        if cached is not None:
            return cached
        statement = parse.parse_one(sql)
        prepared = prepare.prepare(statement, self.ctx)
        refuse_collations(prepared)
        shape = columns or self._described(prepared)
        shape = tuple(
            pieces.named(column, renamed[position] if position < len(renamed) else column.name)
            for position, column in enumerate(shape)
        )
        if len({column.name for column in shape}) != len(shape):
            raise spread.Unfit("a sub-SELECT has several columns of one name")
        if not all(staged.is_carried(column) for column in shape):
            raise spread.Unfit("a sub-SELECT has a column of a type that nodes do not know")
        found = self._plan(statement)
        rows = cost.result_rows(prepared)
        number = self._next()
        made = staged.table(
            number, shape, self.ctx.snapshot, rows=rows, size=rows * _width(shape), indexes=indexes
        )
        self._put(made)
        self.stages.append(
            plans.Stage(
                made.name, found, shape, sql, rows=rows, bytes=rows * _width(shape), indexes=indexes, key=key
            )
        )
        self._known[key] = made
        return made

    def replace(self, made: snapshots.Table) -> None:
        """Deal a stage's rows out otherwise than they were."""
        self._put(made)
        self.stages = [
            item if item.name != made.name else _dealt(item, staged.partition(made)) for item in self.stages
        ]

    def loosen(self, made: snapshots.Table) -> None:
        """Of a stage that is SELECT DISTINCT, let shards give rows that others give too."""
        self.stages = [
            item if item.name != made.name else dataclasses.replace(item, plan=_loosened(item.plan))
            for item in self.stages
        ]

    def fork(self) -> Builder:
        """A copy to try something with."""
        other = Builder(self.ctx, self._choose)
        other.stages, other._known = list(self.stages), dict(self._known)
        return other

    def finish(self, found: plans.SelectPlan) -> plans.SelectPlan:
        """The plan of the rest, with the stages before it."""
        if not isinstance(found, plans.Distributed):
            raise spread.Unfit("the rest is answered by one node without stages")
        return _with_stages(found, (*self.stages, *found.stages))

    def _plan(self, statement: parse.Statement) -> plans.SelectPlan:
        found = self._choose(statement, self.ctx)
        if isinstance(found, plans.Distributed) and found.stages:
            for stage in found.stages:
                made = staged.table(
                    int(stage.name[1:]),
                    stage.columns,
                    self.ctx.snapshot,
                    rows=stage.rows,
                    size=stage.bytes,
                    indexes=stage.indexes,
                )
                self._put(made)
                if stage.partition is None:
                    self._known.setdefault(stage.key, made)
            self.stages += found.stages
            found = _with_stages(found, ())
        return found

    def _described(self, prepared: prepare.Prepared) -> tuple[fragments.OutputColumn, ...]:
        folded = pieces.fold(prepared, prepared.statement.tree)
        sql = parse.deparse(pieces.over_shells(folded, prepared))
        if sql not in self.ctx.described:
            raise staged.NeedsColumns((sql,))
        return self.ctx.described[sql]

    def _next(self) -> int:
        return 1 + max((int(t.name[1:]) for t in self.ctx.snapshot.tables.values() if t.oid < 0), default=-1)

    def _put(self, made: snapshots.Table) -> None:
        self.ctx = self.ctx.reading(staged.added(self.ctx.snapshot, made))


def _loosened(found: plans.SelectPlan) -> plans.SelectPlan:
    if isinstance(found, plans.Distributed) and found.strategy == "pushdown" and found.limit is None:
        return dataclasses.replace(found, final_sql=None)
    return found


def _with_stages(found: plans.Distributed, stages: tuple[plans.Stage, ...]) -> plans.Distributed:
    return plans.Distributed(
        found.strategy, found.intermediates, found.final_sql, found.limit, found.reason, stages
    )


def _dealt(stage: plans.Stage, partition: plans.Partition | None) -> plans.Stage:
    return plans.Stage(
        stage.name, stage.plan, stage.columns, stage.sql, partition, stage.rows, stage.bytes, stage.indexes
    )


def _width(columns: tuple[fragments.OutputColumn, ...]) -> int:
    return cost.width_of(
        tuple(
            snapshots.Column(c.name, 0, c.type_oid, c.type_oid, c.typmod, c.type_name, False) for c in columns
        )
    )


def refuse_collations(prepared: prepare.Prepared) -> None:
    """Raise Unfit where an output of the statement may have a collation of its own.

    Rows of a stage lose it, and comparisons after it would be others.
    """
    if any(isinstance(node, ast.CollateClause) for node in tree.walk(prepared.statement.tree)):
        raise spread.Unfit("COLLATE in what would be run first")
    for item in prepared.references:
        for column in item.table.columns:
            if column.collation not in (None, 'pg_catalog."default"') or column.base_oid == 19:
                raise spread.Unfit(f"column {column.name} has a collation of its own")


def stage_relation(made: snapshots.Table, alias: str, columns: tuple[str, ...] = ()) -> tree.Node:
    """A FROM item that reads a stage's rows."""
    return ast.RangeVar(
        schemaname=made.schema,
        relname=made.name,
        inh=True,
        relpersistence="p",
        alias=ast.Alias(aliasname=alias, colnames=tree.names(*columns) or None),
    )


def stage_select(made: snapshots.Table) -> tree.Node:
    """A SELECT of all of a stage's rows, in its columns' order, under their names."""
    listed = ", ".join(f"{made.name}.{names.quoted(column.name)}" for column in made.columns)
    return parse.parse_one(f"SELECT {listed} FROM {made.schema}.{made.name}").tree


def replaced(node: tree.Node, by: dict[int, tree.Node]) -> tree.Node:
    """`node` with the nodes of these ids replaced."""
    return tree.transform(node, lambda part: by.get(id(part)))


# -- what a sub-SELECT depends on


def is_closed(level: names.Level, prepared: prepare.Prepared) -> bool:
    """Whether a sub-SELECT names nothing outside of itself; False where that is not certain."""
    inside = [level, *(other for other in prepared.scopes.levels if other.is_below(level))]
    known = {id(item) for item in inside}
    for item in inside:
        for relation in item.relations.values():
            if isinstance(relation, names.Other) and relation.kind in ("cte", "function", "join"):
                return False
    return all(
        resolves_inside(node, where, known) for node, where in prepared.scopes.columns if id(where) in known
    )


def resolves_inside(node: tree.Node, level: names.Level, inside: set[int]) -> bool:
    """Whether a column reference in `level` means a column of one of the levels `inside` (their ids)."""
    parts = tree.strings(node.fields)
    if parts == ("*",):
        return True
    current: names.Level | None = level
    while current is not None and id(current) in inside:
        if lookup.is_output_name(node, current.stmt) and current is level:
            return True
        for item in current.relations.values():
            shown = visible(item)
            if shown is None:
                return False
            alias = item.alias
            if len(parts) == 1 and (parts[0] in shown or parts[0] == alias):
                return True
            if len(parts) > 1 and parts[-2] == alias:
                return True
        if len(parts) == 1 and parts[0] in current.merged:
            return True
        if len(parts) == 1 and _is_output(parts[0], node, current):
            return True
        current = current.outer
    return False


def _is_output(name: str, node: tree.Node, level: names.Level) -> bool:
    """Whether a bare name in GROUP BY or ORDER BY is that of an output column."""
    items = [*(level.stmt.groupClause or ()), *(item.node for item in level.stmt.sortClause or ())]
    return any(item is node for item in items) and any(
        not labels.is_star(target) and labels.output_name(target) == name
        for target in level.stmt.targetList or ()
    )


def visible(item: names.Reference | names.Other) -> frozenset[str] | None:
    """The column names of a FROM item; None where they are not known."""
    if isinstance(item, names.Reference):
        return frozenset(item.visible)
    if item.kind == "values" and item.node.alias is not None and item.node.alias.colnames:
        return frozenset(tree.strings(item.node.alias.colnames))
    if item.kind != "subquery" or item.level is None:
        return None
    stmt = item.level.stmt
    while stmt.larg is not None:
        stmt = stmt.larg
    level = item.level if stmt is item.level.stmt else None
    given = tree.strings(item.node.alias.colnames) if item.node.alias is not None else ()
    found: list[str] = []
    for target in stmt.targetList or ():
        if not labels.is_star(target):
            found.append(labels.output_name(target))
            continue
        if level is None:
            return None
        for relation in level.relations.values():
            inner = visible(relation)
            if inner is None:
                return None
            found += sorted(inner)
    # with a star the order is not known here, so the names given stand beside the others
    return frozenset((*given, *found))


def reads_orochi(level: names.Level, prepared: prepare.Prepared, *, distributed: bool = False) -> bool:
    """Whether a query level or one inside it reads an Orochi table (one that is spread over shards)."""
    return any(
        not staged.is_stage(item.table)
        and (not distributed or item.table.kind is not snapshots.TableKind.REFERENCE)
        for other in prepared.scopes.levels
        if other is level or other.is_below(level)
        for item in other.references
    )
