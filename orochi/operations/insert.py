"""INSERT into an Orochi table.

VALUES of constants and parameters go straight to their shards, each shard getting its own INSERT
with the original's ON CONFLICT and RETURNING; expressions among them are evaluated once, on the
client's session. Anything else is first made into staged rows there, and then redistributed: by
COPY, or, where ON CONFLICT or RETURNING is wanted, through a table on each shard's node.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from orochi import errors, ids, pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import (
    bulk,
    evaluate,
    load_target,
    modify,
    own_changes,
    recall,
    redistribute,
    rehearse,
    routing,
    select,
    stage,
    writes,
)
from orochi.pgwire import client, messages
from orochi.planner import classify, conflict, heaps, parse, quoting, safety, spread, transfer
from orochi.planner import context as planning
from orochi.planner import insert as plans
from orochi.planner import plan as node_plans
from orochi.planner import tree as trees
from orochi.sharding import hashing

_PARAMETER = re.compile(r"\$(\d+)")
Parts = list[tuple[Sequence[int], writes.HeldRows]]
_REMEMBERED = 1_000
_REMEMBERED_LENGTH = 2_000  # a plan of many rows is thousands of objects for the garbage collector
_analyzed: collections.OrderedDict[
    tuple[str, tuple[str, ...], frozenset[str]], tuple[snapshots.Snapshot, plans.Values | plans.Staged]
] = collections.OrderedDict()


async def execute(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> None:
    """Run an INSERT to its command tag; raises what PostgreSQL would."""
    pushed = await pushed_plan(session, statement, parameters)
    if pushed is not None:
        count, _ = await modify.run(session, pushed, None, sink.formats)
        await writes.answer(session, sink, f"INSERT 0 {count}", fields)
        return None
    try:
        plan = _analyze(session, statement)
    except errors.FeatureNotSupported:
        # a sub-SELECT in ON CONFLICT or RETURNING, or a row that moves
        return await rehearse.execute(session, statement, parameters, fields, sink)
    if _differs_by_row(session, plan):
        return await rehearse.execute(session, statement, parameters, fields, sink)
    count = 0
    parts: Parts = []
    if isinstance(plan, plans.Values):
        async with own_changes.unseen(session, statement, _changed_between(session, statement, plan)):
            outcome = await _insert_values(session, plan, parameters, sink.formats)
        if outcome is None:  # a NULL time: PostgreSQL's own words for it come from the staging table
            plan = plans.staged(statement, session.snapshot(), session.search_path, session.temp_tables)
        else:
            count, parts = outcome
    if isinstance(plan, plans.Staged):
        async with own_changes.unseen(session, statement, _changed_between(session, statement, plan)):
            count, parts = await _insert_staged(session, plan, parameters, sink.formats)
    rows = writes.merge(parts) if plan.returning and parts else ((b"", 0) if plan.returning else None)
    await writes.answer(session, sink, f"INSERT 0 {count}", fields, rows)
    return None


def _differs_by_row(session: context.Session, plan: plans.Values | plans.Staged) -> bool:
    """Whether what would be evaluated once for RETURNING or ON CONFLICT is another value for each row."""
    if not plan.folded or (isinstance(plan, plans.Values) and len(plan.rows) == 1):
        return False
    return any(safety.may_be_volatile(sql, session.runtime.builtins) for sql in plan.folded)


def _changed_between(
    session: context.Session, statement: parse.Statement, plan: plans.Values | plans.Staged
) -> tuple[ids.TableId, ...]:
    """The table, where a function that the statement calls could find rows that it has inserted."""
    rows: trees.Node = getattr(statement.tree.selectStmt, "valuesLists", None) or ()
    if len(rows) == 1 and not statement.tree.returningClause and statement.tree.onConflictClause is None:
        called = (part for part in trees.walk(rows[0]) if isinstance(part, trees.ast.FuncCall))
        known = (session.runtime.builtins.function(trees.strings(part.funcname)) for part in called)
        if not any(item is not None and item.returns_set for item in known):
            return ()
    return (plan.table.oid,)


async def pushed_plan(
    session: context.Session, statement: parse.Statement, parameters: context.Parameters | None
) -> node_plans.Modify | None:
    """The plan of an INSERT ... SELECT whose rows every shard makes and keeps itself, or None."""
    source = statement.tree.selectStmt
    if source is None or source.valuesLists:
        return None

    def attempt(plan_context: planning.PlanContext) -> node_plans.Modify:
        return transfer.plan_insert(statement, plan_context)

    try:
        return await select.with_folding(session, parameters, attempt)
    except (spread.Unfit, parse.CannotDeparse, errors.FeatureNotSupported):
        return None


def _analyze(session: context.Session, statement: parse.Statement) -> plans.Values | plans.Staged:
    """The analysis, remembered by the statement's text for as long as the catalog stays as it is."""
    snapshot = session.snapshot()
    key = (statement.sql, session.search_path, session.temp_tables)
    found = _analyzed.get(key)
    if found is not None and found[0].shape is snapshot.shape:
        _analyzed.move_to_end(key)
        return dataclasses.replace(found[1], table=snapshot.current(found[1].table.oid))
    known = session.runtime.builtins
    plan = plans.analyze(statement, snapshot, session.search_path, session.temp_tables, known)
    if isinstance(plan, plans.Values) and len(plan.rows) == 1 and statement.tree.selectStmt is not None:
        (row,) = statement.tree.selectStmt.valuesLists
        if safety.may_return_sets(row, known):
            plan = plans.staged(statement, snapshot, session.search_path, session.temp_tables)
    if len(statement.sql) <= _REMEMBERED_LENGTH:
        _analyzed[key] = (snapshot, plan)
        _analyzed.move_to_end(key)
        if len(_analyzed) > _REMEMBERED:
            _analyzed.popitem(last=False)
    return plan


