"""Recall: stripe rows that a statement may change go back to the heap, in the session's transaction.

Each recalled row is entered in the node's delete vector and inserted into the shard's heap by one
local transaction, so every reader sees it once. A row that another transaction has recalled or
deleted meanwhile is left alone: the delete vector's primary key decides, and makes us wait for an
open one. Recalling more rows than needed costs time but changes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orochi import errors, pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.engine import copybinary
from orochi.executor import context
from orochi.operations import routing
from orochi.pgwire import client
from orochi.planner import fragment as fragments
from orochi.planner import quoting

#: Types whose equal values have equal bytes, so that keys can be compared outside PostgreSQL.
_EXACT = frozenset(
    {
        pgtypes.INT2,
        pgtypes.INT4,
        pgtypes.INT8,
        pgtypes.TEXT,
        pgtypes.VARCHAR,
        pgtypes.UUID,
        pgtypes.DATE,
        pgtypes.TIMESTAMP,
        pgtypes.TIMESTAMPTZ,
        pgtypes.BOOL,
    }
)
_BATCH = 50_000
#: How long PostgreSQL waits for a lock that it is not to wait for; 0 would mean for ever.
_AT_ONCE_MS = 100
#: A longer list of values is given to the scan as the range it spans.
_MAX_LISTED = 200

#: Heap rows whose transaction may still run: the session's own, and others'.
_NEW = (
    "pg_catalog.age(xmin) <= pg_catalog.age("
    "pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::pg_catalog.xid)"
)

_CLAIM = """
INSERT INTO orochi_data.delete_vectors (stripe_id, row_number)
SELECT * FROM unnest($1::pg_catalog.int8[], $2::pg_catalog.int4[])
ON CONFLICT DO NOTHING RETURNING stripe_id, row_number
"""


async def matching(
    session: context.Session,
    table: snapshots.Table,
    shard: snapshots.Shard,
    predicates: Sequence[fragments.Predicate],
    *,
    waits: bool = True,
) -> int:
    """Recall the stripe rows of `shard` that may satisfy `predicates`; how many there were.

    Raises:
        RemoteError: 55P03, another transaction has recalled one, and it is not to be waited for (`waits`).
    """
    time_column = table.dimension.column if table.dimension is not None else ""
    chunks = [
        chunk for chunk in shard.chunks if chunk.stripes and routing.may_match(chunk, predicates, time_column)
    ]
    return await _recall(session, table, shard, chunks, tuple(predicates), None, waits=waits)


async def whole(
    session: context.Session, table: snapshots.Table, shard: snapshots.Shard, chunk: snapshots.Chunk
) -> int:
    """Recall all stripe rows of a chunk; how many there were."""
    return await _recall(session, table, shard, [chunk], (), None)


async def conflicting(
    session: context.Session,
    table: snapshots.Table,
    shard: snapshots.Shard,
    rows: Mapping[str, pa.Array],
) -> int:
    """Recall the stripe rows of `shard` that equal a new row in all columns of a unique key.

    Args:
        session: the client's session.
        table: the table that the rows go to.
        shard: the shard that they go to.
        rows: of the new rows, the carrier columns that are known; a time column is among them.
    """
    chunks = [chunk for chunk in shard.chunks if chunk.stripes]
    if table.dimension is not None:
        times = np.unique(rows[table.dimension.column].drop_null().to_numpy(zero_copy_only=False))
        chunks = [chunk for chunk in routing.chunks_at(shard, (int(raw) for raw in times)) if chunk.stripes]
    recalled = 0
    for key in table.unique_keys if chunks else ():
        exact = {
            name: rows[name]
            for name in key
            if name in rows and (column := table.column(name)) is not None and column.base_oid in _EXACT
        }
        predicates = tuple(p for name, values in exact.items() for p in _spanning(name, values))
        keys = pa.table(exact) if exact else None
        recalled += await _recall(session, table, shard, chunks, predicates, keys)
    return recalled


async def rekeyed(
    session: context.Session, table: snapshots.Table, shards: Iterable[snapshots.Shard]
) -> None:
    """After unique keys were changed: recall the stripe rows that the session's new heap rows collide with.

    PostgreSQL then refuses the second of the two. Rows of others who have just committed are looked
    at as well, which changes nothing.

    Raises:
        RemoteError: 23505.
    """
    names = {name for key in table.unique_keys for name in key}
    if table.dimension is not None:
        names.add(table.dimension.column)
    columns = tuple(column for column in _outputs(table) if column.name in names)
    for shard in shards:
        if not shard.has_stripes or not table.unique_keys:
            continue
        connection = await session.transaction.node(shard.node_id, write=True)
        decoder, batches = copybinary.Decoder(columns), []
        listed = ", ".join(quoting.identifier(column.name) for column in columns)
        sql = f"COPY (SELECT {listed} FROM {routing.relation(table, shard)} WHERE {_NEW}) TO STDOUT (FORMAT binary)"
        async for piece in connection.copy_out(sql):
            batches += decoder.feed(piece)
        batches += decoder.finish()
        whole = pa.Table.from_batches(batches, schema=copybinary.schema(columns)).combine_chunks()
        if whole.num_rows:
            rows = {column.name: whole.column(at).chunk(0) for at, column in enumerate(columns)}
            try:
                await conflicting(session, table, shard, rows)
            except errors.RemoteError as error:
                # the COPY that brought the row back is nothing the client knows of
                kept = {code: text for code, text in error.fields.items() if code != "W"}
                raise errors.RemoteError(kept) from error


def _spanning(name: str, values: pa.Array) -> list[fragments.Predicate]:
    """Conditions that all of `values` satisfy."""
    distinct = values.drop_null().unique()
    if pa.types.is_binary(distinct.type) or pa.types.is_boolean(distinct.type) or not len(distinct):
        return []
    if len(distinct) <= _MAX_LISTED:
        return [fragments.Predicate(name, "in", tuple(distinct.to_pylist()))]
    if pa.types.is_string(distinct.type):
        return []  # the database's collation may order them otherwise
    numbers = distinct.to_numpy(zero_copy_only=False)
    return [
        fragments.Predicate(name, ">=", (int(numbers.min()),)),
        fragments.Predicate(name, "<=", (int(numbers.max()),)),
    ]


async def _recall(
    session: context.Session,
    table: snapshots.Table,
    shard: snapshots.Shard,
    chunks: Sequence[snapshots.Chunk],
    predicates: tuple[fragments.Predicate, ...],
    keys: pa.Table | None,
    *,
    waits: bool = True,
) -> int:
    stripes = tuple(
        fragments.StripeRef(stripe.stripe_id, stripe.path, stripe.row_count)
        for chunk in chunks
        for stripe in chunk.stripes
    )
    if not stripes:
        return 0
    columns = _outputs(table)
    scan = fragments.Scan(
        name="orochi_scan_0",
        table=f"{table.schema}.{table.name}",
        relation=routing.relation(table, shard),
        columns=columns,
        stripes=stripes,
        predicates=predicates,
    )
    batches = await session.runtime.transport.run_scan(session.query_id, shard.node_id, scan)
    connection = await session.transaction.node(shard.node_id, write=True)
    recalled = 0
    for whole in batches:
        for at in range(0, whole.num_rows, _BATCH):
            batch = _only_keys(whole.slice(at, _BATCH), keys)
            if batch.num_rows:
                logged = bool(session.snapshot().aggregates_of(table.oid))
                async with _waiting(connection, table.name, waits=waits):
                    batch = await _claimed(connection, len(columns), batch)
                recalled += await _move(connection, scan.relation, columns, batch, logged=logged)
    return recalled


@contextlib.asynccontextmanager
async def _waiting(connection: client.PgConnection, name: str, *, waits: bool) -> AsyncIterator[None]:
    """Within it nothing is waited for, unless it `waits`: the one who has a row may keep it for long."""
    if waits:
        yield
        return
    result = await connection.query("SHOW lock_timeout")
    former = quoting.text((result[-1].rows[0][0] or b"0").decode())
    await connection.query(f"SET LOCAL lock_timeout = '{_AT_ONCE_MS}ms'")
    try:
        yield
    except errors.RemoteError as error:
        if error.sqlstate != "55P03":
            raise
        message = f'could not obtain lock on row in relation "{name}"'
        raise errors.RemoteError({"S": "ERROR", "V": "ERROR", "C": "55P03", "M": message}) from error
    await connection.query(f"SET LOCAL lock_timeout = {former}")


def _outputs(table: snapshots.Table) -> tuple[fragments.OutputColumn, ...]:
    return tuple(
        fragments.OutputColumn(column.name, column.base_oid, column.typmod, column.type_name)
        for column in routing.stored_columns(table)
    )


def _only_keys(batch: pa.RecordBatch, keys: pa.Table | None) -> pa.RecordBatch:
    if keys is None or not batch.num_rows:
        return batch
    numbered = pa.table(
        {name: batch.column(name) for name in keys.column_names}
        | {"orochi_at": pa.array(range(batch.num_rows))}
    )
    found = numbered.join(
        keys.group_by(keys.column_names).aggregate([]), keys.column_names, join_type="left semi"
    )
    positions = np.sort(found["orochi_at"].to_numpy())
    return batch.take(pa.array(positions))


async def _claimed(connection: client.PgConnection, columns: int, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Enter rows in the delete vector; those that we got: their stripe and number come after `columns`."""
    stripe_ids = batch.column(columns).to_numpy(zero_copy_only=False).astype(np.int64)
    numbers = batch.column(columns + 1).to_numpy(zero_copy_only=False).astype(np.int64)
    claimed = await connection.fetch(_CLAIM, (_array(stripe_ids), _array(numbers)), (0, 0), (0, 0), (1, 1))
    got = np.array([_position(row) for row in claimed.rows], np.int64)
    return batch.filter(pa.array(np.isin((stripe_ids << 32) | numbers, got)))


async def _move(
    connection: client.PgConnection,
    relation: str,
    columns: tuple[fragments.OutputColumn, ...],
    batch: pa.RecordBatch,
    *,
    logged: bool,
) -> int:
    """Insert claimed rows into the heap; how many there were.

    Where triggers log what writes change (`logged`), they are told that rows only move.
    """
    if not batch.num_rows:
        return 0
    kept = batch.select(list(range(len(columns))))
    names = ", ".join(quoting.identifier(column.name) for column in columns)
    if logged:
        await connection.query("SET LOCAL orochi.moving_rows = on")
    await connection.copy_in(
        f"COPY {relation} ({names}) FROM STDIN (FORMAT binary)", [copybinary.encode(kept, columns)]
    )
    if logged:
        await connection.query("SET LOCAL orochi.moving_rows = off")
    return int(batch.num_rows)


def _position(row: tuple[bytes | None, ...]) -> int:
    stripe, number = row
    return (int.from_bytes(stripe or b"", "big") << 32) | int.from_bytes(number or b"", "big")


def _array(values: npt.NDArray[Any]) -> bytes:
    return ("{" + ",".join(map(str, values.tolist())) + "}").encode()
