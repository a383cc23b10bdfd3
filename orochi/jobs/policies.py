"""What retention and compression policies do: they find chunks past their age, and call what a user would call.

They act through the gateway, so that locks, stale plans and invalidations are those of a user's call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orochi import errors

if TYPE_CHECKING:
    from orochi.jobs import running

_OLD = """
SELECT c.range_end, count(*), coalesce(sum(c.row_count), 0)::int8, coalesce(sum(c.size_bytes), 0)::int8
FROM orochi.orochi_shards s JOIN orochi.orochi_chunks c USING (shard_id)
WHERE s.table_oid = %(table)s AND c.range_end <= orochi._policy_boundary(%(table)s::oid::regclass, %(age)s)
GROUP BY c.range_end ORDER BY c.range_end
"""
_UNCOMPRESSED = """
SELECT c.range_start, array_agg(orochi._chunk_name(c.chunk_id) ORDER BY c.chunk_id), sum(c.row_count)::int8
FROM orochi.orochi_shards s JOIN orochi.orochi_chunks c USING (shard_id)
WHERE s.table_oid = %(table)s AND c.row_count > 0 AND c.tier NOT IN ('cold', 'frozen')
  AND c.range_end <= orochi._policy_boundary(%(table)s::oid::regclass, %(age)s)
  AND NOT EXISTS (SELECT FROM orochi.orochi_stripes f WHERE f.chunk_id = c.chunk_id)
GROUP BY c.range_start ORDER BY c.range_start
"""
_SIZES = """
SELECT coalesce(sum(f.size_bytes), 0)::int8 FROM orochi.orochi_stripes f
WHERE orochi._chunk_name(f.chunk_id) = ANY(%s)
"""
#: Ranges dropped by one statement, whose transaction locks their table.
_DROPPED_TOGETHER = 16


def drop_old_chunks(run: running.Run) -> None:
    """Drop the chunks that are older than the policy's `drop_after`, the oldest first."""
    with run.catalog() as catalog:
        found = catalog.execute(_OLD, {"table": run.table_oid, "age": _age(run, "drop_after")}).fetchall()
    total, done = sum(int(chunks) for _, chunks, _, _ in found), 0
    run.note(chunks=total)
    run.progress(0, total, "chunks")
    if not found:
        return
    with run.gateway() as gateway:
        gateway.execute("SET timezone = 'UTC'")
        for at in range(0, len(found), _DROPPED_TOGETHER):
            run.check()
            part = found[at : at + _DROPPED_TOGETHER]
            gateway.execute(_drop_sql(run.table_oid, int(part[-1][0])).encode())
            for _, chunks, rows, size in part:
                done += chunks
                run.count(rows=rows, bytes=size)
            run.progress(done, total, "chunks")


def _drop_sql(table_oid: int, boundary: int) -> str:
    return f"SELECT drop_chunks({table_oid}::oid::regclass, older_than => orochi._raw_value({table_oid}, {boundary}))"


def compress_old_chunks(run: running.Run) -> None:
    """Compress the chunks that are older than the policy's `compress_after` and are not, a range after the other."""
    with run.catalog() as catalog:
        age = _age(run, "compress_after")
        found = catalog.execute(_UNCOMPRESSED, {"table": run.table_oid, "age": age}).fetchall()
    total, done = sum(len(chunks) for _, chunks, _ in found), 0
    run.note(chunks=total)
    run.progress(0, total, "chunks")
    if not found:
        return
    with run.gateway() as gateway:
        for _, chunks, rows in found:
            run.check()
            gateway.execute("SELECT compress_chunk(name) FROM unnest(%s::text[]) AS name", (chunks,))
            with run.catalog() as catalog:
                row = catalog.execute(_SIZES, (chunks,)).fetchone()
            done += len(chunks)
            run.count(rows=int(rows), bytes=int(row[0]) if row else 0)
            run.progress(done, total, "chunks")


def _age(run: running.Run, name: str) -> str:
    age = run.config.get(name)
    if age is None:
        raise errors.InvalidParameter(f"the configuration of job {run.job_id} has no {name}")
    return str(age)
