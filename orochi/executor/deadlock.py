"""Deadlocks that no single PostgreSQL can see: transactions that wait for each other on different servers.

Who waits is known by name: in a transaction block a node's session calls itself after the client's session
on the coordinator (`label`), whichever gateway it belongs to. So every gateway can see all of a cycle,
through nodes and the coordinator alike, and all see the same one: its youngest member ends, and
only the gateway that has it does that. Servers are asked only while a transaction of ours has been
waiting for a while; and as they are not asked at one instant, a cycle counts when it is there twice in a row,
edge for edge.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol, TypeVar

from orochi import errors
from orochi.pgwire import client

INTERVAL_SECONDS = 0.7

_LABEL = re.compile(r"orochi s(-?\d+)\Z")
_WAITS = """
SELECT w.pid, w.application_name, h.pid, h.application_name,
    pg_catalog.to_char(w.xact_start AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISSUS'), l.mode,
    CASE l.locktype
        WHEN 'transactionid' THEN 'transaction ' || l.transactionid
        WHEN 'virtualxid' THEN 'virtual transaction ' || l.virtualxid
        WHEN 'relation' THEN 'relation ' || l.relation || ' of database ' || l.database
        WHEN 'tuple' THEN 'tuple (' || l.page || ',' || l.tuple || ') of relation ' || l.relation
            || ' of database ' || l.database
        WHEN 'advisory' THEN 'advisory lock [' || l.database || ',' || l.classid || ',' || l.objid || ','
            || l.objsubid || ']'
        ELSE coalesce(l.locktype, 'a lock') END
FROM pg_catalog.pg_stat_activity w
CROSS JOIN LATERAL pg_catalog.unnest(pg_catalog.pg_blocking_pids(w.pid)) AS b(pid)
JOIN pg_catalog.pg_stat_activity h ON h.pid = b.pid
LEFT JOIN pg_catalog.pg_locks l ON l.pid = w.pid AND NOT l.granted
WHERE w.wait_event_type = 'Lock' AND w.datname = pg_catalog.current_database()
"""

Node = TypeVar("Node")
#: A client's session by its process on the coordinator; another backend by its server and its process.
Member = int | tuple[int, int]


def label(owner: int) -> str:
    """What a session on a node calls itself while a transaction of the session `owner` has it."""
    return f"orochi s{owner}"


def transactions_sql(owner: int) -> str:
    """A row for each transaction that the session `owner` has on a node, through whichever gateway."""
    return f"SELECT FROM pg_catalog.pg_stat_activity WHERE application_name = '{label(owner)}'"


@dataclasses.dataclass(frozen=True, slots=True)
class Wait:
    """One backend waiting for another on a server; None is the coordinator."""

    node: int | None
    waiting: int
    holder: int
    since: str = dataclasses.field(compare=False)
    lock: str = dataclasses.field(compare=False)


class Watched(Protocol):
    """A transaction, as far as waiting goes."""

    owner: int

    @property
    def waits(self) -> bool:
        """Whether a node has not answered yet."""

    async def break_deadlock(self, detail: str) -> None:
        """Cancel what it waits in."""


class Detector:
    """Watches the transactions of one gateway; runs only while there is something to watch."""

    def __init__(
        self,
        connect: Callable[[int | None], Awaitable[client.PgConnection]],
        nodes: Callable[[], Iterable[int]],
    ) -> None:
        """Use `connect` to reach one of `nodes`, or the coordinator, without waiting for a pooled connection."""
        self._connect = connect
        self._nodes = nodes
        self._watched: weakref.WeakSet[Watched] = weakref.WeakSet()
        self._task: asyncio.Task[None] | None = None
        self._connections: dict[int | None, client.PgConnection] = {}

    def watch(self, transaction: Watched) -> None:
        """A transaction came to use a node."""
        self._watched.add(transaction)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    def forget(self, transaction: Watched) -> None:
        """It uses none any more."""
        self._watched.discard(transaction)

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        suspected: frozenset[Wait] = frozenset()
        waited: set[int] = set()
        try:
            while self._watched:
                await asyncio.sleep(INTERVAL_SECONDS)
                waiting = {transaction.owner for transaction in self._watched if transaction.waits}
                # one look is not for those that began to wait a moment ago
                suspected = await self._look(suspected) if waiting & waited else frozenset()
                waited = waiting
        finally:
            for connection in self._connections.values():
                connection.close()
            self._connections.clear()

    async def _look(self, suspected: frozenset[Wait]) -> frozenset[Wait]:
        """One round: end a cycle that was there the last time; the edges seen in a cycle now."""
        waits: dict[Member, dict[Member, Wait]] = {}
        for one, other, wait in await self._all_waits():
            if one != other:
                waits.setdefault(one, {})[other] = wait
        cycle = find_cycle(waits)
        edges = [waits[one][other] for one, other in zip(cycle, (*cycle[1:], *cycle[:1]), strict=True)]
        if len({edge.node for edge in edges}) < 2:
            return frozenset()  # none, or one that its server ends by itself
        if not suspected.issuperset(edges):
            return frozenset(edges)
        # what waits on the coordinator is the client's own statement, which nobody translates
        candidates = [
            (edge.since, member)
            for member, edge in zip(cycle, edges, strict=True)
            if edge.node is not None and isinstance(member, int)
        ]
        _, youngest = max(candidates, default=("", None))
        for transaction in list(self._watched):
            if transaction.owner == youngest:
                await transaction.break_deadlock(describe(cycle, edges))
        return frozenset()

    async def _all_waits(self) -> list[tuple[Member, Member, Wait]]:
        places: list[int | None] = [None, *self._nodes()]
        found = await asyncio.gather(*(self._waits(place) for place in places))
        return [wait for some in found for wait in some]

    async def _waits(self, node: int | None) -> list[tuple[Member, Member, Wait]]:
        try:
            connection = self._connections.get(node)
            if connection is None or connection.closed:
                connection = self._connections[node] = await self._connect(node)
            result = await connection.fetch(_WAITS)
        except errors.OrochiError:
            return []  # a server that is gone holds nobody up
        found = []
        for row in result.rows:
            waiting, name, holder, holders_name, since, mode, target = [
                (value or b"").decode("utf-8", "replace") for value in row
            ]
            wait = Wait(node, int(waiting), int(holder), since, f"{mode} on {target}")
            found.append((_member(node, int(waiting), name), _member(node, int(holder), holders_name), wait))
        return found


def _member(node: int | None, pid: int, name: str) -> Member:
    if node is None:
        return pid
    match = _LABEL.match(name)
    return (node, pid) if match is None else int(match[1])


def describe(cycle: Iterable[Member], edges: Iterable[Wait]) -> str:
    """A cycle in PostgreSQL's words, processes being those that clients know."""
    members = [member if isinstance(member, int) else member[1] for member in cycle]
    lines = []
    for member, blocker, edge in zip(members, (*members[1:], *members[:1]), edges, strict=True):
        where = "the coordinator" if edge.node is None else f"node {edge.node}"
        lines.append(f"Process {member} waits for {edge.lock} of {where}; blocked by process {blocker}.")
    return "\n".join(lines)


def find_cycle(waits: Mapping[Node, Iterable[Node]]) -> tuple[Node, ...]:
    """The nodes of some cycle, in order; empty if there is none."""
    done: set[Node] = set()
    for start in waits:
        path: list[Node] = []
        stack = [(start, iter(waits.get(start, ())))]
        path.append(start)
        while stack:
            node, following = stack[-1]
            step = next(following, None)
            if step is None:
                stack.pop()
                path.pop()
                done.add(node)
            elif step in path:
                return tuple(path[path.index(step) :])
            elif step not in done:
                path.append(step)
                stack.append((step, iter(waits.get(step, ()))))
    return ()
