"""Plans of SELECTs that come again with the same text, over the same catalog, in the same kind of session.

Only plans are kept that hold as long as the catalog's snapshot does (`orochi.planner.lasting`). Values that the
session was asked for (`now()`, what an interval is added to) are asked again each time: the plan holds
while they are the same.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from orochi import settings as process_settings
from orochi.executor import context
from orochi.planner import context as planning
from orochi.planner import lasting, literals, parse, select
from orochi.planner import plan as plans

Folded = Mapping[str, literals.Literal | None]
Plan = TypeVar("Plan")
#: Characters of a text that takes milliseconds to plan.
_LONG = 800


@dataclasses.dataclass(frozen=True, slots=True)
class _Kept:
    made_from: planning.PlanContext
    plan: plans.Distributed | plans.Router


_kept: collections.OrderedDict[Hashable, _Kept] = collections.OrderedDict()


class Attempt:
    """Plans one statement, and remembers what the plan was made from."""

    def __init__(self, statement: parse.Statement) -> None:
        self._statement = statement
        self.takes_long = len(statement.sql) > _LONG
        self._made_from: planning.PlanContext | None = None

    def __call__(self, ctx: planning.PlanContext) -> plans.SelectPlan:
        """The plan, with what `ctx` tells."""
        self._made_from = ctx
        return select.plan(self._statement, ctx)

    def keep(self, session: context.Session, plan: plans.Distributed | plans.Router) -> None:
        """Keep a plan, its columns known, if it holds for other executions."""
        ctx = self._made_from
        if ctx is None or ctx.subqueries or not lasting.is_lasting(self._statement, ctx):
            return
        newest = next(reversed(_kept.values()), None)
        if newest is not None and newest.made_from.snapshot is not ctx.snapshot:
            _kept.clear()  # a plan of an older catalog is of no use, and keeps all of it
        _kept[_key(session, self._statement, ctx)] = _Kept(ctx, plan)
        while len(_kept) > process_settings.get().kept_plans:
            _kept.popitem(last=False)


async def made(attempt: Callable[[planning.PlanContext], Plan], ctx: planning.PlanContext) -> Plan:
    """What `attempt` gives; by a thread, so that other sessions do not wait for it, where that takes long."""
    takes_long = isinstance(attempt, Attempt) and attempt.takes_long
    return await asyncio.to_thread(attempt, ctx) if takes_long else attempt(ctx)


async def find(
    session: context.Session,
    statement: parse.Statement,
    ctx: planning.PlanContext,
    fold: Callable[[context.Session, Sequence[str]], Awaitable[Folded]],
) -> plans.Distributed | plans.Router | None:
    """The plan made of the same statement in a session like this one; None if there is none.

    `fold` evaluates expressions in the session.
    """
    key = _key(session, statement, ctx)
    entry = _kept.get(key)
    if entry is None:
        return None
    made_from = entry.made_from
    if made_from.snapshot is not ctx.snapshot or made_from.builtins is not ctx.builtins:
        del _kept[key]
        return None
    if made_from.folded and await fold(session, list(made_from.folded)) != made_from.folded:
        return None
    if key in _kept:
        _kept.move_to_end(key)
    return entry.plan


def is_settled(session: context.Session, statement: parse.Statement, ctx: planning.PlanContext) -> bool:
    """Whether a plan of the statement is kept, and nothing was asked of the session for it."""
    entry = _kept.get(_key(session, statement, ctx))
    return entry is not None and entry.made_from.snapshot is ctx.snapshot and not entry.made_from.folded


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
