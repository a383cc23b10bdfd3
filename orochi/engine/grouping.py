"""Group and aggregate states of the fused aggregate: of one batch by kernels, then of all batches together.

A batch's rows go to the cells of a dense table, whose filled cells are a `Partial`; partials are
merged by key. Sums of floats are added up in another order than PostgreSQL's, as those of its parallel workers
are. What could differ otherwise (an overflow, a value that no float of the state holds) is declined.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from orochi.engine import native, shapes
from orochi.engine.kernels import grouping as kernels
from orochi.engine.kernels import streaming
from orochi.storage.columnar import encoded
from orochi.storage.compression import buffers

Vector = npt.NDArray[Any]

#: Cells of a dense table at most: more, and it costs more than the rows.
_CELLS_PER_ROW, _FEW_CELLS, _MOST_CELLS = 4, 1 << 16, 1 << 31
#: A column whose values are all below this cannot make a sum of squares overflow.
_LARGE = 1e140
#: Rows of one cell in a row, on average, that are worth their own loop.
_LONG_RUN = 8
_NONE = np.empty(0, np.uint8)
_INT64 = np.iinfo(np.int64)
#: The state of a cell without a value, by aggregate and kind of number.
_EMPTY = {
    ("sum", "f"): 0.0,
    ("sum", "i"): 0,
    ("min", "f"): np.nan,
    ("min", "i"): _INT64.max,
    ("max", "f"): -np.inf,
    ("max", "i"): _INT64.min,
}
_LOOPS = {"sum": kernels.add, "min": kernels.least, "max": kernels.greatest}


@dataclasses.dataclass(slots=True)
class Partial:
    """Groups and their states.

    Attributes:
        keys: for each key a bucket's start, or a dictionary array of the value.
        counts: rows of each group.
        valued: for each column, rows with a value.
        states: by (aggregate, column).
    """

    keys: list[Any]
    counts: Vector
    valued: dict[str, Vector]
    states: dict[tuple[str, str], Vector]

    @property
    def nbytes(self) -> int:
        """Bytes in memory, about."""
        vectors = (self.counts, *self.keys, *self.valued.values(), *self.states.values())
        return 1024 + sum(int(vector.nbytes) for vector in vectors)


def needs(shape: shapes.Shape) -> dict[str, set[str]]:
    """For each argument the states it needs: of `sum`, `min`, `max`; none is a count."""
    found: dict[str, set[str]] = {}
    for output in shape.outputs:
        if output.column:
            wanted = found.setdefault(output.column, set())
            if output.kind in ("sum", "avg", "moment"):
                wanted.add("sum")
            elif output.kind in ("min", "max"):
                wanted.add(output.kind)
    return found


def aggregate(
    shape: shapes.Shape,
    rows: int,
    columns: Mapping[str, pa.Array | encoded.Encoded],
    kept: Vector | None,
    summable: Collection[str] = (),
) -> Partial:
    """One batch's groups.

    Args:
        shape: says what of.
        rows: of the batch.
        columns: its columns; those that are plain keys as dictionary arrays with int32 codes, arguments maybe encoded.
        kept: which rows count; None for all.
        summable: columns whose sums are known not to overflow, see `is_summable`.

    Raises:
        Unsupported: the values are not for this engine.
    """
    cells = np.zeros(rows, np.int32)
    if kept is not None:
        cells[~kept] = -1
    spans: list[tuple[int, int]] = []
    size = 1
    for key in shape.keys:
        first, count = _fold(key, columns[key.column], cells, size)
        spans.append((first, count))
        size *= count
    cells, size, numbers = _compressed(cells, size)
    counts = np.zeros(size, np.int64)
    kernels.count(cells, _NONE, counts)
    valued, states = _states(shape, columns, cells, counts, summable)
    filled = np.flatnonzero(counts) if shape.keys else np.zeros(1, np.int64)
    ids = filled if numbers is None else numbers[filled]
    return Partial(
        _unfolded(shape, spans, ids, columns),
        counts[filled],
        {name: values[filled] for name, values in valued.items()},
        {name: values[filled] for name, values in states.items()},
    )


def _fold(key: shapes.Key, array: pa.Array, cells: Vector, size: int) -> tuple[int, int]:
    """Put a key into the cells; its first bucket and how many there are, null among them."""
    if key.width == 0:
        codes = array.indices
        count = len(array.dictionary) + 1
        if size * count >= _MOST_CELLS:
            raise native.Unsupported("too many groups")
        values = buffers.values(codes)
        if codes.null_count:
            values = np.where(valid_of(codes), values, count - 1).astype(np.int32)
        kernels.fold_codes(values, count, cells)
        return 0, count
    array = plain(array)
    values, valid = np.ascontiguousarray(buffers.values(array), np.int64), valid_of(array)
    low, high = kernels.extent(values, valid, cells)
    if low > high:
        first, count = 0, 1
    else:
        if low == _INT64.min or high == _INT64.max or (key.floor is not None and low < key.floor):
            raise native.Unsupported("a time that is not bucketed here")
        first = (int(low) - key.origin) // key.width
        count = (int(high) - key.origin) // key.width - first + 2
    if size * count >= _MOST_CELLS:
        raise native.Unsupported("too many groups")
    kernels.fold_buckets(values, valid, key.width, key.origin, first, count, cells)
    return first, count


def _compressed(cells: Vector, size: int) -> tuple[Vector, int, Vector | None]:
    """The cells numbered without gaps, where the table would be much larger than the rows."""
    if size <= max(_FEW_CELLS, _CELLS_PER_ROW * len(cells)):
        return cells, size, None
    numbers, inverse = np.unique(cells, return_inverse=True)
    shift = int(len(numbers) > 0 and numbers[0] < 0)
    return (inverse - shift).astype(np.int32), len(numbers) - shift, numbers[shift:].astype(np.int64)


def _unfolded(
    shape: shapes.Shape, spans: Sequence[tuple[int, int]], ids: Vector, columns: Mapping[str, pa.Array]
) -> list[Any]:
    found: list[Any] = []
    for key, (first, count) in zip(reversed(shape.keys), reversed(spans), strict=True):
        ids, part = np.divmod(ids, count)
        null = part == count - 1
        if key.width:
            starts = (part + first) * key.width + key.origin
            found.append(pa.array(starts, pa.int64(), mask=null if null.any() else None))
        else:
            codes = pa.array(part.astype(np.int32), pa.int32(), mask=null if null.any() else None)
            found.append(pa.DictionaryArray.from_arrays(codes, columns[key.column].dictionary))
    return found[::-1]


def _states(
    shape: shapes.Shape,
    columns: Mapping[str, pa.Array | encoded.Encoded],
    cells: Vector,
    counts: Vector,
    summable: Collection[str],
) -> tuple[dict[str, Vector], dict[tuple[str, str], Vector]]:
    valued: dict[str, Vector] = {}
    states: dict[tuple[str, str], Vector] = {}
    runs = _runs(cells)
    for name, wanted in needs(shape).items():
        array = columns[name]
        if isinstance(array, encoded.Encoded):
            streamed = (
                None
                if "sum" in wanted and name not in summable
                else _streamed(array, wanted, cells, counts, runs)
            )
            if streamed is not None:
                valued[name] = counts
                states |= {(state, name): found for state, found in streamed.items()}
                continue
            array = array.decode()
        valid = valid_of(array)
        valued[name] = counts
        if valid.size:
            valued[name] = np.zeros(len(counts), np.int64)
            kernels.count(cells, valid, valued[name])
        if not wanted:
            continue
        values, kind = _numbers(plain(array))
        if "sum" in wanted and name not in summable:
            _check_sum(values, kind)
        for state in wanted:
            found = np.full(len(counts), _EMPTY[state, kind], np.float64 if kind == "f" else np.int64)
            if state == "sum" and runs is not None and not valid.size:
                kernels.add_runs(cells, runs, values, found)
            else:
                _LOOPS[state](cells, valid, values, found)
            states[state, name] = found
    return valued, states


def _streamed(
    column: encoded.Encoded, wanted: set[str], cells: Vector, counts: Vector, runs: Vector | None
) -> dict[str, Vector] | None:
    """The states of a column that is decoded a chunk at a time; None if there is a chunk that cannot be."""
    kind = "f" if column.is_float else "i"
    dtype = np.dtype(np.float64 if column.is_float else np.int64)
    found = {state: np.full(len(counts), _EMPTY[state, kind], dtype) for state in wanted}
    sums, lows, highs = (found.get(state, np.empty(0, dtype)) for state in ("sum", "min", "max"))
    begins = np.empty(0, np.int64) if runs is None else runs
    words = column.words, column.starts, column.ends, column.counts
    if column.is_float:
        failed = streaming.doubles(*words, cells, begins, sums, lows, highs)
    else:
        failed = streaming.integers(*words, column.kinds, cells, begins, sums, lows, highs)
    return found if failed < 0 else None


def _runs(cells: Vector) -> Vector | None:
    """Where runs of rows of one cell begin, and the end; None if they are short."""
    starts = np.empty(len(cells) // _LONG_RUN + 1, np.int64)
    count = kernels.runs(cells, starts)
    return starts[: count + 1] if count > 0 else None


def is_summable(kind: str, low: Any, high: Any, rows: int) -> bool:
    """Whether sums, and sums of squares, of so many values between `low` and `high` cannot overflow.

    `kind` is `f` or `i`. Bounds that are not known are None; NaN is greater than all else.
    """
    if low is None or high is None:
        return False
    if kind == "f":
        return bool(low > -_LARGE and high < _LARGE)
    return max(abs(int(low)), abs(int(high))) * rows < 2**63


def _numbers(array: pa.Array) -> tuple[Vector, str]:
    """Values as doubles or 64-bit integers, and which: `f` or `i`."""
    values = buffers.values(array)
    kind = "f" if values.dtype.kind == "f" else "i"
    return np.ascontiguousarray(values, np.float64 if kind == "f" else np.int64), kind


def _check_sum(values: Vector, kind: str) -> None:
    """Decline what may overflow: PostgreSQL may raise an error, or go on with more digits."""
    if kind == "i":
        _check_whole(values, len(values))
    elif len(values):
        with np.errstate(invalid="ignore"):
            low, high = float(values.min()), float(values.max())
        if not (low > -_LARGE and high < _LARGE):  # NaN too
            raise native.Unsupported("a sum of numbers that are large or none")


def _check_whole(values: Vector, count: int) -> None:
    if len(values) and max(abs(int(values.min())), abs(int(values.max()))) * count >= 2**63:
        raise native.Unsupported("a sum that may not fit")


def merge(shape: shapes.Shape, parts: Sequence[Partial]) -> Partial:
    """All partials as one, each group once."""
    if len(parts) == 1:
        return parts[0]
    keys = [_joined(part.keys[at] for part in parts) for at in range(len(shape.keys))]
    order, starts = _groups(keys, sum(len(part.counts) for part in parts))

    def added(pieces: Sequence[Vector]) -> Vector:
        joined = np.concatenate(pieces)[order]
        return np.add.reduceat(joined, starts) if len(joined) else joined

    states: dict[tuple[str, str], Vector] = {}
    for state, name in parts[0].states:
        pieces = np.concatenate([part.states[state, name] for part in parts])[order]
        if state == "sum" and pieces.dtype.kind == "i":
            _check_whole(pieces, len(parts))
        # NaN is the greatest: it wins every maximum, and a minimum only where there is nothing else
        combine = {"sum": np.add, "min": np.fmin, "max": np.maximum}[state]
        states[state, name] = combine.reduceat(pieces, starts) if len(pieces) else pieces
    firsts = pa.array(order[starts]) if len(order) else pa.array([], pa.int64())
    return Partial(
        [key.take(firsts) for key in keys],
        added([part.counts for part in parts]),
        {name: added([part.valued[name] for part in parts]) for name in parts[0].valued},
        states,
    )


def _joined(arrays: Any) -> Any:
    chunked = pa.chunked_array(list(arrays))
    if pa.types.is_dictionary(chunked.type):
        chunked = chunked.unify_dictionaries()
    return chunked.combine_chunks() if chunked.num_chunks != 1 else chunked.chunk(0)


def _groups(keys: Sequence[pa.Array], count: int) -> tuple[Vector, Vector]:
    """Rows in an order that has equal keys together, and where each group begins in it."""
    if not keys:
        return np.arange(count), np.zeros(min(count, 1), np.int64)
    codes = []
    for key in keys:
        numbers = key.indices if pa.types.is_dictionary(key.type) else key
        codes.append(np.asarray(pc.fill_null(numbers, -1).cast(pa.int64())))
        if numbers.null_count:
            codes.append(np.asarray(numbers.is_null()).astype(np.int64))
    order = np.lexsort(codes[::-1])
    changed = np.zeros(count, np.bool_)
    for vector in codes:
        moved = vector[order]
        changed[1:] |= moved[1:] != moved[:-1]
    changed[:1] = True
    return order, np.flatnonzero(changed)


def plain(array: pa.Array) -> pa.Array:
    """An array in carrier form."""
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def valid_of(array: pa.Array) -> Vector:
    """A byte a row, 1 where there is a value; empty where no row is null."""
    if not array.null_count:
        return _NONE
    return np.asarray(array.is_valid()).astype(np.uint8)
