"""Compiled loops that decode a column a chunk at a time and aggregate it at once: no decoded column is in memory.

Chunks are decoded into one small vector that stays in the processor's cache; each is added to the states of its
rows' cells before the next is decoded. `words`, `starts`, `ends`, `counts` and `kinds` are those of `bulk_kernels`;
`cells` those of `grouping`. `runs` says where runs of rows of one cell begin, and the end; it is empty where they are
short. States that are not wanted are empty. The answer is the number of the first chunk that cannot be decoded, or -1.
"""

# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

import numba
import numpy as np
from numba import types

from orochi.engine.kernels import grouping
from orochi.engine.kernels.copyrows import Vector
from orochi.storage.compression import bulk_kernels

_U64_IN = types.Array(types.uint64, 1, "C", readonly=True)
_I64_IN = types.Array(types.int64, 1, "C", readonly=True)
_I32_IN = types.Array(types.int32, 1, "C", readonly=True)
_I64 = types.Array(types.int64, 1, "C")
_F64 = types.Array(types.float64, 1, "C")
_WORDS = (_U64_IN, _I64_IN, _I64_IN, _I64_IN)
_ROWS = (_I32_IN, _I64_IN)


@numba.njit(
    [
        types.int64(types.int64, types.int64, _I32_IN, _I64_IN, _F64, _F64),
        types.int64(types.int64, types.int64, _I32_IN, _I64_IN, _I64, _I64),
    ],
    cache=True,
    nogil=True,
)
def _add_runs(run: int, row: int, cells: Vector, runs: Vector, values: Vector, sums: Vector) -> int:
    """Add rows from `row` on to their sums, beginning with the run they are in; the run of the row after them."""
    stop = row + values.size
    while run < runs.size - 1 and runs[run] < stop:
        at, end = max(runs[run], row) - row, min(runs[run + 1], stop) - row
        cell = cells[row + at]
        if cell >= 0:
            first = second = third = fourth = sums[cell] * 0
            while at + 4 <= end:
                first += values[at]
                second += values[at + 1]
                third += values[at + 2]
                fourth += values[at + 3]
                at += 4
            while at < end:
                first += values[at]
                at += 1
            sums[cell] += (first + second) + (third + fourth)
        if runs[run + 1] > stop:
            break
        run += 1
    return run


@numba.njit(types.int64(*_WORDS, *_ROWS, _F64, _F64, _F64), cache=True, nogil=True)
def doubles(
    words: Vector,
    starts: Vector,
    ends: Vector,
    counts: Vector,
    cells: Vector,
    runs: Vector,
    sums: Vector,
    lows: Vector,
    highs: Vector,
) -> int:
    """Chunks of `alp` doubles, none null."""
    scratch = np.empty(bulk_kernels.longest(counts), np.float64)
    none = np.empty(0, np.uint8)
    row = run = 0
    for chunk in range(counts.size):
        one = chunk + 1
        values = scratch[: counts[chunk]]
        if bulk_kernels.doubles(words, starts[chunk:one], ends[chunk:one], counts[chunk:one], values) >= 0:
            return chunk
        part = cells[row : row + values.size]
        if sums.size and runs.size:
            run = _add_runs(run, row, cells, runs, values, sums)
        elif sums.size:
            grouping.add(part, none, values, sums)
        if lows.size:
            grouping.least(part, none, values, lows)
        if highs.size:
            grouping.greatest(part, none, values, highs)
        row += values.size
    return -1


@numba.njit(types.int64(*_WORDS, _I64_IN, *_ROWS, _I64, _I64, _I64), cache=True, nogil=True)
def integers(
    words: Vector,
    starts: Vector,
    ends: Vector,
    counts: Vector,
    kinds: Vector,
    cells: Vector,
    runs: Vector,
    sums: Vector,
    lows: Vector,
    highs: Vector,
) -> int:
    """Chunks of integers, none null."""
    scratch = np.empty(bulk_kernels.longest(counts), np.int64)
    none = np.empty(0, np.uint8)
    row = run = 0
    for chunk in range(counts.size):
        one = chunk + 1
        values = scratch[: counts[chunk]]
        if (
            bulk_kernels.integers(
                words, starts[chunk:one], ends[chunk:one], counts[chunk:one], kinds[chunk:one], values
            )
            >= 0
        ):
            return chunk
        part = cells[row : row + values.size]
        if sums.size and runs.size:
            run = _add_runs(run, row, cells, runs, values, sums)
        elif sums.size:
            grouping.add(part, none, values, sums)
        if lows.size:
            grouping.least(part, none, values, lows)
        if highs.size:
            grouping.greatest(part, none, values, highs)
        row += values.size
    return -1
