"""SELECT: plan, run fragments where the rows are, finish exactly as PostgreSQL would.

Router plans hand node bytes through. Distributed plans gather fragment results as Arrow and either encode
them, as they come or sorted, or give them to the coordinator PostgreSQL, which runs the final SQL in the
client's own session, so that expressions, collations and functions are its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias, TypeVar

import pyarrow as pa

from orochi import errors, metrics
from orochi.catalog import snapshot as snapshots
from orochi.executor import context, counting, exchange, reduce, results, small, small_stripes, transport
from orochi.operations import (
    aggregate_state,
    describe,
    finishing,
    frozen,
    local,
    own_types,
    planned,
    scrolling,
    stages,
)
from orochi.operations import parameters as bound
from orochi.pgwire import client, messages
from orochi.planner import coalesce, edit, literals, parse, pull, select, staged
from orochi.planner import context as planning
from orochi.planner import fragment as plan_fragment
from orochi.planner import plan as plans
from orochi.sharding import hashing

Plan = TypeVar("Plan")
#: Classes of SQLSTATE that depend on rows: cardinality violation, data exception.
_DATA_ERRORS = frozenset({"21", "22"})
#: Times that planning may ask the session: once for each stage, and a few more.
_QUESTIONS = 60
Loaded: TypeAlias = counting.Loaded


@dataclasses.dataclass(frozen=True, slots=True)
class Materialized:
    """A statement rewritten to read temporary tables of the client's session.

    Attributes:
        sql: runs on `session.coordinator`.
        cleanup: drops what was loaded; call it when `sql` is done.
    """

    sql: str
    cleanup: Callable[[], Awaitable[None]]


async def execute(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
    *,
    described: bool = False,
) -> None:
    """Answer a SELECT that reads Orochi tables; `fields` are what PostgreSQL said of this very text if it is `described`."""
    plan = await plan_select(session, statement, parameters, fields if described else None)
    if fields is not None:
        await sink.columns(fields)
    metrics.strategy.set(plan.strategy if isinstance(plan, plans.Distributed) else "router")
    match plan:
        case plans.Router():
            sink = await own_types.converting(session, fields, sink)
            tag = await run_router(session, plan, parameters, sink)
        case plans.Distributed():
            tag = await _answer(session, statement, parameters, plan, sink)
    await sink.complete(tag)


async def _answer(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    plan: plans.Distributed,
    sink: context.Sink,
) -> str:
    """Run a plan, its stages first.

    A stage computes for rows that PostgreSQL might never look at. So an error of data in one is the
    statement's only if the statement itself, run over pulled rows, has it too.
    """
    try:
        inputs = await run_stages(session, plan)
    except errors.OrochiError as error:
        failed = session.coordinator.status == "E"
        lost = (failed and session.transaction.in_block) or session.transaction.participants
        if lost or error.sqlstate[:2] not in _DATA_ERRORS:
            raise
        if failed:  # the statement's own block: it begins again, at another moment
            await session.coordinator.query("ROLLBACK; BEGIN")
        plan, inputs = await _plan_pulled(session, statement, parameters), transport.NO_INPUTS
    return await run_distributed(session, plan, sink, inputs)


async def run_stages(session: context.Session, plan: plans.Distributed) -> transport.Inputs:
    """The rows of the plan's stages."""

    async def run_plan(part: plans.SelectPlan, sink: context.Sink, inputs: transport.Inputs) -> str:
        if isinstance(part, plans.Router):
            return await run_router(session, part, None, sink)
        return await run_distributed(session, part, sink, inputs)

    async def rows_of(part: plans.Distributed, inputs: transport.Inputs) -> list[pa.RecordBatch]:
        return [batch async for result in run_fragments(session, part, inputs) for batch in result.batches]

    beside = not local.required(session) and not session.transaction.wants_snapshot
    return await stages.run(plan.stages, run_plan, rows_of, beside=beside)


