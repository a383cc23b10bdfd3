"""What a tiering policy does: it decides for each chunk of its table, writes down why, and moves them one by one.

A chunk that cannot be moved does not keep the others from it; the run fails in the end, and says how many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import structlog

from orochi import errors
from orochi.tiered import decisions, tiers

if TYPE_CHECKING:
    from orochi.jobs import running

log = structlog.get_logger()

_KEPT = "90 days"
_CHUNKS = """
SELECT c.chunk_id, c.tier, c.range_end,
    c.row_count > coalesce((SELECT sum(f.row_count) FROM orochi.orochi_stripes f WHERE f.chunk_id = c.chunk_id), 0)
        OR c.tier IN ('cold', 'frozen') AND EXISTS (
            SELECT FROM orochi.orochi_stripes f WHERE f.chunk_id = c.chunk_id AND f.path !~ '^(s3|frozen):'),
    coalesce(orochi._faded(u.recent_reads, u.counted_at), 0),
    extract(epoch FROM orochi._now() - greatest(u.last_read_at, u.last_write_at))::float8,
    c.row_count > 0
FROM orochi.orochi_shards s JOIN orochi.orochi_chunks c USING (shard_id)
LEFT JOIN orochi.orochi_chunk_access u USING (chunk_id)
WHERE s.table_oid = %s ORDER BY c.range_end, c.chunk_id
"""
_BOUND = "SELECT orochi._policy_boundary(%(table)s::oid::regclass, %(age)s)"
_HALF = """
SELECT orochi._policy_boundary(%(table)s::oid::regclass,
    CASE WHEN %(age)s ~ '^[0-9]+$' THEN (%(age)s::bigint / 2)::text ELSE (%(age)s::interval / 2)::text END)
"""
_DECIDE = """
INSERT INTO orochi.orochi_tiering_decisions (decided_at, job_id, table_oid, chunk_id, from_tier, to_tier, reason)
VALUES (orochi._now(), %s, %s, %s, %s, %s, %s) RETURNING decision_id
"""


_ENABLED = (
    "SELECT coalesce(current_setting('orochi.enable_tiering', true), '') NOT IN ('off', 'false', 'no', '0')"
)


def run(job: running.Run) -> None:
    """Bring every chunk of the policy's table into the tier that is decided for it.

    Where the database has `orochi.enable_tiering` off, all stay where they are.
    """
    with job.gateway() as gateway:  # a session that begins now: it has what ALTER DATABASE said
        enabled = gateway.execute(_ENABLED).fetchone()
    if enabled is not None and not enabled[0]:
        job.note(tiering="orochi.enable_tiering is off")
        return
    with job.catalog() as catalog:
        policy = _policy(catalog, job)
        found = _decided(catalog, job.table_oid, policy)
        catalog.execute(
            "DELETE FROM orochi.orochi_tiering_decisions WHERE table_oid = %s AND decided_at < orochi._now() - %s::interval",
            (job.table_oid, _KEPT),
        )
    job.note(chunks=len(found))
    job.progress(0, len(found), "chunks")
    if not found:
        return
    failed: list[psycopg.Error] = []
    with job.gateway() as gateway:
        for done, decision in enumerate(found, 1):
            job.check()
            error = _move(job, gateway, decision)
            if error is not None:
                failed.append(error)
                if gateway.closed:
                    raise error
            job.progress(done, len(found), "chunks")
    if failed:
        first = failed[0]
        raise errors.OrochiError(
            f"{len(failed)} of {len(found)} chunks could not be moved: {first.diag.message_primary or first}",
            sqlstate=first.sqlstate,
            hint="orochi.tiering_decisions has the error of each.",
        )


def _policy(catalog: psycopg.Connection[Any], job: running.Run) -> decisions.Policy:
    ages = {tier: job.config.get(f"{tier}_after") for tier in tiers.TIERS[:-1]}

    def bounds(sql: str) -> dict[str, int | None]:
        found: dict[str, int | None] = {}
        for tier, age in ages.items():
            row = None
            if age is not None:
                row = catalog.execute(sql.encode(), {"table": job.table_oid, "age": str(age)}).fetchone()
            found[tier] = None if row is None else int(row[0])
        return found

    adaptive = bool(job.config.get("adaptive", False))
    idle = catalog.execute(
        "SELECT extract(epoch FROM %s::interval)::float8", (str(job.config.get("idle_after", "1 day")),)
    ).fetchone()
    return decisions.Policy(
        bounds=bounds(_BOUND),
        early=bounds(_HALF) if adaptive else {},
        ages={tier: None if age is None else str(age) for tier, age in ages.items()},
        adaptive=adaptive,
        recall_reads=int(job.config.get("recall_reads", 10)),
        idle_seconds=float(idle[0]) if idle else 0.0,
    )


def _decided(
    catalog: psycopg.Connection[Any], table_oid: int, policy: decisions.Policy
) -> list[decisions.Decision]:
    found = []
    for chunk_id, tier, end, in_heap, reads, idle, has_rows in catalog.execute(_CHUNKS, (table_oid,)):
        chunk = decisions.Chunk(
            int(chunk_id), str(tier), int(end), bool(in_heap and has_rows), float(reads), float(idle or 0.0)
        )
        decision = decisions.decide(chunk, policy)
        if decision is not None:
            found.append(decision)
    return found


def _move(
    job: running.Run, gateway: psycopg.Connection[Any], decision: decisions.Decision
) -> psycopg.Error | None:
    """Move a chunk, and write down what came of it; the error if it failed."""
    chunk = decision.chunk
    log.info(
        "tiering.decided", chunk=chunk.chunk_id, tier=chunk.tier, to=decision.tier, reason=decision.reason
    )
    with job.catalog() as catalog:
        row = catalog.execute(
            _DECIDE,
            (job.job_id, job.table_oid, chunk.chunk_id, chunk.tier, decision.tier, decision.reason),
        ).fetchone()
    outcome, message, error = "moved", None, None
    try:
        gateway.execute("SELECT move_chunk_to_tier(%s::bigint, %s)", (chunk.chunk_id, decision.tier))
    except psycopg.Error as caught:
        outcome, message, error = "failed", caught.diag.message_primary or str(caught), caught
        if caught.sqlstate == "42704":
            error = None  # dropped meanwhile
    with job.catalog() as catalog:
        catalog.execute(
            "UPDATE orochi.orochi_tiering_decisions SET outcome = %s, message = %s WHERE decision_id = %s",
            (outcome, message, row[0] if row else None),
        )
        sizes = catalog.execute(
            "SELECT row_count, size_bytes FROM orochi.orochi_chunks WHERE chunk_id = %s", (chunk.chunk_id,)
        ).fetchone()
    if sizes and outcome == "moved":
        job.count(rows=int(sizes[0]), bytes=int(sizes[1]))
    return error
