"""Policies: which chunks a compression policy wants compressed now, and who takes a due run.

A run is claimed by inserting a row that is unique for the job's due time, so that two schedulers
run a job once.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import psycopg

Connection = psycopg.Connection[Any]

COMPRESSION = "compression"

_DUE_CHUNKS = """
SELECT p.node_id, c.chunk_id
FROM orochi.orochi_jobs j
JOIN orochi.orochi_shards s ON s.table_oid = j.table_oid
JOIN orochi.orochi_shard_placements p ON p.shard_id = s.shard_id AND p.ordinal = 0
JOIN orochi.orochi_chunks c ON c.shard_id = s.shard_id
WHERE j.job_id = %s AND c.tier = 'hot' AND c.row_count > 0
  AND c.range_end <= orochi._boundary(j.table_oid::regclass, (j.config ->> 'compress_after'))
  AND NOT EXISTS (SELECT FROM orochi.orochi_stripes f WHERE f.chunk_id = c.chunk_id)
ORDER BY c.range_start, c.chunk_id
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """A claimed run of a job."""

    run_id: int
    job_id: int
    kind: str
    table_oid: int


def claim_due(catalog: Connection, kind: str) -> list[Run]:
    """Take all due runs of that kind of job; their next due time moves on."""
    with catalog.transaction():
        rows = catalog.execute(
            "WITH due AS ("
            "  SELECT job_id, kind, table_oid, next_due FROM orochi.orochi_jobs"
            "  WHERE kind = %s AND enabled AND next_due <= now() FOR UPDATE SKIP LOCKED),"
            " moved AS ("
            "  UPDATE orochi.orochi_jobs j SET next_due = now() + j.schedule_interval"
            "  FROM due WHERE due.job_id = j.job_id),"
            " runs AS ("
            "  INSERT INTO orochi.orochi_job_runs (job_id, due_at) SELECT job_id, next_due FROM due"
            "  ON CONFLICT (job_id, due_at) DO NOTHING RETURNING run_id, job_id)"
            " SELECT runs.run_id, due.job_id, due.kind, due.table_oid::bigint FROM runs JOIN due USING (job_id)",
            (kind,),
        ).fetchall()
    return [Run(*row) for row in rows]


def finish(catalog: Connection, run: Run, error: str | None = None) -> None:
    """Record how a run ended."""
    catalog.execute(
        "UPDATE orochi.orochi_job_runs SET finished_at = now(), state = %s, message = %s WHERE run_id = %s",
        ("failed" if error else "succeeded", error, run.run_id),
    )


def chunks_to_compress(catalog: Connection, run: Run) -> list[tuple[int, int]]:
    """(node, chunk) of every chunk that the policy of `run` wants compressed and that is not."""
    return [(int(node), int(chunk)) for node, chunk in catalog.execute(_DUE_CHUNKS, (run.job_id,)).fetchall()]
