"""From pruned tables to scans and fragments: which node reads what."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence

from orochi import ids
from orochi.catalog import snapshot as snapshots
from orochi.engine import shapes
from orochi.planner import context, names, prune, staged
from orochi.planner import fragment as fragments

#: Chunks that a scan names one by one, so that they can be told to be small.
_FEW = 8


def output(column: snapshots.Column) -> fragments.OutputColumn:
    """A table's column as a fragment's: a domain travels as its base type, and has its own name for SQL."""
    return fragments.OutputColumn(column.name, column.base_oid, column.typmod, column.type_name)


def relation(table: snapshots.Table, shard: snapshots.Shard) -> str:
    """The shard's heap relation on its node, quoted."""
    return f"{names.quoted(shard.schema)}.{names.quoted(table.name)}"


def scan(
    name: str,
    reference: names.Reference,
    shard: snapshots.Shard,
    pruned: prune.Pruned,
    columns: Iterable[snapshots.Column],
    fused: shapes.Shape | None = None,
) -> fragments.Scan:
    """The reading of one shard for one mention of its table; for a fused aggregate, if so."""
    table = reference.table
    if staged.is_stage(table):
        part = shard.index if is_distributed(reference) else None
        return fragments.Scan(
            name=name,
            table=table.name,
            relation="",
            columns=tuple(output(column) for column in table.columns),
            input=fragments.Input(table.name, part, staged.indexes(table)),
        )
    bare = fragments.Scan(
        name=name,
        table=f"{table.schema}.{table.name}",
        relation="",
        columns=tuple(output(column) for column in columns),
        predicates=pruned.predicates,
    )
    return of_chunks(bare, table, shard, pruned, fused, pruned.chunks(shard))


def of_chunks(
    bare: fragments.Scan,
    table: snapshots.Table,
    shard: snapshots.Shard,
    pruned: prune.Pruned,
    fused: shapes.Shape | None,
    chunks: Sequence[snapshots.Chunk],
) -> fragments.Scan:
    """`bare`, reading the shard: what is left of it has these chunks."""
    stripes = pruned.stripes_of(chunks)
    few = table.dimension is not None and len(chunks) <= _FEW and len(chunks) < len(shard.chunks)
    return dataclasses.replace(
        bare,
        relation=relation(table, shard),
        stripes=tuple(
            fragments.StripeRef(stripe.stripe_id, stripe.path, stripe.row_count) for stripe in stripes
        ),
        chunks_total=len(shard.chunks) if table.dimension is not None else 0,
        chunks_kept=len(chunks) if table.dimension is not None else 0,
        heap=tuple(f"{names.quoted(chunk.schema)}.{names.quoted(table.name)}" for chunk in chunks)
        if few
        else None,
        stripes_excluded=sum(len(chunk.stripes) for chunk in chunks) - len(stripes),
        likely_rows=pruned.likely_rows(stripes) if fused is not None and _is_of_times(fused, table) else 0,
    )


def _is_of_times(fused: shapes.Shape, table: snapshots.Table) -> bool:
    """Whether it has no other conditions than such of the time."""
    time = table.dimension.column if table.dimension is not None else None
    return all(condition.column == time for condition in fused.conditions)


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """One fragment's worth of shards: the node, and the shard of each mention of a table."""

    node_id: ids.NodeId
    shards: tuple[snapshots.Shard, ...]


def units(
    references: Sequence[names.Reference], pruned: dict[int, prune.Pruned], kept: Iterable[int]
) -> list[Unit]:
    """The fragments of co-located tables: one for each kept shard index, with reference tables where they go.

    Args:
        references: mentions of co-located, or of reference or single tables.
        pruned: by the id of the mention.
        kept: shard indexes; with no distributed table, (0,).
    """
    found = []
    for index in kept:
        shards = tuple(item.table.shards[index if is_distributed(item) else 0] for item in references)
        placements = [set(shard.node_ids) for shard in shards]
        common = set.intersection(*placements)
        fewest = min(shards, key=lambda shard: len(shard.node_ids))
        node = next(node_id for node_id in (*fewest.node_ids, *sorted(common)) if node_id in common)
        found.append(Unit(node, shards))
    return found


def is_distributed(reference: names.Reference) -> bool:
    """Whether the table's rows are spread over shards by hash."""
    return reference.table.kind is snapshots.TableKind.DISTRIBUTED


def scan_names(count: int) -> list[str]:
    """Placeholders for so many scans, none a prefix of another."""
    width = len(str(max(count - 1, 0)))
    return [f"orochi_scan_{index:0{width}d}" for index in range(count)]


class Numbers:
    """Hands out fragment numbers, unique within a plan."""

    def __init__(self) -> None:
        self._next = itertools.count()

    def __call__(self) -> int:
        """The next number."""
        return next(self._next)


def build(
    units_: Sequence[Unit],
    references: Sequence[names.Reference],
    pruned: dict[int, prune.Pruned],
    columns: Sequence[Sequence[snapshots.Column]],
    sql: str,
    outputs: tuple[fragments.OutputColumn, ...],
    ctx: context.PlanContext,
    number: Callable[[], int],
    vector_sql: str | None = None,
    fused: shapes.Shape | None = None,
) -> tuple[fragments.Fragment, ...]:
    """One fragment for each unit, all running the same SQL."""
    placeholders = scan_names(len(references))
    settings = ctx.fragment_settings()
    return tuple(
        fragments.Fragment(
            number=number(),
            node_id=unit.node_id,
            shard_ids=tuple(
                dict.fromkeys(
                    shard.shard_id
                    for shard, item in zip(unit.shards, references, strict=True)
                    if not staged.is_stage(item.table)
                )
            ),
            scans=tuple(
                scan(name, item, shard, pruned[id(item)], wanted, fused)
                for name, item, shard, wanted in zip(
                    placeholders, references, unit.shards, columns, strict=True
                )
                if not staged.is_stage(item.table) or name in sql
            ),
            sql=sql,
            columns=outputs,
            vector_sql=vector_sql,
            fused=fused,
            settings=settings,
        )
        for unit in units_
    )


def colocated(references: Sequence[names.Reference]) -> bool:
    """Whether all the tables have their rows for one shard index on one node."""
    spread = [item for item in references if is_distributed(item)]
    if len({item.table.colocation_id for item in spread}) > 1:
        return False
    if len({item.table.oid for item in spread}) > 1 and spread[0].table.colocation_id is None:
        return False
    fixed = [set(item.table.shards[0].node_ids) for item in references if not is_distributed(item)]
    counts = range(len(spread[0].table.shards)) if spread else range(1)
    return all(
        set.intersection(*fixed, *(set(item.table.shards[index].node_ids) for item in spread))
        for index in counts
    )
