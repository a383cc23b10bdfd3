"""A table's stripes back into the heap inside the client's transaction, for DDL that rewrites or checks rows.

ALTER TABLE on a node sees heap rows only. So what renames, retypes, fills or validates columns first
recalls every stripe row, which the transaction undoes as a whole; PostgreSQL then does to the rows
what it would do to any. When the transaction has committed, the chunks become stripes again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable

import structlog

from orochi import errors
from orochi.catalog import definition as definitions
from orochi.catalog import snapshot as snapshots
from orochi.executor import context, names
from orochi.operations import compression_calls, distribute, recall, shells, writes
from orochi.sharding import colocation

log = structlog.get_logger()


async def to_heap(
    session: context.Session, table: snapshots.Table, shell: definitions.Definition
) -> snapshots.Table:
    """Recall all stripe rows of `table` and forget its stripes; the table with its new layout.

    Args:
        session: inside a transaction.
        table: as its shards on nodes are: the shell may have changed already, they have not.
        shell: its definition as the shards have it.
    """
    await shells.bump_layouts(session, table.shards)
    fresh = session.snapshot().current(table.oid).shards  # read under the lock that bumping takes
    old = dataclasses.replace(
        table, shards=tuple(dataclasses.replace(shard, layout=shard.layout - 1) for shard in fresh)
    )
    await distribute.rename_layout(session, old, retired=False)
    moved = dataclasses.replace(table, shards=fresh)
    work: dict[int, list[Callable[[], Awaitable[int]]]] = {}
    for shard in fresh:
        for chunk in shard.chunks:
            if chunk.stripes:
                work.setdefault(shard.node_id, []).append(_recalling(session, moved, shard, chunk))
    if work:
        drop, add = _not_valid(session, moved, shell)
        await shells.run_on_nodes(session, drop)
        await writes.per_node(work)
        await shells.run_on_nodes(session, add)
        await _forget(session, moved)
        session.transaction.after_commit.append(_restoring(session, moved))
    await session.catalog_changed()
    empty = {shard.shard_id: _without_stripes(shard) for shard in fresh}
    return dataclasses.replace(table, shards=tuple(empty[shard.shard_id] for shard in fresh))


def _not_valid(
    session: context.Session, table: snapshots.Table, shell: definitions.Definition
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Statements that drop constraints, and make them again, that old rows need not satisfy but new ones must."""
    drop: dict[int, list[str]] = {}
    add: dict[int, list[str]] = {}
    for shard in table.shards:
        relation = f"{definitions.quote(shard.schema)}.{definitions.quote(table.name)}"
        targets = colocation.referenced_schemas(shell, session.snapshot(), shard.index, shard.schema)
        for item in shell.constraints:
            if item.definition.endswith(" NOT VALID"):
                clause = definitions.foreign_key(item, targets) if item.type == "f" else item.definition
                name = definitions.quote(item.name)
                drop.setdefault(shard.node_id, []).append(f"ALTER TABLE {relation} DROP CONSTRAINT {name}")
                add.setdefault(shard.node_id, []).append(
                    f"ALTER TABLE {relation} ADD CONSTRAINT {name} {clause}"
                )
    return drop, add


def _recalling(
    session: context.Session, table: snapshots.Table, shard: snapshots.Shard, chunk: snapshots.Chunk
) -> Callable[[], Awaitable[int]]:
    async def recalled() -> int:
        return await recall.whole(session, table, shard, chunk)

    return recalled


async def _forget(session: context.Session, table: snapshots.Table) -> None:
    stripe_ids: dict[int, list[int]] = {}
    for shard in table.shards:
        for chunk in shard.chunks:
            stripe_ids.setdefault(shard.node_id, []).extend(stripe.stripe_id for stripe in chunk.stripes)
    listed = ", ".join(str(stripe_id) for found in stripe_ids.values() for stripe_id in found)
    await session.catalog_execute(
        "INSERT INTO orochi.orochi_cleanup (node_id, kind, object_id, path, not_before)"
        " SELECT node_id, 'stripe', stripe_id, path, now() + interval '1 minute'"
        f" FROM orochi.orochi_stripes WHERE stripe_id IN ({listed})"
    )
    await session.catalog_execute(f"DELETE FROM orochi.orochi_stripes WHERE stripe_id IN ({listed})")
    await shells.run_on_nodes(
        session,
        {
            node_id: [
                f"DELETE FROM orochi_data.delete_vectors WHERE stripe_id IN ({', '.join(map(str, found))})"
            ]
            for node_id, found in stripe_ids.items()
            if found
        },
    )


def _restoring(session: context.Session, table: snapshots.Table) -> Callable[[], Awaitable[None]]:
    """What makes stripes of the chunks again; the rows are right without it, so it does not fail."""
    todo: dict[tuple[int, int, str], list[int]] = {}
    for shard in table.shards:
        for chunk in shard.chunks:
            if chunk.stripes:
                key = (int(shard.node_id), int(shard.shard_id), names.COMPRESS_CHUNK)
                todo.setdefault(key, []).append(int(chunk.chunk_id))

    async def restore() -> None:
        try:
            await compression_calls.run_tasks(session, todo)
        except errors.OrochiError as error:
            log.warning("ddl.not_compressed_again", table=table.name, error=error.message)

    return restore


def _without_stripes(shard: snapshots.Shard) -> snapshots.Shard:
    return dataclasses.replace(
        shard, chunks=tuple(dataclasses.replace(chunk, stripes=()) for chunk in shard.chunks)
    )
