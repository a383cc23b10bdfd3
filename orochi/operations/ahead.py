"""Stripe rows moved into the heap ahead of the statement that needs them there.

A move changes nothing that anybody can read, so it need not share the fate of the client's transaction: it is
committed at once, and from then on the rows are PostgreSQL's own to lock, row by row. Statements
that want the same rows wait for each other as they would on a plain table, or skip what others have.

Where the session could not see rows that have just moved (a snapshot of before), or a transaction of
its own has more than is committed (a changed catalog, rows recalled before), they are recalled in
its own transaction instead. So they are if the move meets a lock: nothing here waits for long, as a
wait of this second connection for the client's own first would be seen by nobody. Moves of one
shard take turns, so that none of them is ever in another's way.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pyarrow as pa
import structlog

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import claims, writes
from orochi.pgwire import client
from orochi.planner import fragment as fragments

log = structlog.get_logger()

#: First part of the key of the advisory lock of a shard's moves.
_TURNS = 0x4F4D
#: A writer of stripes that wants the shard for itself gives up its place sooner, but for its last tries.
_SHARD_MS = 3_000
#: Who holds the turn waits for nobody for long.
_TURN_MS = 10_000
#: Less than PostgreSQL's deadlock_timeout, so that no client's transaction is ended for a move's sake.
_LOCK_MS = 500
#: The same for a statement that is not to wait for rows.
_SHORT_LOCK_MS = 100


def is_possible(session: context.Session, shard: snapshots.Shard) -> bool:
    """Whether the session will see rows that move now, and only what is committed is to be moved."""
    transaction = session.transaction
    if session.catalog_is_own or not session.runtime.nodes.has_room(shard.node_id):
        return False
    if transaction.isolation == "read committed":
        participant = transaction.participants.get(shard.node_id)
        return participant is None or not participant.recalled
    return not transaction.participants  # the snapshot is taken when the first node joins


async def move(
    session: context.Session,
    table: snapshots.Table,
    shard: snapshots.Shard,
    relation: str,
    columns: tuple[fragments.OutputColumn, ...],
    batch: pa.RecordBatch,
    others: claims.Others,
) -> int | None:
    """Move stripe rows (their stripe and number come after `columns`); how many there were, None if it cannot be.

    Rows that another transaction has are not waited for, whatever the statement would do about them (`others`).

    Raises:
        RemoteError: 57014, the statement was cancelled, or the layout is not what it was.
    """
    logged = bool(session.snapshot().aggregates_of(table.oid))
    patience = _LOCK_MS if others is claims.Others.AWAIT else _SHORT_LOCK_MS
    try:
        async with _transaction(session, shard) as connection:
            await connection.query(
                f"SET LOCAL lock_timeout = '{_SHARD_MS}ms';"
                f" LOCK TABLE ONLY {relation} IN ROW EXCLUSIVE MODE;"
                f" SET LOCAL lock_timeout = '{_TURN_MS}ms';"
                f" SELECT pg_catalog.pg_advisory_xact_lock({_TURNS}, {int(shard.shard_id) & 0x7FFFFFFF});"
                f" SET LOCAL lock_timeout = '{patience}ms'"
            )
            found = await claims.claimed(connection, table.name, len(columns), batch, claims.Others.AWAIT)
            return await claims.moved(connection, relation, columns, found, logged=logged)
    except errors.OrochiError as error:
        if error.sqlstate == "57014" or writes.is_stale(error):
            raise
        log.info("recall.not_ahead", table=table.name, shard=int(shard.shard_id), error=error.message)
        return None  # what is wrong, the session's own transaction will tell


def check_unseen(session: context.Session) -> None:
    """After a move in a block of one snapshot: it must not have been taken meanwhile, as by a recall on another node.

    Raises:
        SerializationFailure: it was.
    """
    if session.transaction.participants:
        raise errors.SerializationFailure(
            "could not serialize access due to concurrent update", hint="Run the transaction again."
        )


@contextlib.asynccontextmanager
async def _transaction(
    session: context.Session, shard: snapshots.Shard
) -> AsyncIterator[client.PgConnection]:
    """A transaction beside the session's own, to be cancelled with its statement."""
    async with session.runtime.nodes.lease(shard.node_id, session.settings) as connection:
        session.transaction.beside.add(connection)
        try:
            await connection.query("BEGIN")
            yield connection
            await connection.query("COMMIT")
        except errors.OrochiError:
            if not connection.closed and not connection.busy and connection.status != "I":
                with contextlib.suppress(errors.OrochiError):
                    await connection.query("ROLLBACK")
            raise
        finally:
            session.transaction.beside.discard(connection)
