"""Writes a chunk's rows as stripe files, and copies stripes' rows back into relations of the node."""

from __future__ import annotations

import dataclasses
import pathlib
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from orochi import settings as process_settings
from orochi.catalog import definition as definitions
from orochi.engine import copybinary
from orochi.engine import stripes as stripe_rows
from orochi.storage.columnar import sorting, writer
from orochi.timeseries import cells, chunkstate, scans

State = chunkstate.State
Connection = chunkstate.Connection
_TEXT_OIDS = frozenset({19, 25, 1042, 1043})
_STAGING = "orochi_compressing"
#: What the option that is a column's own compression is called, before the column's name.
COLUMN_OPTION = "compression."
_PIECE_BYTES = 1 << 20
#: Rows that a chunk's series key is judged by.
SAMPLE_ROWS = 20_000

_Written = list[tuple[int, str, writer.StripeInfo]]


@dataclasses.dataclass(frozen=True, slots=True)
class NewStripes:
    """Stripes written for a chunk: (id, path, what is in it) of each, and what the heap took before.

    `added`: they hold what was in the heap, beside the chunk's other stripes; else they replace those.
    """

    state: State
    written: _Written
    heap_bytes: int
    added: bool = False

    @property
    def rows(self) -> int:
        """How many rows they hold."""
        return sum(info.row_count for _, _, info in self.written)

    @property
    def rows_now(self) -> int:
        """How many rows the chunk's stripes hold with them, deleted ones among the others' too."""
        return self.rows + (sum(stripe.row_count for stripe in self.state.stripes) if self.added else 0)

    def facts(self) -> dict[str, Any]:
        """What the task answers."""
        return {
            "chunk_id": self.state.chunk_id,
            "status": "compressed",
            "rows": self.rows,
            "before_bytes": self.heap_bytes,
            "after_bytes": sum(info.size_bytes for _, _, info in self.written),
        }

    def unlink(self, folder: pathlib.Path) -> None:
        """Remove the files: they will not be published."""
        for _, path, _ in self.written:
            (folder / path).unlink(missing_ok=True)


def make(
    catalog: Connection,
    node: Connection,
    state: State,
    settings: process_settings.Settings,
    *,
    merge: bool = True,
) -> NewStripes | None:
    """Write the chunk's rows as stripes; None if its heap has none and no row of its stripes is deleted.

    Args:
        catalog: a transaction of the coordinator's.
        node: one of the chunk's node, writers kept out of the chunk.
        state: the chunk.
        settings: where files go.
        merge: together with the rows of its stripes; else only those of the heap.
    """
    if not state.stripes:
        merge = True
    if not has_work(node, state, merge=merge):
        return None
    source = _stage(node, state, settings) if merge and state.stripes else state.partition
    made, _ = write(catalog, node, state, settings, source, merge=merge)
    if source != state.partition:
        node.execute(f"DROP TABLE {source}".encode())
    return made


def has_work(node: Connection, state: State, *, merge: bool) -> bool:
    """Whether the chunk's heap has rows or, with `merge`, rows of its stripes are deleted."""
    row = node.execute(
        f"SELECT EXISTS (SELECT FROM {state.partition}),"
        " EXISTS (SELECT FROM orochi_data.delete_vectors WHERE stripe_id = ANY(%s))".encode(),
        ([stripe.stripe_id for stripe in state.stripes],),
    ).fetchone()
    assert row is not None
    return bool(row[0] or (merge and row[1]))


def write(
    catalog: Connection,
    node: Connection,
    state: State,
    settings: process_settings.Settings,
    source: str,
    *,
    merge: bool,
    origins: Sequence[scans.Column] = (),
    origin_names: str = "",
) -> tuple[NewStripes, list[pa.Table]]:
    """Write the rows of `source` as stripes; of each stripe also the columns `origins`, row by row.

    Args:
        catalog: a connection of the coordinator's.
        node: a transaction of the chunk's node.
        state: the chunk.
        settings: where files go.
        source: a relation with the chunk's columns.
        merge: they take the place of the chunk's stripes; else they are added.
        origins: columns to read beside those of the chunk, under the names `origin_names`.
        origin_names: SQL.
    """
    row = node.execute("SELECT pg_total_relation_size(%s::regclass)", (state.partition,)).fetchone()
    assert row is not None
    heap_bytes = int(row[0])
    if merge and state.stripes:
        heap_bytes += _former_heap_bytes(catalog, state)
    read = _Source(source, tuple(origins), origin_names)
    written, tables = _write_stripes(catalog, node, state, settings, read)
    return NewStripes(state, written, heap_bytes, added=not merge), tables


