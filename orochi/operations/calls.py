"""Calls of Orochi's functions: PostgreSQL evaluates their arguments, this module executes them.

Arguments come back as JSON from each function's twin, already cast and with defaults, so that wrong
calls fail in PostgreSQL with PostgreSQL's messages. Results go to the client with the columns the
real function has.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from orochi import errors
from orochi.catalog import api
from orochi.executor import context
from orochi.operations import (
    aggregate_calls,
    cluster_calls,
    compression_calls,
    describe,
    distribute,
    hypertable_calls,
    jobs,
    maintenance,
    policies,
    shells,
    sinks,
    tiering_calls,
    writes,
)
from orochi.operations.arguments import Arguments
from orochi.pgwire import messages
from orochi.planner import calls as planner
from orochi.planner import classify, nested_calls, parse

#: What one call answers: rows of text values. One row of '' is void.
Rows: TypeAlias = "list[tuple[str | None, ...]]"
Handler: TypeAlias = Callable[[context.Session, context.Sink, Arguments], Awaitable[Rows]]
_VOID: Rows = [("",)]


async def execute(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> None:
    """Run a statement that calls functions of Orochi's API."""
    nested = nested_calls.find(statement)
    if nested is not None:
        await _execute_nested(session, nested, parameters, fields, sink)
        return
    plan = planner.plan(statement)
    if isinstance(plan, planner.FromCall):
        await _execute_from(session, plan, parameters, fields, sink)
    elif isinstance(plan, planner.Lookups):
        await _execute_lookups(session, statement, plan, parameters, fields, sink)
    else:
        await _execute_targets(session, statement, plan, parameters, fields, sink)