async def plan_select(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None = None,
) -> plans.Router | plans.Distributed:
    """A plan for this execution, column types known; `fields` are the statement's, if of this very text."""
    known = await planned.find(session, statement, await plan_context_of(session, parameters), fold)
    if known is not None:
        return known
    attempt = planned.Attempt(statement)
    plan = await with_folding(session, parameters, attempt, describe.known(session, statement, fields))
    if not isinstance(plan, plans.Distributed):
        if aggregate_state.snapshot(session) is not session.snapshot():
            attempt.keep(session, plan)  # others are templates, found before this
        return plan
    described = await describe.intermediates(session, plan)
    if not describe.is_of_relations(described):
        # No relation can have such a column; the rows themselves can always be pulled.
        return await _plan_pulled(session, statement, parameters)
    attempt.keep(session, described)
    return described


async def _plan_pulled(
    session: context.Session, statement: parse.Statement, parameters: context.Parameters | None
) -> plans.Distributed:
    def attempt(plan_context: planning.PlanContext) -> plans.SelectPlan:
        return select.plan(statement, plan_context.forcing("pull"))

    plan = await with_folding(session, parameters, attempt)
    assert isinstance(plan, plans.Distributed)
    return await describe.intermediates(session, plan)


async def with_folding(
    session: context.Session,
    parameters: context.Parameters | None,
    attempt: Callable[[planning.PlanContext], Plan],
    described: Mapping[str, tuple[plan_fragment.OutputColumn, ...]] = planning.NOTHING_DESCRIBED,
) -> Plan:
    """Call `attempt`, evaluating on the client's session what it asks for but for the columns of what is `described`."""
    plan_context = dataclasses.replace(await plan_context_of(session, parameters), described=described)
    for _ in range(_QUESTIONS):
        try:
            return await planned.made(attempt, plan_context)
        except literals.NeedsFolding as needed:
            folded = await fold(session, needed.expressions)
            plan_context = dataclasses.replace(plan_context, folded={**plan_context.folded, **folded})
        except staged.NeedsColumns as wanted:
            found = {sql: await describe.columns_of(session, sql) for sql in wanted.queries}
            plan_context = dataclasses.replace(plan_context, described={**plan_context.described, **found})
    raise errors.OrochiError("planning did not settle")


async def plan_context_of(
    session: context.Session, parameters: context.Parameters | None
) -> planning.PlanContext:
    """What the planner may know of this session."""
    return planning.PlanContext(
        snapshot=aggregate_state.snapshot(session),
        search_path=session.search_path,
        builtins=session.runtime.builtins,
        collation=session.runtime.collation,
        parameters=await bound.resolve(session, parameters),
        settings=session.settings,
        temp_tables=session.temp_tables,
    )


async def fold(session: context.Session, expressions: Sequence[str]) -> Mapping[str, literals.Literal | None]:
    """Evaluate each expression once, in the client's session and transaction."""
    pairs = ", ".join(f"({sql})::text, pg_typeof({sql})::text" for sql in expressions)
    result = await session.coordinator.fetch(f"SELECT {pairs}")
    row = [None if value is None else value.decode() for value in result.rows[0]]
    return {
        sql: literals.Literal(type_oid=0, type_name=row[2 * i + 1] or "text", text=row[2 * i])
        for i, sql in enumerate(expressions)
    }


async def run_router(
    session: context.Session,
    plan: plans.Router,
    parameters: context.Parameters | None,
    sink: context.Sink,
) -> str:
    """Run the whole SELECT on one node and hand its DataRows through; the command tag."""
    snapshot = session.snapshot()
    shards = choose_shards(plan.key, plan.tables, snapshot, parameters, session.settings)
    sql = plans.fill(plan.sql, shards)
    uses_parameters = isinstance(plan.key, plans.ParamKey) and parameters is not None
    values = parameters.values if uses_parameters and parameters else ()
    formats = parameters.formats if uses_parameters and parameters else ()
    oids = parameters.type_oids if uses_parameters and parameters else ()
    node_id = shards[0].node_id
    if session.transaction.in_block or session.transaction.participants:
        connection = await session.transaction.node(node_id, write=plan.locks)
        return await connection.stream(sql, values, formats, oids, sink.formats, sink.rows)
    async with session.runtime.nodes.lease(node_id, session.settings) as connection:
        return await connection.stream(sql, values, formats, oids, sink.formats, sink.rows)


