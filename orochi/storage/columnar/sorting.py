"""The order of rows in a stripe: equal series together, then by time; better codecs and pruning.

Order here is physical only: strings go by bytes, whatever the column's collation, and types that
are carried in binary form by that form. No query result depends on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from orochi import errors

#: Above this size a table is put in order piece by piece.
TAKE_BYTES = 1 << 30

#: A series has on average at least so many rows of a sample, and a sample at least so many rows.
_REPEATS = 8
_LEAST_SAMPLE = 64


@dataclasses.dataclass(frozen=True, slots=True)
class SortKey:
    """A column to order by; nulls go where PostgreSQL puts them unless told otherwise."""

    column: str
    descending: bool = False
    nulls_first: bool | None = None

    @classmethod
    def parse(cls, text: str) -> SortKey:
        """`column [asc|desc] [nulls first|last]`; the column may be double-quoted.

        Raises:
            InvalidParameter: the text is something else.
        """
        column, words = _column_and_words(text.strip())
        descending = False
        nulls_first = None
        if words[:1] in (["asc"], ["desc"]):
            descending = words[0] == "desc"
            words = words[1:]
        if words in (["nulls", "first"], ["nulls", "last"]):
            nulls_first = words[1] == "first"
            words = []
        if not column or words:
            raise errors.InvalidParameter(f'"{text}" is not a column to order by')
        return cls(column, descending, nulls_first)


def sort_rows(table: pa.Table, segmentby: Sequence[str], orderby: Sequence[SortKey | str]) -> pa.Table:
    """`table` sorted, stably, by the `segmentby` columns, then by `orderby`.

    Raises:
        UndefinedColumn: a named column is not in the table.
        InvalidParameter: an `orderby` text is malformed.
    """
    keys = [SortKey(name) for name in segmentby]
    keys.extend(SortKey.parse(key) if isinstance(key, str) else key for key in orderby)
    if not keys or table.num_rows < 2:
        return table
    for key in keys:
        if key.column not in table.column_names:
            raise errors.UndefinedColumn(f'column "{key.column}" does not exist')
    names = [str(number) for number in range(len(keys))]
    sortable = pa.table([table.column(key.column) for key in keys], names=names)
    order = pc.sort_indices(
        sortable,
        sort_keys=[(name, *_order(key)) for name, key in zip(names, keys, strict=True)],
    )
    return _take(table, order)


def series_key(sample: pa.Table, time_column: str, preferred: Collection[str] = ()) -> str | None:
    """The column that tells series apart: few values, and with the time it tells rows apart too.

    Args:
        sample: consecutive rows, in any order.
        time_column: the rows' time, not null.
        preferred: columns that lead to times in an index: they need only have few values.

    Returns:
        The preferred column, or the one with the fewest values; None when times alone tell rows
        apart, or nothing does.
    """
    rows = sample.num_rows
    times, time_count = _codes(sample.column(time_column))
    if rows < _LEAST_SAMPLE or (time_count * _REPEATS > rows * (_REPEATS - 1) and not preferred):
        return None
    best: tuple[bool, int, str] | None = None
    for name in sample.column_names:
        column = sample.column(name)
        if name == time_column or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type):
            continue
        codes, count = _codes(column)
        if count < 2 or count * _REPEATS > rows:
            continue
        pairs = np.sort(codes * (time_count + 1) + times)
        distinct = int(np.count_nonzero(pairs[1:] != pairs[:-1])) + 1
        if name in preferred or distinct * 100 >= rows * 99:
            candidate = (name not in preferred, count, name)
            best = candidate if best is None else min(best, candidate)
    return None if best is None else best[2]


def _codes(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], int]:
    """A number for each distinct value, 0 for null, and how many values there are."""
    encoded = pa.concat_arrays(column.chunks).dictionary_encode()
    codes = encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    # a dictionary that came with the rows has values of other rows too
    return codes + 1, int(np.count_nonzero(np.bincount(codes + 1, minlength=1)[1:]))


def _take(table: pa.Table, order: pa.Array) -> pa.Table:
    """`table.take(order)`, in pieces when 32-bit offsets could not hold one column's bytes."""
    if table.nbytes < TAKE_BYTES:
        return table.take(order)
    wide = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}
    source = table.cast(
        pa.schema([field.with_type(wide.get(field.type, field.type)) for field in table.schema])
    )
    step = max(1, table.num_rows * (TAKE_BYTES // 4) // table.nbytes)
    pieces = [source.take(order.slice(at, step)).cast(table.schema) for at in range(0, len(order), step)]
    return pa.concat_tables(pieces)


def _order(key: SortKey) -> tuple[str, str]:
    nulls_first = key.descending if key.nulls_first is None else key.nulls_first
    return (
        "descending" if key.descending else "ascending",
        "at_start" if nulls_first else "at_end",
    )


def _column_and_words(text: str) -> tuple[str, list[str]]:
    """A leading, possibly quoted, identifier and the lower-case words after it."""
    if not text.startswith('"'):
        first, _, rest = text.partition(" ")
        return first.lower(), rest.lower().split()
    name = ""
    at = 1
    while at < len(text):
        if text[at] == '"':
            if text[at + 1 : at + 2] != '"':
                return name, text[at + 1 :].lower().split()
            at += 1
        name += text[at]
        at += 1
    return "", []
