"""Groups of which only the first few, by a bucket or a column, are wanted: what has to be read for them.

Rows with the greatest (or least) values are looked at first. Once they make as many buckets as are wanted, no row
beyond the last of these can be in a group that is wanted, and a condition says so to whatever reads the rest. Where
few rows pass the other conditions it may take too many looks: then everything is read.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from orochi.engine import contract, fused, shapes
from orochi.storage.columnar import reader, skiplist
from orochi.storage.compression import buffers

#: Chunk groups that are looked at.
_LOOKS = 8
_INT64 = np.iinfo(np.int64)


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """A chunk group that may hold a wanted row: the most that it promises, where more is better."""

    promise: int
    source: reader.StripeReader
    stripe_id: int
    group: int


def narrowed(
    work: fused.Work, scan: contract.Scan, deleted: Mapping[int, np.ndarray]
) -> shapes.Condition | None:
    """A condition that all rows of wanted groups pass; None where none is known.

    Raises:
        StalePlan: a stripe's file is gone.
        DataCorrupted: a file is damaged.
    """
    top = work.shape.top
    if top is None or not scan.stripes:
        return None
    key = work.shape.keys[top.key]
    with contextlib.ExitStack() as opened:
        sources = [(stripe, opened.enter_context(work.open(stripe))) for stripe in scan.stripes]
        found = np.empty(0, np.int64)
        for place in _places(work, key.column, sources, descending=top.descending)[:_LOOKS]:
            buckets = _buckets(work, key, place, deleted.get(place.stripe_id))
            if buckets is None:
                return None
            found = np.union1d(found, buckets)
            if len(found) >= top.count:
                return _condition(key, found, top)
    return None


def _places(
    work: fused.Work,
    column: str,
    sources: Sequence[tuple[contract.StripeRef, reader.StripeReader]],
    *,
    descending: bool,
) -> list[_Place]:
    """Chunk groups of the most promising stripes, the most promising first."""
    stripes = []
    for stripe, source in sources:
        described = source.footer.column(column)
        if described is not None:
            promise = _promise(described.stats, descending=descending)
            if promise is not None:
                stripes.append((promise, stripe.stripe_id, source, described))
    found = []
    for _, stripe_id, source, described in sorted(stripes, key=lambda item: item[0], reverse=True):
        groups, _ = fused.Stripe(work, source, None).pruned()
        for group in groups:
            promise = _promise(described.chunks[group].stats, descending=descending)
            if promise is not None:
                found.append(_Place(promise, source, stripe_id, group))
        if len(found) >= _LOOKS:
            break
    return sorted(found, key=lambda place: place.promise, reverse=True)


def _promise(stats: skiplist.Stats, *, descending: bool) -> int | None:
    bound = stats.maximum if descending else stats.minimum
    if bound is None:
        return None
    return int(bound) if descending else -int(bound)


def _buckets(
    work: fused.Work, key: shapes.Key, place: _Place, deleted: np.ndarray | None
) -> np.ndarray | None:
    """The buckets that rows of a chunk group make, by their first values; None if one is not bucketed here."""
    stripe = fused.Stripe(work, place.source, deleted)
    groups, kept = stripe.passing([place.group])
    if not groups:
        return np.empty(0, np.int64)
    values = np.asarray(buffers.values(stripe.raw(key.column, groups)), np.int64)
    if kept is not None:
        values = values[kept]
    if not len(values):
        return np.empty(0, np.int64)
    low, high = int(values.min()), int(values.max())
    if low == _INT64.min or high == _INT64.max or (key.floor is not None and low < key.floor):
        return None
    if not key.width:
        return np.unique(values)
    return np.unique((values - key.origin) // key.width) * key.width + key.origin


def _condition(key: shapes.Key, buckets: np.ndarray, top: shapes.Top) -> shapes.Condition:
    """That a value is in one of the first buckets, or before them all."""
    if top.descending:
        return shapes.Condition(key.column, ">=", (int(buckets[-top.count]),))
    last = int(buckets[top.count - 1])
    return shapes.Condition(key.column, "<=", (last + max(key.width - 1, 0),))
