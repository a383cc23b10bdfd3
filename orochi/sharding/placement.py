"""Which node gets a new shard."""

from __future__ import annotations

import collections
from collections.abc import Sequence

from orochi import errors, ids
from orochi.catalog import snapshot as snapshots

MAX_SHARD_COUNT = 16_384


def data_nodes(snapshot: snapshots.Snapshot) -> tuple[snapshots.Node, ...]:
    """The nodes that may hold shards.

    Raises:
        OrochiError: 55000, there is none.
    """
    nodes = snapshot.data_nodes
    if not nodes:
        raise errors.OrochiError(
            "the cluster has no data node", sqlstate="55000", hint="Add one with add_node(hostname, port)."
        )
    return nodes


def round_robin(shard_count: int, nodes: Sequence[snapshots.Node]) -> list[ids.NodeId]:
    """A node for each of `shard_count` shards, in turn."""
    return [nodes[index % len(nodes)].node_id for index in range(shard_count)]


def least_loaded(snapshot: snapshots.Snapshot) -> ids.NodeId:
    """The data node that holds the fewest shards, the first of equals."""
    held = collections.Counter(
        node_id for table in snapshot.tables.values() for shard in table.shards for node_id in shard.node_ids
    )
    return min(data_nodes(snapshot), key=lambda node: (held[node.node_id], node.node_id)).node_id


def beside(snapshot: snapshots.Snapshot, schema: str) -> ids.NodeId:
    """Where a whole table of a schema goes: to those already there, so that they join on their node."""
    active = {node.node_id for node in data_nodes(snapshot)}
    for _, table in sorted(snapshot.tables.items()):
        whole = table.kind is snapshots.TableKind.SINGLE and table.dimension is None
        if whole and table.schema == schema and table.shards[0].node_id in active:
            return table.shards[0].node_id
    return least_loaded(snapshot)


def check_shard_count(count: int) -> int:
    """`count`, if a table may have that many shards.

    Raises:
        InvalidParameter: it may not.
    """
    if not 1 <= count <= MAX_SHARD_COUNT:
        raise errors.InvalidParameter(
            f"shard_count must be between 1 and {MAX_SHARD_COUNT}",
            hint="A few shards for each CPU core of the data nodes is usual.",
        )
    return count