def choose_shards(
    key: plans.Key,
    tables: Sequence[int],
    snapshot: snapshots.Snapshot,
    parameters: context.Parameters | None,
    settings: Mapping[str, str],
) -> tuple[snapshots.Shard, ...]:
    """The shard of each of `tables` that the key falls into; co-located, so on one node.

    A reference table has one shard, with a placement on every node.
    """
    match key:
        case plans.HashKey(value=value):
            hashed = value
        case plans.ParamKey(number=number, type_oid=type_oid):
            assert parameters is not None
            wire = parameters.values[number - 1]
            found_hash = hashing.hash_wire(type_oid, wire, parameters.formats[number - 1], settings)
            if found_hash is None:
                raise errors.InvalidParameter(f"the distribution key in parameter ${number} cannot be read")
            hashed = found_hash
        case plans.AnyKey():
            hashed = 0
    found = [snapshot.current(oid).shard_for_hash(hashed) for oid in tables]  # type: ignore[arg-type]
    # Distributed shards first say which node; a reference shard follows them there.
    home = min(found, key=lambda shard: len(shard.node_ids)).node_id
    return tuple(
        shard if shard.node_id == home else dataclasses.replace(shard, node_ids=(home,)) for shard in found
    )


async def run_distributed(
    session: context.Session,
    plan: plans.Distributed,
    sink: context.Sink,
    inputs: transport.Inputs = transport.NO_INPUTS,
) -> str:
    """Run a plan whose stages' rows are `inputs`; the command tag."""
    if plan.final_sql is None and not await own_types.affected(
        session, [column.type_oid for column in plan.intermediates[0].columns], sink.formats
    ):
        settings = await results.ready(session, plan.intermediates[0].columns, sink.formats)
        if settings is not None:
            return await _concatenate(session, plan, settings, sink, inputs)
    loaded = await gather(session, plan, inputs)
    if tag := await finishing.finished(session, plan, loaded, sink):
        return tag
    final_sql = plan.final_sql
    if final_sql is None:
        name = plan.intermediates[0].name
        final_sql = f"SELECT * FROM pg_temp.{name} AS {name}" + (
            f" LIMIT {plan.limit}" if plan.limit is not None else ""
        )
    return await reduce.finish(session, loaded, final_sql, sink, keys_of(plan))


async def _concatenate(
    session: context.Session,
    plan: plans.Distributed,
    settings: Mapping[str, str],
    sink: context.Sink,
    inputs: transport.Inputs,
) -> str:
    """Send fragment rows as they come, until the limit."""
    columns = plan.intermediates[0].columns
    left: int | None = plan.limit
    sent = 0
    async for result in run_fragments(session, plan, inputs):
        for batch in result.batches:
            if left is not None:
                batch = batch.slice(0, left)
                left -= len(batch)
            async for data, count in results.encoded(batch, columns, sink.formats, settings):
                await sink.rows(data, count)
                sent += count
            exchange.forget(result.batches)
        if left == 0:
            break
    return f"SELECT {sent}"


def keys_of(plan: plans.Distributed) -> reduce.Keys:
    """The intermediates that must be real tables, with their primary keys."""
    return {item.name: item.primary_key for item in plan.intermediates if item.needs_table}


async def gather(
    session: context.Session, plan: plans.Distributed, inputs: transport.Inputs = transport.NO_INPUTS
) -> Loaded:
    """Run all fragments and collect each intermediate's batches; those of stages are there already."""
    owner = {
        fragment.number: intermediate.name
        for intermediate in plan.intermediates
        for fragment in intermediate.fragments
    }
    loaded = stages.rows_for(plan, inputs)
    async for result in run_fragments(session, plan, inputs):
        loaded[owner[result.fragment]][1].add(result.batches)
    return await counting.applied(plan.intermediates, loaded)


