"""Reads stripe files: prune by the skip list, decode only what is asked for, filter exactly.

No byte is returned that a checksum has not covered: damage anywhere raises `DataCorrupted` naming
the file and the part. A scan reads predicate columns first, and the other columns only of chunk
groups that still have a row. Memory is bounded by one span: chunk groups of at most `SPAN_BYTES`.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self

import numpy as np
import pyarrow as pa

from orochi import errors, pgtypes
from orochi.storage.columnar import cache as caching
from orochi.storage.columnar import chunks, skiplist
from orochi.storage.columnar import format as layout
from orochi.storage.columnar import predicates as filters
from orochi.storage.columnar.writer import StripeInfo
from orochi.storage.compression import buffers

#: The int32 column that `with_row_numbers` adds at the end: the row's position in the stripe.
ROW_NUMBER = "orochi_row_number"

#: Chunk groups are decoded together until their arrays reach this size.
SPAN_BYTES = 128 << 20

_TAIL_BYTES = 64 << 10

#: What decoding raises over bytes that make no sense.
_UNREADABLE = (ValueError, LookupError, OverflowError, OSError, struct.error, pa.ArrowException)


class Column(Protocol):
    """A column asked for by name and type, as `orochi.planner.fragment.OutputColumn`."""

    @property
    def name(self) -> str:
        """The column's name."""

    @property
    def type_oid(self) -> int:
        """Its PostgreSQL type, which decides the carrier when the stripe lacks the column."""


class StripeReader:
    """An open stripe. For one thread; the cache behind it is shared.

    Attributes:
        footer: the stripe's description.
        groups_total, groups_skipped: chunk groups that scans considered, and that the skip list
            ruled out.
    """

    def __init__(self, path: str | os.PathLike[str], *, cache: caching.Cache | None = None) -> None:
        """Opens the file and reads its footer.

        Args:
            path: the stripe file.
            cache: where footers and decoded columns are kept; None reads the file every time.

        Raises:
            FileNotFoundError: there is no such file.
            DataCorrupted: header, footer or trailer are damaged.
        """
        self._path = os.fspath(path)
        self._cache = cache
        self._descriptor: int | None = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self.groups_total = 0
        self.groups_skipped = 0
        try:
            self._key = caching.file_key(os.fstat(self._descriptor))
            self.footer = self._load_footer()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; a second time does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    @property
    def row_count(self) -> int:
        """Rows in the stripe."""
        return self.footer.row_count

    def info(self) -> StripeInfo:
        """What `write_stripe` returned when the stripe was written."""
        return StripeInfo.of(self.footer)

    def scan(
        self,
        columns: Sequence[str | Column],
        predicates: Sequence[filters.Predicate] = (),
        with_row_numbers: bool = False,
        missing: Mapping[str, pa.Scalar] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The rows that pass all predicates, in stripe order, with the columns asked for.

        A column that the stripe was written without has the value that `missing` gives, else
        null, typed if the column was asked for with its type. Predicates see the same values.

        Raises:
            DataCorrupted: a column chunk that is read is damaged.
            InvalidParameter: neither a column nor row numbers are asked for.
        """
        if not columns and not with_row_numbers:
            raise errors.InvalidParameter("a scan needs a column")
        scan = _Scan(self, columns, predicates, missing or {})
        kept = scan.groups()
        self.groups_total += len(self.footer.group_rows)
        self.groups_skipped += len(self.footer.group_rows) - len(kept)
        for span in scan.spans(kept):
            batch = scan.batch(span, with_row_numbers)
            if batch.num_rows:
                yield batch

    def column(self, column: layout.FooterColumn, groups: Sequence[int]) -> pa.Array:
        """The column's values in the given chunk groups (ascending), from cache or file."""
        key = (self._key, column.name)
        whole = self._cache.get(key) if self._cache is not None else None
        if whole is not None:
            return self._cut(whole, groups)
        array = self._decode(column, groups)
        if self._cache is not None and len(groups) == len(self.footer.group_rows):
            self._cache.put(key, array, array.nbytes)
        return array

    def verify(self) -> int:
        """Reads and decodes every column chunk, comparing with its statistics; how many there were.

        Raises:
            DataCorrupted: one is damaged.
        """
        checked = 0
        for column in self.footer.columns:
            for chunk in column.chunks:
                array = self._decode(column, (chunk.group,))
                if not skiplist.agree(skiplist.compute(array, column.type_oid), chunk.stats):
                    self._damaged(chunk, "its values do not have its statistics")
                checked += 1
        return checked

    def _load_footer(self) -> layout.Footer:
        footer = self._cache.get(self._key) if self._cache is not None else None
        if isinstance(footer, layout.Footer):
            return footer
        size = self._key[2]
        try:
            layout.check_header(self._read(0, layout.HEADER_SIZE).to_pybytes())
            start = max(0, size - _TAIL_BYTES)
            tail = self._read(start, size - start).to_pybytes()
            at, length, checksum = layout.read_trailer(tail[-layout.TRAILER_SIZE :], size)
            if at < start:
                tail, start = self._read(at, size - at).to_pybytes(), at
            footer = layout.decode_footer(tail[at - start :][:length], checksum, at, size)
        except layout.MalformedError as error:
            raise errors.DataCorrupted(
                f'stripe file "{self._path}" is corrupted', detail=f"{error}."
            ) from error
        if self._cache is not None:
            self._cache.put(self._key, footer, 512 * sum(len(c.chunks) for c in footer.columns) + 1024)
        return footer

    def _read(self, offset: int, size: int) -> pa.Buffer:
        """`size` bytes of the file in the Arrow pool; fewer at its end."""
        if self._descriptor is None:
            raise ValueError("the stripe is closed")
        buffer = pa.allocate_buffer(size)
        view = memoryview(buffer)
        done = 0
        while done < size:
            got = os.preadv(self._descriptor, [view[done:]], offset + done)
            if got == 0:
                return buffer.slice(0, done)
            done += got
        return buffer

    def _stored(self, column: layout.FooterColumn, groups: Sequence[int]) -> Iterator[pa.Buffer]:
        """The checked bytes of each chunk; neighbours are read at once."""
        for run in _runs(groups):
            first, last = column.chunks[run[0]], column.chunks[run[-1]]
            data = self._read(first.offset, last.offset + last.extent - first.offset)
            for group in run:
                chunk = column.chunks[group]
                stored = data.slice(chunk.offset - first.offset, chunk.extent)
                if len(stored) != chunk.extent or zlib.crc32(stored) != chunk.checksum:
                    self._damaged(chunk, "its checksum does not match")
                yield stored

    def _decode(self, column: layout.FooterColumn, groups: Sequence[int]) -> pa.Array:
        """The chunks as one array; fixed-width values go straight into one buffer."""
        dtype = buffers.dtype_of(column.arrow)
        stored = self._stored(column, groups)
        parts = [column.chunks[group] for group in groups]
        if dtype is None:
            arrays = [self._array(data, chunk, column) for data, chunk in zip(stored, parts, strict=True)]
            return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)
        rows = sum(chunk.stats.rows for chunk in parts)
        nulls = sum(chunk.stats.null_count for chunk in parts)
        buffer, out = buffers.allocate(rows, dtype)
        valid = np.ones(rows, np.bool_) if nulls else None
        at = 0
        for data, chunk in zip(stored, parts, strict=True):
            end = at + chunk.stats.rows
            try:
                chunks.decode_into(data, chunk, out[at:end], None if valid is None else valid[at:end])
            except _UNREADABLE as error:
                self._damaged(chunk, str(error), error)
            at = end
        bitmap = None if valid is None else chunks.validity(valid)
        return pa.Array.from_buffers(column.arrow, rows, [bitmap, buffer], nulls)

    def _array(self, data: pa.Buffer, chunk: layout.ColumnChunk, column: layout.FooterColumn) -> pa.Array:
        try:
            return chunks.decode(data, chunk, column.arrow)
        except _UNREADABLE as error:
            self._damaged(chunk, str(error), error)

    def _cut(self, whole: pa.Array, groups: Sequence[int]) -> pa.Array:
        starts = np.concatenate(([0], np.cumsum(self.footer.group_rows))).tolist()
        pieces = [whole.slice(starts[run[0]], starts[run[-1] + 1] - starts[run[0]]) for run in _runs(groups)]
        return pieces[0] if len(pieces) == 1 else pa.concat_arrays(pieces)

    def _damaged(
        self, chunk: layout.ColumnChunk, reason: str, cause: BaseException | None = None
    ) -> NoReturn:
        raise errors.DataCorrupted(
            f'stripe file "{self._path}" is corrupted in column chunk "{chunk.column}", group {chunk.group}',
            detail=f"{reason}.",
        ) from cause


