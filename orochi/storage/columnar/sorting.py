"""The order of rows in a stripe: equal series together, then by time; better codecs and pruning.

Order here is physical only: strings go by bytes, whatever the column's collation, and types that
are carried in binary form by that form. No query result depends on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from orochi import errors

#: Above this size a table is put in order piece by piece.
TAKE_BYTES = 1 << 30


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
