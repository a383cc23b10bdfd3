"""Strings of few values as numbers that are equal, and sort by bytes, as they do: Arrow groups and sorts these in less time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

#: Of fewer strings, or fewer rows a value, nothing is gained.
_ROWS, _ROWS_PER_VALUE, _VALUES = 2_000, 8, 5_000


def ranked(values: pa.ChunkedArray, *, padded: bool = False) -> pa.ChunkedArray:
    """Ranks of the strings, or the strings; NULL stays NULL.

    Args:
        values: strings.
        padded: blanks at their end mean nothing.
    """
    if len(values) >= _ROWS:
        coded = values.dictionary_encode().unify_dictionaries()
        words = coded.chunk(0).dictionary
        if len(words) <= min(_VALUES, len(values) // _ROWS_PER_VALUE):
            texts = (pc.utf8_rtrim(words, " ") if padded else words).to_pylist()
            places = {text: place for place, text in enumerate(sorted(set(texts), key=str.encode))}
            ranks = pa.array(np.array([places[text] for text in texts], np.int32))
            return pa.chunked_array([ranks.take(chunk.indices) for chunk in coded.chunks], pa.int32())
    return pc.utf8_rtrim(values, " ") if padded else values
