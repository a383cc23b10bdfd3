"""Plans of one bucket's groups, used again for other buckets: only bounds and chunks are others.

Planning is most of what refreshing one bucket would cost. So a bucket is planned once, and another one to prove it: if
putting that one's bounds and chunks in the place of the first one's gives its very plan, the first serves all
buckets whose rows lie alike (in heaps alone, or in which shards in stripes too), for as long as nothing that plans are
made from changes. What else a plan could take from a bucket (chunks of a second hypertable, fewer chunks than the
bucket's) makes it one that is not kept. An aggregate's rows depend on no session, so its plans are those of none.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import itertools
from collections.abc import Hashable, Iterator
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

import structlog

from orochi import errors, pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.engine import placeholders, shapes
from orochi.executor import node_pool
from orochi.operations import aggregate_state, describe, routing
from orochi.operations import select as selects
from orochi.pgwire import client
from orochi.planner import builtins as functions
from orochi.planner import context as planning
from orochi.planner import continuous, lasting, literals, parse, prune, scans, select, staged
from orochi.planner import fragment as fragments
from orochi.planner import plan as plans
from orochi.timeseries import buckets

log = structlog.get_logger()

_KEPT = 256
#: Chunks that are looked at for a bucket, the newest.
_LOOKED_AT = 20
#: A bound's text is told from all else in a plan; numbers of one or two digits are not.
_LEAST_TEXT = 8


class Planning(Protocol):
    """What plans are made with: the part of the gateway's runtime that is used here."""

    builtins: functions.Builtins
    collation: str

    def snapshot(self) -> snapshots.Snapshot:
        """The newest committed catalog."""

    def service(self) -> node_pool.Lease:
        """A connection to the coordinator as Orochi's own role."""


@dataclasses.dataclass(frozen=True, slots=True)
class Spot:
    """A bucket of an aggregate.

    Attributes:
        key: the same for buckets of the aggregate whose rows lie alike.
        low: its bounds in raw units, half-open with `high`; `texts` as SQL constants have them.
        made_from: what plans are made from, beside that.
        table: the hypertable; `chunks` those of the bucket, one of each shard.
        stripes: ids of theirs that may have rows of it.
    """

    key: Hashable
    low: int
    high: int
    texts: tuple[str, str]
    made_from: tuple[object, ...]
    table: snapshots.Table
    chunks: tuple[snapshots.Chunk, ...]
    stripes: frozenset[int]


@dataclasses.dataclass(frozen=True, slots=True)
class _Kept:
    spot: Spot
    plan: plans.SelectPlan | None


_kept: collections.OrderedDict[Hashable, _Kept] = collections.OrderedDict()
_tasks: set[asyncio.Task[None]] = set()


def spot(ctx: planning.PlanContext, aggregate: snapshots.Aggregate, start: int) -> Spot | None:
    """The bucket that starts at `start` in raw units; None if plans for it are good for no other one."""
    snapshot, bucket = ctx.snapshot, aggregate.bucket
    table = snapshot.current(aggregate.table_oid)
    if bucket.width is None or bucket.type_oid not in pgtypes.TIMES:
        return None
    others = [snapshot.current(oid) for oid in snapshot.tables if oid in bucket.others]
    low, high = start, start + bucket.width
    texts = tuple(buckets.literal(bucket.type_oid, raw).split("'")[1] for raw in (low, high))
    if any(item.dimension is not None for item in others) or min(map(len, texts)) < _LEAST_TEXT:
        return None
    chunks: list[snapshots.Chunk] = []
    stripes: list[list[int]] = []
    for shard in table.shards:
        found = routing.chunks_at(shard, (low, high - 1))
        if len(found) != 1 or found[0].range_end < high:
            return None
        chunks.append(found[0])
        stripes.append([int(item.stripe_id) for item in found[0].stripes if item.may_have(low, high - 1)])
    return Spot(
        key=(aggregate.aggregate_id, *map(bool, stripes)),
        low=low,
        high=high,
        texts=(texts[0], texts[1]),
        made_from=(snapshot.shape, ctx.builtins, *others),
        table=table,
        chunks=tuple(chunks),
        stripes=frozenset(itertools.chain(*stripes)),
    )


