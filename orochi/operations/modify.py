"""UPDATE and DELETE on Orochi tables: the statement runs on the heap of every shard it may touch.

Rows that lie in stripes and may match are recalled into the heap first, so the statement itself is
PostgreSQL's from there on. Reference tables are changed on all their placements alike.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Awaitable, Callable, Sequence

from orochi import errors, ids
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import recall, referencing, rehearse, select, shells, subselect, writes
from orochi.pgwire import messages
from orochi.planner import context as planning
from orochi.planner import modify, parse, spread, transfer
from orochi.planner import plan as plans

_ROUNDS = 4


async def execute(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> None:
    """Run an UPDATE or DELETE to its command tag."""
    try:
        plan = await _plan(session, statement, parameters)
    except errors.FeatureNotSupported:
        # no shard can do it alone
        return await rehearse.execute(session, statement, parameters, fields, sink)
    count, parts = await run(session, plan, parameters, sink.formats)
    verb = "DELETE" if statement.kind is parse.Kind.DELETE else "UPDATE"
    rows = writes.merge([(range(held.count), held) for held in parts]) if plan.returning else None
    await writes.answer(session, sink, f"{verb} {count}", fields, rows)
    return None


async def execute_merge(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> None:
    """Run a MERGE to its command tag: on every shard for itself where that is right, else rehearsed."""

    def attempt(plan_context: planning.PlanContext) -> plans.Modify:
        return transfer.plan_merge(statement, plan_context)

    try:
        plan = await select.with_folding(session, parameters, attempt)
    except (spread.Unfit, parse.CannotDeparse, errors.FeatureNotSupported):
        return await rehearse.execute(session, statement, parameters, fields, sink)
    count, parts = await run(session, plan, None, sink.formats)
    rows = writes.merge([(range(held.count), held) for held in parts]) if plan.returning else None
    await writes.answer(session, sink, f"MERGE {count}", fields, rows)
    return None


async def _plan(
    session: context.Session, statement: parse.Statement, parameters: context.Parameters | None
) -> plans.Modify:
    """The plan, with what it reads of other tables fetched first."""
    known: dict[str, planning.SubqueryResult] = {}

    def attempt(plan_context: planning.PlanContext) -> plans.Modify:
        return modify.plan(statement, dataclasses.replace(plan_context, subqueries=known))

    for _ in range(_ROUNDS):
        try:
            return await select.with_folding(session, parameters, attempt)
        except modify.NeedsSubqueries as needed:
            for sql in needed.queries:
                known[sql] = await subselect.rows_of(session, sql, parameters)
    raise errors.OrochiError("planning did not settle")


async def run(
    session: context.Session,
    plan: plans.Modify,
    parameters: context.Parameters | None,
    formats: Sequence[int],
) -> tuple[int, list[writes.HeldRows]]:
    """Run a plan on its shards: how many rows it affected, and what they returned, shard by shard."""
    target = session.snapshot().current(plan.target)
    frees_keys = plan.rekeys or not plan.sql.lstrip().upper().startswith("UPDATE")
    if not frees_keys or not referencing.concerns(session, target):
        return await _run(session, plan, parameters, formats)
    async with shells.transactional(session):
        await referencing.recalled(session, target, plan.predicates)
        return await _run(session, plan, parameters, formats)


async def _run(
    session: context.Session,
    plan: plans.Modify,
    parameters: context.Parameters | None,
    formats: Sequence[int],
) -> tuple[int, list[writes.HeldRows]]:
    snapshot = session.snapshot()
    target = snapshot.current(plan.target)
    groups = _shard_groups(session, plan, snapshot, parameters)
    replicated = target.kind is snapshots.TableKind.REFERENCE
    nodes = {node_id for group in groups for node_id in _nodes(plan, group, replicated=replicated)}
    early = session.transaction.isolation == "repeatable read"  # before the block's snapshot is taken
    recalled = early and await _recall(session, plan, snapshot, groups)
    if len(nodes) > 1:
        await writes.take_turns(session, target)
    recalled = recalled or await _recall(session, plan, snapshot, groups)
    work: dict[int, list[Callable[[], Awaitable[int]]]] = {}
    parts: list[writes.HeldRows] = []
    jobs: list[tuple[int, str, writes.HeldRows]] = []
    for group in groups:
        sql = plans.fill(plan.sql, group)
        for at, node_id in enumerate(_nodes(plan, group, replicated=replicated)):
            held = writes.HeldRows()
            if at == 0:
                parts.append(held)
            jobs.append((node_id, sql, held))
    transaction = session.transaction
    if len(jobs) == 1 and not recalled and transaction.can_autocommit:
        ((node, sql, held),) = jobs
        async with transaction.autocommit(node) as connection:
            bound = writes.bind_for_node(sql, parameters)
            return await writes.run(connection, sql, bound, formats, held), parts
    for node, sql, held in jobs:
        job = functools.partial(_one, session, node, sql, parameters, formats, held)
        work.setdefault(node, []).append(job)
    counts = await writes.per_node(work) if work else {}
    if plan.rekeys:
        await recall.rekeyed(session, target, [group[plan.tables.index(target.oid)] for group in groups])
    if target.kind is snapshots.TableKind.REFERENCE:
        return (sum(next(iter(counts.values()))) if counts else 0), parts
    return sum(map(sum, counts.values())), parts


async def _one(
    session: context.Session,
    node_id: int,
    sql: str,
    parameters: context.Parameters | None,
    formats: Sequence[int],
    held: writes.HeldRows,
) -> int:
    connection = await session.transaction.node(node_id, write=True)
    return await writes.run(connection, sql, writes.bind_for_node(sql, parameters), formats, held)


def _shard_groups(
    session: context.Session,
    plan: plans.Modify,
    snapshot: snapshots.Snapshot,
    parameters: context.Parameters | None,
) -> list[tuple[snapshots.Shard, ...]]:
    """For each run of the statement, the shard of every table it names, all on one node."""
    if plan.key is not None:
        return [select.choose_shards(plan.key, plan.tables, snapshot, parameters, session.settings)]
    tables = [snapshot.current(oid) for oid in plan.tables]
    return [tuple(_shard(table, index) for table in tables) for index in plan.shard_indexes]


def _shard(table: snapshots.Table, index: int) -> snapshots.Shard:
    return table.shards[index if table.kind is snapshots.TableKind.DISTRIBUTED else 0]


def _nodes(plan: plans.Modify, group: Sequence[snapshots.Shard], *, replicated: bool) -> tuple[int, ...]:
    """Where a group's statement runs: at home, or on every placement of a reference table."""
    return group[plan.tables.index(plan.target)].node_ids if replicated else (_home(group),)


def _home(group: Sequence[snapshots.Shard]) -> ids.NodeId:
    """The node that has all shards of a group: a reference table's is on every node."""
    return min(group, key=lambda shard: len(shard.node_ids)).node_id


async def _recall(
    session: context.Session,
    plan: plans.Modify,
    snapshot: snapshots.Snapshot,
    groups: Sequence[tuple[snapshots.Shard, ...]],
) -> bool:
    """Get stripe rows that matter into the heap; whether any stripes were looked at."""
    needed = [
        (snapshot.current(oid), shard)
        for group in groups
        for oid, shard in zip(plan.tables, group, strict=True)
        if shard.has_stripes
    ]
    work: dict[int, list[Callable[[], Awaitable[int]]]] = {}
    for table, shard in needed:
        # the predicates speak of the target; of other tables every row may be read
        predicates = plan.predicates if table.oid == plan.target else ()
        job = functools.partial(recall.matching, session, table, shard, predicates, early=True)
        work.setdefault(shard.node_id, []).append(job)
    if work:
        await writes.per_node(work)
    return bool(needed)