async def _execute_nested(
    session: context.Session,
    nested: nested_calls.Nested,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> None:
    """Run the part that calls functions, then what is around it over the part's rows."""
    around = classify.tables_in(nested.tree, session.snapshot(), session.search_path, session.temp_tables)
    oids = parameters.type_oids if parameters else ()
    if fields is None:  # what is wrong with all of it comes first
        await session.coordinator.describe(nested.sql, oids)
    try:
        _, described = await session.coordinator.describe(nested.inner.sql, oids)
    except errors.RemoteError as error:
        raise planner.not_here(nested.tree) from error
    columns = await describe.named_types(session, described or ())
    if around or not columns or any(kind == "record" for _, kind in columns):
        raise planner.not_here(nested.tree)
    held = _Held(sink)
    await execute(session, nested.inner, parameters, described, held)
    rows = [tuple(None if v is None else v.decode() for v in row) for row in held.values()]
    statement = nested_calls.with_rows(nested, columns, rows)
    if statement.kind is parse.Kind.CALL:
        await execute(session, statement, parameters, fields, sink)
        return
    if fields is not None:
        await sink.columns(fields)
    values, formats, oids = _bound(parameters)
    tag = await session.coordinator.stream(statement.sql, values, formats, oids, sink.formats, sink.rows)
    await sink.complete(tag)


class _Held(sinks.Silent):
    """A sink that keeps rows as text, and lets notices through."""

    def __init__(self, sink: context.Sink) -> None:
        self._sink = sink
        self._kept = writes.HeldRows()

    async def rows(self, data: bytes | memoryview, count: int) -> None:
        """Keep `count` whole DataRow messages."""
        await self._kept.append(memoryview(data), count)

    async def notice(self, message: str, *, severity: str = "NOTICE", hint: str | None = None) -> None:
        """Hand a notice on."""
        await self._sink.notice(message, severity=severity, hint=hint)

    def values(self) -> list[tuple[bytes | None, ...]]:
        """The rows' columns."""
        return [messages.parse_data_row(message, 5) for message in self._kept.messages()]


async def _execute_targets(
    session: context.Session,
    statement: parse.Statement,
    plan: planner.TargetCalls,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> None:
    fields = await _described(session, statement, parameters, fields)
    wanted = _formats(sink.formats, len(fields))
    positions = dict(plan.positions)
    asked = tuple(0 if at in positions else wanted[at] for at in range(len(fields)))
    found = await _fetch(session, plan.sql, parameters, asked)
    made = [[(name, json.loads(row[at] or b"null")) for at, name in plan.positions] for row in found.rows]
    results = await _run_all(session, sink, [call for calls in made for call in calls])
    await sink.columns(fields)
    sent = 0
    for number, row in enumerate(found.rows):
        mine = results[number * len(positions) : (number + 1) * len(positions)]
        for values in _expand(mine):
            answer = list(row)
            for (at, name), value in zip(plan.positions, values, strict=True):
                answer[at] = await _wire(session, name, value, wanted[at])
            await sink.rows(messages.data_row(answer), 1)
            sent += 1
    await sink.complete(f"SELECT {sent}")


async def _execute_from(
    session: context.Session,
    plan: planner.FromCall,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> None:
    found = await _fetch(session, plan.sql, parameters, (0,))
    made = [(plan.function, json.loads(row[0] or b"null")) for row in found.rows]
    rows = [row for result in await _run_all(session, sink, made) for row in result]
    if plan.tree is None:
        await sink.complete("CALL")
        return
    sql = planner.with_rows(plan, rows)
    if fields is not None:
        await sink.columns(fields)
    values, formats, oids = _bound(parameters)
    tag = await session.coordinator.stream(sql, values, formats, oids, sink.formats, sink.rows)
    await sink.complete(tag)


async def _execute_lookups(
    session: context.Session,
    statement: parse.Statement,
    plan: planner.Lookups,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> None:
    shown = await _described(session, statement, parameters, fields)
    found = await _fetch(session, plan.sql, parameters, (0,))
    asked = [(row[0] or b"null").decode() for row in found.rows]
    answers = await _run_all(session, sink, [(plan.function, json.loads(call)) for call in asked])
    results = [(call, rows[0][0]) for call, rows in zip(asked, answers, strict=True)]
    values, formats, oids = _bound(parameters)
    await sink.columns(shown)
    sql = planner.with_results(plan, results)
    tag = await session.coordinator.stream(sql, values, formats, oids, sink.formats, sink.rows)
    await sink.complete(tag)


async def _described(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
) -> Sequence[messages.FieldDescription]:
    """The statement's columns, asked for where the client did not."""
    if fields is None:
        oids = parameters.type_oids if parameters else ()
        _, fields = await session.coordinator.describe(statement.sql, oids)
    return fields or ()


def _bound(
    parameters: context.Parameters | None,
) -> tuple[tuple[bytes | None, ...], tuple[int, ...], tuple[int, ...]]:
    return (parameters.values, parameters.formats, parameters.type_oids) if parameters else ((), (), ())


async def _fetch(
    session: context.Session, sql: str, parameters: context.Parameters | None, formats: Sequence[int]
) -> messages.QueryResult:
    values, value_formats, oids = _bound(parameters)
    return await session.coordinator.fetch(sql, values, value_formats, oids, formats)


async def _run_all(
    session: context.Session, sink: context.Sink, made: Sequence[tuple[str, Mapping[str, Any]]]
) -> list[Rows]:
    """Execute calls in order; those that compress chunks, all together."""
    arguments = [(name, Arguments(name, call["arguments"])) for name, call in made]
    if made and all(name in compression_calls.NAMES for name, _ in made):
        return await compression_calls.run(session, sink, arguments)
    results = []
    for name, values in arguments:
        if name in compression_calls.NAMES:
            results.extend(await compression_calls.run(session, sink, [(name, values)]))
        elif name in OUTSIDE:
            results.append(await OUTSIDE[name](session, sink, values))
        else:
            async with shells.transactional(session):
                results.append(await HANDLERS[name](session, sink, values))
    return results


def _expand(results: Sequence[Rows]) -> list[tuple[tuple[str | None, ...] | None, ...]]:
    """The rows that one row of the statement becomes: set-returning calls side by side, as in PostgreSQL."""
    count = max((len(rows) for rows in results), default=0)
    return [tuple(rows[at] if at < len(rows) else None for rows in results) for at in range(count)]


async def _wire(
    session: context.Session, name: str, row: tuple[str | None, ...] | None, wanted: int
) -> bytes | None:
    """A call's result as the client asked for it."""
    if row is None:
        return None
    columns = api.result_columns(name, len(row))
    if columns is None:
        kind = api.result_type(name)
        if row[0] is None or wanted == 0 or kind == "void":
            return None if row[0] is None else row[0].encode()
        expression = f"$1::{kind}"
    else:
        expression = f"ROW({', '.join(f'${at}::{kind}' for at, (_, kind) in enumerate(columns, 1))})"
    values = tuple(None if value is None else value.encode() for value in row)
    oids = (25,) * len(values)
    expression = expression.replace("::", "::text::")
    result = await session.coordinator.fetch(
        f"SELECT {expression}", values, (0,) * len(values), oids, (wanted,)
    )
    return result.rows[0][0]


def _formats(formats: Sequence[int], count: int) -> tuple[int, ...]:
    if len(formats) == count:
        return tuple(formats)
    return (formats[0] if formats else 0,) * count


async def _create_distributed_table(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    shard_count = call.integer("shard_count")
    kind = call.text("distribution_type")
    if kind is not None and kind.strip().isdigit():
        shard_count = int(kind)
    elif kind is not None and kind.lower() != "hash":
        raise errors.FeatureNotSupported(
            f'distribution type "{kind}" is not supported', hint="Orochi distributes by hash."
        )
    await distribute.create_distributed_table(
        session,
        call.oid("table_name"),
        call.required("distribution_column"),
        shard_count,
        call.text("colocate_with"),
    )
    return _VOID


async def _create_reference_table(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    await distribute.create_reference_table(session, call.oid("table_name"))
    return _VOID


async def _undistribute_table(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    await distribute.undistribute_table(session, call.oid("table_name"))
    return _VOID


#: Calls that run inside the client's transaction.
HANDLERS: dict[str, Handler] = {
    **hypertable_calls.HANDLERS,
    "create_distributed_table": _create_distributed_table,
    "create_reference_table": _create_reference_table,
    "undistribute_table": _undistribute_table,
    "add_compression_policy": policies.add_compression_policy,
    "remove_compression_policy": policies.remove_compression_policy,
    "add_retention_policy": policies.add_retention_policy,
    "remove_retention_policy": policies.remove_retention_policy,
    "add_job": jobs.add_job,
    "alter_job": jobs.alter_job,
    "delete_job": jobs.delete_job,
    "set_tiering_policy": tiering_calls.set_tiering_policy,
    "remove_tiering_policy": tiering_calls.remove_tiering_policy,
    "add_continuous_aggregate_policy": aggregate_calls.add_continuous_aggregate_policy,
    "remove_continuous_aggregate_policy": aggregate_calls.remove_continuous_aggregate_policy,
    "drop_continuous_aggregate": aggregate_calls.drop_continuous_aggregate,
    "remove_node": cluster_calls.remove_node,
    "run_command_on_shards": cluster_calls.run_command_on_shards,
}
#: Calls that begin and end transactions of their own.
OUTSIDE: dict[str, Handler] = {
    "add_node": cluster_calls.add_node,
    "citus_add_node": cluster_calls.add_node,
    "run_command_on_nodes": cluster_calls.run_command_on_nodes,
    "run_job": maintenance.run_job,
    "run_maintenance": maintenance.run_maintenance,
    "move_chunk_to_tier": tiering_calls.move_chunk_to_tier,
    "create_continuous_aggregate": aggregate_calls.create_continuous_aggregate,
    "refresh_continuous_aggregate": aggregate_calls.refresh_continuous_aggregate,
}
