"""Where stripes end in rows that lie by the ranges of further dimensions."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest

from orochi import pgtypes
from orochi.storage.columnar import writer
from orochi.timeseries import cells, ranges

_EDGES = [-(2**63), -(2**63) + 1, -1, 0, 1, 2**62, 2**63 - 2, 2**63 - 1]


@pytest.mark.parametrize("type_oid", [pgtypes.INT8, pgtypes.TIMESTAMPTZ])
def test_numbers(type_oid: int) -> None:
    """A value's range has the number of the chunk that a time column would have."""
    cut, zero = cells.Cut("c", type_oid, 1000), ranges.origin(type_oid)
    values = [value for value in _EDGES if value - zero < 2**63]
    found = cells.numbers(cut, pa.chunked_array([pa.array(values, pa.int64())]))
    assert found.tolist() == [(value - zero) // 1000 for value in values]
    last = cells.numbers(cut, pa.chunked_array([pa.array([2**63 - 1], pa.int64())]))
    assert last.tolist() == [(2**63 - 1) // 1000]


def test_pieces() -> None:
    """No piece is longer than a stripe; one that ends before the rows do ends with a range, or is a whole stripe."""
    random = np.random.default_rng(7)
    options = writer.WriteOptions(stripe_row_limit=100, chunk_group_row_limit=10)
    cut = cells.Cut("c", pgtypes.INT4, 10)
    for spread in (1, 50, 300, 3000):
        values = np.sort(random.integers(-spread, spread, 1234)).astype(np.int32)
        table = pa.table({"c": values, "row": np.arange(1234)})
        pieces = list(cells.whole(table, (cut,), options, last=True))
        rows = np.concatenate([piece.column("row").to_numpy() for piece in pieces])
        assert rows.tolist() == list(range(1234))
        for piece, following in itertools.pairwise(pieces):
            ends = values[following.column("row")[0].as_py()] // 10 != piece.column("c")[-1].as_py() // 10
            assert piece.num_rows == 100 or (25 <= piece.num_rows < 100 and ends)
        assert pieces[-1].num_rows <= 100
        whole = list(cells.whole(table, (cut,), options, last=False))
        assert [piece.num_rows for piece in whole] == [piece.num_rows for piece in pieces[:-1]]
