"""Rows of stripes that a fragment only filters: read, checked against its conditions, handed on as they are."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from orochi import errors
from orochi.engine import contract, copybinary, shapes, stripes
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
    wanted = [by_name[output.column] for output in shape.outputs]
    distinct = list(dict.fromkeys(wanted))
    positions = [distinct.index(column) for column in wanted]
    for stripe in scan.stripes:
        gone = deleted.get(stripe.stripe_id)
        try:
            opened = opening.open_stripe(stripe_dir, stripe.path, cache=kept or cache.shared())
        except FileNotFoundError as error:
            raise errors.StalePlan(f"stripe {stripe.stripe_id} is not on this node any more") from error
        with opened as source:
            for batch in source.scan(distinct, shape.filters, gone is not None):
                if cancelled():
                    raise errors.QueryCanceled("canceling statement due to user request")
                if gone is not None:
                    left = ~np.isin(batch.column(len(distinct)).to_numpy(), gone)
                    batch = batch if left.all() else batch.filter(pa.array(left))
                if batch.num_rows:
                    yield pa.RecordBatch.from_arrays([batch.column(at) for at in positions], schema=schema)
            counters.total += source.groups_total
            counters.skipped += source.groups_skipped
