"""What a rehearsed statement did to its copies, done to the shards.

Rows are locked first, by version: if any has changed since it was read, nothing is done and the
statement is rehearsed again over what is there now. Then rows go, change and come, in this order,
all within the session's transaction on each node.
"""

from __future__ import annotations

import collections
import functools
import secrets
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.engine import copybinary
from orochi.executor import context
from orochi.operations import copies, recall, redistribute, referencing, routing, writes
from orochi.planner import fragment as fragments
from orochi.planner import quoting

_TARGETS = "ROWS FROM (pg_catalog.unnest($1::pg_catalog.oid[]), pg_catalog.unnest($2::pg_catalog.tid[])"
_RELATION = fragments.OutputColumn("orochi_relation", 20, -1, "bigint")
_TID = fragments.OutputColumn("orochi_tid", 25, -1, "text")
#: A foreign key that would do more than refuse, where a row is deleted to be inserted elsewhere.
_ACTIONS = """
SELECT c.conname FROM pg_catalog.pg_constraint c
WHERE c.contype = 'f' AND c.confrelid = $1::pg_catalog.oid
    AND (c.confdeltype NOT IN ('a', 'r') OR c.confupdtype NOT IN ('a', 'r')) LIMIT 1
"""


async def lock(
    session: context.Session, copied: copies.Copied, numbers: npt.NDArray[np.int64], clause: str
) -> npt.NDArray[np.int64]:
    """Lock rows where they came from; the numbers of those that are still as they were read."""
    table = copied.table
    groups = _by_shard(copied, numbers)
    waits = not clause.endswith(("NOWAIT", "SKIP LOCKED"))
    if waits and len({table.shards[index].node_id for index in groups}) > 1:
        await writes.take_turns(session, table)
    work: dict[int, list[Callable[[], Awaitable[npt.NDArray[np.int64]]]]] = {}
    for index, members in groups.items():
        job = functools.partial(_lock_shard, session, copied, table.shards[index], members, clause)
        work.setdefault(table.shards[index].node_id, []).append(job)
    found = [part for parts in (await writes.per_node(work)).values() for part in parts] if work else []
    return np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)


async def _lock_shard(
    session: context.Session,
    copied: copies.Copied,
    shard: snapshots.Shard,
    members: npt.NDArray[np.int64],
    clause: str,
) -> npt.NDArray[np.int64]:
    connection = await session.transaction.node(shard.node_id, write=True)
    sql = (
        f"SELECT s.n FROM {_TARGETS}, pg_catalog.unnest($3::pg_catalog.xid[])) WITH ORDINALITY AS s(r, t, x, n) "
        f"JOIN {routing.relation(copied.table, shard)} AS o ON o.ctid = s.t AND o.tableoid = s.r AND o.xmin = s.x "
        f"ORDER BY s.n {clause.replace('UPDATE', 'UPDATE OF o').replace('SHARE', 'SHARE OF o')}"
    )
    xids = _array(copied.xids.take(pa.array(members)).to_pylist())
    result = await connection.fetch(sql, (*_origin(copied, members), xids), (0, 0, 0))
    return members[np.array([int(row[0] or b"0") - 1 for row in result.rows], np.int64)]


async def apply(session: context.Session, changes: copies.Changes) -> None:
    """Do to the shards what was done to a copy whose changed rows are locked."""
    copied = changes.copied
    if changes.moved.size:
        await _refuse_actions(session, copied.table)
    gone = np.concatenate([changes.deleted, changes.moved])
    if gone.size or (copied.plan.keyed and changes.updated.num_rows):
        await referencing.recalled(session, copied.table, copied.plan.predicates)
    if copied.table.kind is snapshots.TableKind.REFERENCE:
        await _apply_everywhere(session, changes, gone)
    else:
        await _per_shard(session, copied, gone, functools.partial(_delete, session))
        await _update(session, changes)
    if changes.inserted:
        columns = [column.name for column in copied.columns]
        relation = f"(SELECT * FROM pg_temp.{copied.base} WHERE orochi_row IS NULL) AS orochi_new"
        await redistribute.load_relation(session, copied.table, relation, columns)


