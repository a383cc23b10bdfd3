"""When the heap of a columnar table's chunk becomes stripes, and which chunks must stay heap.

Rows gather in the heap, where single rows are cheap; a chunk group of them is worth encoding. Into
large chunks stripes are added; small ones, and those with many deleted rows, are written anew.
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

#: A chunk is written anew while this part of its stripes' rows, or more, are deleted.
_TOO_MANY_DELETED = 0.2
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
_NAME = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
_PLAIN_INDEX = re.compile(rf"USING btree \({_NAME}(?:, {_NAME})*\)(?: INCLUDE \(.*\))?(?: WITH \(.*\))?")
_ODD_KEY = re.compile(r"NULLS NOT DISTINCT|WITHOUT OVERLAPS")

_CANDIDATES = """
SELECT c.chunk_id, c.shard_id, t.options,
    CASE WHEN d.table_oid IS NULL THEN format('orochi_s%%s_%%s', s.shard_id, s.layout)
         ELSE format('orochi_c%%s_%%s', c.chunk_id, c.generation) END, r.relname
FROM orochi.orochi_tables t
JOIN pg_class r ON r.oid = t.table_oid
JOIN orochi.orochi_shards s USING (table_oid)
JOIN orochi.orochi_shard_placements p ON p.shard_id = s.shard_id AND p.ordinal = 0
JOIN orochi.orochi_chunks c ON c.shard_id = s.shard_id
LEFT JOIN orochi.orochi_dimensions d ON d.table_oid = t.table_oid AND d.ordinal = 1
WHERE t.storage_type = 'columnar' AND p.node_id = %s AND c.tier = 'hot'
ORDER BY c.chunk_id
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A chunk of a columnar table: its heap's quoted relation, and how many rows are worth a flush."""

    chunk_id: int
    shard_id: int
    relation: str
    enough: int


def candidates(catalog: Connection, node_id: int) -> list[Candidate]:
    """The chunks of all columnar tables on a node."""
    found = []
    for chunk_id, shard_id, options, schema, name in catalog.execute(_CANDIDATES, (node_id,)).fetchall():
        limits = stripes.write_options(options)
        relation = f"{definitions.quote(schema)}.{definitions.quote(name)}"
        enough = min(limits.chunk_group_row_limit, limits.stripe_row_limit)
        found.append(Candidate(int(chunk_id), int(shard_id), relation, enough))
    return found


def is_full(node: Connection, candidate: Candidate) -> bool:
    """Whether the chunk's heap holds enough rows; False if it has moved meanwhile."""
    try:
        row = node.execute(
            f"SELECT FROM {candidate.relation} OFFSET {candidate.enough - 1} LIMIT 1".encode()
        ).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return False
    return row is not None


def should_merge(node: Connection, state: chunkstate.State) -> bool:
    """Whether the chunk's stripes are better written anew than added to."""
    rows = sum(stripe.row_count for stripe in state.stripes)
    if rows <= _limits(state).stripe_row_limit:
        return True
    row = node.execute(
        "SELECT count(*) FROM orochi_data.delete_vectors WHERE stripe_id = ANY(%s)",
        ([stripe.stripe_id for stripe in state.stripes],),
    ).fetchone()
    assert row is not None
    return int(row[0]) >= _TOO_MANY_DELETED * rows


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
