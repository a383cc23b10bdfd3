"""A chunk as a maintenance task works on it: what the catalog says, and the locks that change it.

Whoever changes what a chunk's heap holds renames the shard's and the chunk's schemas in the same
node transaction and counts their numbers up in the catalog, in one two-phase commit. A plan made
before names a schema that no longer exists, so PostgreSQL refuses it; and ACCESS EXCLUSIVE on both
relations waits for those that had already resolved the names.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

from orochi import errors
from orochi.catalog import definition as definitions
from orochi.catalog import twophase
from orochi.timeseries import cells, scans

Connection = psycopg.Connection[Any]

#: The rows of the system catalog that a table's definition is made of: the same text, the same definition.
_STAMP = """
SELECT string_agg(part, ' ' ORDER BY part) FROM (
    SELECT 'r' || ctid || xmin FROM pg_class WHERE oid = {oid}
    UNION ALL SELECT 'a' || ctid || xmin FROM pg_attribute WHERE attrelid = {oid}
    UNION ALL SELECT 'd' || ctid || xmin FROM pg_attrdef WHERE adrelid = {oid}
    UNION ALL SELECT 'i' || ctid || xmin FROM pg_index WHERE indrelid = {oid}
    UNION ALL SELECT 'n' || ctid || xmin FROM pg_class WHERE oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = {oid})
    UNION ALL SELECT 'k' || ctid || xmin FROM pg_constraint WHERE conrelid = {oid}
    UNION ALL SELECT 't' || ctid || xmin FROM pg_trigger WHERE tgrelid = {oid}
) AS parts(part)
"""
_LOAD = f"""
WITH tables AS MATERIALIZED (
    SELECT o.table_oid, now.stamp,
        CASE WHEN now.stamp IS DISTINCT FROM %(stamp)s THEN orochi._table_definition(o.table_oid) END AS definition
    FROM (SELECT DISTINCT s.table_oid FROM orochi.orochi_chunks c JOIN orochi.orochi_shards s USING (shard_id)
          WHERE c.chunk_id = ANY(%(chunks)s)) o
    CROSS JOIN LATERAL ({_STAMP.format(oid="o.table_oid")}) AS now(stamp)
)
SELECT json_build_object(
    'chunk_id', c.chunk_id, 'shard_id', s.shard_id, 'generation', c.generation, 'layout', s.layout,
    'node_id', p.node_id, 'host', n.hostname, 'port', n.port, 'dbname', n.dbname,
    'table_oid', t.table_oid::bigint, 'segmentby', t.segmentby, 'orderby', t.orderby, 'options', t.options,
    'tier', c.tier, 'time_column', a.attname,
    'cuts', (SELECT coalesce(json_agg(json_build_array(b.attname, orochi._base_type(b.atttypid)::bigint,
                    m.chunk_interval) ORDER BY m.ordinal), '[]'::json)
             FROM orochi.orochi_dimensions m JOIN pg_attribute b ON b.attrelid = m.table_oid AND b.attnum = m.attnum
             WHERE m.table_oid = t.table_oid AND m.ordinal > 1),
    'definition', o.definition, 'stamp', o.stamp,
    'stripes', (SELECT coalesce(json_agg(json_build_array(f.stripe_id, f.path, f.row_count)
                    ORDER BY f.stripe_id), '[]'::json)
                FROM orochi.orochi_stripes f WHERE f.chunk_id = c.chunk_id))
