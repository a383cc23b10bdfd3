"""Recall: stripe rows that a statement may change go back to the heap before it runs there.

Each recalled row is entered in the node's delete vector and inserted into the shard's heap by one
local transaction, so every reader sees it once: one of its own where that can be (see `ahead`), else
the session's. A row that another transaction has recalled or deleted meanwhile is left alone (see
`claims`). Recalling more rows than needed costs time but changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from orochi import errors, pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.engine import copybinary
from orochi.executor import context
from orochi.operations import ahead, claims, routing
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
#: A longer list of values is given to the scan as the range it spans.
_MAX_LISTED = 200

#: Heap rows whose transaction may still run: the session's own, and others'.
_NEW = (
    "pg_catalog.age(xmin) <= pg_catalog.age("
    "pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::pg_catalog.xid)"
)


async def matching(
    session: context.Session,
    table: snapshots.Table,
    shard: snapshots.Shard,
    predicates: Sequence[fragments.Predicate],
    *,
    others: claims.Others = claims.Others.AWAIT,
    early: bool = False,
) -> int:
    """Recall the stripe rows of `shard` that may satisfy `predicates`; how many there were.

    Args:
        session: the client's session.
        table: the table.
        shard: one of its shards.
        predicates: the conditions.
        others: what to do about rows that another transaction has recalled.
        early: whether it may be for good, whatever becomes of the statement.

    Raises:
        RemoteError: 55P03, another transaction has recalled one, and `others` says to refuse.
    """
    time_column = table.dimension.column if table.dimension is not None else ""
    chunks = [
        chunk for chunk in shard.chunks if chunk.stripes and routing.may_match(chunk, predicates, time_column)
    ]
    return await _recall(session, table, shard, chunks, tuple(predicates), None, others=others, early=early)


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
    *,
    early: bool = True,
) -> int:
    """Recall the stripe rows of `shard` that equal a new row in all columns of a unique key.

    Args:
        session: the client's session.
        table: the table that the rows go to.
        shard: the shard that they go to.
        rows: of the new rows, the carrier columns that are known; a time column is among them.
        early: whether it may be for good: no such new row is in the heap yet.
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
        recalled += await _recall(session, table, shard, chunks, predicates, keys, early=early)
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
                await conflicting(session, table, shard, rows, early=False)
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
    others: claims.Others = claims.Others.AWAIT,
    early: bool = False,
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
    recalled = 0
    for whole in batches:
        for at in range(0, whole.num_rows, _BATCH):
            batch = _only_keys(whole.slice(at, _BATCH), keys)
            if not batch.num_rows:
                continue
            moved = None
            if early and ahead.is_possible(session, shard):
                moved = await ahead.move(session, table, shard, scan.relation, columns, batch, others)
                if moved and session.transaction.isolation != "read committed":
                    ahead.check_unseen(session)
            if moved is None:
                moved = await _in_transaction(session, table, shard, scan.relation, columns, batch, others)
            recalled += moved
    return recalled


async def _in_transaction(
    session: context.Session,
    table: snapshots.Table,
    shard: snapshots.Shard,
    relation: str,
    columns: tuple[fragments.OutputColumn, ...],
    batch: pa.RecordBatch,
    others: claims.Others,
) -> int:
    transaction = session.transaction
    connection = await transaction.node(shard.node_id, write=True)
    transaction.participants[shard.node_id].recalled = True
    logged = bool(session.snapshot().aggregates_of(table.oid))
    found = await claims.claimed(connection, table.name, len(columns), batch, others)
    return await claims.moved(connection, relation, columns, found, logged=logged)


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
