"""What retention and compression policies do: they find chunks past their age, and call what a user would call.

They act through the gateway, so that locks, stale plans and invalidations are those of a user's call.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import psycopg

from orochi import errors

if TYPE_CHECKING:
    from orochi.jobs import running

_OLD = """
SELECT array_agg(c.chunk_id), sum(c.row_count)::int8, sum(c.size_bytes)::int8
FROM (SELECT c.*, row_number() OVER (PARTITION BY c.shard_id ORDER BY c.range_start) AS place
      FROM orochi.orochi_shards s JOIN orochi.orochi_chunks c USING (shard_id)
      WHERE s.table_oid = %(table)s AND c.range_end <= orochi._policy_boundary(%(table)s::oid::regclass, %(age)s)) c
GROUP BY (place - 1) / %(together)s, c.shard_id ORDER BY min(c.range_start), c.shard_id
"""
# a new chunk may not have been counted yet
_UNCOMPRESSED = """
SELECT c.range_start, array_agg(orochi._chunk_name(c.chunk_id) ORDER BY c.chunk_id), sum(c.row_count)::int8
FROM orochi.orochi_shards s JOIN orochi.orochi_chunks c USING (shard_id)
WHERE s.table_oid = %(table)s AND (c.row_count > 0 OR c.created_at > now() - interval '10 minutes') AND c.tier NOT IN ('cold', 'frozen')
  AND c.range_end <= orochi._policy_boundary(%(table)s::oid::regclass, %(age)s)
  AND NOT EXISTS (SELECT FROM orochi.orochi_stripes f WHERE f.chunk_id = c.chunk_id)
GROUP BY c.range_start ORDER BY c.range_start
"""
_SIZES = """
SELECT coalesce(sum(f.size_bytes), 0)::int8 FROM orochi.orochi_stripes f
WHERE orochi._chunk_name(f.chunk_id) = ANY(%s)
"""
#: Chunks of one shard that one transaction drops.
_DROPPED_TOGETHER = 8
#: Ranges that are compressed together: each shard then gets one new layout, and its readers begin again once.
_COMPRESSED_TOGETHER = 8
#: Inserts that come while we wait for a shard wait behind us, so we wait briefly, and again.
_LOCK_TIMEOUT, _LOCK_TRIES, _LONGEST_PAUSE_SECONDS = "70ms", 60, 1.0


def drop_old_chunks(run: running.Run) -> None:
    """Drop the chunks that are older than the policy's `drop_after`, the oldest first, shard by shard."""
    values = {"table": run.table_oid, "age": _age(run, "drop_after"), "together": _DROPPED_TOGETHER}
    with run.catalog() as catalog:
        found = catalog.execute(_OLD, values).fetchall()
    total, done = sum(len(chunks) for chunks, _, _ in found), 0
    run.note(chunks=total)
    run.progress(0, total, "chunks")
    if not found:
        return
    with run.gateway() as gateway:
        gateway.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'".encode())
        for chunks, rows, size in found:
            run.check()
            _drop(run, gateway, chunks)
            done += len(chunks)
            run.count(rows=rows, bytes=size)
            run.progress(done, total, "chunks")


def _drop(run: running.Run, gateway: psycopg.Connection[Any], chunk_ids: Sequence[int]) -> None:
    listed = ", ".join(str(chunk_id) for chunk_id in chunk_ids)
    statement = (
        f"SELECT orochi._drop_chunks({run.table_oid}::oid::regclass, ARRAY[{listed}]::bigint[])".encode()
    )
    for attempt in range(_LOCK_TRIES):
        try:
            gateway.execute(statement)
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if attempt == _LOCK_TRIES - 1:
                raise
        time.sleep(min(0.05 * 2**attempt, _LONGEST_PAUSE_SECONDS) * random.uniform(0.5, 1))
        run.check()


def compress_old_chunks(run: running.Run) -> None:
    """Compress the chunks that are older than the policy's `compress_after` and are not, some ranges after others."""
    with run.catalog() as catalog:
        age = _age(run, "compress_after")
        found = catalog.execute(_UNCOMPRESSED, {"table": run.table_oid, "age": age}).fetchall()
    total, done = sum(len(chunks) for _, chunks, _ in found), 0
    run.note(chunks=total)
    run.progress(0, total, "chunks")
    if not found:
        return
    with run.gateway() as gateway:
        for at in range(0, len(found), _COMPRESSED_TOGETHER):
            ranges = found[at : at + _COMPRESSED_TOGETHER]
            run.check()
            if not _compress(gateway, [chunk for _, chunks, _ in ranges for chunk in chunks]):
                for _, chunks, _ in ranges:
                    _compress(gateway, chunks)
            for _, chunks, rows in ranges:
                with run.catalog() as catalog:
                    row = catalog.execute(_SIZES, (chunks,)).fetchone()
                done += len(chunks)
                run.count(rows=int(rows), bytes=int(row[0]) if row else 0)
            run.progress(done, total, "chunks")


def _compress(gateway: psycopg.Connection[Any], chunks: Sequence[str]) -> bool:
    """False if retention was here first, and has dropped one."""
    try:
        gateway.execute("SELECT compress_chunk(name) FROM unnest(%s::text[]) AS name", (list(chunks),))
    except psycopg.errors.UndefinedObject:
        return False
    return True


def _age(run: running.Run, name: str) -> str:
    age = run.config.get(name)
    if age is None:
        raise errors.InvalidParameter(f"the configuration of job {run.job_id} has no {name}")
    return str(age)
