"""A session in a block stays awake while its statement runs elsewhere, and only then."""

from __future__ import annotations

import asyncio
import contextlib
import typing

import pytest

from orochi.operations import awake
from orochi.pgwire import client, messages
from orochi.pgwire import reply as replies


class _Server:
    """Answers a Sync when it is told to."""

    def __init__(self, status: str) -> None:
        self.status = status
        self.closed = self.busy = False
        self.asked: list[replies.Reply] = []
        self.came = asyncio.Event()

    def send(self, data: bytes, reply: replies.Reply) -> None:
        assert data == messages.SYNC
        self.busy = True
        self.asked.append(reply)
        self.came.set()

    def answer(self) -> None:
        self.busy = False
        self.came.clear()
        self.asked[-1].finish()


def _kept(server: _Server) -> contextlib.AbstractAsyncContextManager[None]:
    return awake.kept(typing.cast("client.PgConnection", server))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awake, "INTERVAL_SECONDS", 0.0)


def test_again_and_again() -> None:
    async def run() -> int:
        server = _Server("T")
        async with _kept(server):
            for _ in range(3):
                await server.came.wait()
                server.answer()
        return len(server.asked)

    assert asyncio.run(run()) == 3


def test_the_last_answer_is_waited_for() -> None:
    async def run() -> bool:
        server = _Server("T")
        async with _kept(server):
            await server.came.wait()
            asyncio.get_running_loop().call_soon(server.answer)
        return server.busy

    assert not asyncio.run(run())


@pytest.mark.parametrize(("status", "busy"), [("I", False), ("E", False), ("T", True)])
def test_never(status: str, busy: bool) -> None:
    """Outside a block, in a failed one, and while the coordinator itself works."""

    async def run() -> list[replies.Reply]:
        server = _Server(status)
        server.busy = busy
        async with _kept(server):
            for _ in range(20):
                await asyncio.sleep(0)
        return server.asked

    assert asyncio.run(run()) == []
