"""The entry for every statement the gateway does not relay: pick the operation by kind.

A plan made from a layout that has changed since fails on a node before it reads or writes
anything; then the catalog is read again and the statement runs again, unseen by the client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from orochi import errors, metrics
from orochi.executor import context
from orochi.operations import (
    again,
    aggregate_rewrite,
    aggregate_state,
    aggregates,
    awake,
    by_place,
    calls,
    columnar,
    copy,
    ddl,
    evaluate,
    explain,
    insert,
    insert_lists,
    modify,
    own_types,
    privileges,
    rehearse,
    relay,
    secured,
    select,
    sinks,
    templates,
    through_shells,
    truncate,
    turns,
    type_ddl,
    vacuum,
    writes,
)
from orochi.pgwire import messages
from orochi.planner import bodies, classify, clock, gapfill, known, names, parse, rehearsal

#: How long a statement is planned again after its layout changed under it, and the pauses between. There is none before
#: the first time: the catalog has the new layout before the nodes do.
STALE_SECONDS = 15.0
STALE_FIRST_PAUSE_SECONDS = 0.02
STALE_LONGEST_PAUSE_SECONDS = 0.5
#: Statements whose rights on Orochi tables are checked here; COPY, TRUNCATE and DDL see to it themselves.
_CHECKED = frozenset(
    {
        parse.Kind.SELECT,
        parse.Kind.INSERT,
        parse.Kind.UPDATE,
        parse.Kind.DELETE,
        parse.Kind.MERGE,
        parse.Kind.EXPLAIN,
        parse.Kind.CREATE_TABLE_AS,
        parse.Kind.DECLARE,
    }
)
_WRITING = frozenset({parse.Kind.INSERT, parse.Kind.UPDATE, parse.Kind.DELETE, parse.Kind.MERGE})
_MAY_TURN = _WRITING | {parse.Kind.SELECT}
#: Statements that change coordinator and nodes alike.
_RESTARTED = frozenset({parse.Kind.CALL, parse.Kind.DDL, parse.Kind.TRUNCATE})
_RESTART_NAME = "orochi: start of the statement"
_RESTART = f'"{_RESTART_NAME}"'
_NEEDS_KEPT = 5_000
_needs: dict[tuple[bytes, tuple[str, ...], frozenset[str], object], frozenset[privileges.Need]] = {}


async def execute(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> None:
    """Run one statement to its command tag.

    Args:
        session: the client's session, its coordinator connection idle and ours.
        statement: a parsed statement that may touch Orochi tables.
        parameters: bound values, or None in the simple protocol.
        fields: the result columns as the coordinator described them, None for no rows or unknown.
        sink: where rows and the tag go.

    Raises:
        OrochiError: with the SQLSTATE that the client is to see.
    """
    guard, asked = _Guard(sink), statement
    if not session.transaction.in_block:
        statement = clock.begun_now(statement)
    deadline = time.monotonic() + STALE_SECONDS
    pause, tries = 0.0, 0
    # what the failing attempt itself wrote can be undone; what came before it in the block stays
    kept = session.transaction.steady and bool(session.transaction.participants)
    start = await again.Start.here(
        session, _RESTART_NAME, may_move=not kept and _may_move(session, statement)
    )
    restart = start.can_go_back and await _restart_point(session, statement)
    begun = session.coordinator.status != "I"
    while True:
        planned = session.runtime.snapshot()
        try:
            async with (
                awake.kept(session.coordinator),
                turns.taken(session, tries),
                aggregate_state.looked_up(session, statement.tree),
            ):
                await _dispatch(session, statement, parameters, fields, guard, asked)
                await start.done()
                if restart and session.coordinator.status == "T":
                    await session.coordinator.query(f"RELEASE SAVEPOINT {_RESTART}")
                return
        except errors.OrochiError as error:
            lost = session.transaction.in_block and session.coordinator.status == "E" and not restart
            done = guard.sent or not start.can_go_back or kept or lost or time.monotonic() > deadline
            if not writes.is_stale(error) and (
                done or not await writes.is_overtaken(session, error, planned)
            ):
                raise
            if done:
                raise errors.SerializationFailure(
                    "the layout of a shard changed while the statement ran",
                    hint="Run the transaction again.",
                ) from error
        finally:
            await session.transaction.end_statement()
        if restart:
            await session.coordinator.query(f"ROLLBACK TO SAVEPOINT {_RESTART}")
        elif not session.transaction.in_block and session.coordinator.status != "I":
            await session.coordinator.query("ROLLBACK; BEGIN" if begun else "ROLLBACK")
        await start.back()
        metrics.REPLANS.inc()
        await asyncio.sleep(pause)
        pause = min(max(2 * pause, STALE_FIRST_PAUSE_SECONDS), STALE_LONGEST_PAUSE_SECONDS)
        tries += 1
        await session.runtime.refresh()
        session.plan_anew()
        if session.catalog_is_own:
            await session.catalog_changed()


def _may_move(session: context.Session, statement: parse.Statement) -> bool:
    """Whether shards that the statement uses may get another layout meanwhile: rows become stripes, or are moved."""
    if type_ddl.adds_value(statement):
        return False
    if statement.kind in _RESTARTED:
        return True
    snapshot = session.snapshot()
    found = known.tables(statement, snapshot, session.search_path, session.temp_tables)
    return any(
        table.dimension is not None
        or table.storage_type == "columnar"
        or any(shard.has_stripes for shard in table.shards)
        for table in found
    )


async def _restart_point(session: context.Session, statement: parse.Statement) -> bool:
    """In a client's block, mark where a statement that changes the coordinator too may be begun again."""
    if statement.kind not in _RESTARTED or not session.transaction.in_block:
        return False
    # a label that a savepoint's subtransaction adds could not be used before the block ends
    if session.coordinator.status != "T" or type_ddl.adds_value(statement):
        return False
    await session.coordinator.query(f"SAVEPOINT {_RESTART}")
    return True


