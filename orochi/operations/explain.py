"""EXPLAIN of statements on Orochi tables: the plan as the planner describes it.

With ANALYZE the statement runs, its rows are counted and thrown away, and each fragment tells what
it cost.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

from orochi import errors, pgtypes
from orochi.executor import context, counting, reduce, small, transport
from orochi.operations import (
    aggregate_rewrite,
    aggregate_state,
    finishing,
    insert,
    local,
    modify,
    rehearse,
    relay,
    select,
    sinks,
    stages,
)
from orochi.pgwire import messages
from orochi.planner import classify, explain, parse, quoting, rehearsal, spread, transfer
from orochi.planner import modify as modify_plan
from orochi.planner import plan as plans

_OFF = frozenset({"off", "false", "0", "no"})


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """EXPLAIN's options, as far as an Orochi plan has them."""

    analyze: bool = False
    format: str = "text"
    timing: bool = True
    summary: bool = True


async def execute(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> None:
    """Answer EXPLAIN in the text or JSON format."""
    options = _options(statement)
    if options.format not in ("text", "json"):
        raise errors.FeatureNotSupported(
            f"EXPLAIN (FORMAT {options.format.upper()}) of an Orochi plan is not supported",
            hint="Use FORMAT TEXT or FORMAT JSON.",
        )
    inner = parse.inner(statement)
    asked = inner.kind
    if inner.kind in (parse.Kind.CREATE_TABLE_AS, parse.Kind.DECLARE):
        inner = parse.inner(inner)
    started = time.perf_counter()
    match inner.kind:
        case _ if rehearsal.writes_inside(
            inner.tree, session.snapshot(), session.search_path, session.temp_tables
        ):
            found = await _explain_rehearsal(session, inner, parameters, options)
        case parse.Kind.MERGE:
            found = await _explain_merge(session, inner, parameters, options)
        case parse.Kind.SELECT if asked is parse.Kind.SELECT:
            found = await _explain_answer(session, inner, parameters, options)
        case parse.Kind.SELECT:
            found = await _explain_select(session, inner, parameters, options)
        case parse.Kind.UPDATE | parse.Kind.DELETE:
            found = await _explain_modify(session, inner, parameters, options)
        case parse.Kind.INSERT:
            found = await _explain_insert(session, inner, parameters, options)
        case _:
            return await relay.execute(session, statement, parameters, fields, sink)
    if options.analyze and options.summary and options.timing:
        found["Execution Time"] = f"{(time.perf_counter() - started) * 1000:.3f} ms"
    await _send(found, options, fields, sink)
    return None


def _options(statement: parse.Statement) -> Options:
    given: dict[str, str] = {}
    for element in statement.tree.options or ():
        argument = element.arg
        value = getattr(argument, "sval", None)
        if value is None and argument is not None:
            value = str(getattr(argument, "boolval", getattr(argument, "ival", "on"))).lower()
        given[element.defname.lower()] = "on" if value is None else value.lower()

    def is_on(name: str, default: str) -> bool:
        return given.get(name, default) not in _OFF

    return Options(
        analyze=is_on("analyze", "off"),
        format=given.get("format", "text"),
        timing=is_on("timing", "on"),
        summary=is_on("summary", "on"),
    )


async def _explain_answer(
    session: context.Session,
    inner: parse.Statement,
    parameters: context.Parameters | None,
    options: Options,
) -> dict[str, Any]:
    """A SELECT, from continuous aggregates if they answer it."""
    answer = await aggregate_rewrite.find(session, inner, parameters)
    if answer is None:
        return await _explain_select(session, inner, parameters, options)
    async with aggregate_state.looked_up(session, answer.statement.tree, of_rows=True):
        found = await _explain_select(session, answer.statement, None, options)
    listed = ", ".join(quoting.relation(*item.view) for item in answer.aggregates)
    return {"Node Type": found.pop("Node Type"), "Continuous Aggregate": listed, **found}


async def _explain_select(
    session: context.Session,
    inner: parse.Statement,
    parameters: context.Parameters | None,
    options: Options,
) -> dict[str, Any]:
    plan = await select.plan_select(session, inner, parameters)
    stats: dict[int, transport.FragmentStats] | None = None
    counter = _Counter()
    if options.analyze:
        stats = {}
        match plan:
            case plans.Router():
                counter.tag = await select.run_router(session, plan, parameters, counter)
            case plans.Distributed():
                await _run_with_stats(session, plan, stats, counter)
    found = explain.as_dict(plan, session.snapshot(), stats=stats, timing=options.timing)
    if isinstance(plan, plans.Distributed) and await _is_small(session, plan):
        found = {"Node Type": found.pop("Node Type"), "Tasks": "none, small", **found}
    if options.analyze:
        found["Actual Rows"] = counter.count
    return found


async def _is_small(session: context.Session, plan: plans.Distributed) -> bool:
    """Whether it is thought to run without tasks, its stages too."""
    inner = [stage.plan for stage in plan.stages if isinstance(stage.plan, plans.Distributed)]
    fragments = [part for one in (plan, *inner) for item in one.intermediates for part in item.fragments]
    if not fragments or local.required(session) or session.transaction.wants_snapshot:
        return False
    return await small.fits(session, fragments)


async def _run_with_stats(
    session: context.Session,
    plan: plans.Distributed,
    stats: dict[int, transport.FragmentStats],
    counter: _Counter,
) -> None:
    inputs = await select.run_stages(session, plan)
    owner = {part.number: item.name for item in plan.intermediates for part in item.fragments}
    loaded = stages.rows_for(plan, inputs)
    async for result in select.run_fragments(session, plan, inputs, coalesced=False):
        stats[result.fragment] = result.stats
        loaded[owner[result.fragment]][1].add(result.batches)
    if plan.final_sql is not None:
        loaded = await counting.applied(plan.intermediates, loaded)
        if await finishing.finished(session, plan, loaded, counter):
            return
        await reduce.finish(session, loaded, plan.final_sql, counter, select.keys_of(plan))
    else:
        counter.count = sum(item.rows for item in stats.values())
        if plan.limit is not None:
            counter.count = min(counter.count, plan.limit)


async def _explain_modify(
    session: context.Session,
    inner: parse.Statement,
    parameters: context.Parameters | None,
    options: Options,
) -> dict[str, Any]:
    try:
        plan = await select.with_folding(
            session, parameters, lambda plan_context: modify_plan.plan(inner, plan_context)
        )
    except errors.FeatureNotSupported:
        return await _explain_rehearsal(session, inner, parameters, options)
    found = explain.as_dict(plan, session.snapshot())
    if options.analyze:
        counter = _Counter()
        await modify.execute(session, inner, parameters, None, counter)
        found["Result"] = counter.tag
    return found


async def _explain_merge(
    session: context.Session,
    inner: parse.Statement,
    parameters: context.Parameters | None,
    options: Options,
) -> dict[str, Any]:
    try:
        plan = await select.with_folding(
            session, parameters, lambda plan_context: transfer.plan_merge(inner, plan_context)
        )
    except (spread.Unfit, parse.CannotDeparse, errors.FeatureNotSupported):
        return await _explain_rehearsal(session, inner, parameters, options)
    found = explain.as_dict(plan, session.snapshot())
    if options.analyze:
        counter = _Counter()
        await modify.execute_merge(session, inner, parameters, None, counter)
        found["Result"] = counter.tag
    return found


async def _explain_rehearsal(
    session: context.Session,
    inner: parse.Statement,
    parameters: context.Parameters | None,
    options: Options,
) -> dict[str, Any]:
    plan = await select.with_folding(
        session, parameters, lambda plan_context: rehearsal.plan(inner, plan_context)
    )
    found = explain.rehearsal(plan, session.snapshot())
    if options.analyze:
        counter = _Counter()
        await rehearse.execute(session, inner, parameters, None, counter)
        found["Result"] = counter.tag
    return found


async def _explain_insert(
    session: context.Session,
    inner: parse.Statement,
    parameters: context.Parameters | None,
    options: Options,
) -> dict[str, Any]:
    tables = classify.tables_in(inner.tree, session.snapshot(), session.search_path, session.temp_tables)
    source = inner.tree.selectStmt
    rows = getattr(source, "valuesLists", None)
    found: dict[str, Any] = {
        "Node Type": "Orochi Insert",
        "Tables": [f"{table.schema}.{table.name}" for table in tables],
        "Source": f"{len(rows)} rows of VALUES" if rows else "DEFAULT VALUES" if source is None else "SELECT",
    }
    pushed = await insert.pushed_plan(session, inner, parameters)
    if pushed is not None:
        found = explain.as_dict(pushed, session.snapshot())
    if options.analyze:
        counter = _Counter()
        await insert.execute(session, inner, parameters, None, counter)
        found["Result"] = counter.tag
    return found


async def _send(
    found: dict[str, Any],
    options: Options,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> None:
    is_json = options.format == "json"
    oid = pgtypes.JSON if is_json else pgtypes.TEXT
    await sink.columns(fields or [messages.FieldDescription("QUERY PLAN", 0, 0, oid, -1, -1, 0)])
    lines = [json.dumps([{"Plan": found}], indent=2)] if is_json else explain.lines(found)
    rows = [messages.data_row((line.encode(),)) for line in lines]
    await sink.rows(b"".join(rows), len(rows))
    await sink.complete("EXPLAIN")


@dataclasses.dataclass
class _Counter(sinks.Silent):
    """A sink that counts rows and forgets them."""

    count: int = 0
    tag: str = ""

    async def rows(self, data: bytes | memoryview, count: int) -> None:
        self.count += count

    async def complete(self, tag: str) -> None:
        self.tag = tag
