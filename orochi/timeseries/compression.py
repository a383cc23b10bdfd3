"""Turning a chunk's heap rows into stripes, and back. Runs in the maintenance worker of its node.

The order is: read and encode from a snapshot, fsync, keep others out, make up for what they did
meanwhile (`orochi.timeseries.ahead`), empty the heap, and commit the node and the catalog together. So
no reader sees a row twice or not at all, and a crash at any step leaves either state; files that no
catalog row names are swept later. A chunk that keeps changing its form meanwhile is encoded under the locks.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg

from orochi import errors
from orochi import settings as process_settings
from orochi.catalog import nodes
from orochi.timeseries import ahead, chunkstate, connections, flushing, stripes, upkeep, yielding

State = chunkstate.State
Connection = chunkstate.Connection


Facts = dict[str, Any]


def compress_chunks(
    coordinator: str, chunk_ids: Sequence[int], settings: process_settings.Settings
) -> list[Facts]:
    """Move all rows of chunks into stripes; rows that came since the last time are merged in.

    Chunks of one shard change together, so that its readers have to plan again only once.

    Returns:
        For each chunk `chunk_id` and `status`: 'compressed', 'empty' (it has no rows) or 'unchanged'
        (all rows were in stripes already) or 'kept' (a constraint needs the rows in the heap).

    Raises:
        UndefinedObject: a chunk does not exist.
        OrochiError: 55P03, other transactions do not let go of one.
    """
    return _compress_all(coordinator, chunk_ids, settings, _always)


def add_stripes(
    coordinator: str, chunk_ids: Sequence[int], settings: process_settings.Settings
) -> list[Facts]:
    """Move what has gathered in the heaps of chunks into further stripes; those that there are stay as they are.

    Returns, raises: as `compress_chunks`.
    """
    return _compress_all(coordinator, chunk_ids, settings, _never)


def flush(
    coordinator: str, node_id: int, settings: process_settings.Settings, *, patient: bool = False
) -> list[Facts]:
    """Move what has gathered in heaps of a node into stripes, and write stripes anew that have many deleted rows.

    A chunk that has fewer rows than make a chunk group is left for the next time; without patience,
    also one that others are writing to, and all while a REPEATABLE READ transaction is open on the node.

    Returns:
        Facts of the chunks that changed, as `compress_chunks` gives them.
    """
    with connections.borrowed(coordinator) as catalog:
        candidates = flushing.candidates(catalog, node_id)
        node_dsn = nodes.all_dsns(catalog, settings).get(node_id)
    if node_dsn is None or not candidates:
        return []
    with connections.borrowed(node_dsn) as node:
        if not patient and flushing.is_pinned(node):
            return []
        full = [item for item in candidates if flushing.is_due(node, item, settings.recompress_share)]
    merge = functools.partial(flushing.should_merge, share=settings.recompress_share)
    facts: list[Facts] = []
    for candidate in full:
        try:
            facts += _compress_shard(coordinator, [candidate.chunk_id], settings, merge, patient=patient)
        except errors.OrochiError as error:
            if error.sqlstate != "55P03":
                raise
    return [item for item in facts if item["status"] == "compressed"]


def decompress_chunks(
    coordinator: str, chunk_ids: Sequence[int], settings: process_settings.Settings
) -> list[Facts]:
    """Move all rows of chunks back into the heap.

    Returns:
        For each chunk `chunk_id` and `status`: 'decompressed' or 'unchanged' (it had no stripes).

    Raises:
        UndefinedObject: a chunk does not exist.
        OrochiError: 55P03, other transactions do not let go of one.
    """
    return _change(coordinator, chunk_ids, settings, _decompress)


_Choice = Callable[[Connection, State], bool]
#: How often a chunk that changed while it was encoded is encoded again, before its writers are kept out for it.
_ENCODINGS = 3


def _always(_node: Connection, _state: State) -> bool:
    return True


def _never(_node: Connection, _state: State) -> bool:
    return False


_Step = Callable[[Connection, Connection, list[State], process_settings.Settings, bool], list[Facts]]


def _change(
    coordinator: str, chunk_ids: Sequence[int], settings: process_settings.Settings, step: _Step
) -> list[Facts]:
    with connections.borrowed(coordinator) as catalog:
        shards = chunkstate.shards_of(catalog, chunk_ids)
    facts: list[Facts] = []
    for shard_id, chunks in shards.items():
        try:
            facts += _attempt(coordinator, shard_id, chunks, settings, step, whole_shard=False)
        except chunkstate.WritersInTheWay:
            facts += _attempt(coordinator, shard_id, chunks, settings, step, whole_shard=True)
    return facts


def _compress_all(
    coordinator: str, chunk_ids: Sequence[int], settings: process_settings.Settings, merge: _Choice
) -> list[Facts]:
    with connections.borrowed(coordinator) as catalog:
        shards = chunkstate.shards_of(catalog, chunk_ids)
    return [
        facts
        for chunks in shards.values()
        for facts in _compress_shard(coordinator, chunks, settings, merge, patient=True)
    ]


def _compress_shard(
    coordinator: str,
    chunk_ids: Sequence[int],
    settings: process_settings.Settings,
    merge: _Choice,
    *,
    patient: bool,
) -> list[Facts]:
    for _ in range(_ENCODINGS):
        with contextlib.suppress(chunkstate.Changed):
            return _compress_ahead(coordinator, chunk_ids, settings, merge, patient=patient)
    if not patient:
        return []
    return _change(coordinator, chunk_ids, settings, functools.partial(_compress, merge=merge))


def _compress_ahead(
    coordinator: str,
    chunk_ids: Sequence[int],
    settings: process_settings.Settings,
    merge: _Choice,
    *,
    patient: bool,
) -> list[Facts]:
    """Encode chunks of one shard, and then put the stripes in the place of their heaps.

    Raises:
        Changed: a chunk took another form meanwhile.
        OrochiError: 55P03, others did not let go of one.
    """
    facts: list[Facts] = []
    with connections.borrowed(coordinator) as catalog:
        states = _stripable(chunkstate.peek(catalog, chunk_ids), facts)
        if not states:
            return facts
        dsn = nodes.dsn(settings, states[0].host, states[0].port, states[0].dbname)
        with _unpublished(catalog, settings) as encoded, ahead.reading(dsn) as reader:
            for state in states:
                found = yielding.done(functools.partial(_encode, catalog, reader, state, settings, merge))
                if found is None:
                    status = "unchanged" if state.stripes else "empty"
                    facts.append({"chunk_id": state.chunk_id, "status": status, "rows": 0})
                else:
                    encoded.append(found)
            if encoded:
                made = list(encoded)
                _exchange(catalog, dsn, encoded, reader, settings, patient=patient)
                facts += [item.made.facts() for item in made]
    return facts


def _encode(
    catalog: Connection,
    reader: ahead.Reader,
    state: State,
    settings: process_settings.Settings,
    merge: _Choice,
) -> ahead.Ahead | None:
    return ahead.encode(catalog, reader, state, settings, merge=merge(reader.node, state))


@contextlib.contextmanager
def _unpublished(catalog: Connection, settings: process_settings.Settings) -> Iterator[list[ahead.Ahead]]:
    """Stripes that nobody names yet: orphans are not swept meanwhile, and those still listed at the end are removed."""
    encoded: list[ahead.Ahead] = []
    catalog.execute("SELECT pg_advisory_lock_shared(%s)", (upkeep.LOADING_LOCK,))
    try:
        yield encoded
    finally:
        for item in encoded:
            item.made.unlink(settings.stripe_dir)
        if not catalog.closed:
            with contextlib.suppress(psycopg.Error):
                catalog.execute("SELECT pg_advisory_unlock_shared(%s)", (upkeep.LOADING_LOCK,))


def _exchange(
    catalog: Connection,
    dsn: str,
    encoded: list[ahead.Ahead],
    reader: ahead.Reader,
    settings: process_settings.Settings,
    *,
    patient: bool,
) -> None:
    """Try until nobody has the chunks; `encoded` is empty once its stripes may be published."""
    for timeout, pause in chunkstate.patience(patient=patient):
        with contextlib.suppress(chunkstate.Busy), connections.borrowed(dsn) as node:
            with _transaction(catalog), _transaction(node):
                _replace(catalog, node, encoded, reader, settings, timeout)
            return
        time.sleep(pause)
    raise chunkstate.in_use()


def _replace(
    catalog: Connection,
    node: Connection,
    encoded: list[ahead.Ahead],
    reader: ahead.Reader,
    settings: process_settings.Settings,
    timeout: str,
) -> None:
    """Put stripes in the place of heaps and former stripes, as of now."""
    chunk_ids = [item.made.state.chunk_id for item in encoded]
    former = encoded[0].made.state
    states = chunkstate.load(catalog, former.shard_id, chunk_ids, former)
    by_id = {state.chunk_id: state for state in states}
    if by_id.keys() != set(chunk_ids):
        raise chunkstate.Changed
    changed = [by_id[chunk_id] for chunk_id in chunk_ids]
    for item, state in zip(encoded, changed, strict=True):
        ahead.check(item, state)
    replaced = [by_id[item.made.state.chunk_id] for item in encoded if not item.made.added]
    chunkstate.let_readers(catalog)
    # nobody waits for any of this, so it is done before there is somebody who waits
    gid = chunkstate.new_gid(catalog)
    chunkstate.retire_stripes(catalog, replaced, settings.retired_grace)
    for item in encoded:
        stripes.publish(catalog, item.made)
    chunkstate.label(catalog, [state for state in replaced if state.tier != "hot"], "warm")
    chunkstate.exclude_all(node, states, timeout)
    # DDL that was under way is done now, and no more can come
    if not chunkstate.is_defined_so(catalog, states[0]):
        raise chunkstate.Changed
    deltas = [
        ahead.caught_up(item, reader, node, state) for item, state in zip(encoded, changed, strict=True)
    ]
    node.execute(f"TRUNCATE {', '.join(f'ONLY {state.partition}' for state in changed)}".encode())
    for item, delta, state in zip(encoded, deltas, changed, strict=True):
        ahead.put_back(item, delta, node, state)
    _forget_deleted(node, replaced)
    chunkstate.rename(node, changed)
    counts = [item.made.rows_now + delta.rows for item, delta in zip(encoded, deltas, strict=True)]
    chunkstate.count_up(catalog, changed, counts)
    encoded.clear()  # what is decided from here on, only the catalog knows
    chunkstate.commit(catalog, node, changed[0], gid)


def _attempt(
    coordinator: str,
    shard_id: int,
    chunk_ids: Sequence[int],
    settings: process_settings.Settings,
    step: _Step,
    *,
    whole_shard: bool,
) -> list[Facts]:
    with connections.borrowed(coordinator) as catalog, _transaction(catalog):
        states = chunkstate.load(catalog, shard_id, chunk_ids)
        if not states:
            return []
        dsn = nodes.dsn(settings, states[0].host, states[0].port, states[0].dbname)
        with connections.borrowed(dsn) as node, _transaction(node):
            return step(catalog, node, states, settings, whole_shard)


@contextlib.contextmanager
def _transaction(connection: Connection) -> Iterator[None]:
    """A transaction by plain statements, as psycopg's own does not know PREPARE TRANSACTION."""
    connection.execute("BEGIN")
    try:
        yield
    except BaseException:
        if not connection.closed:
            connection.execute("ROLLBACK")
        raise
    # the step may have ended it
    if connection.pgconn.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        connection.execute("COMMIT")


