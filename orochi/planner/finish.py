"""Final steps that are adding up, a little arithmetic on totals, and sorting: the gateway takes them itself.

What a final SQL says is read from its text; whether the rows' types and values suit is seen when they are there
(`orochi.executor.finishing`). Everything else is PostgreSQL's.
"""

from __future__ import annotations

import dataclasses
import decimal
import functools
import re
from collections.abc import Iterator
from typing import TypeAlias

from orochi.planner import parse, tree
from orochi.planner import plan as plans
from orochi.planner.tree import ast

_BIGINT = ("pg_catalog", "int8")
_AVERAGE, _MERGED = ("float8_avg",), ("orochi", "_merged_moments")
_OPERATORS = frozenset("+-*/")
_PLAIN_NUMBER = re.compile(r"[0-9]{0,30}(\.[0-9]{0,30})?")
#: Of the parts of a SELECT, those that a final step may have.
_KNOWN = frozenset(
    {"targetList", "fromClause", "whereClause", "groupClause", "sortClause", "limitCount", "limitOffset"}
)
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclasses.dataclass(frozen=True, slots=True)
class Total:
    """The sum of a column over a group's rows.

    Attributes:
        column: of the intermediate.
        is_bigint: cast to bigint; else it is what PostgreSQL's sum() gives.
        or_zero: 0 where there is nothing to add.
    """

    column: str
    is_bigint: bool = False
    or_zero: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class NullIfZero:
    """NULLIF(value, 0)."""

    value: Term


@dataclasses.dataclass(frozen=True, slots=True)
class Arithmetic:
    """`left operator right` on numerics, of `+ - * /`; one side at least has a total."""

    operator: str
    left: Term
    right: Term


#: What numerics are computed from. A total in it is no bigint.
Term: TypeAlias = "Total | NullIfZero | Arithmetic | decimal.Decimal"
#: A column of the intermediate by its name, a total, or what is computed from totals.
Output: TypeAlias = "str | Total | Arithmetic"


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """What rows are sorted by."""

    output: Output
    descends: bool = False
    nulls_first: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Filter:
    """Rows are kept where `column operator value`; the value is of totals over all rows.

    Attributes:
        operator: one of `< <= > >=`.
    """

    column: str
    operator: str
    value: Term


@dataclasses.dataclass(frozen=True, slots=True)
class Finish:
    """A final step over one intermediate.

    Attributes:
        outputs: the result's columns.
        groups: the columns that rows are added up by; None if each row stays one.
        order: what the result is sorted by.
        limit: how many rows are wanted, None for all, after the first `offset`.
        kept: which rows; only where each row stays one.
    """

    outputs: tuple[Output, ...]
    groups: tuple[str, ...] | None
    order: tuple[Key, ...]
    limit: int | None
    offset: int = 0
    kept: Filter | None = None


class _Other(Exception):
    """Something that is left to PostgreSQL."""


def of_plan(plan: plans.Distributed) -> Finish | None:
    """The final step of a plan, if it is one of these."""
    if plan.final_sql is None or len(plan.intermediates) != 1 or plan.intermediates[0].needs_table:
        return None
    return of(plan.final_sql, plan.intermediates[0].name)


@functools.lru_cache(maxsize=1_000)
def of(final_sql: str, intermediate: str) -> Finish | None:
    """What `final_sql` does with the one intermediate that it reads; None if it is more than adding up and sorting."""
    if len(final_sql) > 20_000:
        return None
    try:
        return _read(parse.parse_one(final_sql).tree, intermediate)
    except _Other:
        return None


def _read(stmt: tree.Node, intermediate: str) -> Finish:
    if not isinstance(stmt, ast.SelectStmt) or stmt.op.name != "SETOP_NONE" or stmt.groupDistinct:
        raise _Other
    if any(getattr(stmt, name) for name in tree.fields(stmt) if name not in _KNOWN):
        raise _Other
    _check_source(stmt, intermediate)
    outputs = tuple(_output(target.val, intermediate) for target in stmt.targetList or ())
    order = tuple(_key(item, intermediate) for item in stmt.sortClause or ())
    groups = tuple(_column(node, intermediate) for node in stmt.groupClause or ())
    asked = (*outputs, *(key.output for key in order))
    adds_up = bool(groups) or any(not isinstance(output, str) for output in asked)
    if adds_up and any(isinstance(output, str) and output not in groups for output in asked):
        raise _Other
    if stmt.limitOption.name == "LIMIT_OPTION_WITH_TIES":
        raise _Other
    kept = None if stmt.whereClause is None else _filter(stmt.whereClause, intermediate)
    if kept is not None and adds_up:
        raise _Other
    limit, offset = _number(stmt.limitCount), _number(stmt.limitOffset) or 0
    return Finish(outputs, groups if adds_up else None, order, limit, offset, kept)


def _check_source(stmt: tree.Node, intermediate: str) -> None:
    source: tree.Node = stmt.fromClause or ()
    if len(source) != 1 or not isinstance(source[0], ast.RangeVar) or source[0].relname != intermediate:
        raise _Other
    if source[0].alias is None or source[0].alias.aliasname != intermediate or source[0].alias.colnames:
        raise _Other


