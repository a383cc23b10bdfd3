"""What a newer snapshot has in common with the one before it."""

from __future__ import annotations

import dataclasses

import pytest

from orochi import errors, ids, pgtypes
from orochi.catalog import snapshot as snapshots

_CHUNK = snapshots.Chunk(ids.ChunkId(7), ids.ShardId(5), 0, 100, 0)
_SHARD = snapshots.Shard(ids.ShardId(5), 0, -(2**31), 2**31 - 1, (ids.NodeId(1),), 1, (_CHUNK,))
_TABLE = snapshots.Table(
    oid=ids.TableId(1),
    schema="public",
    name="t",
    kind=snapshots.TableKind.SINGLE,
    columns=(snapshots.Column("at", 1, pgtypes.INT8, pgtypes.INT8, -1, "bigint", True),),
    shards=(_SHARD,),
    colocation_id=None,
)


def _snapshot(table: snapshots.Table, definitions: int = 3) -> snapshots.Snapshot:
    names = {(table.schema, table.name): table.oid}
    return snapshots.Snapshot(9, {table.oid: table}, names, {}, {}, definitions=definitions)


def test_layouts_leave_the_shape() -> None:
    former = _snapshot(_TABLE)
    chunk = dataclasses.replace(_CHUNK, generation=1, tier="warm")
    shard = dataclasses.replace(_SHARD, layout=2, chunks=(chunk,), row_count=8)
    found = _snapshot(dataclasses.replace(_TABLE, shards=(shard,))).following(former)
    assert found.shape is former.shape
    assert found.tables[_TABLE.oid].shards == (shard,)


def test_all_else_is_another_shape() -> None:
    former = _snapshot(_TABLE)
    moved = dataclasses.replace(_SHARD, node_ids=(ids.NodeId(2),))
    for other in (
        _snapshot(_TABLE, definitions=4),
        _snapshot(dataclasses.replace(_TABLE, shards=(moved,))),
        _snapshot(dataclasses.replace(_TABLE, columns=())),
        dataclasses.replace(former, shadows=frozenset({("s", "t")}), shape=object()),
    ):
        assert other.following(former).shape is not former.shape


def test_a_table_that_is_gone_is_planned_without() -> None:
    """Whoever looked it up before an `await` plans again, instead of failing with its OID."""
    former = _snapshot(_TABLE)
    assert former.current(_TABLE.oid) is _TABLE
    with pytest.raises(errors.StalePlan):
        snapshots.EMPTY.current(_TABLE.oid)
