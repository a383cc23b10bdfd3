"""Sums over runs of rows of one cell are those of row by row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from orochi.engine import grouping, native, shapes
from orochi.engine.kernels import grouping as kernels

_NONE = np.empty(0, np.uint8)


@pytest.mark.parametrize("kind", [np.float64, np.int64])
def test_runs_are_added_as_rows_are(kind: type[np.generic]) -> None:
    rng = np.random.default_rng(3)
    for count in (1, 7, 8, 100, 5000):
        cells = np.repeat(rng.integers(-1, 5, count), rng.integers(1, 60, count)).astype(np.int32)
        values = rng.integers(-99, 99, len(cells)).astype(kind)
        starts = np.empty(len(cells) + 2, np.int64)
        found = kernels.runs(cells, starts)
        assert starts[0] == 0
        assert starts[found] == len(cells)
        assert [len(set(part.tolist())) for part in np.split(cells, starts[1:found])] == [1] * found
        by_row, by_run = np.zeros(5, kind), np.zeros(5, kind)
        kernels.add(cells, _NONE, values, by_row)
        kernels.add_runs(cells, starts[: found + 1], values, by_run)
        assert by_row.tolist() == by_run.tolist()  # whole numbers: their sums are exact


def test_short_runs_are_none() -> None:
    starts = np.empty(3, np.int64)
    assert kernels.runs(np.arange(9, dtype=np.int32), starts) == -1
    assert kernels.runs(np.empty(0, np.int32), starts) == 0


def test_what_may_overflow_is_declined_unless_bounds_say_otherwise() -> None:
    shape = shapes.Shape((), (shapes.Output("avg", "v"),))
    columns = {"v": pa.array([1e200, 1.0])}
    with pytest.raises(native.Unsupported):
        grouping.aggregate(shape, 2, columns, None)
    assert not grouping.is_summable("f", -1.0, 1e200, 2)
    assert not grouping.is_summable("f", 0.0, float("nan"), 2)
    assert not grouping.is_summable("f", None, None, 2)
    assert grouping.is_summable("f", -1.0, 1.0, 2)
    assert grouping.is_summable("i", -(2**62), 5, 1)
    assert not grouping.is_summable("i", -(2**62), 5, 2)
