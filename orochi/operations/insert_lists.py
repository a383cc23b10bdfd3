"""INSERT of many rows of plain constants: their texts go to their shards as they are. See `planner.value_lists`."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Awaitable, Callable, Sequence

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import writes
from orochi.planner import context as planning
from orochi.planner import heaps, insert, parse, value_lists
from orochi.sharding import hashing, values

_KEPT = 256
_plans: collections.OrderedDict[
    tuple[str, tuple[str, ...], frozenset[str]], tuple[object, parse.Statement, value_lists.Plan | None]
] = collections.OrderedDict()


class _Unfit(Exception):
    """The rows have to be looked at one by one after all."""


def recognised(session: context.Session, text: str) -> parse.Statement | None:
    """The statement that stands for `text`, if it is of this kind and its rows can be told apart."""
    shape = value_lists.shape(text)
    if shape is None or session.settings.get("orochi.force_strategy"):
        return None
    statement, plan = _planned(session, shape.sql)
    if statement is None or plan is None:
        return None
    lists = value_lists.split(plan, text, len(shape.head))
    return None if lists is None else dataclasses.replace(statement, lists=lists)


def _planned(
    session: context.Session, sql: str
) -> tuple[parse.Statement, value_lists.Plan | None] | tuple[None, None]:
    """The statement of a shape and its plan, remembered for as long as names mean the same."""
    snapshot = session.snapshot()
    key = sql, session.search_path, session.temp_tables
    found = _plans.get(key)
    if found is not None and found[0] is snapshot.shape:
        return found[1:]
    try:
        statement = parse.parse_one(sql)
    except errors.OrochiError:
        return None, None
    plan = value_lists.plan(
        statement,
        planning.PlanContext(
            snapshot=snapshot,
            search_path=session.search_path,
            builtins=session.runtime.builtins,
            temp_tables=session.temp_tables,
        ),
    )
    _plans[key] = snapshot.shape, statement, plan
    _plans.move_to_end(key)
    if len(_plans) > _KEPT:
        _plans.popitem(last=False)
    return statement, plan


async def execute(session: context.Session, statement: parse.Statement, sink: context.Sink) -> bool:
    """Insert the rows; False if nothing was done, as they have to be looked at one by one after all.

    That is when a chunk is not there yet, a unique key has to be looked for in stripes, the table was altered meanwhile,
    or only PostgreSQL can read a value.
    """
    _, plan = _planned(session, statement.sql)
    lists = statement.lists
    if lists is None or plan is None or plan is not lists.plan:
        return False
    table = session.snapshot().current(plan.table)
    direct = writes.is_alone(session) and heaps.are_open(session.snapshot(), table)
    work: dict[int, list[str]] = {}
    try:
        for shard, rows, times in _by_shard(session, plan, table, lists.rows):
            schema = _schema(table, shard, times, direct=direct)
            sql = f"INSERT INTO {schema}{plan.after_schema}{', '.join(rows)}"
            work.setdefault(shard.node_id, []).append(sql)
    except _Unfit:
        return False
    try:
        count = await _run(session, work)
    except errors.RemoteError as error:
        if direct and error.sqlstate == "40P01":
            raise errors.StalePlan("an INSERT that named chunks was chosen to end a deadlock") from error
        raise
    await writes.answer(session, sink, f"INSERT 0 {count}")
    return True


def _by_shard(
    session: context.Session,
    plan: value_lists.Plan,
    table: snapshots.Table,
    rows: Sequence[tuple[str, str, str]],
) -> list[tuple[snapshots.Shard, list[str], list[int]]]:
    """The rows' texts and raw times, by shard."""
    timezone = session.coordinator.parameters.get("TimeZone", "")
    shards: dict[str, snapshots.Shard] = {}
    found: dict[int, tuple[snapshots.Shard, list[str], list[int]]] = {}
    for text, key, time in rows:
        shard = shards.get(key)
        if shard is None:
            shard = shards[key] = _shard(plan, table, key, timezone)
        _, texts, times = found.setdefault(shard.index, (shard, [], []))
        texts.append(text)
        if plan.time is not None:
            raw = value_lists.raw_time(plan, time, timezone)
            if raw is None:
                raise _Unfit
            times.append(raw)
    return list(found.values())


def _shard(plan: value_lists.Plan, table: snapshots.Table, key: str, timezone: str) -> snapshots.Shard:
    if plan.key is None:
        return table.shards[0]
    value = values.from_text(plan.key[1], key, timezone)
    if value is None:
        raise _Unfit
    return table.shard_for_hash(hashing.hash_value(plan.key[1], value))


def _schema(table: snapshots.Table, shard: snapshots.Shard, times: Sequence[int], *, direct: bool) -> str:
    """The schema to name for rows of these times."""
    if len(shard.node_ids) != 1:
        raise _Unfit
    if not times:
        if table.unique_keys and shard.has_stripes:
            raise _Unfit
        return shard.schema
    first, last = insert.chunk_at(shard, min(times)), insert.chunk_at(shard, max(times))
    chunks = {first} if first is last else {insert.chunk_at(shard, time) for time in times}
    if None in chunks or any(chunk.stripes and table.unique_keys for chunk in chunks if chunk is not None):
        raise _Unfit
    return heaps.schema_of(shard, chunks) if direct else shard.schema


async def _run(session: context.Session, work: dict[int, list[str]]) -> int:
    """Run each node's statements; the number of rows."""
    transaction = session.transaction
    if transaction.can_autocommit and len(work) == 1 and sum(map(len, work.values())) == 1:
        ((node_id, (sql,)),) = work.items()
        # the one statement is the whole transaction: no BEGIN, no COMMIT
        async with transaction.autocommit(node_id) as connection:
            return sum(writes.affected(result.tag) for result in await connection.query(sql))

    async def on_node(node_id: int, sqls: Sequence[str]) -> int:
        connection = await transaction.node(node_id, write=True)
        return sum(writes.affected(result.tag) for result in await connection.query("; ".join(sqls)))

    jobs: dict[int, list[Callable[[], Awaitable[int]]]] = {
        node_id: [functools.partial(on_node, node_id, sqls)] for node_id, sqls in work.items()
    }
    return sum(map(sum, (await writes.per_node(jobs)).values()))
