"""Rows that a gateway ships, written as stripes of a chunk before anyone can see them.

A file is on disk, whole, when this returns; the gateway's transaction makes it part of the chunk, or never
does. Running twice leaves files that nobody names, which the sweep removes.
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import secrets
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from orochi import settings as process_settings
from orochi.catalog import definition as definitions
from orochi.engine import coded
from orochi.storage.columnar import sorting, writer
from orochi.storage.compression import habit
from orochi.timeseries import cells, stripes

#: Distinct strings up to which their ranks are sorted in the place of them.
_MAX_RANKS = 1 << 16
#: So many stripes of a load are made alike, and so many loads are remembered.
_ALIKE, _LOADS = 16, 8


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What to write.

    Attributes:
        load: the load that the rows are of: stripes of one load are made alike.
        path: what file names begin with, below the node's stripe directory.
        columns: name and base type of every column, as the rows have them.
        order: texts of `sorting.SortKey`, the most significant first.
        options: the table's storage options.
        time_column: set where nobody said how to order: rows go by series too, if there are.
        indexed: columns by which an index leads to times.
        cuts: further dimensions by range: rows go by these first.
    """

    load: str
    path: str
    columns: tuple[tuple[str, int], ...]
    order: tuple[str, ...]
    options: dict[str, Any]
    time_column: str | None = None
    indexed: tuple[str, ...] = ()
    cuts: tuple[cells.Cut, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it crosses the queue."""
        return {
            "load": self.load,
            "path": self.path,
            "columns": [list(column) for column in self.columns],
            "order": list(self.order),
            "options": self.options,
            "time_column": self.time_column,
            "indexed": list(self.indexed),
            "cuts": [[cut.column, cut.type_oid, cut.interval] for cut in self.cuts],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Request:
        """The inverse of `to_json`."""
        columns = tuple((str(name), int(oid)) for name, oid in data["columns"])
        order, indexed = tuple(data["order"]), tuple(data["indexed"])
        options, time_column = dict(data["options"]), data["time_column"]
        cuts = tuple(cells.Cut(*cut) for cut in data["cuts"])
        return cls(data["load"], data["path"], columns, order, options, time_column, indexed, cuts)


class _Alike:
    """What stripes of a load have in common; it is found anew after some of them, as rows may change.

    Attributes:
        habits: by column, how its chunks are encoded.
        keys: the order of rows.
        left: how many stripes more are made so.
    """

    def __init__(self, request: Request, table: pa.Table) -> None:
        self.habits: dict[str, habit.Habit] = {}
        self.left = _ALIKE
        self.keys = [sorting.SortKey.parse(text) for text in request.order]
        if request.time_column is not None:
            sample = table.slice(0, stripes.SAMPLE_ROWS)
            series = sorting.series_key(sample, request.time_column, request.indexed)
            if series is not None:
                self.keys.insert(0, sorting.SortKey(series))


class _Known(threading.local):
    """The last loads that this thread wrote stripes of."""

    def __init__(self) -> None:
        self.loads: collections.OrderedDict[str, _Alike] = collections.OrderedDict()

    def of(self, request: Request, table: pa.Table) -> _Alike:
        """What the stripes of the request's load have in common."""
        found = self.loads.pop(request.load, None)
        if found is None or not found.left:
            found = _Alike(request, table)
        found.left -= 1
        self.loads[request.load] = found
        if len(self.loads) > _LOADS:
            self.loads.popitem(last=False)
        return found


_known = _Known()


def sort_keys(segmentby: Sequence[str], orderby: Sequence[str], time_column: str | None) -> tuple[str, ...]:
    """The order of a stripe's rows, as `stripes.order_terms` has it."""
    series = tuple(definitions.quote(name) for name in segmentby)
    if orderby or time_column is None:
        return (*series, *orderby)
    return (*series, definitions.quote(time_column))


def write(
    settings: process_settings.Settings, request: Request, rows: Iterator[pa.RecordBatch]
) -> list[dict[str, Any]]:
    """Write the rows as stripes; of each its path, its rows and bytes, those of its values in carrier
    form, and its column chunks for the catalog.

    Columns of strings may come as codes.
    """
    options = stripes.write_options(request.options)
    columns = [writer.StripeColumn(name, oid, -1) for name, oid in request.columns]
    table = pa.Table.from_batches(list(rows)).combine_chunks()
    alike = _known.of(request, table)
    table = _by_cuts(table, request.cuts, alike.keys)
    folder = settings.stripe_dir / pathlib.Path(request.path).parent
    folder.mkdir(parents=True, exist_ok=True)
    written: list[dict[str, Any]] = []
    pieces = cells.whole(table, request.cuts, options, last=True)
    for piece in (part for whole in pieces for part in writer.slices(whole, options)):
        path = f"{request.path}_{secrets.token_hex(6)}.stripe"
        info = writer.write_stripe(
            settings.stripe_dir / path, piece.to_batches(), columns, options, alike.habits
        )
        written.append(
            {
                "path": path,
                "row_count": info.row_count,
                "size_bytes": info.size_bytes,
                "raw_bytes": info.raw_bytes,
                "chunks": stripes.chunk_rows(info),
            }
        )
    return written


def _by_cuts(table: pa.Table, cuts: Sequence[cells.Cut], keys: Sequence[sorting.SortKey]) -> pa.Table:
    """The table sorted by the ranges of further dimensions, then by `keys`."""
    width = table.num_columns
    for number, cut in enumerate(cuts):
        table = table.append_column(
            f"orochi range {number}", pa.array(cells.numbers(cut, table.column(cut.column)))
        )
    ranges = [sorting.SortKey(name) for name in table.column_names[width:]]
    return in_order(table, [*ranges, *keys]).select(range(width))


def in_order(table: pa.Table, keys: Sequence[sorting.SortKey]) -> pa.Table:
    """The table sorted, stably; strings by their bytes."""
    if not keys or table.num_rows < 2 or table.nbytes >= sorting.TAKE_BYTES:
        return sorting.sort_rows(coded.plain_table(table), [], keys)
    ranks = [_ranks(table, key) for key in keys]
    order: npt.NDArray[np.int64] | None = None
    for values in reversed(ranks):
        if values is None:
            return sorting.sort_rows(coded.plain_table(table), [], keys)
        if order is None:
            order = np.argsort(values, kind="stable")
        else:
            order = order[np.argsort(values[order], kind="stable")]
    return pc.take(table, pa.array(order), boundscheck=False)


def _ranks(table: pa.Table, key: sorting.SortKey) -> npt.NDArray[Any] | None:
    """Numbers in the order of the column's values; None where that is not simple."""
    column = table.column(key.column)
    if key.descending or column.null_count or column.num_chunks != 1:
        return None
    array = column.chunk(0)
    if pa.types.is_integer(array.type):
        values: npt.NDArray[Any] = array.to_numpy()
        return values
    if not pa.types.is_string(array.type) and not coded.is_coded(array.type):
        return None
    encoded = array.dictionary_encode()
    words = encoded.dictionary.view(pa.binary())
    if len(words) > _MAX_RANKS:
        return None
    ranks = np.empty(len(words), np.uint16)
    ranks[pc.sort_indices(words).to_numpy()] = np.arange(len(words), dtype=np.uint16)
    found: npt.NDArray[np.uint16] = ranks[encoded.indices.to_numpy()]
    return found
