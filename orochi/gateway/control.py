"""Statements that end, start or partition a session's transaction, and SQL-level PREPARE.

They run on the coordinator like any other, and their effect on node connections and on what the
session keeps is made here. Each returns its command tag.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from orochi import errors, ids
from orochi.gateway import loopback, own_settings
from orochi.pgwire import messages
from orochi.planner import parse, quoting

if TYPE_CHECKING:
    from orochi.gateway import session as sessions

_KINDS = frozenset({parse.Kind.TRANSACTION, parse.Kind.PREPARE, parse.Kind.DEALLOCATE})
_BEGIN = frozenset({"TRANS_STMT_BEGIN", "TRANS_STMT_START"})
_DEFERRABLE = """
SELECT conrelid::pg_catalog.int8, conname FROM pg_catalog.pg_constraint
WHERE condeferrable AND conrelid <> 0 AND conname = ANY ($1::pg_catalog.text[]) ORDER BY 1, 2
"""
_BLOCK_ONLY = {
    "TRANS_STMT_SAVEPOINT": "SAVEPOINT",
    "TRANS_STMT_RELEASE": "RELEASE SAVEPOINT",
    "TRANS_STMT_ROLLBACK_TO": "ROLLBACK TO SAVEPOINT",
}


def is_control(statement: parse.Statement) -> bool:
    """Whether this module runs the statement."""
    return (
        statement.kind in _KINDS
        or type(statement.tree).__name__ in ("DiscardStmt", "ConstraintsSetStmt")
        or own_settings.is_set(statement)
    )


def is_begin(statement: parse.Statement) -> bool:
    """Whether it opens a transaction block."""
    return statement.kind is parse.Kind.TRANSACTION and statement.tree.kind.name in _BEGIN


def require_block(statement: parse.Statement) -> None:
    """Refuse what needs a block that the client opened, where several statements are one transaction.

    Raises:
        OrochiError: 25P01, in PostgreSQL's words.
    """
    words = _BLOCK_ONLY.get(statement.tree.kind.name)
    if words is None and statement.tree.chain:
        words = (
            "COMMIT AND CHAIN" if statement.tree.kind.name == "TRANS_STMT_COMMIT" else "ROLLBACK AND CHAIN"
        )
    if words is not None:
        raise errors.OrochiError(f"{words} can only be used in transaction blocks", sqlstate="25P01")


async def run(session: sessions.Session, statement: parse.Statement) -> str:
    """Run the statement; its command tag.

    Raises:
        OrochiError: as PostgreSQL would.
    """
    match statement.kind:
        case parse.Kind.TRANSACTION:
            link = session.loop
            if link is not None and (tag := await loopback.run(session, link, statement)) is not None:
                return tag
            return await _transaction(session, statement)
        case parse.Kind.PREPARE:
            return await _prepare(session, statement)
        case parse.Kind.DEALLOCATE:
            return await _deallocate(session, statement)
        case parse.Kind.SET:
            if session.coordinator.status != "E":
                own_settings.check(statement)
            session.relay.settings_dirty = True
            return await _plain(session, statement)
        case _ if type(statement.tree).__name__ == "ConstraintsSetStmt":
            return await _constraints(session, statement)
        case _:
            return await _discard(session, statement)


async def _transaction(session: sessions.Session, statement: parse.Statement) -> str:
    node, transaction, coordinator = statement.tree, session.transaction, session.coordinator
    kind = node.kind.name
    if kind in _BEGIN:
        tag = await _plain(session, statement)
        transaction.in_block = True
        session.relay.settings_dirty = session.relay.settings_dirty or bool(node.options)
        session.settings_revert = session.settings_revert or bool(node.options)
        return tag
    if kind == "TRANS_STMT_COMMIT":
        return await _commit(session, statement)
    if kind == "TRANS_STMT_ROLLBACK":
        await transaction.rollback()
        tag = await _plain(session, statement)
        session.block_ended()
        transaction.in_block = coordinator.status != "I"
        return tag
    if kind in ("TRANS_STMT_SAVEPOINT", "TRANS_STMT_RELEASE", "TRANS_STMT_ROLLBACK_TO"):
        return await _savepoint(session, statement, kind)
    if kind == "TRANS_STMT_PREPARE" and (transaction.participants or session.catalog_is_own):
        raise errors.FeatureNotSupported(
            "PREPARE TRANSACTION is not supported for a transaction that used Orochi tables"
        )
    tag = await _plain(session, statement)
    if coordinator.status == "I":
        session.block_ended()
    return tag


async def _commit(session: sessions.Session, statement: parse.Statement) -> str:
    changed_catalog = session.catalog_is_own
    if session.transaction.participants:
        tag = await session.transaction.commit(session.coordinator, statement.sql)
    else:
        tag = await _plain(session, statement)
    session.block_ended()
    session.transaction.in_block = session.coordinator.status != "I"
    if changed_catalog:
        await session.catalog_committed()
    return tag


async def _savepoint(session: sessions.Session, statement: parse.Statement, kind: str) -> str:
    tag = await _plain(session, statement)
    name = statement.tree.savepoint_name
    if kind == "TRANS_STMT_SAVEPOINT":
        session.savepoints = True
        await session.transaction.savepoint(name)
    elif kind == "TRANS_STMT_RELEASE":
        await session.transaction.release(name)
    else:
        await session.transaction.rollback_to(name)
        session.relay.settings_dirty = True
        if session.catalog_is_own:
            await session.catalog_changed()
    return tag


async def _constraints(session: sessions.Session, statement: parse.Statement) -> str:
    """SET CONSTRAINTS, in the shards as on the coordinator."""
    tag = await _plain(session, statement)
    if session.coordinator.status != "T":
        return tag  # outside a block it means nothing
    node = statement.tree
    mode = "DEFERRED" if node.deferred else "IMMEDIATE"
    if not node.constraints:
        await session.transaction.set_constraints(None, f"SET CONSTRAINTS ALL {mode}")
        return tag
    names = [named.relname for named in node.constraints]
    listed = "{" + ",".join(json.dumps(name) for name in names) + "}"
    found = await session.coordinator.fetch(_DEFERRABLE, (listed.encode(),), (0,))
    snapshot, work = session.snapshot(), dict[ids.NodeId, list[str]]()
    for oid, name in ((int(row[0] or b"0"), (row[1] or b"").decode()) for row in found.rows):
        table = snapshot.tables.get(ids.TableId(oid))
        for shard in table.shards if table is not None else ():
            for node_id in shard.node_ids:
                work.setdefault(node_id, []).append(
                    f"{quoting.identifier(shard.schema)}.{quoting.identifier(name)}"
                )
    for node_id, constraints in work.items():
        await session.transaction.set_constraints(node_id, f"SET CONSTRAINTS {', '.join(constraints)} {mode}")
    return tag


async def _prepare(session: sessions.Session, statement: parse.Statement) -> str:
    tag = await _plain(session, statement)
    try:
        inner = parse.inner(statement)
    except parse.CannotDeparse as error:
        raise errors.FeatureNotSupported("the prepared statement could not be read") from error
    session.sql_prepared[statement.tree.name] = inner
    return tag


async def _deallocate(session: sessions.Session, statement: parse.Statement) -> str:
    tag = await _plain(session, statement)
    name = statement.tree.name
    if name is None:
        forget_prepared(session)
    else:
        session.sql_prepared.pop(name, None)
        session.relay.ours.pop(messages.encode(name), None)
        session.relay.named.pop(messages.encode(name), None)
    return tag


async def _discard(session: sessions.Session, statement: parse.Statement) -> str:
    tag = await _plain(session, statement)
    if tag == "DISCARD ALL":
        forget_prepared(session)
        session.relay.settings_dirty = True
    return tag


def forget_prepared(session: sessions.Session) -> None:
    """The server dropped all of the session's prepared statements."""
    session.sql_prepared.clear()
    session.relay.ours.clear()
    session.relay.named.clear()
    session.relay.unnamed = b""


async def _plain(session: sessions.Session, statement: parse.Statement) -> str:
    return (await session.coordinator.fetch(statement.sql)).tag
