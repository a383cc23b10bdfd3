"""Reads stripe files: prune by the skip list, decode only what is asked for, filter exactly.

No byte is returned that a checksum has not covered: damage anywhere raises `DataCorrupted` naming
the file and the part.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np
import pyarrow as pa

from orochi import errors
from orochi.storage.columnar import bloom, bulk, chunks, encoded, files, skiplist
from orochi.storage.columnar import cache as caching
from orochi.storage.columnar import format as layout
from orochi.storage.columnar import predicates as filters
from orochi.storage.columnar.scan import ROW_NUMBER, Column, Forms, Scan, decoded, runs
from orochi.storage.columnar.writer import StripeInfo
from orochi.storage.compression import buffers, numeric, plain, registry, shared_dictionary

__all__ = ["ROW_NUMBER", "Column", "Forms", "StripeReader", "check", "verify"]

#: What decoding raises over bytes that make no sense.
_UNREADABLE = (ValueError, LookupError, OverflowError, OSError, struct.error, pa.ArrowException)


class StripeReader:
    """An open stripe. For one thread; the cache behind it is shared.

    Attributes:
        footer: the stripe's description.
        groups_total, groups_skipped: chunk groups that scans considered, and that the skip list
            ruled out.
    """

    def __init__(
        self, source: str | os.PathLike[str] | files.Source, *, cache: caching.Cache | None = None
    ) -> None:
        """Opens the stripe and reads its footer.

        Args:
            source: the stripe file, or what reads it.
            cache: where footers and decoded columns are kept; None reads the file every time.

        Raises:
            FileNotFoundError: there is no such file.
            DataCorrupted: header, footer or trailer are damaged.
        """
        self._source = files.LocalFile(source) if isinstance(source, str | os.PathLike) else source
        self._cache = cache
        self._dictionaries: dict[str, pa.Array] = {}
        self.key = self._source.key
        self.groups_total = 0
        self.groups_skipped = 0
        try:
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
        self._source.close()

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
        forms: Forms | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The rows that pass all predicates, in stripe order, with the columns asked for.

        A column that the stripe was written without has the value that `missing` gives, else
        null, typed if the column was asked for with its type. Predicates see the same values.
        Columns are in carrier form unless `forms` asks for another.

        Raises:
            DataCorrupted: a column chunk that is read is damaged.
            InvalidParameter: neither a column nor row numbers are asked for.
        """
        if not columns and not with_row_numbers:
            raise errors.InvalidParameter("a scan needs a column")
        plan = Scan(self, columns, predicates, missing or {}, forms or Forms())
        kept = self._pruned(plan, predicates)
        self.groups_total += len(self.footer.group_rows)
        self.groups_skipped += len(self.footer.group_rows) - len(kept)
        for span in plan.spans(kept):
            batch = plan.batch(span, with_row_numbers)
            if batch.num_rows:
                yield batch

    def _pruned(self, plan: Scan, predicates: Sequence[filters.Predicate]) -> list[int]:
        """The chunk groups that may hold a wanted row; the cache knows it of predicates that come again."""
        if self._cache is None or not predicates:
            return plan.groups()
        key = (self.key, "groups", tuple((item.column, item.op, item.values) for item in predicates))
        known: list[int] | None = self._cache.get(key)
        if known is not None:
            return known
        kept = plan.groups()
        self._cache.put(key, kept, 256 + 8 * len(kept) + 64 * sum(len(item.values) for item in predicates))
        return kept

    def column(self, column: layout.FooterColumn, groups: Sequence[int]) -> pa.Array:
        """The column's values in the given chunk groups (ascending), from cache or file.

        A dictionary array if the column has a dictionary; else in carrier form.
        """
        if column.dictionary is None:
            return self._kept((self.key, column.name), groups, lambda: self._decode(column, groups))
        values = self.dictionary(column)

        def codes(_: layout.ColumnChunk) -> chunks.Filler:
            return lambda data, out: shared_dictionary.decode_into(data, out, len(values))

        found = self._kept(
            (self.key, column.name),
            groups,
            lambda: self._fill(column, groups, pa.int32(), codes, distinct=len(values)),
        )
        return pa.DictionaryArray.from_arrays(found, values, safe=False)

    def encoded(self, column: layout.FooterColumn, groups: Sequence[int]) -> encoded.Encoded | None:
        """The column's chunks, not decoded; None where they cannot be used so, or a whole column is wanted again: to be kept."""
        if column.dictionary is not None or column.records is None:
            return None
        if self._cache is not None:
            kept, wanted = (self.key, column.name), (self.key, column.name, "wanted")
            whole = len(groups) == len(self.footer.group_rows)
            if self._cache.get(kept) is not None or (whole and self._cache.get(wanted)):
                return None
            if whole:
                self._cache.put(wanted, True, 256)
        return encoded.read(
            column.records, groups, column.arrow, self._read, lambda: self.column(column, groups)
        )

    def scaled(self, column: layout.FooterColumn, groups: Sequence[int], scale: int) -> pa.Array | None:
        """A numeric column's values times ten to the `scale`, as int64; None if one is no such integer, or they are codes."""
        if column.dictionary is not None:
            return None

        def fill(chunk: layout.ColumnChunk) -> chunks.Filler:
            if chunk.codec == numeric.NAME:
                return lambda data, out: numeric.fill_scaled(data, out, scale)
            codec = registry.CODECS[registry.IDS[chunk.codec]]
            return lambda data, out: numeric.scale_dense(
                codec.decode(data, len(out), column.arrow), out, scale
            )

        try:
            return self._kept(
                (self.key, column.name, scale),
                groups,
                lambda: self._fill(column, groups, pa.int64(), fill, scale=scale),
            )
        except numeric.NotScaledError:
            return None

    def dictionary(self, column: layout.FooterColumn) -> pa.Array:
        """The values that the column's codes stand for, in the order of their bytes."""
        part = column.dictionary
        if part is None:
            raise ValueError(f'column "{column.name}" has no dictionary')
        values = self._dictionaries.get(column.name)
        key = (self.key, column.name, "dictionary")
        if values is None and self._cache is not None:
            values = self._cache.get(key)
        if values is None:
            data = self._part(column, part, "dictionary")
            try:
                values = plain.decode(data, part.entries, column.arrow)
            except _UNREADABLE as error:
                self._broken(f'the dictionary of column "{column.name}"', str(error), error)
            if self._cache is not None:
                self._cache.put(key, values, values.nbytes)
        self._dictionaries[column.name] = values
        return values

    def filters(self, column: layout.FooterColumn) -> list[buffers.Vector] | None:
        """The bloom filter of each chunk group, or None if the column has none."""
        if column.filter is None:
            return None
        octets = buffers.raw(self._part(column, column.filter, "filter"))
        sizes = [bloom.size(chunk.stats.rows - chunk.stats.null_count) for chunk in column.chunks]
        if len(octets) != sum(sizes):
            self._broken(f'the filter of column "{column.name}"', "it does not fit the column chunks")
        ends = np.cumsum(sizes).tolist()
        return [octets[end - size : end] for end, size in zip(ends, sizes, strict=True)]

    def _kept(self, key: Hashable, groups: Sequence[int], decode: Callable[[], pa.Array]) -> pa.Array:
        """What the cache has of a whole column, or what `decode` makes of the groups."""
        whole = self._cache.get(key) if self._cache is not None else None
        if whole is not None:
            return self._cut(whole, groups)
        array = decode()
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
            self.filters(column)
            for chunk in column.chunks:
                array = self.column(column, (chunk.group,))
                if pa.types.is_dictionary(array.type):
                    array = decoded(array)
                if not skiplist.agree(skiplist.compute(array, column.type_oid), chunk.stats):
                    self._damaged(chunk, "its values do not have its statistics")
                checked += 1
        return checked

    def check(self) -> int:
        """Compares every part of the file with its checksum; how many column chunks there are.

        Raises:
            DataCorrupted: one is damaged.
        """
        everything = range(len(self.footer.group_rows))
        for column in self.footer.columns:
            for part, name in ((column.dictionary, "dictionary"), (column.filter, "filter")):
                if part is not None:
                    self._part(column, part, name)
            for _ in self._stored(column, everything):
                pass
        return len(everything) * len(self.footer.columns)

    def _load_footer(self) -> layout.Footer:
        footer = self._cache.get(self.key) if self._cache is not None else None
        if isinstance(footer, layout.Footer):
            return footer
        try:
            footer = self._read_footer()
        except layout.MalformedError as error:
            try:
                if not self._source.distrust():
                    raise
                footer = self._read_footer()
            except layout.MalformedError:
                raise errors.DataCorrupted(
                    f'stripe file "{self._source.name}" is corrupted', detail=f"{error}."
                ) from error
        if self._cache is not None:
            # as if all columns were looked at, each taken apart then
            self._cache.put(self.key, footer, 512 * len(footer.columns) * len(footer.group_rows) + 1024)
        return footer

    def _read_footer(self) -> layout.Footer:
        size = self._source.size
        start = max(0, size - self._source.tail)
        self._source.prefetch([(0, layout.HEADER_SIZE), (start, size - start)])
        tail = self._read(start, size - start).to_pybytes()
        header = tail if not start else self._read(0, layout.HEADER_SIZE).to_pybytes()
        layout.check_header(header[: layout.HEADER_SIZE])
        at, length, checksum = layout.read_trailer(tail[-layout.TRAILER_SIZE :], size)
        if at < start:
            tail, start = self._read(at, size - at).to_pybytes(), at
        return layout.decode_footer(tail[at - start : at - start + length], checksum, at, size)

    def prefetch(
        self, columns: Iterable[layout.FooterColumn], groups: Sequence[int], near: bool = False
    ) -> None:
        """Have what `column` or `encoded` will read of these columns, all at once, of a stripe far away (or `near`)."""
        if not (near or self._source.is_far):
            return
        ranges = []
        whole = len(groups) == len(self.footer.group_rows)
        for column in columns:
            if self._cache is not None and self._cache.get((self.key, column.name)) is not None:
                continue
            if column.dictionary is not None and not self._has_dictionary(column):
                ranges.append((column.dictionary.offset, column.dictionary.extent))
            ranges += [column.extent(run[0], run[-1]) for run in ([groups] if whole else runs(groups))]
        if ranges:
            self._source.prefetch(ranges)

    def _has_dictionary(self, column: layout.FooterColumn) -> bool:
        if column.name in self._dictionaries:
            return True
        return self._cache is not None and self._cache.get((self.key, column.name, "dictionary")) is not None

    def _read(self, offset: int, size: int) -> pa.Buffer:
        """`size` bytes of the file in the Arrow pool; fewer at its end."""
        return self._source.read(offset, size)

    def _stored(self, column: layout.FooterColumn, groups: Sequence[int]) -> Iterator[pa.Buffer]:
        """The checked bytes of each chunk; neighbours are read at once."""
        for run in runs(groups):
            first, last = column.chunks[run[0]], column.chunks[run[-1]]
            data = self._read(first.offset, last.offset + last.extent - first.offset)
            for group in run:
                chunk = column.chunks[group]
                stored = data.slice(chunk.offset - first.offset, chunk.extent)
                if not _is_sound(stored, chunk) and self._source.distrust():
                    stored = self._read(chunk.offset, chunk.extent)
                if not _is_sound(stored, chunk):
                    self._damaged(chunk, "its checksum does not match")
                yield stored

    def _part(self, column: layout.FooterColumn, part: layout.Part, name: str) -> Any:
        """A dictionary's or filter's checked bytes, decompressed."""
        stored: Any = self._read(part.offset, part.extent)
        if not _is_sound(stored, part) and self._source.distrust():
            stored = self._read(part.offset, part.extent)
        if not _is_sound(stored, part):
            self._broken(f'the {name} of column "{column.name}"', "its checksum does not match")
        stored = stored.slice(0, part.stored_size)
        if part.block == "none":
            return stored
        try:
            return registry.BLOCKS[registry.BLOCK_IDS[part.block]].decompress(stored, part.payload_size)
        except _UNREADABLE as error:
            self._broken(f'the {name} of column "{column.name}"', str(error), error)

    def _decode(self, column: layout.FooterColumn, groups: Sequence[int]) -> pa.Array:
        """The chunks as one array."""
        if buffers.dtype_of(column.arrow) is not None:
            return self._fill(column, groups, column.arrow)
        parts = [column.chunks[group] for group in groups]
        stored = self._stored(column, groups)
        arrays = [self._array(data, chunk, column) for data, chunk in zip(stored, parts, strict=True)]
        return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)

    def _fill(
        self,
        column: layout.FooterColumn,
        groups: Sequence[int],
        arrow: pa.DataType,
        fill: Callable[[layout.ColumnChunk], chunks.Filler] | None = None,
        **wanted: int,
    ) -> pa.Array:
        """Chunks as fixed-width values, straight into one buffer of the Arrow pool.

        All at once if `bulk` has a loop for them, which `wanted` says more of; else one by one.
        """
        dtype = buffers.dtype_of(arrow)
        assert dtype is not None
        parts = [column.chunks[group] for group in groups]
        rows = sum(chunk.stats.rows for chunk in parts)
        nulls = sum(chunk.stats.null_count for chunk in parts)
        buffer, out = buffers.allocate(rows, dtype)
        loop = bulk.loop_for(parts, dtype, **wanted)
        if loop is not None and self._at_once(column, groups, parts, loop, out):
            return buffers.wrap(arrow, rows, buffer)
        valid = np.ones(rows, np.bool_) if nulls else None
        at = 0
        for data, chunk in zip(self._stored(column, groups), parts, strict=True):
            end = at + chunk.stats.rows
            flags = None if valid is None else valid[at:end]
            try:
                chunks.decode_into(data, chunk, out[at:end], flags, fill(chunk) if fill else None)
            except _UNREADABLE as error:
                self._damaged(chunk, str(error), error)
            at = end
        bitmap = None if valid is None else chunks.validity(valid)
        return pa.Array.from_buffers(arrow, rows, [bitmap, buffer], nulls)

    def _at_once(
        self,
        column: layout.FooterColumn,
        groups: Sequence[int],
        parts: Sequence[layout.ColumnChunk],
        loop: bulk.Loop,
        out: buffers.Vector,
    ) -> bool:
        """Whether the loop decoded all; what it declines is damaged, or for the codecs themselves."""
        try:
            return loop(bulk.Words(self._stored(column, groups), parts), out) < 0
        except _UNREADABLE:
            return False

    def _array(self, data: pa.Buffer, chunk: layout.ColumnChunk, column: layout.FooterColumn) -> pa.Array:
        try:
            return chunks.decode(data, chunk, column.arrow)
        except _UNREADABLE as error:
            self._damaged(chunk, str(error), error)

    def _cut(self, whole: pa.Array, groups: Sequence[int]) -> pa.Array:
        starts = np.concatenate(([0], np.cumsum(self.footer.group_rows))).tolist()
        pieces = [whole.slice(starts[run[0]], starts[run[-1] + 1] - starts[run[0]]) for run in runs(groups)]
        return pieces[0] if len(pieces) == 1 else pa.concat_arrays(pieces)

    def _damaged(
        self, chunk: layout.ColumnChunk, reason: str, cause: BaseException | None = None
    ) -> NoReturn:
        self._broken(f'column chunk "{chunk.column}", group {chunk.group}', reason, cause)

    def _broken(self, place: str, reason: str, cause: BaseException | None = None) -> NoReturn:
        raise errors.DataCorrupted(
            f'stripe file "{self._source.name}" is corrupted in {place}', detail=f"{reason}."
        ) from cause


def _is_sound(stored: pa.Buffer, part: layout.Part | layout.ColumnChunk) -> bool:
    return len(stored) == part.extent and zlib.crc32(stored) == part.checksum


def verify(path: str | os.PathLike[str]) -> int:
    """Reads and decodes all of a stripe file; how many column chunks it has.

    Raises:
        DataCorrupted: a part is damaged; the message names it.
    """
    with StripeReader(path) as reader:
        return reader.verify()


def check(path: str | os.PathLike[str]) -> int:
    """Compares every byte of a stripe file with its checksums; how many column chunks it has.

    Raises:
        DataCorrupted: a part is damaged; the message names it.
    """
    with StripeReader(path) as reader:
        return reader.check()
