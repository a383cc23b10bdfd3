"""Rows of stripes that a fragment only filters: read, checked against its conditions, handed on as they are."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from orochi import errors
from orochi.engine import contract, copybinary, picked, shapes, stripes
from orochi.storage.columnar import cache
from orochi.storage.objects import opening


def of_stripes(
    shape: shapes.Shape,
    scan: contract.Scan,
    outputs: Sequence[contract.OutputColumn],
    stripe_dir: pathlib.Path,
    deleted: Mapping[int, np.ndarray],
    counters: stripes.Counters,
    cancelled: contract.Cancelled,
    kept: cache.Cache | None = None,
) -> Iterator[pa.RecordBatch]:
    """The scan's stripe rows that pass the conditions, as the fragment's columns.

    `kept` has footers and decoded columns; None is the process's.

    Raises:
        StalePlan: a stripe's file is gone.
        QueryCanceled: `cancelled` said so.
        DataCorrupted: a file is damaged.
    """
    schema = copybinary.schema(outputs)
    by_name = {column.name: column for column in scan.columns}
    names = [output.column for output in shape.outputs]
    distinct = [by_name[name] for name in dict.fromkeys(names)]
    kept = kept or cache.shared()
    for stripe in scan.stripes:
        gone = deleted.get(stripe.stripe_id)
        key = opening.key_of(stripe_dir, stripe.path) if gone is None else None
        place = (key, "rows", shape.conditions)
        known = None if key is None else picked.find(kept, place, names)
        if known is not None:
            counters.total += known.total
            counters.skipped += known.skipped
            if known.count:
                yield pa.RecordBatch.from_arrays([known.columns[name] for name in names], schema=schema)
            continue
        try:
            opened = opening.open_stripe(stripe_dir, stripe.path, cache=kept)
        except FileNotFoundError as error:
            raise errors.StalePlan(f"stripe {stripe.stripe_id} is not on this node any more") from error
        with opened as source:
            rows, columns = 0, {}
            for batch in source.scan(distinct, shape.filters, gone is not None):
                if cancelled():
                    raise errors.QueryCanceled("canceling statement due to user request")
                if gone is not None:
                    left = ~np.isin(batch.column(len(distinct)).to_numpy(), gone)
                    batch = batch if left.all() else batch.filter(pa.array(left))
                rows += batch.num_rows
                columns = {column.name: batch.column(at) for at, column in enumerate(distinct)}
                if batch.num_rows:
                    yield pa.RecordBatch.from_arrays([columns[name] for name in names], schema=schema)
            counters.total += source.groups_total
            counters.skipped += source.groups_skipped
            is_whole = not columns or len(columns[names[0]]) == rows
            has_all = all(source.footer.column(column.name) is not None for column in distinct)
            if key is not None and is_whole and has_all and picked.are_few(rows, source.row_count):
                picked.keep(
                    kept, place, picked.Rows(rows, columns, source.groups_total, source.groups_skipped)
                )