async def _refuse_actions(session: context.Session, table: snapshots.Table) -> None:
    found = await session.coordinator.fetch(_ACTIONS, (str(table.oid).encode(),), (0,))
    if found.rows:
        name = (found.rows[0][0] or b"").decode()
        raise errors.FeatureNotSupported(
            f'cannot move rows of table "{table.name}" to another shard: foreign key "{name}" follows them',
            hint="Delete the row and insert it again, in one transaction.",
        )


async def _per_shard(
    session: context.Session,
    copied: copies.Copied,
    numbers: npt.NDArray[np.int64],
    act: Callable[[copies.Copied, snapshots.Shard, npt.NDArray[np.int64]], Awaitable[None]],
) -> None:
    work: dict[int, list[Callable[[], Awaitable[None]]]] = {}
    for index, members in _by_shard(copied, numbers).items():
        shard = copied.table.shards[index]
        work.setdefault(shard.node_id, []).append(functools.partial(act, copied, shard, members))
    if work:
        await writes.per_node(work)


async def _delete(
    session: context.Session, copied: copies.Copied, shard: snapshots.Shard, members: npt.NDArray[np.int64]
) -> None:
    await _delete_at(session, copied.table, shard, shard.node_id, _origin(copied, members))


async def _delete_at(
    session: context.Session,
    table: snapshots.Table,
    shard: snapshots.Shard,
    node_id: int,
    origin: tuple[bytes, bytes],
) -> None:
    connection = await session.transaction.node(node_id, write=True)
    await connection.fetch(
        f"DELETE FROM {routing.relation(table, shard)} AS o USING {_TARGETS}) AS s(r, t) "
        "WHERE o.ctid = s.t AND o.tableoid = s.r",
        origin,
        (0, 0),
    )


async def _update(session: context.Session, changes: copies.Changes) -> None:
    """Give the rows that stay in their shards their new values."""
    if not changes.updated.num_rows:
        return
    copied, batch = changes.copied, changes.updated
    table = await _prepare_chunks(session, changes)
    numbers = batch.column(0).to_numpy(zero_copy_only=False).astype(np.int64)
    work: dict[int, list[Callable[[], Awaitable[None]]]] = {}
    for index in np.unique(copied.shards[numbers]):
        rows = batch.filter(pa.array(copied.shards[numbers] == index))
        members = rows.column(0).to_numpy(zero_copy_only=False).astype(np.int64)
        shard = table.shards[int(index)]
        relations, tids = copied.relations[members], copied.tids.take(pa.array(members))
        job = functools.partial(
            _update_at, session, copied, shard, shard.node_id, relations, tids.combine_chunks(), rows
        )
        work.setdefault(shard.node_id, []).append(job)
    await writes.per_node(work)


async def _prepare_chunks(session: context.Session, changes: copies.Changes) -> snapshots.Table:
    """Chunks for the new times, and stripe rows that the new keys may collide with in the heap."""
    copied, batch = changes.copied, changes.updated
    table, names = copied.table, [column.name for column in copied.columns]
    dimension = table.dimension
    keys = {name for key in table.unique_keys for name in key}
    if dimension is not None:
        keys.add(dimension.column)
        times = batch.column(1 + names.index(dimension.column))
        if dimension.column in copied.plan.assigned:
            known = times.drop_null().to_numpy(zero_copy_only=False)
            table = await routing.ensure_chunks(session, table, known)
    if copied.plan.keyed:
        numbers = batch.column(0).to_numpy(zero_copy_only=False).astype(np.int64)
        for index in np.unique(copied.shards[numbers]):
            if table.shards[int(index)].has_stripes:
                mask = pa.array(copied.shards[numbers] == index)
                rows = {
                    name: batch.column(1 + names.index(name)).filter(mask) for name in keys if name in names
                }
                await recall.conflicting(session, table, table.shards[int(index)], rows)
    return table


