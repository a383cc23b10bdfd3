"""Statements that turned out to need nothing of Orochi: run on the client's own connection."""

from __future__ import annotations

from collections.abc import Sequence

from orochi.executor import context
from orochi.operations import privileges
from orochi.pgwire import messages
from orochi.planner import parse


async def execute(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> None:
    """Run `statement` on the coordinator as it is and hand its answer through."""
    await execute_sql(session, statement.sql, parameters, fields, sink)
    if statement.kind is parse.Kind.DDL:
        privileges.forget()
        await catalog_may_have_changed(session)


async def execute_sql(
    session: context.Session,
    sql: str,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> None:
    """Run `sql` on the client's own connection; its rows and its tag become the answer."""
    if fields is not None:
        await sink.columns(fields)
    tag = await session.coordinator.stream(
        sql,
        parameters.values if parameters else (),
        parameters.formats if parameters else (),
        parameters.type_oids if parameters else (),
        sink.formats,
        sink.rows,
    )
    await sink.complete(tag)


async def catalog_may_have_changed(session: context.Session) -> None:
    """After DDL on the coordinator: see its effect on the catalog, committed or not."""
    if session.coordinator.status == "I":
        await session.runtime.refresh()
    else:  # the committed catalog is for after the COMMIT: reading it now could wait for locks that we hold
        await session.catalog_changed()
