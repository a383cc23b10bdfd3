"""What a continuous aggregate keeps, as queries on rows may ask for it: by the text of each expression.

Only aggregates over one hypertable, nothing beside it, answer queries on rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from orochi.catalog import snapshot as snapshots
from orochi.planner import continuous, parse, tree
from orochi.planner.tree import ast

#: The same function: which one is found first depends on the search_path.
BUCKETS = frozenset({("orochi", "time_bucket"), ("orochi_api", "time_bucket")})


class Unanswered(Exception):
    """An aggregate cannot answer this."""


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """A continuous aggregate over the rows of one hypertable.

    Attributes:
        aggregate: which.
        table: the hypertable.
        outputs: its columns, by the text of what each is; `types` their types, 0 with a collation of their own.
        keys: texts of what it groups by; `terms` of the conditions on its rows.
        zoned: whether its buckets depend on a time zone.
    """

    aggregate: snapshots.Aggregate
    table: tuple[str, str]
    outputs: Mapping[str, str]
    types: Mapping[str, int]
    keys: frozenset[str]
    terms: frozenset[str]
    zoned: bool


def source(aggregate: snapshots.Aggregate, snapshot: snapshots.Snapshot) -> Source | None:
    """What an aggregate can answer; None for one over joins, sub-SELECTs or other aggregates."""
    table = snapshot.tables[aggregate.table_oid]
    view, kept = snapshot.views.get(aggregate.query), snapshot.tables.get(aggregate.materialization_oid)
    if view is None or kept is None or aggregate.bucket.others or aggregate.materialized_only:
        return None
    stmt = parse.parse_one(view.definition).tree
    try:
        if table_of(stmt) != (table.schema, table.name) or stmt.havingClause is not None:
            return None
        _, call, _ = continuous.bucket_of(stmt)
        if tree.strings(call.funcname) not in BUCKETS:
            return None
        texts = [text_of(target.val) for target in stmt.targetList]
        return Source(
            aggregate=aggregate,
            table=(table.schema, table.name),
            outputs=dict(zip(texts, view.columns, strict=True)),
            types={column.name: 0 if column.collation else column.type_oid for column in kept.columns},
            keys=frozenset(text_of(item) for item in stmt.groupClause),
            terms=frozenset(text_of(item) for item in tree.conjuncts(stmt.whereClause)),
            zoned=any(continuous.is_text(item) for item in call.args[1:]),
        )
    except Unanswered:
        return None


def table_of(stmt: tree.Node) -> tuple[str, str]:
    """The only relation of a level without sub-SELECTs.

    Raises:
        Unanswered: the level is another.
    """
    if not isinstance(stmt, ast.SelectStmt) or stmt.larg is not None or stmt.valuesLists:
        raise Unanswered
    if stmt.withClause or stmt.lockingClause or stmt.intoClause or len(stmt.fromClause or ()) != 1:
        raise Unanswered
    relation = stmt.fromClause[0]
    if not isinstance(relation, ast.RangeVar) or not relation.inh or not relation.schemaname:
        raise Unanswered
    if relation.alias is not None and relation.alias.colnames:
        raise Unanswered
    called = relation.alias.aliasname if relation.alias is not None else relation.relname
    for item in tree.walk(stmt):
        if isinstance(item, (ast.SubLink, ast.GroupingSet, ast.GroupingFunc, ast.A_Star, ast.ParamRef)):
            raise Unanswered
        if isinstance(item, ast.ColumnRef) and tree.strings(item.fields)[:-1] not in ((), (called,)):
            raise Unanswered  # of a query around it
    return relation.schemaname, relation.relname


def text_of(node: tree.Node) -> str:
    """An expression's text, columns by their bare names: the level has one relation.

    Raises:
        Unanswered: it has no text.
    """

    def bare(item: tree.Node) -> tree.Node | None:
        if tree.is_column(item):
            return tree.column(tree.strings(item.fields)[-1])
        if isinstance(item, ast.FuncCall) and tree.strings(item.funcname) in BUCKETS:
            return tree.changed(
                item, funcname=tree.names("time_bucket"), args=tree.transform(item.args, bare)
            )
        return None

    try:
        return parse.deparse_expression(tree.transform(node, bare))
    except parse.CannotDeparse as error:
        raise Unanswered from error
