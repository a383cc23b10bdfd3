"""Finds the columns of a stripe that get one dictionary for all chunk groups, and makes it.

Those are strings and binary with few distinct values. The dictionary is in the order of bytes, so
that codes compare as their values do. Numerics have a better form of their own.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from orochi.storage.compression import buffers, numeric

#: At most so many values, so many bytes, and on average each so often.
MOST_VALUES = 65_536
MOST_BYTES = 4 << 20
LEAST_REPEATS = 6

_RUNS, _RUN = 8, 128


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What is known of some rows.

    Attributes:
        ends: the bytes of the least and of the greatest value; None if all are null.
        letters: the bytes of all values.
    """

    nulls: int
    ends: tuple[bytes, bytes] | None
    letters: int

    def raw_bytes(self, rows: int) -> int:
        """What the rows, so many, take in carrier form."""
        return 4 * (rows + 1) + ((rows + 7) // 8 if self.nulls else 0) + self.letters


@dataclasses.dataclass(frozen=True, slots=True)
class Shared:
    """A column's dictionary, and every row's code, -1 for null.

    Attributes:
        octets: the values as binary.
        lengths: how many bytes each has.
    """

    values: pa.Array
    octets: pa.Array
    lengths: buffers.Int64s
    codes: buffers.Int64s

    def facts(self, codes: buffers.Int64s) -> Facts:
        """What is to be known of rows with these codes."""
        from orochi.storage.compression import int_kernels

        nulls, low, high, letters = int_kernels.code_facts(codes, self.lengths)
        if nulls == len(codes):
            return Facts(nulls, None, letters)
        ends = self.octets[low].as_py(), self.octets[high].as_py()
        return Facts(nulls, ends, letters)


def build(column: pa.ChunkedArray) -> Shared | None:
    """The column's dictionary, or None when it is better off without. It may come as codes already."""
    given = pa.types.is_dictionary(column.type)
    if column.null_count == len(column) or not (given or buffers.is_bytes(column.type)):
        return None
    if not given and not _promising(column):
        return None
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    values = encoded.dictionary
    codes = encoded.indices
    if codes.null_count:
        codes = codes.fill_null(-1)
    codes = codes.to_numpy()
    found: npt.NDArray[np.intp] = np.arange(len(values))
    if given:  # values of other stripes are left out
        there = np.bincount(codes if not encoded.null_count else codes[codes >= 0], minlength=len(values))
        found = np.flatnonzero(there)
    few = len(found) <= MOST_VALUES and len(found) * LEAST_REPEATS <= len(column)
    kept = values if len(found) == len(values) else values.take(pa.array(found))
    if kept.nbytes > MOST_BYTES or not (few or len(found) == 1):
        return None
    order = pc.sort_indices(kept)
    ranks = np.full(len(values) + 1, -1, np.int64)
    ranks[found[order.to_numpy()]] = np.arange(len(found))
    ordered = kept.take(order)
    offsets, _ = buffers.byte_parts(ordered)
    return Shared(ordered, ordered.cast(pa.binary()), np.diff(offsets).astype(np.int64), ranks[codes])


def _promising(column: pa.ChunkedArray) -> bool:
    """Whether a sample has repeats, and is not of numerics."""
    step = max(1, (len(column) - _RUN) // (_RUNS - 1))
    starts = {min(run * step, max(0, len(column) - _RUN)) for run in range(_RUNS)}
    sample = pa.concat_arrays([piece for at in starts for piece in column.slice(at, _RUN).chunks])
    sample = sample.drop_null()
    if len(sample) == 0:
        return True
    if len(pc.unique(sample)) * 10 > len(sample) * 9:
        return False
    return not pa.types.is_binary(sample.type) or numeric.encode(sample) is None
