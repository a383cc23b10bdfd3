"""Which way a SELECT is answered: router, pushdown, two-phase aggregate, gathered rows or pull, in this order.
A set operation is planned branch by branch.

Each way checks whether it gives PostgreSQL's own answer and steps aside otherwise; pull always does.
"""

from __future__ import annotations

import dataclasses

from orochi import errors
from orochi.planner import (
    context,
    decompose,
    exchange,
    existence,
    gathered,
    latest,
    names,
    parse,
    prepare,
    pull,
    pushdown,
    router,
    setops,
    spread,
    staged,
    tree,
)
from orochi.planner import (
    plan as plans,
)
from orochi.planner.tree import ast

PlanContext = context.PlanContext

#: Values of `orochi.force_strategy` are `STRATEGIES`; `auto` and nothing leave the planner free.
_BY_SHARDS = ("pushdown", "two_phase", "two-phase", "two-phase aggregate", "aggregate")
_EXCHANGES = ("broadcast", "repartition")
STRATEGIES = ("auto", "router", *_BY_SHARDS, *_EXCHANGES, "pull")


def plan(statement: parse.Statement, ctx: context.PlanContext) -> plans.SelectPlan:
    """The plan of a SELECT that reads Orochi tables, for one execution.

    Raises:
        NeedsFolding: evaluate expressions on the client's session, then call again.
        FeatureNotSupported: no way gives the statement's meaning.
    """
    prepared = prepare.prepare(statement, ctx)
    prepare.refuse_writes_inside(prepared)
    if not prepared.references:  # a WITH query that had them was asked for nothing
        return dataclasses.replace(pull.plan(prepared, ""), strategy="recursive")
    forced = ctx.force_strategy
    reason = f"orochi.force_strategy is {forced}" if forced else ""
    if forced in ("", "auto", *_EXCHANGES) and not prepare.locking(prepared):
        looked_up = latest.plan(prepared, plan)
        if looked_up is not None:
            return looked_up
    if forced in ("", "auto", "router", *_EXCHANGES):
        try:
            found = router.plan(prepared)
            if isinstance(found, plans.Router):
                return found
            if _groups_by_select(prepared):
                raise spread.Unfit("GROUP BY a sub-SELECT")
            by_shards = None if forced == "router" else _vectorised(prepared)
            return by_shards or router.fragment(prepared, found)
        except (spread.Unfit, parse.CannotDeparse) as unfit:
            reason = str(unfit)
    if prepare.locking(prepared):
        return pull.plan(prepared, reason)  # which refuses it
    bare = existence.bare(prepared.statement)
    if bare is not prepared.statement:
        prepared = prepare.prepare(bare, ctx)
    fallback: plans.SelectPlan | None = None
    if forced in ("", "auto", *_BY_SHARDS, *_EXCHANGES):
        try:
            if getattr(statement.tree, "larg", None) is None:
                return _by_shards(prepared)
            fallback = setops.plan(prepared, _branch)
            if not fallback.reason or forced in _BY_SHARDS:
                return fallback
        except spread.Unfit as unfit:
            reason = str(unfit)
        except parse.CannotDeparse:
            reason = "its SQL cannot be composed anew"
    if forced in ("", "auto", *_EXCHANGES):
        staged_plan = _exchanged(prepared)
        if staged_plan is not None:
            return staged_plan
    if fallback is not None:
        return fallback
    if prepared.references and all(staged.is_stage(item.table) for item in prepared.references):
        return dataclasses.replace(pull.plan(prepared, ""), strategy="recursive")
    return pull.plan(prepared, reason)


def _branch(prepared: prepare.Prepared, constants: bool) -> plans.Distributed:
    """The plan of a branch of a set operation; `constants` must stay in its final SQL, without a type."""
    try:
        return _by_shards(prepared, constants=constants)
    except spread.Unfit as unfit:
        return pull.plan(prepared, str(unfit))
    except parse.CannotDeparse:
        return pull.plan(prepared, "its SQL cannot be composed anew")


