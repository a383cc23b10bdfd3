"""Sets of buckets: their algebra against sets of integers, and what their SQL admits."""

from __future__ import annotations

import random

from orochi import pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.timeseries import buckets


def as_set(ranges: buckets.Ranges) -> set[int]:
    return {value for low, high in ranges for value in range(low, high + 1)}


def test_algebra() -> None:
    chance = random.Random(1)
    for _ in range(300):
        pairs = [(a, a + chance.randrange(6)) for a in (chance.randrange(60) for _ in range(6))]
        left, right = buckets.united(pairs[:3]), buckets.united(pairs[3:])
        assert as_set(buckets.without(left, right)) == as_set(left) - as_set(right)
        assert as_set(buckets.within(left, 10, 30)) == {v for v in as_set(left) if 10 <= v <= 30}
        assert as_set(left) <= as_set(buckets.coarser(left, 2))
        pieces = buckets.cut(0, 70, sorted(chance.sample(range(80), 5)), 2, 5)
        assert as_set(tuple(pieces)) == set(range(71))
        assert len(buckets.united(pieces)) == 1


def test_whole_buckets() -> None:
    bucket = snapshots.Bucket("b", pgtypes.INT8, "at", "", width=10, phase=3, slack=10)
    assert buckets.on_grid(bucket, ((3, 3), (23, 30))) == ((3, 12), (23, 32))
    assert buckets.on_grid(bucket, ((4, 12),)) == ()
    assert buckets.on_grid(bucket, ((5, buckets.GREATEST),)) == ((13, buckets.GREATEST),)
    assert buckets.rows_of(bucket, "at", "b", ((3, 12),)) == "(at >= '3'::bigint AND at < '13'::bigint)"
    assert buckets.touching(bucket, 14, 40) == (13, 40)


def test_batches_of_single_buckets_have_few_ranges() -> None:
    chance = random.Random(2)
    for width in (10, None):
        bucket = snapshots.Bucket("b", pgtypes.INT8, "at", "", width=width, phase=3, slack=10)
        points = [(start, start) for start in range(3, 20_000, 10) if start < 4_000 or chance.random() < 0.3]
        batches = buckets.in_batches(bucket, points, 300)
        assert [point for batch in batches for point in batch] == points
        for batch in batches:
            assert len(batch) <= 300
            assert len(buckets.on_grid(bucket, batch)) <= buckets.LISTED
        assert len(batches[0]) == (300 if width else buckets.LISTED)


def test_constants() -> None:
    assert buckets.literal(pgtypes.TIMESTAMPTZ, 0) == "'2000-01-01 00:00:00+00'::timestamptz"
    assert buckets.literal(pgtypes.DATE, -1) == "'1999-12-31'::date"
    assert buckets.literal(pgtypes.TIMESTAMP, buckets.GREATEST) == "'infinity'::timestamp"
    assert buckets.inside("b", pgtypes.DATE, buckets.EVERYTHING) == "true"
    assert buckets.inside("b", pgtypes.DATE, ()) == "false"