@dataclasses.dataclass(frozen=True, slots=True)
class _Source:
    """A relation with a chunk's columns, and further ones to be read."""

    relation: str
    origins: tuple[scans.Column, ...]
    origin_names: str


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
    rows = f"SELECT {columns} FROM {state.partition}"
    node.execute(f"CREATE UNLOGGED TABLE {table} AS {rows} WITH NO DATA".encode())
    copy_rows(node, state, settings, table, state.definition.columns)
    node.execute(f"INSERT INTO {table} {rows}".encode())
    return table


def copy_rows(
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
        for kept in stripe_rows.live_rows(scan, settings.stripe_dir, deleted):
            if kept.num_rows:
                copy.write(copybinary.encode(kept, wanted, header=False, trailer=False))
                total += kept.num_rows
        copy.write(copybinary.TRAILER)
    return total


def _write_stripes(
    catalog: Connection,
    node: Connection,
    state: State,
    settings: process_settings.Settings,
    source: _Source,
) -> tuple[_Written, list[pa.Table]]:
    """Read `source` in stripe order and write it as stripe files; (id, path, what is in it), and each one's origins."""
    options = write_options(state.options)
    columns = [writer.StripeColumn(column.name, column.base_oid, -1) for column in state.definition.columns]
    folder = pathlib.Path(f"s{state.shard_id}")
    (settings.stripe_dir / folder).mkdir(parents=True, exist_ok=True)
    written: _Written = []
    origins: list[pa.Table] = []
    try:
        for table in _tables(node, state, source, options):
            row = catalog.execute("SELECT nextval('orochi.orochi_stripe_id_seq')").fetchone()
            assert row is not None
            path = str(folder / f"c{state.chunk_id}_{row[0]}_{secrets.token_hex(4)}.stripe")
            batches = table.select(range(len(columns))).to_batches()
            info = writer.write_stripe(settings.stripe_dir / path, batches, columns, options)
            written.append((int(row[0]), path, info))
            origins.append(table.select(range(len(columns), table.num_columns)))
    except BaseException:
        for _, path, _ in written:
            (settings.stripe_dir / path).unlink(missing_ok=True)
        raise
    return written, origins


def _tables(
    node: Connection, state: State, source: _Source, options: writer.WriteOptions
) -> Iterator[pa.Table]:
    """The rows of `source` in order, in pieces that each fit a stripe; PostgreSQL sorts, on disk if need be.

    Those that are equal in that order stay as they came, so that first() and last() take the same ones as before.
    """
    columns = [scans.Column.of(column) for column in state.definition.columns]
    listed = [definitions.quote(column.name) for column in state.definition.columns]
    names = ", ".join([*listed, source.origin_names] if source.origins else listed)
    terms = order_terms(state, _series(node, state, source.relation))
    order = f" ORDER BY {', '.join([*terms, 'ctid'])}" if terms else ""
    decoder = copybinary.Decoder((*columns, *source.origins))
    pending: list[pa.RecordBatch] = []
    rows = 0
    query = f"COPY (SELECT {names} FROM {source.relation}{order}) TO STDOUT (FORMAT binary)"
    with node.cursor() as cursor, cursor.copy(query.encode()) as copy:
        for data in pieces(copy):
            for batch in decoder.feed(data):
                pending.append(batch)
                rows += batch.num_rows
            if rows > options.stripe_row_limit:
                read, rows = pa.Table.from_batches(pending), 0
                for piece in cells.whole(read, state.cuts, options, last=False):
                    yield from writer.slices(piece, options)
                    rows += piece.num_rows
                pending = read.slice(rows).to_batches()
                rows = read.num_rows - rows
    pending.extend(decoder.finish())
    if pending:
        for piece in cells.whole(pa.Table.from_batches(pending), state.cuts, options, last=True):
            yield from writer.slices(piece, options)


def pieces(rows: Iterable[bytes | bytearray | memoryview]) -> Iterator[bytes]:
    """COPY data in big pieces: the server sends a message for each row."""
    held: list[bytes | bytearray | memoryview] = []
    size = 0
    for row in rows:
        held.append(row)
        size += len(row)
        if size >= _PIECE_BYTES:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


def _series(node: Connection, state: State, source: str) -> tuple[str, ...]:
    """The series key of a chunk whose table says nothing of its order, judged by some of its rows."""
    if state.segmentby or state.orderby or state.time_column is None:
        return ()
    columns = [scans.Column.of(column) for column in state.definition.columns]
    names = ", ".join(definitions.quote(column.name) for column in state.definition.columns)
    decoder = copybinary.Decoder(columns)
    batches: list[pa.RecordBatch] = []
    query = f"COPY (SELECT {names} FROM {source} LIMIT {SAMPLE_ROWS}) TO STDOUT (FORMAT binary)"
    with node.cursor() as cursor, cursor.copy(query.encode()) as copy:
        for data in pieces(copy):
            batches.extend(decoder.feed(data))
    batches.extend(decoder.finish())
    if not batches:
        return ()
    sample = pa.Table.from_batches(batches)
    key = sorting.series_key(sample, state.time_column, indexed_series(state.definition, state.time_column))
    return () if key is None else (key,)


def indexed_series(definition: definitions.Definition, time_column: str) -> frozenset[str]:
    """Columns by which an index leads to times."""
    return frozenset(index.columns[0] for index in definition.indexes if index.columns[1:] == (time_column,))


def order_terms(state: State, series: Sequence[str] = ()) -> list[str]:
    """ORDER BY terms of a stripe: physical order only, so text goes by bytes, which is fast."""
    terms = [cells.order_sql(cut, definitions.quote(cut.column)) for cut in state.cuts]
    for key in [sorting.SortKey(name) for name in (*state.segmentby, *series)] + [
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
    stripe = int(options.get("stripe_row_limit", defaults.stripe_row_limit))
    group = min(defaults.chunk_group_row_limit, max(stripe, 1))
    return writer.WriteOptions(
        compression=str(options.get("compression", defaults.compression)),
        level=int(options.get("compression_level", defaults.level)),
        stripe_row_limit=stripe,
        chunk_group_row_limit=int(options.get("chunk_group_row_limit", group)),
        codecs={
            name.removeprefix(COLUMN_OPTION): str(value)
            for name, value in options.items()
            if name.startswith(COLUMN_OPTION)
        },
    )


def publish(catalog: Connection, made: NewStripes) -> None:
    """Enter new stripes and their column chunks into the catalog."""
    for stripe_id, path, info in made.written:
        described = chunk_rows(info)
        catalog.execute(
            f"INSERT INTO orochi.orochi_stripes (stripe_id, {STRIPE_COLUMNS})"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            (
                stripe_id,
                made.state.chunk_id,
                made.state.node_id,
                path,
                info.row_count,
                info.size_bytes,
                made.heap_bytes * info.row_count // made.rows,
                *times_of(described, made.state.time_column),
            ),
        )
        with (
            catalog.cursor() as cursor,
            cursor.copy(
                f"COPY orochi.orochi_column_chunks (stripe_id, {CHUNK_COLUMNS}) FROM STDIN".encode()
            ) as copy,
        ):
            for row in described:
                copy.write_row((stripe_id, *row))


#: Columns of `orochi_stripes` that are given, but for the stripe's id.
STRIPE_COLUMNS = "chunk_id, node_id, path, row_count, size_bytes, heap_bytes, time_min, time_max"
#: Columns of `orochi_column_chunks`, but for the stripe's id, as `chunk_rows` gives them.
CHUNK_COLUMNS = (
    "column_name, chunk_group, row_count, null_count, min_value, max_value, encoding, compression, size_bytes"
)


def chunk_rows(info: writer.StripeInfo) -> list[tuple[Any, ...]]:
    """What the catalog keeps of each column chunk of a stripe."""
    return [
        (
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
        for chunk in info.chunks
    ]


def times_of(described: Sequence[Sequence[Any]], time_column: str | None) -> tuple[int | None, int | None]:
    """The least and greatest raw time of a stripe, from its `chunk_rows`; None where these do not tell."""
    found = [(nulls, low, high) for name, _, _, nulls, low, high, *_ in described if name == time_column]
    if not found or any(nulls or low is None or high is None for nulls, low, high in found):
        return None, None
    return min(int(low) for _, low, _ in found), max(int(high) for _, _, high in found)
