"""Which relation of a shard's node an INSERT names: the shard's own, or one chunk's.

While a chunk is compressed, its shard is locked for a moment and gets another name, which fails the plans of all
who read it. A new row needs neither: it goes into the heap of its chunk, whatever becomes of other chunks. So a
statement whose rows lie in one chunk names that chunk's relation, whose name changes only with the chunk itself.

Only statements that are transactions by themselves do so (they take the locks of the shard and of the chunk in the
other order, and must not hold them for long), and only tables whose chunks have the triggers that the shard has:
PostgreSQL fires a statement's triggers of the relation that it names.
"""

from __future__ import annotations

from collections.abc import Iterable

from orochi.catalog import snapshot as snapshots


def are_open(snapshot: snapshots.Snapshot, table: snapshots.Table) -> bool:
    """Whether rows of `table` may be inserted into its chunks by their own names."""
    if table.dimension is None or table.kind is snapshots.TableKind.REFERENCE:
        return False
    return all(aggregate.bucket.direct for aggregate in snapshot.aggregates_of(table.oid))


def schema_of(shard: snapshots.Shard, chunks: Iterable[snapshots.Chunk | None]) -> str:
    """The node schema of the relation that takes rows of these chunks, None for one that is not known."""
    found = {None if chunk is None else chunk.schema for chunk in chunks}
    if len(found) != 1 or len(shard.node_ids) != 1:
        return shard.schema
    (schema,) = found
    return schema or shard.schema
