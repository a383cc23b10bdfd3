"""Shards, chunks and predicates: what is left out cannot matter, what may matter is kept."""

from __future__ import annotations

import dataclasses

import pytest

from orochi import ids
from orochi.catalog import snapshot as snapshots
from orochi.planner import context, literals, parse, prepare, prune, select
from orochi.planner import plan as plans
from orochi.sharding import hashing
from tests.support import planner_snapshots

_ORDERS = planner_snapshots.shop().tables[1]  # type: ignore[index]


def _pruned(sql: str, *, ctx: context.PlanContext | None = None, alias: str | None = None) -> prune.Pruned:
    prepared = prepare.prepare(parse.parse_one(sql), ctx or planner_snapshots.shop_context())
    reference = next(item for item in prepared.references if alias in (None, item.alias))
    return prepared.pruned[id(reference)]


def _shards(*values: int | None) -> set[int]:
    return {_ORDERS.shard_for_hash(hashing.hash_value(20, value)).index for value in values}


EVERY = {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("id = 42", _shards(42)),
        ("42 = id", _shards(42)),
        ("id = '42'", _shards(42)),
        ("id = 42::smallint", _shards(42)),
        ("id = 42.0", _shards(42)),
        ("id = 42.5", EVERY),
        ("id = 42::float8", EVERY),
        ("id IN (1, 2, 3)", _shards(1, 2, 3)),
        ("id IN (1, NULL)", _shards(1)),
        ("id = ANY (ARRAY[1, 2])", _shards(1, 2)),
        ("id = ANY ('{1,2,NULL}'::bigint[])", _shards(1, 2)),
        ("id = ANY ('{}'::bigint[])", set()),
        ("id = 1 OR id = 7", _shards(1, 7)),
        ("(id = 1 AND note = 'x') OR (id IN (2, 3) AND customer > 1)", _shards(1, 2, 3)),
        ("id = 1 OR customer = 2", EVERY),
        ("id = 1 AND id = 2", _shards(1) & _shards(2)),
        ("id IN (1, 2) AND id IN (2, 3)", _shards(2)),
        ("id IS NULL", _shards(None)),
        ("id IS NULL OR id = 5", _shards(None, 5)),
        ("id <> 1", EVERY),
        ("NOT id = 1", EVERY),
        ("id > 5", EVERY),
        ("id = customer AND customer = 9", _shards(9)),
        ("id = NULL", set()),
        ("false", set()),
        ("id = -3", _shards(-3)),
        ("id IN (SELECT 1)", EVERY),
        ("id = 1 IS TRUE", EVERY),
    ],
)
def test_shards(where: str, expected: set[int]) -> None:
    found = _pruned(f"SELECT * FROM orders WHERE {where}")
    assert {shard.index for shard in found.shards} == expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("orders o JOIN items i ON o.id = i.id WHERE i.id = 5", _shards(5)),
        ("orders o JOIN items i USING (id) WHERE id = 5", _shards(5)),
        ("orders o, items i WHERE i.id = 5 AND o.id = i.id", _shards(5)),
        ("items i LEFT JOIN orders o ON o.id = i.id WHERE i.id = 5", _shards(5)),
        ("items i LEFT JOIN orders o ON o.id = i.id AND i.id = 5", _shards(5)),
        ("orders o LEFT JOIN items i ON o.id = i.id AND o.id = 5", EVERY),
        ("orders o LEFT JOIN items i ON o.id = i.id WHERE i.id = 5", EVERY),
        ("items i LEFT JOIN orders o ON o.id = i.id WHERE o.id IS NULL", EVERY),
        ("orders o FULL JOIN items i ON o.id = i.id AND o.id = 5", EVERY),
        ("orders o FULL JOIN items i ON o.id = i.id WHERE o.id = 5", _shards(5)),
        ("orders o RIGHT JOIN items i ON o.id = i.id WHERE i.id = 5", _shards(5)),
        ("orders o JOIN items i ON o.id = i.amount WHERE i.amount = 5", _shards(5)),
        ("(SELECT * FROM orders o) q WHERE q.id = 5", _shards(5)),
        ("(SELECT id, count(*) FROM orders o GROUP BY id) q WHERE q.id = 5", _shards(5)),
        ("(SELECT id FROM orders o LIMIT 3) q WHERE q.id = 5", EVERY),
        ("(SELECT id, rank() OVER (ORDER BY id) FROM orders o) q WHERE q.id = 5", EVERY),
        ("(SELECT id, count(*) FROM orders o GROUP BY ROLLUP (id)) q WHERE q.id = 5", EVERY),
        ("(SELECT customer AS id FROM orders o) q WHERE q.id = 5", EVERY),
        ("countries c WHERE EXISTS (SELECT FROM orders o WHERE o.id = c.id AND c.id = 5)", _shards(5)),
        ("countries c WHERE c.id = 5 AND EXISTS (SELECT FROM orders o WHERE o.id = c.id)", _shards(5)),
        ("countries c WHERE (SELECT count(*) FROM orders o) > 0 AND false", EVERY),
    ],
)
def test_shards_through_joins_and_subqueries(sql: str, expected: set[int]) -> None:
    assert {shard.index for shard in _pruned(f"SELECT 1 FROM {sql}", alias="o").shards} == expected


