"""Rows of earlier stages on their way to the fragments that read them.

The gateway writes them once a run, as Arrow files in the folder that workers of its host see. A
worker that does not see them says so, and they are put into Redis, whole, for it and all others.
Both stay until the run ends: a fragment that is sent again reads them again.
"""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import redis

from orochi.executor import exchange, names, redis_link, transport

#: Rows go into Redis in pieces of about this size.
_PIECE_BYTES = 4 << 20


class Missing(Exception):
    """Rows that a fragment reads are neither in a file nor in Redis."""


class Shipment:
    """The gateway's side: what one run's fragments read."""

    def __init__(
        self, link: redis_link.RedisLink, folder: exchange.SharedFolder, run_id: str, inputs: transport.Inputs
    ) -> None:
        self.missed = False
        self._link = link
        self._folder = folder
        self._run_id = run_id
        self._inputs = inputs
        self._uploaded = False

    async def publish(self) -> None:
        """Write the files."""
        if self._inputs:
            await asyncio.to_thread(self._write)

    async def upload_if_missed(self) -> None:
        """Put into Redis what is not there, if a worker said that it finds no file."""
        if not self.missed:
            return
        self.missed, self._uploaded = False, True
        for (stage, part), batches in self._inputs.items():
            key = names.input_key(self._run_id, stage, part)

            async def push(client: Any, key: str = key, batches: Sequence[pa.RecordBatch] = batches) -> None:
                if await client.exists(key):
                    return
                unfinished = f"{key}:part"
                await client.unlink(unfinished)
                for piece in _pieces(batches):
                    await client.rpush(unfinished, piece)
                await client.expire(unfinished, names.INPUT_TTL_SECONDS)
                await client.rename(unfinished, key)

            await self._link.call(push, redis_link.RUNNING_SECONDS)

    async def forget(self) -> None:
        """Delete what is in Redis; the files go with the run's others."""
        if not self._uploaded:
            return
        keys = [names.input_key(self._run_id, stage, part) for stage, part in self._inputs]

        async def unlink(client: Any) -> None:
            await client.unlink(*keys)

        await self._link.call(unlink, patience=0)

    def _write(self) -> None:
        for (stage, part), batches in self._inputs.items():
            path = file_of(self._folder, self._run_id, stage, part)
            unfinished = path.with_suffix(".arrow-part")
            with pa.OSFile(str(unfinished), "wb") as sink:
                _write_stream(sink, batches)
            unfinished.rename(path)


def file_of(folder: exchange.SharedFolder, run_id: str, stage: str, part: int | None) -> pathlib.Path:
    """Where the rows lie for workers that see the folder."""
    return folder.folder / f"{run_id}-{names.input_name(stage, part)}.arrow"


def _write_stream(sink: Any, batches: Sequence[pa.RecordBatch]) -> None:
    with pa.ipc.new_stream(sink, batches[0].schema if batches else pa.schema([])) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _pieces(batches: Sequence[pa.RecordBatch]) -> Iterator[bytes]:
    group: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        group.append(batch)
        size += batch.nbytes
        if size > _PIECE_BYTES:
            yield _stream(group)
            group, size = [], 0
    yield _stream(group)


def _stream(batches: Sequence[pa.RecordBatch]) -> bytes:
    sink = pa.BufferOutputStream()
    _write_stream(sink, batches)
    return bytes(sink.getvalue())


def read(
    client: redis.Redis, folder: exchange.SharedFolder | None, run_id: str, stage: str, part: int | None
) -> Iterator[pa.RecordBatch]:
    """A worker's side: the rows of a stage, or of one part of them.

    Raises:
        Missing: they are nowhere to be seen.
    """
    if folder is not None:
        path = file_of(folder, run_id, stage, part)
        if path.exists():
            with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
                yield from reader
            return
    key = names.input_key(run_id, stage, part)
    count = int(client.llen(key))
    if count == 0:
        raise Missing(key)
    for at in range(count):
        piece = client.lindex(key, at)
        if piece is None:
            raise Missing(key)
        with pa.ipc.open_stream(pa.py_buffer(piece)) as reader:
            yield from reader