async def _update_at(
    session: context.Session,
    copied: copies.Copied,
    shard: snapshots.Shard,
    node_id: int,
    relations: npt.NDArray[np.int64],
    tids: pa.Array,
    rows: pa.RecordBatch,
) -> None:
    """New values for the rows at these places of one placement, by way of a table there.

    Not a temporary table: PostgreSQL refuses PREPARE TRANSACTION after one was touched.
    """
    chosen = [
        (at, column) for at, column in enumerate(copied.columns, 1) if column.name in copied.plan.assigned
    ]
    columns = (_RELATION, _TID, *(column for _, column in chosen))
    batch = pa.RecordBatch.from_arrays(
        [pa.array(relations), _flat(tids), *(rows.column(at) for at, _ in chosen)],
        schema=copybinary.schema(columns),
    )
    stage = f"orochi_data.stage_{secrets.token_hex(8)}"
    connection = await session.transaction.node(node_id, write=True)
    definition = ", ".join(f"{quoting.identifier(column.name)} {column.type_name}" for column in columns)
    await connection.query(f"CREATE UNLOGGED TABLE {stage} ({definition})")
    await connection.copy_in(f"COPY {stage} FROM STDIN (FORMAT binary)", [copybinary.encode(batch, columns)])
    assignments = ", ".join(
        f"{quoting.identifier(column.name)} = s.{quoting.identifier(column.name)}" for _, column in chosen
    )
    await connection.query(
        f"UPDATE {routing.relation(copied.table, shard)} AS o SET {assignments} FROM {stage} AS s "
        "WHERE o.ctid = s.orochi_tid::pg_catalog.tid AND o.tableoid = s.orochi_relation::pg_catalog.oid"
    )
    await connection.query(f"DROP TABLE {stage}")


async def _apply_everywhere(
    session: context.Session, changes: copies.Changes, gone: npt.NDArray[np.int64]
) -> None:
    """A reference table: the same rows on every placement, found there by what they look like."""
    copied = changes.copied
    table, shard = copied.table, copied.table.shards[0]
    updated = changes.updated.column(0).to_numpy(zero_copy_only=False).astype(np.int64)
    if len(shard.node_ids) > 1:
        await writes.take_turns(session, table)
    for node_id in shard.node_ids if gone.size or updated.size else ():
        relations, tids = copied.relations, copied.tids
        if node_id != shard.node_id:
            relations, tids = await _same_rows(session, copied, node_id, np.concatenate([gone, updated]))
        if gone.size:
            taken = tids.take(pa.array(gone)).to_pylist()
            origin = (_array(relations[gone].tolist()), _array(taken))
            await _delete_at(session, table, shard, node_id, origin)
        if updated.size:
            await _update_at(
                session,
                copied,
                shard,
                node_id,
                relations[updated],
                tids.take(pa.array(updated)),
                changes.updated,
            )


async def _same_rows(
    session: context.Session, copied: copies.Copied, node_id: int, wanted: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], pa.Array]:
    """Where the wanted rows are on another placement, by row number; equal rows are as good as each other.

    Raises:
        OrochiError: the placements differ.
    """
    connection = await session.transaction.node(node_id, write=True)
    there = await copies.read_origins(connection, copied.table, copied.table.shards[0], ())
    places: dict[str, collections.deque[int]] = {}
    for at, image in enumerate(there.column(3).to_pylist()):
        places.setdefault(image, collections.deque()).append(at)
    relations = np.zeros(len(copied.shards), np.int64)
    tids: list[str] = ["(0,0)"] * len(copied.shards)
    here = copied.images.to_pylist()
    known, known_tids = there.column(0).to_numpy(zero_copy_only=False), there.column(1).to_pylist()
    for number in wanted.tolist():
        found = places.get(here[number])
        if not found:
            raise errors.OrochiError(f'placements of reference table "{copied.table.name}" differ')
        at = found.popleft()
        relations[number], tids[number] = known[at], known_tids[at]
    return relations, pa.array(tids)


def _by_shard(copied: copies.Copied, numbers: npt.NDArray[np.int64]) -> dict[int, npt.NDArray[np.int64]]:
    of = copied.shards[numbers]
    return {int(index): numbers[of == index] for index in np.unique(of)}


def _origin(copied: copies.Copied, members: npt.NDArray[np.int64]) -> tuple[bytes, bytes]:
    tids = copied.tids.take(pa.array(members)).to_pylist()
    return _array(copied.relations[members].tolist()), _array(tids)


def _array(values: Sequence[object]) -> bytes:
    return ("{" + ",".join(f'"{value}"' for value in values) + "}").encode()


def _flat(array: pa.Array) -> pa.Array:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
