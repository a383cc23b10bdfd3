"""Housekeeping of a node by its maintenance worker: what nobody needs is removed, sizes are counted.

Everything here may run twice, and at the same time as anything else: removal goes by names that are
never used again, and counting only writes numbers, by which plans are chosen and nothing is answered.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import psycopg
import structlog

from orochi import settings as process_settings
from orochi.catalog import nodes
from orochi.timeseries import access, invalidation, orphans

log = structlog.get_logger()

Connection = psycopg.Connection[Any]

#: Advisory lock in the coordinator's database: shared by transactions whose files have no catalog row yet.
LOADING_LOCK = 0x6F726F63_68690020
#: First key of advisory locks there, the second is a node's id: held from counting its rows until the catalog
#: has the numbers, so that older ones never replace newer ones.
COUNTING_LOCK = 0x6F636E74
_BATCH = 200
_LOCK_TIMEOUT = "2s"
#: A shard with as many rows that has twice or half of what it had makes gateways read the catalog again.
PLANNED_ROWS = 1_000


@dataclasses.dataclass(frozen=True, slots=True)
class Swept:
    """How many things went: node schemas, aggregates' triggers, stripes, and files and objects that no catalog row named."""

    schemas: int = 0
    aggregates: int = 0
    stripes: int = 0
    orphans: int = 0
    objects: int = 0


def sweep(coordinator: str, node_id: int, settings: process_settings.Settings) -> Swept:
    """Remove what the cleanup queue lists for a node, and what it has that the catalog does not know."""
    with psycopg.connect(coordinator, autocommit=True) as catalog:
        node_dsn = nodes.all_dsns(catalog, settings).get(node_id)
        if node_dsn is None:
            return Swept()
        with psycopg.connect(node_dsn, autocommit=True) as node:
            node.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'".encode())
            schemas = _sweep_schemas(catalog, node, node_id)
            aggregates = invalidation.sweep(catalog, node)
            stripes = _sweep_stripes(catalog, node, node_id, settings.stripe_dir)
        files, objects = _sweep_orphans_between_loads(catalog, node_id, settings)
        _fold_versions(catalog)
    return Swept(schemas, aggregates, stripes, files, objects)


def _sweep_schemas(catalog: Connection, node: Connection, node_id: int) -> int:
    removed = 0
    rows = catalog.execute(
        "SELECT cleanup_id, kind, object_id FROM orochi.orochi_cleanup"
        " WHERE node_id = %s AND kind IN ('shard', 'chunk') AND not_before <= now()"
        " ORDER BY kind DESC, cleanup_id LIMIT %s",
        (node_id, _BATCH),
    ).fetchall()
    for cleanup_id, kind, object_id in rows:
        pattern = f"^orochi_{'s' if kind == 'shard' else 'c'}{object_id}_[0-9]+$"
        names = node.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ %s", (pattern,)).fetchall()
        try:
            for (name,) in names:
                node.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE'.encode())
                removed += 1
        except psycopg.errors.LockNotAvailable:
            continue  # still read: next time
        catalog.execute("DELETE FROM orochi.orochi_cleanup WHERE cleanup_id = %s", (cleanup_id,))
    return removed


def _sweep_stripes(catalog: Connection, node: Connection, node_id: int, stripe_dir: pathlib.Path) -> int:
    rows = catalog.execute(
        "SELECT cleanup_id, object_id, path, kind FROM orochi.orochi_cleanup"
        " WHERE node_id = %s AND kind IN ('stripe', 'file') AND not_before <= now() LIMIT %s",
        (node_id, 10 * _BATCH),
    ).fetchall()
    rows = [row for row in rows if orphans.is_removed(row[2], stripe_dir)]
    if rows:
        node.execute(
            "DELETE FROM orochi_data.delete_vectors WHERE stripe_id = ANY(%s)",
            ([row[1] for row in rows if row[3] == "stripe"],),
        )
        catalog.execute(
            "DELETE FROM orochi.orochi_cleanup WHERE cleanup_id = ANY(%s)", ([row[0] for row in rows],)
        )
    return len(rows)


