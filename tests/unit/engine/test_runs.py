"""Sums over runs of rows of one cell are those of row by row; states of undecoded columns are those of decoded ones."""

from __future__ import annotations

import pathlib

import numpy as np
import pyarrow as pa
import pytest

from orochi import errors, pgtypes
from orochi.engine import grouping, native, shapes
from orochi.engine.kernels import grouping as kernels
from orochi.storage.columnar import cache, reader, writer

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


_ROWS, _GROUP_ROWS = 5_000, 700
_KINDS = {
    "walk": lambda rng: pa.array(np.floor(np.cumsum(rng.standard_normal(_ROWS)))),
    "cents": lambda rng: pa.array(rng.integers(-9_999, 9_999, _ROWS) / 100),
    "odd": lambda rng: pa.array(np.where(rng.random(_ROWS) < 0.01, rng.random(_ROWS) * 1e9, 2.5)),
    "steps": lambda rng: pa.array(np.arange(_ROWS) * 10_000_000, pa.int64()),
    "runs": lambda rng: pa.array(np.repeat(rng.integers(0, 9, _ROWS // 50), 50), pa.int64()),
    "wide": lambda rng: pa.array(rng.integers(-(2**40), 2**40, _ROWS), pa.int64()),
}


def _write(path: pathlib.Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = [make(rng) for make in _KINDS.values()]
    columns = [
        writer.StripeColumn(name, pgtypes.FLOAT8 if pa.types.is_floating(array.type) else pgtypes.INT8)
        for name, array in zip(_KINDS, arrays, strict=True)
    ]
    options = writer.WriteOptions(compression="none", chunk_group_row_limit=_GROUP_ROWS)
    writer.write_stripe(path, [pa.RecordBatch.from_arrays(arrays, names=list(_KINDS))], columns, options)


@pytest.mark.parametrize("long_runs", [False, True])
@pytest.mark.parametrize("groups", [[0, 1, 2, 3, 4, 5, 6, 7], [7], [0, 2, 3, 6]])
def test_undecoded_columns_have_the_states_of_decoded_ones(
    tmp_path: pathlib.Path, groups: list[int], long_runs: bool
) -> None:
    _write(tmp_path / "s", 5)
    rng = np.random.default_rng(len(groups))
    streamed = set()
    with reader.StripeReader(tmp_path / "s") as stripe:
        rows = sum(stripe.footer.group_rows[group] for group in groups)
        each = 90 if long_runs else 2
        keys = np.repeat(rng.integers(0, 7, rows // each + 1), each)[:rows].astype(np.int32)
        kept = np.repeat(rng.random(rows // 60 + 1) < 0.6, 60)[:rows]
        key = pa.DictionaryArray.from_arrays(pa.array(keys), pa.array(list("abcdefg")))
        for name in _KINDS:
            column = stripe.footer.column(name)
            assert column is not None
            outputs = (shapes.Output("key"), *(shapes.Output(kind, name) for kind in ("avg", "min", "max")))
            shape = shapes.Shape((shapes.Key("key"),), outputs)
            found = stripe.encoded(column, groups)
            if found is not None:
                streamed.add(name)
            one, other = (
                grouping.aggregate(shape, rows, {"key": key, name: values}, kept, {name})
                for values in (found or stripe.column(column, groups), stripe.column(column, groups))
            )
            assert one.counts.tolist() == other.counts.tolist()
            assert one.valued[name].tolist() == other.valued[name].tolist()
            for state, values in one.states.items():
                assert values.tolist() == pytest.approx(other.states[state].tolist(), rel=1e-12, abs=1e-9)
    assert streamed == set(_KINDS)


def test_a_whole_column_is_decoded_when_it_is_wanted_again(tmp_path: pathlib.Path) -> None:
    _write(tmp_path / "s", 6)
    with reader.StripeReader(tmp_path / "s", cache=cache.Cache(1 << 20)) as stripe:
        (column,) = (column for column in stripe.footer.columns if column.name == "walk")
        everything = range(len(stripe.footer.group_rows))
        assert stripe.encoded(column, [0]) is not None
        assert stripe.encoded(column, everything) is not None
        assert stripe.encoded(column, everything) is None
        assert stripe.encoded(column, [0]) is not None


def test_damaged_chunks_are_not_given_undecoded(tmp_path: pathlib.Path) -> None:
    _write(tmp_path / "s", 7)
    with reader.StripeReader(tmp_path / "s") as stripe:
        (column,) = (column for column in stripe.footer.columns if column.name == "walk")
        place = column.chunks[3].offset + 40
    data = bytearray((tmp_path / "s").read_bytes())
    data[place] ^= 4
    (tmp_path / "s").write_bytes(data)
    with reader.StripeReader(tmp_path / "s") as stripe:
        assert stripe.encoded(column, [2, 3]) is None
        with pytest.raises(errors.DataCorrupted, match="group 3"):
            stripe.column(column, [2, 3])
