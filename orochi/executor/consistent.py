"""One snapshot of several nodes: all of a two-phase commit, or nothing of it.

A commit is torn for a reader whose snapshots lie before it on one node and after it on another. So
committers hold `twophase.COMMIT_LOCK` shared from their decision until every node has committed, and
whoever takes snapshots holds it exclusively meanwhile. The lock ends with its holder: what a dead
committer has decided but not finished is seen by its prepared transactions, and finished here first.
As nothing is decided while we hold the lock, a prepared transaction without a decision is nowhere
visible yet, and stays so until the snapshots are taken.

The order matters: what is prepared is read before the snapshot is taken, decisions are read after
that. All that is needed is connected beforehand, and nothing done under the lock waits for another
lock, so it is held for two round trips and never in a cycle. A holder that stops is ended by the server.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from orochi import errors
from orochi.catalog import twophase
from orochi.pgwire import client

if TYPE_CHECKING:
    from orochi.executor import node_pool

_HOLD_SECONDS = 10
_WAIT_SECONDS = 60
_ROUNDS, _PAUSE_SECONDS = 200, 0.05

_LOCK = (
    "BEGIN; "
    f"SET LOCAL idle_in_transaction_session_timeout = '{_HOLD_SECONDS}s'; "
    f"SET LOCAL lock_timeout = '{_WAIT_SECONDS}s'; "
    f"SELECT pg_catalog.pg_advisory_xact_lock({twophase.COMMIT_LOCK})"
)
# A block of its own reads what is prepared: the snapshot is taken by the first statement of the next.
_TAKE = """BEGIN;
SELECT p.gid FROM pg_catalog.pg_prepared_xact() p JOIN pg_catalog.pg_database d ON d.oid = p.dbid
WHERE d.datname = pg_catalog.current_database() AND pg_catalog.starts_with(p.gid, '{prefix}');
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ {mode};
{first}"""
_DECIDED = """SELECT DISTINCT gid FROM orochi.orochi_transactions
WHERE gid = ANY ($1::pg_catalog.text[]) AND node_id <> $2::pg_catalog.int4"""
_EXPORT = (
    "SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL statement_timeout = 0; "
    "SELECT pg_catalog.pg_export_snapshot()"
)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Request:
    connections: tuple[client.PgConnection, ...]
    export: bool
    done: asyncio.Future[tuple[str, ...]]


class Taker:
    """Takes snapshots for all sessions of a gateway: those that ask at the same time share the lock."""

    def __init__(self, pool: node_pool.NodePool) -> None:
        self._pool = pool
        self._waiting: list[_Request] = []
        self._task: asyncio.Task[None] | None = None

    async def take(self, connections: Sequence[client.PgConnection], *, export: bool) -> tuple[str, ...]:
        """Open a REPEATABLE READ transaction on each connection, all with one snapshot of the nodes.

        Args:
            connections: one to each node, outside any transaction.
            export: read only, and for others to use: the snapshots' names are returned.

        Raises:
            OrochiError: no snapshot was taken; the connections are good for nothing.
        """
        loop = asyncio.get_running_loop()
        request = _Request(tuple(connections), export, loop.create_future())
        self._waiting.append(request)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run())
        return await request.done

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self._waiting:
            batch: list[_Request] = []
            try:
                prefix = twophase.gid(await self._pool.cluster_id(), "")
                async with self._pool.service() as catalog:
                    await catalog.query(_LOCK)
                    batch, self._waiting = self._waiting, []
                    found = await asyncio.gather(
                        *(_serve(catalog, prefix, request) for request in batch), return_exceptions=True
                    )
                    await catalog.query("COMMIT")  # an error here means that the lock was lost
            except BaseException as error:
                batch, self._waiting = batch + self._waiting, []
                _fail(batch, error)
                if not isinstance(error, Exception):
                    raise
                continue
            for request, result in zip(batch, found, strict=True):
                if isinstance(result, BaseException):
                    _fail((request,), result)
                elif not request.done.done():
                    request.done.set_result(result)


def _fail(requests: Iterable[_Request], error: BaseException) -> None:
    if not isinstance(error, errors.OrochiError):
        error = errors.NodeUnavailable(f"no snapshot of the nodes could be taken: {error}")
    for request in requests:
        if not request.done.done():
            request.done.set_exception(error)


async def _serve(catalog: client.PgConnection, prefix: str, request: _Request) -> tuple[str, ...]:
    sql = _TAKE.format(
        prefix=prefix.replace("'", "''"),
        mode="READ ONLY" if request.export else "READ WRITE",
        first=_EXPORT if request.export else "SELECT 1",
    )
    for _ in range(_ROUNDS):
        answers = await asyncio.gather(*(connection.query(sql) for connection in request.connections))
        prepared = [[(row[0] or b"").decode() for row in answer[1].rows] for answer in answers]
        decided = await _decided(catalog, {twophase.gid_of(branch) for some in prepared for branch in some})
        if not decided:
            return tuple((answer[-1].rows[0][0] or b"").decode() for answer in answers)
        for connection, branches in zip(request.connections, prepared, strict=True):
            await connection.query("ROLLBACK")
            for branch in branches:
                if twophase.gid_of(branch) in decided:
                    await _finish(connection, branch)
    raise errors.SerializationFailure(
        "a two-phase commit could not be finished, so no snapshot of all nodes could be taken",
        hint="Run the statement again.",
    )


async def _decided(catalog: client.PgConnection, gids: set[str]) -> frozenset[str]:
    if not gids:
        return frozenset()
    listed = "{" + ",".join(f'"{gid}"' for gid in gids) + "}"
    result = await catalog.fetch(_DECIDED, (listed.encode(), str(twophase.MARKER_NODE).encode()))
    return frozenset((row[0] or b"").decode() for row in result.rows)


async def _finish(connection: client.PgConnection, branch: str) -> None:
    """Commit what a dead gateway decided; recovery or a late gateway may be at it too."""
    try:
        await connection.query(f"COMMIT PREPARED '{branch}'")
    except errors.RemoteError:
        await asyncio.sleep(_PAUSE_SECONDS)


class Exported:
    """A statement's snapshot of all nodes, for workers' connections to take over."""

    def __init__(self, pool: node_pool.NodePool, settings: Mapping[str, str]) -> None:
        self._pool = pool
        self._settings = settings
        self._held: list[client.PgConnection] = []
        self.names: Mapping[int, str] = {}

    async def open(self, node_ids: Iterable[int]) -> None:
        """Take it; `names` then has each node's.

        Raises:
            OrochiError: a node cannot be reached, or it took too long.
        """
        ordered = sorted(node_ids)  # two that wait for connections do not wait for each other
        try:
            for node_id in ordered:
                self._held.append(await self._pool.acquire(node_id, self._settings))
            names = await self._pool.consistent.take(self._held, export=True)
        except BaseException:
            self._drop()
            raise
        self.names = dict(zip(ordered, names, strict=True))

    async def close(self) -> None:
        """Let it go. Never raises."""
        try:
            await asyncio.gather(*(one.query("ROLLBACK") for one in self._held), return_exceptions=True)
        finally:
            held, self._held = self._held, []
            for connection in held:
                self._pool.release(connection)

    def _drop(self) -> None:
        held, self._held = self._held, []
        for connection in held:
            self._pool.discard(connection)
