"""Final steps that the gateway takes itself, where they are adding up and sorting of suitable values."""

from __future__ import annotations

import asyncio

from orochi.executor import context, finishing, reduce, results
from orochi.operations import ordered
from orochi.planner import context as planning
from orochi.planner import finish
from orochi.planner import plan as plans

#: More rows than that are not worked on while other sessions wait.
_QUICK_ROWS = 2_000


async def finished(
    session: context.Session,
    plan: plans.Distributed,
    loaded: reduce.Loaded,
    sink: context.Sink,
) -> str | None:
    """Send the answer over the gathered rows; the command tag, None with nothing sent if PostgreSQL is to do it."""
    if plan.ordering is not None and (tag := await ordered.answer(session, plan, loaded, sink)):
        return tag
    if plan.final_sql is None or len(plan.intermediates) != 1 or plan.intermediates[0].needs_table:
        return None
    name = plan.intermediates[0].name
    step = finish.of(plan.final_sql, name)
    if step is None or not planning.is_bytewise(session.runtime.collation):
        return None
    columns, batches = loaded[name]
    if sum(batch.num_rows for batch in batches) > _QUICK_ROWS:
        found = await asyncio.to_thread(finishing.finished, step, columns, batches)
    else:
        found = finishing.finished(step, columns, batches)
    settings = await results.ready(session, found[0], sink.formats) if found else None
    if found is None or settings is None:
        return None
    columns, batch = found
    async for data, count in results.encoded(batch, columns, sink.formats, settings):
        await sink.rows(data, count)
    return f"SELECT {batch.num_rows}"
