"""Stripes of a chunk encoded ahead of the locks: others write on meanwhile, and what they did is made up for.

A transaction of the node reads the rows of its snapshot in stripe order, each with its origin: its place in the
heap, or its stripe and row number there. It keeps nobody out, and its snapshot is held until the end, so that no
such place gets another row. Under the locks, `caught_up` finds what differs: rows of the snapshot that are gone
become deleted rows of the new stripes, rows that came since stay in the heap.

What no longer fits then (another generation, DDL, a heap that was written anew) is of no use: begin again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import psycopg
import pyarrow as pa

from orochi import settings as process_settings
from orochi.catalog import definition as definitions
from orochi.engine import copybinary
from orochi.engine import stripes as stripe_rows
from orochi.timeseries import chunkstate, connections, scans, stripes

State = chunkstate.State
Connection = chunkstate.Connection
_Numbers = npt.NDArray[np.int64]

_TABLE = "pg_temp.orochi_ahead"
_TID = scans.Column("orochi tid", 27, -1, "tid")
_STRIPE = scans.Column("orochi stripe", 20, -1, "bigint")
_ROW = scans.Column("orochi row", 23, -1, "integer")
_NAMES = '"orochi tid", "orochi stripe", "orochi row"'
#: Bits of a row's number in a stripe, and of its number in a heap block.
_ROW_BITS, _LINE_BITS = 32, 16
_MOVED = (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedColumn)


@dataclasses.dataclass(frozen=True, slots=True)
class Reader:
    """A node's transaction that reads; `horizon`: every transaction before it had ended by then."""

    node: Connection
    horizon: str


@dataclasses.dataclass(frozen=True, slots=True)
class Ahead:
    """A chunk's new stripes, and where the row of each place in them came from.

    Attributes:
        made: the stripes; its state is the chunk's before.
        filenode: the heap's file then.
        heap: for each row of the heap its place in it, ascending, and in the new stripes.
        striped: the same for each row of the former stripes.
    """

    made: stripes.NewStripes
    filenode: int
    heap: tuple[_Numbers, _Numbers]
    striped: tuple[_Numbers, _Numbers]


@dataclasses.dataclass(frozen=True, slots=True)
class Delta:
    """What happened to a chunk since it was read: rows that came, and places in its new stripes that are void."""

    came: pa.RecordBatch | None
    gone: _Numbers

    @property
    def rows(self) -> int:
        """By how many rows the chunk has more than the new stripes."""
        return (self.came.num_rows if self.came is not None else 0) - len(self.gone)


@contextlib.contextmanager
def reading(dsn: str) -> Iterator[Reader]:
    """A snapshot of a node for the block."""
    with connections.borrowed(dsn, yields=True) as node:
        node.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        try:
            row = node.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::xid::text").fetchone()
            assert row is not None
            yield Reader(node, str(row[0]))
        finally:
            if not node.closed:
                with contextlib.suppress(psycopg.Error):
                    node.execute("ROLLBACK")


def encode(
    catalog: Connection, reader: Reader, state: State, settings: process_settings.Settings, *, merge: bool
) -> Ahead | None:
    """Write the chunk's rows as stripes; None if there is nothing to write, as `stripes.make` says it.

    Locks of the chunk are let go at the end.

    Raises:
        Changed: the chunk is not what `state` says any more.
    """
    node = reader.node
    node.execute("SAVEPOINT reading")
    try:
        found = _encode(catalog, node, state, settings, merge=merge or not state.stripes)
    except _MOVED as error:
        raise chunkstate.Changed from error
    except FileNotFoundError as error:
        raise chunkstate.Changed from error
    finally:
        if not node.closed:
            with contextlib.suppress(psycopg.Error):
                node.execute("ROLLBACK TO SAVEPOINT reading")
    return found


