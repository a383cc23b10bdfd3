"""Turning a chunk's heap rows into stripes, and back. Runs in the maintenance worker of its node.

The order is: keep writers out, read, encode, fsync, keep readers out, empty the heap, and commit the
node and the catalog together. So no reader sees a row twice or not at all, and a crash at any step
leaves either state; files that no catalog row names are swept later.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
import pyarrow as pa

from orochi import settings as process_settings
from orochi.catalog import definition as definitions
from orochi.catalog import nodes
from orochi.engine import copybinary
from orochi.engine import stripes as stripe_rows
from orochi.storage.columnar import sorting, writer
from orochi.timeseries import chunkstate, scans

State = chunkstate.State
Connection = chunkstate.Connection
_TEXT_OIDS = frozenset({19, 25, 1042, 1043})
_STAGING = "orochi_compressing"


def compress_chunk(coordinator: str, chunk_id: int, settings: process_settings.Settings) -> dict[str, Any]:
    """Move all rows of a chunk into stripes; rows that came since the last time are merged in.

    Returns:
        `status`: 'compressed', 'empty' (it has no rows) or 'unchanged' (all rows were in stripes).

    Raises:
        UndefinedObject: there is no such chunk.
        OrochiError: 55P03, other transactions do not let go of it.
    """
    return _change(coordinator, chunk_id, settings, _compress)


def decompress_chunk(coordinator: str, chunk_id: int, settings: process_settings.Settings) -> dict[str, Any]:
    """Move all rows of a chunk back into the heap.

    Returns:
        `status`: 'decompressed' or 'unchanged' (it had no stripes).

    Raises:
        UndefinedObject: there is no such chunk.
        OrochiError: 55P03, other transactions do not let go of it.
    """
    return _change(coordinator, chunk_id, settings, _decompress)


_Step = Callable[[Connection, Connection, State, process_settings.Settings, bool], dict[str, Any]]


def _change(
    coordinator: str, chunk_id: int, settings: process_settings.Settings, step: _Step
) -> dict[str, Any]:
    try:
        return _attempt(coordinator, chunk_id, settings, step, whole_shard=False)
    except chunkstate.WritersInTheWay:
        return _attempt(coordinator, chunk_id, settings, step, whole_shard=True)


def _attempt(
    coordinator: str,
    chunk_id: int,
    settings: process_settings.Settings,
    step: _Step,
    *,
    whole_shard: bool,
) -> dict[str, Any]:
    with psycopg.connect(coordinator, autocommit=True) as catalog:
        catalog.execute("BEGIN")
        state = chunkstate.load(catalog, chunk_id)
        dsn = nodes.dsn(settings, state.host, state.port, state.dbname)
        with psycopg.connect(dsn, autocommit=True, options="-c search_path=pg_catalog") as node:
            node.execute("BEGIN")
            return {"chunk_id": chunk_id, **step(catalog, node, state, settings, whole_shard)}


def _compress(
    catalog: Connection,
    node: Connection,
    state: State,
    settings: process_settings.Settings,
    whole_shard: bool,
) -> dict[str, Any]:
    chunkstate.exclude_writers(node, state, whole_shard=whole_shard)
    row = node.execute(
        f"SELECT EXISTS (SELECT FROM {state.partition}), pg_total_relation_size(%s::regclass)".encode(),
        (state.partition,),
    ).fetchone()
    assert row is not None
    has_rows, heap_bytes = bool(row[0]), int(row[1])
    if not has_rows:
        return {"status": "unchanged" if state.stripes else "empty", "rows": 0}
    source = state.partition
    if state.stripes:
        heap_bytes += _former_heap_bytes(catalog, state)
        source = _stage(node, state, settings)
    written = _write_stripes(catalog, node, state, settings, source)
    try:
        if state.stripes:
            node.execute(f"DROP TABLE {source}".encode())
        chunkstate.exclude_readers(node, state, whole_shard=whole_shard)
        node.execute(f"TRUNCATE ONLY {state.partition}".encode())
        _forget_deleted(node, state)
        chunkstate.rename(node, state)
        chunkstate.retire_stripes(catalog, state, settings.retired_grace)
        rows = sum(info.row_count for _, _, info in written)
        _publish(catalog, state, written, heap_bytes)
        chunkstate.count_up(catalog, state, rows)
    except BaseException:
        for _, path, _ in written:
            (settings.stripe_dir / path).unlink(missing_ok=True)
        raise
    chunkstate.commit(catalog, node, state)
    size = sum(info.size_bytes for _, _, info in written)
    return {"status": "compressed", "rows": rows, "before_bytes": heap_bytes, "after_bytes": size}


def _decompress(
    catalog: Connection,
    node: Connection,
    state: State,
    settings: process_settings.Settings,
    whole_shard: bool,
) -> dict[str, Any]:
    if not state.stripes:
        return {"status": "unchanged", "rows": 0}
    chunkstate.exclude_writers(node, state, whole_shard=whole_shard)
    stored = [column for column in state.definition.columns if not column.generated]
    rows = _copy_stripes(node, state, settings, state.partition, stored)
    counted = node.execute(f"SELECT count(*) FROM {state.partition}".encode()).fetchone()
    assert counted is not None
    _forget_deleted(node, state)
    chunkstate.exclude_readers(node, state, whole_shard=whole_shard)
    chunkstate.rename(node, state)
    chunkstate.retire_stripes(catalog, state, settings.retired_grace)
    chunkstate.count_up(catalog, state, int(counted[0]))
    chunkstate.commit(catalog, node, state)
    return {"status": "decompressed", "rows": rows}


def _former_heap_bytes(catalog: Connection, state: State) -> int:
    row = catalog.execute(
        "SELECT coalesce(sum(heap_bytes), 0)::bigint FROM orochi.orochi_stripes WHERE chunk_id = %s",
        (state.chunk_id,),
    ).fetchone()
    assert row is not None
    return int(row[0])


def _stage(node: Connection, state: State, settings: process_settings.Settings) -> str:
    """All rows of the chunk, heap and stripes, in one table of this transaction.

    Not a temporary table: a transaction that used one cannot be prepared.
    """
    table = f"{state.schema}.{_STAGING}"
    columns = ", ".join(definitions.quote(column.name) for column in state.definition.columns)
    node.execute(f"CREATE UNLOGGED TABLE {table} AS SELECT {columns} FROM {state.partition}".encode())
    _copy_stripes(node, state, settings, table, state.definition.columns)
    return table


def _copy_stripes(
    node: Connection,
    state: State,
    settings: process_settings.Settings,
    relation: str,
    columns: Sequence[definitions.Column],
) -> int:
    """Copy the rows of the chunk's stripes, less the deleted ones, into a relation of the node."""
    wanted = tuple(scans.Column.of(column) for column in columns)
    scan = scans.Scan("orochi_scan_0", state.partition, wanted, state.stripes)
    deleted = stripe_rows.deleted_rows(node, iter((scan,)))
    names = ", ".join(definitions.quote(column.name) for column in columns)
    total = 0
    with (
        node.cursor() as cursor,
        cursor.copy(f"COPY {relation} ({names}) FROM STDIN (FORMAT binary)".encode()) as copy,
    ):
        copy.write(copybinary.HEADER)
        for batch in stripe_rows.read_stripes(scan, settings.stripe_dir, with_row_ids=True):
            kept = stripe_rows.without(batch, deleted)
            if kept.num_rows:
                copy.write(copybinary.encode(kept, wanted, header=False, trailer=False))
                total += kept.num_rows
        copy.write(copybinary.TRAILER)
    return total