def concerns(session: context.Session, statement: parse.Statement, *, ever: bool = False) -> bool:
    """Whether the statement reads or writes Orochi tables, or calls Orochi's API; with `ever`, or may come to.

    A statement kept for long names other relations once a temporary table that hides an Orochi
    table is dropped, or the search path changes.
    """
    if statement.kind is parse.Kind.CALL or by_place.concerns(session, statement):
        return True
    snapshot = session.snapshot()
    if snapshot.aggregates and aggregates.concerns(session, statement):
        return True
    if known.tables(statement, snapshot, session.search_path, session.temp_tables):
        return True
    if (
        gapfill.concerns(statement)
        or columnar.concerns(session, statement)
        or type_ddl.concerns(session, statement)
        or vacuum.concerns(statement, snapshot)
    ):
        return True
    if bodies.reads_past_children(statement, snapshot) is not None:
        return True
    if statement.kind in _WRITING and through_shells.writes_view(session, statement):
        return True
    return ever and statement.kind in _MAY_TURN and classify.may_name(statement.tree, snapshot)


def of_lists(session: context.Session, text: str) -> parse.Statement | None:
    """The statement that stands for an INSERT of many rows of constants; None if the text is to be parsed."""
    return insert_lists.recognised(session, text)


class Prepared(Protocol):
    """A prepared statement, as the gateway keeps it."""

    @property
    def sql(self) -> bytes:
        """The client's text."""

    @property
    def type_oids(self) -> tuple[int, ...]:
        """The parameter types PostgreSQL inferred."""

    @property
    def fields(self) -> tuple[messages.FieldDescription, ...] | None:
        """Its result columns."""


def template(session: context.Session, prepared: Prepared) -> templates.Template | None:
    """The generic single-shard plan of a prepared statement, or None."""
    if aggregate_state.is_read(session, prepared.sql.decode()):
        return None  # what of it is read where is decided anew each time
    found: templates.Template | None = session.runtime.router_plan(
        prepared.sql.decode(),
        prepared.type_oids,
        session.search_path,
        session.snapshot(),
        session.temp_tables,
    )
    return found


def forget_rights() -> None:
    """What roles may do has changed: PostgreSQL is to be asked again."""
    privileges.forget()


def allowed(session: context.Session, prepared: Prepared, formats: Sequence[int] = ()) -> bool:
    """Whether nothing is left to ask PostgreSQL before a node's rows may go to the client as they are.

    It granted the session's role all that the statement needs, a moment ago, and no column wanted in
    binary holds OIDs of the node.
    """
    if not own_types.surely_plain(prepared.fields, formats):
        return False
    return all(privileges.is_known(session, need) for need in _needed(session, prepared))


async def renew_rights(session: context.Session, prepared: Prepared) -> None:
    """Ask PostgreSQL again for the rights that `allowed` looks at."""
    await privileges.ask(session, _needed(session, prepared))


def _needed(session: context.Session, prepared: Prepared) -> frozenset[privileges.Need]:
    snapshot = session.snapshot()
    key = (prepared.sql, session.search_path, session.temp_tables, snapshot.shape)
    wanted = _needs.get(key)
    if wanted is None:
        (statement,) = parse.parse(prepared.sql.decode())
        tables = known.tables(statement, snapshot, session.search_path, session.temp_tables)
        wanted = privileges.needs(statement, tables)
        if privileges.has_views(session, statement):
            wanted |= {privileges.NEVER}
        if len(_needs) > _NEEDS_KEPT:
            _needs.clear()
        _needs[key] = wanted
    return wanted


