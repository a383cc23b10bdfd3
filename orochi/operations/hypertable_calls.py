"""Calls about hypertables: making one, its chunks, and what they take of disks.

Dimensions beside the time are in `dimensions`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from orochi import errors, ids, pgtypes
from orochi.catalog import definition as definitions
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import dimensions, hypertable, shells
from orochi.operations.arguments import Arguments

Rows = list[tuple[str | None, ...]]
_VOID: Rows = [("",)]
_BOUNDS = ("older_than", "newer_than", "created_before", "created_after")


async def create_hypertable(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Partition a table by time, and by hash if a partitioning column is given."""
    oid = call.oid("relation")
    by_dimension = call.has("dimension")
    if by_dimension:
        dimension = call.fields("dimension")
        if dimension["kind"] != "range":
            raise errors.FeatureNotSupported(
                "the first dimension of a hypertable is a time range",
                hint="Use by_range(); add a dimension by_hash() with add_dimension().",
            )
        column, interval = (
            str(dimension["column_name"]),
            hypertable.Interval.from_given(dimension["chunk_interval"]),
        )
    else:
        column, interval = call.required("time_column_name"), call.interval("chunk_time_interval")
    options = hypertable.Options(
        column=column,
        interval=interval,
        if_not_exists=call.boolean("if_not_exists"),
        migrate_data=call.boolean("migrate_data"),
        default_indexes=call.boolean("create_default_indexes"),
    )
    hash_column = call.text("partitioning_column")
    partitions = None if hash_column is None else dimensions.partitions(call)
    created = await hypertable.create_hypertable(session, sink, oid, options)
    if created and hash_column is not None and partitions is not None:
        (await shells.definition(session, oid)).column(hash_column)
        await dimensions.is_one(session, sink, oid, hash_column, if_not_exists=False)
        await dimensions.add_hash(session, oid, hash_column, partitions)
    if by_dimension:
        return [(str(oid), _bool(created))]
    shell = await shells.definition(session, oid)
    return [(str(oid), shell.schema, shell.name, _bool(created))]