async def _insert_values(
    session: context.Session,
    plan: plans.Values,
    parameters: context.Parameters | None,
    formats: Sequence[int],
) -> tuple[int, Parts] | None:
    table = plan.table
    columns = [column for name in plan.columns if (column := table.column(name)) is not None]
    async with evaluate.one_moment(session, bool(plan.folded)):
        literals = await evaluate.folded(session, plan.folded)
        evaluated = await evaluate.expressions(session, plan.rows, columns, parameters)
    timezone = _timezone(session)
    shards = await _shard_positions(session, plan, evaluated, timezone)
    known: dict[str, Sequence[object]] = {}
    raw: list[int] = []
    if table.dimension is not None:
        column = table.column(table.dimension.column)
        assert column is not None
        times = await evaluate.carrier_values(
            session, evaluated, plan.column_index(column.name), column, timezone
        )
        raw = [time for time in times if isinstance(time, int)]
        if len(raw) != len(times):
            return None
        table = await routing.ensure_chunks(session, table, raw)
        known = {column.name: times}
    await _recall_conflicting(session, table, plan, evaluated, shards, known)
    groups: dict[int, list[int]] = {}
    for position, shard in enumerate(shards):
        groups.setdefault(shard, []).append(position)
    tail = conflict.fill(plan.tail, literals)
    direct = not plan.on_conflict and writes.is_alone(session) and heaps.are_open(session.snapshot(), table)
    parts: Parts = []
    work: dict[int, list[Callable[[], Awaitable[int]]]] = {}
    for position, members in groups.items():
        shard_of = table.shards[position]
        schema = shard_of.schema
        if direct:
            schema = heaps.schema_of(
                shard_of, routing.chunks_at(shard_of, {raw[member] for member in members})
            )
        sql, bound = _statement(plan, schema, members, evaluated, tail)
        for at, node_id in enumerate(_placements(table, shard_of)):
            held = writes.HeldRows()
            if at == 0:
                parts.append((members, held))
            job = functools.partial(_run, session, node_id, sql, bound, formats, held)
            work.setdefault(node_id, []).append(job)
    if plan.may_update and len(work) > 1:
        await writes.take_turns(session, table)
    rekeys = plan.rekeys and any(table.shards[position].has_stripes for position in groups)
    try:
        counts = await _run_all(session, table, work, sql, bound, formats, parts, by_itself=not rekeys)
    except errors.RemoteError as error:
        if direct and error.sqlstate == "40P01":
            raise errors.StalePlan("an INSERT that named chunks was chosen to end a deadlock") from error
        raise
    if rekeys:
        await recall.rekeyed(session, table, [table.shards[position] for position in groups])
    return counts, parts


async def _run_all(
    session: context.Session,
    table: snapshots.Table,
    work: Mapping[int, list[Callable[[], Awaitable[int]]]],
    sql: str,
    bound: writes.Bound,
    formats: Sequence[int],
    parts: Parts,
    *,
    by_itself: bool,
) -> int:
    transaction = session.transaction
    alone = by_itself and len(work) == 1 and sum(map(len, work.values())) == 1
    if alone and transaction.can_autocommit:
        # the one statement is the whole transaction: no BEGIN, no COMMIT
        async with transaction.autocommit(next(iter(work))) as connection:
            return await writes.run(connection, sql, bound, formats, parts[0][1])
    counts = await writes.per_node(work)
    if table.kind is snapshots.TableKind.REFERENCE:
        return sum(next(iter(counts.values())))
    return sum(map(sum, counts.values()))