def _encode(
    catalog: Connection, node: Connection, state: State, settings: process_settings.Settings, *, merge: bool
) -> Ahead | None:
    if not stripes.has_work(node, state, merge=merge):
        return None
    filenode = _filenode(node, state)
    source = state.partition
    origins: tuple[scans.Column, ...] = (_TID,)
    if merge and state.stripes:
        _stage(node, state, settings)
        source, origins = _TABLE, (_TID, _STRIPE, _ROW)
    names = "ctid" if source == state.partition else _NAMES
    made, tables = stripes.write(
        catalog, node, state, settings, source, merge=merge, origins=origins, origin_names=names
    )
    heap: list[tuple[_Numbers, _Numbers]] = []
    striped: list[tuple[_Numbers, _Numbers]] = []
    for number, table in enumerate(tables):
        places = (np.int64(number) << _ROW_BITS) + np.arange(table.num_rows, dtype=np.int64)
        tids = table.column(0).combine_chunks()
        from_heap = tids.is_valid().to_numpy(zero_copy_only=False)
        heap.append((_tids(tids.drop_null()), places[from_heap]))
        if len(origins) > 1:
            ids = table.column(1).drop_null().to_numpy().astype(np.int64)
            rows = table.column(2).drop_null().to_numpy().astype(np.int64)
            striped.append(((ids << _ROW_BITS) | rows, places[~from_heap]))
    return Ahead(made, filenode, _sorted(heap), _sorted(striped))


def _stage(node: Connection, state: State, settings: process_settings.Settings) -> None:
    """All rows of the chunk with their origins in a temporary table, older ones first."""
    columns = state.definition.columns
    names = ", ".join(definitions.quote(column.name) for column in columns)
    rows = (
        f"SELECT {names}, ctid AS {definitions.quote(_TID.name)}, NULL::bigint AS {definitions.quote(_STRIPE.name)},"
        f" NULL::integer AS {definitions.quote(_ROW.name)} FROM {state.partition}"
    )
    node.execute(f"CREATE TEMP TABLE orochi_ahead AS {rows} WITH NO DATA".encode())
    wanted = tuple(scans.Column.of(column) for column in columns)
    scan = scans.Scan("orochi_scan_0", state.partition, wanted, state.stripes)
    deleted = stripe_rows.deleted_rows(node, iter((scan,)))
    target = f'{names}, "orochi stripe", "orochi row"'
    with (
        node.cursor() as cursor,
        cursor.copy(f"COPY {_TABLE} ({target}) FROM STDIN (FORMAT binary)".encode()) as copy,
    ):
        copy.write(copybinary.HEADER)
        for batch in stripe_rows.read_stripes(scan, settings.stripe_dir, with_row_ids=True):
            kept = _live(batch, deleted)
            if kept.num_rows:
                copy.write(copybinary.encode(kept, (*wanted, _STRIPE, _ROW), header=False, trailer=False))
        copy.write(copybinary.TRAILER)
    node.execute(f"INSERT INTO {_TABLE} {rows}".encode())


def _live(batch: pa.RecordBatch, deleted: dict[int, npt.NDArray[np.int32]]) -> pa.RecordBatch:
    """A stripe's batch without its deleted rows."""
    if not batch.num_rows:
        return batch
    numbers = deleted.get(batch.column(batch.num_columns - 2)[0].as_py())
    if numbers is None:
        return batch
    gone = np.isin(batch.column(batch.num_columns - 1).to_numpy(), numbers)
    return batch.filter(pa.array(~gone)) if gone.any() else batch


def check(ahead: Ahead, state: State) -> None:
    """That a chunk is what it was when it was read, but for its rows.

    Raises:
        Changed: it is not.
    """
    former = ahead.made.state
    if dataclasses.replace(state, layout=former.layout, tier=former.tier) != former:
        raise chunkstate.Changed


def caught_up(ahead: Ahead, reader: Reader, node: Connection, state: State) -> Delta:
    """What differs from what was read, with everybody kept out of the chunk.

    Args:
        ahead: the new stripes, checked against `state`.
        reader: read them, and still holds its snapshot.
        node: the transaction that has the locks.
        state: the chunk under them.

    Raises:
        Changed: what was read is of no use any more.
    """
    stored = _stored(state)
    names = ", ".join(definitions.quote(column.name) for column in stored)
    is_recent = f"age(xmin) <= age('{reader.horizon}'::xid)"
    row = node.execute(
        f"SELECT count(*), count(*) FILTER (WHERE {is_recent}), pg_relation_filenode(%s::regclass)"
        f" FROM ONLY {state.partition}".encode(),
        (state.partition,),
    ).fetchone()
    assert row is not None
    if reader.node.closed or row[2] != ahead.filenode:
        raise chunkstate.Changed
    recent = None
    if row[1]:
        recent = _read(
            node, f"SELECT ctid, {names} FROM ONLY {state.partition} WHERE {is_recent}", (_TID, *stored)
        )
    tids, places = ahead.heap
    came = None
    if recent is not None:
        new = ~np.isin(_tids(recent.column(0)), tids)
        came = recent.select(range(1, recent.num_columns)).filter(pa.array(new)) if new.any() else None
    gone = [_deleted(ahead, node)]
    if row[0] - (came.num_rows if came is not None else 0) != len(tids):
        left = _read(node, f"SELECT ctid FROM ONLY {state.partition}", (_TID,))
        there = _tids(left.column(0)) if left is not None else np.empty(0, np.int64)
        gone.append(places[~np.isin(tids, there)])
    return Delta(came, np.concatenate(gone))