def find(wanted: Spot) -> Known | None:
    """What is known of the bucket's plan; None if it has to be planned."""
    kept = _kept.get(wanted.key)
    if kept is None or kept.plan is None or not _is_same(kept.spot, wanted):
        return None
    _kept.move_to_end(wanted.key)
    return Known(kept.plan, _Move(kept.spot, wanted))


def is_known(wanted: Spot) -> bool:
    """Whether it is known if the bucket's plan is that of others."""
    kept = _kept.get(wanted.key)
    return kept is not None and _is_same(kept.spot, wanted)


def context_of(runtime: Planning, snapshot: snapshots.Snapshot) -> planning.PlanContext:
    """What plans are made from."""
    return planning.PlanContext(snapshot, (), runtime.builtins, runtime.collation)


def begin_ahead(runtime: Planning, aggregate: snapshots.Aggregate) -> None:
    """Let `learn_ahead` run beside what comes next."""
    task = asyncio.get_running_loop().create_task(learn_ahead(runtime, aggregate))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def learn_ahead(runtime: Planning, aggregate: snapshots.Aggregate) -> None:
    """Have plans ready for buckets of all kinds that the newest chunks have; where that fails they come later."""
    try:
        await _learn_ahead(runtime, aggregate)
    except errors.OrochiError as error:  # it may be gone by now
        log.debug("aggregate.not_planned_ahead", error=str(error))


async def _learn_ahead(runtime: Planning, aggregate: snapshots.Aggregate) -> None:
    known: set[Hashable] = set()
    chunks = runtime.snapshot().current(aggregate.table_oid).shards[0].chunks[-_LOOKED_AT:]
    for start in reversed([chunk.range_start for chunk in chunks]):
        await asyncio.sleep(0)
        ctx = context_of(runtime, runtime.snapshot())
        found = next(_spots(ctx, aggregate, start), None)
        if found is None or found.key in known:
            continue
        known.add(found.key)
        if not is_known(found):
            async with runtime.service() as connection:
                await learn(_Apart(connection), ctx, aggregate, found)


@dataclasses.dataclass(frozen=True, slots=True)
class _Apart:
    """Where PostgreSQL is asked for no session's sake."""

    coordinator: client.PgConnection
    search_path: tuple[str, ...] = ()


async def learn(
    asker: describe.Asker, ctx: planning.PlanContext, aggregate: snapshots.Aggregate, wanted: Spot
) -> None:
    """Plan a bucket of `ctx`, and another one to prove that its plan serves others; see `find`."""
    definition = ctx.snapshot.views[aggregate.query].definition
    tree = parse.parse_one(definition).tree
    other = next(_others(ctx, aggregate, wanted), None)
    if other is None:
        return
    is_apart = not aggregate_state.reached(tree, ctx.snapshot, (), frozenset())
    plan = _planned(ctx, aggregate, definition, wanted) if is_apart else None
    if plan is not None and not serves(wanted, plan, other, _planned(ctx, aggregate, definition, other)):
        plan = None
    if isinstance(plan, plans.Distributed):
        plan = await describe.intermediates(asker, plan)
        plan = plan if describe.is_of_relations(plan) else None
    keep(wanted, plan)


def keep(made: Spot, plan: plans.SelectPlan | None) -> None:
    """Let a plan serve buckets like the one it was made for; None does not."""
    _kept[made.key] = _Kept(made, plan)
    _kept.move_to_end(made.key)
    while len(_kept) > _KEPT:
        _kept.popitem(last=False)


def serves(made: Spot, plan: plans.SelectPlan, other: Spot, planned: plans.SelectPlan | None) -> bool:
    """Whether a bucket's plan becomes that of another, as it was planned, by bounds and chunks alone."""
    if isinstance(plan, plans.Distributed) and (plan.stages or not _reads_all(made, plan)):
        return False
    return _is_same(made, other) and _Move(made, other).plan(plan) == planned


