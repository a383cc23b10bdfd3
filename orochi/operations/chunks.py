"""Makes the chunks that rows need, on every shard of a hypertable, just before the rows come.

For a table that others can see this is done apart from the client's transaction, so that two
clients who need the same chunk do not wait for each other's commits; a chunk that stays empty does
no harm. Nodes commit first and the catalog last: what a crash leaves between the two is an empty
partition that no catalog row names, and the next one who needs that range removes it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy.typing as npt

from orochi import errors, ids
from orochi.catalog import definition as definitions
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import aggregate_log, shells
from orochi.pgwire import client
from orochi.timeseries import ranges

#: First part of the key of the advisory lock that is held on a table while chunks are made.
_LOCK = 0x4F43
#: Partitions made in one transaction of a node; each takes several entries of its lock table.
_BATCH = 100
_LOCK_TIMEOUT = "3s"
_ATTEMPTS = 4
#: The catalog's foreign key: the shards were replaced before the chunks were entered.
_SHARDS_GONE = "23503"
#: The shell or its shards changed between reading its definition and attaching.
_RETRIED = frozenset({"42804", "42703", "42P16", "3F000", "42P01", _SHARDS_GONE})
_OVERLAP, _LOCK_NOT_AVAILABLE = "42P17", "55P03"

Range = tuple[int, int]


@dataclasses.dataclass(frozen=True, slots=True)
class _Target:
    """Where a chunk of a shard goes."""

    shard_id: int
    layout: int
    node_ids: tuple[int, ...]

    @property
    def schema(self) -> str:
        return f"orochi_s{self.shard_id}_{self.layout}"


async def ensure(
    session: context.Session, table: snapshots.Table, raw_values: Iterable[int] | npt.NDArray[Any]
) -> None:
    """Have chunks for all of `raw_values`, and a snapshot in the session that knows them."""
    dimension = table.dimension
    assert dimension is not None
    values = [int(value) for value in raw_values]
    missing = missing_ranges(dimension, _existing(table), values)
    if not missing:
        return
    _check_current(session, table)
    if _is_shared(session, table) and not await _holds_lock(session, table):
        try:
            await _make_apart(session, table, values)
            await session.runtime.refresh()
            if session.snapshot() is not session.runtime.snapshot() and not session.catalog_is_own:
                session.plan_anew()
            if session.snapshot() is not session.runtime.snapshot():
                await session.catalog_changed()
            return
        except errors.RemoteError as error:
            # Who has made some in a transaction of theirs may wait for this one, which only a wait of its own
            # session's shows: then this makes them itself.
            if error.sqlstate != _LOCK_NOT_AVAILABLE:
                raise
    await _make_inside(session, table, values)
    await session.catalog_changed()


def missing_ranges(
    dimension: snapshots.TimeDimension, existing: Sequence[Range], values: Iterable[int]
) -> list[Range]:
    """The ranges to be made for those of `values` that no range in `existing` (sorted) holds.

    Where the interval was changed, a new range is cut so that it does not overlap an old one.
    """
    made = list(existing)
    found: list[Range] = []
    for raw in sorted(set(values)):
        if any(start <= raw < end for start, end in made):
            continue
        start, end = ranges.chunk_range(dimension.type_oid, dimension.interval, raw)
        start = max([start, *(e for _, e in made if e <= raw)])
        end = min([end, *(s for s, _ in made if s > raw)])
        made.append((start, end))
        found.append((start, end))
    return found


def _existing(table: snapshots.Table) -> list[Range]:
    return [(chunk.range_start, chunk.range_end) for chunk in table.shards[0].chunks]


def _check_current(session: context.Session, table: snapshots.Table) -> None:
    """That others have not changed the table's shards since the session's plan was made.

    Raises:
        StalePlan: they have; new partitions would be attached to what is no longer there.
    """
    newest = session.snapshot().tables.get(table.oid)
    if newest is None or _layouts(newest) != _layouts(table):
        raise errors.StalePlan(f'the shards of "{table.name}" have another layout')


def _is_shared(session: context.Session, table: snapshots.Table) -> bool:
    """Whether other sessions see the table just as this one does."""
    committed = session.runtime.snapshot().tables.get(table.oid)
    if committed is None:
        return False
    old = session.catalog_is_own or bool(session.transaction.participants)
    if old and session.transaction.isolation != "read committed":
        return False  # what is committed now, it would not see
    return _layouts(committed) == _layouts(table)


def _layouts(table: snapshots.Table) -> list[tuple[int, int]]:
    return [(shard.shard_id, shard.layout) for shard in table.shards]


async def _holds_lock(session: context.Session, table: snapshots.Table) -> bool:
    """Whether this transaction has made chunks of the table inside itself, if only in an attempt that was taken back:
    apart from it would wait for it, and PostgreSQL would not see that one waits for the other.
    """
    if session.coordinator.status == "I":
        return False
    found = await session.coordinator.query(
        "SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()"
        f" AND granted AND classid = {_LOCK} AND objid = {table.oid} AND objsubid = 1"
    )
    return bool(found[-1].rows)


async def _make_apart(session: context.Session, table: snapshots.Table, values: Sequence[int]) -> None:
    for attempt in range(_ATTEMPTS):
        async with session.runtime.service() as catalog:
            try:
                while await _make_batch(session, catalog, table, values):
                    pass
                return
            except errors.RemoteError as error:
                await catalog.query("ROLLBACK")
                if error.sqlstate == _OVERLAP and attempt < _ATTEMPTS - 1:
                    await _drop_orphans(session, catalog, table.oid)
                elif error.sqlstate not in _RETRIED or attempt == _ATTEMPTS - 1:
                    raise
            except BaseException:
                catalog.close()
                raise
        await asyncio.sleep(0.05 * (attempt + 1))


async def _make_batch(
    session: context.Session, catalog: client.PgConnection, table: snapshots.Table, values: Sequence[int]
) -> bool:
    """Make some of the missing chunks and commit; whether more may be missing."""
    dimension = table.dimension
    assert dimension is not None
    await catalog.query("BEGIN")
    await catalog.query(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
    session.transaction.beside.add(catalog)  # the client may cancel this wait
    try:
        await catalog.query(f"SELECT pg_advisory_xact_lock({_LOCK << 32 | table.oid})")
    finally:
        session.transaction.beside.discard(catalog)
    targets, existing, shell = await _fresh(catalog, table.oid)
    missing = missing_ranges(dimension, existing, values)
    per_node = max(
        sum(node in t.node_ids for t in targets) for node in {n for t in targets for n in t.node_ids}
    )
    some = missing[: max(1, _BATCH // per_node)]
    if not some:
        await catalog.query("COMMIT")
        return False
    inserted = await catalog.query(_insert_sql(targets, some))
    rows = [tuple(int(value or b"0") for value in row) for row in inserted[-1].rows]
    work = _ddl(shell, dimension, targets, rows)
    async with _NodeTransactions(session) as nodes:
        await asyncio.gather(*(nodes.run(node_id, statements) for node_id, statements in work.items()))
        await nodes.commit()
    await catalog.query("COMMIT")
    return len(some) < len(missing)


async def _fresh(
    catalog: client.PgConnection, oid: int
) -> tuple[list[_Target], list[Range], definitions.Definition]:
    """The table as committed now, read under the lock."""
    shards, chunks, shell = await catalog.query(
        "SELECT s.shard_id, s.layout, string_agg(p.node_id::text, ',' ORDER BY p.ordinal)"
        " FROM orochi.orochi_shards s JOIN orochi.orochi_shard_placements p USING (shard_id)"
        f" WHERE s.table_oid = {oid} GROUP BY s.shard_id ORDER BY s.shard_index;"
        "SELECT DISTINCT range_start, range_end FROM orochi.orochi_chunks c"
        f" JOIN orochi.orochi_shards s USING (shard_id) WHERE s.table_oid = {oid} ORDER BY 1;"
        f"SELECT orochi._table_definition({oid})"
    )
    targets = [
        _Target(int(shard or b"0"), int(layout or b"0"), tuple(int(n) for n in (nodes or b"").split(b",")))
        for shard, layout, nodes in shards.rows
    ]
    text = shell.rows[0][0] if shell.rows else None
    if not targets or text is None:
        raise errors.StalePlan("the table is gone")
    existing = [
        (
            int(start or b"0"),
            ranges.END_OF_TIME if int(end or b"0") == ranges.END_OF_TIME - 1 else int(end or b"0"),
        )
        for start, end in chunks.rows
    ]
    return targets, existing, definitions.from_json(json.loads(text))


async def _make_inside(session: context.Session, table: snapshots.Table, values: Sequence[int]) -> None:
    """Make chunks in the client's own transaction: the table is, as yet, its own."""
    dimension = table.dimension
    assert dimension is not None
    await session.catalog_execute(f"SELECT count(*) FROM pg_advisory_xact_lock({_LOCK << 32 | table.oid})")
    if session.transaction.isolation == "read committed":
        await session.catalog_changed()  # whoever had the lock may have made them
        _check_current(session, table)
        table = session.snapshot().current(table.oid)
    missing = missing_ranges(dimension, _existing(table), values)
    if not missing:
        return
    targets = [_Target(shard.shard_id, shard.layout, shard.node_ids) for shard in table.shards]
    shell = await shells.definition(session, table.oid)
    try:
        inserted = await session.catalog_execute(_insert_sql(targets, missing))
    except errors.RemoteError as error:
        if error.sqlstate == _SHARDS_GONE:
            raise errors.StalePlan(f'the shards of "{table.name}" are others') from error
        if error.sqlstate != "23505":
            raise
        raise errors.SerializationFailure(
            f'chunks of "{table.name}" were made during the transaction', hint="Run the transaction again."
        ) from error
    rows = [tuple(int(str(value)) for value in row) for row in inserted]
    session.transaction.chunks_made += [chunk_id for chunk_id, *_ in rows]
    await shells.run_on_nodes(session, _ddl(shell, dimension, targets, rows))
    if session.transaction.isolation != "read committed":
        await _check_followed(session, table)