FROM orochi.orochi_chunks c
JOIN orochi.orochi_shards s USING (shard_id)
JOIN orochi.orochi_shard_placements p ON p.shard_id = s.shard_id AND p.ordinal = 0
JOIN orochi.orochi_nodes n USING (node_id)
JOIN orochi.orochi_tables t ON t.table_oid = s.table_oid
JOIN tables o ON o.table_oid = t.table_oid
LEFT JOIN orochi.orochi_dimensions d ON d.table_oid = t.table_oid AND d.ordinal = 1
LEFT JOIN pg_attribute a ON a.attrelid = d.table_oid AND a.attnum = d.attnum
WHERE c.chunk_id = ANY(%(chunks)s)
ORDER BY c.chunk_id
"""
#: How long to wait for a lock, try after try: whoever comes while we wait, waits behind us. So short that no insert is
#: held up noticeably, for half a minute; only where readers follow one another all that time, long enough for these.
_LOCK_TIMEOUTS = (*["20ms"] * 20, *["70ms"] * 100, *["700ms"] * 4, *["2s"] * 2, *["5s"] * 2)
_SHORT_LOCK_TIMEOUTS = ("20ms",) * 10
_TRIES_BESIDE_WRITERS = 10
#: Advisory lock of the coordinator's database that statements share which met new layouts too often to end.
TURN_LOCK = 0x6F726F63_68690023
_TURN_TIMEOUT = "2s"
_PAUSE_SECONDS, _SHORT_PAUSE_SECONDS = 0.1, 0.02
_BUSY_ATTEMPTS = 200
_BUSY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)


class WritersInTheWay(Exception):
    """A writer waits for the chunk while it holds the shard: exclude writers from the shard first."""


class Changed(Exception):
    """A chunk is not any more what it was when it was read: begin again."""


class Busy(Exception):
    """Others did not let go of a shard and its chunks in time: try again."""


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """A chunk at one moment, under the catalog's lock on its shard.

    Without a time column it is the whole of its shard: its heap is the shard's own relation. The stamp is of
    the definition: it costs little to look whether that is still the same.
    """

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
    tier: str
    time_column: str | None
    cuts: tuple[cells.Cut, ...]
    definition: definitions.Definition
    stripes: tuple[scans.StripeFile, ...]
    stamp: str = dataclasses.field(compare=False)

    @property
    def parent(self) -> str:
        """The shard's quoted relation."""
        return f'"orochi_s{self.shard_id}_{self.layout}".{definitions.quote(self.definition.name)}'

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its shard."""
        return self.time_column is None

    @property
    def schema(self) -> str:
        """The quoted schema of the chunk's relation."""
        if self.is_whole:
            return f'"orochi_s{self.shard_id}_{self.layout}"'
        return f'"orochi_c{self.chunk_id}_{self.generation}"'

    @property
    def partition(self) -> str:
        """The chunk's quoted relation."""
        return f"{self.schema}.{definitions.quote(self.definition.name)}"


def shards_of(catalog: Connection, chunk_ids: Sequence[int]) -> dict[int, list[int]]:
    """The chunks by shard.

    Raises:
        UndefinedObject: one does not exist.
    """
    rows = catalog.execute(
        "SELECT shard_id, chunk_id FROM orochi.orochi_chunks WHERE chunk_id = ANY(%s)", (list(chunk_ids),)
    ).fetchall()
    found: dict[int, list[int]] = {}
    for shard_id, chunk_id in rows:
        found.setdefault(int(shard_id), []).append(int(chunk_id))
    for chunk_id in set(chunk_ids) - {chunk_id for chunks in found.values() for chunk_id in chunks}:
        raise errors.UndefinedObject(
            f"chunk {chunk_id} does not exist", hint="show_chunks() lists the chunks of a table."
        )
    return found


def load(
    catalog: Connection, shard_id: int, chunk_ids: Sequence[int], known: State | None = None
) -> list[State]:
    """Lock a shard in the catalog against other layout changes, and read those of its chunks that still exist.

    `known`: a chunk of the same table as it was; printing a definition takes long, and its may still be right.
    """
    catalog.execute("SELECT FROM orochi.orochi_shards WHERE shard_id = %s FOR NO KEY UPDATE", (shard_id,))
    return _read(catalog, chunk_ids, known)


def peek(catalog: Connection, chunk_ids: Sequence[int]) -> list[State]:
    """Those chunks as they are, without keeping anybody from changing them."""
    return _read(catalog, chunk_ids, None)


def is_defined_so(catalog: Connection, state: State) -> bool:
    """Whether the chunk's table is still defined as it was."""
    row = catalog.execute(_STAMP.format(oid=state.table_oid).encode()).fetchone()
    return row is not None and row[0] == state.stamp


def _read(catalog: Connection, chunk_ids: Sequence[int], known: State | None) -> list[State]:
    wanted = {"chunks": list(chunk_ids), "stamp": None if known is None else known.stamp}
    return [_state(data, known) for (data,) in catalog.execute(_LOAD.encode(), wanted).fetchall()]


def _state(data: dict[str, Any], known: State | None) -> State:
    given = data["definition"]
    assert given is not None or known is not None
    return State(
        **{
            **data,
            "segmentby": tuple(data["segmentby"]),
            "orderby": tuple(data["orderby"]),
            "cuts": tuple(cells.Cut(*cut) for cut in data["cuts"]),
            "definition": known.definition if given is None and known else definitions.from_json(given),
            "stripes": tuple(scans.StripeFile(*stripe) for stripe in data["stripes"]),
        }
    )


def let_readers(catalog: Connection) -> None:
    """Wait for statements that have had to begin again and again, until the transaction ends; but not for long."""
    catalog.execute(f"SET LOCAL lock_timeout = '{_TURN_TIMEOUT}'".encode())
    catalog.execute("SAVEPOINT turn")
    try:
        catalog.execute("SELECT pg_advisory_xact_lock(%s)", (TURN_LOCK,))
        catalog.execute("RELEASE SAVEPOINT turn")
    except _BUSY:
        catalog.execute("ROLLBACK TO SAVEPOINT turn")
    catalog.execute("SET LOCAL lock_timeout = DEFAULT")


