"""How the tables of a statement come together: which stay, and how the others come to them.

Arrangements (`homes`) are tried from the cheapest on; what moves in one becomes stages, filtered and
cut to the columns that are needed: broadcast, or dealt out by the hash of a column. Whether one
answers the statement shard by shard (outer joins, sub-SELECTs, groups) is judged by the rules for
any statement over co-located tables.
"""

from __future__ import annotations

from collections.abc import Callable

from orochi import pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.planner import (
    ctes,
    group_keys,
    homes,
    lookup,
    names,
    parse,
    prepare,
    pull,
    recursive,
    scans,
    semijoin,
    settled,
    spread,
    staged,
    tree,
)
from orochi.planner import (
    plan as plans,
)
from orochi.planner.tree import ast

ByShards = Callable[[prepare.Prepared], plans.SelectPlan]

#: Arrangements tried at most: what is left after that is pulled.
_TRIES = 16
_ASKING = frozenset({"EXISTS_SUBLINK", "ANY_SUBLINK", "ALL_SUBLINK"})
_SAME_BYTES = pgtypes.INTEGERS | pgtypes.TIMES | {pgtypes.UUID}


def plan(prepared: prepare.Prepared, builder: recursive.Builder, by_shards: ByShards) -> plans.SelectPlan:
    """The best arrangement of tables that stay, are broadcast and dealt out, that answers the statement."""
    _refuse_names(prepared)
    tables = homes.tables(prepared)
    if not tables.groups:
        raise spread.Unfit("no table in it is distributed")
    reason: spread.Unfit | None = None
    for arrangement in homes.arrangements(prepared, tables)[:_TRIES]:
        trial = builder.fork()
        try:
            stmt = _arranged(prepared, trial, tables, arrangement)
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


def _arranged(
    prepared: prepare.Prepared, builder: recursive.Builder, tables: homes.Tables, chosen: homes.Arrangement
) -> tree.Node:
    """The statement with all tables that move replaced by stages."""
    moved = [
        item
        for item in tables.movings()
        if id(item.reference) in chosen.dealt or id(item.reference) in chosen.broadcast
    ]
    gone = settled.terms([item.reference for item in moved], prepared)
    used = pull.used_columns(prepared, settled.columns(gone, prepared))
    replaced: dict[int, tree.Node] = {}
    for item in moved:
        reference = item.reference
        name = chosen.dealt.get(id(reference))
        if group_keys.primary_key(reference, item.columns, prepared):
            raise spread.Unfit("GROUP BY relies on the primary key of a table that is moved")
        made = _moved(item, used[id(reference)], prepared, builder, name)
        if name is not None:
            assert chosen.home is not None
            position = next(i for i, column in enumerate(made.columns) if column.name == name)
            made = staged.dealt(made, position, chosen.home.shards, chosen.home.colocation)
            builder.replace(made)
        given = tree.strings(reference.node.alias.colnames) if reference.node.alias is not None else ()
        replaced[id(reference.node)] = recursive.stage_relation(made, reference.alias, given)
    return settled.without(prepared.statement.tree, gone, replaced)


def _moved(
    moving: homes.Moving,
    columns: tuple[snapshots.Column, ...],
    prepared: prepare.Prepared,
    builder: recursive.Builder,
    dealt: str | None,
) -> snapshots.Table:
    """The stage of one mention of a table: its needed columns, filtered by what is about it alone."""
    reference = moving.reference
    table = reference.table
    if any(column.collation not in (None, 'pg_catalog."default"') for column in columns):
        raise spread.Unfit("a column that would be moved has a collation of its own")
    terms = [*pull.own_terms(reference, prepared), *settled.implied(reference, prepared)]
    listed = ", ".join(names.quoted(column.name) for column in columns)
    asked = _is_asked_for(reference, columns, prepared)
    output = tuple(scans.output(column) for column in columns)
    partnered = semijoin.terms(reference, prepared) if moving.size >= semijoin.FEW_BYTES else []

    def stage(conditions: list[str]) -> snapshots.Table:
        sql = f"SELECT {'DISTINCT ' if asked else ''}{listed} FROM {names.qualified(table)}"
        if conditions:
            sql += " WHERE " + " AND ".join(f"({term})" for term in conditions)
        select = parse.parse_one(sql).tree
        return builder.add(select, columns=output, dealt=f"{dealt or ''}{' once' if asked else ''}")

    try:
        made = stage([*terms, *partnered])
    except spread.Unfit:
        if not partnered:
            raise
        made = stage(terms)
    if asked:
        builder.loosen(made)
    return made


def _is_asked_for(
    reference: names.Reference, columns: tuple[snapshots.Column, ...], prepared: prepare.Prepared
) -> bool:
    """Whether it matters only that rows are there, not how many alike: the table is all that EXISTS or IN reads.

    Then each shard gives a value once, of a type whose equal values are the same bytes.
    """
    level = reference.level
    if level.place != "sublink" or level.parent is None or len(level.relations) != 1:
        return False
    stmt = level.stmt
    if (
        stmt.larg is not None
        or stmt.withClause
        or stmt.limitCount is not None
        or stmt.limitOffset is not None
    ):
        return False
    if stmt.groupClause or stmt.havingClause or spread.is_aggregated(stmt, prepared) or spread.windows(stmt):
        return False
    if len(columns) != 1 or columns[0].base_oid not in _SAME_BYTES:
        return False  # what is needed of several columns is seldom alike
    if (columns[0].name,) in reference.table.unique_keys:
        return False
    return any(
        isinstance(node, ast.SubLink) and node.subselect is stmt and node.subLinkType.name in _ASKING
        for node in tree.walk(level.parent.stmt)
    )
