"""Where the tables of a statement may meet, and what each way of bringing them there costs.

Two kinds of home: the shards of one group of co-located mentions, which stay where they are, or a
home made up for the statement, to whose hash ranges both sides of a join are dealt out. To either,
what is not dealt out is broadcast; reference tables are there already. A reference table whose rows
must each come out of the join once (an outer join keeps them, NOT EXISTS asks for each) is dealt
out too. Whether an arrangement answers the statement is judged elsewhere: here is guessed what may.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from orochi import ids, pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.planner import analyze, cost, names, prepare, pull, scans, tree
from orochi.sharding import hashing

#: Types whose hash is taken of carrier values (`sharding.hashing`).
_HASHED = pgtypes.INTEGERS | pgtypes.TIMES | {pgtypes.TEXT, pgtypes.VARCHAR, pgtypes.UUID}
#: The co-location of what is dealt out to a home that no table has: no group in the catalog is numbered so.
_MADE_UP = ids.ColocationId(-1)
#: Parts of such a home on each node at most.
_PARTS = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Moving:
    """A mention of a table, and what it costs to move."""

    reference: names.Reference
    rows: int
    size: int
    columns: tuple[snapshots.Column, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Home:
    """The shards that rows are brought to."""

    shards: tuple[snapshots.Shard, ...]
    colocation: ids.ColocationId | None


@dataclasses.dataclass(frozen=True, slots=True)
class Arrangement:
    """One way to bring a statement's tables together.

    Attributes:
        home: where to; None if nothing is dealt out.
        dealt: the mentions that are dealt out, by id, each with the column whose hash decides.
        broadcast: the ids of those that are sent everywhere.
    """

    home: Home | None
    dealt: Mapping[int, str]
    broadcast: frozenset[int]
    cost: int


@dataclasses.dataclass(frozen=True, slots=True)
class Tables:
    """The mentions of tables in a statement.

    Attributes:
        groups: of those with shards, mentions whose rows already meet; the largest group first.
        replicas: reference tables whose rows every node has.
        kept: the ids of those replicas of which an outer join or a sub-SELECT needs each row once.
    """

    groups: list[list[Moving]]
    replicas: list[Moving]
    kept: frozenset[int]

    def movings(self) -> Iterator[Moving]:
        """All mentions."""
        for group in self.groups:
            yield from group
        yield from self.replicas


def tables(prepared: prepare.Prepared) -> Tables:
    """The statement's mentions of tables, grouped."""
    used, classes = pull.used_columns(prepared), _classes(prepared)
    groups: list[list[Moving]] = []
    replicas = []
    for item in prepared.references:
        rows = cost.filtered_rows(item, prepared)
        moving = Moving(item, rows, rows * cost.width_of(used[id(item)]), used[id(item)])
        if item.table.kind is snapshots.TableKind.REFERENCE:
            replicas.append(moving)
            continue
        met = [group for group in groups if any(_meet(item, other.reference, classes) for other in group)]
        groups = [group for group in groups if group not in met]
        groups.append([moving, *(other for group in met for other in group)])
    groups.sort(key=lambda group: -sum(item.size for item in group))
    return Tables(groups, replicas, frozenset(_kept(prepared)))


def arrangements(prepared: prepare.Prepared, found: Tables) -> list[Arrangement]:
    """Which mentions stay and which are moved how: what is thought cheapest first."""
    preference = prepared.ctx.force_strategy

    def rank(item: Arrangement) -> tuple[bool, int, int]:
        worst = (preference == "repartition" and not item.dealt) or (
            preference == "broadcast" and bool(item.dealt)
        )
        return (worst, item.cost, len(item.dealt))

    listed = [item for anchor in found.groups for item in _at_anchor(prepared, found, anchor)]
    return sorted([*listed, *_at_made_up(prepared, found)], key=rank)


def key(item: names.Reference) -> analyze.ColumnKey:
    """A distributed table's distribution column."""
    return (id(item), str(item.table.distribution_column))


