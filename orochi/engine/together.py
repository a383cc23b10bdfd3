"""Which fragments of a task can run as one, over the rows of all their shards."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import pyarrow as pa

from orochi import pgtypes
from orochi.engine import contract

#: What fragments that run together read of stripes at most, as guessed; one that reads more runs alone.
BYTES = 256 << 20
#: Bytes of a value; strings have more of them, or a dictionary.
_WIDTH, _TEXT_WIDTH = 8, 16


def groups(fragments: Sequence[contract.Fragment]) -> list[list[contract.Fragment]]:
    """Fragments of one node by what can run together, in the order of their first.

    They are of one intermediate: a statement may read the same twice, and each reading has its own rows. Each computes the same over shards of its own, and what the planner lets be computed shard by shard holds whatever
    the shards hold: so over those of several, as if the others were empty.
    """
    found: list[list[contract.Fragment]] = []
    open_groups: dict[Hashable, tuple[list[contract.Fragment], int]] = {}
    for fragment in fragments:
        key = _alike(fragment)
        if key is None:
            found.append([fragment])
            continue
        more = sum(_size(scan) for scan in fragment.scans)
        group, size = open_groups.get(key, ([], 0))
        if not group or size + more > BYTES:
            group, size = [], 0
            found.append(group)
        group.append(fragment)
        open_groups[key] = (group, size + more)
    return found


def _size(scan: contract.Scan) -> int:
    width = sum(
        _TEXT_WIDTH if pgtypes.carrier(column.type_oid) == pa.string() else _WIDTH for column in scan.columns
    )
    return width * sum(stripe.row_count for stripe in scan.stripes)


def _alike(fragment: contract.Fragment) -> Hashable | None:
    """What fragments that run together have in common; None for one that runs alone."""
    if fragment.vector_sql is None or fragment.fused is not None:
        return None
    if not any(scan.stripes for scan in fragment.scans):
        return None
    shapes_read = tuple(
        (
            scan.name,
            tuple((column.name, column.type_oid, column.typmod) for column in scan.columns),
            tuple((item.column, item.op, tuple(item.values)) for item in scan.predicates),
            scan.input is None,
        )
        for scan in fragment.scans
    )
    return (
        fragment.intermediate,
        fragment.vector_sql,
        tuple(fragment.settings),
        fragment.snapshot,
        shapes_read,
    )
