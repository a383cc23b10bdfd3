"""A unique key that lacks the distribution column: an empty table gets one shard, which holds the key.

Each shard checks uniqueness for itself. With one shard that is PostgreSQL's own check of the whole table, so a
table that has one may have any key. Only a table without rows is made such, in the transaction that adds the key:
it costs nothing then, and writers of the former shards wait and plan again (docs/adr/0025).
"""

from __future__ import annotations

from orochi import ids
from orochi.catalog import definition as definitions
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import distribute, shells


def lacks(table: snapshots.Table, after: definitions.Definition) -> bool:
    """Whether a key of the table as it is to be needs it to have one shard."""
    column = table.distribution_column
    return (
        len(table.shards) > 1
        and column is not None
        and any(item.name == column for item in after.columns)
        and bool(definitions.missing_from_keys(after, column))
    )


async def gather(
    session: context.Session, table: snapshots.Table, after: definitions.Definition
) -> snapshots.Table | None:
    """Give the table one shard, made as `after` says; None, and nothing changed, if it has rows or must have its shards.

    Args:
        session: the client's session, in a transaction.
        table: a distributed table, whose shell has changed already.
        after: its definition now.
    """
    tied = after.foreign_keys() or after.referencing or session.snapshot().aggregates_of(table.oid)
    # an old snapshot could miss rows that are there by now
    if tied or table.dimension is not None or session.transaction.steady:
        return None
    old = await distribute.retire_layout(session, table.oid)
    if await shells.shards_have_rows(session, old):
        return None
    assert old.distribution_column is not None
    group, new_shards = await distribute.group(session, after, old.distribution_column, 1, None)
    await session.catalog_execute(f"SELECT count(*) FROM orochi._leave_shards({table.oid}, {group})")
    shards = await shells.insert_shards(session, table.oid, new_shards)
    await shells.insert_whole_chunks(session, table.oid)
    await distribute.create_shards(session, after, shards)
    await distribute.rename_layout(session, old)
    await session.catalog_changed()
    return session.snapshot().current(ids.TableId(table.oid))