def _filter(node: tree.Node, intermediate: str) -> Filter:
    operator = tree.operator(node)
    if operator not in _MIRRORED:
        raise _Other
    left, right = node.lexpr, node.rexpr
    if isinstance(left, ast.SubLink):
        left, right, operator = right, left, _MIRRORED[operator]
    if not isinstance(right, ast.SubLink) or right.subLinkType.name != "EXPR_SUBLINK":
        raise _Other
    inner = right.subselect
    if any(getattr(inner, name) for name in tree.fields(inner) if name not in ("targetList", "fromClause")):
        raise _Other
    _check_source(inner, intermediate)
    if inner.op.name != "SETOP_NONE" or len(inner.targetList or ()) != 1:
        raise _Other
    value = _term(inner.targetList[0].val, intermediate)
    if not any(True for _ in totals(value)):
        raise _Other
    return Filter(_column(left, intermediate), operator, value)


def _key(item: tree.Node, intermediate: str) -> Key:
    if item.useOp or isinstance(item.node, ast.A_Const):  # an operator, a position
        raise _Other
    descends, nulls = item.sortby_dir.name == "SORTBY_DESC", item.sortby_nulls.name
    nulls_first = descends if nulls == "SORTBY_NULLS_DEFAULT" else nulls == "SORTBY_NULLS_FIRST"
    return Key(_output(item.node, intermediate), descends, nulls_first)


def _number(node: tree.Node) -> int | None:
    if node is None:
        return None
    value = getattr(node, "val", None)
    if not isinstance(value, ast.Integer) or (value.ival or 0) < 0:  # which is an error
        raise _Other
    return int(value.ival or 0)


def _output(node: tree.Node, intermediate: str) -> Output:
    if isinstance(node, ast.ColumnRef):
        return _column(node, intermediate)
    if isinstance(node, ast.A_Expr):
        return _arithmetic(node, intermediate)
    if isinstance(node, ast.FuncCall) and tree.strings(node.funcname) == _AVERAGE:
        return _average(node, intermediate)
    if not isinstance(node, ast.TypeCast):
        return Total(_summed(node, intermediate))
    kind, inner = node.typeName, node.arg
    if tree.strings(kind.names) != _BIGINT or kind.arrayBounds or kind.typmods or kind.setof:
        raise _Other
    if not isinstance(inner, ast.CoalesceExpr):
        return Total(_summed(inner, intermediate), is_bigint=True)
    value, *others = inner.args
    if [getattr(other, "val", None) for other in others] != [ast.Integer(ival=0)]:
        raise _Other
    return Total(_summed(value, intermediate), is_bigint=True, or_zero=True)


def _arithmetic(node: tree.Node, intermediate: str) -> Arithmetic:
    operator = tree.strings(node.name)
    if (
        node.kind.name != "AEXPR_OP"
        or len(operator) != 1
        or operator[0] not in _OPERATORS
        or node.lexpr is None
    ):
        raise _Other
    found = Arithmetic(operator[0], _term(node.lexpr, intermediate), _term(node.rexpr, intermediate))
    if not any(True for _ in totals(found)):  # whose types constants alone decide
        raise _Other
    return found


def _term(node: tree.Node, intermediate: str) -> Term:
    if isinstance(node, ast.A_Const):
        return _constant(node)
    if isinstance(node, ast.FuncCall) and tree.strings(node.funcname) == _AVERAGE:
        return _average(node, intermediate)
    if not isinstance(node, ast.A_Expr):
        return Total(_summed(node, intermediate))
    if node.kind.name != "AEXPR_NULLIF":
        return _arithmetic(node, intermediate)
    if getattr(node.rexpr, "val", None) != ast.Integer(ival=0):
        raise _Other
    return NullIfZero(_term(node.lexpr, intermediate))


def _average(node: tree.Node, intermediate: str) -> Arithmetic:
    """The mean by merged moments of doubles: how many, their sum, and squares that it does not need."""
    (merged,) = node.args
    if not isinstance(merged, ast.FuncCall) or tree.strings(merged.funcname) != _MERGED:
        raise _Other
    (moments,) = merged.args
    if merged.agg_filter or not isinstance(moments, ast.A_ArrayExpr) or len(moments.elements) != 3:
        raise _Other
    count, summed = (Total(_column(moment, intermediate)) for moment in moments.elements[:2])
    return Arithmetic("/", summed, NullIfZero(count))


def _constant(node: tree.Node) -> decimal.Decimal:
    match node.val:
        case ast.Integer():
            return decimal.Decimal(node.val.ival or 0)
        case ast.Float() if _PLAIN_NUMBER.fullmatch(node.val.fval):
            return decimal.Decimal(node.val.fval)
    raise _Other


def totals(term: Term | Output) -> Iterator[Total]:
    """The totals that a term, or an output, is computed from."""
    match term:
        case Total():
            yield term
        case NullIfZero():
            yield from totals(term.value)
        case Arithmetic():
            yield from totals(term.left)
            yield from totals(term.right)


def _summed(node: tree.Node, intermediate: str) -> str:
    if not isinstance(node, ast.FuncCall) or tree.strings(node.funcname) not in (
        ("sum",),
        ("pg_catalog", "sum"),
    ):
        raise _Other
    if node.agg_distinct or node.agg_filter or node.agg_order or node.over or node.func_variadic:
        raise _Other
    if len(node.args or ()) != 1:
        raise _Other
    return _column(node.args[0], intermediate)


def _column(node: tree.Node, intermediate: str) -> str:
    if not tree.is_column(node):
        raise _Other
    parts = tree.strings(node.fields)
    if len(parts) != 2 or parts[0] != intermediate:
        raise _Other
    return parts[1]