_Written = list[tuple[int, str, writer.StripeInfo]]


def _write_stripes(
    catalog: Connection,
    node: Connection,
    state: State,
    settings: process_settings.Settings,
    source: str,
) -> _Written:
    """Read `source` in stripe order and write it as stripe files; (id, path, what is in it)."""
    options = write_options(state.options)
    columns = [writer.StripeColumn(column.name, column.base_oid, -1) for column in state.definition.columns]
    folder = pathlib.Path(f"s{state.shard_id}")
    (settings.stripe_dir / folder).mkdir(parents=True, exist_ok=True)
    written: _Written = []
    try:
        for table in _tables(node, state, source, options):
            row = catalog.execute("SELECT nextval('orochi.orochi_stripe_id_seq')").fetchone()
            assert row is not None
            path = str(folder / f"c{state.chunk_id}_{row[0]}.stripe")
            info = writer.write_stripe(settings.stripe_dir / path, table.to_batches(), columns, options)
            written.append((int(row[0]), path, info))
    except BaseException:
        for _, path, _ in written:
            (settings.stripe_dir / path).unlink(missing_ok=True)
        raise
    return written


def _tables(node: Connection, state: State, source: str, options: writer.WriteOptions) -> Iterator[pa.Table]:
    """The rows of `source` in order, in pieces that each fit a stripe; PostgreSQL sorts, on disk if need be."""
    columns = [scans.Column.of(column) for column in state.definition.columns]
    names = ", ".join(definitions.quote(column.name) for column in state.definition.columns)
    order = ", ".join(order_terms(state))
    decoder = copybinary.Decoder(columns)
    pending: list[pa.RecordBatch] = []
    rows = 0
    query = f"COPY (SELECT {names} FROM {source} ORDER BY {order}) TO STDOUT (FORMAT binary)"
    with node.cursor() as cursor, cursor.copy(query.encode()) as copy:
        for data in copy:
            for batch in decoder.feed(data):
                pending.append(batch)
                rows += batch.num_rows
            while rows > options.stripe_row_limit:
                whole = pa.Table.from_batches(pending)
                yield from writer.slices(whole.slice(0, options.stripe_row_limit), options)
                pending = whole.slice(options.stripe_row_limit).to_batches()
                rows -= options.stripe_row_limit
    pending.extend(decoder.finish())
    if pending:
        yield from writer.slices(pa.Table.from_batches(pending), options)


