"""One client session's transaction over the nodes it touched.

A node joins when a statement first needs it, with a transaction of the session's isolation level
and all savepoints in force, so that the session's ROLLBACK TO means the same on every node. In
REPEATABLE READ all nodes join together, with one snapshot of them all. At
commit, nodes that were only read are let go. One node that alone was written commits plainly. Else
two-phase commit: every writer prepares, the decision is rows in `orochi.orochi_transactions`
written in the coordinator's own transaction, and whatever happens after that, recovery finishes.
Before the decision any failure rolls back everything; a lost answer to the decision itself is
`TransactionOutcomeUnknown`, never success.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

from orochi import errors, ids
from orochi.executor import consistent, deadlock, node_pool, two_phase
from orochi.pgwire import client

_TRUE = frozenset({"on", "true", "yes", "1", "t", "y"})
_ALL_NODES = -1

_ANONYMOUS = itertools.count(1)


class Transaction:
    """See the module docstring. Not for use by two tasks at once, but for `node` and `cancel`.

    Attributes:
        in_block: whether the client opened a transaction (or an implicit one spans statements).
        isolation: as SQL spells it, in lower case.
        participants: by node id.
        beside: connections outside the transaction that a statement reads on.
        owner: the process of the client's session on the coordinator.
        deadlock: why it was cancelled, if that was to end a deadlock between nodes.
        after_commit: to be awaited once all is committed; must not raise. Gone with a rollback, not one to a savepoint.
        held: a statement is under way that ends with the session's own commit, whatever commits meanwhile.
        ending: its commit is under way.
        changing: tables that the statement under way has changed, maybe, where no node knows yet.
        emptied: tables that the open block has truncated.
        chunks_made: by id, inside the open transaction.
    """

    def __init__(
        self, pool: node_pool.NodePool, settings: Callable[[], Mapping[str, str]], owner: int | None = None
    ) -> None:
        """Start with no participant; `settings` gives the session's settings of the moment."""
        self.owner = -next(_ANONYMOUS) if owner is None else owner
        self._pool = pool
        self._settings = settings
        self._in_block = False
        self._savepoints: list[str] = []
        self._joining: dict[int, asyncio.Lock] = {}
        self._exported: consistent.Exported | None = None
        self._commits = two_phase.TwoPhase(pool, self._let_go, self.rollback)
        self._whole = False  # every node takes part, all with one snapshot
        self._constraints: list[tuple[int | None, str]] = []  # what SET CONSTRAINTS said, of a node or of all
        self._apart = False  # they were to, but one cannot be reached: each joins for itself
        self.isolation = "read committed"
        self.participants: dict[int, two_phase.Participant] = {}
        self.beside: set[client.PgConnection] = set()
        self.deadlock: str | None = None
        self.after_commit: list[Callable[[], Awaitable[None]]] = []
        self.held = self.ending = False
        self.changing: frozenset[ids.TableId] = frozenset()
        self.emptied: set[ids.TableId] = set()
        self.chunks_made: list[int] = []

    @property
    def in_block(self) -> bool:
        """Whether statements are not committed one by one."""
        return self._in_block

    @in_block.setter
    def in_block(self, value: bool) -> None:
        self._in_block = value
        if not value:
            self._whole = self._apart = False
            self._savepoints.clear()
            self._constraints.clear()
            self.emptied.clear()
            self.chunks_made.clear()
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
    def steady(self) -> bool:
        """Whether all statements of the open block are to see one state of the data."""
        return self._in_block and self.isolation != "read committed"

    @property
    def wants_snapshot(self) -> bool:
        """`orochi.snapshot_reads`: reads of several nodes see all of a commit or nothing of it."""
        return self._settings().get("orochi.snapshot_reads", "off").lower() in _TRUE

    async def exported(self) -> Mapping[int, str]:
        """The running statement's snapshot of all nodes: what to SET TRANSACTION SNAPSHOT to, by node.

        Raises:
            OrochiError: a node cannot be reached.
        """
        if self._exported is None:
            exported = consistent.Exported(self._pool, self._settings())
            await exported.open(self._pool.data_nodes())
            self._exported = exported
        return self._exported.names

    async def end_statement(self) -> None:
        """Let go of what was kept for one statement."""
        exported, self._exported = self._exported, None
        if exported is not None:
            await exported.close()

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
            if participant is None and self._in_block and self.isolation == "repeatable read":
                participant = await self._join_whole(node_id)
            elif participant is None:
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
        self.participants[node_id] = two_phase.Participant(node_id, connection, ())  # for `cancel`
        try:
            yield connection
        except errors.OrochiError as error:
            if not two_phase.is_lost(error):
                raise
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
        self.ending = True
        try:
            tag = await self._commit(coordinator, sql)
        finally:
            self.ending = False
        jobs, self.after_commit = self.after_commit, []
        for job in jobs:
            await job()
        return tag

    async def _commit(self, coordinator: client.PgConnection, sql: str) -> str:
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
        return await self._commits.commit(writers, coordinator, sql, open_there)

    async def rollback(self) -> None:
        """Roll every node back and let it go; broken connections are dropped. Never raises."""
        self.after_commit.clear()
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

    async def set_constraints(self, node_id: int | None, sql: str) -> None:
        """Run SET CONSTRAINTS on a node, or on all, that take part or come to.

        Raises:
            RemoteError: a constraint that was deferred does not hold.
        """
        self._constraints.append((node_id, sql))
        for participant in self.participants.values():
            if node_id in (None, participant.node_id):
                await participant.connection.query(sql)

    async def cancel(self) -> None:
        """Ask every node to cancel what it runs for this transaction, or beside it."""
        connections = [*(p.connection for p in self.participants.values()), *self.beside]
        requests = [connection.cancel() for connection in connections if connection.busy]
        await asyncio.gather(*requests, return_exceptions=True)

    @property
    def waits(self) -> bool:
        """Whether a node has not answered yet."""
        return any(p.connection.busy for p in self.participants.values())

    async def break_deadlock(self, detail: str) -> None:
        """Make the statement under way fail; its error is to be told as a deadlock."""
        self.deadlock = detail
        await self.cancel()

    def told(self, error: errors.OrochiError) -> errors.OrochiError:
        """The error as the client is to hear it: a cancelled statement may be the end of a deadlock."""
        detail = self.deadlock
        if detail is None or error.sqlstate != "57014":
            return error
        self.deadlock = None
        return errors.DeadlockDetected(
            "deadlock detected", detail=detail, hint="See server log for query details."
        )

    def _position(self, name: str) -> int:
        for at in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[at] == name:
                return at
        raise errors.OrochiError(f'savepoint "{name}" does not exist', sqlstate="3B001")

    async def _join(self, node_id: int) -> two_phase.Participant:
        settings = self._settings()
        connection = await self._pool.acquire(node_id, settings)
        statements = [f"BEGIN ISOLATION LEVEL {self.isolation.upper()}", self._name_sql]
        statements += self._repeated(node_id)
        try:
            await connection.query("; ".join(statements))
        except BaseException:
            self._pool.discard(connection)
            raise
        participant = two_phase.Participant(node_id, connection, node_pool.mirrored(settings))
        if self.participants and self.isolation == "serializable":
            self._pool.discard(connection)
            raise errors.FeatureNotSupported(
                "a SERIALIZABLE transaction cannot use several nodes", hint=two_phase.NOT_SERIALIZABLE_HINT
            )
        self._add(participant)
        return participant

    @property
    def _name_sql(self) -> str:
        return f"SET LOCAL application_name = '{deadlock.label(self.owner)}'"

    def _add(self, participant: two_phase.Participant) -> None:
        if not self.participants:
            self.deadlock = None
            self._pool.deadlocks.watch(self)
        self.participants[participant.node_id] = participant

    async def _join_whole(self, node_id: int) -> two_phase.Participant:
        """Let every node join with one snapshot of them all, as each repeatable read begins.

        While a node cannot be reached the others are read without it, unless `orochi.snapshot_reads` forbids.
        """
        async with self._joining.setdefault(_ALL_NODES, asyncio.Lock()):
            if node_id not in self.participants and self._apart:
                return await self._join(node_id)
            if node_id not in self.participants:
                if self.participants:
                    raise errors.OrochiError(
                        "orochi.snapshot_reads takes its snapshot when a transaction first uses a node",
                        hint="Set it before the transaction, or run the transaction again.",
                        sqlstate="25001" if not self._whole else "40001",
                    )
                try:
                    await self._take_whole()
                except errors.NodeUnavailable:
                    if self.wants_snapshot:
                        raise
                    self._apart = True
                    return await self._join(node_id)
            return self.participants[node_id]

    async def _take_whole(self) -> None:
        settings = self._settings()
        held: list[two_phase.Participant] = []
        try:
            for node_id in self._pool.data_nodes():
                connection = await self._pool.acquire(node_id, settings)
                held += [two_phase.Participant(node_id, connection, node_pool.mirrored(settings))]
            await self._pool.consistent.take([p.connection for p in held], export=False)
            for participant in held:
                statements = [self._name_sql, *self._repeated(participant.node_id)]
                await participant.connection.query("; ".join(statements))
        except BaseException:
            for participant in held:
                self._pool.discard(participant.connection)
            raise
        self._whole = True
        for participant in held:
            self._add(participant)

    def _repeated(self, node_id: int) -> list[str]:
        """What the block has said so far that a node which joins is to know."""
        said = [sql for only, sql in self._constraints if only in (None, node_id)]
        return said + [f"SAVEPOINT {_quote(name)}" for name in self._savepoints]

    async def _follow_settings(self, participant: two_phase.Participant) -> None:
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
        # a lost node is found out at its next use; a savepoint command must not hide it
        await _all(_run(p.connection, sql) for p in self.participants.values() if not p.connection.closed)

    async def _end(self, participants: Iterable[two_phase.Participant], sql: str) -> None:
        """End transactions whose outcome does not matter any more, and let the connections go."""

        async def one(participant: two_phase.Participant) -> None:
            connection = participant.connection
            try:
                if not connection.closed and not connection.busy and connection.status != "I":
                    await connection.query(sql)
            except errors.OrochiError:
                connection.close()
            finally:
                self._let_go(participant)

        await asyncio.gather(*(one(participant) for participant in list(participants)))

    def _let_go(self, participant: two_phase.Participant) -> None:
        self.participants.pop(participant.node_id, None)
        if not self.participants:
            self._pool.deadlocks.forget(self)
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
        except errors.OrochiError as error:
            if not two_phase.is_lost(error):
                raise
            raise two_phase.unknown("the coordinator") from error

    async def _commit_single(
        self, writer: two_phase.Participant, coordinator: client.PgConnection, sql: str, open_there: bool
    ) -> str:
        try:
            await writer.connection.query("COMMIT")
        except errors.OrochiError as error:
            await self.rollback()
            if open_there:
                with contextlib.suppress(errors.OrochiError):
                    await coordinator.query("ROLLBACK")
            if two_phase.is_lost(error):
                raise two_phase.unknown(f"node {writer.node_id}") from error
            raise
        finally:
            self._let_go(writer)
        return await self._commit_coordinator(coordinator, sql) if open_there else "COMMIT"


async def _run(connection: client.PgConnection, sql: str) -> None:
    await connection.query(sql)


async def _has_written(coordinator: client.PgConnection) -> bool:
    result = await coordinator.fetch("SELECT pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL")
    return result.rows[0][0] == b"t"


async def _all(tasks: Iterable[Awaitable[None]]) -> None:
    """Wait for all, then raise the first failure."""
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
