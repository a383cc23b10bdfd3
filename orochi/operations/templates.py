"""Generic plans of prepared statements: one template a statement, whatever its parameters."""

from __future__ import annotations

from typing import TypeAlias

from orochi.catalog import snapshot as snapshots
from orochi.planner import builtins, insert, modify, parse, select
from orochi.planner import context as planning
from orochi.planner import plan as plans

Template: TypeAlias = plans.Router | plans.Modify | insert.Template


def template(
    sql: str,
    type_oids: tuple[int, ...],
    snapshot: snapshots.Snapshot,
    search_path: tuple[str, ...],
    functions: builtins.Builtins,
    *,
    collation: str,
    temp_tables: frozenset[str] = frozenset(),
) -> Template | None:
    """The template of `sql`, or None where its plan depends on the parameters' values."""
    statements = parse.parse(sql)
    if len(statements) != 1:
        return None
    statement = statements[0]
    context = planning.PlanContext(
        snapshot=snapshot,
        search_path=search_path,
        builtins=functions,
        collation=collation,
        temp_tables=temp_tables,
    )
    match statement.kind:
        case parse.Kind.SELECT:
            return select.template(statement, type_oids, context)
        case parse.Kind.INSERT:
            return insert.template(statement, type_oids, context)
        case parse.Kind.UPDATE | parse.Kind.DELETE:
            return modify.template(statement, type_oids, context)
        case _:
            return None
