"""What sessions do and what statements cost, told to the coordinator about once a second.

`orochi.stat_activity` and `orochi.stat_statements` show it (`catalog/sql/48_statistics.sql`), for all gateways
together. Who runs a statement only notes when it began and appends to a list when it has ended; texts are
normalised and counts are summed in a thread. While the coordinator is away, counts wait for it up to a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import structlog

from orochi import errors, metrics
from orochi.planner import normalized

if TYPE_CHECKING:
    from orochi.gateway import session as sessions
    from orochi.planner import parse

log = structlog.get_logger()

_SECONDS = 1.0
#: Looks at all that is told, in tellings; counts that are kept of so many statements.
_TRIM_EVERY, _KEPT = 60, 5_000
#: Ended statements, and sums of them, that wait to be told; what comes above that is not counted.
_WAITING, _SUMS = 20_000, 2_000
_LONGEST_SHOWN = 1_024
_SESSIONS_SQL = "SELECT orochi._tell_sessions($1, $2, $3)"
_STATEMENTS_SQL = "SELECT orochi._tell_statements($1)"
_TRIM_SQL = f"SELECT orochi._trim_statistics({_KEPT})"


@dataclasses.dataclass(slots=True)
class Doing:
    """The last statement of a session that its gateway ran: empty before the first.

    Attributes:
        began, changed: seconds since the epoch; since `changed` it is `active`, or is not.
    """

    sql: str | bytes = ""
    query_id: str = ""
    strategy: str | None = None
    active: bool = False
    began: float = 0.0
    changed: float = 0.0

    def begin(self, sql: str | bytes, query_id: str, strategy: str | None = None) -> None:
        """A statement begins."""
        self.sql, self.query_id, self.strategy = sql[:_LONGEST_SHOWN], query_id, strategy
        self.active = True
        self.began = self.changed = time.time()

    def end(self, strategy: str | None = None) -> float:
        """It has ended; the seconds that it took."""
        self.active = False
        self.strategy = strategy or self.strategy
        self.changed = time.time()
        return max(self.changed - self.began, 0.0)


@dataclasses.dataclass(slots=True)
class _Sum:
    calls: int = 0
    rows: int = 0
    total: float = 0.0
    shortest: float = float("inf")
    longest: float = 0.0
    squares: float = 0.0

    def add(self, milliseconds: float, rows: int) -> None:
        self.calls += 1
        self.rows += rows
        self.total += milliseconds
        self.shortest = min(self.shortest, milliseconds)
        self.longest = max(self.longest, milliseconds)
        self.squares += milliseconds * milliseconds


class Statistics:
    """Of one gateway: gathers, and tells."""

    def __init__(self, gateway: Any) -> None:
        """`gateway`: an `orochi.gateway.listener.Gateway`."""
        self._gateway = gateway
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._ended: list[tuple[str, str | bytes, str, float, str | None]] = []
        self._sums: dict[tuple[str, int, str], tuple[str, _Sum]] = {}
        self._texts = normalized.Texts()
        self._told: dict[int, tuple[Any, ...]] = {}

    def count(self, session: sessions.Session, sql: str | bytes, strategy: str, tag: str | None) -> None:
        """A session's statement has succeeded."""
        seconds = session.doing.end(strategy)
        if len(self._ended) < _WAITING:
            self._ended.append((session.user, sql[: normalized.LONGEST + 1], strategy, seconds, tag))

    async def run(self) -> None:
        """Tell for ever; what cannot be told now is told later, and what the coordinator refuses, never."""
        for number in itertools.count(1):
            await asyncio.sleep(_SECONDS)
            for tell in (self._tell_sessions, self._tell_statements, self._trim):
                if tell == self._trim and number % _TRIM_EVERY:
                    continue
                try:
                    await tell()
                except Exception as error:  # the coordinator is down
                    log.debug("statistics.not_told", error=repr(error))

    async def _trim(self) -> None:
        async with self._gateway.runtime.service() as connection:
            await connection.fetch(_TRIM_SQL)

    async def _tell_sessions(self) -> None:
        now = {session.coordinator.pid: _shown(session) for session in self._gateway.open_sessions()}
        changed = [row for pid, row in now.items() if self._told.get(pid) != row]
        ended = sorted(self._told.keys() - now.keys())
        if not changed and not ended:
            return
        parameters = (
            self._name.encode(),
            json.dumps([dict(zip(_COLUMNS, row, strict=True)) for row in changed]).encode(),
            ("{" + ",".join(map(str, ended)) + "}").encode(),
        )
        async with self._gateway.runtime.service() as connection:
            await connection.fetch(_SESSIONS_SQL, parameters)
        self._told = now

    async def _tell_statements(self) -> None:
        if self._ended:
            ended, self._ended = self._ended, []
            await asyncio.to_thread(self._add, ended)
        if not self._sums:
            return
        sums = self._sums
        rows = [
            {"username": user, "queryid": number, "strategy": strategy, "query": text}
            | dataclasses.asdict(counted)
            for (user, number, strategy), (text, counted) in sums.items()
        ]
        async with self._gateway.runtime.service() as connection:
            with contextlib.suppress(errors.RemoteError):
                await connection.fetch(_STATEMENTS_SQL, [json.dumps(rows).encode()])
        self._sums = {}

    def _add(self, ended: list[tuple[str, str | bytes, str, float, str | None]]) -> None:
        for user, sql, strategy, seconds, tag in ended:
            text, number = self._texts.find(_decoded(sql))
            key = user, number, strategy
            if key not in self._sums:
                if len(self._sums) >= _SUMS:
                    continue
                self._sums[key] = text, _Sum()
            self._sums[key][1].add(1000 * seconds, _rows(tag))


_COLUMNS = (
    "pid",
    "client_addr",
    "client_port",
    "is_active",
    "query_id",
    "query",
    "strategy",
    "query_start",
    "state_change",
)


def _shown(session: sessions.Session) -> tuple[Any, ...]:
    """What is told of a session, by `_COLUMNS`."""
    doing, peer = session.doing, session.client.peer
    if not doing.began:
        return session.coordinator.pid, *peer, False, None, None, None, None, None
    text = _decoded(doing.sql).replace("\0", "")
    return (
        session.coordinator.pid,
        *peer,
        doing.active,
        doing.query_id,
        text,
        doing.strategy,
        doing.began,
        doing.changed,
    )


def _decoded(sql: str | bytes) -> str:
    return sql if isinstance(sql, str) else sql.decode("utf-8", "replace")


def _rows(tag: str | None) -> int:
    """The rows that a command tag tells of."""
    word = (tag or "").rpartition(" ")[2]
    return int(word) if word.isdigit() else 0


@contextlib.contextmanager
def measured(session: sessions.Session, statement: parse.Statement, sink: Any) -> Iterator[None]:
    """Time a statement of a session, for its own row, for its text's, and for Prometheus."""
    session.doing.begin(statement.text, session.query_id)
    try:
        with metrics.measured(statement.kind.value, session.query_id):
            yield
            strategy = metrics.strategy.get()
    except BaseException:
        session.doing.end()
        raise
    chosen = statement.kind.value if strategy == "none" else strategy
    session.gateway.statistics.count(session, statement.text, chosen, getattr(sink, "tag", None))
