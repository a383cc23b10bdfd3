"""When the heap of a chunk that has stripes becomes stripes too, and which chunks must stay heap.

Rows gather in the heap, where single rows are cheap; a chunk group of them is worth encoding. Into
large chunks stripes are added; small ones, and those with many deleted rows, are written anew. A
columnar table's chunk need have no stripe yet; one of a hypertable that is to be compressed must.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import psycopg

from orochi import pgtypes
from orochi.catalog import definition as definitions
from orochi.storage.columnar import writer
from orochi.timeseries import chunkstate, stripes

Connection = psycopg.Connection[Any]

#: Types of key columns whose equal values have equal bytes: stripes can be searched for them.
EXACT = frozenset(
    {
        pgtypes.INT2,
        pgtypes.INT4,
        pgtypes.INT8,
        pgtypes.TEXT,
        pgtypes.VARCHAR,
        pgtypes.UUID,
        pgtypes.DATE,
        pgtypes.TIMESTAMP,
        pgtypes.TIMESTAMPTZ,
    }
)
_PINNED_SECONDS = 600
_NAME = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
_PLAIN_INDEX = re.compile(rf"USING btree \({_NAME}(?:, {_NAME})*\)(?: INCLUDE \(.*\))?(?: WITH \(.*\))?")
_ODD_KEY = re.compile(r"NULLS NOT DISTINCT|WITHOUT OVERLAPS")

#: Whether a table's rows are to lie in stripes, as a condition on `orochi_tables t`.
TO_BE_COMPRESSED = """(t.storage_type = 'columnar' OR t.options ->> 'compress' = 'true'
    OR t.segmentby <> '{}' OR t.orderby <> '{}'
    OR EXISTS (SELECT FROM orochi.orochi_jobs j WHERE j.table_oid = t.table_oid AND j.kind = 'compression'))"""
_CANDIDATES = f"""
SELECT c.chunk_id, c.shard_id, t.options, f.rows, f.ids,
    CASE WHEN d.table_oid IS NULL THEN format('orochi_s%%s_%%s', s.shard_id, s.layout)
         ELSE format('orochi_c%%s_%%s', c.chunk_id, c.generation) END, r.relname
FROM orochi.orochi_tables t
JOIN pg_class r ON r.oid = t.table_oid
JOIN orochi.orochi_shards s USING (table_oid)
JOIN orochi.orochi_shard_placements p ON p.shard_id = s.shard_id AND p.ordinal = 0
JOIN orochi.orochi_chunks c ON c.shard_id = s.shard_id
LEFT JOIN orochi.orochi_dimensions d ON d.table_oid = t.table_oid AND d.ordinal = 1
CROSS JOIN LATERAL (
    SELECT coalesce(sum(row_count), 0)::bigint AS rows, coalesce(array_agg(stripe_id), '{{}}') AS ids
    FROM orochi.orochi_stripes WHERE chunk_id = c.chunk_id) f
WHERE (t.storage_type = 'columnar' OR f.rows > 0 AND {TO_BE_COMPRESSED}) AND p.node_id = %s AND c.tier IN ('hot', 'warm')
ORDER BY c.chunk_id
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A chunk: its heap's quoted relation, how many rows are worth a flush, and what its stripes hold."""

    chunk_id: int
    shard_id: int
    relation: str
    enough: int
    striped: int = 0
    stripe_ids: tuple[int, ...] = ()


def candidates(catalog: Connection, node_id: int) -> list[Candidate]:
    """The chunks on a node whose heaps may become stripes."""
    found = []
    for chunk_id, shard_id, options, striped, stripe_ids, schema, name in catalog.execute(
        _CANDIDATES, (node_id,)
    ).fetchall():
        limits = stripes.write_options(options)
        relation = f"{definitions.quote(schema)}.{definitions.quote(name)}"
        enough = min(limits.chunk_group_row_limit, limits.stripe_row_limit)
        found.append(
            Candidate(int(chunk_id), int(shard_id), relation, enough, int(striped), tuple(stripe_ids))
        )
    return found


def is_pinned(node: Connection) -> bool:
    """Whether an open transaction on the node is to go on reading what it has seen: stripes would take it away.

    One that is open for long does not keep rows from stripes for ever.
    """
    row = node.execute(
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND state = 'idle in transaction' AND backend_xmin IS NOT NULL"
        f" AND xact_start > now() - interval '{_PINNED_SECONDS} seconds' LIMIT 1"
    ).fetchone()
    return row is not None


def is_due(node: Connection, candidate: Candidate, share: float) -> bool:
    """Whether the chunk's heap holds enough rows, or that share of its stripes' rows, a chunk group's, is deleted."""
    if candidate.striped >= candidate.enough:
        deleted = _deleted(node, candidate.stripe_ids)
        if deleted >= max(share * candidate.striped, 1):
            return True
    return is_full(node, candidate)


def is_full(node: Connection, candidate: Candidate) -> bool:
    """Whether the chunk's heap holds enough rows; False if it has moved meanwhile."""
    try:
        # an empty one is not scanned: that would count as a read of the chunk
        size = node.execute("SELECT pg_relation_size(%s::regclass)", (candidate.relation,)).fetchone()
        if size is None or not size[0]:
            return False
        row = node.execute(
            f"SELECT FROM {candidate.relation} OFFSET {candidate.enough - 1} LIMIT 1".encode()
        ).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return False
    return row is not None


def should_merge(node: Connection, state: chunkstate.State, *, share: float) -> bool:
    """Whether the chunk's stripes are better written anew than added to: small ones, and with that share deleted."""
    rows = sum(stripe.row_count for stripe in state.stripes)
    if rows <= _limits(state).stripe_row_limit:
        return True
    return _deleted(node, [stripe.stripe_id for stripe in state.stripes]) >= share * rows


def _deleted(node: Connection, stripe_ids: Iterable[int]) -> int:
    row = node.execute(
        "SELECT count(*) FROM orochi_data.delete_vectors WHERE stripe_id = ANY(%s)", (list(stripe_ids),)
    ).fetchone()
    assert row is not None
    return int(row[0])


def _limits(state: chunkstate.State) -> writer.WriteOptions:
    return stripes.write_options(state.options)


def may_be_striped(state: chunkstate.State) -> bool:
    """Whether no constraint needs the chunk's rows in the heap, where PostgreSQL checks it.

    Unique keys are checked against stripes by looking for equal bytes; foreign keys, exclusion
    constraints and keys over expressions are not. Hypertables were asked when they were made.
    """
    return not state.is_whole or is_stripable(state.definition)


def is_stripable(definition: definitions.Definition) -> bool:
    """The same for a table's definition."""
    if definition.is_referenced or definition.foreign_keys():
        return False
    for constraint in definition.constraints:
        if constraint.type == "x" or (constraint.is_key and _ODD_KEY.search(constraint.definition)):
            return False
    if any(item.unique and not _PLAIN_INDEX.fullmatch(item.definition) for item in definition.indexes):
        return False
    return all(_is_exact(definition, columns) for _, columns in definition.unique_keys())


def _is_exact(definition: definitions.Definition, columns: Iterable[str]) -> bool:
    found = [definition.column(name) for name in columns]
    return any(column.base_oid in EXACT for column in found) and all(column.deterministic for column in found)
