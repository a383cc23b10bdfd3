"""A chunk as a maintenance task works on it: what the catalog says, and the locks that change it.

Whoever changes what a chunk's heap holds renames the shard's and the chunk's schemas in the same
node transaction and counts their numbers up in the catalog, in one two-phase commit. A plan made
before names a schema that no longer exists, so PostgreSQL refuses it; and ACCESS EXCLUSIVE on both
relations waits for those that had already resolved the names.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Sequence
from typing import Any

import psycopg

from orochi import errors
from orochi.catalog import definition as definitions
from orochi.catalog import twophase
from orochi.timeseries import scans

Connection = psycopg.Connection[Any]

_LOAD = """
SELECT json_build_object(
    'chunk_id', c.chunk_id, 'shard_id', s.shard_id, 'generation', c.generation, 'layout', s.layout,
    'node_id', p.node_id, 'host', n.hostname, 'port', n.port, 'dbname', n.dbname,
    'table_oid', t.table_oid::bigint, 'segmentby', t.segmentby, 'orderby', t.orderby, 'options', t.options,
    'time_column', a.attname, 'definition', orochi._table_definition(t.table_oid),
    'stripes', (SELECT coalesce(json_agg(json_build_array(f.stripe_id, f.path, f.row_count)
                    ORDER BY f.stripe_id), '[]'::json)
                FROM orochi.orochi_stripes f WHERE f.chunk_id = c.chunk_id))
FROM orochi.orochi_chunks c
JOIN orochi.orochi_shards s USING (shard_id)
JOIN orochi.orochi_shard_placements p ON p.shard_id = s.shard_id AND p.ordinal = 0
JOIN orochi.orochi_nodes n USING (node_id)
JOIN orochi.orochi_tables t ON t.table_oid = s.table_oid
JOIN orochi.orochi_dimensions d ON d.table_oid = t.table_oid AND d.ordinal = 1
JOIN pg_attribute a ON a.attrelid = d.table_oid AND a.attnum = d.attnum
WHERE c.chunk_id = %s
"""
#: Shorter than deadlock_timeout, so that a client's statement is never the victim.
_LOCK_TIMEOUT = "700ms"
_TRIES_BESIDE_WRITERS, _TRIES_ALONE = 3, 40
_PAUSE_SECONDS = 0.1
_BUSY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)


class WritersInTheWay(Exception):
    """A writer waits for the chunk while it holds the shard: exclude writers from the shard first."""


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """A chunk at one moment, under the catalog's lock on its shard."""

    chunk_id: int
    shard_id: int
    generation: int
    layout: int
    node_id: int
    host: str
    port: int
    dbname: str
    table_oid: int
    segmentby: tuple[str, ...]
    orderby: tuple[str, ...]
    options: dict[str, Any]
    time_column: str
    definition: definitions.Definition
    stripes: tuple[scans.StripeFile, ...]

    @property
    def parent(self) -> str:
        """The shard's quoted relation."""
        return f'"orochi_s{self.shard_id}_{self.layout}".{definitions.quote(self.definition.name)}'

    @property
    def schema(self) -> str:
        """The chunk's quoted schema."""
        return f'"orochi_c{self.chunk_id}_{self.generation}"'

    @property
    def partition(self) -> str:
        """The chunk's quoted relation."""
        return f"{self.schema}.{definitions.quote(self.definition.name)}"


def load(catalog: Connection, chunk_id: int) -> State:
    """Lock the chunk's shard in the catalog against other layout changes, and read the chunk.

    Raises:
        UndefinedObject: there is no such chunk.
    """
    catalog.execute(
        "SELECT FROM orochi.orochi_shards WHERE shard_id ="
        " (SELECT shard_id FROM orochi.orochi_chunks WHERE chunk_id = %s) FOR NO KEY UPDATE",
        (chunk_id,),
    )
    row = catalog.execute(_LOAD, (chunk_id,)).fetchone()
    if row is None:
        raise errors.UndefinedObject(
            f"chunk {chunk_id} does not exist", hint="show_chunks() lists the chunks of a table."
        )
    data: dict[str, Any] = row[0]
    return State(
        **{
            **data,
            "segmentby": tuple(data["segmentby"]),
            "orderby": tuple(data["orderby"]),
            "definition": definitions.from_json(data["definition"]),
            "stripes": tuple(scans.StripeFile(*stripe) for stripe in data["stripes"]),
        }
    )


