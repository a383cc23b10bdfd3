"""How often chunks are read and written, as their nodes' PostgreSQL counts anyway.

Whoever reads a chunk, in stripes or in the object store, also scans its heap relation, and whoever writes
one writes there. So the server's own counters of that relation tell all, whatever way a statement took.
"""

from __future__ import annotations

from typing import Any

import psycopg

Connection = psycopg.Connection[Any]

_COUNTERS = """
SELECT schemaname, sum(seq_scan + coalesce(idx_scan, 0))::int8, sum(n_tup_ins + n_tup_upd + n_tup_del)::int8
FROM pg_stat_all_tables WHERE schemaname ~ '^orochi_[sc][0-9]+_[0-9]+$' GROUP BY 1
"""
#: A counter that went back was reset: all of it is new. What a chunk was filled with is no news.
_STORE = """
INSERT INTO orochi.orochi_chunk_access AS a (chunk_id, seen_reads, seen_writes, counted_at, last_write_at)
SELECT c.chunk_id, n.reads, n.writes, orochi._now(), orochi._now()
FROM unnest(%s::text[], %s::int8[], %s::int8[], %s::int8[]) AS n(kind, id, reads, writes)
JOIN orochi.orochi_chunks c ON n.kind = 'c' AND c.chunk_id = n.id OR n.kind = 's' AND c.shard_id = n.id
    AND NOT EXISTS (SELECT FROM orochi.orochi_dimensions d JOIN orochi.orochi_shards s ON s.table_oid = d.table_oid
                    WHERE s.shard_id = c.shard_id)
LEFT JOIN orochi.orochi_chunk_access o USING (chunk_id)
WHERE o.chunk_id IS NULL OR (o.seen_reads, o.seen_writes) <> (n.reads, n.writes)
ON CONFLICT (chunk_id) DO UPDATE SET seen_reads = excluded.seen_reads, seen_writes = excluded.seen_writes,
    counted_at = excluded.counted_at, reads = a.reads + orochi._grown(a.seen_reads, excluded.seen_reads),
    writes = a.writes + orochi._grown(a.seen_writes, excluded.seen_writes),
    recent_reads = orochi._faded(a.recent_reads, a.counted_at) + orochi._grown(a.seen_reads, excluded.seen_reads),
    last_read_at = CASE WHEN a.seen_reads <> excluded.seen_reads THEN orochi._now() ELSE a.last_read_at END,
    last_write_at = CASE WHEN a.seen_writes <> excluded.seen_writes THEN orochi._now() ELSE a.last_write_at END
"""


def collect(catalog: Connection, node: Connection) -> None:
    """Add a node's counters to those of its chunks in the catalog."""
    rows = node.execute(_COUNTERS).fetchall()
    found = [(name[7], int(name[8:].partition("_")[0]), reads, writes) for name, reads, writes in rows]
    if found:
        catalog.execute(_STORE, tuple(list(column) for column in zip(*found, strict=True)))
