"""Writes stripe files: encode, write under a temporary name, fsync, publish by link, fsync the folder.

A stripe appears under its name complete or not at all, and an existing file is never replaced.
What a crash leaves behind is a temporary file that `is_temporary` tells apart.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence

import pyarrow as pa

from orochi import errors, pgtypes
from orochi.storage.columnar import bloom, chunks, dictionaries, skiplist
from orochi.storage.columnar import format as layout
from orochi.storage.columnar.format import StripeColumn
from orochi.storage.compression import buffers, chooser, habit, plain, registry

__all__ = [
    "StripeColumn",
    "StripeInfo",
    "WriteOptions",
    "is_temporary",
    "slices",
    "write_stripe",
]

#: A chunk group, and a piece that `slices` gives, is cut when its values pass this many bytes:
#: offsets of strings are 32 bits wide, and a reader holds a group in memory.
GROUP_BYTES = 64 << 20
STRIPE_BYTES = 1 << 30

_TEMPORARY = ".tmp"


@dataclasses.dataclass(frozen=True, slots=True)
class WriteOptions:
    """How to lay out and compress a stripe.

    Attributes:
        compression: `auto`, `zstd`, `lz4` or `none`: the block compressor over the codecs; or the codec
            that every column must use whose type it fits.
        level: Zstandard's level.
        codecs: column name to what `compression` is for that column.
    """

    compression: str = "auto"
    level: int = 3
    stripe_row_limit: int = 150_000
    chunk_group_row_limit: int = 10_000
    codecs: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for named in (self.compression, *self.codecs.values()):
            if named not in chooser.COMPRESSIONS and named not in registry.CODEC_IDS:
                known = (*chooser.COMPRESSIONS, *sorted(registry.CODEC_IDS))
                raise errors.InvalidParameter(
                    f'unknown compression "{named}"', hint=f"It is one of {', '.join(known)}."
                )
        if not 1 <= self.level <= 19:
            raise errors.InvalidParameter("compression level must be between 1 and 19")
        if not 1 <= self.chunk_group_row_limit <= self.stripe_row_limit <= 10_000_000:
            raise errors.InvalidParameter("row limits must satisfy 1 <= chunk group <= stripe <= 10,000,000")

    def of(self, column: StripeColumn) -> tuple[str | None, str]:
        """The codec a column must use, if any, and its block compressor."""
        named = self.codecs.get(column.name)
        block = self.compression if self.compression in chooser.COMPRESSIONS else "auto"
        if named in chooser.COMPRESSIONS:
            return None, str(named)
        if named is None and self.compression in registry.CODEC_IDS:
            fits = self.compression in chooser.fitting(pgtypes.carrier(column.type_oid))
            return (self.compression if fits else None), block
        return named, block


@dataclasses.dataclass(frozen=True, slots=True)
class StripeInfo:
    """What the catalog keeps of a stripe; `chunks` column after column, group after group."""

    row_count: int
    size_bytes: int
    raw_bytes: int
    group_rows: tuple[int, ...]
    chunks: tuple[layout.ColumnChunk, ...]

    @classmethod
    def of(cls, footer: layout.Footer) -> StripeInfo:
        """The same from a footer."""
        found = tuple(chunk for column in footer.columns for chunk in column.chunks)
        raw = sum(chunk.raw_size for chunk in found)
        return cls(footer.row_count, footer.size_bytes, raw, footer.group_rows, found)


def write_stripe(
    path: str | os.PathLike[str],
    batches: Iterable[pa.RecordBatch],
    columns: Sequence[StripeColumn],
    options: WriteOptions | None = None,
    habits: MutableMapping[str, habit.Habit] | None = None,
) -> StripeInfo:
    """Writes all rows of `batches`, in their order, as one stripe at `path`.

    Batches hold carrier arrays of `columns`, or codes for them, matched by position. The folder must exist.
    With `habits`, by column, codecs are kept from chunk group to chunk group, and from stripe to stripe:
    encoding takes a third of the time.

    Raises:
        FileExistsError: there is a file at `path`; it is left as it is.
        InvalidParameter: the batches do not fit the columns, or are more than a stripe holds.
    """
    options = options or WriteOptions()
    table = _table(batches, columns)
    if table.num_rows > options.stripe_row_limit:
        raise errors.InvalidParameter(
            f"{table.num_rows} rows exceed the stripe row limit of {options.stripe_row_limit}"
        )
    groups = list(_pieces(table, options.chunk_group_row_limit, GROUP_BYTES))
    target = pathlib.Path(path)
    with _published(target) as write:
        write(layout.header())
        at = layout.HEADER_SIZE
        described = []
        for index, column in enumerate(columns):
            choose: Callable[..., chooser.Encoded] = chooser.encode
            if habits is not None:
                choose = habits.setdefault(column.name, habit.Habit()).encode
            pieces = [group.column(index) for group in groups]
            found = _column(column, pieces, at, options, choose, write)
            at = found.end
            described.append(found.footer)
        group_rows = tuple(group.num_rows for group in groups)
        footer = layout.encode_footer(group_rows, described)
        tail = layout.trailer(footer)
        write(footer)
        write(tail)
    size = at + len(footer) + len(tail)
    return StripeInfo.of(layout.Footer(table.num_rows, group_rows, tuple(described), size))


def slices(table: pa.Table, options: WriteOptions | None = None) -> Iterator[pa.Table]:
    """Consecutive pieces of `table`, each fit to be one stripe by rows and by bytes."""
    limit = (options or WriteOptions()).stripe_row_limit
    return _pieces(table, limit, STRIPE_BYTES)


def is_temporary(name: str) -> bool:
    """Whether a file of this name was being written and never published."""
    return name.startswith(".") and name.endswith(_TEMPORARY)


def _table(batches: Iterable[pa.RecordBatch], columns: Sequence[StripeColumn]) -> pa.Table:
    """The batches as one table, checked against the columns."""
    names = [column.name for column in columns]
    if not columns or len(set(names)) != len(names):
        raise errors.InvalidParameter("a stripe needs columns with distinct names")
    schema = pa.schema([(column.name, pgtypes.carrier(column.type_oid)) for column in columns])
    checked = []
    for batch in batches:
        kinds = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in batch.schema.types]
        if kinds != schema.types:
            raise errors.InvalidParameter(
                "a batch does not fit the stripe's columns",
                detail=f"Expected {schema.types}, got {batch.schema.types}.",
            )
        checked.append(pa.RecordBatch.from_arrays(batch.columns, names=names))
    return pa.Table.from_batches(checked, None if checked else schema)


def _pieces(table: pa.Table, row_limit: int, byte_limit: int) -> Iterator[pa.Table]:
    """Consecutive slices of at most `row_limit` rows, halved while over `byte_limit` bytes."""
    start = 0
    while start < table.num_rows:
        piece = table.slice(start, row_limit)
        while piece.num_rows > 1 and piece.nbytes > byte_limit:
            piece = piece.slice(0, piece.num_rows // 2)
        yield piece
        start += piece.num_rows


@dataclasses.dataclass(frozen=True, slots=True)
class _Written:
    """A column in the file, and where the next one begins."""

    footer: layout.FooterColumn
    end: int


def _column(
    column: StripeColumn,
    groups: Sequence[pa.ChunkedArray],
    at: int,
    options: WriteOptions,
    choose: Callable[..., chooser.Encoded],
    write: Callable[[bytes], int],
) -> _Written:
    """Write a column: its dictionary, its chunks, its filter."""
    arrow = pgtypes.carrier(column.type_oid)
    pieces = [piece for group in groups for piece in group.chunks]
    whole = pa.chunked_array(pieces, pieces[0].type if pieces else arrow)
    codec, block = options.of(column)
    options = dataclasses.replace(options, compression=block, codecs={})
    shared = None if codec is not None else dictionaries.build(whole)
    if shared is None and pa.types.is_dictionary(whole.type):
        whole, groups = whole.cast(arrow), [group.cast(arrow) for group in groups]
    table = None
    if shared is not None:
        stored, table = _part(plain.pack(shared.values), len(shared.values), at, options)
        write(stored)
        at += table.extent
    written: list[layout.ColumnChunk] = []
    row = 0
    for number, group in enumerate(groups):
        if shared is None:
            array = pa.concat_arrays(group.chunks)
            found = chunks.encode(
                array, column.type_oid, compression=block, level=options.level, codec=codec, choose=choose
            )
            raw = array.nbytes
        else:
            codes = shared.codes[row : row + len(group)]
            row += len(group)
            facts = shared.facts(codes)
            found = chunks.encode_codes(
                codes, facts, shared.values, column.type_oid, compression=block, level=options.level
            )
            raw = facts.raw_bytes(len(codes))
        stored, chunk = _described(found, column, number, at, raw)
        write(stored)
        at += chunk.extent
        written.append(chunk)
    parts = [chunk.stats for chunk in written]
    filters = None
    if shared is None and bloom.wanted(whole, column.type_oid, parts, sum(c.extent for c in written)):
        octets = b"".join(bloom.build(pa.concat_arrays(group.chunks)) for group in groups)
        stored, filters = _part(octets, len(groups), at, dataclasses.replace(options, compression="none"))
        write(stored)
        at += filters.extent
    listed = tuple(written)
    footer = layout.FooterColumn(
        column.name, column.type_oid, column.typmod, arrow, lambda: listed, table, filters
    )
    return _Written(footer, at)


def _part(data: bytes, entries: int, offset: int, options: WriteOptions) -> tuple[bytes, layout.Part]:
    """A dictionary or filter as stored bytes, and what the footer says of it."""
    encoded = chooser.store(data, plain.ID, compression=options.compression, level=options.level)
    stored = bytes(encoded.data)
    size = len(stored)
    stored += bytes(buffers.pad(size))
    block = registry.BLOCK_NAMES[encoded.block]
    return stored, layout.Part(offset, size, encoded.payload_size, zlib.crc32(stored), entries, block)


def _described(
    found: tuple[bytes, chooser.Encoded, skiplist.Stats],
    column: StripeColumn,
    group: int,
    offset: int,
    raw_bytes: int,
) -> tuple[bytes, layout.ColumnChunk]:
    """A chunk's bytes, and what the footer says of it."""
    stored, encoded, stats = found
    return stored, layout.ColumnChunk(
        column=column.name,
        group=group,
        offset=offset,
        stored_size=len(encoded.data),
        payload_size=encoded.payload_size,
        raw_size=raw_bytes,
        checksum=zlib.crc32(stored),
        codec=registry.NAMES[encoded.codec],
        block=registry.BLOCK_NAMES[encoded.block],
        stats=stats,
    )


@contextlib.contextmanager
def _published(target: pathlib.Path) -> Iterator[Callable[[bytes], int]]:
    """A function that writes to a file which gets its name only if the body succeeds."""
    with publishing(target) as temporary, temporary.open("xb") as file:
        yield file.write
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def publishing(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """The path of a file to write and fsync, which becomes `target` only if the body succeeds.

    Raises:
        FileExistsError: there is a file at `target`; it is left as it is.
    """
    if target.exists():
        raise FileExistsError(f"stripe file {target} exists")
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}{_TEMPORARY}")
    try:
        yield temporary
        os.link(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _sync_folder(folder: pathlib.Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
