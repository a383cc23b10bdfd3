"""Rows of earlier stages as relations: a table that only the plan being made knows.

What a stage gives is put into the catalog snapshot of the statement that reads it, as a reference
table (every node that needs it gets all rows) or as a table distributed like the shards it meets.
So names resolve to it, and every strategy reads it, by the rules for tables of that kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from orochi import ids, pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.planner import fragment as fragments
from orochi.planner import parse, tree
from orochi.planner import plan as plans
from orochi.planner.tree import ast

#: The schema that such tables are in; no statement of a client's can name it, as they have no OID.
SCHEMA = "orochi_stage"


class NeedsColumns(Exception):
    """Describe every SELECT on the coordinator, add the columns to `PlanContext.described`, plan again."""

    def __init__(self, queries: Iterable[str]) -> None:
        self.queries = tuple(dict.fromkeys(queries))
        super().__init__("; ".join(self.queries))


def is_stage(table: snapshots.Table) -> bool:
    """Whether a table stands for a stage's rows."""
    return table.oid < 0


def table(
    number: int,
    columns: tuple[fragments.OutputColumn, ...],
    snapshot: snapshots.Snapshot,
    *,
    rows: int | None = None,
    size: int | None = None,
    indexes: tuple[tuple[str, ...], ...] = (),
) -> snapshots.Table:
    """The stage's rows on every node."""
    shard = snapshots.Shard(
        shard_id=ids.ShardId(0),
        index=0,
        hash_min=-(2**31),
        hash_max=2**31 - 1,
        node_ids=tuple(sorted(snapshot.nodes)),
        layout=0,
        row_count=rows or 0,
        size_bytes=size or 0,
    )
    return snapshots.Table(
        oid=ids.TableId(-1 - number),
        schema=SCHEMA,
        name=f"x{number}",
        kind=snapshots.TableKind.REFERENCE,
        columns=tuple(
            snapshots.Column(
                name=column.name,
                attnum=position,
                type_oid=column.type_oid,
                base_oid=column.type_oid,
                typmod=column.typmod,
                type_name=column.type_name,
                not_null=False,
            )
            for position, column in enumerate(columns, 1)
        ),
        shards=(shard,),
        colocation_id=None,
        unique_keys=indexes,
    )


def indexes(stage: snapshots.Table) -> tuple[tuple[str, ...], ...]:
    """The columns that readers look rows up by."""
    return stage.unique_keys


def dealt(
    stage: snapshots.Table,
    column: int,
    home: tuple[snapshots.Shard, ...],
    colocation: ids.ColocationId | None,
) -> snapshots.Table:
    """The stage's rows dealt out by the hash of a column, each part where `home` has its shard."""
    key = stage.columns[column]
    rows, size = stage.shards[0].row_count, stage.shards[0].size_bytes
    return dataclasses.replace(
        stage,
        kind=snapshots.TableKind.DISTRIBUTED,
        shards=tuple(
            snapshots.Shard(
                shard_id=ids.ShardId(0),
                index=shard.index,
                hash_min=shard.hash_min,
                hash_max=shard.hash_max,
                node_ids=shard.node_ids,
                layout=0,
                row_count=rows // len(home),
                size_bytes=size // len(home),
            )
            for shard in home
        ),
        colocation_id=colocation,
        distribution_column=key.name,
        distribution_oid=key.base_oid,
    )


def partition(stage: snapshots.Table) -> plans.Partition | None:
    """How the rows of a stage's table are dealt out."""
    if stage.kind is not snapshots.TableKind.DISTRIBUTED:
        return None
    position = next(i for i, item in enumerate(stage.columns) if item.name == stage.distribution_column)
    return plans.Partition(
        position,
        stage.columns[position].base_oid,
        tuple((shard.hash_min, shard.hash_max) for shard in stage.shards),
    )


def is_carried(column: fragments.OutputColumn) -> bool:
    """Whether values of the column's type mean the same on every server, under one name."""
    return 0 < column.type_oid < pgtypes.FIRST_NORMAL_OID and column.type_oid not in _NOT_CARRIED


#: Pseudo-types, `name` (whose collation is its own), and what names objects of one server's catalog.
_NOT_CARRIED = frozenset(
    {19, 24, 26, 27, 28, 29, 1033, 1034, 2202, 2203, 2204, 2205, 2206, 2249, 2275, 2276, 2277, 2278, 2287,
     2281, 3734, 3769, 4089, 4096, 4191, 5069}
)  # fmt: skip


def empty(stage: snapshots.Table, alias: tree.Node) -> tree.Node:
    """A FROM item of the stage's columns and no rows, for parse analysis on the coordinator."""
    listed = ", ".join(
        f'NULL::{column.type_name} AS "{column.name.replace(chr(34), chr(34) * 2)}"'
        for column in stage.columns
    )
    select = parse.parse_one(f"SELECT {listed} WHERE false").tree
    return ast.RangeSubselect(lateral=False, subquery=select, alias=alias)


def added(snapshot: snapshots.Snapshot, stage: snapshots.Table) -> snapshots.Snapshot:
    """The snapshot with one more table, or that table changed."""
    return dataclasses.replace(
        snapshot,
        tables={**snapshot.tables, stage.oid: stage},
        names={**snapshot.names, (stage.schema, stage.name): stage.oid},
    )