async def _run(
    session: context.Session,
    node_id: int,
    sql: str,
    bound: writes.Bound,
    formats: Sequence[int],
    held: writes.HeldRows,
) -> int:
    connection = await session.transaction.node(node_id, write=True)
    return await writes.run(connection, sql, bound, formats, held)


def _placements(table: snapshots.Table, shard: snapshots.Shard) -> tuple[int, ...]:
    return shard.node_ids if table.kind is snapshots.TableKind.REFERENCE else (shard.node_id,)


def _timezone(session: context.Session) -> str:
    return session.coordinator.parameters.get("TimeZone", "")


async def _shard_positions(
    session: context.Session, plan: plans.Values, evaluated: evaluate.Evaluated, timezone: str
) -> list[int]:
    table = plan.table
    column = table.column(table.distribution_column or "")
    if table.kind is not snapshots.TableKind.DISTRIBUTED or column is None:
        return [0] * len(evaluated.rows)
    keys = await evaluate.carrier_values(session, evaluated, plan.column_index(column.name), column, timezone)
    return [
        table.shard_for_hash(
            hashing.NULL_HASH if key is None else hashing.hash_value(column.base_oid, key)
        ).index
        for key in keys
    ]


async def _recall_conflicting(
    session: context.Session,
    table: snapshots.Table,
    plan: plans.Values,
    evaluated: evaluate.Evaluated,
    shards: Sequence[int],
    known: Mapping[str, Sequence[object]],
) -> None:
    """Get stripe rows that a new row may collide with into the heap, where PostgreSQL sees them."""
    names = {name for key in table.unique_keys for name in key}
    if not names or not any(table.shards[shard].has_stripes for shard in shards):
        return
    timezone = _timezone(session)
    arrays: dict[str, pa.Array] = {}
    for name in names | set(known):
        column = table.column(name)
        if column is None or (column.base_oid not in pgtypes.DISTRIBUTABLE and name not in known):
            continue
        values = known.get(name)
        if values is None:
            at = plan.column_index(name)
            values = await evaluate.carrier_values(session, evaluated, at, column, timezone)
        arrays[name] = pa.array(values, pgtypes.carrier(column.base_oid))
    for shard in set(shards):
        mask = pa.array(np.asarray(shards) == shard)
        rows = {name: array.filter(mask) for name, array in arrays.items()}
        await recall.conflicting(session, table, table.shards[shard], rows)


def _statement(
    plan: plans.Values,
    schema: str,
    members: Sequence[int],
    evaluated: evaluate.Evaluated,
    tail: str,
) -> tuple[str, writes.Bound]:
    """One shard's INSERT into the relation in `schema`, with only the parameters that its own rows need, numbered anew."""
    head = plan.head.replace(plans.SHARD, schema)
    parameters = evaluated.parameters
    rows = [evaluated.rows[position] for position in members]
    if len(rows) == len(evaluated.rows) or _PARAMETER.search(tail):
        body = ", ".join(f"({', '.join(cell.sql for cell in row)})" for row in rows)
        sql = f"{head}VALUES {body}{tail}"
        return sql, writes.bind_for_node(sql, parameters)
    numbers: dict[int, int] = {}

    def renumbered(cell_sql: str, number: int) -> str:
        new = numbers.setdefault(number, len(numbers) + 1)
        return _PARAMETER.sub(f"${new}", cell_sql)

    body = ", ".join(
        "("
        + ", ".join(renumbered(cell.sql, cell.parameter) if cell.parameter else cell.sql for cell in row)
        + ")"
        for row in rows
    )
    picked = context.Parameters(
        tuple(parameters.values[number - 1] for number in numbers),
        tuple(parameters.formats[number - 1] for number in numbers),
        tuple(parameters.type_oids[number - 1] for number in numbers),
    )
    sql = f"{head}VALUES {body}{tail}"
    return sql, writes.bind_for_node(sql, picked)


