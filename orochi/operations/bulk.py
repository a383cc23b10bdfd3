"""Large loads straight into stripes: rows gather by chunk, become files on the chunk's node, and appear at commit.

Files are written by the nodes' maintenance workers while rows still come. Nobody knows of them until the
client's transaction has entered them into the catalog, under the lock on their shards, and has renamed the
shards' schemas, so that no plan made before it is used after it. A shard that gets a stripe gets all of
the load's rows in stripes, so a reader of that shard sees all of them or none.

An open load holds an advisory lock: files without a catalog row are swept only while there is none.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from orochi import errors
from orochi.catalog import definition as definitions
from orochi.catalog import snapshot as snapshots
from orochi.engine import coded, copybinary
from orochi.executor import context, names
from orochi.operations import again, load_target, redistribute, routing, shells, writes
from orochi.timeseries import cells, direct, stripes

log = structlog.get_logger()

#: Fewer rows than these, of one load, in one chunk are not worth a stripe.
ENOUGH_ROWS = 10_000
#: Rows held back in the gateway, in bytes, before the largest part of them must go.
_HELD_BYTES = 128 << 20
#: Files being written at a time, for each node that writes.
_IN_FLIGHT = 2
_TIMEOUT_SECONDS = 3600.0
_ATTEMPTS = 40
#: In a block that wrote before, where what a failed attempt wrote is undone to.
_START = "orochi: start of the rows"
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.02, 0.5
#: What a heap takes for a row beside its values: tuple header and line pointer.
_HEAP_ROW_BYTES = 28
_PUBLISHED_AT_ONCE = 100

#: A bucket: the shard's position and the range of the chunk, None for rows that no chunk takes.
_Key = tuple[int, int | None]


class Load:
    """One load. `add` its rows, then `finish`; `close` in any case."""

    def __init__(self, session: context.Session, wanted: load_target.Target) -> None:
        self.rows = 0
        self._session = session
        self._target = wanted
        self._table = wanted.table
        self._columns = tuple((column.name, column.base_oid) for column in wanted.columns)
        dimension = self._table.dimension
        time_column = dimension.column if dimension else None
        unsaid = not self._table.segmentby and not self._table.orderby
        self._request = direct.Request(
            load=secrets.token_hex(8),
            path="",
            columns=self._columns,
            order=direct.sort_keys(self._table.segmentby, self._table.orderby, time_column),
            options=wanted.options,
            time_column=time_column if unsaid else None,
            indexed=tuple(sorted(stripes.indexed_series(wanted.shell, time_column)))
            if time_column is not None
            else (),
            cuts=tuple(
                cells.Cut(further.column, further.type_oid, further.interval)
                for further in self._table.further
            ),
        )
        self._limit = stripes.write_options(wanted.options).stripe_row_limit
        self._held: dict[_Key, list[pa.RecordBatch]] = {}
        self._rows: dict[_Key, int] = {}
        self._sizes: dict[_Key, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._written: list[dict[str, Any]] = []

    @property
    def table(self) -> snapshots.Table:
        """The table as it is known now."""
        return self._table

    @property
    def columns(self) -> tuple[snapshots.Column, ...]:
        """The columns that its rows have, in order."""
        return self._target.columns

    def renew(self) -> None:
        """Chunks were made: look at the catalog anew."""
        self._table = self._session.snapshot().tables.get(self._table.oid, self._table)

    async def add(self, batch: pa.RecordBatch) -> None:
        """Take rows: all columns of the table, in its order, in carrier form or as codes for it."""
        if not batch.num_rows:
            return
        if self._table.dimension is not None:
            times = batch.column(self._position(self._table.dimension.column))
            self._table = await routing.ensure_chunks(
                self._session, self._table, times.drop_null().to_numpy(zero_copy_only=False)
            )
        row_bytes = coded.held_bytes(batch) / batch.num_rows
        for key, part in await asyncio.to_thread(self._split, batch):
            self._held.setdefault(key, []).append(part)
            self._rows[key] = self._rows.get(key, 0) + part.num_rows
            self._sizes[key] = self._sizes.get(key, 0) + int(row_bytes * part.num_rows)
            if self._rows[key] >= self._limit and key[1] is not None:
                await self._send(key)
        self.rows += batch.num_rows
        while sum(self._sizes.values()) > _HELD_BYTES:
            await self._send(max(self._sizes, key=self._sizes.__getitem__))

    async def finish(self) -> None:
        """Write what is left, and have all of it in the transaction."""
        begun = {item["shard"] for item in self._written} | self._in_flight()
        begun |= {key[0] for key, rows in self._rows.items() if rows >= ENOUGH_ROWS and key[1] is not None}
        for key in [key for key in self._held if key[0] in begun and key[1] is not None]:
            await self._send(key)
        while self._tasks:
            await self._settle(asyncio.ALL_COMPLETED)
        if self._written:
            try:
                await self._publish()
                await self._write_heaps()
            except errors.OrochiError as error:
                if not writes.is_stale(error):
                    raise
                raise self._changed() from error
        elif self._held:
            await self._write_heaps_again()

    async def close(self) -> None:
        """Stop what is still being written."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- rows to buckets ---------------------------------------------------------------------------

    def _position(self, name: str) -> int:
        return next(at for at, (column, _) in enumerate(self._columns) if column == name)

    def _split(self, batch: pa.RecordBatch) -> list[tuple[_Key, pa.RecordBatch]]:
        """The rows by shard and chunk, in their order."""
        table = self._table
        keys = None
        if table.distribution_column is not None:
            keys = batch.column(self._position(table.distribution_column))
        shards = self._shards(keys, batch.num_rows)
        if table.dimension is None:
            ranges: npt.NDArray[np.int64] | int = 0
            starts = [chunk.range_start for chunk in table.shards[0].chunks]
        else:
            held = table.shards[0].chunks
            starts = [chunk.range_start for chunk in held]
            ranges = _places(held, starts, batch.column(self._position(table.dimension.column)))
        width = len(starts) + 1
        destinations = shards * width + ranges + 1
        first = int(destinations[0])
        if (destinations == first).all():
            return [(self._key(first, width, starts), batch)]
        if len(table.shards) * width < 1 << 16:
            destinations = destinations.astype(np.uint16)  # numpy sorts these in linear time
        order = np.argsort(destinations, kind="stable")
        ordered = destinations[order]
        cuts = np.flatnonzero(np.diff(ordered)) + 1
        rows = pc.take(batch, pa.array(order), boundscheck=False)
        parts = []
        for begin, end in zip([0, *cuts.tolist()], [*cuts.tolist(), batch.num_rows], strict=True):
            key = self._key(int(ordered[begin]), width, starts)
            parts.append((key, rows.slice(begin, end - begin)))
        return parts

    def _shards(self, keys: pa.Array | None, count: int) -> npt.NDArray[np.int64]:
        """For each row the position of its shard; that of a word is computed once."""
        if keys is None or not pa.types.is_dictionary(keys.type) or keys.null_count or not count:
            return routing.shard_indexes(self._table, None if keys is None else coded.plain(keys), count)
        words = keys.dictionary
        found = routing.shard_indexes(self._table, words, len(words))
        chosen: npt.NDArray[np.int64] = found[keys.indices.to_numpy()]
        return chosen

    @staticmethod
    def _key(destination: int, width: int, starts: Sequence[int]) -> _Key:
        shard, place = divmod(destination, width)
        return shard, starts[place - 1] if place else None

    def _chunk(self, key: _Key) -> snapshots.Chunk | None:
        return next((c for c in self._table.shards[key[0]].chunks if c.range_start == key[1]), None)

    # --- buckets to files --------------------------------------------------------------------------

    def _in_flight(self) -> set[int]:
        return {int(task.get_name()) for task in self._tasks}

    async def _send(self, key: _Key) -> None:
        """Have a bucket written; waits while too many are."""
        nodes = {shard.node_id for shard in self._table.shards}
        while len(self._tasks) >= _IN_FLIGHT * len(nodes):
            await self._settle(asyncio.FIRST_COMPLETED)
        chunk = self._chunk(key)
        if chunk is None:
            raise self._changed()
        batches = self._held.pop(key)
        self._rows.pop(key)
        self._sizes.pop(key)
        self._tasks.add(asyncio.create_task(self._write(key[0], chunk, batches), name=str(key[0])))

    async def _settle(self, when: str) -> None:
        done, self._tasks = await asyncio.wait(self._tasks, return_when=when)
        for task in done:
            task.result()

    async def _write(self, position: int, chunk: snapshots.Chunk, batches: list[pa.RecordBatch]) -> None:
        shard = self._table.shards[position]
        path = f"s{shard.shard_id}/c{chunk.chunk_id}_{secrets.token_hex(4)}"
        request = dataclasses.replace(self._request, path=path)
        batches = coded.alike(batches)
        answer = await self._session.runtime.transport.run_task(
            shard.node_id,
            names.WRITE_STRIPES,
            request.to_json(),
            timeout=_TIMEOUT_SECONDS,
            inputs={(names.ROWS, None): batches},
        )
        for item in answer["stripes"]:
            place = {"shard": position, "chunk_id": int(chunk.chunk_id), "node_id": int(shard.node_id)}
            heap_bytes = item["raw_bytes"] + _HEAP_ROW_BYTES * item["row_count"]
            self._written.append({**item, **place, "heap_bytes": heap_bytes})

    # --- files to the catalog ----------------------------------------------------------------------

    async def _publish(self) -> None:
        """Enter the files into the catalog, in the client's transaction."""
        session, table = self._session, self._table
        positions = sorted({item["shard"] for item in self._written} | {key[0] for key in self._held})
        before = [table.shards[position] for position in positions]
        await shells.bump_layouts(session, before)
        fresh = session.snapshot().tables.get(table.oid)
        now = {} if fresh is None else {shard.shard_id: shard for shard in fresh.shards}
        known = {chunk.chunk_id for shard in now.values() for chunk in shard.chunks}
        if (
            fresh is None
            or any(now.get(shard.shard_id) is None for shard in before)
            or any(now[shard.shard_id].node_ids != shard.node_ids for shard in before)
            or any(item["chunk_id"] not in known for item in self._written)
        ):
            raise self._changed()
        self._table = fresh
        work: dict[int, list[str]] = {}
        for shard in (now[shard.shard_id] for shard in before):
            old = definitions.quote(f"orochi_s{shard.shard_id}_{shard.layout - 1}")
            work.setdefault(shard.node_id, []).append(
                f"ALTER SCHEMA {old} RENAME TO {definitions.quote(shard.schema)}"
            )
        await shells.run_on_nodes(session, work)
        for at in range(0, len(self._written), _PUBLISHED_AT_ONCE):
            await self._enter(self._written[at : at + _PUBLISHED_AT_ONCE])
        await session.catalog_changed()
        session.transaction.after_commit.append(self._refresh)

    def _changed(self) -> errors.SerializationFailure:
        return errors.SerializationFailure(
            f'shards or chunks of "{self._table.name}" were changed during the load',
            hint="Run the load again.",
        )

    async def _refresh(self) -> None:
        try:
            await self._session.runtime.refresh()
        except errors.OrochiError as error:
            log.warning("load.not_refreshed", error=error.message)

    async def _enter(self, items: Sequence[Mapping[str, Any]]) -> None:
        ids = await self._session.catalog_execute(
            f"SELECT nextval('orochi.orochi_stripe_id_seq') FROM pg_catalog.generate_series(1, {len(items)})"
        )
        files, chunks = [], []
        time_column = self._table.dimension.column if self._table.dimension is not None else None
        for (stripe_id,), item in zip(ids, items, strict=True):
            number = int(str(stripe_id))
            fields = ("chunk_id", "node_id", "path", "row_count", "size_bytes", "heap_bytes")
            times = stripes.times_of(item["chunks"], time_column)
            files.append([number, *(item[field] for field in fields), *times])
            chunks += [[number, *chunk] for chunk in item["chunks"]]
        await self._session.catalog_execute(
            f"INSERT INTO orochi.orochi_stripes (stripe_id, {stripes.STRIPE_COLUMNS})"
            " SELECT (r ->> 0)::bigint, (r ->> 1)::bigint, (r ->> 2)::int, r ->> 3, (r ->> 4)::bigint,"
            " (r ->> 5)::bigint, (r ->> 6)::bigint, (r ->> 7)::bigint, (r ->> 8)::bigint"
            f" FROM {_rows(files)} r;"
            f" INSERT INTO orochi.orochi_column_chunks (stripe_id, {stripes.CHUNK_COLUMNS})"
            " SELECT (r ->> 0)::bigint, r ->> 1, (r ->> 2)::int, (r ->> 3)::bigint, (r ->> 4)::bigint, r ->> 5,"
            f" r ->> 6, r ->> 7, r ->> 8, (r ->> 9)::bigint FROM {_rows(chunks)} r;"
            " UPDATE orochi.orochi_chunks c SET row_count = c.row_count + n.loaded, size_bytes = c.size_bytes + n.size FROM"
            " (SELECT (r ->> 1)::bigint AS chunk_id, sum((r ->> 4)::bigint) AS loaded, sum((r ->> 5)::bigint) AS size"
            f" FROM {_rows(files)} r GROUP BY 1) n WHERE n.chunk_id = c.chunk_id"
        )

    # --- what stays rows ---------------------------------------------------------------------------

    async def _write_heaps_again(self) -> None:
        """The same where nothing else was written, so that a layout changed meanwhile may be met anew."""
        start = await again.Start.here(self._session, _START)
        for attempt in range(_ATTEMPTS):
            try:
                await self._write_heaps()
                await start.done()
                return
            except errors.OrochiError as error:
                if not writes.is_stale(error):
                    raise
                if not start.can_go_back or attempt == _ATTEMPTS - 1:
                    raise errors.SerializationFailure(
                        "the layout of a shard changed while rows were loaded",
                        hint="Run the transaction again.",
                    ) from error
            await start.back()
            await asyncio.sleep(min(_PAUSE_SECONDS * 2**attempt, _LONGEST_PAUSE_SECONDS))
            await self._session.runtime.refresh()
            if self._session.catalog_is_own:
                await self._session.catalog_changed()
            fresh = self._session.snapshot().tables.get(self._table.oid)
            if fresh is None or len(fresh.shards) != len(self._table.shards):
                raise self._changed()
            self._table = fresh

    async def _write_heaps(self) -> None:
        work: dict[int, list[Callable[[], Awaitable[None]]]] = {}
        for (position, _), batches in self._held.items():
            shard = self._table.shards[position]
            work.setdefault(shard.node_id, []).append(self._heap_job(shard, batches))
        if work:
            await writes.per_node(work)

    def _heap_job(
        self, shard: snapshots.Shard, batches: Sequence[pa.RecordBatch]
    ) -> Callable[[], Awaitable[None]]:
        async def job() -> None:
            connection = await self._session.transaction.node(shard.node_id, write=True)
            outputs = [_Output(name, oid) for name, oid in self._columns]
            pieces = [
                copybinary.encode(coded.plain_batch(batch), outputs, header=False, trailer=False)
                for batch in batches
            ]
            relation = routing.relation(self._table, shard)
            await redistribute.copy_in(connection, relation, [name for name, _ in self._columns], pieces)

        return job


