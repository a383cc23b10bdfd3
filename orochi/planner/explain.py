"""Plans as EXPLAIN prints them: the same plan always gives the same text.

One nested dictionary says everything; it is the JSON form, and the text is made of it.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from orochi.catalog import snapshot as snapshots
from orochi.engine import shapes
from orochi.planner import finish
from orochi.planner import fragment as fragments
from orochi.planner import plan as plans
from orochi.planner import rehearsal as rehearsals
from orochi.storage.objects import places

_TITLES = {
    "router": "Orochi Router",
    "pushdown": "Orochi Pushdown",
    "two-phase aggregate": "Orochi Two-Phase Aggregate",
    "set operation": "Orochi Set Operation",
    "recursive": "Orochi Recursive",
    "pull": "Orochi Pull",
}
_STEP = "  "


class Stats(Protocol):
    """What a fragment cost when it ran (`executor.transport.FragmentStats`)."""

    @property
    def rows(self) -> int:
        """Rows it gave."""

    @property
    def bytes(self) -> int:
        """Their size in carrier form."""

    @property
    def seconds(self) -> float:
        """How long it took where it ran."""

    @property
    def chunk_groups_total(self) -> int:
        """Chunk groups of the stripes it read."""

    @property
    def chunk_groups_skipped(self) -> int:
        """Those that its predicates ruled out."""

    @property
    def requests(self) -> int:
        """Requests to the object store."""

    @property
    def fetched_bytes(self) -> int:
        """What they brought."""

    @property
    def engine(self) -> str:
        """What answered it."""


def as_dict(
    plan: plans.SelectPlan | plans.Modify,
    snapshot: snapshots.Snapshot,
    *,
    stats: Mapping[int, Stats] | None = None,
    timing: bool = True,
) -> dict[str, Any]:
    """Everything EXPLAIN tells of a plan.

    Args:
        plan: what was decided.
        snapshot: the catalog it was made from.
        stats: with ANALYZE, what each fragment cost, by its number.
        timing: with ANALYZE, show times.
    """
    match plan:
        case plans.Router():
            return _router(plan, snapshot)
        case plans.Modify():
            return _modify(plan, snapshot)
        case plans.Distributed():
            return _distributed(plan, snapshot, stats, timing)


def text(
    plan: plans.SelectPlan | plans.Modify,
    snapshot: snapshots.Snapshot,
    *,
    stats: Mapping[int, Stats] | None = None,
    timing: bool = True,
) -> list[str]:
    """The lines of EXPLAIN (FORMAT TEXT)."""
    return lines(as_dict(plan, snapshot, stats=stats, timing=timing))


def lines(found: Mapping[str, Any]) -> list[str]:
    """A plan's dictionary as text."""
    rest = dict(found)
    printed = [str(rest.pop("Node Type"))]
    _print(rest, _STEP, printed)
    return printed


def to_json(
    plan: plans.SelectPlan | plans.Modify,
    snapshot: snapshots.Snapshot,
    *,
    stats: Mapping[int, Stats] | None = None,
    timing: bool = True,
) -> str:
    """EXPLAIN (FORMAT JSON): an array of one object with a `Plan`, as PostgreSQL has it."""
    found = as_dict(plan, snapshot, stats=stats, timing=timing)
    return json.dumps([{"Plan": found}], indent=2)


def _print(found: Mapping[str, Any], indent: str, printed: list[str]) -> None:
    for key, value in found.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            for item in value:
                rest = dict(item)
                printed.append(f"{indent}->  {rest.pop('Node Type')}")
                _print(rest, f"{indent}      ", printed)
        elif isinstance(value, list):
            printed.append(f"{indent}{key}: {', '.join(map(str, value))}")
        else:
            printed.append(f"{indent}{key}: {value}")


def _router(plan: plans.Router, snapshot: snapshots.Snapshot) -> dict[str, Any]:
    tables = [snapshot.tables[oid] for oid in plan.tables]
    found: dict[str, Any] = {"Node Type": _TITLES["router"], "Tables": _names(tables)}
    match plan.key:
        case plans.HashKey(value=value):
            shards = tuple(table.shard_for_hash(value) for table in tables)
            first = next((t for t in tables if t.kind is snapshots.TableKind.DISTRIBUTED), tables[0])
            shard = first.shard_for_hash(value)
            found["Shards"] = f"1 of {len(first.shards)}"
            found["Shard"] = f"{shard.shard_id} on n{_home(shards)}"
        case plans.ParamKey(number=number):
            found["Shard"] = f"of parameter ${number}"
            return found | {"SQL": plan.sql}
        case plans.AnyKey():
            shards = tuple(table.shards[0] for table in tables)
            found["Shards"] = "1 of 1"
            found["Shard"] = f"{shards[0].shard_id} on n{_home(shards)}"
    return found | {"SQL": plans.fill(plan.sql, shards)}


