"""Connections of a maintenance process, kept between tasks: logging in costs more than a small chunk."""

from __future__ import annotations

import collections
import contextlib
import os
from collections.abc import Iterator
from typing import Any

import psycopg

from orochi import settings as process_settings
from orochi.timeseries import yielding

Connection = psycopg.Connection[Any]

_KEPT = 2
_idle: dict[tuple[int, str, bool], collections.deque[Connection]] = {}


@contextlib.contextmanager
def borrowed(dsn: str, *, yields: bool = False) -> Iterator[Connection]:
    """A connection in autocommit, outside any transaction, with an empty search_path but `pg_catalog`.

    With `yields` the server's process gives way to others, where that can be told. It is kept for the next borrower if the block leaves it as it found it, and closed otherwise.
    """
    # the process is part of the key: a connection must not be used on both sides of a fork
    kept = _idle.setdefault((os.getpid(), dsn, yields), collections.deque())
    connection = _live(kept) or _connect(dsn, yields=yields)
    try:
        yield connection
    finally:
        idle = connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE
        if idle and not connection.closed and len(kept) < _KEPT:
            kept.append(connection)
        else:
            connection.close()


def _connect(dsn: str, *, yields: bool) -> Connection:
    connection = psycopg.connect(
        dsn, autocommit=True, options="-c search_path=pg_catalog", application_name="orochi maintenance"
    )
    if yields:
        yielding.serve(connection, process_settings.get().maintenance_nice)
    return connection


def _live(kept: collections.deque[Connection]) -> Connection | None:
    """A kept connection that the server still answers on."""
    while True:
        try:
            connection = kept.popleft()
        except IndexError:
            return None
        with contextlib.suppress(psycopg.Error):
            connection.execute("SELECT 1")
            return connection
        connection.close()
