"""Plans of one bucket's groups, used again for other buckets: only the bucket's bounds are others.

Planning is most of what refreshing one bucket would cost. So the plan of a bucket is kept with the texts and numbers
of its bounds. The next bucket of the same chunks and stripes is planned as well: if putting its bounds in the place of the
former ones gives that very plan, the kept one serves all others of these chunks from then on, for as long as
catalog, layouts and session are the same. What else a plan could take from a bucket (chunks of a second
hypertable, fewer chunks than the bucket's) makes it one that is not kept.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Hashable
from typing import Any

from orochi import pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.engine import shapes
from orochi.executor import context
from orochi.operations import aggregate_state, routing
from orochi.planner import fragment as fragments
from orochi.planner import plan as plans
from orochi.timeseries import buckets

_KEPT = 256
#: A bound's text is told from all else in a plan; numbers of one or two digits are not.
_LEAST_TEXT = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Spot:
    """A bucket of an aggregate.

    Attributes:
        key: the same for buckets of the same chunks, in sessions alike.
        low: its bounds in raw units, half-open with `high`; `texts` as SQL constants have them.
        stripes: ids of those of its chunks that may have rows of it.
        made_from: what plans are made from, beside that.
        table: the hypertable.
    """

    key: Hashable
    low: int
    high: int
    texts: tuple[str, str]
    stripes: frozenset[int]
    made_from: tuple[object, ...]
    table: snapshots.Table


@dataclasses.dataclass(slots=True)
class _Kept:
    spot: Spot
    plan: plans.Distributed
    is_proven: bool = False


_kept: collections.OrderedDict[Hashable, _Kept] = collections.OrderedDict()


def spot(session: context.Session, aggregate: snapshots.Aggregate, start: int) -> Spot | None:
    """The bucket that starts at `start` in raw units; None if plans for it are good for no other one."""
    snapshot, bucket = session.snapshot(), aggregate.bucket
    table = snapshot.tables[aggregate.table_oid]
    if (
        bucket.width is None
        or bucket.type_oid not in pgtypes.TIMES
        or aggregate_state.snapshot(session) is not snapshot
    ):
        return None
    others = [snapshot.tables[oid] for oid in snapshot.tables if oid in bucket.others]
    low, high = start, start + bucket.width
    texts = tuple(buckets.literal(bucket.type_oid, raw).split("'")[1] for raw in (low, high))
    if any(item.dimension is not None for item in others) or min(map(len, texts)) < _LEAST_TEXT:
        return None
    chunks: list[int] = []
    stripes: list[int] = []
    for shard in table.shards:
        found = routing.chunks_at(shard, (low, high - 1))
        if len(found) != 1 or found[0].range_end < high:
            return None
        chunks.append(int(found[0].chunk_id))
        stripes += [int(item.stripe_id) for item in found[0].stripes if item.may_have(low, high - 1)]
    who = (session.user, session.search_path, session.temp_tables, tuple(sorted(session.settings.items())))
    return Spot(
        key=(aggregate.aggregate_id, *chunks, tuple(stripes), *who),
        low=low,
        high=high,
        texts=(texts[0], texts[1]),
        stripes=frozenset(stripes),
        made_from=(snapshot.shape, session.runtime.builtins, table, *others),
        table=table,
    )


def find(wanted: Spot) -> plans.Distributed | None:
    """A plan for the bucket; None if it has to be planned."""
    kept = _kept.get(wanted.key)
    if kept is None or not kept.is_proven or not _is_same(kept.spot, wanted):
        return None
    _kept.move_to_end(wanted.key)
    return _Move(kept.spot, wanted).plan(kept.plan)


def on_nodes(plan: plans.Distributed, nodes: Collection[int]) -> plans.Distributed:
    """Of a plan whose fragments' rows are the answer as they come, what gives those of these nodes."""
    if plan.final_sql is not None or len(plan.intermediates) != 1:
        return plan
    (item,) = plan.intermediates
    parts = tuple(part for part in item.fragments if part.node_id in nodes)
    return dataclasses.replace(plan, intermediates=(dataclasses.replace(item, fragments=parts),))


def learn(made: Spot, plan: plans.SelectPlan) -> None:
    """Take notice of how a bucket was planned."""
    if not isinstance(plan, plans.Distributed) or plan.stages or not _reads_all(made, plan):
        return
    former = _kept.get(made.key)
    if former is None or not _is_same(former.spot, made):
        _kept[made.key] = _Kept(made, plan)
        while len(_kept) > _KEPT:
            _kept.popitem(last=False)
    elif former.spot.low != made.low:
        former.is_proven = _Move(former.spot, made).plan(former.plan) == plan
        if not former.is_proven:
            _kept[made.key] = _Kept(made, plan)


def _is_same(former: Spot, now: Spot) -> bool:
    """Whether the catalog is the same, as far as plans of these buckets are made from it."""
    return len(former.made_from) == len(now.made_from) and all(
        a is b for a, b in zip(former.made_from, now.made_from, strict=True)
    )


def _reads_all(made: Spot, plan: plans.Distributed) -> bool:
    """Whether nothing but its bounds has kept chunks and stripes of the bucket out of the plan."""
    name = f"{made.table.schema}.{made.table.name}"
    scans = [
        scan
        for item in plan.intermediates
        for part in item.fragments
        for scan in part.scans
        if scan.table == name
    ]
    read = {int(stripe.stripe_id) for scan in scans for stripe in scan.stripes}
    return bool(scans and read == made.stripes) and all(
        scan.chunks_kept == 1 and _bounds(made, scan) == [made.low, made.high] for scan in scans
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
    plans.Distributed: ("intermediates", "final_sql"),
    plans.Intermediate: ("fragments", "describe_sql"),
    fragments.Fragment: ("scans", "sql", "vector_sql", "fused"),
    fragments.Scan: ("predicates",),
    fragments.Predicate: ("values",),
    shapes.Shape: ("conditions",),
    shapes.Condition: ("values",),
}


class _Move:
    """Puts one bucket's bounds in the place of another's."""

    def __init__(self, former: Spot, now: Spot) -> None:
        self._texts = tuple(zip(former.texts, now.texts, strict=True))
        self._numbers = {former.low: now.low, former.high: now.high}
        self._column = former.table.dimension.column if former.table.dimension is not None else ""
        self._known: dict[int, Any] = {}  # fragments share most of what they are made of

    def plan(self, plan: plans.Distributed) -> plans.Distributed:
        """The plan for the other bucket."""
        return self._moved(plan)  # type: ignore[no-any-return]

    def _moved(self, value: Any) -> Any:
        known = self._known.get(id(value))
        if known is None:
            known = self._known[id(value)] = self._made(value)
        return known

    def _made(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
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
        return dataclasses.replace(value, **{name: self._moved(getattr(value, name)) for name in names})

    def _text(self, text: str) -> str:
        # by way of marks that no text has: the end of one bucket is the start of the next
        for at, (before, _) in enumerate(self._texts):
            text = text.replace(before, f"\0{at}\0")
        for at, (_, after) in enumerate(self._texts):
            text = text.replace(f"\0{at}\0", after)
        return text
