"""Co-location: tables whose shards of one index lie on one node, so that they join there.

A group is a shard count and a type of distribution column; its tables have the same ranges and
nodes, shard by shard.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from orochi import errors, ids
from orochi.catalog import definition as definitions
from orochi.catalog import snapshot as snapshots
from orochi.sharding import hashing

DEFAULT, NONE = "default", "none"


@dataclasses.dataclass(frozen=True, slots=True)
class NewShard:
    """A shard to be made: its range and its nodes, the primary first."""

    index: int
    hash_min: int
    hash_max: int
    node_ids: tuple[ids.NodeId, ...]


def plan_shards(node_ids: Sequence[ids.NodeId]) -> list[NewShard]:
    """Evenly split shards, one for each of `node_ids`."""
    ranges = hashing.shard_ranges(len(node_ids))
    return [
        NewShard(index, hash_min, hash_max, (node_ids[index],))
        for index, (hash_min, hash_max) in enumerate(ranges)
    ]


def shards_like(table: snapshots.Table) -> list[NewShard]:
    """Shards for a new table of `table`'s group."""
    return [NewShard(s.index, s.hash_min, s.hash_max, s.node_ids) for s in table.shards]


def check_foreign_keys(
    definition: definitions.Definition,
    snapshot: snapshots.Snapshot,
    *,
    distribution_column: str | None,
    colocation_id: ids.ColocationId | None,
    node_id: ids.NodeId | None = None,
) -> None:
    """Foreign keys must be checkable on one node.

    Args:
        definition: the table's.
        snapshot: what they refer to is looked up in.
        distribution_column, colocation_id: of a distributed table.
        node_id: where all rows of a table that is not distributed are.

    Raises:
        FeatureNotSupported: one refers to a local table, or to rows of other shards.
    """
    for constraint in definition.foreign_keys():
        if constraint.references == definition.oid:
            if distribution_column is None or _aligned(constraint, distribution_column, distribution_column):
                continue
            raise _refused(constraint, "its rows may be in different shards")
        assert constraint.references is not None
        target = snapshot.tables.get(ids.TableId(constraint.references))
        if target is None:
            raise _refused(constraint, f"{constraint.referenced} is a local table")
        if target.kind is snapshots.TableKind.REFERENCE:
            continue
        if target.kind is snapshots.TableKind.SINGLE and target.shards[0].node_id == node_id:
            if target.shards[0].has_stripes:
                raise _refused(constraint, f"rows of {constraint.referenced} are compressed")
            continue
        if colocation_id is None or target.colocation_id != colocation_id:
            raise _refused(constraint, f"{constraint.referenced} is not co-located with it")
        if distribution_column is None or not _aligned(
            constraint, distribution_column, target.distribution_column
        ):
            raise _refused(constraint, "it does not join the two distribution columns")


def _aligned(constraint: definitions.Constraint, column: str, referenced: str | None) -> bool:
    pairs: list[tuple[str, str | None]] = list(
        zip(constraint.columns, constraint.referenced_columns, strict=True)
    )
    return (column, referenced) in pairs


def _refused(constraint: definitions.Constraint, reason: str) -> errors.FeatureNotSupported:
    return errors.FeatureNotSupported(
        f'foreign key "{constraint.name}" cannot be enforced on a distributed table: {reason}',
        hint="Refer to a reference table (create_reference_table), or to a co-located table by the"
        " distribution column.",
    )


def referenced_schemas(
    definition: definitions.Definition,
    snapshot: snapshots.Snapshot,
    index: int,
    own_schema: str,
) -> dict[int, str]:
    """For the shard `index`: the node schema of what each foreign key refers to, by shell OID."""
    schemas = {}
    for constraint in definition.foreign_keys():
        assert constraint.references is not None
        if constraint.references == definition.oid:
            schemas[constraint.references] = own_schema
            continue
        target = snapshot.tables[ids.TableId(constraint.references)]
        spread = target.kind is snapshots.TableKind.DISTRIBUTED
        schemas[constraint.references] = target.shards[index if spread else 0].schema
    return schemas
