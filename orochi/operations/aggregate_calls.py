"""Calls that make, refresh and drop continuous aggregates."""

from __future__ import annotations

from collections.abc import Mapping

from orochi import errors, pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.jobs import kinds
from orochi.operations import aggregate_refresh, aggregate_turns, aggregates, policies, shells
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
    made = await aggregates.create(session, sink, wanted)
    if made is not None:
        interval = call.text("refresh_interval")
        if interval is not None:
            async with shells.transactional(session):
                await _add(session, sink, made, {"start_offset": None, "end_offset": None}, interval)
    return [("",)]


async def refresh_continuous_aggregate(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Refresh what lies wholly between two times."""
    start, end = call.given("window_start"), call.given("window_end")
    oid, force = call.oid("continuous_aggregate"), call.boolean("force")
    await aggregate_refresh.refresh(session, sink, oid, start, end, force=force)
    return [("",)]


async def _add(
    session: context.Session,
    sink: context.Sink,
    aggregate: snapshots.Aggregate,
    config: Mapping[str, str | None],
    interval: str,
    call: Arguments | None = None,
) -> Rows:
    name = ".".join(aggregate.view)
    return await policies.add(
        session,
        sink,
        policies.New(
            kind=kinds.REFRESH.name,
            table_oid=aggregate.materialization_oid,
            config={"view": name, **config},
            schedule_interval=interval,
            relation_name=aggregate.view[1],
            what="continuous aggregate policy",
            initial_start=call.text("initial_start") if call else None,
            timezone=call.text("timezone") if call else None,
            if_not_exists=call.boolean("if_not_exists") if call else False,
        ),
    )


async def add_continuous_aggregate_policy(
    session: context.Session, sink: context.Sink, call: Arguments
) -> Rows:
    """Refresh, every `schedule_interval`, what is between two ages; the job's id."""
    aggregate = await aggregate_turns.require(session, call.oid("continuous_aggregate"))
    config: dict[str, str | None] = {}
    for name in ("start_offset", "end_offset"):
        age = call.interval(name)
        config[name] = None if age is None else age.text
        if age is not None and (age.kind == "integer") == (aggregate.bucket.type_oid in pgtypes.TIMES):
            raise errors.InvalidParameter(
                f"invalid parameter value for {name}",
                hint="Give an interval for a time, an integer for an integer time column.",
            )
        if age is not None:  # refused now rather than at the first run
            await session.coordinator.fetch(
                f"SELECT orochi._policy_boundary({aggregate.materialization_oid}::regclass, $1)",
                (age.text.encode(),),
                (0,),
                (25,),
            )
    return await _add(session, sink, aggregate, config, call.required("schedule_interval"), call)


async def remove_continuous_aggregate_policy(
    session: context.Session, sink: context.Sink, call: Arguments
) -> Rows:
    """Forget an aggregate's policy."""
    aggregate = await aggregate_turns.require(session, call.oid("continuous_aggregate"))
    await policies.remove(
        session,
        sink,
        kinds.REFRESH.name,
        aggregate.materialization_oid,
        if_exists=call.boolean("if_exists"),
        what="continuous aggregate policy",
        name=aggregate.view[1],
    )
    return [("",)]


async def drop_continuous_aggregate(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Drop a continuous aggregate that nothing reads."""
    aggregate = await aggregate_turns.require(session, call.oid("continuous_aggregate"))
    await aggregates.drop(session, (aggregate,), cascade=False)
    return [("",)]