class _Scan:
    """One scan's columns and conditions, resolved against the footer."""

    def __init__(
        self,
        reader: StripeReader,
        columns: Sequence[str | Column],
        predicates: Sequence[filters.Predicate],
        missing: Mapping[str, pa.Scalar],
    ) -> None:
        self._reader = reader
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
        return kept

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
        if flags is not None:
            groups, flags, read = self._narrow(groups, flags, read)
        names = [*self._names, ROW_NUMBER] if with_row_numbers else self._names
        fields: list[pa.Array] = []
        chosen = None if flags is None else pa.array(np.flatnonzero(flags))
        for name in self._names:
            array = read[name] if name in read else self._values(name, groups)
            fields.append(array if chosen is None else array.take(chosen))
        if with_row_numbers:
            numbers = self._row_numbers(groups)
            fields.append(pa.array(numbers if flags is None else numbers[flags]))
        return pa.RecordBatch.from_arrays(fields, names=names)

    def _mask(self, groups: list[int], read: dict[str, pa.Array]) -> Any:
        """Which rows of the groups pass; what was decoded for it goes into `read`."""
        from orochi.storage.columnar import filter as filtering

        conditions = []
        for name, condition in self._conditions:
            if self._all_hold(name, condition, groups):
                continue
            if name not in read:
                read[name] = self._values(name, groups)
            conditions.append((read[name], condition))
        return filtering.evaluate(conditions) if conditions else None

    def _all_hold(self, name: str, condition: filters.Condition, groups: Sequence[int]) -> bool:
        column = self._footer.column(name)
        if column is None:
            return isinstance(condition, filters.Anything)
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

    def _values(self, name: str, groups: Sequence[int]) -> pa.Array:
        column = self._footer.column(name)
        if column is None:
            rows = sum(self._footer.group_rows[group] for group in groups)
            default = self._defaults.get(name)
            return pa.nulls(rows) if default is None else pa.repeat(default, rows)
        if not groups:
            return pa.array([], column.arrow)
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


def verify(path: str | os.PathLike[str]) -> int:
    """Checks every byte of a stripe file; how many column chunks it has.

    Raises:
        DataCorrupted: a part is damaged; the message names it.
    """
    with StripeReader(path) as reader:
        return reader.verify()


def _runs(groups: Sequence[int]) -> Iterator[list[int]]:
    """Ascending numbers as runs of consecutive ones."""
    run: list[int] = []
    for group in groups:
        if run and group != run[-1] + 1:
            yield run
            run = []
        run.append(group)
    if run:
        yield run
