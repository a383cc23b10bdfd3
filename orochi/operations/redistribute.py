"""A binary COPY stream split to shards: every row lands in exactly the shard of its hash.

Rows are cut apart and hashed in bulk, held per shard up to a bound, and written by COPY over the
transaction's own node connections, all nodes at once. Chunks are made before rows for them are
written. Nothing here commits.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orochi import errors, pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.engine import copybinary
from orochi.executor import context
from orochi.operations import recall, routing, writes
from orochi.pgwire import client
from orochi.planner import quoting
from orochi.sharding import values

#: Bytes of rows held back before they are written.
BUFFER_BYTES = 16 << 20

#: Names the relation, on the shard's node, that a shard's rows are written to.
Into = Callable[[snapshots.Shard, client.PgConnection], Awaitable[str]]


@dataclasses.dataclass(slots=True)
class Loaded:
    """How many rows went where: `destinations` has each row's shard position, in stream order."""

    rows: int = 0
    destinations: list[npt.NDArray[np.int64]] = dataclasses.field(default_factory=list)

    def positions(self, shard: int) -> list[int]:
        """The positions in the stream of the rows that went to the shard at that position."""
        whole = np.concatenate(self.destinations) if self.destinations else np.empty(0, np.int64)
        return [int(at) for at in np.flatnonzero(whole == shard)]


async def load(
    session: context.Session,
    table: snapshots.Table,
    stream: AsyncIterator[bytes],
    columns: Sequence[str] | None = None,
    *,
    into: Into | None = None,
    trace: bool = False,
) -> Loaded:
    """Write all rows of a binary COPY stream into the shards of `table`.

    Args:
        session: the client's session; rows go through its transaction.
        table: where they go.
        stream: binary COPY data, cut anywhere.
        columns: the stream's columns, in order; by default all but generated ones.
        into: names another relation on the node to write a shard's rows to.
        trace: remember every row's destination.

    Raises:
        OrochiError: PostgreSQL refused a row; the transaction must be rolled back.
    """
    if columns is None:
        columns = [column.name for column in routing.stored_columns(table)]
    work = _Load(session, table, columns, into, trace)
    async for data in stream:
        await work.feed(data)
    return await work.finish()


async def load_relation(
    session: context.Session,
    table: snapshots.Table,
    relation: str,
    columns: Sequence[str] | None = None,
    *,
    into: Into | None = None,
    trace: bool = False,
) -> Loaded:
    """Like `load`, of all rows of a relation that the client's coordinator connection can read."""
    if columns is None:
        columns = [column.name for column in routing.stored_columns(table)]
    await make_chunks_for(session, table, relation)
    listed = ", ".join(quoting.identifier(column) for column in columns)
    stream = session.coordinator.copy_out(f"COPY (SELECT {listed} FROM {relation}) TO STDOUT (FORMAT binary)")
    table = session.snapshot().tables.get(table.oid, table)
    return await load(session, table, stream, columns, into=into, trace=trace)


async def make_chunks_for(session: context.Session, table: snapshots.Table, relation: str) -> None:
    """Make the chunks for a relation's rows before they are read.

    While rows stream from the coordinator connection nothing else can be done on it.
    """
    dimension = table.dimension
    if dimension is None:
        return
    name, width = quoting.identifier(dimension.column), dimension.interval
    if dimension.type_oid == pgtypes.DATE:
        raw = f"({name} - DATE '2000-01-01')::numeric"
    elif dimension.type_oid in pgtypes.TIMES:
        raw = f"(extract(epoch FROM {name}) * 1000000)"
    else:
        raw = f"{name}::numeric"
    finite = f"pg_catalog.isfinite({name})" if dimension.type_oid in pgtypes.TIMES else f"{name} IS NOT NULL"
    # a stretch of one chunk's width lies in at most two chunks: those of its first and last row
    result = await session.coordinator.fetch(
        f"SELECT min({name}), max({name}) FROM {relation} WHERE {finite} "
        f"GROUP BY pg_catalog.floor({raw} / {width})",
        result_formats=(1,),
    )
    times = [
        value
        for row in result.rows
        for data in row
        if data is not None and isinstance(value := values.from_wire(dimension.type_oid, data, 1), int)
    ]
    await routing.ensure_chunks(session, table, times)


async def copy_in(
    connection: client.PgConnection, relation: str, columns: Sequence[str], pieces: Sequence[bytes]
) -> None:
    """Write rows (without header and trailer) into a node's relation.

    Raises:
        RemoteError: PostgreSQL's, without the line number, which counts lines of our stream.
    """
    names = ", ".join(quoting.identifier(column) for column in columns)
    listed = f" ({names})" if columns else ""
    try:
        await connection.copy_in(
            f"COPY {relation}{listed} FROM STDIN (FORMAT binary)",
            [copybinary.HEADER, *pieces, copybinary.TRAILER],
        )
    except errors.RemoteError as error:
        kept = {code: text for code, text in error.fields.items() if code != "W"}
        raise errors.RemoteError(kept) from error


