"""How evenly shards lie on nodes. Shards do not move yet; the numbers are what a plan will start from."""

from __future__ import annotations

import dataclasses
from typing import Any

import psycopg
import structlog

log = structlog.get_logger()

_LOADS = """
SELECT n.node_id, count(s.shard_id), coalesce(sum(s.row_count), 0)::int8, coalesce(sum(s.size_bytes), 0)::int8
FROM orochi.orochi_nodes n
LEFT JOIN orochi.orochi_shard_placements p ON p.node_id = n.node_id
LEFT JOIN orochi.orochi_shards s ON s.shard_id = p.shard_id
WHERE n.holds_shards
GROUP BY n.node_id ORDER BY n.node_id
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """What a node holds."""

    node_id: int
    shards: int
    rows: int
    size_bytes: int


def loads(coordinator: psycopg.Connection[Any]) -> list[Load]:
    """Every data node's load, by id."""
    return [Load(*row) for row in coordinator.execute(_LOADS).fetchall()]


def spread(found: list[Load]) -> float:
    """The fullest node's bytes over the mean: 1 is perfectly even."""
    mean = sum(load.size_bytes for load in found) / max(len(found), 1)
    return max(load.size_bytes for load in found) / mean if mean else 1.0


def report(coordinator: psycopg.Connection[Any]) -> None:
    """Log each node's load and how uneven they are."""
    found = loads(coordinator)
    for load in found:
        log.info(
            "rebalancing.load", node=load.node_id, shards=load.shards, rows=load.rows, bytes=load.size_bytes
        )
    log.info("rebalancing.spread", fullest_over_mean=round(spread(found), 3), note="shards are not moved yet")