async def _dispatch(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
    asked: parse.Statement,
) -> None:
    """Run the statement, which PostgreSQL has described if it is the one that was `asked`."""
    if gapfill.concerns(statement):
        oids = parameters.type_oids if parameters else ()
        statement = gapfill.expand(statement, session.runtime.builtins, oids)
    kind = statement.kind
    if session.comes_back and await by_place.run(session, statement, parameters, fields, sink):
        return None
    if (past := bodies.reads_past_children(statement, session.snapshot())) is not None:
        raise errors.FeatureNotSupported(
            f'a body with ONLY or COPY TO of the Orochi table "{past}" is not supported',
            hint="Leave out ONLY, and copy (SELECT * FROM it).",
        )
    if kind is parse.Kind.CALL:
        return await calls.execute(session, statement, parameters, fields, sink)
    if type_ddl.concerns(session, statement):
        return await type_ddl.execute(session, statement, sink)
    if aggregates.concerns(session, statement):
        return await aggregates.execute(session, statement, sink)
    tables = known.tables(statement, session.snapshot(), session.search_path, session.temp_tables)
    if kind in _CHECKED and await secured.applies(session, statement, tables):
        return await secured.execute(session, statement, parameters, fields, sink, tables)
    if vacuum.is_vacuum(statement):
        return await vacuum.execute(session, statement, sink)
    if columnar.concerns(session, statement) and not (tables and columnar.is_alter(statement)):
        return await columnar.execute(session, statement, parameters, fields, sink)
    if kind in _WRITING and through_shells.writes_view(session, statement):
        return await through_shells.write_view(session, statement, tables, parameters, fields, sink)
    if not tables:
        return await relay.execute(session, statement, parameters, fields, sink)
    if through_shells.makes_materialized_view(statement):
        return await through_shells.create_materialized_view(session, statement, tables, fields, sink)
    if kind in _CHECKED:
        await privileges.require(session, statement, parameters, tables)
    if kind in _MAY_TURN and rehearsal.writes_inside(
        statement.tree, session.snapshot(), session.search_path, session.temp_tables
    ):
        return await rehearse.execute(session, statement, parameters, fields, sink)
    if kind in _WRITING and _writes_elsewhere(session, statement):
        return await select.execute_rewritten(session, statement, parameters, fields, sink)
    match kind:
        case parse.Kind.SELECT:
            try:
                async with evaluate.one_moment(
                    session, clock.may_be_asked(statement.sql, session.snapshot())
                ):
                    if not await _from_aggregates(session, statement, parameters, fields, sink):
                        same = statement is asked
                        await select.execute(session, statement, parameters, fields, sink, described=same)
            except errors.FeatureNotSupported:
                if not rehearsal.locks(statement.tree):
                    raise
                await rehearse.execute(session, statement, parameters, fields, sink)
        case parse.Kind.INSERT:
            if statement.lists is not None:
                if await insert_lists.execute(session, statement, sink):
                    return None
                statement = parse.parse_one(statement.text)
            sink = await own_types.converting(session, fields, sink)
            await insert.execute(session, statement, parameters, fields, sink)
        case parse.Kind.UPDATE | parse.Kind.DELETE:
            sink = await own_types.converting(session, fields, sink)
            await modify.execute(session, statement, parameters, fields, sink)
        case parse.Kind.COPY:
            await copy.execute(session, statement, parameters, fields, sink)
        case parse.Kind.TRUNCATE:
            await truncate.execute(session, statement, parameters, fields, sink)
        case parse.Kind.EXPLAIN:
            await explain.execute(session, statement, parameters, fields, sink)
        case parse.Kind.DECLARE if rehearsal.locks(statement.tree):
            await rehearse.execute(session, statement, parameters, fields, sink)
        case parse.Kind.CREATE_TABLE_AS | parse.Kind.DECLARE:
            await select.execute_rewritten(session, statement, parameters, fields, sink)
        case parse.Kind.DDL:
            await ddl.execute(session, statement, sink)
        case parse.Kind.MERGE:
            sink = await own_types.converting(session, fields, sink)
            await modify.execute_merge(session, statement, parameters, fields, sink)
        case _:
            await relay.execute(session, statement, parameters, fields, sink)
    return None


async def _from_aggregates(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> bool:
    """Answer a query on rows from continuous aggregates, where that is wanted and sure to be the same."""
    answer = await aggregate_rewrite.find(session, statement, parameters)
    if answer is None:
        return False
    async with aggregate_state.looked_up(session, answer.statement.tree, of_rows=True):
        await select.execute(session, answer.statement, None, fields, sink)
    return True


def _writes_elsewhere(session: context.Session, statement: parse.Statement) -> bool:
    """Whether an INSERT, UPDATE or DELETE that reads Orochi tables changes a table of the coordinator's own."""
    relation = statement.tree.relation
    found = names.find_relation(
        session.snapshot(),
        session.search_path,
        session.temp_tables,
        relation.schemaname,
        relation.relname,
    )
    return found is None


class _Guard(sinks.Forwarding):
    """A sink that remembers whether the client has seen anything yet.

    Columns do not count: a sink keeps them until there is a row or the tag to send.
    """

    def __init__(self, sink: context.Sink) -> None:
        super().__init__(sink)
        self.sent = False

    async def rows(self, data: bytes | memoryview, count: int) -> None:
        self.sent = True
        await self._sink.rows(data, count)

    async def complete(self, tag: str) -> None:
        self.sent = True
        await self._sink.complete(tag)

    def copy_in(self, overall_format: int, column_formats: Sequence[int]) -> AsyncIterator[bytes]:
        self.sent = True
        return self._sink.copy_in(overall_format, column_formats)

    async def copy_out(self, overall_format: int, column_formats: Sequence[int]) -> None:
        self.sent = True
        await self._sink.copy_out(overall_format, column_formats)
