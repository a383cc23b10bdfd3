"""Changing how a table's rows are stored: columnar, or rows alone.

A columnar table's shards hold stripes and, beside them, a heap that takes every new row; what is
in the heap becomes stripes later, by maintenance. A table that was local becomes one shard on one
node, as stripes belong to shards. All of it is part of the client's transaction.
"""

from __future__ import annotations

from orochi import errors, ids
from orochi.catalog import definition as definitions
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import distribute, recall, shells, storage_options
from orochi.sharding import colocation, placement


async def check(session: context.Session, oid: int) -> tuple[definitions.Definition, ids.NodeId]:
    """A local table that can become columnar, locked, and the node for it; the table is not changed yet.

    Columnar tables that its foreign keys refer to keep their rows in the heap from now on.

    Raises:
        FeatureNotSupported: it is a table of a kind that must stay on the coordinator.
    """
    shell = await shells.definition(session, oid)
    shells.check_table(shell, "columnar")
    shell = await shells.lock(session, shell)
    if shell.is_referenced:
        raise errors.FeatureNotSupported(
            f'table "{shell.name}" cannot be columnar: foreign keys of other tables refer to it',
            hint="Make the tables columnar before you add the foreign keys.",
        )
    node_id = _node_for(session.snapshot(), shell)
    for target in _referenced(session.snapshot(), shell):
        await into_heap(session, target.oid)
    colocation.check_foreign_keys(
        shell, session.snapshot(), distribution_column=None, colocation_id=None, node_id=node_id
    )
    return shell, node_id


async def adopt(session: context.Session, shell: definitions.Definition, node_id: ids.NodeId) -> None:
    """Make a table that `check` let pass columnar; its rows move to its shard."""
    await session.catalog_execute(
        "INSERT INTO orochi.orochi_tables (table_oid, kind, storage_type, options)"
        f" VALUES ({shell.oid}, 'single', 'columnar', {await storage_options.defaults(session)})"
    )
    shard = colocation.NewShard(0, *distribute.FULL_RANGE, (node_id,))
    await distribute.populate(session, shell, [shard], None)
    await shells.label(session, shell, "columnar")


def _node_for(snapshot: snapshots.Snapshot, shell: definitions.Definition) -> ids.NodeId:
    """The node of the tables that its foreign keys refer to, else that of its schema's."""
    for target in _referenced(snapshot, shell):
        return target.shards[0].node_id
    return placement.beside(snapshot, shell.schema)


def _referenced(snapshot: snapshots.Snapshot, shell: definitions.Definition) -> list[snapshots.Table]:
    """The tables of one shard that its foreign keys refer to."""
    found = [snapshot.tables.get(ids.TableId(key.references or 0)) for key in shell.foreign_keys()]
    return [table for table in found if table is not None and table.kind is snapshots.TableKind.SINGLE]


async def store_as(session: context.Session, table: snapshots.Table, storage_type: str) -> None:
    """Store an Orochi table's rows in another way; no row moves to another shard.

    A table that is one shard only because it was columnar becomes local again when it is not.
    """
    if storage_type == table.storage_type:
        return
    shell = await shells.definition(session, table.oid)
    if storage_type == "row" and table.kind is snapshots.TableKind.SINGLE and table.dimension is None:
        await distribute.undistribute_table(session, table.oid)
        return
    shell = await shells.lock(session, shell)
    if storage_type == "row" and table.dimension is None:
        await drop_whole_chunks(session, table.oid)
    await session.catalog_execute(
        f"UPDATE orochi.orochi_tables SET storage_type = '{storage_type}' WHERE table_oid = {table.oid}"
    )
    await shells.insert_whole_chunks(session, table.oid)
    await shells.label(session, shell, "columnar" if storage_type == "columnar" else "heap")
    await session.catalog_changed()


async def drop_whole_chunks(session: context.Session, oid: ids.TableId) -> None:
    """Undo `shells.insert_whole_chunks`: all rows of the table are in its heap then."""
    await into_heap(session, oid)
    await session.catalog_execute(
        "DELETE FROM orochi.orochi_chunks c USING orochi.orochi_shards s"
        f" WHERE c.shard_id = s.shard_id AND s.table_oid = {oid}"
    )
    await session.catalog_changed()


async def into_heap(session: context.Session, oid: ids.TableId) -> None:
    """Bring every row of a table's stripes into its heap, and forget the stripes."""
    table = await shells.lock_layouts(session, oid)
    if not any(shard.has_stripes for shard in table.shards):
        return
    await distribute.retire_layout(session, oid)
    for shard in table.shards:
        await recall.matching(session, table, shard, ())
    await shells.bump_layouts(session, table.shards)
    await drop_stripes(session, table)


async def drop_stripes(session: context.Session, table: snapshots.Table) -> None:
    """Forget the table's stripes, and give its shards, as `table` has them, their new names."""
    shards = ", ".join(str(shard.shard_id) for shard in table.shards)
    stripes = (
        "FROM orochi.orochi_stripes f JOIN orochi.orochi_chunks c USING (chunk_id) "
        f"WHERE c.shard_id IN ({shards})"
    )
    await session.catalog_execute(
        "INSERT INTO orochi.orochi_cleanup (node_id, kind, object_id, path, not_before) "
        f"SELECT f.node_id, 'stripe', f.stripe_id, f.path, now() + interval '1 minute' {stripes}"
    )
    await session.catalog_execute(
        f"DELETE FROM orochi.orochi_stripes WHERE stripe_id IN (SELECT f.stripe_id {stripes})"
    )
    work: dict[int, list[str]] = {}
    for shard in table.shards:
        gone = ", ".join(str(stripe.stripe_id) for chunk in shard.chunks for stripe in chunk.stripes)
        if gone:
            work.setdefault(shard.node_id, []).append(
                f"DELETE FROM orochi_data.delete_vectors WHERE stripe_id IN ({gone})"
            )
    await shells.run_on_nodes(session, work)
    await distribute.rename_layout(session, table, retired=False)
    await session.catalog_changed()
