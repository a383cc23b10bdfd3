"""The last point of each series in stripes: newest stripes first, and no stripe that cannot hold a newer one.

First only keys and order values are read, to find for each key the stripe and row that is wanted; then of
these rows the other columns, from the chunk groups that hold them. Stripes do not change, so the cache keeps of each
its own best rows, and the columns of those that were wanted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from orochi import errors
from orochi.engine import contract, copybinary, fused, grouping, native, shapes, stripes
from orochi.engine.kernels import grouping as kernels
from orochi.storage.columnar import cache, reader
from orochi.storage.compression import buffers

#: What the cache is charged for a key with its value and row.
_POINT_BYTES = 160
#: Whole numbers so close together are few, whichever of them there are.
_FEW_KEYS = 20_000


def of_stripes(
    shape: shapes.Shape,
    scan: contract.Scan,
    outputs: Sequence[contract.OutputColumn],
    stripe_dir: pathlib.Path,
    deleted: Mapping[int, np.ndarray],
    counters: stripes.Counters,
    cancelled: contract.Cancelled,
    kept: cache.Cache | None = None,
) -> list[pa.RecordBatch]:
    """One row of each key, the best of all stripes, as the fragment's columns.

    `kept` has footers, decoded columns and best rows; None is the process's.

    Raises:
        Unsupported: the order column has nulls, or a file has not the columns.
        StalePlan: a stripe's file is gone.
        QueryCanceled: `cancelled` said so.
        DataCorrupted: a file is damaged.
    """
    with contextlib.ExitStack() as opened:
        search = _Search(shape, scan, stripe_dir, cancelled, kept or cache.shared(), opened)
        found = _Found()
        for at in search.order:
            if cancelled():
                raise errors.QueryCanceled("canceling statement due to user request")
            groups = len(search.sources[at].footer.group_rows)
            counters.total += groups
            if found.covers(search.keys(at), search.promises[at]):
                counters.skipped += groups
                continue
            points, skipped = search.points(at, deleted.get(scan.stripes[at].stripe_id))
            counters.skipped += skipped
            found.take(at, points)
        return list(_fetched(found, search, outputs))


def weight(
    shape: shapes.Shape, scan: contract.Scan, stripe_dir: pathlib.Path, kept: cache.Cache, enough: int
) -> int:
    """About how many column chunks `of_stripes` would decode; it is not counted beyond `enough`.

    Raises:
        FileNotFoundError, StalePlan: a stripe is not here.
        Unsupported: `of_stripes` would decline.
        DataCorrupted: a footer is damaged.
    """
    with contextlib.ExitStack() as opened:
        search = _Search(shape, scan, stripe_dir, lambda: False, kept, opened)
        found, total = _Found(), 0
        for at in search.order:
            keys, promise = search.keys(at), search.promises[at]
            if found.covers(keys, promise):
                continue
            points = search.known(at)
            if points is None:
                total += search.unread(at)
                count = len(keys or ())
                points = _Points(tuple(keys or ()), (promise,) * count, np.zeros(count, np.int64))
            if total > enough:
                break
            found.take(at, points)
        return total


@dataclasses.dataclass(frozen=True, slots=True)
class _Points:
    """The best rows of one stripe: keys, their order values, of which a smaller one is worse, and row numbers."""

    keys: tuple[Any, ...]
    values: tuple[int, ...]
    rows: np.ndarray


class _Search:
    """The stripes of a scan, open.

    Attributes:
        promises: the best order value that each stripe can hold.
        order: the stripes' positions, the most promising first.
    """

    def __init__(
        self,
        shape: shapes.Shape,
        scan: contract.Scan,
        stripe_dir: pathlib.Path,
        cancelled: contract.Cancelled,
        kept: cache.Cache,
        opened: contextlib.ExitStack,
    ) -> None:
        assert shape.best is not None
        types = {column.name: column.type_oid for column in scan.columns}
        (key,) = shape.keys
        self.shape, self.cache = shape, kept
        self._key, self._best = key.column, shape.best
        self._sign = 1 if shape.best.descending else -1
        self._work = fused.Work(shape, frozenset({key.column}), types, stripe_dir, cancelled, kept)
        # what is searched is far more than what is found: it would drive that out of the cache
        self._reading = fused.Work(
            shape, frozenset({key.column}), types, stripe_dir, cancelled, cache.Unfilled(kept)
        )
        self._stripes = scan.stripes
        self.sources = [opened.enter_context(self._work.open(stripe)) for stripe in scan.stripes]
        self.promises = [self._promise(source) for source in self.sources]
        self.order = sorted(range(len(self.sources)), key=self.promises.__getitem__, reverse=True)

    def _promise(self, source: reader.StripeReader) -> int:
        column = source.footer.column(self._best.column)
        if column is None or column.stats.null_count:
            raise native.Unsupported("an order column with nulls")
        bound = column.stats.maximum if self._best.descending else column.stats.minimum
        if bound is None:
            raise native.Unsupported("an order column without bounds")
        return self._sign * int(bound)

    def keys(self, at: int) -> frozenset[Any] | None:
        """The keys that a stripe may hold; None where its footer does not tell."""
        source = self.sources[at]
        column = source.footer.column(self._key)
        if column is None or column.dictionary is None:
            points = self.known(at)
            return None if points is None else frozenset(points.keys)
        name = (source.key, self._key, "keys")
        known: frozenset[Any] | None = self.cache.get(name)
        if known is None:
            known = frozenset([*source.dictionary(column).to_pylist(), *[None][: column.stats.null_count]])
            self.cache.put(name, known, _POINT_BYTES * len(known))
        return known

    def known(self, at: int) -> _Points | None:
        """A stripe's best rows where the cache has them, of all its rows."""
        found: _Points | None = self.cache.get(self._name(at)) if self._is_whole(at) else None
        return found

    def unread(self, at: int) -> int:
        """About how many column chunks of a stripe have to be decoded."""
        groups, left = fused.Stripe(self._work, self.sources[at], None).pruned()
        searched = len({self._key, self._best.column, *(name for name, _ in left)})
        keys = self.keys(at)
        if keys is not None:
            holding = min(len(groups), len(keys))
        else:  # all stripes are searched, and few are the newest that hold a key
            holding = 0 if self._has_few_keys(at) and at != self.order[0] else len(groups)
        return len(groups) * searched + holding * len(self.shape.outputs)

    def _has_few_keys(self, at: int) -> bool:
        column = self.sources[at].footer.column(self._key)
        if column is None:
            return True
        low, high = column.stats.minimum, column.stats.maximum
        return isinstance(low, int) and isinstance(high, int) and high - low < _FEW_KEYS

    def points(self, at: int, gone: np.ndarray | None) -> tuple[_Points, int]:
        """A stripe's best rows but for those that are `gone`; how many chunk groups were ruled out."""
        known = self.known(at)
        if known is not None and (gone is None or not np.isin(known.rows, gone).any()):
            return known, 0
        with self.reading(at) as source:
            found, skipped = self._look(fused.Stripe(self._reading, source, gone))
        if gone is None and self._is_whole(at):
            self.cache.put(self._name(at), found, _POINT_BYTES * len(found.keys))
        return found, skipped

    def reading(self, at: int) -> reader.StripeReader:
        """A stripe opened once more, which leaves nothing in the cache."""
        return self._reading.open(self._stripes[at])

    def _is_whole(self, at: int) -> bool:
        """Whether the conditions leave all rows of a stripe."""
        groups, left = fused.Stripe(self._work, self.sources[at], None).pruned()
        return not left and len(groups) == len(self.sources[at].footer.group_rows)

    def _name(self, at: int) -> Hashable:
        return self.sources[at].key, "best", self._key, self._best.column, self._best.descending

    def _look(self, stripe: fused.Stripe) -> tuple[_Points, int]:
        groups, kept, skipped = stripe.wanted()
        if not groups:
            return _Points((), (), np.empty(0, np.int64)), skipped
        codes = stripe.codes(self._key, groups)
        values = np.ascontiguousarray(buffers.values(stripe.raw(self._best.column, groups)), np.int64)
        cells = np.zeros(len(values), np.int32) if kept is None else np.where(kept, 0, -1).astype(np.int32)
        count = len(codes.dictionary) + 1
        indices = codes.indices.fill_null(count - 1) if codes.indices.null_count else codes.indices
        kernels.fold_codes(buffers.values(indices), count, cells)
        rows = np.full(count, -1, np.int64)
        kernels.best_rows(cells, values, self._best.descending, rows)
        found = np.flatnonzero(rows >= 0)
        chosen, names = rows[found], [*codes.dictionary.to_pylist(), None]
        keys = tuple(names[cell] for cell in found.tolist())
        numbers = stripe.row_numbers(groups)[chosen].astype(np.int64)
        return _Points(keys, tuple((self._sign * values[chosen]).tolist()), numbers), skipped


