"""Final steps that the gateway takes itself, where they are adding up and sorting of suitable values."""

from __future__ import annotations

import asyncio

from orochi.executor import context, finishing, reduce, results
from orochi.operations import own_types, sinks
from orochi.planner import context as planning
from orochi.planner import finish
from orochi.planner import plan as plans

#: More rows than that are not worked on while other sessions wait.
_QUICK_ROWS = 2_000
#: More than that is for PostgreSQL, which can sort on disk.
_MOST_BYTES = 64 << 20


async def finished(
    session: context.Session,
    plan: plans.Distributed,
    loaded: reduce.Loaded,
    sink: context.Sink,
) -> str | None:
    """Send the answer over the gathered rows; the command tag, None with nothing sent if PostgreSQL is to do it."""
    step = finish.of_plan(plan)
    if step is None or not planning.is_bytewise(session.runtime.collation):
        return None
    (gathered,) = plan.intermediates
    groups = None if gathered.counted is None else gathered.counted.groups
    columns, batches = loaded[gathered.name]
    if sum(batch.nbytes for batch in batches) > _MOST_BYTES:
        return None
    if sum(batch.num_rows for batch in batches) > _QUICK_ROWS:
        found = await asyncio.to_thread(finishing.finished, step, tuple(columns), batches, groups)
    else:
        found = finishing.finished(step, tuple(columns), batches, groups)
    if found is None:
        return None
    shown, batch = found
    if isinstance(sink, sinks.Keeping) and sink.keep(shown, batch):
        return f"SELECT {batch.num_rows}"
    if await own_types.affected(session, [column.type_oid for column in shown], sink.formats):
        return None
    settings = await results.ready(session, shown, sink.formats)
    if settings is None:
        return None
    async for data, count in results.encoded(batch, shown, sink.formats, settings):
        await sink.rows(data, count)
    return f"SELECT {batch.num_rows}"