def _groups_by_select(prepared: prepare.Prepared) -> bool:
    """Whether GROUP BY has a sub-SELECT: among the outputs it is the same one, and must stay so."""
    grouped = tuple(getattr(level.stmt, "groupClause", None) or () for level in prepared.scopes.levels)
    return any(isinstance(node, ast.SubLink) for node in tree.walk(grouped))


def _exchanged(prepared: prepare.Prepared) -> plans.SelectPlan | None:
    """A plan of several stages; None if there is none, or it would pull everything all the same."""
    if _groups_by_select(prepared):
        return None
    try:
        found = exchange.plan(prepared, plan, _by_shards)
    except (spread.Unfit, parse.CannotDeparse):
        return None
    if isinstance(found, plans.Distributed) and found.strategy == "pull":
        inner = (stage.plan for stage in found.stages)
        if any(isinstance(item, plans.Distributed) and item.strategy == "pull" for item in inner):
            return None
    return found


def template(
    statement: parse.Statement, type_oids: tuple[int, ...], ctx: context.PlanContext
) -> plans.Router | None:
    """A router plan that holds for any parameters, or None: then plan each execution.

    Args:
        statement: with `$n`.
        type_oids: the parameters' types as the coordinator inferred them.
        ctx: the planning context, without parameters.
    """
    if ctx.force_strategy not in ("", "auto", "router"):
        return None
    try:
        prepared = prepare.prepare(statement, ctx, template=True)
        prepare.refuse_writes_inside(prepared)
        return router.template(prepared, type_oids) if prepared.references else None
    except (spread.Unfit, parse.CannotDeparse, errors.FeatureNotSupported):
        return None


def _vectorised(prepared: prepare.Prepared) -> plans.Distributed | None:
    """For one shard with stripes: a plan by shards, if the vectorised engine can run its fragment."""
    try:
        found = _by_shards(prepared)
    except (spread.Unfit, parse.CannotDeparse):
        return None
    parts = [part for item in found.intermediates for part in item.fragments]
    return found if any(part.vector_sql is not None or part.fused is not None for part in parts) else None


def _by_shards(prepared: prepare.Prepared, *, constants: bool = False) -> plans.Distributed:
    level = prepared.scopes.levels[0]
    stmt = level.stmt
    if not isinstance(stmt, ast.SelectStmt) or stmt.larg is not None or stmt.valuesLists:
        raise spread.Unfit("a set operation")
    if stmt.withClause is not None:
        raise spread.Unfit("WITH")
    if not stmt.fromClause:
        raise spread.Unfit("no FROM")
    if any(isinstance(part, ast.RangeVar) for part in tree.walk((stmt.limitCount, stmt.limitOffset))):
        raise spread.Unfit("a sub-SELECT in LIMIT or OFFSET")
    spread.refuse(prepared, (stmt.fromClause, stmt.whereClause or ()))
    _refuse_system_columns(prepared)
    found = spread.Checker(prepared).level(level)
    if not found.distributed:
        raise spread.Unfit("the rows it starts from are on every node")
    try:
        spread.refuse(prepared, stmt)
        plan = _finished(prepared, level, found, constants)
    except spread.Unfit as unfit:
        plan = gathered.plan(prepared, level, str(unfit))
    except parse.CannotDeparse:
        plan = gathered.plan(prepared, level, "its SQL cannot be composed anew")
    prepared.analysis.settle()
    return plan


def _finished(
    prepared: prepare.Prepared, level: names.Level, found: spread.Spread, constants: bool
) -> plans.Distributed:
    """A plan whose fragments do more than FROM and WHERE."""
    aggregated = spread.is_aggregated(level.stmt, prepared)
    try:
        if constants:
            raise spread.Unfit("the type of a constant is decided by other branches")
        return pushdown.plan(prepared, level, found)
    except spread.Unfit:
        if not aggregated:
            raise
        return decompose.plan(prepared, level, found)


def _refuse_system_columns(prepared: prepare.Prepared) -> None:
    for node, _ in prepared.scopes.columns:
        if node.fields and getattr(node.fields[-1], "sval", None) in names.SYSTEM_COLUMNS:
            raise spread.Unfit("a system column")
