"""Strings of a load that come again: words, numbered in the order in which they came.

A column keeps its words from piece to piece, so that codes mean the same in all pieces. One with too many
words is better off as strings, and stays so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orochi.engine.kernels import textfast

Vector = npt.NDArray[Any]

#: Words of a column at most, so that codes are int16, and their bytes.
MOST_WORDS, MOST_BYTES = 1 << 14, 1 << 18
#: A word comes on average so often, after the first few.
_REPEATS, _FEW = 8, 256


class Words:
    """One column's words so far."""

    def __init__(self) -> None:
        self._table = np.full(2 * MOST_WORDS, -1, np.int32)
        self._bounds = np.zeros(MOST_WORDS + 1, np.int32)
        self._keys = np.empty((MOST_WORDS, 2), np.uint64)
        self._bytes = np.empty(MOST_BYTES, np.uint8)
        self._count = 0
        self._rows = 0
        self._values = pa.array([], pa.string())

    def array(
        self,
        data: Vector,
        starts: Vector,
        ends: Vector,
        valid: Vector,
        validity: pa.Buffer | None,
        nulls: int,
    ) -> pa.DictionaryArray | None:
        """Fields as codes into all words so far; None if they are too many or too long, or have quotes in them."""
        if (valid == 2).any():
            return None
        codes = np.empty(len(starts), np.int16)
        count = textfast.codes(
            data,
            starts,
            ends,
            valid,
            self._table,
            self._keys,
            self._count,
            self._bounds,
            self._bytes,
            codes,
        )
        self._rows += len(starts) - nulls
        if count < 0 or count > _FEW + self._rows // _REPEATS:
            return None
        if count != self._count:
            self._count = int(count)
            size = int(self._bounds[count])
            self._values = pa.StringArray.from_buffers(
                self._count,
                pa.py_buffer(self._bounds[: count + 1].copy()),
                pa.py_buffer(self._bytes[:size].copy()),
            )
        held = pa.Array.from_buffers(pa.int16(), len(codes), [validity, pa.py_buffer(codes)], nulls)
        return pa.DictionaryArray.from_arrays(held, self._values, safe=False)