def _meet(a: names.Reference, b: names.Reference, classes: analyze.Classes) -> bool:
    """Whether two mentions are co-located and joined on their distribution columns."""
    if not scans.is_distributed(a) or not scans.is_distributed(b):
        single = snapshots.TableKind.SINGLE
        return a.table.kind is b.table.kind is single and scans.colocated([a, b])
    if not scans.colocated([a, b]):
        return False
    return classes.equal(key(a), key(b))


def _classes(prepared: prepare.Prepared) -> analyze.Classes:
    """Columns that any condition of the statement says are equal.

    Some hold for a part of the rows only, so this is for guessing what may fit, not for proving it.
    """
    found = [
        (term, level)
        for level in prepared.scopes.levels
        for term in tree.conjuncts(getattr(level.stmt, "whereClause", None))
    ]
    for level in prepared.scopes.levels:
        found += [(term, level) for term in _on(prepared.analysis.joins[id(level)])]
    return prepared.analysis.classes(tuple(found))


def _on(item: analyze.Item | None) -> tuple[tree.Node, ...]:
    if not isinstance(item, analyze.Join):
        return ()
    return item.terms + _on(item.left) + _on(item.right)


# -- replicas of which each row matters once


def _kept(prepared: prepare.Prepared) -> Iterator[int]:
    """Reference tables on the preserved side of an outer join, or asked for row by row in sub-SELECTs."""
    for level in prepared.scopes.levels:
        root = prepared.analysis.joins[id(level)]
        if root is None:
            continue
        yield from _preserved(root)
        if _spreads(root):
            continue
        if any(
            item.parent is level and item.place == "sublink" and _reads_shards(item, prepared)
            for item in prepared.scopes.levels
        ):
            yield from _replicas(root)


def _preserved(item: analyze.Item) -> Iterator[int]:
    if not isinstance(item, analyze.Join):
        return
    repeated = item.kind == "JOIN_LEFT" or _is_lateral(item.right)
    if item.kind == "JOIN_FULL" or (repeated and _spreads(item.right)):
        for side in (item.left, item.right) if item.kind == "JOIN_FULL" else (item.left,):
            if not _spreads(side):
                yield from _replicas(side)
    yield from _preserved(item.left)
    yield from _preserved(item.right)


def _is_lateral(item: analyze.Item) -> bool:
    return isinstance(item, names.Other) and item.level is not None and item.level.place == "lateral"


def _leaves(item: analyze.Item) -> Iterator[names.Reference]:
    """The tables of a FROM tree, those inside its sub-SELECTs too."""
    for leaf in analyze.members(item):
        if isinstance(leaf, names.Reference):
            yield leaf
        elif leaf.level is not None:
            yield from _of_level(leaf.level)


def _of_level(level: names.Level) -> Iterator[names.Reference]:
    for item in level.relations.values():
        if isinstance(item, names.Reference):
            yield item
        elif item.level is not None and item.kind == "subquery":
            yield from _of_level(item.level)


def _spreads(item: analyze.Item) -> bool:
    return any(leaf.table.kind is not snapshots.TableKind.REFERENCE for leaf in _leaves(item))


def _replicas(item: analyze.Item) -> Iterator[int]:
    return (id(leaf) for leaf in _leaves(item) if leaf.table.kind is snapshots.TableKind.REFERENCE)


def _reads_shards(level: names.Level, prepared: prepare.Prepared) -> bool:
    def inside(other: names.Level | None) -> bool:
        return other is not None and (other is level or inside(other.parent))

    return any(
        item.table.kind is not snapshots.TableKind.REFERENCE
        for other in prepared.scopes.levels
        if inside(other)
        for item in other.references
    )


# -- homes