def put_back(ahead: Ahead, delta: Delta, node: Connection, state: State) -> None:
    """After the heap was emptied: the rows that came, and what is void in the new stripes."""
    if delta.came is not None:
        stored = _stored(state)
        names = ", ".join(definitions.quote(column.name) for column in stored)
        chunkstate.moving(node)
        with (
            node.cursor() as cursor,
            cursor.copy(f"COPY {state.partition} ({names}) FROM STDIN (FORMAT binary)".encode()) as copy,
        ):
            copy.write(copybinary.encode(delta.came, stored))
    if len(delta.gone):
        ids = np.array([stripe_id for stripe_id, _, _ in ahead.made.written], np.int64)
        node.execute(
            "INSERT INTO orochi_data.delete_vectors (stripe_id, row_number) SELECT * FROM unnest(%s::int8[], %s::int4[])",
            (
                ids[delta.gone >> _ROW_BITS].tolist(),
                (delta.gone & ((1 << _ROW_BITS) - 1)).tolist(),
            ),
        )


def _stored(state: State) -> tuple[scans.Column, ...]:
    return tuple(scans.Column.of(column) for column in state.definition.columns if not column.generated)


def _deleted(ahead: Ahead, node: Connection) -> _Numbers:
    """Places of rows that were deleted from the former stripes since."""
    origins, places = ahead.striped
    if not len(origins):
        return np.empty(0, np.int64)
    rows = node.execute(
        "SELECT stripe_id, row_number FROM orochi_data.delete_vectors WHERE stripe_id = ANY(%s)",
        ([stripe.stripe_id for stripe in ahead.made.state.stripes],),
    ).fetchall()
    deleted = np.array([(stripe_id << _ROW_BITS) | number for stripe_id, number in rows], np.int64)
    return places[np.isin(origins, deleted)]


def _filenode(node: Connection, state: State) -> int:
    row = node.execute("SELECT pg_relation_filenode(%s::regclass)", (state.partition,)).fetchone()
    assert row is not None
    return int(row[0])


def _read(node: Connection, query: str, columns: Sequence[scans.Column]) -> pa.RecordBatch | None:
    """The rows of a query; None if it has none."""
    decoder = copybinary.Decoder(columns)
    batches: list[pa.RecordBatch] = []
    with node.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT binary)".encode()) as copy:
        for data in stripes.pieces(copy):
            batches.extend(decoder.feed(data))
    batches.extend(decoder.finish())
    batches = [batch for batch in batches if batch.num_rows]
    if not batches:
        return None
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def _tids(values: pa.Array) -> _Numbers:
    """Places in a heap as numbers that order like them."""
    if not len(values):
        return np.empty(0, np.int64)
    offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset :]
    data = np.frombuffer(values.buffers()[2], np.uint8)[offsets[0] : offsets[len(values)]]
    raw = data.view(np.dtype([("block", ">u4"), ("line", ">u2")]))
    return (raw["block"].astype(np.int64) << _LINE_BITS) | raw["line"].astype(np.int64)


def _sorted(parts: Sequence[tuple[_Numbers, _Numbers]]) -> tuple[_Numbers, _Numbers]:
    """Origins and places of all parts, by origin."""
    join = functools.partial(np.concatenate, dtype=np.int64)
    origins = join([part for part, _ in parts] or [np.empty(0, np.int64)])
    places = join([part for _, part in parts] or [np.empty(0, np.int64)])
    order = np.argsort(origins, kind="stable")
    return origins[order], places[order]
