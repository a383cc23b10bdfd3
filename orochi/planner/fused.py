"""Fragments that one pass over decoded columns answers: a filter, group keys and aggregates of plain columns.

A shape is found only where it means exactly what the fragment's SQL means to PostgreSQL; what is
not known here (another function, a condition that is no comparison with a constant) has none, and
DuckDB or PostgreSQL runs the fragment.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from orochi import pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.engine import shapes
from orochi.planner import literals, lookup, names, pieces, prepare, spread, tree
from orochi.planner.tree import ast

_TEXTS = frozenset({pgtypes.TEXT, pgtypes.VARCHAR})
_COUNTED = pgtypes.INTEGERS | pgtypes.FLOATS | pgtypes.TIMES | _TEXTS | {pgtypes.BOOL, pgtypes.UUID}
_GROUPED = pgtypes.INTEGERS | pgtypes.TIMES | _TEXTS | {pgtypes.BOOL, pgtypes.UUID}
_COMPARED = pgtypes.INTEGERS | pgtypes.FLOATS | pgtypes.TIMES | _TEXTS
_ARGUMENTS = {
    "count": _COUNTED,
    "sum": pgtypes.INTEGERS | {pgtypes.FLOAT8},
    "avg": pgtypes.INTEGERS | pgtypes.FLOATS,
    "min": pgtypes.INTEGERS | pgtypes.FLOATS | pgtypes.TIMES,
    "max": pgtypes.INTEGERS | pgtypes.FLOATS | pgtypes.TIMES,
}
_SECOND = 1_000_000
_UNITS = {
    "microsecond": 1,
    "millisecond": 1_000,
    "second": _SECOND,
    "sec": _SECOND,
    "minute": 60 * _SECOND,
    "min": 60 * _SECOND,
    "hour": 3_600 * _SECOND,
    "day": 86_400 * _SECOND,
    "week": 604_800 * _SECOND,
}
_WIDTH = re.compile(r"\s*(\d{1,6})\s*([a-z]+?)s?\s*")
#: As PostgreSQL prints hours, minutes and seconds, in views for one.
_CLOCK = re.compile(r"(\d{1,6}):([0-5]\d):([0-5]\d)(?:\.(\d{1,6}))?")
_TRUNCATED = ("microsecond", "millisecond", "second", "minute", "hour", "day", "week")
#: Monday, 2000-01-03, where weeks and time_bucket's buckets begin.
_MONDAY = 2 * 86_400 * _SECOND
_UTC = frozenset({"utc", "etc/utc", "gmt", "etc/gmt", "zulu", "uct", "etc/uct", "universal"})
#: Statistics that read the third element of a float's transition state.
_SPREADS = frozenset({"variance", "var_samp", "var_pop", "stddev", "stddev_samp", "stddev_pop"})


class _NoShape(Exception):
    """The fragment is not of this kind."""


def shape(
    prepared: prepare.Prepared,
    level: names.Level,
    keys: Sequence[tree.Node],
    outputs: Sequence[tree.Node],
    *,
    partial: bool,
) -> shapes.Shape | None:
    """The shape of a fragment that aggregates one table; None if it has none.

    Args:
        prepared: the statement.
        level: its query level.
        keys: what the fragment groups by.
        outputs: its columns.
        partial: whether the coordinator adds up what fragments give.
    """
    try:
        finder = _Finder(prepared, level)
        found_keys = tuple(finder.key(node) for node in keys)
        listed = []
        for node in outputs:
            index = next((at for at, key in enumerate(keys) if key == node), None)
            listed.append(shapes.Output("key", index=index) if index is not None else finder.output(node))
        return shapes.Shape(found_keys, tuple(listed), finder.conditions(), partial)
    except _NoShape:
        return None


def first_groups(level: names.Level, keys: Sequence[tree.Node], found: shapes.Shape) -> shapes.Shape:
    """The shape with what ORDER BY and LIMIT say of the groups that are wanted, if they say it.

    `keys` are what the statement groups by, canonical, in the order of the shape's first keys.
    """
    stmt = level.stmt
    if stmt.limitCount is None or stmt.havingClause or stmt.distinctClause or stmt.windowClause:
        return found
    if stmt.limitOption.name == "LIMIT_OPTION_WITH_TIES" or spread.group_expressions(level) is None:
        return found
    count, offset = pieces.number(stmt.limitCount), pieces.number(stmt.limitOffset) or 0
    order = pieces.sort_keys(level)
    if not count or (stmt.limitOffset is not None and pieces.number(stmt.limitOffset) is None):
        return found
    shown = [*(item.expression for item in pieces.outputs(level)), *(key.expression for key in order)]
    if not order or order[0].collation or any(map(_is_window, shown)):
        return found
    first = pieces.canonical(order[0].expression, level)
    at = next((at for at, key in enumerate(keys) if key == first), None)
    if at is None:
        return found
    argument = next((part for part in tree.walk(first) if tree.is_column(part)), None)
    column = lookup.find_column(argument, level) if argument is not None else None
    described = column[0].table.column(column[1]) if column is not None else None
    if described is None or not described.not_null:
        return found
    if described.type_oid not in pgtypes.INTEGERS | pgtypes.TIMES or described.name != found.keys[at].column:
        return found
    descending = order[0].words.strip().upper().startswith("DESC")
    return dataclasses.replace(found, top=shapes.Top(at, count + offset, descending))


def _is_window(node: tree.Node) -> bool:
    return any(isinstance(part, ast.FuncCall) and part.over is not None for part in tree.walk(node))


def rows(prepared: prepare.Prepared, level: names.Level, outputs: Sequence[tree.Node]) -> shapes.Shape | None:
    """The shape of a fragment that hands on columns of the rows it filters; None if it has none."""
    try:
        finder = _Finder(prepared, level)
        listed = tuple(shapes.Output("column", finder.any_column(node).name) for node in outputs)
        return shapes.Shape((), listed, finder.conditions(), rows=True)
    except _NoShape:
        return None


def best_rows(
    prepared: prepare.Prepared,
    level: names.Level,
    outputs: Sequence[tree.Node],
    key: tree.Node,
    order: tree.Node,
    *,
    descending: bool,
) -> shapes.Shape | None:
    """The shape of `SELECT DISTINCT ON (key) ... ORDER BY key, order`; None if it has none."""
    found = rows(prepared, level, outputs)
    if found is None:
        return None
    try:
        finder = _Finder(prepared, level)
        series = shapes.Key(finder.column(key, _GROUPED).name)
        column = finder.column(order, pgtypes.INTEGERS | pgtypes.TIMES)
    except _NoShape:
        return None
    return dataclasses.replace(found, keys=(series,), best=shapes.Best(column.name, descending))


class _Finder:
    """Reads the statement's only scan."""

    def __init__(self, prepared: prepare.Prepared, level: names.Level) -> None:
        if not prepared.ctx.vectorized or len(prepared.references) != 1 or len(prepared.scopes.levels) != 1:
            raise _NoShape
        if len(level.relations) != 1 or prepared.references[0].sampled:
            raise _NoShape
        self._prepared = prepared
        self._level = level

    def any_column(self, node: tree.Node) -> snapshots.Column:
        """A plain column, whatever its type."""
        found = lookup.find_column(node, self._level) if tree.is_column(node) else None
        column: snapshots.Column | None = found[0].table.column(found[1]) if found is not None else None
        if column is None:
            raise _NoShape
        return column

    def column(self, node: tree.Node, types: frozenset[int] | set[int]) -> snapshots.Column:
        """A plain column of one of `types`, with the database's own collation if it has one."""
        column = self.any_column(node)
        if column.type_oid not in types:
            raise _NoShape
        if column.collation not in (None, 'pg_catalog."default"'):
            raise _NoShape
        return column

    def key(self, node: tree.Node) -> shapes.Key:
        """A group key."""
        if tree.is_column(node):
            return shapes.Key(self.column(node, _GROUPED).name)
        if not isinstance(node, ast.FuncCall) or len(node.args or ()) != 2 or _has_extras(node):
            raise _NoShape
        parts = tree.strings(node.funcname)
        if self._prepared.ctx.builtins.function(parts) is None:
            raise _NoShape
        argument, value = node.args
        if parts[-1] == "time_bucket":
            return self._time_bucket(argument, value)
        if parts[-1] == "date_trunc":
            return self._date_trunc(argument, value)
        raise _NoShape

    def _time_bucket(self, argument: tree.Node, value: tree.Node) -> shapes.Key:
        column = self.column(value, pgtypes.INTEGERS | {pgtypes.TIMESTAMP, pgtypes.TIMESTAMPTZ})
        constant = literals.constant(argument)
        if constant is None or constant.text is None:
            raise _NoShape
        if column.type_oid in pgtypes.INTEGERS:
            if constant.oid != column.type_oid or not constant.text.isdigit() or int(constant.text) == 0:
                raise _NoShape
            return shapes.Key(column.name, int(constant.text), 0, 0)
        if constant.oid not in (pgtypes.UNKNOWN, pgtypes.INTERVAL):
            raise _NoShape
        width = _width(constant.text.lower())
        if not width:
            raise _NoShape
        return shapes.Key(column.name, width, _MONDAY, _MONDAY)

    def _date_trunc(self, argument: tree.Node, value: tree.Node) -> shapes.Key:
        column = self.column(value, {pgtypes.TIMESTAMP, pgtypes.TIMESTAMPTZ})
        constant = literals.constant(argument)
        if constant is None or constant.text is None or constant.oid not in (pgtypes.UNKNOWN, pgtypes.TEXT):
            raise _NoShape
        unit = constant.text.lower().removesuffix("s")
        if unit not in _TRUNCATED:
            raise _NoShape
        local = column.type_oid == pgtypes.TIMESTAMPTZ and unit in ("minute", "hour", "day", "week")
        if local and self._prepared.ctx.zone.timezone.lower() not in _UTC:
            raise _NoShape
        return shapes.Key(column.name, _UNITS[unit], _MONDAY if unit == "week" else 0)

    def output(self, node: tree.Node) -> shapes.Output:
        """An aggregate."""
        if isinstance(node, ast.A_Indirection):
            return self._moment(node)
        if not isinstance(node, ast.FuncCall) or _has_extras(node):
            raise _NoShape
        parts = tree.strings(node.funcname)
        if parts[:-1] not in ((), ("pg_catalog",)) or not self._prepared.ctx.builtins.is_aggregate(parts):
            raise _NoShape
        name, types = parts[-1], _ARGUMENTS.get(parts[-1])
        if types is None:
            raise _NoShape
        if name == "count" and node.agg_star and not node.args:
            return shapes.Output("count")
        if len(node.args or ()) != 1:
            raise _NoShape
        return shapes.Output(name, self.column(node.args[0], types).name)

    def _moment(self, node: tree.Node) -> shapes.Output:
        """`(orochi._moments(column::double precision))[n]`, where only an average is made of it."""
        call = node.arg
        if not isinstance(call, ast.FuncCall) or tree.strings(call.funcname) != ("orochi", "_moments"):
            raise _NoShape
        if _has_extras(call) or len(call.args or ()) != 1 or not isinstance(call.args[0], ast.TypeCast):
            raise _NoShape
        for part in tree.walk(self._level.stmt):
            if isinstance(part, ast.FuncCall) and tree.strings(part.funcname)[-1] in _SPREADS:
                raise _NoShape
        (subscript,) = node.indirection
        index = literals.constant(subscript.uidx)
        if index is None or index.text not in ("1", "2", "3"):
            raise _NoShape
        column = self.column(call.args[0].arg, pgtypes.FLOATS)
        return shapes.Output("moment", column.name, int(index.text))

    def conditions(self) -> tuple[shapes.Condition, ...]:
        """WHERE, each conjunct exactly."""
        node = self._level.stmt.whereClause
        terms = () if node is None else tree.conjuncts(node)
        return tuple(found for term in terms for found in self._conjunct(term))

    def _conjunct(self, node: tree.Node) -> list[shapes.Condition]:
        if isinstance(node, ast.NullTest):
            op = "isnull" if node.nulltesttype.name == "IS_NULL" else "notnull"
            return [shapes.Condition(self.column(node.arg, _COUNTED).name, op)]
        if not isinstance(node, ast.A_Expr):
            raise _NoShape
        kind = node.kind.name
        if kind == "AEXPR_BETWEEN":
            pairs = zip((">=", "<="), node.rexpr, strict=True)
            return [self._compared(node.lexpr, op, item) for op, item in pairs]
        if kind == "AEXPR_IN" and tree.strings(node.name) == ("=",):
            found = [self._compared(node.lexpr, "=", item) for item in node.rexpr]
            if any(item.op != "=" for item in found):
                raise _NoShape
            values = dict.fromkeys(item.values[0] for item in found)
            return [shapes.Condition(found[0].column, "in", tuple(values))]
        name = tree.operator(node)
        if name not in literals.COMPARISONS:
            raise _NoShape
        if tree.is_column(node.lexpr):
            return [self._compared(node.lexpr, name, node.rexpr)]
        return [self._compared(node.rexpr, literals.flipped(name), node.lexpr)]

    def _compared(self, side: tree.Node, name: str, other: tree.Node) -> shapes.Condition:
        column = self.column(side, _COMPARED)
        key = self._prepared.analysis.key(side, self._level)
        bound = None
        if key is not None and not tree.is_column(other):
            bound = self._prepared.analysis.bound(key, name, other)
        if bound is None:
            raise _NoShape
        return shapes.Condition(column.name, bound[0], (bound[1],))


def _width(text: str) -> int | None:
    """The microseconds of an interval of one unit, or as PostgreSQL prints less than a day; None for others."""
    if (clock := _CLOCK.fullmatch(text)) is not None:
        hours, minutes, seconds = (int(clock[at]) for at in (1, 2, 3))
        return (hours * 3_600 + minutes * 60 + seconds) * _SECOND + int((clock[4] or "0").ljust(6, "0"))
    width = _WIDTH.fullmatch(text)
    return int(width[1]) * _UNITS[width[2]] if width is not None and width[2] in _UNITS else None


def _has_extras(call: tree.Node) -> bool:
    """Whether a call says more than its arguments."""
    return bool(
        call.agg_distinct
        or call.agg_order
        or call.agg_filter is not None
        or call.agg_within_group
        or call.func_variadic
        or call.over is not None
    )