def _sweep_orphans_between_loads(
    catalog: Connection, node_id: int, settings: process_settings.Settings
) -> tuple[int, int]:
    """Remove orphans unless a load or a move is open: its files are there, however old, and yet to be named."""
    row = catalog.execute("SELECT pg_try_advisory_lock(%s)", (LOADING_LOCK,)).fetchone()
    if row is None or not row[0]:
        return 0, 0
    try:
        files = orphans.sweep_files(catalog, node_id, settings)
        return files, orphans.sweep_objects(catalog, node_id, settings)
    finally:
        catalog.execute("SELECT pg_advisory_unlock(%s)", (LOADING_LOCK,))


def _fold_versions(catalog: Connection) -> None:
    """Replace the rows whose sum is the catalog's version by one of each kind and the same sum."""
    catalog.execute(
        "WITH gone AS (DELETE FROM orochi.orochi_catalog_changes"
        " WHERE (SELECT count(*) FROM orochi.orochi_catalog_changes) > 100 RETURNING weight, is_layout)"
        " INSERT INTO orochi.orochi_catalog_changes (weight, is_layout)"
        " SELECT sum(weight), is_layout FROM gone GROUP BY is_layout"
    )


_COUNT = """
SELECT n.nspname, sum(greatest(c.reltuples, 0))::bigint, sum(pg_total_relation_size(c.oid))::bigint
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname ~ '^orochi_[sc][0-9]+_[0-9]+$'
GROUP BY n.nspname
"""
_ANALYZE = """
SELECT format('%I.%I', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
WHERE c.relkind = 'r' AND n.nspname ~ '^orochi_[sc][0-9]+_[0-9]+$'
  AND (c.reltuples < 0 AND pg_relation_size(c.oid) > 0
       OR s.n_mod_since_analyze > 50 + 0.1 * greatest(c.reltuples, 0))
LIMIT 500
"""


def collect_stats(coordinator: str, node_id: int, settings: process_settings.Settings) -> int:
    """Write row counts and sizes of a node's shards and chunks into the catalog; how many it found.

    Heap rows are PostgreSQL's estimate, brought up to date by ANALYZE where much has changed; rows in
    stripes are exact, less those deleted.
    """
    with psycopg.connect(coordinator, autocommit=True) as catalog:
        node_dsn = nodes.all_dsns(catalog, settings).get(node_id)
        if node_dsn is None:
            return 0
        with psycopg.connect(node_dsn, autocommit=True) as node:
            node.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'".encode())
            for (relation,) in node.execute(_ANALYZE).fetchall():
                _analyze(node, relation)
            with catalog.transaction():
                catalog.execute("SELECT pg_advisory_xact_lock(%s, %s)", (COUNTING_LOCK, node_id))
                counted = node.execute(_COUNT).fetchall()
                deleted = node.execute(
                    "SELECT stripe_id, count(*) FROM orochi_data.delete_vectors GROUP BY 1"
                ).fetchall()
                _store(catalog, node_id, counted, deleted)
            size = node.execute("SELECT pg_database_size(current_database())").fetchone()
            access.collect(catalog, node)
        catalog.execute(
            "UPDATE orochi.orochi_nodes SET size_bytes = %s, last_heartbeat = now() WHERE node_id = %s",
            (size[0] if size else 0, node_id),
        )
    return len(counted)


def _analyze(node: Connection, relation: str) -> None:
    try:
        node.execute(f"ANALYZE {relation}".encode())
    except psycopg.errors.LockNotAvailable:
        return
    except psycopg.errors.UndefinedTable:
        return
    except psycopg.errors.InvalidSchemaName:
        return


