"""Deadlocks that no single PostgreSQL can see: two transactions that wait for each other on different nodes.

While at least two transactions have several nodes, each of those nodes is asked now and then who
waits for whom. A cycle that is there twice in a row, edge for edge, is a deadlock (the nodes are
not asked at the same instant, so once is not enough); its youngest transaction is cancelled. Only
transactions of this gateway are known.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol, TypeVar

from orochi import errors
from orochi.pgwire import client

INTERVAL_SECONDS = 0.7

_WAITS = """
SELECT pid, pg_catalog.array_to_string(pg_catalog.pg_blocking_pids(pid), ',')
FROM pg_catalog.unnest($1::pg_catalog.int4[]) pid
WHERE pg_catalog.cardinality(pg_catalog.pg_blocking_pids(pid)) > 0
"""

Node = TypeVar("Node")
#: A waiting backend, the backend it waits for, and the node of both.
Edge = tuple[int, int, int]


class Watched(Protocol):
    """A transaction, as far as waiting goes."""

    sequence: int

    def backends(self) -> Mapping[int, int]:
        """Backend process by node."""

    async def break_deadlock(self) -> None:
        """Cancel what it waits in."""


class Detector:
    """Watches the transactions of one gateway; runs only while there is something to watch."""

    def __init__(self, connect: Callable[[int], Awaitable[client.PgConnection]]) -> None:
        """Use `connect` to reach a node without waiting for a pooled connection."""
        self._connect = connect
        self._watched: weakref.WeakSet[Watched] = weakref.WeakSet()
        self._task: asyncio.Task[None] | None = None
        self._connections: dict[int, client.PgConnection] = {}

    def watch(self, transaction: Watched) -> None:
        """A transaction came to have several nodes."""
        self._watched.add(transaction)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        suspected: frozenset[Edge] = frozenset()
        try:
            while True:
                await asyncio.sleep(INTERVAL_SECONDS)
                active = [t for t in self._watched if len(t.backends()) > 1]
                if not active:
                    return
                if len(active) > 1:
                    suspected = await self._look(active, suspected)
        finally:
            for connection in self._connections.values():
                connection.close()
            self._connections.clear()

    async def _look(self, active: list[Watched], suspected: frozenset[Edge]) -> frozenset[Edge]:
        """One round: cancel a cycle that was there the last time; the edges seen in cycles now."""
        owners = {(node, pid): t for t in active for node, pid in t.backends().items()}
        waits: dict[Watched, dict[Watched, Edge]] = {}
        for node in sorted({node for node, _ in owners}):
            pids = [pid for where, pid in owners if where == node]
            for waiting, holder in await self._waits(node, pids):
                one, other = owners.get((node, waiting)), owners.get((node, holder))
                if one is not None and other is not None and one is not other:
                    waits.setdefault(one, {})[other] = (node, waiting, holder)
        cycle = find_cycle(waits)
        if not cycle:
            return frozenset()
        edges = frozenset(waits[one][other] for one, other in zip(cycle, (*cycle[1:], cycle[0]), strict=True))
        if edges <= suspected:
            await max(cycle, key=lambda t: t.sequence).break_deadlock()
            return frozenset()
        return edges

    async def _waits(self, node: int, pids: Iterable[int]) -> list[tuple[int, int]]:
        listed = "{" + ",".join(map(str, pids)) + "}"
        try:
            connection = self._connections.get(node)
            if connection is None or connection.closed:
                connection = self._connections[node] = await self._connect(node)
            result = await connection.fetch(_WAITS, (listed.encode(),), (0,))
        except errors.OrochiError:
            return []  # a node that is gone holds nobody up
        return [
            (int(waiting or b"0"), int(holder))
            for waiting, holders in result.rows
            for holder in (holders or b"").split(b",")
        ]


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
