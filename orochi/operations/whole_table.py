"""All rows of an Orochi table as one stream, for what moves them elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator

from orochi.catalog import snapshot as snapshots
from orochi.engine import copybinary
from orochi.executor import context
from orochi.operations import describe, select
from orochi.planner import pull


async def copy_binary(session: context.Session, table: snapshots.Table) -> AsyncIterator[bytes]:
    """Every row of `table`, heap and stripes, as one binary COPY stream."""
    plan = pull.whole_table(table, session.snapshot())
    plan = await describe.intermediates(session, plan)
    columns = plan.intermediates[0].columns
    yield copybinary.HEADER
    async for result in select.run_fragments(session, plan):
        for batch in result.batches:
            yield copybinary.encode(batch, columns, header=False, trailer=False)
    yield copybinary.TRAILER
