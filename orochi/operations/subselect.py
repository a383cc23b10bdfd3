"""A SELECT run for a statement of ours, its rows kept: sub-SELECTs that a shard cannot evaluate."""

from __future__ import annotations

from collections.abc import Sequence

from orochi.executor import context
from orochi.operations import relay, select, sinks, writes
from orochi.pgwire import messages
from orochi.planner import classify, parse
from orochi.planner import context as planning


async def rows_of(
    session: context.Session, sql: str, parameters: context.Parameters | None
) -> planning.SubqueryResult:
    """The rows of `sql`, which may read Orochi tables and use the parameters of the statement around it."""
    bound: writes.Bound = writes.NOTHING_BOUND
    if parameters is not None and writes.referenced(sql):
        bound = (parameters.values, writes.all_formats(parameters), parameters.type_oids)
    used = context.Parameters(*bound)
    _, fields = await session.coordinator.describe(sql, used.type_oids)
    statement = parse.parse_one(sql)
    kept = Kept()
    if classify.tables_in(statement.tree, session.snapshot(), session.search_path, session.temp_tables):
        await select.execute(session, statement, used, fields, kept)
    else:
        await relay.execute_sql(session, sql, used, fields, kept)
    return planning.SubqueryResult(
        columns=tuple(field.name for field in fields or ()),
        types=await _type_names(session, fields or ()),
        rows=tuple(kept.values),
    )


async def _type_names(
    session: context.Session, fields: Sequence[messages.FieldDescription]
) -> tuple[str, ...]:
    if not fields:
        return ()
    asked = ", ".join(f"pg_catalog.format_type({field.type_oid}, {field.typmod})" for field in fields)
    result = await session.coordinator.fetch(f"SELECT {asked}")
    return tuple((value or b"text").decode() for value in result.rows[0])


class Kept(sinks.Silent):
    """A sink that keeps rows, in text form."""

    def __init__(self) -> None:
        self.values: list[tuple[str | None, ...]] = []

    async def rows(self, data: bytes | memoryview, count: int) -> None:
        """Keep the rows."""
        raw, at = bytes(data), 0
        for _ in range(count):
            row = messages.parse_data_row(raw, at + 5)
            self.values.append(tuple(None if value is None else value.decode() for value in row))
            at += 1 + int.from_bytes(raw[at + 1 : at + 5], "big")
