"""Calls about tiers. Of `move_chunk_to_tier` the maintenance worker of the chunk's node does the work, and is asked again while S3 restores."""

from __future__ import annotations

import json

from orochi import errors
from orochi.catalog import definition as definitions
from orochi.executor import context, names
from orochi.jobs import kinds
from orochi.operations import compression_calls, frozen, hypertable, policies
from orochi.operations.arguments import Arguments
from orochi.tiered import tiers

Rows = list[tuple[str | None, ...]]
_literal = definitions.quote_literal
_SCHEDULE = "1 hour"
_TIMEOUT_SECONDS = 24 * 3600.0


async def move_chunk_to_tier(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Bring a chunk into a tier; its name."""
    if session.transaction.wrote or session.snapshot() is not session.runtime.snapshot():
        raise errors.FeatureNotSupported(
            "move_chunk_to_tier() cannot run in a transaction that has written to Orochi tables",
            hint="Commit first.",
        )
    tier = call.required("tier").strip().lower()
    tiers.check(tier)
    await session.runtime.refresh()
    table, shard, chunk = compression_calls.chunk_by_name(session.snapshot(), call.required("chunk"))
    await compression_calls.check_owners(session, {table.oid})
    waiting = frozen.Waiting(session, f'chunk "{chunk.name}"')
    while True:
        facts = await session.runtime.transport.run_task(
            shard.node_id,
            names.MOVE_CHUNK,
            {"chunk_id": int(chunk.chunk_id), "tier": tier},
            timeout=_TIMEOUT_SECONDS,
        )
        if facts["status"] != "restoring":
            break
        await waiting.pause(int(facts["ready"]), int(facts["total"]))
    await session.runtime.refresh()
    if facts["status"] == "unchanged":
        await sink.notice(f'chunk "{chunk.name}" is {tier} already')
    return [(chunk.name,)]


async def set_tiering_policy(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Move a table's chunks from tier to tier as they age, from now on, in the place of what was said before; the job's id."""
    oid = await hypertable.rows_of(session, call.oid("relation"))
    shell = await hypertable.hypertable(session, oid)
    names_of = [f"{tier}_after" for tier in tiers.TIERS[:-1]]
    ages = {name: age.text for name in names_of if (age := call.interval(name)) is not None}
    bounds = ", ".join(
        f"orochi._policy_boundary({oid}::oid::regclass, {_literal(age)})" for age in ages.values()
    )
    found = await session.catalog_execute(f"SELECT {bounds}") if bounds else [()]
    ends = [int(bound or 0) for bound in found[0]]
    if ends != sorted(ends, reverse=True):
        raise errors.InvalidParameter(
            "the ages of a tiering policy must not decrease",
            hint="hot_after is the age at which chunks leave the hot tier, and so on: each is at least the one before.",
        )
    reads = call.integer("recall_reads")
    if reads is None or reads < 1:
        raise errors.InvalidParameter("recall_reads must be positive")
    config = {
        **dict.fromkeys(names_of),
        **ages,
        "adaptive": call.boolean("adaptive"),
        "recall_reads": reads,
        "idle_after": call.text("idle_after"),
    }
    schedule = call.text("schedule_interval") or _SCHEDULE
    await policies.check_schedule(session, schedule, None)
    changed = await session.catalog_execute(
        f"UPDATE orochi.orochi_jobs SET config = {_literal(json.dumps(config))}::jsonb, next_due = orochi._now(),"
        f" schedule_interval = {_literal(schedule)}::interval"
        f" WHERE kind = '{kinds.TIERING.name}' AND table_oid = {oid} RETURNING job_id"
    )
    if changed:
        return [(changed[0][0],)]
    new = policies.New(
        kinds.TIERING.name, oid, config, schedule, hypertable.shown(session, shell), "tiering policy"
    )
    return await policies.add(session, sink, new)


async def remove_tiering_policy(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Chunks stay in the tiers where they are."""
    oid = await hypertable.rows_of(session, call.oid("relation"))
    shell = await hypertable.hypertable(session, oid)
    await policies.remove(
        session,
        sink,
        kinds.TIERING.name,
        oid,
        if_exists=call.boolean("if_exists"),
        what="tiering policy",
        name=hypertable.shown(session, shell),
    )
    return [("",)]