async def set_integer_now_func(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """What now is for an integer time column: a function without arguments."""
    oid = call.oid("hypertable")
    shell = await hypertable.hypertable(session, oid)
    dimension = session.snapshot().current(ids.TableId(oid)).dimension
    assert dimension is not None
    if dimension.type_oid not in pgtypes.INTEGERS:
        raise errors.InvalidParameter(
            f'custom time function not supported: hypertable "{shell.name}" has no integer time column'
        )
    function = call.oid("integer_now_func")
    rows = await session.catalog_execute(
        "SELECT p.pronargs, p.provolatile IN ('s', 'i'), p.prorettype::bigint,"
        f" (SELECT options ? 'integer_now' FROM orochi.orochi_tables WHERE table_oid = {oid})"
        f" FROM pg_catalog.pg_proc p WHERE p.oid = {function}"
    )
    arguments, is_stable, returned, has_one = (str(value) for value in rows[0])
    if arguments != "0" or is_stable != "true":
        raise errors.InvalidParameter("integer_now_func must take no arguments and it must be STABLE")
    if int(returned) != dimension.type_oid:
        raise errors.InvalidParameter(
            "return type of integer_now_func must be the same as the type of the time partitioning column"
            " of the hypertable"
        )
    if has_one == "true" and not call.boolean("replace_if_exists"):
        raise errors.OrochiError(
            f'custom time function already set for hypertable "{shell.name}"',
            sqlstate="42710",
            hint="Use replace_if_exists => true.",
        )
    path = await session.coordinator.fetch("SELECT pg_catalog.current_setting('search_path')")
    known = {"oid": function, "search_path": (path.rows[0][0] or b"").decode()}
    await session.catalog_execute(
        f"UPDATE orochi.orochi_tables SET options = options || {_json({'integer_now': known})}"
        f" WHERE table_oid = {oid}"
    )
    await session.catalog_changed()
    return _VOID


async def drop_chunks(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Drop the chunks that lie wholly inside of the bounds; their names."""
    bounds = [call.given(name) for name in _BOUNDS]
    if not any(bounds):
        raise errors.InvalidParameter(
            "invalid time range for dropping chunks",
            hint="At least one of older_than and newer_than must be provided. TRUNCATE removes all rows.",
        )
    oid = await hypertable.rows_of(session, call.oid("relation"))
    parameters = ", ".join(f"${at}::orochi.time_value" for at in range(1, len(bounds) + 1))
    result = await session.coordinator.fetch(
        f"SELECT orochi._chunks_of({oid}::regclass, {parameters})",
        tuple(None if value is None else value.encode() for value in bounds),
        (0,) * len(bounds),
        (pgtypes.TEXT,) * len(bounds),
    )
    chunk_ids = [int((row[0] or b"").rpartition(b"_")[2]) for row in result.rows]
    dropped = await hypertable.drop_chunks(session, oid, chunk_ids)
    if call.boolean("verbose"):
        for name in dropped:
            await sink.notice(f"dropping chunk {name}", severity="INFO")
    return [(name,) for name in dropped]


async def drop_listed_chunks(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Drop these chunks of the hypertable; their names. For policies, which do it shard by shard."""
    chunk_ids = [int(number) for number in call.required("chunk_ids").strip("{}").split(",") if number]
    return [(name,) for name in await hypertable.drop_chunks(session, call.oid("relation"), chunk_ids)]


_SIZE_SQL = """
SELECT n.nspname, pg_catalog.pg_total_relation_size(c.oid), pg_catalog.pg_indexes_size(c.oid),
    CASE WHEN c.reltoastrelid = 0 THEN 0 ELSE pg_catalog.pg_total_relation_size(c.reltoastrelid) END
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relname = {name} AND n.nspname IN ({schemas})
"""


async def hypertable_size(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """What a hypertable takes of all nodes' disks now."""
    if call.text("hypertable") is None:
        return [(None,)]
    return [(str(sum(sizes[-1] for _, _, sizes in await _sizes(session, call.oid("hypertable")))),)]


async def hypertable_detailed_size(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """What a hypertable takes of each node's disk now."""
    sums: dict[int, list[int]] = {}
    for chunk, node_id, sizes in await _sizes(session, call.oid("hypertable")):
        del chunk
        sums[node_id] = [one + more for one, more in zip(sums.get(node_id, [0] * 4), sizes, strict=True)]
    return [_size_row(sums[node_id], node_id) for node_id in sorted(sums)]


async def chunks_detailed_size(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """The same for each chunk."""
    return [
        (*chunk.name.split("."), *_size_row(sizes, node_id))
        for chunk, node_id, sizes in await _sizes(session, call.oid("hypertable"))
    ]


def _size_row(sizes: Sequence[int], node_id: int) -> tuple[str | None, ...]:
    return (*(str(size) for size in sizes), f"n{node_id}")


async def _sizes(
    session: context.Session, oid: int
) -> list[tuple[snapshots.Chunk, int, tuple[int, int, int, int]]]:
    """(chunk, node, bytes of the table, of its indexes, of TOAST, of all), by chunk; stripes are the table's.

    Of a continuous aggregate, those of the table that keeps its buckets.

    Raises:
        InvalidTable: it is no hypertable.
    """
    oid = await hypertable.rows_of(session, oid)
    shell = await hypertable.hypertable(session, oid)
    table = session.snapshot().current(ids.TableId(oid))
    stripes = {
        int(str(chunk_id)): int(str(size))
        for chunk_id, size in await session.catalog_execute(
            "SELECT chunk_id, sum(f.size_bytes) FROM orochi.orochi_stripes f JOIN orochi.orochi_chunks USING (chunk_id)"
            f" JOIN orochi.orochi_shards s USING (shard_id) WHERE s.table_oid = {oid} GROUP BY chunk_id"
        )
    }
    by_node: dict[int, list[snapshots.Chunk]] = {}
    for shard in table.shards:
        by_node.setdefault(shard.node_id, []).extend(shard.chunks)

    async def on_node(node_id: int) -> dict[str, tuple[int, int, int]]:
        connection = await session.transaction.node(node_id, write=False)
        schemas = ", ".join(definitions.quote_literal(chunk.schema) for chunk in by_node[node_id])
        sql = _SIZE_SQL.format(name=definitions.quote_literal(shell.name), schemas=schemas or "''")
        rows = (await connection.query(sql))[-1].rows
        return {(row[0] or b"").decode(): _numbers(row[1:]) for row in rows}

    heaps: dict[str, tuple[int, int, int]] = {}
    for found in await asyncio.gather(*(on_node(node_id) for node_id in by_node)):
        heaps.update(found)
    rows = []
    for node_id, chunks in by_node.items():
        for chunk in chunks:
            total, indexes, toast = heaps.get(chunk.schema, (0, 0, 0))
            extra = stripes.get(chunk.chunk_id, 0)
            rows.append(
                (chunk, int(node_id), (total - indexes - toast + extra, indexes, toast, total + extra))
            )
    return sorted(rows, key=lambda row: (row[0].range_start, row[0].chunk_id))


def _numbers(values: Sequence[Any]) -> tuple[int, int, int]:
    total, indexes, toast = (int(value or b"0") for value in values)
    return total, indexes, toast


def _json(value: Mapping[str, Any]) -> str:
    return f"{definitions.quote_literal(json.dumps(value))}::jsonb"


def _bool(value: bool) -> str:
    return "t" if value else "f"


HANDLERS = {
    "create_hypertable": create_hypertable,
    "add_dimension": dimensions.add_dimension,
    "set_chunk_time_interval": dimensions.set_chunk_time_interval,
    "set_integer_now_func": set_integer_now_func,
    "drop_chunks": drop_chunks,
    "_drop_chunks": drop_listed_chunks,
    "hypertable_size": hypertable_size,
    "hypertable_detailed_size": hypertable_detailed_size,
    "chunks_detailed_size": chunks_detailed_size,
}
