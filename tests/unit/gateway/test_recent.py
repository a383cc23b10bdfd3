"""What PostgreSQL said of a statement holds for a moment, unless it is asked again and says the same."""

from __future__ import annotations

import asyncio
import types
from typing import Any

import pytest

from orochi.gateway import portal, recent
from orochi.pgwire import client, messages
from orochi.planner import parse
from tests.support import services

_SQL = "INSERT INTO t VALUES ($1)"
_SENT = messages.parse(b"", _SQL.encode(), ())[5:]


@pytest.mark.parametrize("altered", [False, True])
def test_an_answer_is_renewed_only_while_it_is_the_same(
    altered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(recent, "time", types.SimpleNamespace(monotonic=lambda: clock.now))

    async def check(port: int) -> None:
        connection = await client.PgConnection.connect("127.0.0.1", port, "orochi", None, "postgres")
        session: Any = types.SimpleNamespace(coordinator=connection, user="u", meaning=lambda: ("same",))
        try:
            await connection.query("CREATE TABLE t (a int)")
            prepared = portal.Prepared(b"", _SQL.encode(), parse.parse_one(_SQL))
            prepared.describe(*await connection.describe(_SQL))
            statements = recent.Recent(session)
            statements.add(_SENT, prepared)
            clock.now = recent.SECONDS - 0.1
            if altered:
                await connection.query("ALTER TABLE t ALTER a TYPE text")
            await statements.renew(prepared)
            clock.now = recent.SECONDS + 0.1
            assert statements.find(_SENT) is (None if altered else prepared)
            clock.now = 2 * recent.SECONDS
            assert statements.find(_SENT) is None
        finally:
            connection.close()

    with services.postgres() as server:
        asyncio.run(check(server.port))
