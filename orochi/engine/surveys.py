"""What the skip lists tell of a scan before any of it is read."""

from __future__ import annotations

import dataclasses
import pathlib

from orochi.engine import contract, fused, grouping, shapes
from orochi.storage.columnar import cache

#: Rows of a chunk group, at most by default.
_GROUP_ROWS = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class Survey:
    """What the skip lists tell of a scan.

    Attributes:
        weight: how many column chunks `fused.run` would decode.
        stripes: the ids of those that may hold rows it wants.
        passed_over: chunk groups of all others.
    """

    weight: int
    stripes: frozenset[int]
    passed_over: int


def likely_weight(shape: shapes.Shape, rows: int) -> int:
    """About how many column chunks `fused.run` would decode where it wants so many rows; 0 if that is not told by them."""
    if shape.best is not None or shape.top is not None or shape.rows:
        return 0
    columns = {*(key.column for key in shape.keys), *grouping.needs(shape)}
    return rows * len(columns) // _GROUP_ROWS


def most_weight(shape: shapes.Shape, rows: int) -> int | None:
    """How many column chunks `fused.run` would decode of stripes with so many rows at most; None if that is not told by them."""
    if shape.best is not None or shape.top is not None or shape.rows:
        return None
    columns = {*(key.column for key in shape.keys), *grouping.needs(shape)}
    columns.update(condition.column for condition in shape.conditions)
    return -(-rows // _GROUP_ROWS) * len(columns)


def survey(
    shape: shapes.Shape, scan: contract.Scan, stripe_dir: pathlib.Path, kept: cache.Cache, enough: int
) -> Survey:
    """How much `fused.run` would decode, and of which stripes; nothing more is looked at once it is beyond `enough`.

    Raises:
        FileNotFoundError: a stripe is not here.
        Unsupported: `fused.run` would decline.
        DataCorrupted: a footer is damaged.
    """
    work = fused.work_of(shape, scan, stripe_dir, {}, lambda: False, kept)
    found, wanted, passed_over = 0, set(), 0
    for stripe in scan.stripes:
        total, left, chunks = work.weight(stripe)
        found += chunks
        # rows that are deleted may have told which groups are the first: then no stripe is sure not to matter
        if left or shape.top is not None:
            wanted.add(stripe.stripe_id)
        else:
            passed_over += total
        if found > enough:
            break
    return Survey(found, frozenset(wanted), passed_over)