def order_terms(state: State) -> list[str]:
    """ORDER BY terms of a stripe: physical order only, so text goes by bytes, which is fast."""
    terms = []
    for key in [sorting.SortKey(name) for name in state.segmentby] + [
        sorting.SortKey.parse(text) for text in chunkstate.sort_columns(state)
    ]:
        column = state.definition.column(key.column)
        collate = ' COLLATE pg_catalog."C"' if column.base_oid in _TEXT_OIDS else ""
        direction = " DESC" if key.descending else ""
        nulls = "" if key.nulls_first is None else " NULLS FIRST" if key.nulls_first else " NULLS LAST"
        terms.append(f"{definitions.quote(key.column)}{collate}{direction}{nulls}")
    return terms


def write_options(options: dict[str, Any]) -> writer.WriteOptions:
    """A table's storage options as the stripe writer takes them."""
    defaults = writer.WriteOptions()
    return writer.WriteOptions(
        compression=str(options.get("compression", defaults.compression)),
        level=int(options.get("compression_level", defaults.level)),
        stripe_row_limit=int(options.get("stripe_row_limit", defaults.stripe_row_limit)),
        chunk_group_row_limit=int(options.get("chunk_group_row_limit", defaults.chunk_group_row_limit)),
    )


def _forget_deleted(node: Connection, state: State) -> None:
    node.execute(
        "DELETE FROM orochi_data.delete_vectors WHERE stripe_id = ANY(%s)",
        ([stripe.stripe_id for stripe in state.stripes],),
    )


def _publish(catalog: Connection, state: State, written: _Written, heap_bytes: int) -> None:
    """Enter new stripes and their column chunks into the catalog."""
    total = sum(info.row_count for _, _, info in written) or 1
    for stripe_id, path, info in written:
        catalog.execute(
            "INSERT INTO orochi.orochi_stripes"
            " (stripe_id, chunk_id, node_id, path, row_count, size_bytes, heap_bytes)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s)",
            (
                stripe_id,
                state.chunk_id,
                state.node_id,
                path,
                info.row_count,
                info.size_bytes,
                heap_bytes * info.row_count // total,
            ),
        )
        with (
            catalog.cursor() as cursor,
            cursor.copy(
                "COPY orochi.orochi_column_chunks (stripe_id, column_name, chunk_group, row_count, null_count,"
                " min_value, max_value, encoding, compression, size_bytes) FROM STDIN"
            ) as copy,
        ):
            for chunk in info.chunks:
                copy.write_row(
                    (
                        stripe_id,
                        chunk.column,
                        chunk.group,
                        chunk.stats.rows,
                        chunk.stats.null_count,
                        chunk.minimum_text,
                        chunk.maximum_text,
                        chunk.codec,
                        chunk.block,
                        chunk.stored_size,
                    )
                )