def exclude_writers(
    node: Connection, states: Sequence[State], *, whole_shard: bool, patient: bool = True
) -> None:
    """Keep others from writing to the chunks, or first to all of their shard; reading goes on.

    Without patience no writer waits for us: it is done only if nobody is writing.

    Raises:
        WritersInTheWay: waiting could be a deadlock; begin again by keeping writers from the whole shard.
        OrochiError: 55P03, writers did not let go in time.
    """
    if whole_shard:
        _lock(node, f"ONLY {states[0].parent}", "SHARE ROW EXCLUSIVE")
    for number, state in enumerate(states):
        if whole_shard or (number == 0 and patient):
            _lock(node, state.partition, "SHARE ROW EXCLUSIVE")
        elif not _lock_if_free(node, state.partition, "SHARE ROW EXCLUSIVE"):
            raise WritersInTheWay  # one that has this chunk may wait for one that we have


def patience(*, patient: bool) -> Iterator[tuple[str, float]]:
    """How long to wait for locks, try after try, and to pause before the next: who comes while we wait, waits too."""
    for attempt, timeout in enumerate(_LOCK_TIMEOUTS if patient else _SHORT_LOCK_TIMEOUTS):
        yield timeout, _PAUSE_SECONDS * (1 + attempt % 3)


def exclude_all(node: Connection, states: Sequence[State], timeout: str) -> None:
    """Keep everybody out of a shard and chunks of it, or nobody.

    Raises:
        Busy: somebody did not let go of them all within `timeout`; the transaction is to be rolled back.
    """
    relations = [f"ONLY {states[0].parent}"]
    relations += [f"ONLY {state.partition}" for state in states if not state.is_whole]
    try:
        # one limit for all of them: who has waited for the last lets those wait who want the first
        node.execute(
            f"SET LOCAL lock_timeout = '{timeout}'; SET LOCAL statement_timeout = '{timeout}'".encode(),
            prepare=False,  # as are all texts of several statements
        )
        node.execute(
            f"LOCK TABLE {', '.join(relations)} IN ACCESS EXCLUSIVE MODE;"
            " SET LOCAL statement_timeout = DEFAULT".encode(),
            prepare=False,
        )
    except (*_BUSY, psycopg.errors.QueryCanceled) as error:
        raise Busy from error


def exclude_readers(node: Connection, states: Sequence[State], *, whole_shard: bool) -> None:
    """Wait out everyone who has the shard's or a chunk's name resolved.

    A writer may wait for a chunk while it holds the shard. To wait for it in turn would be a deadlock,
    so unless writers were kept from the whole shard, its lock is taken only when it is free.

    Raises:
        WritersInTheWay: it was not free; begin again by keeping writers from the whole shard.
        OrochiError: 55P03, readers did not let go in time.
    """
    parent = f"ONLY {states[0].parent}"
    if whole_shard:
        _lock(node, parent, "ACCESS EXCLUSIVE")
    elif not _lock_if_free(node, parent, "ACCESS EXCLUSIVE"):
        raise WritersInTheWay
    for state in states:
        _lock(node, state.partition, "ACCESS EXCLUSIVE")


def _lock(node: Connection, relation: str, mode: str) -> None:
    for attempt, patience in enumerate(_LOCK_TIMEOUTS):
        node.execute(f"SET LOCAL lock_timeout = '{patience}'".encode())
        if _try(node, f"LOCK TABLE {relation} IN {mode} MODE"):
            return
        time.sleep(_PAUSE_SECONDS * (1 + attempt % 3))
    raise in_use()


def in_use() -> errors.OrochiError:
    """What is said when others never let go."""
    return errors.OrochiError(
        "the chunk is in use by other transactions",
        sqlstate="55P03",
        hint="Try again when long transactions on the table have ended.",
    )


def _lock_if_free(node: Connection, relation: str, mode: str) -> bool:
    for _ in range(_TRIES_BESIDE_WRITERS):
        if _try(node, f"LOCK TABLE {relation} IN {mode} MODE NOWAIT"):
            return True
        time.sleep(_SHORT_PAUSE_SECONDS)
    return False


def _try(node: Connection, statement: str) -> bool:
    node.execute("SAVEPOINT locking")
    try:
        node.execute(statement.encode())
    except _BUSY:
        node.execute("ROLLBACK TO SAVEPOINT locking")
        return False
    node.execute("RELEASE SAVEPOINT locking")
    return True


