"""Distinct values counted in the gateway, as PostgreSQL would count them."""

from __future__ import annotations

import collections
import random

import pyarrow as pa
import pytest

from orochi import pgtypes
from orochi.executor import counting
from orochi.planner import fragment as plan_fragment
from orochi.planner import plan as plans

_COLUMNS = (
    plan_fragment.OutputColumn("g0", pgtypes.BPCHAR, 4 + 3, "character(3)"),
    plan_fragment.OutputColumn("g1", pgtypes.INT4, -1, "integer"),
    plan_fragment.OutputColumn("d0", pgtypes.TEXT, -1, "text"),
)
_COUNTED = plans.Counted(("g0", "g1"), "d0", "n0")


def _batch(*rows: tuple[str | None, int | None, str | None]) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    kinds = (pa.string(), pa.int32(), pa.string())
    return pa.RecordBatch.from_arrays(
        [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)], ["a", "a", "b"]
    )


def _counts(*batches: pa.RecordBatch) -> list[tuple[object, ...]]:
    columns, found = counting.count(_COUNTED, _COLUMNS, batches)
    assert [(column.name, column.type_oid) for column in columns] == [
        ("g0", pgtypes.BPCHAR), ("g1", pgtypes.INT4), ("n0", pgtypes.INT8)
    ]  # fmt: skip
    return sorted((tuple(row.values()) for batch in found for row in batch.to_pylist()), key=repr)


def test_values_of_several_shards_count_one_time() -> None:
    one = _batch(("x  ", 1, "a"), ("x  ", 1, "b"), ("y  ", 1, "a"))
    other = _batch(("x", 1, "b"), ("x  ", 1, "a "), ("x  ", 2, "a"))
    assert _counts(one, other) == [("x  ", 1, 3), ("x  ", 2, 1), ("y  ", 1, 1)]


def test_null_is_a_group_but_no_value() -> None:
    rows = _batch((None, 1, None), (None, 1, "a"), ("x  ", None, None), ("x  ", None, None))
    assert _counts(rows, _batch((None, 1, "a"))) == [("x  ", None, 0), (None, 1, 1)]


def test_no_rows_are_no_groups() -> None:
    assert _counts() == []
    assert _counts(_batch()) == []


@pytest.mark.parametrize(("gap", "hashed"), [(1, 1_000_000), (1, 0), (2**33, 0)])
def test_many_rows_are_counted_like_few(gap: int, hashed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few texts are ranks, numbers close together make one number of a row, and numbers far apart do not."""
    monkeypatch.setattr(counting, "_HASHED", hashed)
    columns = (*_COLUMNS[:2], plan_fragment.OutputColumn("d0", pgtypes.INT8, -1, "bigint"))
    chance = random.Random(gap)
    words = ["a", "a  ", "b", "ä", ""]
    rows = [
        (chance.choice(words), chance.randrange(-2, 40) * 7_000_000, chance.randrange(-60, 60) * gap)
        for _ in range(5_000)
    ]
    kinds = (pa.string(), pa.int32(), pa.int64())
    arrays = [pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), kinds, strict=True)]
    batch = pa.RecordBatch.from_arrays(arrays, ["a", "b", "c"])
    wanted = collections.defaultdict(set)
    for word, number, value in rows:
        wanted[word.rstrip().ljust(3), number].add(value)
    _, found = counting.count(_COUNTED, columns, [batch.slice(0, 1_000), batch.slice(1_000)])
    shown = [tuple(row.values()) for part in found for row in part.to_pylist()]
    assert sorted(shown) == sorted((*group, len(values)) for group, values in wanted.items())
