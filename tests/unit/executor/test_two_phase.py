"""A commit that recovery finishes at the same moment is done when recovery is done."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orochi import errors
from orochi.executor import two_phase


class _Node:
    """A node's connection; each COMMIT PREPARED gets the next of `answers`: a SQLSTATE, or None for success."""

    closed = False
    status = "I"
    pid = 1

    def __init__(self, answers: list[str | None]) -> None:
        self.answers = answers

    async def query(self, sql: str) -> list[Any]:
        code = self.answers.pop(0) if sql.startswith("COMMIT PREPARED") else None
        if code is not None:
            raise errors.RemoteError({"S": "ERROR", "V": "ERROR", "C": code, "M": "refused"})
        return []


class _Pool:
    async def cluster_id(self) -> str:
        return "1"


@pytest.mark.parametrize(
    "answers", [[None], ["42704"], ["55000", None], ["55000", "55000", "42704"]], ids=str
)
def test_waits_for_recovery(answers: list[str | None]) -> None:
    nodes = [_Node([None]), _Node(answers)]
    let_go: list[int] = []

    async def rollback() -> None:
        raise AssertionError

    commits = two_phase.TwoPhase(_Pool(), lambda p: let_go.append(p.node_id), rollback)  # type: ignore[arg-type]
    writers = [two_phase.Participant(n, node, (), True) for n, node in enumerate(nodes, 1)]  # type: ignore[arg-type]
    assert asyncio.run(commits.commit(writers, _Node([]), "COMMIT", False)) == "COMMIT"  # type: ignore[arg-type]
    assert answers == []
    assert sorted(let_go) == [1, 2]