def rehearsal(plan: rehearsals.Rehearsal, snapshot: snapshots.Snapshot) -> dict[str, Any]:
    """What EXPLAIN tells of a statement that is rehearsed."""
    copies = []
    for copy in plan.copies:
        table = snapshot.tables[copy.table]
        told = f"{table.schema}.{table.name}: {len(copy.shard_indexes)} of {len(table.shards)} shards"
        copies.append(f"{told}, WHERE {copy.condition}" if copy.condition else told)
    found: dict[str, Any] = {"Node Type": "Orochi Rehearsal", "Copies": copies}
    if plan.reads.intermediates:
        found["Reads"] = [item.table for item in plan.reads.intermediates]
    return found | {"SQL": plan.reads.final_sql}


def _home(shards: Sequence[snapshots.Shard]) -> int:
    return min(shards, key=lambda shard: len(shard.node_ids)).node_id


def _modify(plan: plans.Modify, snapshot: snapshots.Snapshot) -> dict[str, Any]:
    target = snapshot.tables[plan.target]
    words = {word: plan.sql.lower().find(word.lower()) for word in ("Insert", "Update", "Delete", "Merge")}
    verb = min((word for word, at in words.items() if at >= 0), key=lambda word: words[word])
    found: dict[str, Any] = {
        "Node Type": f"Orochi {verb}",
        "Tables": _names([snapshot.tables[oid] for oid in plan.tables]),
    }
    if isinstance(plan.key, plans.ParamKey):
        found["Shard"] = f"of parameter ${plan.key.number}"
    else:
        kept = [target.shards[index] for index in plan.shard_indexes]
        found["Shards"] = f"{len(kept)} of {len(target.shards)}"
        homes = {
            node
            for shard in kept
            for node in (
                shard.node_ids if target.kind is snapshots.TableKind.REFERENCE else shard.node_ids[:1]
            )
        }
        found["Nodes"] = [f"n{node}" for node in sorted(homes)]
        compressed = sum(len(chunk.stripes) for shard in kept for chunk in shard.chunks)
        if compressed:
            found["Stripes to recall from"] = compressed
    if plan.predicates:
        found["Predicates"] = [_predicate(item) for item in plan.predicates]
    return found | {"SQL": plan.sql}


def _distributed(
    plan: plans.Distributed, snapshot: snapshots.Snapshot, stats: Mapping[int, Stats] | None, timing: bool
) -> dict[str, Any]:
    found: dict[str, Any] = {"Node Type": _TITLES.get(plan.strategy, f"Orochi {plan.strategy.title()}")}
    if plan.reason:
        found["Reason"] = plan.reason
    if plan.stages:
        found["Exchange"] = exchange_of(plan)
        found["Stages"] = [_stage(stage, snapshot, timing) for stage in plan.stages]
    found["Plans"] = [_intermediate(item, snapshot, stats, timing) for item in plan.intermediates]
    if plan.final_sql is not None:
        found["Combine"] = plan.final_sql
        if finish.of_plan(plan) is not None:
            found["Combined by"] = "gateway, if values suit"
    else:
        found["Combine"] = "rows as they come" + (f", at most {plan.limit}" if plan.limit is not None else "")
    return found


def exchange_of(plan: plans.Distributed) -> str:
    """In a word or two, how the rows of its stages reach those who read them."""
    dealt = any(stage.partition is not None for stage in plan.stages)
    whole = any(stage.partition is None for stage in plan.stages)
    if plan.strategy in ("recursive", "pull"):
        return "to the coordinator"
    return ", ".join([*(["broadcast"] if whole else []), *(["repartition"] if dealt else [])])


def _stage(stage: plans.Stage, snapshot: snapshots.Snapshot, timing: bool) -> dict[str, Any]:
    how = "all rows"
    if stage.partition is not None:
        column = stage.columns[stage.partition.column].name
        how = f"dealt out in {len(stage.partition.ranges)} parts by {column}"
    found: dict[str, Any] = {"Node Type": f"Stage {stage.name}, {how}", "Statement": stage.sql}
    if stage.rows is not None:
        found["Estimated Rows"] = stage.rows
    if stage.indexes:
        found["Looked up by"] = [", ".join(columns) for columns in stage.indexes]
    return found | {"Plan": [as_dict(stage.plan, snapshot, timing=timing)]}