async def _check_followed(session: context.Session, table: snapshots.Table) -> None:
    """That new chunks have the triggers of aggregates which the transaction's old snapshots do not show.

    Raises:
        SerializationFailure: they do not.
    """
    newest = await session.runtime.refresh()
    known = {item.aggregate_id for item in session.snapshot().aggregates}
    unknown = [item for item in newest.aggregates_of(table.oid) if item.aggregate_id not in known]
    if not unknown:
        return
    # NULL of a view that the transaction itself has dropped; other snapshots than the transaction's decide
    oids = ", ".join(str(item.view_oid) for item in unknown)
    found = await session.coordinator.query(
        "SELECT FROM pg_catalog.unnest(ARRAY["
        f"{oids}]::pg_catalog.oid[]) o WHERE pg_catalog.has_table_privilege(o, 'SELECT') IS NOT NULL"
    )
    if found[-1].rows:
        raise errors.SerializationFailure(
            f'continuous aggregates of "{table.name}" were made during the transaction',
            hint="Run the transaction again.",
        )


def _insert_sql(targets: Sequence[_Target], missing: Sequence[Range]) -> str:
    values = ", ".join(
        f"({target.shard_id}, {start}, {ranges.stored_end(end)})"
        for start, end in missing
        for target in targets
    )
    return (
        f"INSERT INTO orochi.orochi_chunks (shard_id, range_start, range_end) VALUES {values}"
        " RETURNING chunk_id, shard_id, range_start, range_end"
    )


