"""`compress_chunk` and its kin: the node's maintenance worker does the work, chunks side by side.

A chunk is changed in a transaction of the worker's own, so a client's transaction that has written
cannot wait for it: it would wait for itself.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Mapping, Sequence

from orochi import errors, ids
from orochi.catalog import snapshot as snapshots
from orochi.executor import context, names
from orochi.operations.arguments import Arguments

NAMES = frozenset({"compress_chunk", "decompress_chunk", "recompress_chunk"})
_TIMEOUT_SECONDS = 3600.0
#: Tasks handed to one node at a time.
_IN_FLIGHT = 2
#: Chunks of one shard in one task, which changes them together.
_GROUP = 8
_NOTICES = 3

Rows = list[tuple[str | None, ...]]


async def run(
    session: context.Session, sink: context.Sink, calls: Sequence[tuple[str, Arguments]]
) -> list[Rows]:
    """Execute calls on chunks; each answers its chunk's name."""
    if session.transaction.wrote or session.snapshot() is not session.runtime.snapshot():
        raise errors.FeatureNotSupported(
            f"{calls[0][0]}() cannot run in a transaction that has written to Orochi tables",
            hint="Commit first.",
        )
    await session.runtime.refresh()
    snapshot = session.snapshot()
    found = [(name, call, chunk_by_name(snapshot, call.required("chunk"))) for name, call in calls]
    await check_owners(session, {table.oid for _, _, (table, _, _) in found})
    todo: dict[tuple[int, int, str], list[int]] = {}
    for name, call, (_, shard, chunk) in found:
        task = _task(name, call, chunk)
        if task is not None:
            todo.setdefault((shard.node_id, shard.shard_id, task), []).append(int(chunk.chunk_id))
    statuses = await run_tasks(session, todo)
    await _tell(
        sink, [(name, chunk, statuses.get(chunk.chunk_id, "unchanged")) for name, _, (_, _, chunk) in found]
    )
    return [[(chunk.name,)] for _, _, (_, _, chunk) in found]


async def run_tasks(
    session: context.Session, todo: Mapping[tuple[int, int, str], Sequence[int]]
) -> dict[int, str]:
    """Run tasks over some chunks of one shard each, a few at a time on each node; the status of every chunk."""
    limits: Mapping[int, asyncio.Semaphore] = collections.defaultdict(lambda: asyncio.Semaphore(_IN_FLIGHT))
    statuses: dict[int, str] = {}

    async def one(node_id: int, task: str, chunk_ids: Sequence[int]) -> None:
        async with limits[node_id]:
            answer = await session.runtime.transport.run_task(
                node_id, task, {"chunk_ids": list(chunk_ids)}, timeout=_TIMEOUT_SECONDS
            )
        statuses.update({int(facts["chunk_id"]): str(facts["status"]) for facts in answer["results"]})

    tasks = [
        asyncio.create_task(one(node_id, task, chunk_ids[at : at + _GROUP]))
        for (node_id, _, task), chunk_ids in todo.items()
        for at in range(0, len(chunk_ids), _GROUP)
    ]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    finally:
        await session.runtime.refresh()
    return statuses


async def _tell(sink: context.Sink, outcomes: Sequence[tuple[str, snapshots.Chunk, str]]) -> None:
    """Say which chunks there was nothing to do for; only how many, if they are many."""
    reasons: dict[str, list[str]] = {}
    for name, chunk, status in outcomes:
        if status == "empty":
            reasons.setdefault("nothing to compress: no rows in", []).append(chunk.name)
        elif status == "kept":
            reasons.setdefault("constraints keep the rows in the heap:", []).append(chunk.name)
        elif status == "unchanged" and name == "decompress_chunk":
            reasons.setdefault("not compressed:", []).append(chunk.name)
        elif status == "unchanged":
            reasons.setdefault("already compressed:", []).append(chunk.name)
    for reason, chunks in reasons.items():
        for chunk_name in chunks[:_NOTICES]:
            await sink.notice(f'{reason} chunk "{chunk_name}"')
        if len(chunks) > _NOTICES:
            await sink.notice(f"{reason} {len(chunks) - _NOTICES} more chunks")


def _task(name: str, call: Arguments, chunk: snapshots.Chunk) -> str | None:
    """The task that does what was asked for; None if there is nothing to do.

    Raises:
        OrochiError: 55000, the chunk is not in the state that the call asks for.
    """
    if name == "decompress_chunk":
        if not chunk.is_compressed and not call.boolean("if_compressed"):
            raise errors.OrochiError(f'chunk "{chunk.name}" is not compressed', sqlstate="55000")
        return names.DECOMPRESS_CHUNK if chunk.is_compressed else None
    if name == "compress_chunk" and chunk.is_compressed and not call.boolean("if_not_compressed"):
        raise errors.OrochiError(
            f'chunk "{chunk.name}" is already compressed', sqlstate="55000", hint="Use recompress_chunk()."
        )
    if name == "recompress_chunk" and not chunk.is_compressed and not call.boolean("if_not_compressed"):
        raise errors.OrochiError(f'chunk "{chunk.name}" is not compressed', sqlstate="55000")
    return names.COMPRESS_CHUNK


def chunk_by_name(
    snapshot: snapshots.Snapshot, name: str
) -> tuple[snapshots.Table, snapshots.Shard, snapshots.Chunk]:
    """The chunk of that name (as `show_chunks` prints it) or number.

    Raises:
        UndefinedObject: there is none.
    """
    bare = name.replace('"', "").rpartition(".")[2]
    number = bare.removeprefix("chunk_")
    if number.isdigit():
        chunk_id = ids.ChunkId(int(number))
        for table in snapshot.tables.values():
            for shard in table.shards:
                for chunk in shard.chunks:
                    if chunk.chunk_id == chunk_id:
                        return table, shard, chunk
    raise errors.UndefinedObject(
        f'chunk "{name}" does not exist', hint="show_chunks() lists a table's chunks."
    )


async def check_owners(session: context.Session, oids: set[ids.TableId]) -> None:
    """See that the user owns the tables.

    Raises:
        OrochiError: 42501, not one of them.
    """
    for oid in oids:
        result = await session.coordinator.query(
            f"SELECT pg_has_role(relowner, 'USAGE'), relname FROM pg_class WHERE oid = {oid}"
        )
        owned, name = result[-1].rows[0]
        if owned != b"t":
            raise errors.OrochiError(f"must be owner of table {(name or b'').decode()}", sqlstate="42501")