async def _insert_staged(
    session: context.Session,
    plan: plans.Staged,
    parameters: context.Parameters | None,
    formats: Sequence[int],
) -> tuple[int, Parts]:
    """Rows from PostgreSQL into the staging table, and from there to the shards."""
    table = plan.table
    columns = stage.column_names(table)
    async with stage.table(session, table):
        async with evaluate.one_moment(session, bool(plan.folded)):
            literals = await evaluate.folded(session, plan.folded)
            count = await _fill(session, plan, parameters)
        if not count:
            return 0, []
        for name in plan.overridden:
            await session.coordinator.fetch(
                f"UPDATE {stage.RELATION} SET {quoting.identifier(name)} = DEFAULT"
            )
        if not plan.returning and not plan.on_conflict:
            if count >= bulk.ENOUGH_ROWS:
                target = await load_target.find(session, table)
                if target is not None:
                    return await bulk.from_relation(session, target, stage.RELATION), []
            loaded = await redistribute.load_relation(session, table, stage.RELATION, columns)
            return loaded.rows, []
        tail = conflict.fill(plan.tail, literals)
        return await _insert_through_nodes(session, plan, columns, tail, parameters, formats)


async def _fill(session: context.Session, plan: plans.Staged, parameters: context.Parameters | None) -> int:
    statement = plan.statement
    if classify.tables_in(statement.tree, session.snapshot(), session.search_path, session.temp_tables):
        source = await select.materialize(session, statement, parameters)
        try:
            return writes.affected((await session.coordinator.fetch(source.sql)).tag)
        finally:
            if session.coordinator.status != "E" and not session.coordinator.closed:
                await source.cleanup()
    bound: writes.Bound = writes.NOTHING_BOUND
    if parameters is not None and writes.referenced(statement.sql):
        bound = (parameters.values, writes.all_formats(parameters), parameters.type_oids)
    result = await session.coordinator.fetch(statement.sql, *bound)
    return writes.affected(result.tag)


async def _insert_through_nodes(
    session: context.Session,
    plan: plans.Staged,
    columns: Sequence[str],
    tail: str,
    parameters: context.Parameters | None,
    formats: Sequence[int],
) -> tuple[int, Parts]:
    """Each shard's rows into a table on its node, then one INSERT ... SELECT there.

    Not a temporary table: PostgreSQL refuses PREPARE TRANSACTION after one was touched.
    """
    table = plan.table
    names: dict[tuple[int, client.PgConnection], str] = {}
    definition = ", ".join(
        f"{quoting.identifier(column.name)} {column.type_name}" for column in routing.stored_columns(table)
    )

    async def into(shard: snapshots.Shard, connection: client.PgConnection) -> str:
        name = names.get((shard.index, connection))
        if name is None:
            name = names[shard.index, connection] = f"orochi_data.stage_{secrets.token_hex(8)}"
            await connection.query(f"CREATE UNLOGGED TABLE {name} ({definition})")
        return name

    loaded = await redistribute.load_relation(session, table, stage.RELATION, columns, into=into, trace=True)
    table = session.snapshot().tables.get(table.oid, table)
    parts: Parts = []
    work: dict[int, list[Callable[[], Awaitable[int]]]] = {}
    done: set[int] = set()
    for (position, connection), name in names.items():
        held = writes.HeldRows()
        if position not in done:
            done.add(position)
            parts.append((loaded.positions(position), held))
        shard = table.shards[position]
        job = functools.partial(
            _from_stage, connection, plan, shard, columns, name, tail, parameters, formats, held
        )
        work.setdefault(id(connection), []).append(job)
    if plan.may_update and len(work) > 1:
        await writes.take_turns(session, table)
    counts = await writes.per_node(work)
    if plan.rekeys:
        await recall.rekeyed(session, table, [table.shards[position] for position in done])
    if table.kind is snapshots.TableKind.REFERENCE:
        return sum(next(iter(counts.values()))), parts
    return sum(map(sum, counts.values())), parts


async def _from_stage(
    connection: client.PgConnection,
    plan: plans.Staged,
    shard: snapshots.Shard,
    columns: Sequence[str],
    name: str,
    tail: str,
    parameters: context.Parameters | None,
    formats: Sequence[int],
    held: writes.HeldRows,
) -> int:
    listed = ", ".join(f"orochi_stage.{quoting.identifier(column)}" for column in columns)
    head = plan.head.replace(plans.SHARD, shard.schema)
    # WHERE: without it the grammar takes ON CONFLICT for a join condition
    sql = f"{head}SELECT {listed} FROM {name} orochi_stage WHERE true{tail}"
    count = await writes.run(connection, sql, writes.bind_for_node(sql, parameters), formats, held)
    await connection.query(f"DROP TABLE {name}")
    return count
