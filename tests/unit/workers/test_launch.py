"""Maintenance yields processors as a process, and as a session where Linux shares them among sessions."""

from __future__ import annotations

import os
import pathlib

import pytest

from orochi import settings as process_settings
from orochi.timeseries import yielding
from workers import launch


@pytest.mark.parametrize("leads", [True, False])
def test_maintenance_yields(leads: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    group, lowered = tmp_path / "autogroup", list[tuple[int, int]]()
    monkeypatch.setattr(os, "nice", lambda _: 2)
    monkeypatch.setattr(yielding, "lower", lambda *to: lowered.append(to))
    monkeypatch.setattr(os, "getsid", lambda _: os.getpid() if leads else 1)
    monkeypatch.setattr(yielding, "_AUTOGROUP", group)
    monkeypatch.setattr(launch, "_run", lambda *_: None)
    launch.maintenance(1, process_settings.Settings(maintenance_nice=7))
    launch.maintenance(1, process_settings.Settings(maintenance_nice=1))  # was started with less than that
    assert lowered == [(0, 7), (0, 2)]
    assert (group.read_text() if group.exists() else None) == ("1" if leads else None)
