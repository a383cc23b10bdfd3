"""What a client hears while its rows are moved to shards: a NOTICE at the start, and one for each part of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

from orochi.catalog import definition as definitions
from orochi.executor import context

#: Told how many bytes were read since the last time.
Report: TypeAlias = Callable[[int], Awaitable[None]]
_STEP = 256 << 20
_MIB = 1 << 20


async def migration(session: context.Session, sink: context.Sink, shell: definitions.Definition) -> Report:
    """Say that the table's rows are about to be moved; what is to be told how far that is."""
    result = await session.coordinator.fetch(f"SELECT pg_catalog.pg_table_size({shell.oid}::regclass)")
    total = int(result.rows[0][0] or b"0")
    await sink.notice(
        "migrating data to chunks", hint="Migration might take a while depending on the amount of data."
    )
    done = said = 0

    async def report(size: int) -> None:
        nonlocal done, said
        done += size
        if done - said >= _STEP:
            said = done
            await sink.notice(f"migrated {done // _MIB} MB of a table of {total // _MIB} MB")

    return report


async def watched(source: AsyncIterator[bytes], report: Report) -> AsyncIterator[bytes]:
    """The same data, reported on."""
    async for data in source:
        await report(len(data))
        yield data