@dataclasses.dataclass(frozen=True, slots=True)
class _Output:
    name: str
    type_oid: int


def _places(
    held: Sequence[snapshots.Chunk], starts: Sequence[int], column: pa.Array
) -> npt.NDArray[np.int64] | int:
    """For each time the place of its chunk, -1 if it has none; one number if all have the same."""
    times = column.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
    if not column.null_count and (only := routing.only_chunk(held, times)) is not None:
        return only
    covered = routing.covered(held, times) & np.asarray(column.is_valid())
    return np.where(covered, np.searchsorted(np.array(starts, np.int64), times, side="right") - 1, -1)


def _rows(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as SQL that no value in them can be part of."""
    digits = json.dumps(rows).encode().hex()
    return (
        "pg_catalog.json_array_elements(pg_catalog.convert_from("
        f"pg_catalog.decode('{digits}', 'hex'), 'UTF8')::json)"
    )


async def load_relation(
    session: context.Session, load: Load, relation: str, columns: Sequence[snapshots.Column], skip: int = 0
) -> None:
    """Add all rows of a relation that the coordinator connection can read, less the first `skip`."""
    listed = ", ".join(definitions.quote(column.name) for column in columns)
    await redistribute.make_chunks_for(session, load.table, relation)
    load.renew()
    decoder = copybinary.Decoder([_Output(column.name, column.base_oid) for column in columns])
    tail = f" OFFSET {skip}" if skip else ""
    stream: AsyncIterator[bytes] = session.coordinator.copy_out(
        f"COPY (SELECT {listed} FROM {relation}{tail}) TO STDOUT (FORMAT binary)"
    )
    async for data in stream:
        for batch in decoder.feed(data):
            await load.add(batch)
    for batch in decoder.finish():
        await load.add(batch)


async def from_relation(session: context.Session, wanted: load_target.Target, relation: str) -> int:
    """Load all rows of a relation that the coordinator connection can read; how many they were."""
    loading = Load(session, wanted)
    try:
        await load_relation(session, loading, relation, wanted.columns)
        await loading.finish()
    finally:
        await loading.close()
    return loading.rows
