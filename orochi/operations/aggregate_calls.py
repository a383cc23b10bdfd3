"""Calls that make, refresh and drop continuous aggregates."""

from __future__ import annotations

from orochi.executor import context
from orochi.operations import aggregate_refresh, aggregates
from orochi.operations.arguments import Arguments
from orochi.planner import continuous_ddl

Rows = list[tuple[str | None, ...]]


async def create_continuous_aggregate(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Make a continuous aggregate of a query given as text."""
    wanted = continuous_ddl.Create(
        name=call.required("view_name"),
        query=call.required("query").strip().rstrip(";"),
        materialized_only=call.boolean("materialized_only"),
        with_data=call.boolean("with_data"),
    )
    await aggregates.create(session, sink, wanted)
    return [("",)]


async def refresh_continuous_aggregate(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Refresh what lies wholly between two times."""
    start, end = call.given("window_start"), call.given("window_end")
    oid, force = call.oid("continuous_aggregate"), call.boolean("force")
    await aggregate_refresh.refresh(session, sink, oid, start, end, force=force)
    return [("",)]


async def drop_continuous_aggregate(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Drop a continuous aggregate that nothing reads."""
    aggregate = await aggregates.require(session, call.oid("continuous_aggregate"))
    await aggregates.drop(session, (aggregate,), cascade=False)
    return [("",)]
