"""Killing processes: at random, and at six points of a commit that is held there.

A commit is held by what any administrator could do: a stopped backend, or the lock that keeps commits
out. Points, in the order of the commit:

1. written, nothing prepared; 2. one node prepared; 3. all prepared, nothing decided;
4. decided, no node committed; 5. decided, one node committed; 6. all committed, nobody told.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg

from benchmarks.bank import workload
from orochi.catalog import twophase
from orochi.embedded import state
from orochi.executor import deadlock

POINTS = (1, 2, 3, 4, 5, 6)
ROLES = ("gateway", "nodes", "coordinator", "workers", "redis")
#: What is killed while a commit is held at a point: each alone, and what carries it two at a time.
VICTIMS = (
    *((role,) for role in ROLES),
    ("gateway", "nodes"),
    ("gateway", "coordinator"),
    ("nodes", "coordinator"),
    ("gateway", "workers", "redis"),
)
_WAIT_SECONDS, _POLL_SECONDS = 60.0, 0.02
_BRANCH = re.compile(r"PREPARE TRANSACTION '([^']+)'")


class Missed(Exception):
    """The commit could not be held at the point, as something else went wrong before."""


def wait(check: Callable[[], Any], seconds: float = _WAIT_SECONDS) -> Any:
    """Call `check` until it is true; errors of servers that are down count as not yet.

    Raises:
        Missed: it never was.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(psycopg.Error, OSError):
            if found := check():
                return found
        time.sleep(_POLL_SECONDS)
    raise Missed


