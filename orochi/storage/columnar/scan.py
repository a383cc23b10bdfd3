"""One scan of a stripe: prune by the skip list, decode only what is asked for, filter exactly.

Predicate columns are read first, the others only of chunk groups that still have a row. Columns
with a dictionary are filtered by their codes, and only surviving rows become values. Memory is
bounded by one span: chunk groups of at most `SPAN_BYTES`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from orochi import pgtypes
from orochi.storage.columnar import bloom, skiplist
from orochi.storage.columnar import format as layout
from orochi.storage.columnar import predicates as filters
from orochi.storage.compression import buffers, numeric

#: The int32 column that `with_row_numbers` adds at the end: the row's position in the stripe.
ROW_NUMBER = "orochi_row_number"

#: Chunk groups are decoded together until their arrays reach this size.
SPAN_BYTES = 128 << 20

#: Where more than this share of rows pass, whoever filters again is given all.
MOST_ROWS = 0.4


class Column(Protocol):
    """A column asked for by name and type, as `orochi.planner.fragment.OutputColumn`."""

    @property
    def name(self) -> str:
        """The column's name."""

    @property
    def type_oid(self) -> int:
        """Its PostgreSQL type, which decides the carrier when the stripe lacks the column."""


@dataclasses.dataclass(frozen=True, slots=True)
class Forms:
    """Forms other than the carrier, for engines that compute on them.

    Attributes:
        coded: columns to come as dictionary arrays. Where the stripe has a dictionary, the codes of
            all batches mean the same, in the order of bytes.
        scaled: numeric columns to come as int64, times ten to the number given. One that is no such
            integer in some batch (NaN, more decimals, 19 digits) comes in carrier form there.
        stored: columns to come as dictionary arrays where the stripe has a dictionary of few values.
        loose: rows that fail the predicates may come too, where leaving them out costs more than it saves.
    """

    coded: frozenset[str] = frozenset()
    scaled: Mapping[str, int] = dataclasses.field(default_factory=dict)
    stored: frozenset[str] = frozenset()
    loose: bool = False


class Source(Protocol):
    """What a scan reads from: a `StripeReader`."""

    footer: layout.Footer

    def column(self, column: layout.FooterColumn, groups: Sequence[int]) -> pa.Array:
        """Values of chunk groups."""

    def scaled(self, column: layout.FooterColumn, groups: Sequence[int], scale: int) -> pa.Array | None:
        """Numerics as integers."""

    def dictionary(self, column: layout.FooterColumn) -> pa.Array:
        """The column's dictionary."""

    def filters(self, column: layout.FooterColumn) -> list[buffers.Vector] | None:
        """Bloom filters."""

    def prefetch(self, columns: Iterable[layout.FooterColumn], groups: Sequence[int]) -> None:
        """Have what `column` will read."""


def decoded(array: pa.Array) -> pa.Array:
    """A dictionary array's values."""
    return array.dictionary.take(array.indices)


