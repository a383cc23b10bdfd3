"""The same fragment for the vectorised engine (DuckDB), where every expression in it is on the allow-list.

`ALLOWED` is that list. An entry is there because the test it names shows the engine's answer equal
to PostgreSQL's over the type's values (nulls, extremes, NaN, empty input); what is not listed has
no vector form, and the fragment runs in PostgreSQL.

The engine sees the columns of one scan as native types: integers, floats, booleans, strings,
DATE, TIMESTAMP and TIMESTAMPTZ in UTC. Constants are written from their carrier values, so no
text is read by the engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from orochi import pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.planner import literals, lookup, names, prepare, scans, tree, vector_values
from orochi.planner.tree import ast

_TEST = "tests/unit/planner/test_vector.py::"

#: What the engine may be given, each with the test that shows it equal to PostgreSQL.
ALLOWED: Mapping[str, str] = MappingProxyType(
    {
        "column": f"{_TEST}test_rows",
        "compare": f"{_TEST}test_comparison",
        "in": f"{_TEST}test_in_and_between",
        "between": f"{_TEST}test_in_and_between",
        "null test": f"{_TEST}test_null_tests_and_logic",
        "and or not": f"{_TEST}test_null_tests_and_logic",
        "boolean column": f"{_TEST}test_null_tests_and_logic",
        "count": f"{_TEST}test_aggregates",
        "sum": f"{_TEST}test_aggregates",
        "min": f"{_TEST}test_aggregates",
        "max": f"{_TEST}test_aggregates",
        "bool_and": f"{_TEST}test_aggregates",
        "bool_or": f"{_TEST}test_aggregates",
        "every": f"{_TEST}test_aggregates",
        "filter": f"{_TEST}test_filter_clause",
        "group by": f"{_TEST}test_group_by",
    }
)

_TEXTS = frozenset({pgtypes.TEXT, pgtypes.VARCHAR})
#: Types of columns that may be handed on or tested for NULL.
_COLUMNS = pgtypes.INTEGERS | pgtypes.FLOATS | pgtypes.TIMES | _TEXTS | {pgtypes.BOOL}
_COMPARED = _COLUMNS - {pgtypes.BOOL}
#: Not floats: 0 and -0 are one value to both engines, but which of the two is shown is chance.
_ORDERED = pgtypes.INTEGERS | pgtypes.TIMES | _TEXTS
_GROUPED = _ORDERED | {pgtypes.BOOL}

_NAMES = {"every": "bool_and"}


class Part(Protocol):
    """A partial aggregate (`decompose.Part`)."""

    @property
    def name(self) -> str:
        """Its column's name."""

    @property
    def call(self) -> tree.Node:
        """The aggregate call."""


def rows(
    prepared: prepare.Prepared,
    level: names.Level,
    targets: Sequence[tuple[tree.Node, str]],
    top: int | None,
    *,
    where_only: bool = False,
) -> str | None:
    """The vector form of a fragment that hands on columns of one table; None if it has none.

    Args:
        prepared: the statement.
        level: its query level.
        targets: what is handed on.
        top: how many rows suffice.
        where_only: what the statement says after WHERE is not the fragment's to do.
    """
    stmt = level.stmt
    if where_only:
        pass
    elif stmt.groupClause or stmt.havingClause or stmt.windowClause or stmt.distinctClause or top is not None:
        return None
    try:
        writer = _Writer(prepared, level)
        listed = ", ".join(writer.column(node, _COLUMNS) for node, _ in targets)
        return f"SELECT {listed} FROM {writer.source}{writer.where()}"
    except vector_values.NotVectorised:
        return None


def aggregate(
    prepared: prepare.Prepared,
    level: names.Level,
    keys: Sequence[tuple[str, tree.Node]],
    parts: Sequence[Part],
) -> str | None:
    """The vector form of a partial aggregate over one table; None if it has none."""
    try:
        writer = _Writer(prepared, level)
        grouped = [writer.column(node, _GROUPED) for _, node in keys]
        listed = grouped + [writer.aggregate(part.call) for part in parts]
        tail = f" GROUP BY {', '.join(grouped)}" if grouped else ""
        return f"SELECT {', '.join(listed)} FROM {writer.source}{writer.where()}{tail}"
    except vector_values.NotVectorised:
        return None


