"""Plans of SELECTs that come again with the same text, over the same catalog, in the same kind of session.

Only plans are kept that hold for every execution: nothing of the statement was evaluated for
one, and each fragment has a shape of its own, so that no function or type of a user's is in it.
"""

from __future__ import annotations

import collections
from collections.abc import Hashable

from orochi import settings as process_settings
from orochi.executor import context
from orochi.planner import context as planning
from orochi.planner import parse, select
from orochi.planner import plan as plans

_kept: collections.OrderedDict[Hashable, tuple[planning.PlanContext, plans.Distributed]] = (
    collections.OrderedDict()
)


class Attempt:
    """Plans one statement, and remembers what the plan was made from."""

    def __init__(self, statement: parse.Statement) -> None:
        self._statement = statement
        self._made_from: planning.PlanContext | None = None

    def __call__(self, ctx: planning.PlanContext) -> plans.SelectPlan:
        """The plan, with what `ctx` tells."""
        self._made_from = ctx
        return select.plan(self._statement, ctx)

    def keep(self, session: context.Session, plan: plans.Distributed) -> None:
        """Keep a plan, its columns known, if it holds for every execution."""
        ctx = self._made_from
        parts = [part for item in plan.intermediates for part in item.fragments]
        if ctx is None or ctx.folded or ctx.subqueries or ctx.described or plan.stages or not parts:
            return
        if any(part.fused is None for part in parts):
            return
        _kept[_key(session, self._statement, ctx)] = ctx, plan
        while len(_kept) > process_settings.get().kept_plans:
            _kept.popitem(last=False)


def find(
    session: context.Session, statement: parse.Statement, ctx: planning.PlanContext
) -> plans.Distributed | None:
    """The plan made of the same statement in a session like this one; None if there is none."""
    key = _key(session, statement, ctx)
    entry = _kept.get(key)
    if entry is None:
        return None
    made_from, plan = entry
    if made_from.snapshot is not ctx.snapshot or made_from.builtins is not ctx.builtins:
        del _kept[key]
        return None
    _kept.move_to_end(key)
    return plan


def _key(session: context.Session, statement: parse.Statement, ctx: planning.PlanContext) -> Hashable:
    settings = tuple(sorted(ctx.settings.items()))
    return (
        statement.sql,
        session.user,
        ctx.search_path,
        ctx.collation,
        ctx.parameters,
        ctx.temp_tables,
        settings,
    )
