"""A worker process yields while it does maintenance, and so does the server's process that reads for it; not after."""

from __future__ import annotations

import os
import pathlib
import threading

import psycopg
import pytest

from orochi import settings as process_settings
from orochi.executor import node_link
from orochi.timeseries import yielding
from tests.support import services


def niceness(number: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, number)


def test_maintenance_has_its_own_connection(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    group = tmp_path / "autogroup"
    group.write_text("0")
    monkeypatch.setattr(yielding, "_AUTOGROUP", group)
    monkeypatch.setattr(os, "getsid", lambda _: os.getpid())
    with services.postgres() as server:
        monkeypatch.setattr(node_link, "connect_node", lambda *_: psycopg.connect(server.dsn))
        link = node_link.NodeLink(process_settings.Settings(maintenance_nice=7), 1)
        seen: list[int] = []

        def work() -> None:
            seen.extend((niceness(threading.get_native_id()), niceness(link.connection().info.backend_pid)))

        for yields, expected in ((False, niceness(0)), (True, 7), (False, niceness(0))):
            link.give_way(yields)
            link.do(work)
            assert seen == [expected, expected]
            assert group.read_text() == ("7" if yields else "0")
            seen.clear()
