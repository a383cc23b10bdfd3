"""Fragments of one node put together: one statement where the shards are many and small.

A fragment costs its node a transaction, a COPY and an answer, about two milliseconds of CPU however
few rows it has. Fragments that differ only in the shards they read are joined by UNION ALL; their
result is that of the parts one after another. What needs more than SQL over heap relations (stripes,
rows brought from elsewhere) stays as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from orochi.engine import placeholders
from orochi.planner import fragment as fragments


def together(parts: Sequence[fragments.Fragment], slots: int) -> list[fragments.Fragment]:
    """The same rows from at most `slots` fragments a node and kind, where they can be joined.

    A joined fragment has the number of its first part; its `sql` names the relations themselves.
    """
    groups: dict[fragments.Fragment, list[fragments.Fragment]] = {}
    kept: list[fragments.Fragment] = []
    for part in parts:
        if not part.sql or not all(_is_heap(scan) for scan in part.scans):
            kept.append(part)
            continue
        kind = dataclasses.replace(
            part, number=0, shard_ids=(), scans=(), sql="", vector_sql=None, fused=None
        )
        groups.setdefault(kind, []).append(part)
    for group in groups.values():
        count = min(slots, len(group))
        kept += [_joined(group[start::count]) for start in range(count)]
    return sorted(kept, key=lambda part: part.number)


def _is_heap(scan: fragments.Scan) -> bool:
    bare = fragments.Scan(scan.name, scan.table, scan.relation, scan.columns)
    shape = dataclasses.replace(scan, predicates=(), chunks_total=0, chunks_kept=0, heap=None)
    return bool(scan.relation) and shape == bare


def _joined(group: Sequence[fragments.Fragment]) -> fragments.Fragment:
    if len(group) == 1:
        return group[0]
    texts = [placeholders.fill(part.sql, {scan.name: scan.relation for scan in part.scans}) for part in group]
    return dataclasses.replace(
        group[0],
        shard_ids=tuple(dict.fromkeys(shard for part in group for shard in part.shard_ids)),
        sql=" UNION ALL ".join(f"({text})" for text in texts),
        vector_sql=None,
        fused=None,
    )
