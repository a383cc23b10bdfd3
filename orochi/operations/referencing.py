"""Stripe rows that refer to rows which go or get other keys: PostgreSQL checks its foreign keys in the heap only.

So before a statement deletes rows or changes keys that others refer to, the stripe rows that may refer
to them are recalled, in the same transaction. Nobody makes stripes of that table until it ends.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Awaitable, Callable, Sequence

from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import recall, shells, writes
from orochi.planner import fragment as fragments


def concerns(session: context.Session, target: snapshots.Table, seen: frozenset[int] = frozenset()) -> bool:
    """Whether rows in stripes may refer to rows of `target`, also by way of tables whose rows go with its own."""
    for key, table in _referring(session, target):
        if any(shard.has_stripes for shard in table.shards):
            return True
        if key.acts and table.oid not in seen and concerns(session, table, seen | {int(target.oid)}):
            return True
    return False


async def recalled(
    session: context.Session,
    target: snapshots.Table,
    predicates: Sequence[fragments.Predicate] = (),
    seen: frozenset[int] = frozenset(),
) -> None:
    """Get stripe rows into the heap that may refer to rows of `target`.

    Args:
        session: the client's session; its coordinator is in a transaction if this `concerns` the table.
        target: whose rows are deleted, or get other keys.
        predicates: what holds for those rows.
        seen: tables that this was done for.
    """
    seen = seen | {int(target.oid)}
    for key, table in _referring(session, target):
        if key.acts and table.oid not in seen:  # its own rows go, or get other keys
            await recalled(session, table, (), seen)
        if not any(shard.has_stripes for shard in table.shards):
            continue
        locked = await shells.lock_layouts(session, table.oid)
        wanted = _translated(target, locked, key, predicates)
        work: dict[int, list[Callable[[], Awaitable[int]]]] = {}
        for shard in locked.shards:
            if shard.has_stripes:
                job = functools.partial(recall.matching, session, locked, shard, wanted)
                work.setdefault(shard.node_id, []).append(job)
        if work:
            await writes.per_node(work)


def _referring(
    session: context.Session, target: snapshots.Table
) -> list[tuple[snapshots.Referencing, snapshots.Table]]:
    tables = session.snapshot().tables
    return [(key, tables[key.table_oid]) for key in target.referenced_by if key.table_oid in tables]


def _translated(
    target: snapshots.Table,
    table: snapshots.Table,
    key: snapshots.Referencing,
    predicates: Sequence[fragments.Predicate],
) -> tuple[fragments.Predicate, ...]:
    """Conditions on referenced columns, as conditions on those that refer to them, where the types are the same."""
    places = dict(zip(key.referenced, key.columns, strict=True))
    wanted = []
    for predicate in predicates:
        name = places.get(predicate.column)
        there, here = target.column(predicate.column), table.column(name) if name is not None else None
        if name is not None and there is not None and here is not None and there.base_oid == here.base_oid:
            wanted.append(dataclasses.replace(predicate, column=name))
    return tuple(wanted)
