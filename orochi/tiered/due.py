"""Which chunks are older than their tier allows. Nothing moves yet: there is no object store to move to."""

from __future__ import annotations

from typing import Any

import psycopg
import structlog

log = structlog.get_logger()

_DUE = """
SELECT c.tier, count(*), coalesce(sum(c.size_bytes), 0)::int8
FROM orochi.orochi_tiering_policies p
JOIN orochi.orochi_shards s ON s.table_oid = p.table_oid
JOIN orochi.orochi_chunks c ON c.shard_id = s.shard_id
CROSS JOIN LATERAL (SELECT CASE c.tier WHEN 'hot' THEN p.hot_after WHEN 'warm' THEN p.warm_after
                                       WHEN 'cold' THEN p.cold_after END AS age) a
WHERE a.age IS NOT NULL AND c.range_end <= orochi._boundary(p.table_oid::regclass, a.age::text)
GROUP BY c.tier ORDER BY c.tier
"""


def report(coordinator: psycopg.Connection[Any]) -> dict[str, int]:
    """Log, and return, how many chunks of each tier are past their age."""
    due: dict[str, int] = {}
    for tier, chunks, size in coordinator.execute(_DUE).fetchall():
        due[tier] = chunks
        log.info(
            "tiering.due", tier=tier, chunks=chunks, bytes=size, moved=0, note="chunks are not moved yet"
        )
    if not due:
        log.debug("tiering.nothing_due")
    return due