def rows_sql(bucket: snapshots.Bucket, definition: str, found: buckets.Ranges) -> str:
    """The query of an aggregate for some of its buckets, as `buckets.on_grid` gives them."""
    query = continuous.template(definition)
    return query.where(buckets.rows_of(bucket, query.time, query.start, found))


def _planned(
    ctx: planning.PlanContext, aggregate: snapshots.Aggregate, definition: str, at: Spot
) -> plans.SelectPlan | None:
    sql = rows_sql(aggregate.bucket, definition, buckets.on_grid(aggregate.bucket, ((at.low, at.low),)))
    statement = parse.parse_one(sql)
    try:
        found = select.plan(statement, ctx)
    except (literals.NeedsFolding, staged.NeedsColumns):  # what the session is asked for may change
        return None
    return found if lasting.is_lasting(statement, ctx) else None


def _others(ctx: planning.PlanContext, aggregate: snapshots.Aggregate, wanted: Spot) -> Iterator[Spot]:
    """Buckets whose rows lie as those of `wanted` do, best of other chunks."""
    own = wanted.chunks[0]
    chunks = [chunk for chunk in wanted.table.shards[0].chunks if chunk is not own][-_LOOKED_AT:]
    for chunk in (*reversed(chunks), own):
        for found in _spots(ctx, aggregate, chunk.range_start):
            if found.key == wanted.key and found.low != wanted.low:
                yield found


def _spots(ctx: planning.PlanContext, aggregate: snapshots.Aggregate, start: int) -> Iterator[Spot]:
    """A few buckets of the chunk that begins at `start`."""
    width = aggregate.bucket.width
    if width is not None:
        first = start + (aggregate.bucket.phase - start) % width
        found = (spot(ctx, aggregate, low) for low in (first, first + 2 * width))
        yield from (item for item in found if item is not None)


def _is_same(former: Spot, now: Spot) -> bool:
    """Whether the catalog is the same, as far as plans of these buckets are made from it."""
    return len(former.made_from) == len(now.made_from) and all(
        a is b for a, b in zip(former.made_from, now.made_from, strict=True)
    )


def _reads_all(made: Spot, plan: plans.Distributed) -> bool:
    """Whether nothing but its bounds has kept chunks and stripes of the bucket out of the plan."""
    name = f"{made.table.schema}.{made.table.name}"
    found = [
        scan
        for item in plan.intermediates
        for part in item.fragments
        for scan in part.scans
        if scan.table == name
    ]
    read = {int(stripe.stripe_id) for scan in found for stripe in scan.stripes}
    return bool(found and read == made.stripes) and all(
        scan.chunks_kept == 1 and _bounds(made, scan) == [made.low, made.high] for scan in found
    )


def _bounds(made: Spot, scan: fragments.Scan) -> list[int | float | str]:
    """What a scan compares the time with: more than the bucket's bounds, if the query has conditions of its own."""
    assert made.table.dimension is not None
    return [
        value
        for item in scan.predicates
        if item.column == made.table.dimension.column
        for value in item.values
    ]


#: Where a bucket's bounds may be; a plan that has them elsewhere too is told by not being equal.
_PLACES = {
    plans.Router: ("sql",),
    plans.Distributed: ("intermediates", "final_sql"),
    plans.Intermediate: ("fragments", "describe_sql"),
    fragments.Fragment: ("scans", "sql", "vector_sql", "fused"),
    fragments.Scan: ("predicates",),
    fragments.Predicate: ("values",),
    shapes.Shape: ("conditions",),
    shapes.Condition: ("values",),
}