@pytest.mark.parametrize(
    ("where", "days"),
    [
        ("true", {0, 1, 2}),
        ("ts < '2024-01-02'", {0}),
        ("ts <= '2024-01-02 00:00'", {0, 1}),
        ("ts >= '2024-01-02' AND ts < '2024-01-03'", {1}),
        ("ts BETWEEN '2024-01-02' AND '2024-01-02 12:00'", {1}),
        ("ts = '2024-01-03 10:00+02'", {2}),
        ("ts IN ('2024-01-01', '2024-01-03 23:59')", {0, 2}),
        ("ts < '2024-01-01 12:00' OR ts > '2024-01-03'", {0, 2}),
        ("ts < '2024-01-01 12:00' OR level = 1", {0, 1, 2}),
        ("ts > 'infinity' OR ts < '-infinity'", set()),
        ("'2024-01-02' > ts", {0}),
        ("ts > date '2024-01-03'", {2}),
        ("ts > timestamp '2024-01-03'", {2}),
        ("ts > '2023-01-01' AND ts < '2023-02-01'", set()),
        ("date_trunc('day', ts) = '2024-01-02'", {0, 1, 2}),
    ],
)
def test_chunks(where: str, days: set[int]) -> None:
    found = _pruned(f"SELECT * FROM events WHERE {where}")
    kept = {chunk.chunk_id % 10 for shard in found.shards for chunk in found.chunks(shard)}
    assert kept == days


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("level > 3 AND 7 >= level", [("level", ">", (3,)), ("level", "<=", (7,))]),
        ("level > 3.5", [("level", ">", (3,))]),
        ("level < 3.5", [("level", "<=", (3,))]),
        ("level IN (3, 1)", [("level", "in", (1, 3))]),
        ("level = 1 OR level = 2", [("level", "in", (1, 2))]),
        ("value >= 1.5", [("value", ">=", (1.5,))]),
        ("value = 'NaN'", []),
        ("device > 'x'", [("device", ">", ("x",))]),
        ("level IS NULL", [("level", "isnull", ())]),
        ("device IS NOT NULL", [("device", "notnull", ())]),
        ("level + 1 > 3", []),
        ("level <> 3", []),
        ("level = 1 OR device = 'x'", []),
    ],
)
def test_predicates(where: str, expected: list[tuple[str, str, tuple[object, ...]]]) -> None:
    found = _pruned(f"SELECT * FROM events WHERE {where}").predicates
    assert [(item.column, item.op, item.values) for item in found] == expected


def test_text_is_compared_by_bytes_only_where_bytes_decide() -> None:
    ctx = dataclasses.replace(planner_snapshots.shop_context(), collation="en_US.UTF-8")
    assert _pruned("SELECT * FROM events WHERE device > 'x'", ctx=ctx).predicates == ()
    assert len(_pruned("SELECT * FROM events WHERE device = 'x'", ctx=ctx).predicates) == 1


def test_what_only_the_session_knows_is_asked_for() -> None:
    statement = parse.parse_one(
        "SELECT * FROM events WHERE ts > now() - interval '1 day' AND ts < 'Jan 3 2024'"
    )
    ctx = planner_snapshots.shop_context()
    with pytest.raises(literals.NeedsFolding) as needed:
        select.plan(statement, ctx)
    asked = needed.value.expressions
    assert asked == ("now() - CAST('1 day' AS interval)", "'Jan 3 2024'::timestamp with time zone", "now()")
    values = ("2024-01-02 06:00:00+00", "2024-01-03 00:00:00+00", "2024-01-03 06:00:00+00")
    folded = {
        sql: literals.Literal(0, "timestamp with time zone", text)
        for sql, text in zip(asked, values, strict=True)
    }
    plan = select.plan(statement, dataclasses.replace(ctx, folded=folded))
    assert isinstance(plan, plans.Distributed)
    assert {scan.chunks_kept for part in plan.intermediates[0].fragments for scan in part.scans} == {1}


def test_an_unknown_time_zone_is_never_guessed() -> None:
    ctx = dataclasses.replace(planner_snapshots.shop_context(), settings={})
    with pytest.raises(literals.NeedsFolding):
        prepare.prepare(parse.parse_one("SELECT * FROM events WHERE ts < '2024-01-02'"), ctx)
    found = _pruned("SELECT * FROM events WHERE ts < '2024-01-02 00:00+00'", ctx=ctx)
    assert found.ranges is not None


@pytest.mark.parametrize(
    ("ranges", "kept", "likely"),
    [
        (None, [1, 2, 3, 4], 400),
        (((5, 14),), [1, 2, 4], 50 + 50),
        (((0, 0), (29, 60)), [1, 3, 4], 10 + 10),
        (((9, 9), (10, 10)), [1, 2, 4], 10 + 10),
        (((-(2**63), 2**63 - 1),), [1, 2, 3, 4], 300),
        (((31, 40),), [4], 0),
        ((), [], 0),
    ],
)
def test_times_of_stripes(ranges: tuple[prune.Range, ...] | None, kept: list[int], likely: int) -> None:
    """Bounds are inclusive, and a stripe whose times are not known is read."""
    times = [(0, 9), (10, 19), (20, 29), None]
    stripes = tuple(
        snapshots.Stripe(ids.StripeId(number), "", 100, 1, found) for number, found in enumerate(times, 1)
    )
    chunk = snapshots.Chunk(ids.ChunkId(1), ids.ShardId(1), 0, 50, 1, stripes=stripes)
    shard = snapshots.Shard(ids.ShardId(1), 0, 0, 1, (ids.NodeId(1),), 1, (chunk,))
    pruned = prune.Pruned((shard,), ranges, ())
    assert [int(stripe.stripe_id) for stripe in pruned.stripes(shard)] == kept
    assert pruned.likely_rows(stripes) == likely