class _Found:
    """For each key the best row so far: its order value, its stripe's position and its row number."""

    def __init__(self) -> None:
        self.rows: dict[Any, tuple[int, int, int]] = {}
        self._worst = 0

    def covers(self, keys: frozenset[Any] | None, promise: int) -> bool:
        """Whether no row of a stripe can be better than what is there."""
        if keys is None or not keys <= self.rows.keys():
            return False
        return promise <= self._worst or all(self.rows[key][0] >= promise for key in keys)

    def take(self, at: int, points: _Points) -> None:
        """Take what stripe number `at` has of the best."""
        for key, value, number in zip(points.keys, points.values, points.rows.tolist(), strict=True):
            known = self.rows.get(key)
            if known is None or known[0] < value:
                self.rows[key] = value, at, number
        self._worst = min((value for value, _, _ in self.rows.values()), default=0)


def _fetched(
    found: _Found, search: _Search, outputs: Sequence[contract.OutputColumn]
) -> Iterator[pa.RecordBatch]:
    wanted: dict[int, list[int]] = {}
    for _, at, row in found.rows.values():
        wanted.setdefault(at, []).append(row)
    schema = copybinary.schema(outputs)
    names = tuple(output.column for output in search.shape.outputs)
    for at, numbers in wanted.items():
        source, rows = search.sources[at], np.sort(np.array(numbers, np.int64))
        key = (source.key, "rows", names, rows.tobytes())
        columns: list[pa.Array | None] | None = search.cache.get(key)
        if columns is None:
            with search.reading(at) as opened:
                columns = _columns(opened, names, rows)
            size = sum(column.nbytes for column in columns if column is not None)
            search.cache.put(key, columns, size + 128 * len(columns) + rows.nbytes)
        arrays = [
            pa.nulls(len(rows), field.type) if column is None else column
            for column, field in zip(columns, schema, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _columns(source: reader.StripeReader, names: Sequence[str], rows: np.ndarray) -> list[pa.Array | None]:
    """Some rows' values of each column; None of one that the stripe is older than."""
    starts = np.concatenate(([0], np.cumsum(source.footer.group_rows)))
    held = np.searchsorted(starts, rows, side="right") - 1
    groups = np.unique(held)
    sizes = np.array(source.footer.group_rows)[groups]
    offsets = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    positions = pa.array(offsets[np.searchsorted(groups, held)] + rows - starts[held])
    described = [source.footer.column(name) for name in names]
    source.prefetch([column for column in described if column is not None], groups.tolist())
    return [
        None if column is None else grouping.plain(source.column(column, groups.tolist()).take(positions))
        for column in described
    ]