def _intermediate(
    item: plans.Intermediate, snapshot: snapshots.Snapshot, stats: Mapping[int, Stats] | None, timing: bool
) -> dict[str, Any]:
    scans = [scan for part in item.fragments for scan in part.scans]
    found: dict[str, Any] = {
        "Node Type": f"{item.name} of {item.table}",
    }
    if item.stage is not None:
        return found | {"Stage": item.stage}
    found |= {
        "Shards": f"{len(item.fragments)} of {item.shards_total}",
    }
    if any(scan.chunks_total for scan in scans):
        kept, total = sum(scan.chunks_kept for scan in scans), sum(scan.chunks_total for scan in scans)
        found["Chunks"] = f"{kept} of {total}"
    if item.fragments:
        first = item.fragments[0]
        for scan in first.scans:
            found[f"Columns of {scan.name}"] = [column.name for column in scan.columns]
            if scan.predicates:
                found[f"Predicates of {scan.name}"] = [_predicate(predicate) for predicate in scan.predicates]
        found["SQL"] = first.sql
        if item.counted is not None:
            groups = ", ".join(item.counted.groups)
            found["Counted"] = f"{item.counted.name}, distinct {item.counted.value} by {groups}"
        if first.fused is not None and not first.fused.rows and any(scan.stripes for scan in scans):
            found["Fused Aggregate"] = _shape(first.fused)
        if first.vector_sql is not None:
            found["Vector SQL"] = first.vector_sql
        found["Fragments"] = [_fragment(part, snapshot, stats, timing) for part in item.fragments]
    return found


def _fragment(
    part: fragments.Fragment, snapshot: snapshots.Snapshot, stats: Mapping[int, Stats] | None, timing: bool
) -> dict[str, Any]:
    shards = ", ".join(str(shard) for shard in part.shard_ids)
    where = f", shard {shards}" if shards else ""
    found: dict[str, Any] = {"Node Type": f"Fragment {part.number} on n{part.node_id}{where}"}
    for scan in part.scans:
        found[f"Scan {scan.name}"] = _scan(scan)
    found["Engine"] = _engine(part)
    cost = stats.get(part.number) if stats is not None else None
    if cost is not None:
        found["Actual"] = _actual(cost, timing)
    return found


def _scan(scan: fragments.Scan) -> str:
    if scan.input is not None:
        return f"stage {scan.input.stage}" + (
            f", part {scan.input.part}" if scan.input.part is not None else ""
        )
    text = f"{scan.table} heap {scan.relation}"
    if scan.stripes:
        rows = sum(stripe.row_count for stripe in scan.stripes)
        text += f", {len(scan.stripes)} stripes of {rows} rows{_tiers(scan)}"
    if scan.stripes_excluded:
        text += f", {scan.stripes_excluded} stripes excluded"
    if scan.chunks_total:
        text += f", {scan.chunks_kept} of {scan.chunks_total} chunks"
    return text


def _tiers(scan: fragments.Scan) -> str:
    """How many of a scan's stripes are not on its node."""
    found = collections.Counter(places.place_of(stripe.path) for stripe in scan.stripes)
    away = [
        f"{found[place]} {place.value}"
        for place in (places.Place.COLD, places.Place.FROZEN)
        if place in found
    ]
    return f" ({', '.join(away)})" if away else ""


def _engine(part: fragments.Fragment) -> str:
    if not any(scan.stripes for scan in part.scans):
        return "PostgreSQL"
    if part.fused is not None:
        if part.fused.best is not None:
            return "Last Points"
        return "Column Scan" if part.fused.rows else "Fused Aggregate"
    return "vector" if part.vector_sql is not None else "PostgreSQL over staged stripes"


def _shape(shape: shapes.Shape) -> str:
    """What is computed in one pass: conditions are among the scan's predicates."""
    keys = [f"{key.column} by {key.width}" if key.width else key.column for key in shape.keys]
    made = dict.fromkeys(
        f"{output.kind}({output.column or '*'})" for output in shape.outputs if output.kind != "key"
    )
    text = ", ".join(made) + (f" for each {', '.join(keys)}" if keys else "")
    if shape.top is not None:
        text += (
            f", the {'last' if shape.top.descending else 'first'} {shape.top.count} by {keys[shape.top.key]}"
        )
    return text


def _actual(cost: Stats, timing: bool) -> str:
    text = f"rows={cost.rows} bytes={cost.bytes} engine={cost.engine}"
    if cost.chunk_groups_total:
        text += f" chunk groups skipped={cost.chunk_groups_skipped} of {cost.chunk_groups_total}"
    if cost.requests:
        text += f" S3 requests={cost.requests} bytes={cost.fetched_bytes}"
    return f"{text} time={cost.seconds * 1000:.3f} ms" if timing else text


def _predicate(item: fragments.Predicate) -> str:
    if item.op in ("isnull", "notnull"):
        return f"{item.column} IS {'NOT ' if item.op == 'notnull' else ''}NULL"
    if item.op == "in":
        return f"{item.column} IN ({', '.join(map(repr, item.values))})"
    return f"{item.column} {item.op} {item.values[0]!r}"


def _names(tables: Sequence[snapshots.Table]) -> list[str]:
    return [f"{table.schema}.{table.name}" for table in tables]
