"""A simple Query that the relay did not let pass.

One statement commits by itself. Several are one implicit transaction, on the coordinator and on
nodes alike, unless they open and close blocks of their own. A command tag is sent only once the
statement's effects are committed or part of an open block.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orochi import errors
from orochi.executor import context
from orochi.gateway import control, encodings, ending, executes, own_settings, texts
from orochi.gateway import sink as sinks
from orochi.pgwire import messages
from orochi.planner import calls, clock, parse

if TYPE_CHECKING:
    from orochi.gateway import session as sessions

#: Kinds that change several things on the coordinator, so they need a transaction around them.
BLOCK_KINDS = frozenset({parse.Kind.CALL, parse.Kind.DDL, parse.Kind.CREATE_TABLE_AS, parse.Kind.TRUNCATE})
#: Kinds whose effect on the catalog must be seen by the next statement.
CATALOG_KINDS = frozenset({parse.Kind.CALL, parse.Kind.DDL, parse.Kind.CREATE_TABLE_AS})
_DESCRIBED = frozenset(
    {
        parse.Kind.SELECT,
        parse.Kind.INSERT,
        parse.Kind.UPDATE,
        parse.Kind.DELETE,
        parse.Kind.MERGE,
        parse.Kind.CALL,
        parse.Kind.EXPLAIN,
        parse.Kind.EXECUTE,
        parse.Kind.FETCH,
        parse.Kind.OTHER,
    }
)
_MAY_MAKE = CATALOG_KINDS | {parse.Kind.OTHER, parse.Kind.SET}
#: Classes of SQLSTATE that PostgreSQL never gives to a SELECT that it runs: not supported, no connection.
_OURS_ALONE = frozenset({"0A", "08"})
_LEARNED = frozenset({parse.Kind.SELECT, parse.Kind.INSERT, parse.Kind.UPDATE, parse.Kind.DELETE})
_WRITES = frozenset({parse.Kind.INSERT, parse.Kind.UPDATE, parse.Kind.DELETE, parse.Kind.MERGE})
_INSERT = re.compile(rb"\s*insert\s", re.IGNORECASE)
_READS = re.compile(r"\b(?:select|using|table)\b|(?<!delete)\s+from\b", re.IGNORECASE)
_NO_BLOCK = re.compile(
    r"\bconcurrently\b|^\s*(?:vacuum|reindex|cluster|alter\s+system|create\s+database)"
    # what commits by itself, again and again
    r"|\b(?:create|refresh)_continuous_aggregate\b|^\s*create\s+materialized\s+view\b.*\.\s*continuous\b",
    re.IGNORECASE | re.DOTALL,
)
#: Calls that know the catalog as it is when they are done.
_LOOKS = re.compile(r"\s*(?:call|select)\s+(?:\w+\.)?refresh_continuous_aggregate\s*\(", re.IGNORECASE)


async def run(session: sessions.Session, payload: bytes) -> None:
    """Answer the Query with this payload, up to ReadyForQuery."""
    session.relay.ours.pop(b"", None)
    sql = payload[:-1]
    if (shown := own_settings.shown(sql)) is not sql:
        sql, payload = shown, shown + b"\0"
    if (statement := await _of_lists(session, sql)) is not None:
        return await _single(session, statement, payload)
    try:
        statements = session.parse(sql)
    except errors.OrochiError as error:
        await report(session, error, implicit=session.coordinator.status == "I")
        session.client.write(messages.ready_for_query(session.coordinator.status))
        return None
    if len(statements) == 1:
        await _single(session, statements[0], payload)
    elif statements and (_makes(session, statements, sql) or await _any_ours(session, statements)):
        await _several(session, statements)
    else:
        await _pass_on(session, payload)
    return None


async def _of_lists(session: sessions.Session, sql: bytes) -> parse.Statement | None:
    """The statement that stands for an INSERT of many rows of constants, which need not be parsed for it."""
    encoding = session.coordinator.parameters.get("client_encoding", "UTF8")
    if not _INSERT.match(sql) or session.comes_back or session.coordinator.status == "E":
        return None
    if not (encodings.is_utf8(encoding) or sql.isascii()):
        return None
    await session.sync_catalog()
    await session.refresh_settings()
    text = encodings.read(sql, encoding)
    return None if text is None else session.engine.of_lists(session, text)


async def _pass_on(session: sessions.Session, payload: bytes) -> None:
    """A text that is PostgreSQL's alone: its answer comes back as it is."""
    if session.relay.texts.flags(payload[:-1]) & texts.CATALOG:
        session.relay.catalog_dirty = True  # before its end passes
    await session.relay.forward(messages.message(b"Q", payload))
    session.ran(payload[:-1])


def _makes(session: sessions.Session, statements: tuple[parse.Statement, ...], sql: bytes) -> bool:
    """Whether what the later statements name may be made, or come to mean another thing, by the earlier ones."""
    return bool(session.relay.texts.flags(sql) & texts.TOUCHES) and any(
        statement.kind in _MAY_MAKE for statement in statements[:-1]
    )


async def _any_ours(session: sessions.Session, statements: tuple[parse.Statement, ...]) -> bool:
    if session.relay.exclusive or any(control.is_control(statement) for statement in statements):
        return True
    if session.coordinator.status != "E":
        await session.refresh_settings()
    return any(session.engine.concerns(session, statement) for statement in statements)