def moving(node: Connection) -> None:
    """For the rest of the transaction rows that come to a chunk are not new: no aggregate's log hears of them."""
    node.execute("SET LOCAL orochi.moving_rows = on")


def rename(node: Connection, states: Sequence[State]) -> None:
    """Give the shard's and the chunks' schemas their next numbers."""
    shard = f"orochi_s{states[0].shard_id}_"
    layout = states[0].layout
    renamed = [(f'"{shard}{layout}"', f'"{shard}{layout + 1}"')]
    renamed += [
        (state.schema, f'"orochi_c{state.chunk_id}_{state.generation + 1}"')
        for state in states
        if not state.is_whole
    ]
    node.execute(
        "; ".join(f"ALTER SCHEMA {old} RENAME TO {new}" for old, new in renamed).encode(), prepare=False
    )


def count_up(catalog: Connection, states: Sequence[State], row_counts: Sequence[int]) -> None:
    """The same in the catalog, with the chunks' new numbers of rows, and bytes where all of these are in stripes."""
    catalog.execute(
        "WITH shard AS (UPDATE orochi.orochi_shards SET layout = layout + 1 WHERE shard_id = %s)"
        " UPDATE orochi.orochi_chunks c SET generation = c.generation + 1, row_count = n.rows, size_bytes = coalesce("
        "(SELECT sum(f.size_bytes) FROM orochi.orochi_stripes f WHERE f.chunk_id = c.chunk_id), c.size_bytes)"
        " FROM unnest(%s::bigint[], %s::bigint[]) AS n(chunk_id, rows) WHERE c.chunk_id = n.chunk_id",
        (states[0].shard_id, [state.chunk_id for state in states], list(row_counts)),
    )


def label(catalog: Connection, states: Sequence[State], tier: str) -> None:
    """Say that the chunks are in a tier: all their rows are on the node."""
    if not states:
        return
    catalog.execute(
        "UPDATE orochi.orochi_chunks SET tier = %s WHERE chunk_id = ANY(%s) AND tier <> %s",
        (tier, [state.chunk_id for state in states], tier),
    )


def retire_stripes(catalog: Connection, states: Sequence[State], grace_seconds: float) -> None:
    """Take the chunks' stripes out of the catalog; their files go when no running query can need them."""
    chunk_ids = [state.chunk_id for state in states if state.stripes]
    if not chunk_ids:
        return
    catalog.execute(
        "INSERT INTO orochi.orochi_cleanup (node_id, kind, object_id, path, not_before)"
        " SELECT node_id, 'stripe', stripe_id, path, now() + %s * interval '1 second'"
        " FROM orochi.orochi_stripes WHERE chunk_id = ANY(%s)",
        (grace_seconds, chunk_ids),
    )
    catalog.execute("DELETE FROM orochi.orochi_stripes WHERE chunk_id = ANY(%s)", (chunk_ids,))


def new_gid(catalog: Connection) -> str:
    """A name for what the catalog's transaction will commit here and on a node."""
    row = catalog.execute(twophase.CLUSTER_ID_SQL).fetchone()
    assert row is not None
    return twophase.new_gid(str(row[0]), catalog.info.backend_pid)


def commit(catalog: Connection, node: Connection, state: State, gid: str) -> None:
    """Commit both or neither. What is left undone after the decision, recovery finishes.

    Raises:
        psycopg.Error: nothing is committed, unless the connection to the coordinator broke.
    """
    branch = twophase.branch(gid, state.node_id)
    node.execute(f"PREPARE TRANSACTION '{branch}'".encode())
    try:
        catalog.execute(
            f"SELECT orochi._record_decision('{gid}', ARRAY[{twophase.MARKER_NODE}, {state.node_id}]);"
            " COMMIT".encode(),
            prepare=False,
        )
    except psycopg.Error:
        if not catalog.closed:  # refused, so decided against
            catalog.execute("ROLLBACK")
            node.execute(f"ROLLBACK PREPARED '{branch}'".encode())
        raise
    for _ in range(_BUSY_ATTEMPTS):
        try:
            node.execute(f"COMMIT PREPARED '{branch}'".encode())
            return
        except psycopg.errors.ObjectNotInPrerequisiteState:
            time.sleep(_SHORT_PAUSE_SECONDS)  # recovery has it in hand: not visible before it is done
        except psycopg.Error:
            return


def sort_columns(state: State) -> Sequence[str]:
    """How stripes are ordered: the table's settings, else by time, else as rows came."""
    if state.orderby or state.time_column is None:
        return state.orderby
    return (definitions.quote(state.time_column),)