def _ddl(
    shell: definitions.Definition,
    dimension: snapshots.TimeDimension,
    targets: Sequence[_Target],
    rows: Sequence[tuple[int, ...]],
) -> dict[int, list[str]]:
    """Each node's statements that make and attach the partitions of new catalog rows."""
    by_shard = {target.shard_id: target for target in targets}
    work: dict[int, list[str]] = {}
    for chunk_id, shard_id, start, end in rows:
        target = by_shard[shard_id]
        bounds = ranges.bounds_sql(dimension.type_oid, start, end)
        statements = definitions.create_partition(shell, target.schema, f"orochi_c{chunk_id}_0", bounds)
        statements.append(aggregate_log.follow_sql(target.schema, shell.name))
        for node_id in target.node_ids:
            work.setdefault(node_id, []).extend(statements)
    return work


async def _drop_orphans(session: context.Session, catalog: client.PgConnection, oid: int) -> None:
    """Remove partitions that a crash left without a catalog row; they were never written to."""
    await catalog.query("BEGIN")
    await catalog.query(f"SELECT pg_advisory_xact_lock({_LOCK << 32 | oid})")
    targets, _, shell = await _fresh(catalog, oid)
    result = await catalog.query(
        "SELECT c.chunk_id FROM orochi.orochi_chunks c JOIN orochi.orochi_shards s USING (shard_id)"
        f" WHERE s.table_oid = {oid}"
    )
    known = {int(row[0] or b"0") for row in result[-1].rows}
    for target in targets:
        for node_id in target.node_ids:
            async with session.runtime.nodes.lease(node_id, {}) as node:
                await _drop_unknown(
                    node, f"{definitions.quote(target.schema)}.{definitions.quote(shell.name)}", known
                )
    await catalog.query("COMMIT")


async def _drop_unknown(node: client.PgConnection, parent: str, known: set[int]) -> None:
    found = await node.query(
        "SELECT n.nspname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace"
        f" WHERE i.inhparent = {definitions.quote_literal(parent)}::regclass"
    )
    name = parent.partition(".")[2] if parent.startswith('"orochi_s') else parent
    for row in found[-1].rows:
        schema = (row[0] or b"").decode()
        number = schema.removeprefix("orochi_c").partition("_")[0]
        if not number.isdigit() or ids.ChunkId(int(number)) in known:
            continue
        partition = f"{definitions.quote(schema)}.{name}"
        body = (
            f"BEGIN IF EXISTS (SELECT FROM {partition}) THEN"
            f" RAISE EXCEPTION 'partition % without a catalog row holds rows', {definitions.quote_literal(schema)};"
            f" END IF; DROP SCHEMA {definitions.quote(schema)} CASCADE; END"
        )
        await node.query(f"DO {definitions.quote_literal(body)}")


class _NodeTransactions:
    """Transactions of pooled node connections that commit together, or not at all before the first does."""

    def __init__(self, session: context.Session) -> None:
        self._session = session
        self._open: dict[int, client.PgConnection] = {}

    async def __aenter__(self) -> Self:
        return self

    async def run(self, node_id: int, statements: Sequence[str]) -> None:
        """Begin on the node and run `statements`."""
        pool = self._session.runtime.nodes
        connection = await pool.acquire(node_id, {})
        self._open[node_id] = connection
        await connection.query(f"BEGIN; SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        await connection.query(";\n".join(statements))

    async def commit(self) -> None:
        """Commit on every node."""
        await asyncio.gather(*(connection.query("COMMIT") for connection in self._open.values()))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        for connection in self._open.values():
            if not connection.closed and not connection.busy and connection.status != "I":
                await connection.query("ROLLBACK")
            self._session.runtime.nodes.release(connection)
