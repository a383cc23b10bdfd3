"""Statements that come back: what functions, triggers and direct connections do to a shell.

Every shell has an inheritance child, a foreign table of the coordinator that leads back to the
gateway (`catalog/sql/loopback.sql`). A statement that PostgreSQL itself runs on the shell, in the
body of a function say, so opens a connection to here and asks for the rows. If the backend it comes
from serves a client of this gateway, the two sessions share one transaction over the nodes: the body
sees what its caller wrote, its own writes commit and roll back with the caller's, and locks are one
transaction's. If not, it is a transaction of its own, which PostgreSQL ends with its local one.

Rights were checked by the backend, on the shell, so the session itself is Orochi's own role.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
from typing import TYPE_CHECKING

from orochi import errors
from orochi.executor import deadlock, hidden_rows
from orochi.planner import classify, parse, placed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orochi.executor import transaction as transactions
    from orochi.gateway import listener
    from orochi.gateway import session as sessions

#: Who connects; no role of that name needs to exist.
USER = "orochi_loopback"
#: Name of a connection that is no function's: see `bodies`.
CALLS = "orochi call"
_NAME = re.compile(r"orochi loopback (\d+)")
#: A relation locked against reading can only be locked by the caller itself, which waits for us.
_LOCK_TIMEOUT = "3s"
_SAVEPOINTS = frozenset({"TRANS_STMT_SAVEPOINT", "TRANS_STMT_RELEASE", "TRANS_STMT_ROLLBACK_TO"})
_SERIALIZABLE = "SERIALIZABLE"
_INSERT = re.compile(rb'^([^\0]*\0INSERT INTO (?:"[^"]*"|[^"(])+\((?:"[^"]*"|[^")])*\)) VALUES')
_CTID = re.compile(r"\bctid\b")


@dataclasses.dataclass(eq=False, slots=True)
class Link:
    """Where a session comes from.

    Attributes:
        gateway: that serves both.
        pid: the backend that runs the function.
        own: the session's own transaction.
        caller: whose transaction it shares at the moment.
        in_block: whether that was in a block before.
    """

    gateway: listener.Gateway
    pid: int
    own: transactions.Transaction
    caller: sessions.Session | None = None
    in_block: bool = False


def caller_pid(parameters: Mapping[str, str]) -> int:
    """The backend that a connection with these startup parameters comes from; 0 if it does not say."""
    found = _NAME.fullmatch(parameters.get("application_name", ""))
    return int(found[1]) if found else 0


def password(secret: str) -> str:
    """What such a connection must know, as `orochi._loopback_password()` makes it."""
    return hashlib.sha256(f"{secret}:loopback".encode()).hexdigest()


def address_sql(host: str, port: int) -> str:
    """Where functions connect to, as host and port; no row if that is `host` (an SQL expression) and `port`."""
    return (
        "SELECT o.host, o.port FROM (SELECT"
        " (SELECT substr(i, 6) FROM unnest(srvoptions) AS i WHERE i LIKE 'host=%') AS host,"
        " (SELECT substr(i, 6) FROM unnest(srvoptions) AS i WHERE i LIKE 'port=%') AS port"
        " FROM pg_catalog.pg_foreign_server WHERE srvname = 'orochi_gateway') AS o"
        f" WHERE (o.host, o.port) IS DISTINCT FROM ({host}, '{port}')"
    )


@contextlib.contextmanager
def running(session: sessions.Session, statement: parse.Statement) -> Iterator[None]:
    """While a session runs a statement, functions that it calls must not commit what it writes, nor their part.

    Raises:
        FeatureNotSupported: a function asks for rows of several shards by their place in one table.
    """
    if session.loop is not None:
        _check(statement)
        yield
        return
    session.transaction.held = True
    try:
        yield
    finally:
        session.transaction.held = False


def _check(statement: parse.Statement) -> None:
    if statement.kind not in (parse.Kind.UPDATE, parse.Kind.DELETE) or placed.is_by_place(statement):
        return
    if _CTID.search(statement.sql):
        raise errors.FeatureNotSupported(
            "rows of an Orochi table have no ctid of their own", hint="Name the row by its key."
        )


async def check(session: sessions.Session, statement: parse.Statement) -> None:
    """What such a session runs must not miss its caller's changes, nor tell of rows that a policy hides, by failing.

    Raises:
        FeatureNotSupported: it might.
    """
    tables = classify.tables_in(statement.tree, session.snapshot(), session.search_path, session.temp_tables)
    for table in tables:
        if table.oid in session.transaction.changing:
            raise errors.FeatureNotSupported(
                f'a volatile function uses table "{table.name}", which the statement that calls it is changing',
                hint="Declare the function STABLE if it is to see the table as it was before, or call it before.",
            )
    if not await hidden_rows.are_safe(session.coordinator, statement, tables):
        raise hidden_rows.refusal()


def insertable(parse_message: bytes) -> bytes:
    """A Parse of `postgres_fdw`: its INSERT has values for all columns, those GENERATED ALWAYS AS IDENTITY too."""
    return _INSERT.sub(rb"\1 OVERRIDING SYSTEM VALUE VALUES", parse_message, count=1)


async def run(session: sessions.Session, link: Link, statement: parse.Statement) -> str | None:
    """Run BEGIN, COMMIT or ROLLBACK of such a session; None if it is another statement."""
    kind = statement.tree.kind.name
    if kind in ("TRANS_STMT_BEGIN", "TRANS_STMT_START"):
        return await _begin(session, link, statement)
    if kind == "TRANS_STMT_COMMIT" and link.caller is not None:
        return await _commit(session, link, link.caller)
    if kind == "TRANS_STMT_ROLLBACK" and link.caller is not None:
        return await _rollback(session, link, link.caller)
    if link.caller is not None and session.transaction.ending and kind in _SAVEPOINTS:
        # the nodes know no savepoints any more, nor need they
        return (await session.coordinator.query(statement.sql))[-1].tag
    return None


async def _begin(session: sessions.Session, link: Link, statement: parse.Statement) -> str | None:
    caller = link.gateway.serving(link.pid)
    if caller is None:
        await _check_alone(link)
        if _SERIALIZABLE in statement.sql.upper():
            return None
        # not REPEATABLE READ, which postgres_fdw always asks for: the local transaction is not
        await session.coordinator.query("BEGIN")
        session.transaction.in_block = True
        return "START TRANSACTION"
    if caller.catalog_is_own:
        raise errors.FeatureNotSupported(
            "functions cannot read or write Orochi tables in a transaction that changed their definition",
            hint="Commit it first.",
        )
    await session.coordinator.query(f"BEGIN; SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
    link.caller, shared = caller, caller.transaction
    link.in_block = shared.in_block
    if not shared.participants:
        shared.isolation = _isolation(caller, statement.sql)
    session.transaction = shared
    shared.in_block = True
    caller.relay.exclusive = True  # its COMMIT has nodes to think of
    return "START TRANSACTION"


async def _check_alone(link: Link) -> None:
    """The backend may serve a client of another gateway, whose transaction's rows on the nodes we could not see.

    Raises:
        FeatureNotSupported: it does, and its transaction uses nodes.
    """
    pool = link.gateway.runtime.nodes
    for node_id in pool.data_nodes():
        async with pool.lease(node_id) as connection:
            found = await connection.fetch(deadlock.transactions_sql(link.pid))
        if found.rows:
            raise errors.FeatureNotSupported(
                "functions that use Orochi tables cannot join a transaction of another gateway",
                detail="The transaction has used Orochi tables before, and the function would not see its changes.",
                hint="Connect to the gateway that functions use, the first one started, or commit before.",
            )


async def _commit(session: sessions.Session, link: Link, caller: sessions.Session) -> str:
    """The caller's backend is about to commit: it does so itself, or its gateway has begun to."""
    shared = session.transaction
    if shared.ending or shared.held or not shared.participants:
        tag = (await session.coordinator.query("COMMIT"))[-1].tag
    else:
        tag = await shared.commit(session.coordinator)
    _part(session, link, caller)
    return tag


async def _rollback(session: sessions.Session, link: Link, caller: sessions.Session) -> str:
    if not session.transaction.ending:
        await session.transaction.rollback()
    await session.coordinator.query("ROLLBACK")
    _part(session, link, caller)
    return "ROLLBACK"


def _part(session: sessions.Session, link: Link, caller: sessions.Session) -> None:
    """The shared transaction is over, or its caller's alone again."""
    shared = session.transaction
    link.caller, session.transaction = None, link.own
    session.block_ended()
    session.transaction.in_block = False
    if not shared.participants and not shared.ending:
        shared.in_block = link.in_block


def _isolation(caller: sessions.Session, begin: str) -> str:
    """The caller's isolation level, told without asking its backend, which waits; rather too strict than not."""
    if _SERIALIZABLE in begin.upper():
        return "serializable"
    return "repeatable read" if caller.relay.isolation_set else caller.isolation


async def leave(session: sessions.Session) -> None:
    """Roll back what a session that ends has not committed, unless its caller is committing it."""
    if session.loop is None or not session.transaction.ending:
        await session.transaction.rollback()
