"""`compress_chunk` and its kin: the node's maintenance worker does the work, chunks side by side.

A chunk is changed in a transaction of the worker's own, so a client's transaction that has written
cannot wait for it: it would wait for itself.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Mapping, Sequence
from typing import Any

from orochi import errors, ids
from orochi.catalog import snapshot as snapshots
from orochi.executor import context, names
from orochi.operations.arguments import Arguments

NAMES = frozenset({"compress_chunk", "decompress_chunk", "recompress_chunk"})
_TIMEOUT_SECONDS = 3600.0
#: Chunks handed to one node at a time; its worker does one after another.
_IN_FLIGHT = 2

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
    await _check_owners(session, {table.oid for _, _, (table, _, _) in found})
    limits: Mapping[int, asyncio.Semaphore] = collections.defaultdict(lambda: asyncio.Semaphore(_IN_FLIGHT))

    async def one(
        name: str, call: Arguments, shard: snapshots.Shard, chunk: snapshots.Chunk
    ) -> dict[str, Any]:
        async with limits[shard.node_id]:
            return await _run_one(session, name, call, shard, chunk)

    tasks = [asyncio.create_task(one(name, call, shard, chunk)) for name, call, (_, shard, chunk) in found]
    try:
        results = await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    finally:
        await session.runtime.refresh()
    answers: list[Rows] = []
    for (name, _, (_, _, chunk)), result in zip(found, results, strict=True):
        if result["status"] == "empty":
            await sink.notice(f'chunk "{chunk.name}" has no rows: nothing to compress')
        elif result["status"] == "unchanged":
            state = "not compressed" if name == "decompress_chunk" else "already compressed"
            await sink.notice(f'chunk "{chunk.name}" is {state}')
        answers.append([(chunk.name,)])
    return answers


async def _run_one(
    session: context.Session, name: str, call: Arguments, shard: snapshots.Shard, chunk: snapshots.Chunk
) -> dict[str, Any]:
    if name == "decompress_chunk":
        if not chunk.is_compressed and not call.boolean("if_compressed"):
            raise errors.OrochiError(f'chunk "{chunk.name}" is not compressed', sqlstate="55000")
        task = names.DECOMPRESS_CHUNK
    else:
        if name == "compress_chunk" and chunk.is_compressed and not call.boolean("if_not_compressed"):
            raise errors.OrochiError(
                f'chunk "{chunk.name}" is already compressed',
                sqlstate="55000",
                hint="Use recompress_chunk().",
            )
        if name == "recompress_chunk" and not chunk.is_compressed and not call.boolean("if_not_compressed"):
            raise errors.OrochiError(f'chunk "{chunk.name}" is not compressed', sqlstate="55000")
        task = names.COMPRESS_CHUNK
    return await session.runtime.transport.run_task(
        shard.node_id, task, {"chunk_id": int(chunk.chunk_id)}, timeout=_TIMEOUT_SECONDS
    )


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


async def _check_owners(session: context.Session, oids: set[ids.TableId]) -> None:
    for oid in oids:
        result = await session.coordinator.query(
            f"SELECT pg_has_role(relowner, 'USAGE'), relname FROM pg_class WHERE oid = {oid}"
        )
        owned, name = result[-1].rows[0]
        if owned != b"t":
            raise errors.OrochiError(f"must be owner of table {(name or b'').decode()}", sqlstate="42501")
