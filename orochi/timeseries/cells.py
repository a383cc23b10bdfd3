"""A hypertable's further dimensions by range: rows of a chunk lie by them, and stripes end where ranges do.

Ranges are as those of chunks: of `interval` raw units, counted from the Unix epoch or from 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orochi import pgtypes
from orochi.storage.columnar import writer
from orochi.timeseries import ranges

#: A stripe that ends where a range does has at least this part of the rows that one may have.
_LEAST_PART = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """A further dimension: its column, that one's base type, and the length of a range in raw units."""

    column: str
    type_oid: int
    interval: int


def order_sql(cut: Cut, column: str) -> str:
    """An SQL expression for where the range of a row lies among the others; `column` is the column, quoted.

    It is never an error: times too far away to be rounded are put at the ends.
    """
    if cut.type_oid not in pgtypes.TIMES:
        value, length = f"{column}::bigint", cut.interval
        return f"CASE WHEN {column} < 0 THEN ({value} + 1) / {length} - 1 ELSE {value} / {length} END"
    days, kind = (cut.interval, "date") if cut.type_oid == pgtypes.DATE else (0, "timestamp")
    if cut.type_oid == pgtypes.TIMESTAMPTZ:
        kind, column = "timestamp", f"({column} AT TIME ZONE 'UTC')"
    stride = f"interval '{days} days'" if days else f"interval '{cut.interval} microseconds'"
    return (
        f"CASE WHEN {column} >= {kind} '4000-01-01 BC' AND {column} < {kind} '200000-01-01'"
        f" THEN pg_catalog.date_bin({stride}, {column}::timestamp, timestamp '1970-01-01')"
        f" WHEN {column} > {kind} '2000-01-01' THEN timestamp 'infinity' ELSE timestamp '-infinity' END"
    )


def numbers(cut: Cut, values: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """The number of each value's range; values in carrier form, not null."""
    raw = values.to_numpy().astype(np.int64, copy=False)
    zero = ranges.origin(cut.type_oid)
    found: npt.NDArray[np.int64] = (np.minimum(raw, 2**63 - 1 + zero) - zero) // cut.interval
    return found


def whole(
    table: pa.Table, cuts: Sequence[Cut], options: writer.WriteOptions, *, last: bool
) -> Iterator[pa.Table]:
    """Pieces for one stripe each of rows that are in order; unless they are the `last`, without those at the end.

    A range of few rows shares a stripe with the next ones.
    """
    limit, rows, start = options.stripe_row_limit, table.num_rows, 0
    least = max(1, limit // _LEAST_PART)
    for end in (*_ends(table, cuts), rows):
        while end - start > limit:
            yield table.slice(start, limit)
            start += limit
        if end < rows and end - start >= least:
            yield table.slice(start, end - start)
            start = end
    if last:
        yield table.slice(start)


def _ends(table: pa.Table, cuts: Sequence[Cut]) -> list[int]:
    """Where rows of another range begin."""
    differ = np.zeros(max(table.num_rows - 1, 0), bool)
    for cut in cuts:
        differ |= np.diff(numbers(cut, table.column(cut.column))) != 0
    return (np.flatnonzero(differ) + 1).tolist()