class Known:
    """A bucket's plan, that of another one with this one's bounds and chunks."""

    def __init__(self, plan: plans.SelectPlan, move: _Move) -> None:
        """Of what is kept for buckets like it."""
        self._plan, self._move = plan, move

    def plan(self, shards: AbstractSet[int] | None = None) -> plans.SelectPlan:
        """All of it; if its fragments' rows are the answer as they come, only what gives those of some shards."""
        plan = self._plan
        if shards is not None and isinstance(plan, plans.Distributed) and plan.is_as_it_comes:
            (item,) = plan.intermediates
            parts = tuple(part for part in item.fragments if not shards.isdisjoint(part.shard_ids))
            plan = dataclasses.replace(plan, intermediates=(dataclasses.replace(item, fragments=parts),))
        return self._move.plan(plan)

    def queries(self, snapshot: snapshots.Snapshot) -> list[tuple[int, str]] | None:
        """SELECTs that together give its rows, each on the node of a shard of the hypertable; None if more is needed."""
        plan, shards_of = self._plan, self._move.shards
        if isinstance(plan, plans.Router):
            shards = selects.choose_shards(plan.key, plan.tables, snapshot, None, {})
            home = next(shard.shard_id for shard in shards if shard.shard_id in shards_of)
            return [(home, self._move.text(plans.fill(plan.sql, shards)))]
        if not plan.is_as_it_comes:
            return None
        parts = plan.intermediates[0].fragments
        if not all(part.sql for part in parts) or self._move.now.stripes:
            return None
        if any(scan.stripes or scan.input for part in parts for scan in part.scans):
            return None
        return [
            (
                next(shard_id for shard_id in part.shard_ids if shard_id in shards_of),
                self._move.text(placeholders.fill(part.sql, self._move.relations(part))),
            )
            for part in parts
        ]


class _Move:
    """Puts one bucket's bounds and chunks in the place of another's."""

    def __init__(self, former: Spot, now: Spot) -> None:
        self._texts = tuple(zip(former.texts, now.texts, strict=True))
        self._numbers = {former.low: now.low, former.high: now.high}
        self._column = former.table.dimension.column if former.table.dimension is not None else ""
        self.now = now
        self._pruned = prune.Pruned(now.table.shards, ((now.low, now.high - 1),), ())
        self._fused: shapes.Shape | None = None
        self.shards = {int(shard.shard_id) for shard in now.table.shards}
        self._name = f"{now.table.schema}.{now.table.name}"
        # a shard's relation has another name in each layout
        self._places = {
            scans.relation(former.table, before): (shard, chunk)
            for before, shard, chunk in zip(former.table.shards, now.table.shards, now.chunks, strict=True)
        }
        self._known: dict[int, Any] = {}  # fragments share most of what they are made of

    def plan(self, plan: plans.SelectPlan) -> plans.SelectPlan:
        """The plan for the other bucket."""
        return self._moved(plan)  # type: ignore[no-any-return]

    def _moved(self, value: Any) -> Any:
        known = self._known.get(id(value))
        if known is None:
            known = self._known[id(value)] = self._made(value)
        return known

    def _made(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, tuple):
            return tuple(map(self._moved, value))
        names = _PLACES.get(type(value), ())
        if not names or getattr(value, "column", self._column) != self._column:
            return value
        if "values" in names:
            numbers = tuple(
                self._numbers.get(item, item) if isinstance(item, int) else item for item in value.values
            )
            return dataclasses.replace(value, values=numbers)
        if isinstance(value, fragments.Fragment):
            self._fused = value.fused
        moved = dataclasses.replace(value, **{name: self._moved(getattr(value, name)) for name in names})
        if isinstance(moved, fragments.Scan) and moved.table == self._name:
            shard, chunk = self._places[moved.relation]
            return scans.of_chunks(moved, self.now.table, shard, self._pruned, self._fused, (chunk,))
        return moved

    def relations(self, part: fragments.Fragment) -> dict[str, str]:
        """What a fragment's placeholders stand for."""
        return {
            scan.name: scans.relation(self.now.table, self._places[scan.relation][0])
            if scan.table == self._name
            else scan.relation
            for scan in part.scans
        }

    def text(self, text: str) -> str:
        """SQL with the other bounds."""
        # by way of marks that no text has: the end of one bucket is the start of the next
        for at, (before, _) in enumerate(self._texts):
            text = text.replace(before, f"\0{at}\0")
        for at, (_, after) in enumerate(self._texts):
            text = text.replace(f"\0{at}\0", after)
        return text
