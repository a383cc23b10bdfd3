"""Which tables of a statement stay where they are, and how the others come to them.

One group of co-located mentions stays: the anchor, the one that would cost most to move. The others
become stages, filtered and cut to the columns that are needed: broadcast, or dealt out by the hash
of the column they are joined on. Arrangements are tried from the cheapest on; whether one answers
the statement shard by shard (outer joins, sub-SELECTs, groups) is judged by the rules for any
statement over co-located tables.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from orochi import pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.planner import (
    analyze,
    cost,
    ctes,
    lookup,
    names,
    parse,
    prepare,
    pull,
    recursive,
    scans,
    spread,
    staged,
    tree,
)
from orochi.planner import (
    plan as plans,
)

ByShards = Callable[[prepare.Prepared], plans.SelectPlan]

#: Types whose hash is taken of carrier values (`sharding.hashing`).
_HASHED = pgtypes.INTEGERS | pgtypes.TIMES | {pgtypes.TEXT, pgtypes.VARCHAR, pgtypes.UUID}
#: Arrangements tried at most: what is left after that is pulled.
_TRIES = 12


@dataclasses.dataclass(frozen=True, slots=True)
class _Moving:
    """A mention of a table, and what it costs to move."""

    reference: names.Reference
    rows: int
    size: int
    columns: tuple[snapshots.Column, ...]


def plan(prepared: prepare.Prepared, builder: recursive.Builder, by_shards: ByShards) -> plans.SelectPlan:
    """The best arrangement of anchor, broadcasts and repartitions that answers the statement."""
    _refuse_names(prepared)
    groups = _groups(prepared)
    if not groups:
        raise spread.Unfit("no table in it is distributed")
    reason: spread.Unfit | None = None
    for number, (anchor, deal) in enumerate(_arrangements(prepared, groups)):
        if number >= _TRIES:
            break
        trial = builder.fork()
        try:
            stmt = _arranged(prepared, trial, groups, anchor, deal=deal)
            changed = prepare.prepare(ctes.statement(stmt), trial.ctx)
            return trial.finish(by_shards(changed))
        except spread.Unfit as unfit:
            reason = reason or unfit
    raise reason or spread.Unfit("no arrangement of its tables fits")


def _refuse_names(prepared: prepare.Prepared) -> None:
    for node, level in prepared.scopes.columns:
        if not tree.is_column(node):
            continue
        if tree.strings(node.fields)[-1] in names.SYSTEM_COLUMNS:
            raise spread.Unfit("a system column")
        if lookup.is_whole_row(node, level) is not None:
            raise spread.Unfit("a whole row is a value")
    if any(item.hidden or item.sampled for item in prepared.references):
        raise spread.Unfit("a join alias or TABLESAMPLE hides a table")


def _groups(prepared: prepare.Prepared) -> list[list[_Moving]]:
    """Mentions of tables whose rows already meet, largest group first."""
    used = pull.used_columns(prepared)
    groups: list[list[_Moving]] = []
    for item in prepared.references:
        if item.table.kind is snapshots.TableKind.REFERENCE:
            continue
        columns = used[id(item)]
        rows = cost.filtered_rows(item, prepared)
        moving = _Moving(item, rows, rows * cost.width_of(columns), columns)
        met = [group for group in groups if any(_meet(item, other.reference, prepared) for other in group)]
        groups = [group for group in groups if group not in met]
        groups.append([moving, *(other for group in met for other in group)])
    return sorted(groups, key=lambda group: -sum(item.size for item in group))


def _meet(a: names.Reference, b: names.Reference, prepared: prepare.Prepared) -> bool:
    """Whether two mentions are co-located and joined on their distribution columns."""
    if not scans.is_distributed(a) or not scans.is_distributed(b):
        single = snapshots.TableKind.SINGLE
        return a.table.kind is b.table.kind is single and scans.colocated([a, b])
    if not scans.colocated([a, b]):
        return False
    analysis = prepared.analysis
    return analysis.classes(terms(prepared)).equal(key(a), key(b))


def terms(prepared: prepare.Prepared) -> analyze.Terms:
    """Every condition of the statement that columns could be equal by.

    Some hold for a part of the rows only, so this is for guessing what may fit, not for proving it.
    """
    found = [
        (term, level)
        for level in prepared.scopes.levels
        for term in tree.conjuncts(getattr(level.stmt, "whereClause", None))
    ]
    for level in prepared.scopes.levels:
        found += [(term, level) for term in _on(prepared.analysis.joins[id(level)])]
    return tuple(found)


def _on(item: analyze.Item | None) -> tuple[tree.Node, ...]:
    if not isinstance(item, analyze.Join):
        return ()
    return item.terms + _on(item.left) + _on(item.right)


def key(item: names.Reference) -> analyze.ColumnKey:
    """A distributed table's distribution column."""
    return (id(item), str(item.table.distribution_column))


