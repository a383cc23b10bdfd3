"""A statement that takes long to plan is planned beside the loop that serves all sessions."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from orochi.operations import planned
from orochi.planner import parse, select


@pytest.mark.parametrize(("terms", "apart"), [(1, False), (200, True)])
def test_long_statements_are_planned_by_a_thread(
    monkeypatch: pytest.MonkeyPatch, terms: int, apart: bool
) -> None:
    def plan(statement: parse.Statement, ctx: Any) -> int:
        return threading.get_native_id()

    monkeypatch.setattr(select, "plan", plan)
    attempt = planned.Attempt(parse.parse_one("SELECT 1 WHERE " + " OR ".join(["1 = 2222"] * terms)))
    made: Any = asyncio.run(planned.made(attempt, None))  # type: ignore[arg-type]
    assert (made != threading.get_native_id()) is apart