async def run_fragments(
    session: context.Session,
    plan: plans.Distributed,
    inputs: transport.Inputs = transport.NO_INPUTS,
    *,
    coalesced: bool = True,
) -> AsyncIterator[transport.FragmentResult]:
    """Every fragment's result, in the order they finish; several may be answered as one, `coalesced`."""
    fragments = plan.all_fragments
    if not fragments:
        return
    fragments = await frozen.readable(session, fragments)
    if local.required(session):
        local.require_one_snapshot(session, fragments)
        results_of = local.run(session, fragments, inputs)
    else:
        if coalesced:
            slots, known = small.slots_of(session), {part.number: part for part in fragments}
            together = [[known[part.number] for part in item.fragments] for item in plan.intermediates]
            fragments = [part for parts in together for part in coalesce.together(parts, slots)]
        fragments = await local.with_snapshot(session, fragments)
        small_results = await small.run(session, fragments, inputs) or await small_stripes.run(
            session, fragments
        )
        if small_results is not None:
            for result in small_results:
                yield result
            return
        needed = {key: inputs.get(key, ()) for key in plan_fragment.inputs_of(fragments)}
        results_of = session.runtime.transport.run(session.query_id, fragments, deadline=None, inputs=needed)
    async for result in results_of:
        yield result


async def materialize(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    connection: client.PgConnection | None = None,
) -> Materialized:
    """Load what `statement` reads of Orochi tables into temporary tables, and rewrite it to read them.

    The tables are made on `connection`, the session's own if None.
    """
    coordinator = session.coordinator if connection is None else connection
    plan, loaded = await _pull(session, statement, parameters)
    return await _materialized(coordinator, statement, plan, loaded)


async def _pull(
    session: context.Session, statement: parse.Statement, parameters: context.Parameters | None
) -> tuple[plans.Distributed, Loaded]:
    """A statement of any kind over intermediates, and these."""

    def attempt(plan_context: planning.PlanContext) -> plans.Distributed:
        return pull.rewrite_any(statement, plan_context)

    plan = await with_folding(session, parameters, attempt)
    plan = await describe.intermediates(session, plan)
    assert plan.final_sql is not None
    if statement.kind is parse.Kind.DECLARE and not edit.says_scroll(statement):
        back = await scrolling.goes_back(session, statement, parameters)
        plan = dataclasses.replace(plan, final_sql=edit.with_scroll(plan.final_sql, goes_back=back))
    return plan, await gather(session, plan)


async def _materialized(
    coordinator: client.PgConnection, statement: parse.Statement, plan: plans.Distributed, loaded: Loaded
) -> Materialized:
    # at the end of a block its cursors are closed, and held ones are copied, before such tables go
    in_block = statement.kind is parse.Kind.DECLARE and coordinator.status != "I"
    names = await reduce.load_temp(coordinator, loaded, keys=keys_of(plan), on_commit_drop=in_block)
    assert plan.final_sql is not None

    async def cleanup() -> None:
        await reduce.drop_temp(coordinator, names.values())

    return Materialized(reduce.rename(plan.final_sql, names), cleanup)


async def execute_rewritten(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> None:
    """CREATE TABLE AS, SELECT INTO, DECLARE: the coordinator runs them over what was pulled.

    A cursor reads its tables until it is closed, so what it was given stays for the block, or outside
    one for the session. Where it can keep its rows as parameters, it does: they also go along in a
    READ ONLY transaction.
    """
    plan, loaded = await _pull(session, statement, parameters)
    if fields is not None:
        await sink.columns(fields)
    is_cursor = statement.kind is parse.Kind.DECLARE
    if not keys_of(plan) and (is_cursor or await reduce.is_read_only(session.coordinator)):
        tag = await reduce.declare(session, loaded, plan.final_sql or "", sink)
        if tag is not None:
            await sink.complete(tag)
            return
    materialized = await _materialized(session.coordinator, statement, plan, loaded)
    try:
        tag = await session.coordinator.stream(materialized.sql, (), (), (), sink.formats, sink.rows)
    except errors.OrochiError:
        await materialized.cleanup()
        raise
    if not is_cursor:
        await materialized.cleanup()
    await sink.complete(tag)
