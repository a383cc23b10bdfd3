"""What every kind of plan begins with: parameters put in, views expanded, names and conditions resolved."""

from __future__ import annotations

import contextlib
import dataclasses

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.planner import (
    analyze,
    context,
    edit,
    having,
    names,
    narrowed,
    parse,
    prune,
    rowcalls,
    safety,
    tableoids,
    tree,
)
from orochi.planner.tree import ast


@dataclasses.dataclass(eq=False, slots=True)
class Prepared:
    """A statement ready to be planned; `statement` has no parameters and no views left.

    Attributes:
        pruned: what can matter of each mention of an Orochi table, by its id.
    """

    statement: parse.Statement
    scopes: names.Scopes
    analysis: analyze.Analysis
    pruned: dict[int, prune.Pruned]
    ctx: context.PlanContext

    @property
    def references(self) -> list[names.Reference]:
        """Every mention of an Orochi table."""
        return self.scopes.references


def prepare(statement: parse.Statement, ctx: context.PlanContext, *, template: bool = False) -> Prepared:
    """Everything planning needs to know about `statement`.

    Args:
        statement: as the user wrote it.
        ctx: the planning context.
        template: keep `$n` and ask nothing of the session: the plan is for any values.

    Raises:
        NeedsFolding: a condition on an Orochi column compares it with what only the session can tell.
    """
    if not template:
        statement = bind(statement, ctx)
    statement = having.gated(statement, ctx)
    scopes = names.resolve(statement.tree, ctx)
    if scopes.views:
        statement = having.gated(narrowed.expanded(statement, ctx), ctx)
        scopes = names.resolve(statement.tree, ctx)
    named = tableoids.replaced(statement, scopes, ctx)
    if named is not statement:
        statement, scopes = named, names.resolve(named.tree, ctx)
    called = rowcalls.replaced(statement, scopes, ctx)
    if called is not statement:
        statement, scopes = called, names.resolve(called.tree, ctx)
    analysis = analyze.Analysis(scopes, ctx, fold=not template)
    pruned = {id(item): prune.prune(item, analysis) for item in scopes.references}
    if analysis.wishes:
        # one round trip for all: what else of the statement only the session can tell
        with contextlib.suppress(parse.CannotDeparse):
            analysis.wishes += safety.folds(statement.tree, ctx)
    analysis.settle()
    return Prepared(statement, scopes, analysis, pruned, ctx)


def bind(statement: parse.Statement, ctx: context.PlanContext) -> parse.Statement:
    """`statement` with typed literals for its parameters.

    Raises:
        OrochiError: 42P02, a parameter has no value.
    """
    used = [node for node in tree.walk(statement.tree) if isinstance(node, ast.ParamRef)]
    if not used:
        return statement
    editor = edit.Editor(statement)
    for node in used:
        if not 0 < node.number <= len(ctx.parameters):
            raise errors.OrochiError(f"there is no parameter ${node.number}", sqlstate="42P02")
        value = ctx.parameters[node.number - 1]
        editor.token(node.location, "NULL" if value is None else value.sql)
    return parse.parse_one(editor.result())


def refuse_writes_inside(prepared: Prepared) -> None:
    """Refuse data-modifying WITH queries on Orochi tables: their effects and this read would be two statements.

    Raises:
        FeatureNotSupported: there is one.
    """
    for level in prepared.scopes.levels:
        if level.place != "cte" or isinstance(level.stmt, ast.SelectStmt):
            continue
        target = level.stmt.relation
        found = names.find_relation(
            prepared.ctx.snapshot,
            prepared.ctx.search_path,
            prepared.ctx.temp_tables,
            target.schemaname,
            target.relname,
        )
        if isinstance(found, snapshots.Table):
            raise errors.FeatureNotSupported(
                f'WITH queries that modify the Orochi table "{found.name}" are not supported',
                hint="Run the modification as a statement of its own, with RETURNING, in one transaction.",
            )


def locking(prepared: Prepared) -> bool:
    """Whether rows of an Orochi table are to be locked (FOR UPDATE, FOR SHARE, ...)."""
    return any(
        getattr(level.stmt, "lockingClause", None) and level.references for level in prepared.scopes.levels
    ) or any(
        getattr(level.stmt, "lockingClause", None)
        and not clause.lockedRels  # it reaches into sub-SELECTs
        and prepared.references
        for level in prepared.scopes.levels
        for clause in getattr(level.stmt, "lockingClause", None) or ()
        if isinstance(level.stmt, ast.SelectStmt)
    )
