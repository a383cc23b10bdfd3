"""Stripe rows of a scan as carrier batches: pruned by the skip list, filtered by the predicates.

The delete vector lies in the node's database, so it is for the caller to say, from the snapshot
that the heap is read in.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import psycopg
import pyarrow as pa

from orochi import errors, pgtypes
from orochi.engine import contract
from orochi.storage.columnar import cache, reader
from orochi.storage.objects import opening

STRIPE_ID, ROW_NUMBER = "orochi_stripe_id", reader.ROW_NUMBER


class Counters:
    """Chunk groups that scans considered, and those the skip list ruled out."""

    def __init__(self, skipped: int = 0) -> None:
        self.total = skipped
        self.skipped = skipped


def read_stripes(
    scan: contract.Scan,
    stripe_dir: pathlib.Path,
    *,
    with_row_ids: bool,
    counters: Counters | None = None,
    cancelled: contract.Cancelled = lambda: False,
) -> Iterator[pa.RecordBatch]:
    """The scan's stripe rows, deleted ones among them.

    Args:
        scan: says which columns, stripes and predicates.
        stripe_dir: where this node keeps its files.
        with_row_ids: add `orochi_stripe_id` int8 and `orochi_row_number` int4.
        counters: added to.
        cancelled: asked between batches.

    Raises:
        StalePlan: a stripe's file is gone: it was retired after the plan was made.
        QueryCanceled: `cancelled` said so.
        DataCorrupted: a file is damaged.
    """
    names = [column.name for column in scan.columns]
    fields = [pa.field(column.name, pgtypes.carrier(column.type_oid)) for column in scan.columns]
    if with_row_ids:
        fields += [pa.field(STRIPE_ID, pa.int64()), pa.field(ROW_NUMBER, pa.int32())]
    schema = pa.schema(fields)
    for stripe in scan.stripes:
        for batch in _stripe(scan, stripe, stripe_dir, with_row_ids, counters, None):
            if cancelled():
                raise errors.QueryCanceled("canceling statement due to user request")
            arrays = [batch.column(position) for position in range(len(names))]
            if with_row_ids:
                ids = pa.repeat(pa.scalar(stripe.stripe_id, pa.int64()), batch.num_rows)
                arrays += [ids, batch.column(len(names))]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _stripe(
    scan: contract.Scan,
    stripe: contract.StripeRef,
    stripe_dir: pathlib.Path,
    with_row_numbers: bool,
    counters: Counters | None,
    forms: reader.Forms | None,
) -> Iterator[pa.RecordBatch]:
    try:
        opened = opening.open_stripe(stripe_dir, stripe.path, cache=cache.shared())
    except FileNotFoundError as error:
        raise errors.StalePlan(f"stripe {stripe.stripe_id} is not on this node any more") from error
    with opened as stripe_reader:
        yield from stripe_reader.scan(scan.columns, scan.predicates, with_row_numbers, forms=forms)
        if counters is not None:
            counters.total += stripe_reader.groups_total
            counters.skipped += stripe_reader.groups_skipped


def deleted_rows(
    connection: psycopg.Connection[tuple[int, int]], scans: Iterator[contract.Scan]
) -> dict[int, np.ndarray]:
    """The delete vector of the scans' stripes, in the connection's snapshot: sorted row numbers by stripe."""
    wanted = [stripe.stripe_id for scan in scans for stripe in scan.stripes]
    rows = connection.execute(
        "SELECT stripe_id, row_number FROM orochi_data.delete_vectors WHERE stripe_id = ANY(%s) ORDER BY 1, 2",
        (wanted,),
    ).fetchall()
    return by_stripe(rows)


def by_stripe(rows: Iterable[tuple[int, int]]) -> dict[int, np.ndarray]:
    """Sorted (stripe, row number) pairs as sorted row numbers by stripe."""
    found: dict[int, list[int]] = {}
    for stripe_id, row_number in rows:
        found.setdefault(stripe_id, []).append(row_number)
    return {stripe_id: np.array(numbers, np.int32) for stripe_id, numbers in found.items()}


def live_rows(
    scan: contract.Scan,
    stripe_dir: pathlib.Path,
    deleted: Mapping[int, np.ndarray],
    counters: Counters | None = None,
    cancelled: contract.Cancelled = lambda: False,
    forms: reader.Forms | None = None,
) -> Iterator[pa.RecordBatch]:
    """The scan's stripe rows less the deleted ones.

    The arguments are those of `read_stripes`, and `forms`: what some columns are to come as instead of the carrier.
    """
    names = [column.name for column in scan.columns]
    for stripe in scan.stripes:
        numbers = deleted.get(stripe.stripe_id)
        numbered = numbers is not None or not names
        for batch in _stripe(scan, stripe, stripe_dir, numbered, counters, forms):
            if cancelled():
                raise errors.QueryCanceled("canceling statement due to user request")
            kept = batch.select(range(len(names)))
            if numbers is not None:
                gone = np.isin(batch.column(len(names)).to_numpy(), numbers)
                kept = kept.filter(pa.array(~gone)) if gone.any() else kept
            yield kept
