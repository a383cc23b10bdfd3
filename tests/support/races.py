"""Two clients at once: one statement waits for another's transaction, on the gateway and on PostgreSQL."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg

from tests.support import cluster as clusters
from tests.support import oracle

_WAIT_SECONDS = 90.0
#: For one that does nothing itself: background work, which waits too, waits for who is at work.
_WAITING = """
SELECT count(*) FROM pg_stat_activity AS w WHERE w.wait_event_type = 'Lock' AND EXISTS (
    SELECT FROM pg_stat_activity AS held WHERE held.pid = ANY (pg_blocking_pids(w.pid)) AND held.state ~ '^idle')
"""


def race(
    running: clusters.Cluster,
    pair: oracle.Pair,
    first: Sequence[str],
    second: str,
    *,
    end: str = "COMMIT",
    on: Sequence[str] = (),
) -> tuple[oracle.Answer, oracle.Answer]:
    """What `second` answers when it meets the open transaction of `first`, which then ends: ours, PostgreSQL's.

    The first transaction ends once the second waits for a lock, on a node or where `on` says, or has answered.
    """
    schema = pair.gateway.execute("SELECT current_schema()").fetchone()
    assert schema is not None
    answers = []
    with running.connect(prepare_threshold=None) as other:
        other.execute(f"SET search_path TO {schema[0]}, orochi, public")
        answers.append(_meet(pair.gateway, other, first, second, end, [*running.node_dsns, *on]))
    plain = clusters.with_dbname(running.coordinator_dsn, "plain")
    with running.connect_coordinator("plain", prepare_threshold=None) as other:
        other.execute(f"SET search_path TO {schema[0]}, public")
        answers.append(_meet(pair.plain, other, first, second, end, [plain]))
    return answers[0], answers[1]


@contextlib.contextmanager
def cancelling(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """What runs on `connection` in the block is cancelled, again where a cancel came before it had begun."""
    ended = threading.Event()

    def cancel() -> None:
        while not ended.wait(0.5):
            connection.cancel_safe()

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _meet(
    one: psycopg.Connection[Any],
    other: psycopg.Connection[Any],
    first: Sequence[str],
    second: str,
    end: str,
    dsns: Sequence[str],
) -> oracle.Answer:
    one.execute("BEGIN")
    for sql in first:
        one.execute(sql)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(oracle.ask, other, second)
        _until(lambda: running.done() or any(_waits(dsn) for dsn in dsns))
        one.execute(end)
        return running.result(timeout=_WAIT_SECONDS)


def _waits(dsn: str) -> bool:
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = connection.execute(_WAITING).fetchone()
        return found is not None and found[0] > 0


def _until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while not reached():
        assert time.monotonic() < deadline, "the second statement neither answered nor waited"
        time.sleep(0.05)
