"""`move_chunk_to_tier`: the maintenance worker of the chunk's node does the work, and is asked again while S3 restores."""

from __future__ import annotations

from orochi import errors
from orochi.executor import context, names
from orochi.operations import compression_calls, frozen
from orochi.operations.arguments import Arguments
from orochi.tiered import tiers

Rows = list[tuple[str | None, ...]]
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
