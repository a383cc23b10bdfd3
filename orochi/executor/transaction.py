"""One client session's transaction over the nodes it touched.

A node joins when a statement first needs it, with a transaction of the session's isolation level
and all savepoints in force, so that the session's ROLLBACK TO means the same on every node. At
commit, nodes that were only read are let go. One node that alone was written commits plainly. Else
two-phase commit: every writer prepares, the decision is rows in `orochi.orochi_transactions`
written in the coordinator's own transaction, and whatever happens after that, recovery finishes.
Before the decision any failure rolls back everything; a lost answer to the decision itself is
`TransactionOutcomeUnknown`, never success.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

from orochi import errors
from orochi.catalog import twophase
from orochi.executor import node_pool
from orochi.pgwire import client

_COMMIT_ATTEMPTS = 2

_GATEWAY = secrets.token_hex(4)
_SEQUENCE = itertools.count(1)


@dataclasses.dataclass(slots=True)
class Participant:
    """A node's part: its connection, whether it was written, and the settings it has."""

    node_id: int
    connection: client.PgConnection
    signature: node_pool.Signature
    wrote: bool = False


class Transaction:
    """See the module docstring. Not for use by two tasks at once, but for `node` and `cancel`.

    Attributes:
        in_block: whether the client opened a transaction (or an implicit one spans statements).
        isolation: as SQL spells it, in lower case.
        participants: by node id.
        sequence: greater for a transaction that touched its first node later.
        deadlocked: it was cancelled to end a deadlock between nodes.
    """

    def __init__(self, pool: node_pool.NodePool, settings: Callable[[], Mapping[str, str]]) -> None:
        """Start with no participant; `settings` gives the session's settings of the moment."""
        self._pool = pool
        self._settings = settings
        self._in_block = False
        self._savepoints: list[str] = []
        self._joining: dict[int, asyncio.Lock] = {}
        self.isolation = "read committed"
        self.participants: dict[int, Participant] = {}
        self.sequence = 0
        self.deadlocked = False

    @property
    def in_block(self) -> bool:
        """Whether statements are not committed one by one."""
        return self._in_block

    @in_block.setter
    def in_block(self, value: bool) -> None:
        self._in_block = value
        if not value:
            self._savepoints.clear()
            self.isolation = "read committed"

    @property
    def wrote(self) -> bool:
        """Whether a node has, or may have, uncommitted changes of ours."""
        return any(participant.wrote for participant in self.participants.values())

    @property
    def can_autocommit(self) -> bool:
        """Whether one statement on one node may be a transaction by itself there; see `autocommit`."""
        return not self._in_block and not self.participants and self.isolation == "read committed"

    @property
    def failed(self) -> bool:
        """Whether a node's part can only be rolled back."""
        return any(p.connection.closed or p.connection.status == "E" for p in self.participants.values())

    async def node(self, node_id: int, write: bool) -> client.PgConnection:
        """The node's connection, inside the transaction. Concurrent calls for several nodes are fine.

        Raises:
            NodeUnavailable: the node cannot be reached, or was lost and its part with it.
        """
        lock = self._joining.setdefault(node_id, asyncio.Lock())
        async with lock:
            participant = self.participants.get(node_id)
            if participant is None:
                participant = await self._join(node_id)
            elif participant.connection.closed:
                raise errors.NodeUnavailable(f"the connection to node {node_id} was lost in this transaction")
            else:
                await self._follow_settings(participant)
            participant.wrote = participant.wrote or write
            return participant.connection

    @contextlib.asynccontextmanager
    async def autocommit(self, node_id: int) -> AsyncIterator[client.PgConnection]:
        """A connection for the one statement that is a whole transaction by itself.

        Only outside a block and when no node takes part yet: it saves BEGIN and COMMIT.

        Raises:
            TransactionOutcomeUnknown: the connection broke while the statement ran.
        """
        connection = await self._pool.acquire(node_id, self._settings())
        self.participants[node_id] = Participant(node_id, connection, ())  # for `cancel`
        try:
            yield connection
        except errors.RemoteError:
            raise
        except errors.NodeUnavailable as error:
            raise errors.TransactionOutcomeUnknown(
                f"the connection to node {node_id} broke while it ran the statement",
                detail="Whether the statement was committed is not known.",
            ) from error
        finally:
            self.participants.pop(node_id, None)
            self._pool.release(connection)

    async def commit(self, coordinator: client.PgConnection, sql: str = "COMMIT") -> str:
        """Commit everywhere, the coordinator's open transaction too, and return its command tag.

        Args:
            coordinator: the client's own connection; it may be outside any transaction.
            sql: the client's own COMMIT (it may say AND CHAIN).

        Raises:
            TransactionOutcomeUnknown: the answer to the decision was lost.
            OrochiError: nothing is committed anywhere.
        """
        if coordinator.status == "E" or self.failed:
            return await self._refuse(coordinator, sql)
        self._savepoints.clear()
        writers = [p for p in self.participants.values() if p.wrote]
        await self._end((p for p in self.participants.values() if not p.wrote), "COMMIT")
        open_there = coordinator.status == "T"
        if not writers:
            return await self._commit_coordinator(coordinator, sql) if open_there else "COMMIT"
        if len(writers) == 1 and not (open_there and await _has_written(coordinator)):
            return await self._commit_single(writers[0], coordinator, sql, open_there)
        return await self._two_phase(writers, coordinator, sql, open_there)

    async def rollback(self) -> None:
        """Roll every node back and let it go; broken connections are dropped. Never raises."""
        await self._end(list(self.participants.values()), "ROLLBACK")

    async def savepoint(self, name: str) -> None:
        """Mirror SAVEPOINT on all participants, present and to come."""
        await self._everywhere(f"SAVEPOINT {_quote(name)}")
        self._savepoints.append(name)

    async def rollback_to(self, name: str) -> None:
        """Mirror ROLLBACK TO: also undoes what nodes that joined later did."""
        at = self._position(name)
        await self._everywhere(f"ROLLBACK TO SAVEPOINT {_quote(name)}")
        del self._savepoints[at + 1 :]
        for participant in self.participants.values():
            participant.signature = (("", ""),)  # SET LOCAL was undone too: apply again when next used

    async def release(self, name: str) -> None:
        """Mirror RELEASE SAVEPOINT."""
        at = self._position(name)
        await self._everywhere(f"RELEASE SAVEPOINT {_quote(name)}")
        del self._savepoints[at:]

    async def cancel(self) -> None:
        """Ask every node to cancel what it runs for this transaction."""
        await asyncio.gather(
            *(p.connection.cancel() for p in list(self.participants.values())), return_exceptions=True
        )

    def backends(self) -> dict[int, int]:
        """The node backends that run this transaction, by node."""
        return {node_id: p.connection.pid for node_id, p in self.participants.items()}

    async def break_deadlock(self) -> None:
        """Make the statement under way fail; its error is to be told as a deadlock."""
        self.deadlocked = True
        await self.cancel()

    def _position(self, name: str) -> int:
        for at in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[at] == name:
                return at
        raise errors.OrochiError(f'savepoint "{name}" does not exist', sqlstate="3B001")

    async def _join(self, node_id: int) -> Participant:
        settings = self._settings()
        connection = await self._pool.acquire(node_id, settings)
        statements = [f"BEGIN ISOLATION LEVEL {self.isolation.upper()}"]
        statements += [f"SAVEPOINT {_quote(name)}" for name in self._savepoints]
        try:
            await connection.query("; ".join(statements))
        except BaseException:
            self._pool.discard(connection)
            raise
        participant = Participant(node_id, connection, node_pool.mirrored(settings))
        if not self.participants:
            self.sequence, self.deadlocked = next(_SEQUENCE), False
        self.participants[node_id] = participant
        if len(self.participants) > 1:
            self._pool.deadlocks.watch(self)
        return participant

    async def _follow_settings(self, participant: Participant) -> None:
        """Apply what the session SET since the node joined, for this transaction only."""
        wanted = node_pool.mirrored(self._settings())
        if wanted == participant.signature or participant.connection.status != "T":
            return
        before, after = dict(participant.signature), dict(wanted)
        before.pop("", None)
        statements = [f"SET LOCAL {name} TO DEFAULT" for name in before if name not in after]
        statements += [
            f"SET LOCAL {name} = {node_pool.quote_literal(value)}"
            for name, value in after.items()
            if before.get(name) != value
        ]
        if statements:
            await participant.connection.query("; ".join(statements))
        participant.signature = wanted

    async def _everywhere(self, sql: str) -> None:
        async def one(connection: client.PgConnection) -> None:
            await connection.query(sql)

        # a lost node is found out at its next use; a savepoint command must not hide it
        await _all(one(p.connection) for p in self.participants.values() if not p.connection.closed)

    async def _end(self, participants: Iterable[Participant], sql: str) -> None:
        """End transactions whose outcome does not matter any more, and let the connections go."""

        async def one(participant: Participant) -> None:
            connection = participant.connection
            try:
                if not connection.closed and not connection.busy and connection.status != "I":
                    await connection.query(sql)
            except errors.OrochiError:
                connection.close()
            finally:
                self._let_go(participant)

        await asyncio.gather(*(one(participant) for participant in list(participants)))

    def _let_go(self, participant: Participant) -> None:
        self.participants.pop(participant.node_id, None)
        self._pool.release(participant.connection)

    async def _refuse(self, coordinator: client.PgConnection, sql: str) -> str:
        lost = any(p.connection.closed for p in self.participants.values())
        await self.rollback()
        if coordinator.status == "E":
            return await self._commit_coordinator(coordinator, sql)  # PostgreSQL answers ROLLBACK
        if coordinator.status == "T":
            await coordinator.query("ROLLBACK")
        if lost:
            raise errors.NodeUnavailable("a node was lost before commit; the transaction was rolled back")
        return "ROLLBACK"

    async def _commit_coordinator(self, coordinator: client.PgConnection, sql: str) -> str:
        try:
            return (await coordinator.query(sql))[-1].tag
        except errors.NodeUnavailable as error:
            raise _unknown("the coordinator") from error

    async def _commit_single(
        self, writer: Participant, coordinator: client.PgConnection, sql: str, open_there: bool
    ) -> str:
        try:
            await writer.connection.query("COMMIT")
        except errors.RemoteError:
            await self.rollback()
            if open_there:
                await coordinator.query("ROLLBACK")
            raise
        except errors.NodeUnavailable as error:
            if open_there:
                await coordinator.query("ROLLBACK")
            raise _unknown(f"node {writer.node_id}") from error
        finally:
            self._let_go(writer)
        return await self._commit_coordinator(coordinator, sql) if open_there else "COMMIT"

    async def _two_phase(
        self, writers: list[Participant], coordinator: client.PgConnection, sql: str, open_there: bool
    ) -> str:
        try:
            gid = await self._new_gid()
            await self._prepare(writers, gid)
        except BaseException:
            await self.rollback()
            if open_there and not coordinator.closed:
                await coordinator.query("ROLLBACK")
            raise
        nodes = sorted(p.node_id for p in writers)
        decision = f"SELECT orochi._record_decision('{gid}', ARRAY{[twophase.MARKER_NODE, *nodes]}::int[])"
        try:
            # outside a transaction the one statement is a transaction by itself
            answer = await coordinator.query(f"{decision}; {sql}" if open_there else decision)
        except errors.RemoteError as error:
            await self._finish_prepared(writers, gid, "ROLLBACK PREPARED")
            if coordinator.status != "I":
                await coordinator.query("ROLLBACK")
            if error.fields.get("t") == "orochi_transactions":
                raise errors.SerializationFailure(
                    "recovery aborted this transaction while it committed", hint="Run it again."
                ) from error
            raise
        except BaseException as error:
            # undecided for us: recovery will tell by the decision rows
            for participant in writers:
                self._let_go(participant)
            if isinstance(error, errors.NodeUnavailable):
                raise _unknown("the coordinator") from error
            raise
        await self._finish_prepared(writers, gid, "COMMIT PREPARED")
        return answer[-1].tag if open_there else "COMMIT"

    async def _new_gid(self) -> str:
        return twophase.gid(await self._pool.cluster_id(), f"{_GATEWAY}_{next(_SEQUENCE)}")

    async def _prepare(self, writers: list[Participant], gid: str) -> None:
        async def one(participant: Participant) -> None:
            name = twophase.branch(gid, participant.node_id)
            await participant.connection.query(f"PREPARE TRANSACTION '{name}'")

        results = await asyncio.gather(*(one(p) for p in writers), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            prepared = [p for p, result in zip(writers, results, strict=True) if result is None]
            await self._finish_prepared(prepared, gid, "ROLLBACK PREPARED")
            raise failures[0]

    async def _finish_prepared(self, writers: Iterable[Participant], gid: str, command: str) -> None:
        """Second phase. What cannot be told now is left to recovery, which knows the decision."""

        async def one(participant: Participant) -> None:
            connection = participant.connection
            for _ in range(_COMMIT_ATTEMPTS):
                try:
                    await connection.query(f"{command} '{twophase.branch(gid, participant.node_id)}'")
                    break
                except errors.RemoteError:
                    break  # 42704: recovery was faster
                except errors.OrochiError:
                    self._pool.release(connection)
                    try:
                        connection = await self._pool.acquire(participant.node_id, {})
                    except errors.OrochiError:
                        break
            self.participants.pop(participant.node_id, None)
            self._pool.release(connection)

        # shielded: a client that goes away must not leave locks behind until recovery comes
        await asyncio.shield(asyncio.gather(*(one(participant) for participant in list(writers))))


async def _has_written(coordinator: client.PgConnection) -> bool:
    result = await coordinator.fetch("SELECT pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL")
    return result.rows[0][0] == b"t"


async def _all(tasks: Iterable[Awaitable[None]]) -> None:
    """Wait for all, then raise the first failure."""
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _unknown(where: str) -> errors.TransactionOutcomeUnknown:
    return errors.TransactionOutcomeUnknown(
        f"the connection to {where} broke while it committed",
        detail="Whether the transaction was committed is not known.",
    )


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