def _compress(
    catalog: Connection,
    node: Connection,
    states: list[State],
    settings: process_settings.Settings,
    whole_shard: bool,
    *,
    merge: _Choice,
    patient: bool = True,
) -> list[Facts]:
    facts: list[Facts] = []
    states = _stripable(states, facts)
    if states:
        chunkstate.let_readers(catalog)
        chunkstate.exclude_writers(node, states, whole_shard=whole_shard, patient=patient)
        # DDL that was under way is done now, and no more can come
        states = chunkstate.load(catalog, states[0].shard_id, [state.chunk_id for state in states])
        states = _stripable(states, facts)
    new: list[stripes.NewStripes] = []
    try:
        for state in states:
            made = stripes.make(catalog, node, state, settings, merge=merge(node, state))
            if made is None:
                status = "unchanged" if state.stripes else "empty"
                facts.append({"chunk_id": state.chunk_id, "status": status, "rows": 0})
            else:
                new.append(made)
                facts.append(made.facts())
        if not new:
            return facts
        changed = [made.state for made in new]
        chunkstate.exclude_readers(node, changed, whole_shard=whole_shard)
        for state in changed:
            node.execute(f"TRUNCATE ONLY {state.partition}".encode())
        replaced = [made.state for made in new if not made.added]
        _forget_deleted(node, replaced)
        chunkstate.rename(node, changed)
        chunkstate.retire_stripes(catalog, replaced, settings.retired_grace)
        for made in new:
            stripes.publish(catalog, made)
        chunkstate.count_up(catalog, changed, [made.rows_now for made in new])
        chunkstate.label(catalog, [state for state in replaced if state.tier != "hot"], "warm")
    except BaseException:
        for made in new:
            made.unlink(settings.stripe_dir)
        raise
    chunkstate.commit(catalog, node, changed[0], chunkstate.new_gid(catalog))
    return facts


