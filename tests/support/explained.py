"""EXPLAIN's text of any statement over a made-up catalog, as the gateway would give it, without a server.

What the planner has to ask a session is answered here: expressions from `FOLDED`, columns of stages
by the names that the statement gives them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

from orochi import errors
from orochi.planner import (
    context,
    explain,
    fragment,
    labels,
    literals,
    modify,
    parse,
    rehearsal,
    select,
    spread,
    staged,
    subqueries,
    transfer,
)
from orochi.planner import plan as plans

Plan = TypeVar("Plan")

_UNFIT = (spread.Unfit, parse.CannotDeparse, errors.FeatureNotSupported)
_TIME = "timestamp without time zone"
#: What the session says of expressions without columns.
FOLDED = {
    "now()": literals.Literal(0, "timestamp with time zone", "2024-01-03 12:00:00+00"),
    "0.06 - 0.01": literals.Literal(0, "numeric", "0.05"),
    "0.06 + 0.01": literals.Literal(0, "numeric", "0.07"),
    "date '2024-01-05' - 1": literals.Literal(0, "date", "2024-01-04"),
    **{
        f"CAST('{day}' AS date) {sign} CAST('{count}' AS interval {unit})": literals.Literal(0, _TIME, f"{then} 00:00:00")
        for day, sign, count, unit, then in (
            ("1998-12-01", "-", 90, "day", "1998-09-02"),
            ("1993-07-01", "+", 3, "month", "1993-10-01"),
            ("1994-01-01", "+", 1, "year", "1995-01-01"),
            ("1994-01-01", "+", 3, "year", "1997-01-01"),
            ("1993-10-01", "+", 3, "month", "1994-01-01"),
            ("1995-09-01", "+", 1, "month", "1995-10-01"),
            ("1996-01-01", "+", 3, "month", "1996-04-01"),
        )
    },
}  # fmt: skip


def text(sql: str, ctx: context.PlanContext) -> list[str]:
    """The lines of EXPLAIN, or of the error it gives."""
    statement = parse.parse_one(sql)
    try:
        return explain.lines(_found(statement, ctx))
    except errors.OrochiError as error:
        return [f"ERROR {error.sqlstate}: {error}"]


def _found(statement: parse.Statement, ctx: context.PlanContext) -> dict[str, object]:
    snapshot = ctx.snapshot
    if rehearsal.writes_inside(statement.tree, snapshot, ctx.search_path, ctx.temp_tables):
        return _rehearsed(statement, ctx)
    if statement.kind is parse.Kind.SELECT:
        return explain.as_dict(answered(lambda known: select.plan(statement, known), ctx), snapshot)

    def written(known: context.PlanContext) -> plans.Modify:
        if statement.kind is parse.Kind.MERGE:
            return transfer.plan_merge(statement, known)
        if statement.kind is parse.Kind.INSERT:
            return transfer.plan_insert(statement, known)
        return modify.plan(statement, known)

    try:
        return explain.as_dict(answered(written, ctx), snapshot)
    except _UNFIT as unfit:
        if statement.kind is parse.Kind.INSERT:
            return {"Node Type": "Orochi Insert", "Not shard by shard": str(unfit)}
        return _rehearsed(statement, ctx)


def _rehearsed(statement: parse.Statement, ctx: context.PlanContext) -> dict[str, object]:
    return explain.rehearsal(answered(lambda known: rehearsal.plan(statement, known), ctx), ctx.snapshot)


def answered(plan: Callable[[context.PlanContext], Plan], ctx: context.PlanContext) -> Plan:
    """What `plan` gives once its questions are answered."""
    while True:
        try:
            return plan(ctx)
        except literals.NeedsFolding as needed:
            given = {sql: _folded(sql) for sql in needed.expressions}
            ctx = dataclasses.replace(ctx, folded={**ctx.folded, **given})
        except staged.NeedsColumns as wanted:
            described = {sql: columns(sql) for sql in wanted.queries}
            ctx = dataclasses.replace(ctx, described={**ctx.described, **described})
        except subqueries.NeedsSubqueries as wanted:
            rows = {sql: context.SubqueryResult(("n",), ("integer",), (("7",),)) for sql in wanted.queries}
            ctx = dataclasses.replace(ctx, subqueries={**ctx.subqueries, **rows})


def _folded(sql: str) -> literals.Literal:
    """A value; of an expression that is asked for its type only, a NULL of the type."""
    if sql.startswith("CASE WHEN false"):
        return literals.Literal(0, "integer" if sql.endswith("THEN 1 ELSE 0 END) END") else "numeric", None)
    return FOLDED[sql]


def columns(sql: str) -> tuple[fragment.OutputColumn, ...]:
    """The columns of a SELECT over shells: named as it names them, all of type numeric."""
    stmt = parse.parse_one(sql).tree
    while stmt.larg is not None:
        stmt = stmt.larg
    return tuple(
        fragment.OutputColumn(labels.output_name(target), 1700, -1, "numeric") for target in stmt.targetList
    )