def _store(
    catalog: Connection,
    node_id: int,
    counted: list[tuple[str, int, int]],
    deleted: list[tuple[int, int]],
) -> None:
    """Within a transaction that has the node's `COUNTING_LOCK`."""
    with catalog.cursor() as cursor:
        cursor.execute(
            "CREATE TEMP TABLE heaps (kind text, id bigint, rows bigint, size bigint) ON COMMIT DROP"
        )
        with cursor.copy("COPY heaps FROM STDIN") as copy:
            for schema, rows, size in counted:
                copy.write_row((schema[7], int(schema[8:].partition("_")[0]), rows, size))
        # the heap of a chunk that is a whole shard is the shard's own relation
        cursor.execute(
            "UPDATE heaps SET kind = 'c', id = c.chunk_id FROM orochi.orochi_chunks c"
            " WHERE kind = 's' AND c.shard_id = id"
        )
        cursor.execute("CREATE TEMP TABLE gone (stripe_id bigint, rows bigint) ON COMMIT DROP")
        with cursor.copy("COPY gone FROM STDIN") as copy:
            for stripe_id, rows in deleted:
                copy.write_row((stripe_id, rows))
        # without waiting: whoever drops or compresses a table has its shards first, then its chunks
        cursor.execute(
            "SELECT s.shard_id FROM orochi.orochi_shards s"
            " JOIN orochi.orochi_shard_placements p ON p.shard_id = s.shard_id AND p.ordinal = 0"
            " WHERE p.node_id = %s FOR NO KEY UPDATE OF s SKIP LOCKED",
            (node_id,),
        )
        shards = [int(shard_id) for (shard_id,) in cursor.fetchall()]
        cursor.execute(
            "UPDATE orochi.orochi_chunks c SET row_count = n.rows, size_bytes = n.size FROM ("
            "  SELECT h.id, h.rows + coalesce(sum(f.row_count - coalesce(g.rows, 0)), 0) AS rows,"
            "    h.size + coalesce(sum(f.size_bytes), 0) AS size"
            "  FROM heaps h LEFT JOIN orochi.orochi_stripes f ON f.chunk_id = h.id LEFT JOIN gone g USING (stripe_id)"
            "  WHERE h.kind = 'c' GROUP BY h.id, h.rows, h.size) n"
            " WHERE c.chunk_id = n.id AND (c.row_count, c.size_bytes) IS DISTINCT FROM (n.rows, n.size)"
            " AND c.shard_id = ANY(%s)",
            (shards,),
        )
        cursor.execute(
            "WITH changed AS (UPDATE orochi.orochi_shards s SET row_count = n.rows, size_bytes = n.size"
            " FROM orochi.orochi_shards o, ("
            "  SELECT p.shard_id, coalesce(h.rows, 0) + coalesce(c.rows, 0) AS rows,"
            "    coalesce(h.size, 0) + coalesce(c.size, 0) AS size"
            "  FROM orochi.orochi_shard_placements p"
            "  LEFT JOIN heaps h ON h.kind = 's' AND h.id = p.shard_id"
            "  LEFT JOIN (SELECT shard_id, sum(row_count) AS rows, sum(size_bytes) AS size"
            "             FROM orochi.orochi_chunks GROUP BY shard_id) c ON c.shard_id = p.shard_id"
            "  WHERE p.node_id = %s AND p.ordinal = 0) n"
            " WHERE s.shard_id = n.shard_id AND o.shard_id = s.shard_id"
            " AND (s.row_count, s.size_bytes) IS DISTINCT FROM (n.rows, n.size) AND s.shard_id = ANY(%s)"
            " RETURNING s.shard_id, o.row_count AS before, s.row_count AS after)"
            " SELECT array_agg(shard_id) FROM changed WHERE greatest(before, after) >= %s"
            " AND greatest(before, after) >= 2 * least(before, after)",
            (node_id, shards, PLANNED_ROWS),
        )
        (others,) = cursor.fetchone() or (None,)
        if others:  # what was planned with the former numbers would be planned otherwise now
            cursor.execute("SELECT orochi._bump_layout(%s)", (others,))
