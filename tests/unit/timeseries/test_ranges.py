"""Chunk ranges: alignment, extremes, and how bounds are written; PostgreSQL itself checks the latter in services."""

from __future__ import annotations

import numpy as np
import pytest

from orochi import errors, pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.operations import chunks
from orochi.timeseries import ranges

DAY = 86_400_000_000
EPOCH = -pgtypes.EPOCH_SHIFT_SECONDS * 1_000_000


@pytest.mark.parametrize(
    ("type_oid", "interval", "raw", "expected"),
    [
        (pgtypes.TIMESTAMPTZ, DAY, 0, (0, DAY)),
        (pgtypes.TIMESTAMPTZ, DAY, -1, (-DAY, 0)),
        (pgtypes.TIMESTAMPTZ, 7 * DAY, EPOCH, (EPOCH, EPOCH + 7 * DAY)),
        (pgtypes.TIMESTAMP, 7 * DAY, EPOCH - 1, (EPOCH - 7 * DAY, EPOCH)),
        (pgtypes.DATE, 7, -10_957, (-10_957, -10_950)),
        (pgtypes.INT4, 10, -1, (-10, 0)),
        (pgtypes.INT8, 10, 25, (20, 30)),
        (pgtypes.INT8, 1000, 2**63 - 1, ((2**63 - 1) // 1000 * 1000, 2**63)),
        (pgtypes.INT8, 1000, -(2**63), (-(2**63), -(2**63) // 1000 * 1000 + 1000)),
    ],
)
def test_ranges_are_aligned_and_hold_their_value(
    type_oid: int, interval: int, raw: int, expected: tuple[int, int]
) -> None:
    assert ranges.chunk_range(type_oid, interval, raw) == expected
    assert expected[0] <= raw < expected[1]


def test_distinct_ranges_of_many_values() -> None:
    values = np.array([5, 1, 12, 19, -3, 12], np.int64)
    assert ranges.chunk_ranges(pgtypes.INT4, 10, values) == [(-10, 0), (0, 10), (10, 20)]


@pytest.mark.parametrize(
    ("type_oid", "raw", "expected"),
    [
        (pgtypes.INT4, 5, "('5')"),
        (pgtypes.INT4, 2**40, "MAXVALUE"),
        (pgtypes.INT2, -(2**15), "MINVALUE"),
        (pgtypes.INT8, 2**63, "MAXVALUE"),
        (pgtypes.DATE, 3, "('2000-01-01'::date + 3)"),
        (pgtypes.TIMESTAMPTZ, 2**63, "MAXVALUE"),
        (pgtypes.TIMESTAMPTZ, 2**63 - 10**11, "('infinity'::timestamptz)"),
        (
            pgtypes.TIMESTAMP,
            60_000_000,
            "('2000-01-01 00:00:00'::timestamp + '60000000 microseconds'::interval)",
        ),
    ],
)
def test_bounds(type_oid: int, raw: int, expected: str) -> None:
    assert ranges.bound_sql(type_oid, raw) == expected


@pytest.mark.parametrize(
    ("type_oid", "interval", "raw", "expected"),
    [
        (pgtypes.DATE, 1, 2**31 - 1, "FROM (('infinity'::date)) TO (MAXVALUE)"),
        (pgtypes.DATE, 9, 2**31 - 1, "FROM (('infinity'::date)) TO (MAXVALUE)"),
        (pgtypes.INT2, 7, 2**15 - 1, "FROM (('32767')) TO (MAXVALUE)"),
        (pgtypes.INT2, 7, 2**15 - 2, "FROM (('32760')) TO (('32767'))"),
        (pgtypes.INT8, 1, 2**63 - 1, f"FROM (('{2**63 - 1}')) TO (MAXVALUE)"),
        (pgtypes.TIMESTAMP, 1, 2**63 - 1, "FROM (('infinity'::timestamp)) TO (MAXVALUE)"),
    ],
)
def test_the_last_chunk(type_oid: int, interval: int, raw: int, expected: str) -> None:
    assert ranges.bounds_sql(type_oid, *ranges.chunk_range(type_oid, interval, raw)) == expected


def test_intervals_must_fit_the_column() -> None:
    assert ranges.interval_from_microseconds(pgtypes.DATE, 7 * DAY) == 7
    assert ranges.interval_from_integer(pgtypes.INT4, 100) == 100
    for type_oid, value in ((pgtypes.INT4, DAY), (pgtypes.DATE, DAY // 2), (pgtypes.TIMESTAMP, 0)):
        with pytest.raises(errors.InvalidParameter):
            ranges.interval_from_microseconds(type_oid, value)
    with pytest.raises(errors.InvalidParameter):
        ranges.interval_from_integer(pgtypes.INT2, 100_000)


def test_new_ranges_do_not_overlap_old_ones_of_another_interval() -> None:
    dimension = snapshots.TimeDimension("t", pgtypes.INT8, 100)
    existing = [(0, 30), (60, 90)]
    assert chunks.missing_ranges(dimension, existing, [10, 65]) == []
    assert chunks.missing_ranges(dimension, existing, [40, 45]) == [(30, 60)]
    assert chunks.missing_ranges(dimension, existing, [95, 40, -5]) == [(-100, 0), (30, 60), (90, 100)]