class _Writer:
    """Writes the engine's SQL over the statement's only scan."""

    def __init__(self, prepared: prepare.Prepared, level: names.Level) -> None:
        if not prepared.ctx.vectorized or len(prepared.references) != 1 or len(prepared.scopes.levels) != 1:
            raise vector_values.NotVectorised
        if len(level.relations) != 1 or prepared.references[0].sampled:
            raise vector_values.NotVectorised
        self._prepared = prepared
        self._level = level
        (self.source,) = scans.scan_names(1)

    def where(self) -> str:
        """The WHERE clause, with the word, or nothing."""
        node = self._level.stmt.whereClause
        return f" WHERE {self.condition(node)}" if node is not None else ""

    def column(self, node: tree.Node, types: frozenset[int] | set[int]) -> str:
        """A plain column of one of `types`."""
        if not tree.is_column(node):
            raise vector_values.NotVectorised
        found = lookup.find_column(node, self._level)
        column: snapshots.Column | None = found[0].table.column(found[1]) if found is not None else None
        if column is None or column.type_oid not in types or column.collation is not None:
            raise vector_values.NotVectorised
        if column.type_oid in _TEXTS and not self._prepared.ctx.bytewise:
            raise vector_values.NotVectorised
        return names.quoted(column.name)

    def condition(self, node: tree.Node) -> str:
        """A condition, in parentheses."""
        if isinstance(node, ast.BoolExpr):
            parts = [self.condition(item) for item in node.args]
            if node.boolop.name == "NOT_EXPR":
                return f"(NOT {parts[0]})"
            return "(" + (" AND " if node.boolop.name == "AND_EXPR" else " OR ").join(parts) + ")"
        if isinstance(node, ast.NullTest):
            test = "IS NULL" if node.nulltesttype.name == "IS_NULL" else "IS NOT NULL"
            return f"({self.column(node.arg, _COLUMNS)} {test})"
        if isinstance(node, ast.ColumnRef):
            return f"({self.column(node, {pgtypes.BOOL})})"
        if isinstance(node, ast.A_Expr):
            return self._comparison(node)
        raise vector_values.NotVectorised

    def _comparison(self, node: tree.Node) -> str:
        kind, name = node.kind.name, tree.operator(node)
        if kind == "AEXPR_BETWEEN":
            low, high = (
                self._compared(node.lexpr, op, item)
                for op, item in zip((">=", "<="), node.rexpr, strict=True)
            )
            return f"({low} AND {high})"
        if kind == "AEXPR_IN" and tree.strings(node.name) == ("=",):
            return "(" + " OR ".join(self._compared(node.lexpr, "=", item) for item in node.rexpr) + ")"
        if name not in literals.COMPARISONS | {"<>"}:
            raise vector_values.NotVectorised
        negated = name == "<>"
        op = "=" if negated or name is None else name
        if tree.is_column(node.lexpr):
            found = self._compared(node.lexpr, op, node.rexpr)
        else:
            found = self._compared(node.rexpr, literals.flipped(op), node.lexpr)
        return f"(NOT {found})" if negated else found

    def _compared(self, side: tree.Node, name: str, other: tree.Node) -> str:
        """`column name constant`."""
        column = self.column(side, _COMPARED)
        key = self._prepared.analysis.key(side, self._level)
        if key is None or tree.is_column(other):
            raise vector_values.NotVectorised
        bound = self._prepared.analysis.bound(key, name, other)
        if bound is None:
            raise vector_values.NotVectorised
        return (
            f"({column} {bound[0]} {vector_values.literal(self._prepared.analysis.type_of(key), bound[1])})"
        )

    def aggregate(self, call: tree.Node) -> str:
        """A partial aggregate's call, of the carrier type its column has."""
        if not isinstance(call, ast.FuncCall):
            raise vector_values.NotVectorised
        name = tree.strings(call.funcname)[-1]
        if name not in ALLOWED or call.agg_distinct or call.agg_order or len(call.args or ()) > 1:
            raise vector_values.NotVectorised
        if name == "count":
            argument = self.column(call.args[0], _COLUMNS) if call.args else "*"
        else:
            types = {"sum": pgtypes.INTEGERS, "min": _ORDERED, "max": _ORDERED}.get(
                name, frozenset({pgtypes.BOOL})
            )
            argument = self.column(call.args[0], types)
        kept = f" FILTER (WHERE {self.condition(call.agg_filter)})" if call.agg_filter is not None else ""
        return f"{_NAMES.get(name, name)}({argument}){kept}"
