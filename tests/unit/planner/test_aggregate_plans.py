"""A plan of one bucket's groups becomes another's by its bounds alone, or is not used for others at all."""

from __future__ import annotations

import dataclasses

import pytest

from orochi.catalog import snapshot as snapshots
from orochi.operations import aggregate_plans, routing
from orochi.planner import plan as plans
from orochi.timeseries import buckets
from tests.support import planner_world

_HOUR = 3_600_000_000
_START = 762_000 * _HOUR // 3  # 2028-12-22 08:00 UTC


@dataclasses.dataclass(frozen=True, slots=True)
class Beats:
    """A hypertable of two shards with stripes."""

    world: planner_world.World
    table: snapshots.Table


@pytest.fixture(scope="module")
def beats(_world: planner_world.World) -> Beats:
    _world.local("CREATE TABLE beats (id int NOT NULL, at timestamptz NOT NULL, v int)")
    start = buckets.literal(1184, _START)
    _world.connection.execute(
        f"INSERT INTO plain.beats SELECT g % 9, {start} + g * interval '7 minutes', g FROM generate_series(0, 400) g"
    )
    _world.table("beats", "distributed", "id", 2, time="at", interval=20 * _HOUR, stripes=True)
    (found,) = (item for item in _world.tables.values() if item.name == "beats")
    return Beats(_world, found)


def _spot(table: snapshots.Table, at: int, query: str) -> aggregate_plans.Spot:
    low = _START + at * _HOUR
    first, last = (buckets.literal(1184, raw).split("'")[1] for raw in (low, low + _HOUR))
    chunks = tuple(chunk for shard in table.shards for chunk in routing.chunks_at(shard, (low,)))
    stripes = frozenset(int(stripe.stripe_id) for chunk in chunks for stripe in chunk.stripes)
    return aggregate_plans.Spot(query, low, low + _HOUR, (first, last), (table,), table, chunks, stripes)


def _plan(world: planner_world.World, spot: aggregate_plans.Spot, query: str) -> plans.Distributed:
    found = world.plan(
        query.format(f"at >= '{spot.texts[0]}'::timestamptz AND at < '{spot.texts[1]}'::timestamptz")
    )
    assert isinstance(found, plans.Distributed)
    return found


@pytest.mark.parametrize(
    ("query", "serves"),
    [
        (
            "SELECT id, time_bucket('01:00:00'::interval, at) AS h, sum(v) FROM beats WHERE {} GROUP BY 1, 2",
            True,
        ),
        ("SELECT time_bucket('01:00:00'::interval, at) AS h, avg(v) FROM beats WHERE {} GROUP BY 1", True),
        (
            "SELECT id, sum(v) FROM beats WHERE at < '2028-12-24 00:00+00'::timestamptz AND {} GROUP BY 1",
            False,
        ),
        (
            "SELECT id, count(*) FILTER (WHERE at > '2028-12-22 08:00:00+00') FROM beats WHERE {} GROUP BY 1",
            False,
        ),
    ],
)
def test_serves(beats: Beats, query: str, serves: bool) -> None:
    world, table = beats.world, beats.table
    first, second, third = (_spot(table, at, query) for at in (0, 5, 30))
    plan = _plan(world, first, query)
    assert aggregate_plans.serves(first, plan, second, _plan(world, second, query)) == serves
    assert aggregate_plans.serves(first, plan, third, _plan(world, third, query)) == serves
    assert first.chunks[0] is second.chunks[0] is not third.chunks[0]
    assert not aggregate_plans.is_known(third)
    aggregate_plans.keep(first, plan if serves else None)
    assert aggregate_plans.is_known(third)
    found = aggregate_plans.find(third)
    assert (found and found.plan()) == (_plan(world, third, query) if serves else None)
    changed = snapshots.TimeDimension("at", 1184, 1)
    other = snapshots.Table(
        **{**{name: getattr(table, name) for name in table.__slots__}, "dimension": changed}
    )
    assert aggregate_plans.find(_spot(other, 6, query)) is None