def _arrangements(
    prepared: prepare.Prepared, groups: list[list[_Moving]]
) -> Iterator[tuple[int, frozenset[int]]]:
    """Which group stays, and which mentions are dealt out: what is thought cheapest first."""
    nodes = len(prepared.ctx.snapshot.data_nodes)
    preference = prepared.ctx.force_strategy
    found = []
    for anchor, group in enumerate(groups):
        moving = [item for other, part in enumerate(groups) if other != anchor for item in part]
        dealable = {id(item.reference) for item in moving if _joined_on(item.reference, group, prepared)}
        cheap = frozenset(
            id(item.reference)
            for item in moving
            if id(item.reference) in dealable
            and cost.repartition(item.size) < cost.broadcast(item.size, nodes)
        )
        choices = {cheap, frozenset(), frozenset(dealable)}
        for deal in choices:
            total = sum(
                cost.repartition(item.size)
                if id(item.reference) in deal
                else cost.broadcast(item.size, nodes)
                for item in moving
            )
            worst = (preference == "repartition" and not deal) or (preference == "broadcast" and bool(deal))
            found.append((worst, total, anchor, len(deal), deal))
    for _, _, anchor, _, deal in sorted(found, key=lambda item: item[:4]):
        yield anchor, deal


def _joined_on(item: names.Reference, anchor: list[_Moving], prepared: prepare.Prepared) -> str | None:
    """The column of a table that equals the anchor's distribution column, if its hash can be taken."""
    analysis = prepared.analysis
    classes = analysis.classes(terms(prepared))
    for other in anchor:
        if not scans.is_distributed(other.reference):
            continue
        for column in item.table.columns:
            if column.base_oid not in _HASHED:
                continue
            if classes.equal((id(item), column.name), key(other.reference)):
                return column.name
    return None


def _arranged(
    prepared: prepare.Prepared,
    builder: recursive.Builder,
    groups: list[list[_Moving]],
    anchor: int,
    *,
    deal: frozenset[int],
) -> tree.Node:
    """The statement with all tables but the anchor's replaced by stages."""
    replaced: dict[int, tree.Node] = {}
    stays = groups[anchor]
    home = next((item.reference for item in stays if scans.is_distributed(item.reference)), None)
    for number, group in enumerate(groups):
        for item in group if number != anchor else ():
            reference = item.reference
            if pull.primary_key(reference, item.columns, prepared):
                raise spread.Unfit("GROUP BY relies on the primary key of a table that is moved")
            name = _joined_on(reference, stays, prepared) if id(reference) in deal else None
            made = _moved(item, prepared, builder, name or "")
            if home is not None and name is not None:
                position = next(i for i, column in enumerate(made.columns) if column.name == name)
                made = staged.dealt(made, position, home.table.shards, home.table.colocation_id)
                builder.replace(made)
            given = tree.strings(reference.node.alias.colnames) if reference.node.alias is not None else ()
            replaced[id(reference.node)] = recursive.stage_relation(made, reference.alias, given)
    return recursive.replaced(prepared.statement.tree, replaced)


def _moved(
    item: _Moving, prepared: prepare.Prepared, builder: recursive.Builder, dealt: str
) -> snapshots.Table:
    """The stage of one mention of a table: its needed columns, filtered by what is about it alone."""
    reference = item.reference
    table = reference.table
    if any(column.collation not in (None, 'pg_catalog."default"') for column in item.columns):
        raise spread.Unfit("a column that would be moved has a collation of its own")
    terms = pull.own_terms(reference, prepared)
    listed = ", ".join(names.quoted(column.name) for column in item.columns)
    sql = f"SELECT {listed} FROM {names.qualified(table)}"
    if terms:
        sql += " WHERE " + " AND ".join(f"({term})" for term in terms)
    select = parse.parse_one(sql).tree
    return builder.add(select, columns=tuple(scans.output(column) for column in item.columns), dealt=dealt)