async def _single(session: sessions.Session, statement: parse.Statement, payload: bytes) -> None:
    implicit = session.coordinator.status == "I"
    sink = sinks.ClientSink(session.client, session.relay, simple=True)
    try:
        if control.is_control(statement):
            tag = await control.run(session, statement)
            session.client.write(messages.command_complete(tag))
        else:
            found = await resolve(session, statement)
            if found is None:
                return await _pass_on(session, payload)
            if implicit and statement.kind in _LEARNED and statement.lists is None:
                await session.recent.learn(payload[:-1], found[2])
            await run_committed(session, *found, sink, implicit=implicit)
            session.ran(payload[:-1])
            if implicit and statement.kind in CATALOG_KINDS:
                session.relay.catalog_dirty = False  # `run_committed` has seen to it
            sink.send_tag()
    except errors.OrochiError as error:
        await _announce(session, statement, sink, error)
        await report(session, error, implicit=implicit)
    await ending.learn(session)
    session.client.write(messages.ready_for_query(session.coordinator.status))
    return None


async def _announce(
    session: sessions.Session, statement: parse.Statement, sink: sinks.ClientSink, error: errors.OrochiError
) -> None:
    """PostgreSQL announces a SELECT's columns when it begins to run it: before errors of that, not of planning."""
    if not sink.announces or statement.kind is not parse.Kind.SELECT or session.coordinator.closed:
        return
    began = error.began if isinstance(error, errors.RemoteError) else None
    if began is None and error.sqlstate[:2] not in _OURS_ALONE and session.coordinator.status != "E":
        try:  # a fragment failed, which says nothing of when PostgreSQL would have
            await session.coordinator.fetch(f"EXPLAIN {statement.sql}")
            began = True
        except errors.RemoteError:
            began = False
    if began:
        sink.announce()


async def _several(session: sessions.Session, statements: tuple[parse.Statement, ...]) -> None:
    hidden = False
    try:
        for statement in statements:
            if control.is_begin(statement) and hidden:
                await _make_explicit(session, statement)
                hidden = False
            elif control.is_control(statement) and statement.kind is not parse.Kind.SET:
                if statement.kind is parse.Kind.TRANSACTION and hidden:
                    control.require_block(statement)
                    hidden = False
                tag = await control.run(session, statement)
                session.client.write(messages.command_complete(tag))
            else:
                if session.coordinator.status == "I":
                    await session.begin()
                    session.transaction.in_block = hidden = True
                await _one_of_several(session, statement)
        if hidden:
            await commit(session)
    except errors.OrochiError as error:
        await report(session, error, implicit=hidden or session.coordinator.status == "I")
    await ending.learn(session)
    session.client.write(messages.ready_for_query(session.coordinator.status))


async def _one_of_several(session: sessions.Session, statement: parse.Statement) -> None:
    if own_settings.is_set(statement):
        own_settings.check(statement)
    found = await resolve(session, statement)
    sink = sinks.ClientSink(session.client, session.relay, simple=True)
    if found is None:
        if statement.kind is parse.Kind.COPY:
            raise errors.FeatureNotSupported(
                "COPY of a local table cannot share a query string with statements on Orochi tables",
                hint="Send it as a query of its own.",
            )
        found = statement, None, (await session.coordinator.describe(statement.sql))[1]
    try:
        await session.execute(*found, sink)
    except errors.OrochiError as error:
        await _announce(session, statement, sink, error)
        raise
    session.ran(statement.sql.encode())
    sink.send_tag()


async def _make_explicit(session: sessions.Session, statement: parse.Statement) -> None:
    """BEGIN after other statements of the same query string: the implicit block becomes the client's."""
    if statement.tree.options:
        listener, session.coordinator.on_async = session.coordinator.on_async, None
        try:
            await session.coordinator.query(statement.sql)  # sets the options, and warns
        finally:
            session.coordinator.on_async = listener
    session.client.write(messages.command_complete("BEGIN"))


async def resolve(
    session: sessions.Session, statement: parse.Statement
) -> tuple[parse.Statement, context.Parameters | None, tuple[messages.FieldDescription, ...] | None] | None:
    """What is to be run for a statement that may be ours, its columns described; None if it is not ours."""
    if session.coordinator.status == "E":
        return None
    await session.sync_catalog()
    await session.refresh_settings()
    inner = executes.prepared(session, statement)
    if inner is not None:
        return await executes.bind(session, statement, inner)
    if not session.engine.concerns(session, statement):
        return None
    fields = None
    if statement.kind in _DESCRIBED and calls.as_select(statement) is None:
        _, fields = await session.coordinator.describe(statement.text)
    return statement, None, fields


async def run_committed(
    session: sessions.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: tuple[messages.FieldDescription, ...] | None,
    sink: context.Sink,
    *,
    implicit: bool,
) -> None:
    """Run one statement of ours, and commit if it is a transaction by itself."""
    if implicit and needs_block(session, statement):
        await session.begin()
    await session.execute(statement, parameters, fields, sink)
    if implicit:
        await commit(session)
        if statement.kind in CATALOG_KINDS and not _LOOKS.match(statement.sql):
            await session.catalog_committed()


async def commit(session: sessions.Session) -> None:
    """Commit an implicit transaction everywhere."""
    changed = session.catalog_is_own
    await session.transaction.commit(session.coordinator)
    session.block_ended()
    if changed:
        await session.catalog_committed()


def needs_block(session: sessions.Session, statement: parse.Statement) -> bool:
    """Whether the statement, alone, needs a transaction block on the coordinator: else it would see two moments."""
    if statement.kind in _WRITES:
        reads = _READS.search(statement.sql) is not None
        return reads and clock.may_be_asked(statement.sql, session.snapshot())
    return statement.kind in BLOCK_KINDS and not _NO_BLOCK.search(statement.sql)


async def report(session: sessions.Session, error: errors.OrochiError, *, implicit: bool) -> None:
    """Send the error, with the transaction in the state that it leaves."""
    if session.coordinator.closed:
        raise error
    await session.fail(implicit=implicit)
    session.client.write(messages.error_response(error))