def _stripable(states: Sequence[State], facts: list[Facts]) -> list[State]:
    """Those of the chunks that may be striped; `facts` gets the others."""
    found = [state for state in states if flushing.may_be_striped(state)]
    facts += [
        {"chunk_id": state.chunk_id, "status": "kept", "rows": 0} for state in states if state not in found
    ]
    return found


def _decompress(
    catalog: Connection,
    node: Connection,
    states: list[State],
    settings: process_settings.Settings,
    whole_shard: bool,
) -> list[Facts]:
    facts: list[Facts] = [
        {"chunk_id": state.chunk_id, "status": "unchanged", "rows": 0}
        for state in states
        if not state.stripes
    ]
    changed = [state for state in states if state.stripes]
    if not changed:
        return facts
    chunkstate.let_readers(catalog)
    chunkstate.exclude_writers(node, changed, whole_shard=whole_shard)
    chunkstate.moving(node)
    counts = []
    for state in changed:
        stored = [column for column in state.definition.columns if not column.generated]
        rows = stripes.copy_rows(node, state, settings, state.partition, stored)
        row = node.execute(f"SELECT count(*) FROM {state.partition}".encode()).fetchone()
        assert row is not None
        counts.append(int(row[0]))
        facts.append({"chunk_id": state.chunk_id, "status": "decompressed", "rows": rows})
    _forget_deleted(node, changed)
    chunkstate.exclude_readers(node, changed, whole_shard=whole_shard)
    chunkstate.rename(node, changed)
    chunkstate.retire_stripes(catalog, changed, settings.retired_grace)
    chunkstate.count_up(catalog, changed, counts)
    chunkstate.label(catalog, changed, "hot")
    chunkstate.commit(catalog, node, changed[0], chunkstate.new_gid(catalog))
    return facts


def _forget_deleted(node: Connection, states: Sequence[State]) -> None:
    stripe_ids = [stripe.stripe_id for state in states for stripe in state.stripes]
    if stripe_ids:
        node.execute("DELETE FROM orochi_data.delete_vectors WHERE stripe_id = ANY(%s)", (stripe_ids,))
