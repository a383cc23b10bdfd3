"""Calls of Orochi's functions that bodies make: `drop_chunks()` inside of a job's procedure, say.

Such a call comes as a cursor of `postgres_fdw` over a table that does not exist (`catalog/sql/loopback.sql`), with what is
asked for in its condition. It is done by another session of this gateway, which takes the caller's role,
and in a transaction of its own: most of these calls commit again and again. So they wait for nothing that their
caller holds: they are refused in blocks, and where the caller's statement has used a node.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING

from orochi import errors
from orochi.catalog import api, definition
from orochi.gateway import loopback, own_settings
from orochi.pgwire import client as pg_client
from orochi.pgwire import messages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orochi.gateway import session as sessions

_ASKED = re.compile(
    rb"\0(DECLARE [a-z0-9_]+ CURSOR FOR\s+)SELECT .* FROM orochi\._calls WHERE \(\(?request = '([0-9a-f]+)'(?:::text)?\)\)?\0\0\0",
    re.DOTALL,
)
_SETTINGS = frozenset({"TimeZone", "DateStyle", "IntervalStyle"})
#: A lock that the caller's own backend holds is not waited for until somebody loses patience.
_LOCK_TIMEOUT = "30s"


async def rewritten(session: sessions.Session, payload: bytes) -> bytes:
    """A Parse message's payload as it is to be run: of such a cursor, once the call is done, one over its answers.

    Raises:
        OrochiError: of the call.
    """
    if session.loop is None:
        return own_settings.shown_by(payload)
    payload = loopback.insertable(payload)
    found = _ASKED.fullmatch(payload)
    if found is None:
        return payload
    request = _read(found[2])
    _check(session, request)
    rows = await _call(session, request)
    listed = ", ".join("NULL" if row is None else definition.quote_literal(row) for row in rows)
    sql = f"SELECT answer FROM pg_catalog.unnest(ARRAY[{listed}]::pg_catalog.text[]) AS answer"
    return messages.parse(b"", found[1] + sql.encode())[5:]


@dataclasses.dataclass(frozen=True, slots=True)
class _Request:
    role: str
    function: str
    sql: str
    settings: Mapping[str, str]


def _read(sent: bytes) -> _Request:
    """What is asked for: anybody may have written it but for the role.

    Raises:
        OrochiError: it is not a call.
    """
    request = json.loads(bytes.fromhex(sent.decode()))
    match request:
        case {
            "role": str(role),
            "function": str(name),
            "arguments": dict(arguments),
            "settings": dict(settings),
        }:
            listed = {each: _argument(value) for each, value in arguments.items()}
            known = {each: str(value) for each, value in settings.items() if each in _SETTINGS}
            return _Request(role, name, api.from_body(name, listed), known)
        case _:
            raise errors.OrochiError("not a call of a function of Orochi", sqlstate="22023")


def _argument(value: object) -> tuple[str, str | None]:
    match value:
        case [str(kind), (str() | None) as text]:
            return kind, text
        case _:
            raise errors.OrochiError("not an argument of a function of Orochi", sqlstate="22023")


def _check(session: sessions.Session, request: _Request) -> None:
    link = session.loop
    assert link is not None
    if link.in_block or (link.caller is not None and session.transaction.participants):
        reason = "It does its work in transactions of its own, and the transaction it is called in has used Orochi tables"
        raise errors.OrochiError(
            f"{request.function}() cannot run inside a transaction block",
            sqlstate="25001",
            detail=None if link.in_block else f"{reason}.",
            hint="Call it in a procedure after COMMIT, or in a statement of its own.",
        )


async def _call(session: sessions.Session, request: _Request) -> list[str | None]:
    gateway = session.gateway
    host, port = gateway.address
    connection = await pg_client.PgConnection.connect(
        host,
        port,
        loopback.USER,
        loopback.password(await gateway.secret()),
        options={"application_name": loopback.CALLS},
    )
    try:
        session.reading = connection  # cancelling the caller cancels it
        await connection.query(f"SET lock_timeout TO '{_LOCK_TIMEOUT}'")
        for name, value in request.settings.items():
            await connection.query(f"SET {name} TO {definition.quote_literal(value)}")
        await connection.query(f"SET ROLE {definition.quote(request.role)}")
        result = await connection.fetch(request.sql)
    finally:
        session.reading = None
        connection.close()
    return [None if value is None else value.decode() for (value, *_) in result.rows]