class Killer:
    """Kills processes of an embedded cluster."""

    def __init__(self, info: dict[str, Any], bank: workload.Bank, seed: int) -> None:
        self._folder = pathlib.Path(info["data_dir"])
        self._coordinator = str(info["coordinator_dsn"])
        self._nodes = [str(dsn) for dsn in info["node_dsns"]]
        self._bank = bank
        self._chance = random.Random(seed)
        self._transfers = 0
        self.kills: dict[str, int] = {}
        self.decided: list[str] = []

    @property
    def count(self) -> int:
        """Kills so far."""
        return sum(self.kills.values())

    def kill(self, role: str, when: str = "at random") -> bool:
        """kill -9 of one process of the role, the main one of a server; whether there was one."""
        found = state.load(self._folder)
        pids = state.pids_of(found.processes)[role] if found is not None else []
        if not pids:
            return False
        try:
            os.kill(self._chance.choice(pids), signal.SIGKILL)
        except ProcessLookupError:
            return False
        key = f"{role} {when}"
        self.kills[key] = self.kills.get(key, 0) + 1
        return True

    def _kill_at(self, roles: Sequence[str], point: int) -> None:
        hit = [self.kill(role, f"at point {point}") for role in roles]
        if not all(hit):
            raise Missed

    def healthy(self) -> bool:
        """Whether every process runs and the gateway answers for both nodes."""
        found = state.load(self._folder)
        if found is None or not all(item.healthy for item in found.processes):
            return False
        with self._bank.connect() as connection:
            return connection.execute("SELECT count(*) FROM bank.accounts").fetchone() is not None

    def oldest_prepared(self) -> float:
        """The age in seconds of the oldest prepared transaction of any server that answers."""
        oldest = 0.0
        for dsn in (*self._nodes, self._coordinator):
            with contextlib.suppress(psycopg.Error), _admin(dsn) as connection:
                row = connection.execute(
                    "SELECT coalesce(extract(epoch FROM max(clock_timestamp() - prepared)), 0)::float8"
                    " FROM pg_prepared_xacts"
                ).fetchone()
                oldest = max(oldest, float(row[0]) if row else 0.0)
        return oldest

    def at_point(self, point: int, *roles: str) -> str:
        """Hold a transfer of our own at the point, and kill there; what its client was told.

        Raises:
            Missed: see there.
        """
        try:
            with contextlib.ExitStack() as stack:
                return self._at_point(point, roles, stack)
        except psycopg.Error as error:
            raise Missed from error

    def _at_point(self, point: int, roles: Sequence[str], stack: contextlib.ExitStack) -> str:
        client = stack.enter_context(contextlib.closing(self._bank.connect()))
        nodes = [stack.enter_context(_admin(dsn)) for dsn in self._nodes]
        token = self._begin_over_nodes(client, nodes)
        backends = self._backends(client, nodes)
        held = stack.enter_context(contextlib.ExitStack())
        admin = held.enter_context(_admin(self._coordinator))
        stopped = held.enter_context(_stopping())
        answer: list[str] = []
        committing = threading.Thread(target=lambda: answer.append(self._bank.commit(client, token)))
        if point == 1:
            self._kill_at(roles, point)
        elif point == 2:
            stopped(backends[1])
        else:
            _hold_commits(admin)
        committing.start()
        try:
            if point > 1:
                branch = wait(lambda: _prepared(nodes[0], backends[0]))
                self._go_on(point, client, admin, nodes, backends, stopped, twophase.gid_of(branch))
                self._kill_at(roles, point)
                if point > 3:
                    self.decided.append(token)
        finally:
            # who is stopped would never see that its server died; the lock goes with its connection
            held.close()
            committing.join(_WAIT_SECONDS)
        return answer[0] if answer else "unknown"

    def _go_on(
        self,
        point: int,
        client: workload.Connection,
        admin: workload.Connection,
        nodes: Sequence[workload.Connection],
        backends: Sequence[int],
        stopped: Callable[[int], None],
        gid: str,
    ) -> None:
        """From what is prepared to the point."""
        if point == 2:
            return
        process = client.info.backend_pid
        waiting = "SELECT FROM pg_locks WHERE pid = %s AND locktype = 'advisory' AND NOT granted"
        wait(lambda: admin.execute(waiting, (process,)).fetchone() is not None)
        if point == 3:
            return
        for backend in backends if point != 5 else backends[1:]:
            stopped(backend)
        admin.execute("SELECT pg_advisory_unlock_all()")
        decided = "SELECT FROM orochi.orochi_transactions WHERE gid = %s AND node_id > 0"
        wait(lambda: admin.execute(decided, (gid,)).fetchone() is not None)
        if point == 4:
            return
        if point == 6:
            stopped(process)
            for backend in backends:
                os.kill(backend, signal.SIGCONT)
        gone = "SELECT FROM pg_prepared_xacts WHERE starts_with(gid, %s)"
        for node in nodes if point == 6 else nodes[:1]:
            wait(lambda node=node: node.execute(gone, (gid,)).fetchone() is None)

    def _begin_over_nodes(self, client: workload.Connection, nodes: Sequence[workload.Connection]) -> str:
        """A transfer that has written on both nodes; its token."""
        for _ in range(20):
            self._transfers += 1
            token = f"held.{time.monotonic_ns()}.{self._transfers}"
            source, target = self._chance.sample(range(1, self._bank.accounts + 1), 2)
            self._bank.begin(client, token, source, target, 1)
            if all(self._backends(client, nodes)):
                return token
            client.execute("ROLLBACK")
            self._bank.book.refused.append(token)
        raise Missed

    def _backends(self, client: workload.Connection, nodes: Sequence[workload.Connection]) -> list[int]:
        """The node processes of the client's transaction, 0 where there is none."""
        name = deadlock.label(client.info.backend_pid)
        found = []
        for node in nodes:
            row = node.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name = %s", (name,)
            ).fetchone()
            found.append(0 if row is None else int(row[0]))
        return found


def _hold_commits(admin: workload.Connection) -> None:
    admin.execute("SELECT pg_advisory_lock(%s)", (twophase.COMMIT_LOCK,))


def _prepared(node: workload.Connection, backend: int) -> str | None:
    """The branch that the backend has prepared, if it has."""
    row = node.execute(
        "SELECT query FROM pg_stat_activity WHERE pid = %s AND state = 'idle'", (backend,)
    ).fetchone()
    match = None if row is None else _BRANCH.match(row[0])
    return None if match is None else match[1]


@contextlib.contextmanager
def _admin(dsn: str) -> Iterator[workload.Connection]:
    with psycopg.connect(dsn, autocommit=True, connect_timeout=5, application_name="bank") as connection:
        yield connection


@contextlib.contextmanager
def _stopping() -> Iterator[Callable[[int], None]]:
    """Gives what stops processes; they go on at the end."""
    pids: list[int] = []

    def stop(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        pids.append(pid)

    try:
        yield stop
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
