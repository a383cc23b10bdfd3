"""The last point of each series in stripes: newest stripes first, and no stripe that cannot hold a newer one.

First only keys and order values are read, to find for each key the stripe and row that is wanted; then of
these rows the other columns, from the chunk groups that hold them.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from orochi import errors
from orochi.engine import contract, copybinary, fused, grouping, native, shapes, stripes
from orochi.engine.kernels import grouping as kernels
from orochi.storage.columnar import cache, reader
from orochi.storage.compression import buffers
from orochi.storage.objects import opening


def of_stripes(
    shape: shapes.Shape,
    scan: contract.Scan,
    outputs: Sequence[contract.OutputColumn],
    stripe_dir: pathlib.Path,
    deleted: Mapping[int, np.ndarray],
    counters: stripes.Counters,
    cancelled: contract.Cancelled,
) -> list[pa.RecordBatch]:
    """One row of each key, the best of all stripes, as the fragment's columns.

    Raises:
        Unsupported: the order column has nulls, or a file has not the columns.
        StalePlan: a stripe's file is gone.
        QueryCanceled: `cancelled` said so.
        DataCorrupted: a file is damaged.
    """
    assert shape.best is not None
    types = {column.name: column.type_oid for column in scan.columns}
    (key,) = shape.keys
    work = fused.Work(shape, {key.column}, types, stripe_dir, cancelled, cache.shared())
    found = _Found(shape.best, key.column)
    with contextlib.ExitStack() as opened:
        sources = [opened.enter_context(_open(stripe_dir, stripe)) for stripe in scan.stripes]
        order = sorted(range(len(sources)), key=lambda at: found.promise(sources[at]), reverse=True)
        for at in order:
            if cancelled():
                raise errors.QueryCanceled("canceling statement due to user request")
            counters.total += len(sources[at].footer.group_rows)
            if found.covers(sources[at]):
                counters.skipped += len(sources[at].footer.group_rows)
                continue
            gone = deleted.get(scan.stripes[at].stripe_id)
            counters.skipped += found.look(at, fused.Stripe(work, sources[at], gone))
        return list(_fetched(found, sources, shape, outputs))


def _open(stripe_dir: pathlib.Path, stripe: contract.StripeRef) -> reader.StripeReader:
    try:
        return opening.open_stripe(stripe_dir, stripe.path, cache=cache.shared())
    except FileNotFoundError as error:
        raise errors.StalePlan(f"stripe {stripe.stripe_id} is not on this node any more") from error


class _Found:
    """For each key the best row so far: its order value, where smaller is worse, its stripe and row number."""

    def __init__(self, best: shapes.Best, key: str) -> None:
        self._best = best
        self._key = key
        self._sign = 1 if best.descending else -1
        self.rows: dict[Any, tuple[int, int, int]] = {}

    def promise(self, source: reader.StripeReader) -> int:
        """The best order value that a stripe can hold."""
        column = source.footer.column(self._best.column)
        if column is None or column.stats.null_count:
            raise native.Unsupported("an order column with nulls")
        bound = column.stats.maximum if self._best.descending else column.stats.minimum
        if bound is None:
            raise native.Unsupported("an order column without bounds")
        return self._sign * int(bound)

    def covers(self, source: reader.StripeReader) -> bool:
        """Whether no row of the stripe can be better than what is there."""
        column = source.footer.column(self._key)
        if column is None or column.dictionary is None:
            return False
        promise = self.promise(source)
        keys = source.dictionary(column).to_pylist()
        if column.stats.null_count:
            keys.append(None)
        return all(key in self.rows and self.rows[key][0] >= promise for key in keys)

    def look(self, at: int, stripe: fused.Stripe) -> int:
        """Take what stripe number `at` has; how many chunk groups were ruled out."""
        groups, kept, skipped = stripe.wanted()
        if not groups:
            return skipped
        codes = stripe.codes(self._key, groups)
        values = np.ascontiguousarray(buffers.values(stripe.raw(self._best.column, groups)), np.int64)
        cells = np.zeros(len(values), np.int32) if kept is None else np.where(kept, 0, -1).astype(np.int32)
        count = len(codes.dictionary) + 1
        indices = codes.indices.fill_null(count - 1) if codes.indices.null_count else codes.indices
        kernels.fold_codes(buffers.values(indices), count, cells)
        rows = np.full(count, -1, np.int64)
        kernels.best_rows(cells, values, self._best.descending, rows)
        numbers = stripe.row_numbers(groups)
        names = [*codes.dictionary.to_pylist(), None]
        for cell in np.flatnonzero(rows >= 0).tolist():
            row = int(rows[cell])
            value = self._sign * int(values[row])
            known = self.rows.get(names[cell])
            if known is None or known[0] < value:
                self.rows[names[cell]] = value, at, int(numbers[row])
        return skipped


def _fetched(
    found: _Found,
    sources: Sequence[reader.StripeReader],
    shape: shapes.Shape,
    outputs: Sequence[contract.OutputColumn],
) -> Iterator[pa.RecordBatch]:
    wanted: dict[int, list[int]] = {}
    for _, at, row in found.rows.values():
        wanted.setdefault(at, []).append(row)
    schema = copybinary.schema(outputs)
    for at, numbers in wanted.items():
        source, rows = sources[at], np.sort(np.array(numbers, np.int64))
        starts = np.concatenate(([0], np.cumsum(source.footer.group_rows)))
        held = np.searchsorted(starts, rows, side="right") - 1
        groups = np.unique(held)
        sizes = np.array(source.footer.group_rows)[groups]
        offsets = np.concatenate(([0], np.cumsum(sizes)[:-1]))
        positions = pa.array(offsets[np.searchsorted(groups, held)] + rows - starts[held])
        arrays = []
        for output, field in zip(shape.outputs, schema, strict=True):
            column = source.footer.column(output.column)
            if column is None:
                arrays.append(pa.nulls(len(rows), field.type))
                continue
            values = source.column(column, groups.tolist())
            arrays.append(grouping.plain(values.take(positions)))
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