class _Load:
    """One stream on its way."""

    def __init__(
        self,
        session: context.Session,
        table: snapshots.Table,
        columns: Sequence[str],
        into: Into | None,
        trace: bool,
    ) -> None:
        self._session = session
        self._table = table
        self._columns = tuple(columns)
        self._into = into
        self._trace = trace
        self._keys = _key_columns(table, self._columns)
        self._splitter = self._new_splitter()
        self._held: dict[int, list[bytes]] = {}
        self._later: list[bytes] = []
        self._size = 0
        self._result = Loaded()

    async def feed(self, data: bytes) -> None:
        """Take more of the stream."""
        for keys, rows in self._splitter.feed(data):
            await self._place(keys, rows)

    async def finish(self) -> Loaded:
        """Write what is left."""
        for keys, rows in self._splitter.finish():
            await self._place(keys, rows)
        later, self._later = self._later, []
        if later:
            again = self._new_splitter()
            for data in (copybinary.HEADER, *later):
                for keys, rows in again.feed(data):
                    await self._place(keys, rows)
            for keys, rows in again.finish():
                await self._place(keys, rows)
        await self._flush()
        return self._result

    def _new_splitter(self) -> copybinary.RowSplitter:
        keys = [(self._columns.index(name), oid) for name, oid in self._keys]
        return copybinary.RowSplitter(len(self._columns), keys)

    async def _place(self, arrays: tuple[pa.Array, ...], rows: copybinary.Rows) -> None:
        known = {name: array for (name, _), array in zip(self._keys, arrays, strict=True)}
        here = np.arange(rows.count)
        if self._table.dimension is not None:
            here = await self._with_chunks(known[self._table.dimension.column], rows)
            if len(here) < rows.count:
                known = {name: array.take(pa.array(here)) for name, array in known.items()}
        distribution = known.get(self._table.distribution_column or "")
        destinations = routing.shard_indexes(self._table, distribution, len(here))
        await self._recall(known, destinations)
        if self._trace:
            self._result.destinations.append(destinations)
        for position in np.unique(destinations):
            data = rows.take(here[destinations == position])
            self._held.setdefault(int(position), []).append(data)
            self._size += len(data)
        self._result.rows += len(here)
        if self._size >= BUFFER_BYTES:
            await self._flush()

    async def _with_chunks(self, times: pa.Array, rows: copybinary.Rows) -> npt.NDArray[np.int64]:
        """Positions of the rows that can be written now; those without a chunk yet wait for the end."""
        if not self._session.coordinator.busy:
            await self._make_chunks(times.drop_null().to_numpy(zero_copy_only=False))
            return np.arange(rows.count)
        # the rows come from the very connection that making a chunk needs
        missing = ~routing.covered(
            self._table.shards[0].chunks, times.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        )
        missing &= np.asarray(times.is_valid())
        if missing.any():
            self._later.append(rows.take(np.flatnonzero(missing)))
        return np.flatnonzero(~missing)

    async def _make_chunks(self, times: npt.NDArray[Any]) -> None:
        before = self._table
        self._table = await routing.ensure_chunks(self._session, before, times)
        if [shard.shard_id for shard in self._table.shards] != [shard.shard_id for shard in before.shards]:
            raise errors.StalePlan(f'the shards of "{self._table.name}" changed while rows were written')

    async def _recall(self, known: dict[str, pa.Array], destinations: npt.NDArray[np.int64]) -> None:
        """Before rows with equal unique keys come: get the old ones out of stripes."""
        if not self._table.unique_keys or not any(shard.has_stripes for shard in self._table.shards):
            return
        for position in np.unique(destinations):
            shard = self._table.shards[int(position)]
            if shard.has_stripes:
                mask = pa.array(destinations == position)
                rows = {name: array.filter(mask) for name, array in known.items()}
                await recall.conflicting(self._session, self._table, shard, rows)

    async def _flush(self) -> None:
        held, self._held, self._size = self._held, {}, 0
        work: dict[int, list[Callable[[], Awaitable[None]]]] = {}
        for position, pieces in held.items():
            shard = self._table.shards[position]
            nodes = shard.node_ids if self._table.kind is snapshots.TableKind.REFERENCE else (shard.node_id,)
            for node_id in nodes:
                work.setdefault(node_id, []).append(functools.partial(self._write, node_id, shard, pieces))
        if work:
            await writes.per_node(work)

    async def _write(self, node_id: int, shard: snapshots.Shard, pieces: list[bytes]) -> None:
        connection = await self._session.transaction.node(node_id, write=True)
        relation = routing.relation(self._table, shard)
        if self._into is not None:
            relation = await self._into(shard, connection)
        await copy_in(connection, relation, self._columns, pieces)


def _key_columns(table: snapshots.Table, columns: Sequence[str]) -> list[tuple[str, int]]:
    """The columns that routing, and recall of unique keys, must read: name and base type."""
    names = [table.distribution_column, table.dimension.column if table.dimension is not None else None]
    if table.dimension is not None or any(shard.has_stripes for shard in table.shards):
        names += [name for key in table.unique_keys for name in key]
    found: dict[str, int] = {}
    for name in names:
        column = table.column(name or "")
        if column is not None and column.name in columns:
            # what is not carried as a number or text cannot be compared here anyway
            found[column.name] = column.base_oid
    if table.dimension is not None and table.dimension.column not in found:
        raise errors.OrochiError(f'no value for time column "{table.dimension.column}"')
    return list(found.items())
