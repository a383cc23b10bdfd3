"""The few rows of a stripe that pass conditions: their columns, gathered once and kept.

Stripes never change, so the rows of one series that a query found are there for the next one, and the file is not
even opened. Deleted rows are not known here: who has some gathers anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Hashable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from orochi.storage.columnar import cache, predicates

#: Rows are few where at most one of so many passes, and no more than so many.
_SHARE, _MOST = 4, 8192
_OVERHEAD, _COLUMN_OVERHEAD = 1024, 256


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one or more stripes.

    Attributes:
        count: how many.
        columns: by name, none if there are no rows; those that are plain keys as dictionary arrays with int32 codes.
        total: chunk groups of their stripes.
        skipped: those of them that the skip lists ruled out.
    """

    count: int
    columns: Mapping[str, pa.Array]
    total: int
    skipped: int


def are_few(count: int, rows: int) -> bool:
    """Whether so few of the rows pass that gathering them costs less than passing over the others."""
    return count <= _MOST and count * _SHARE <= rows


def gathered(columns: Mapping[str, pa.Array], passed: np.ndarray) -> dict[str, pa.Array]:
    """The rows that have a flag, in memory of their own."""
    chosen = pa.array(np.flatnonzero(passed))
    return {name: array.take(chosen) for name, array in columns.items()}


def joined(parts: Sequence[Rows]) -> Rows:
    """Rows of several stripes as one; some part has rows."""
    some = [part for part in parts if part.count]
    columns = some[0].columns
    if len(some) > 1:
        columns = {name: _concatenated([part.columns[name] for part in some]) for name in columns}
    return Rows(
        sum(part.count for part in some),
        columns,
        sum(part.total for part in parts),
        sum(part.skipped for part in parts),
    )


def _concatenated(arrays: list[pa.Array]) -> pa.Array:
    if not pa.types.is_dictionary(arrays[0].type):
        return pa.concat_arrays(arrays)
    return pa.chunked_array(arrays).unify_dictionaries().combine_chunks()


def find(kept: cache.Cache, place: Hashable, names: Collection[str]) -> Rows | None:
    """What was kept at a place, if it has all these columns: only these."""
    found: Rows | None = kept.get(place)
    if found is None or not found.count:
        return found
    if not all(name in found.columns for name in names):
        return None
    return dataclasses.replace(found, columns={name: found.columns[name] for name in names})


def keep(kept: cache.Cache, place: Hashable, rows: Rows) -> None:
    """Keep rows, beside the columns that are kept of them already."""
    before: Rows | None = kept.get(place)
    if before is not None:
        rows = dataclasses.replace(rows, columns={**before.columns, **rows.columns})
    size = sum(array.nbytes + _COLUMN_OVERHEAD for array in rows.columns.values())
    kept.put(place, rows, _OVERHEAD + size)


def place(
    key: Hashable, groups: Sequence[int], conditions: Sequence[tuple[str, predicates.Condition]]
) -> Hashable:
    """Where rows of a stripe are kept.

    Args:
        key: the stripe's file.
        groups: its chunk groups that the conditions leave.
        conditions: those that some row of these may fail.
    """
    return key, "picked", tuple(groups), tuple(conditions)
