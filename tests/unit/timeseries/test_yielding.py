"""Who gives way to queries: the thread of a heavy step, and the server's process that serves it."""

from __future__ import annotations

import os
import threading

import psycopg
import pytest

from orochi.timeseries import yielding
from tests.support import services


def niceness(number: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, number)


def test_only_the_thread_of_the_work_yields() -> None:
    before = niceness(0)
    assert yielding.done(lambda: niceness(threading.get_native_id())) > before
    assert yielding.done(lambda: os.sched_getscheduler(threading.get_native_id())) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    assert niceness(threading.get_native_id()) == before


def test_an_error_of_the_work_is_the_callers() -> None:
    def fails() -> None:
        raise LookupError("no such row")

    with pytest.raises(LookupError, match="no such row"):
        yielding.done(fails)


def test_a_servers_process_of_this_host_yields() -> None:
    with (
        services.postgres() as server,
        psycopg.connect(server.dsn) as ours,
        psycopg.connect(server.dsn) as other,
    ):
        assert yielding.serve(ours, 7)
        assert niceness(ours.info.backend_pid) == 7
        assert niceness(other.info.backend_pid) == niceness(0)