def exclude_writers(node: Connection, state: State, *, whole_shard: bool) -> None:
    """Keep others from writing to the chunk, or first to all of its shard; reading goes on.

    Raises:
        OrochiError: 55P03, writers did not let go in time.
    """
    if whole_shard:
        _lock(node, f"ONLY {state.parent}", "SHARE ROW EXCLUSIVE", _TRIES_ALONE)
    _lock(node, state.partition, "SHARE ROW EXCLUSIVE", _TRIES_ALONE)


def exclude_readers(node: Connection, state: State, *, whole_shard: bool) -> None:
    """Wait out everyone who has the shard's or the chunk's name resolved.

    Raises:
        WritersInTheWay: that cannot succeed before writers are kept from the whole shard.
        OrochiError: 55P03, readers did not let go in time.
    """
    try:
        tries = _TRIES_ALONE if whole_shard else _TRIES_BESIDE_WRITERS
        _lock(node, f"ONLY {state.parent}", "ACCESS EXCLUSIVE", tries)
    except errors.OrochiError:
        if not whole_shard:
            raise WritersInTheWay from None
        raise
    _lock(node, state.partition, "ACCESS EXCLUSIVE", _TRIES_ALONE)


def _lock(node: Connection, relation: str, mode: str, tries: int) -> None:
    node.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
    for attempt in range(tries):
        node.execute("SAVEPOINT locking")
        try:
            node.execute(f"LOCK TABLE {relation} IN {mode} MODE".encode())
            node.execute("RELEASE SAVEPOINT locking")
            return
        except _BUSY:
            node.execute("ROLLBACK TO SAVEPOINT locking")
            time.sleep(_PAUSE_SECONDS * (1 + attempt % 3))
    raise errors.OrochiError(
        "the chunk is in use by other transactions",
        sqlstate="55P03",
        hint="Try again when long transactions on the table have ended.",
    )


def rename(node: Connection, state: State) -> None:
    """Give the shard's and the chunk's schemas their next numbers."""
    shard = f"orochi_s{state.shard_id}_"
    node.execute(f'ALTER SCHEMA "{shard}{state.layout}" RENAME TO "{shard}{state.layout + 1}"'.encode())
    chunk = f"orochi_c{state.chunk_id}_{state.generation + 1}"
    node.execute(f'ALTER SCHEMA {state.schema} RENAME TO "{chunk}"'.encode())


def count_up(catalog: Connection, state: State, row_count: int) -> None:
    """The same in the catalog."""
    catalog.execute(
        "UPDATE orochi.orochi_chunks SET generation = generation + 1, row_count = %s WHERE chunk_id = %s",
        (row_count, state.chunk_id),
    )
    catalog.execute(
        "UPDATE orochi.orochi_shards SET layout = layout + 1 WHERE shard_id = %s", (state.shard_id,)
    )


def retire_stripes(catalog: Connection, state: State, grace_seconds: float) -> None:
    """Take the chunk's stripes out of the catalog; their files go when no running query can need them."""
    catalog.execute(
        "INSERT INTO orochi.orochi_cleanup (node_id, kind, object_id, path, not_before)"
        " SELECT node_id, 'stripe', stripe_id, path, now() + %s * interval '1 second'"
        " FROM orochi.orochi_stripes WHERE chunk_id = %s",
        (grace_seconds, state.chunk_id),
    )
    catalog.execute("DELETE FROM orochi.orochi_stripes WHERE chunk_id = %s", (state.chunk_id,))


def commit(catalog: Connection, node: Connection, state: State) -> None:
    """Commit both or neither. What is left undone after the decision, recovery finishes.

    Raises:
        psycopg.Error: nothing is committed, unless the connection to the coordinator broke.
    """
    row = catalog.execute(twophase.CLUSTER_ID_SQL).fetchone()
    assert row is not None
    gid = twophase.gid(str(row[0]), f"m{secrets.token_hex(8)}")
    node.execute(f"PREPARE TRANSACTION '{gid}'")
    try:
        catalog.execute(
            "SELECT orochi._record_decision(%s, %s)", (gid, [twophase.MARKER_NODE, state.node_id])
        )
        catalog.execute("COMMIT")
    except psycopg.Error:
        if not catalog.closed:  # refused, so decided against
            catalog.execute("ROLLBACK")
            node.execute(f"ROLLBACK PREPARED '{gid}'")
        raise
    try:
        node.execute(f"COMMIT PREPARED '{gid}'")
    except psycopg.Error:
        return


def sort_columns(state: State) -> Sequence[str]:
    """How stripes are ordered: the table's settings, else by time."""
    return state.orderby or (definitions.quote(state.time_column),)