def _at_anchor(prepared: prepare.Prepared, found: Tables, anchor: list[Moving]) -> Iterator[Arrangement]:
    """One group stays."""
    nodes = len(prepared.ctx.snapshot.data_nodes)
    first = next((item.reference for item in anchor if scans.is_distributed(item.reference)), None)
    home = None if first is None else Home(first.table.shards, first.table.colocation_id)
    keys = [key(item.reference) for item in anchor if scans.is_distributed(item.reference)]
    classes = _classes(prepared)
    moving = [item for group in found.groups if group is not anchor for item in group]
    dealable = _columns_of(moving, keys, classes)
    kept = [item for item in found.replicas if id(item.reference) in found.kept]
    split = _columns_of(kept, keys, classes)
    cheap = {
        id(item.reference): dealable[id(item.reference)]
        for item in moving
        if id(item.reference) in dealable and cost.repartition(item.size) < cost.broadcast(item.size, nodes)
    }
    parts = min((len(prepared.pruned[id(item.reference)].shards) for item in anchor), default=1)
    choices = [{}, dealable, *([cheap] if cheap and cheap != dealable else [])]
    for choice in choices if dealable else choices[:1]:
        yield _arrangement(home, moving, choice, nodes, parts)
        if split:
            yield _arrangement(home, [*moving, *kept], choice | split, nodes, parts)


def _at_made_up(prepared: prepare.Prepared, found: Tables) -> Iterator[Arrangement]:
    """All tables move: both sides of a join by what they are joined on, or one replica that is kept whole."""
    nodes = len(prepared.ctx.snapshot.data_nodes)
    home = _made_up(prepared.ctx.snapshot)
    classes = _classes(prepared)
    moving = [item for group in found.groups for item in group]
    kept = [item for item in found.replicas if id(item.reference) in found.kept]
    seen: set[analyze.Key] = set()
    for item in found.movings():
        for column in _hashable(item):
            root = classes.find((id(item.reference), column.name))
            if root in seen:
                continue
            seen.add(root)
            dealt = _columns_of([*moving, *kept], [(id(item.reference), column.name)], classes)
            if len(dealt) > 1 and any(id(other.reference) in dealt for other in moving):
                yield _arrangement(home, moving, _without(dealt, kept), nodes)
                if len(_without(dealt, kept)) < len(dealt):
                    yield _arrangement(home, [*moving, *kept], dealt, nodes)
    for item in kept:
        for first in _hashable(item)[:1]:
            yield _arrangement(home, [*moving, item], {id(item.reference): first.name}, nodes)


def _without(dealt: Mapping[int, str], items: Iterable[Moving]) -> dict[int, str]:
    out = {id(item.reference) for item in items}
    return {number: name for number, name in dealt.items() if number not in out}


def _made_up(snapshot: snapshots.Snapshot) -> Home:
    nodes = [node.node_id for node in snapshot.data_nodes]
    shards = tuple(
        snapshots.Shard(ids.ShardId(0), index, low, high, (nodes[index % len(nodes)],), 0)
        for index, (low, high) in enumerate(hashing.shard_ranges(_PARTS * len(nodes)))
    )
    return Home(shards, _MADE_UP)


def _hashable(item: Moving) -> list[snapshots.Column]:
    return [column for column in item.columns if column.base_oid in _HASHED]


def _columns_of(
    items: Iterable[Moving], keys: Iterable[analyze.ColumnKey], classes: analyze.Classes
) -> dict[int, str]:
    """Of each mention, by id, a column that equals one of `keys`."""
    wanted = tuple(keys)
    found: dict[int, str] = {}
    for item in items:
        for column in _hashable(item):
            own = (id(item.reference), column.name)
            if any(classes.equal(own, other) for other in wanted):
                found.setdefault(id(item.reference), column.name)
    return found


def _arrangement(
    home: Home | None,
    moving: Iterable[Moving],
    dealt: Mapping[int, str],
    nodes: int,
    parts: int | None = None,
) -> Arrangement:
    items = {id(item.reference): item for item in moving}
    broadcast = frozenset(items) - frozenset(dealt)
    total = sum(cost.broadcast(items[number].size, nodes) for number in broadcast)
    total += sum(cost.repartition(items[number].size) for number in dealt)
    total += cost.joined(_PARTS * nodes if parts is None else parts, len(items))
    return Arrangement(home if dealt else None, dealt, broadcast, total)