class Scan:
    """One scan's columns and conditions, resolved against the footer."""

    def __init__(
        self,
        reader: Source,
        columns: Sequence[str | Column],
        predicates: Sequence[filters.Predicate],
        missing: Mapping[str, pa.Scalar],
        forms: Forms,
    ) -> None:
        self._reader = reader
        self._forms = forms
        self._footer = reader.footer
        self._names = [column if isinstance(column, str) else column.name for column in columns]
        self._defaults: dict[str, pa.Scalar] = dict(missing)
        for column in columns:
            if not isinstance(column, str):
                null = pa.scalar(None, pgtypes.carrier(column.type_oid))
                self._defaults.setdefault(column.name, null)
        self._conditions = [
            (predicate.column, filters.condition(predicate, self._type(predicate.column)))
            for predicate in predicates
        ]

    def groups(self) -> list[int]:
        """The chunk groups that may hold a wanted row."""
        kept = list(range(len(self._footer.group_rows)))
        for name, condition in self._conditions:
            column = self._footer.column(name)
            if column is None:
                continue
            if not skiplist.may_hold(column.stats, condition):
                return []
            kept = [group for group in kept if skiplist.may_hold(column.chunks[group].stats, condition)]
        for name, condition in self._conditions:
            column = self._footer.column(name)
            if column is not None and kept:
                kept = self._looked_up(column, condition, kept)
        return kept

    def _looked_up(
        self, column: layout.FooterColumn, condition: filters.Condition, groups: list[int]
    ) -> list[int]:
        """Without the groups that dictionary or bloom filters rule out."""
        from orochi.storage.columnar import filter as filtering

        if not isinstance(condition, filters.Range | filters.Members):
            return groups
        if column.dictionary is not None:
            found = filtering.evaluate([(self._reader.dictionary(column), condition)])
            return groups if found is None or found.any() else []
        hashes = bloom.keys(condition, column.arrow) if column.filter is not None else None
        if hashes is None:
            return groups
        octets = self._reader.filters(column)
        return groups if octets is None else [g for g in groups if bloom.may_hold(octets[g], hashes)]

    def spans(self, groups: Sequence[int]) -> Iterator[list[int]]:
        """Consecutive groups to decode together."""
        names = {*self._names, *(name for name, _ in self._conditions)}
        columns = [column for name in names if (column := self._footer.column(name)) is not None]
        span: list[int] = []
        size = 0
        for group in groups:
            more = sum(column.chunks[group].raw_size for column in columns)
            if span and size + more > SPAN_BYTES:
                yield span
                span, size = [], 0
            span.append(group)
            size += more
        if span:
            yield span

    def batch(self, groups: list[int], with_row_numbers: bool) -> pa.RecordBatch:
        """The wanted rows of the groups."""
        read: dict[str, pa.Array] = {}
        flags = self._mask(groups, read)
        if flags is not None and self._forms.loose and np.count_nonzero(flags) > MOST_ROWS * len(flags):
            flags = None
        if flags is not None:
            groups, flags, read = self._narrow(groups, flags, read)
        self._prefetch((name for name in self._names if name not in read), groups)
        names = [*self._names, ROW_NUMBER] if with_row_numbers else self._names
        fields: list[pa.Array] = []
        chosen = None if flags is None else pa.array(np.flatnonzero(flags))
        for name in self._names:
            array = read[name] if name in read else self._values(name, groups, self._forms.scaled.get(name))
            fields.append(self._formed(name, array if chosen is None else array.take(chosen)))
        if with_row_numbers:
            numbers = self._row_numbers(groups)
            fields.append(pa.array(numbers if flags is None else numbers[flags]))
        return pa.RecordBatch.from_arrays(fields, names=names)

    def _mask(self, groups: list[int], read: dict[str, pa.Array]) -> Any:
        """Which rows of the groups pass; what was decoded for it goes into `read`."""
        from orochi.storage.columnar import filter as filtering

        conditions = []
        open_ones = [item for item in self._conditions if not self._all_hold(*item, groups)]
        self._prefetch((name for name, _ in open_ones), groups)
        for name, condition in open_ones:
            if name not in read:
                read[name] = self._values(name, groups)
            conditions.append((read[name], condition))
        return filtering.evaluate(conditions) if conditions else None

    def _prefetch(self, names: Iterable[str], groups: Sequence[int]) -> None:
        columns = (self._footer.column(name) for name in dict.fromkeys(names))
        if groups:
            self._reader.prefetch([column for column in columns if column is not None], groups)

    def _all_hold(self, name: str, condition: filters.Condition, groups: Sequence[int]) -> bool:
        column = self._footer.column(name)
        if column is None:
            return isinstance(condition, filters.Anything)
        if len(groups) == len(column.chunks) and skiplist.all_hold(column.stats, condition):
            return True
        return all(skiplist.all_hold(column.chunks[group].stats, condition) for group in groups)

    def _narrow(
        self, groups: list[int], flags: Any, read: dict[str, pa.Array]
    ) -> tuple[list[int], Any, dict[str, pa.Array]]:
        """Without the groups that have no row left."""
        rows = [self._footer.group_rows[group] for group in groups]
        starts = np.concatenate(([0], np.cumsum(rows)[:-1]))
        alive = np.add.reduceat(flags, starts, dtype=np.int64) > 0
        if alive.all():
            return groups, flags, read
        keep = np.repeat(alive, rows)
        rest = pa.array(np.flatnonzero(keep))
        kept = [group for group, lives in zip(groups, alive.tolist(), strict=True) if lives]
        return kept, flags[keep], {name: array.take(rest) for name, array in read.items()}

    def _formed(self, name: str, array: pa.Array) -> pa.Array:
        """The column in the form asked for, if it can be."""
        if name in self._forms.coded:
            return array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
        if pa.types.is_dictionary(array.type):
            if name in self._forms.stored and 2 * len(array.dictionary) <= len(array):
                return array
            array = decoded(array)
        scale = self._forms.scaled.get(name)
        if scale is None or not pa.types.is_binary(array.type):
            return array
        found = numeric.scaled(array, scale)
        return array if found is None else found

    def _values(self, name: str, groups: Sequence[int], scale: int | None = None) -> pa.Array:
        column = self._footer.column(name)
        if column is None:
            rows = sum(self._footer.group_rows[group] for group in groups)
            default = self._defaults.get(name)
            return pa.nulls(rows) if default is None else pa.repeat(default, rows)
        if not groups:
            return pa.array([], column.arrow)
        if scale is not None and pa.types.is_binary(column.arrow):
            found = self._reader.scaled(column, groups, scale)
            if found is not None:
                return found
        return self._reader.column(column, groups)

    def _row_numbers(self, groups: Sequence[int]) -> Any:
        starts = np.concatenate(([0], np.cumsum(self._footer.group_rows)))
        ranges = [np.arange(starts[group], starts[group + 1], dtype=np.int32) for group in groups]
        return np.concatenate(ranges) if ranges else np.empty(0, np.int32)

    def _type(self, name: str) -> pa.DataType:
        column = self._footer.column(name)
        if column is not None:
            return column.arrow
        default = self._defaults.get(name)
        return pa.null() if default is None else default.type


def runs(groups: Sequence[int]) -> Iterator[list[int]]:
    """Ascending numbers as runs of consecutive ones."""
    run: list[int] = []
    for group in groups:
        if run and group != run[-1] + 1:
            yield run
            run = []
        run.append(group)
    if run:
        yield run
