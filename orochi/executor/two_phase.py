"""Two-phase commit of a transaction that wrote on several nodes, or on one and the coordinator.

Every writer prepares, the decision is rows in `orochi.orochi_transactions` written in the
coordinator's own transaction, and whatever happens after that, recovery finishes. From the decision
until the last node has committed, `twophase.COMMIT_LOCK` is held, shared, by the coordinator
connection that decided: a snapshot of all nodes is not taken in between. See `consistent`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Iterable

from orochi import errors
from orochi.catalog import twophase
from orochi.executor import node_pool
from orochi.pgwire import client, messages
from orochi.pgwire import reply as replies

NOT_SERIALIZABLE_HINT = "Use REPEATABLE READ, with orochi.snapshot_reads = on if it reads from several nodes."
_COMMIT_ATTEMPTS = 2
#: How often, and how long, to wait for a recovery that is just finishing the same transaction.
_BUSY_ATTEMPTS, _BUSY_PAUSE_SECONDS = 200, 0.02
_BUSY = "55000"


@dataclasses.dataclass(slots=True)
class Participant:
    """A node's part: its connection, whether it was written, and the settings it has."""

    node_id: int
    connection: client.PgConnection
    signature: node_pool.Signature
    wrote: bool = False
    recalled: bool = False  # it has rows of stripes that nobody else may have yet


class TwoPhase:
    """Commits writers together; what it is given lets participants go, and rolls all of them back."""

    def __init__(
        self,
        pool: node_pool.NodePool,
        let_go: Callable[[Participant], None],
        rollback: Callable[[], Awaitable[None]],
    ) -> None:
        self._pool = pool
        self._let_go = let_go
        self._rollback = rollback

    async def commit(
        self, writers: list[Participant], coordinator: client.PgConnection, sql: str, open_there: bool
    ) -> str:
        """Commit writers and the coordinator's open transaction; the command tag.

        Raises:
            TransactionOutcomeUnknown: the answer to the decision was lost.
            OrochiError: nothing is committed anywhere.
        """
        try:
            gid = twophase.new_gid(await self._pool.cluster_id(), coordinator.pid)
            await self._prepare(writers, gid)
        except BaseException:
            await self._rollback()
            if open_there and not coordinator.closed:
                await coordinator.query("ROLLBACK")
            raise
        nodes = sorted(p.node_id for p in writers)
        decision = f"SELECT orochi._record_decision('{gid}', ARRAY{[twophase.MARKER_NODE, *nodes]}::int[])"
        decision = f"{twophase.LOCK_COMMITS_SQL}; {decision}"
        try:
            # outside a transaction the query string is a transaction by itself
            answer = await coordinator.query(f"{decision}; {sql}" if open_there else decision)
        except errors.OrochiError as error:
            if not is_lost(error):
                await asyncio.shield(self._undo(writers, gid, coordinator))
                if isinstance(error, errors.RemoteError) and error.fields.get("t") == "orochi_transactions":
                    raise errors.SerializationFailure(
                        "recovery aborted this transaction while it committed", hint="Run it again."
                    ) from error
                raise
            self._leave(writers)
            raise unknown("the coordinator") from error
        except BaseException:
            self._leave(writers)
            if not coordinator.closed:  # the statement under way is answered first
                coordinator.send(messages.query(twophase.UNLOCK_COMMITS_SQL), replies.Reply())
            raise
        # a client that goes away must not leave locks behind until recovery comes
        await asyncio.shield(self._finish(writers, gid, coordinator))
        return answer[-1].tag if open_there else "COMMIT"

    async def _finish(self, writers: list[Participant], gid: str, coordinator: client.PgConnection) -> None:
        await self._finish_prepared(writers, gid, "COMMIT PREPARED")
        with contextlib.suppress(errors.OrochiError):  # a lost connection holds no lock
            await coordinator.query(twophase.UNLOCK_COMMITS_SQL)

    async def _undo(self, writers: list[Participant], gid: str, coordinator: client.PgConnection) -> None:
        await self._finish_prepared(writers, gid, "ROLLBACK PREPARED")
        if coordinator.status != "I":
            await coordinator.query("ROLLBACK")
        await coordinator.query(twophase.UNLOCK_COMMITS_SQL)

    def _leave(self, writers: Iterable[Participant]) -> None:
        """Undecided for us: recovery will tell by the decision rows."""
        for participant in writers:
            self._let_go(participant)

    async def _prepare(self, writers: list[Participant], gid: str) -> None:
        async def one(participant: Participant) -> None:
            name = twophase.branch(gid, participant.node_id)
            await participant.connection.query(f"PREPARE TRANSACTION '{name}'")

        results = await asyncio.gather(*(one(p) for p in writers), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            prepared = [p for p, result in zip(writers, results, strict=True) if result is None]
            await asyncio.shield(self._finish_prepared(prepared, gid, "ROLLBACK PREPARED"))
            raise failures[0]

    async def _finish_prepared(self, writers: Iterable[Participant], gid: str, command: str) -> None:
        """Second phase. What cannot be told now is left to recovery, which knows the decision."""

        async def one(participant: Participant) -> None:
            connection = participant.connection
            for _ in range(_COMMIT_ATTEMPTS):
                try:
                    await _finish_branch(
                        connection, f"{command} '{twophase.branch(gid, participant.node_id)}'"
                    )
                    break
                except errors.RemoteError:
                    break  # 42704: recovery was faster
                except errors.OrochiError:
                    self._pool.release(connection)
                    try:
                        connection = await self._pool.acquire(participant.node_id, {})
                    except errors.OrochiError:
                        break
            self._let_go(dataclasses.replace(participant, connection=connection))

        await asyncio.gather(*(one(participant) for participant in list(writers)))


async def _finish_branch(connection: client.PgConnection, sql: str) -> None:
    """End a prepared transaction; one that recovery has in hand is waited for, as it is not visible before."""
    for _ in range(_BUSY_ATTEMPTS):
        try:
            await connection.query(sql)
            return
        except errors.RemoteError as error:
            if error.sqlstate != _BUSY:
                raise
        await asyncio.sleep(_BUSY_PAUSE_SECONDS)


def is_lost(error: errors.OrochiError) -> bool:
    """Whether the connection broke, so that an answer may be missing: a server may die after it committed."""
    if isinstance(error, errors.RemoteError):
        return error.fields.get("V", error.fields.get("S")) in ("FATAL", "PANIC")
    return isinstance(error, errors.NodeUnavailable)


def unknown(where: str) -> errors.TransactionOutcomeUnknown:
    """The answer to a COMMIT was lost."""
    return errors.TransactionOutcomeUnknown(
        f"the connection to {where} broke while it committed",
        detail="Whether the transaction was committed is not known.",
    )
