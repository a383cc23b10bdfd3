"""Writes through updatable views, rehearsed: the copy of the base table gets the same views above it.

In the statement the view's name gives way to that of the copy's topmost view before anything else is planned, so
that no one takes it for a view to be read.
"""

from __future__ import annotations

import dataclasses

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.planner import context, edit, names, parse, prepare, pull, rehearsal, tree, views
from orochi.planner.tree import ast

#: Numbers of copies from here on are of views.
_FIRST = 1_000


def chain(
    view: snapshots.View, ctx: context.PlanContext
) -> tuple[snapshots.Table, tuple[snapshots.View, ...]]:
    """The table that a simple view is over, and the views from it up to this one.

    Raises:
        FeatureNotSupported: it is over something else.
    """
    found: list[snapshots.View] = []
    current: snapshots.Table | snapshots.View | None = view
    while isinstance(current, snapshots.View) and len(found) < views.DEPTH:
        found.append(current)
        node = _source(parse.parse_one(current.definition).tree)
        current = (
            None
            if node is None
            else names.find_relation(ctx.snapshot, (), frozenset(), node.schemaname, node.relname)
        )
    if not isinstance(current, snapshots.Table):
        raise errors.FeatureNotSupported(
            f'cannot modify view "{view.name}" over an Orochi table in this statement',
            hint="Modify the table itself.",
        )
    return current, tuple(reversed(found))


def over(view: snapshots.View, lower: str) -> str:
    """The view's definition, over another relation than its own."""
    statement = parse.parse_one(view.definition)
    node = _source(statement.tree)
    editor = edit.Editor(statement)
    alias = f" AS {names.quoted(node.relname)}" if node.alias is None else ""
    editor.relation(node, lower + alias)
    return editor.result().strip().rstrip(";")


def _source(stmt: tree.Node) -> tree.Node:
    """The only relation of a SELECT, or None."""
    items: tree.Node = getattr(stmt, "fromClause", None) or ()
    return items[0] if len(items) == 1 and isinstance(items[0], ast.RangeVar) else None


def replaced(
    statement: parse.Statement, ctx: context.PlanContext
) -> tuple[parse.Statement, tuple[rehearsal.Copy, ...]]:
    """The statement, its target no view any more, and the copy that is to be made."""
    node = statement.tree.relation
    view = names.find_relation(ctx.snapshot, ctx.search_path, ctx.temp_tables, node.schemaname, node.relname)
    if not isinstance(view, snapshots.View):
        return statement, ()
    table, above = chain(view, ctx)
    name = f"orochi_w{_FIRST}"
    copy = dataclasses.replace(_copy(name, statement, table, ctx), above=above)
    editor = edit.Editor(statement)
    alias = f" AS {names.quoted(node.relname)}" if node.alias is None else ""
    editor.relation(node, f"pg_temp.{name}{alias}")
    return parse.parse_one(editor.result()), (copy,)


def _copy(
    name: str, statement: parse.Statement, table: snapshots.Table, ctx: context.PlanContext
) -> rehearsal.Copy:
    """Rows that the view shows and that the statement's own conditions do not rule out."""
    everywhere = tuple(shard.index for shard in table.shards)
    assigned = tuple(column.name for column in table.columns)  # under what names, the views know
    stmt = statement.tree
    whole = rehearsal.Copy(name, table.oid, everywhere, "", (), assigned, keyed=True)
    if isinstance(stmt, ast.InsertStmt):
        return whole
    joined = getattr(stmt, "fromClause", None) or getattr(stmt, "usingClause", None)
    terms = (
        ()
        if joined
        else tuple(
            term
            for term in tree.conjuncts(stmt.whereClause)
            if not any(isinstance(part, ast.SubLink) for part in tree.walk(term))
        )
    )
    read = ast.SelectStmt(
        targetList=_PLAIN.targetList,
        fromClause=(stmt.relation,),
        whereClause=tree.conjunction(terms),
        limitOption=_PLAIN.limitOption,
        op=_PLAIN.op,
        groupDistinct=False,
        all=False,
    )
    try:
        prepared = prepare.prepare(parse.parse_one(parse.deparse(read)), ctx)
    except parse.CannotDeparse:
        return whole
    mentions = [reference for reference in prepared.references if reference.table.oid == table.oid]
    if len(mentions) != 1:
        return whole
    pruned = prepared.pruned[id(mentions[0])]
    return dataclasses.replace(
        whole,
        shard_indexes=tuple(shard.index for shard in pruned.shards),
        condition=" AND ".join(f"({term})" for term in pull.own_terms(mentions[0], prepared)),
        predicates=pruned.predicates,
    )


_PLAIN: tree.Node = parse.parse_one("SELECT 1 FROM t WHERE true").tree
