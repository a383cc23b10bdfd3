"""Set operations: each branch is planned by itself, and the final SQL puts the branches together.

A branch of UNION, INTERSECT or EXCEPT stands alone, so whatever strategy suits it gives its rows. The
set operation itself, with what ORDER BY and LIMIT say about all of it, runs in the coordinator's
PostgreSQL over the branches' own final SQL: types are united, and duplicates told, by PostgreSQL.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

from orochi.planner import context, literals, parse, pieces, prepare, spread, tree
from orochi.planner import plan as plans
from orochi.planner.tree import ast

#: Plans one branch; the flag says that its constants must stay in its final SQL.
Choose = Callable[[prepare.Prepared, bool], plans.Distributed]

_RELATION = re.compile(r"orochi_i(\d+)")


def plan(prepared: prepare.Prepared, choose: Choose) -> plans.Distributed:
    """The plan of a set operation, at least one branch of which is not pulled.

    Raises:
        Unfit: a WITH stands above a branch, or every branch would be pulled.
        NeedsFolding: what the branches must have evaluated first, all together.
        CannotDeparse: a branch cannot be printed faithfully.
    """
    root = prepared.statement.tree
    combiner = _Combiner(prepared.ctx, choose)
    combined = combiner.combine(root)
    if combiner.wishes:
        raise literals.NeedsFolding(combiner.wishes)
    if all(item.strategy == "pull" for item in combiner.found):
        raise spread.Unfit("a set operation of branches that are pulled")
    pulled = dict.fromkeys(item.reason for item in combiner.found if item.strategy == "pull")
    return plans.Distributed(
        "set operation",
        tuple(item for branch in combiner.found for item in branch.intermediates),
        parse.deparse(combined),
        reason="; ".join(f"a branch is pulled: {reason}" for reason in pulled),
    )


class _Combiner:
    """Plans the branches and keeps their parts apart from each other."""

    def __init__(self, ctx: context.PlanContext, choose: Choose) -> None:
        self._ctx = ctx
        self._choose = choose
        self.found: list[plans.Distributed] = []
        self.wishes: list[str] = []

    def combine(self, node: tree.Node, *, distinct: bool = False) -> tree.Node:
        """The final SQL's tree for a set operation or a branch; `distinct` says that duplicates do not matter."""
        if node.larg is None:
            return self._branch(node, distinct)
        if node.withClause is not None:
            raise spread.Unfit("WITH")
        return tree.changed(
            node,
            larg=self.combine(node.larg, distinct=not node.all),
            rarg=self.combine(node.rarg, distinct=not node.all),
        )

    def _branch(self, node: tree.Node, distinct: bool) -> tree.Node:
        constants = any(_is_untyped(target.val) for target in node.targetList or ())
        if distinct and not constants and _may_be_distinct(node):
            node = tree.changed(node, distinctClause=(None,))
        statement = parse.parse_one(parse.deparse(node))
        try:
            prepared = prepare.prepare(statement, self._ctx)
            if not prepared.references:
                return node
            found = self._choose(prepared, constants)
        except literals.NeedsFolding as needed:
            self.wishes += needed.expressions
            return node
        found = self._apart(found)
        self.found.append(found)
        if found.final_sql is not None:
            return parse.parse_one(found.final_sql).tree
        return _as_they_come(prepared, found)

    def _apart(self, found: plans.Distributed) -> plans.Distributed:
        """A branch's plan with names and numbers that no other branch has."""
        intermediates = [item for branch in self.found for item in branch.intermediates]
        first = len(intermediates)
        number = sum(len(item.fragments) for item in intermediates)
        renamed = []
        for item in found.intermediates:
            parts = []
            for part in item.fragments:
                parts.append(dataclasses.replace(part, number=number))
                number += 1
            name = _moved(item.name, first)
            renamed.append(dataclasses.replace(item, name=name, fragments=tuple(parts)))

        def rename(node: tree.Node) -> tree.Node | None:
            if isinstance(node, ast.RangeVar) and node.schemaname == "pg_temp":
                return tree.changed(node, relname=_moved(node.relname, first))
            return None

        final = found.final_sql
        if final is not None:
            final = parse.deparse(tree.transform(parse.parse_one(final).tree, rename))
        return dataclasses.replace(found, intermediates=tuple(renamed), final_sql=final)


def _moved(name: str, by: int) -> str:
    match = _RELATION.fullmatch(name)
    return f"orochi_i{int(match[1]) + by}" if match is not None else name


def _as_they_come(prepared: prepare.Prepared, found: plans.Distributed) -> tree.Node:
    """A branch's rows with no final SQL of its own, under the names of its output columns."""
    (item,) = found.intermediates
    outputs = pieces.outputs(prepared.scopes.levels[0])
    select = parse.parse_one(
        f"SELECT FROM pg_temp.{item.name} AS {item.name}"
        + (f" LIMIT {found.limit}" if found.limit is not None else "")
    ).tree
    listed = tuple(
        ast.ResTarget(name=output.name, val=tree.column(item.name, column.name))
        for output, column in zip(outputs, item.columns, strict=False)
    )
    return tree.changed(select, targetList=listed)


def _is_untyped(node: tree.Node) -> bool:
    """Whether an output is a constant whose type the other branches decide."""
    return isinstance(node, ast.A_Const) and (bool(node.isnull) or isinstance(node.val, ast.String))


def _may_be_distinct(node: tree.Node) -> bool:
    """Whether DISTINCT can be said of a branch without changing what else it says."""
    return bool(node.targetList) and not any(
        (node.distinctClause, node.sortClause, node.limitCount, node.limitOffset, node.valuesLists)
    )
