"""Two-phase aggregates: each shard aggregates its rows in part, the coordinator finishes the parts.

The table of aggregates below is the allow-list. Each entry says what a shard computes and how the
parts become the value, of PostgreSQL's own type: `sum(bigint)` is numeric whichever way it is
added up, and an average is its sum divided by its count as PostgreSQL divides them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from orochi.planner import (
    analyze,
    lookup,
    names,
    parse,
    pieces,
    prepare,
    pushdown,
    safety,
    spread,
    tree,
    vector,
)
from orochi.planner import (
    fragment as fragments,
)
from orochi.planner import (
    plan as plans,
)
from orochi.planner.tree import ast

#: Aggregates whose parts combine by the same aggregate, giving the same type.
_SAME = frozenset({"min", "max", "bool_and", "bool_or", "every", "bit_and", "bit_or", "bit_xor", "any_value"})
#: Argument types of sum and avg, by the name `pg_typeof` prints.
_INTEGERS = frozenset({"smallint", "integer", "bigint"})
_SUMMED = _INTEGERS | {"numeric", "real", "double precision", "interval", "money"}


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One column of the partial result: the call a shard makes, its aggregate and its argument."""

    name: str
    call: tree.Node


class _Parts:
    """The partial columns, equal ones shared."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def add(self, call: tree.Node) -> str:
        for part in self.parts:
            if part.call == call:
                return part.name
        self.parts.append(Part(f"p{len(self.parts)}", call))
        return self.parts[-1].name


def plan(prepared: prepare.Prepared, level: names.Level, found: spread.Spread) -> plans.Distributed:
    """The two-phase plan of a checked statement with aggregates or GROUP BY.

    Raises:
        Unfit: an aggregate, or something around them, does not split.
        NeedsFolding: the type of an aggregate's argument must be asked for.
        CannotDeparse: a part cannot be printed faithfully.
    """
    stmt = level.stmt
    if any(item is not None for item in stmt.distinctClause or ()):
        raise spread.Unfit("DISTINCT ON over an aggregate")
    pieces.refuse_collations(level, prepared)
    groups = _groups(level)
    splitter = _Splitter(prepared, level, groups, found.keys)
    outputs = pieces.outputs(level)
    listed = [f"{_text(splitter.final(item.expression))} AS {names.quoted(item.name)}" for item in outputs]
    tail = _tail(level, splitter)
    keys = [(f"g{index}", node) for index, node in enumerate(groups)]
    columns = [*keys, *((part.name, part.call) for part in splitter.parts.parts)]
    if not columns:
        raise spread.Unfit("there is nothing to aggregate")
    distinct = "DISTINCT " if stmt.distinctClause else ""
    final = f"SELECT {distinct}{', '.join(listed)} FROM {pieces.FROM}{tail}{pieces.limit_sql(stmt)}"
    intermediate = _intermediate(prepared, level, keys, columns, splitter)
    return plans.Distributed("two-phase aggregate", (intermediate,), final)


def _intermediate(
    prepared: prepare.Prepared,
    level: names.Level,
    keys: list[tuple[str, tree.Node]],
    columns: list[tuple[str, tree.Node]],
    splitter: _Splitter,
) -> plans.Intermediate:
    body = ast.SelectStmt(
        targetList=tuple(ast.ResTarget(name=name, val=node) for name, node in columns),
        fromClause=level.stmt.fromClause,
        whereClause=level.stmt.whereClause,
        groupClause=tuple(node for _, node in keys) or None,
        limitOption=level.stmt.limitOption.__class__.LIMIT_OPTION_DEFAULT,
        op=level.stmt.op,
        groupDistinct=False,
        all=False,
    )
    folded = pieces.fold(prepared, body)
    sql = parse.deparse(pieces.over_scans(folded, prepared))
    types = tuple(
        _bigint(name) if _is_count(node) else pieces.named(pieces.known_type(node, level), name)
        for name, node in columns
    )
    describe = None
    if any(column.type_oid == 0 for column in types):
        describe = parse.deparse(pieces.over_shells(folded, prepared))
    found = vector.aggregate(prepared, level, keys, splitter.parts.parts)
    return pushdown.intermediate_of(prepared, sql, types, describe, found)


def _bigint(name: str) -> fragments.OutputColumn:
    return fragments.OutputColumn(name, 20, -1, "bigint")


def _is_count(node: tree.Node) -> bool:
    return isinstance(node, ast.FuncCall) and tree.strings(node.funcname)[-1] == "count"


def _groups(level: names.Level) -> list[tree.Node]:
    """The expressions that groups are made of, those inside grouping sets too, each once."""
    found: list[tree.Node] = []
    for item in _flat(level.stmt.groupClause or ()):
        node = pieces.canonical(spread.group_expression(item, level), level)
        if isinstance(node, ast.A_Const):
            raise spread.Unfit("GROUP BY a constant")
        if any(isinstance(part, ast.SubLink) for part in tree.walk(node)):
            raise spread.Unfit("GROUP BY a sub-SELECT")
        if not any(node == other for other in found):
            found.append(node)
    return found


def _flat(items: tuple[tree.Node, ...]) -> list[tree.Node]:
    found: list[tree.Node] = []
    for item in items:
        if isinstance(item, ast.GroupingSet):
            found += _flat(item.content or ())
        elif isinstance(item, ast.RowExpr) and item.row_format.name == "COERCE_IMPLICIT_CAST":
            found += _flat(item.args or ())
        else:
            found.append(item)
    return found


def _tail(level: names.Level, splitter: _Splitter) -> str:
    """GROUP BY, HAVING, WINDOW and ORDER BY of the final query."""
    stmt = level.stmt
    text = ""
    if stmt.groupClause:
        distinct = "DISTINCT " if stmt.groupDistinct else ""
        text += f" GROUP BY {distinct}" + ", ".join(
            _group_text(item, level, splitter) for item in stmt.groupClause
        )
    if stmt.havingClause is not None:
        text += f" HAVING {_text(splitter.final(stmt.havingClause))}"
    if stmt.windowClause:
        text += " " + _windows(splitter.final_all(stmt.windowClause))
    order = [
        f"{_text(splitter.final(key.expression))}{key.collation}{key.words}"
        for key in pieces.sort_keys(level)
    ]
    return text + (" ORDER BY " + ", ".join(order) if order else "")


def _group_text(item: tree.Node, level: names.Level, splitter: _Splitter) -> str:
    if isinstance(item, ast.GroupingSet):
        kinds = {
            "GROUPING_SET_EMPTY": "",
            "GROUPING_SET_SIMPLE": "",
            "GROUPING_SET_ROLLUP": "ROLLUP ",
            "GROUPING_SET_CUBE": "CUBE ",
            "GROUPING_SET_SETS": "GROUPING SETS ",
        }
        inside = ", ".join(_group_text(part, level, splitter) for part in item.content or ())
        return f"{kinds[item.kind.name]}({inside})"
    if isinstance(item, ast.RowExpr) and item.row_format.name == "COERCE_IMPLICIT_CAST":
        return f"({', '.join(_group_text(part, level, splitter) for part in item.args or ())})"
    return _text(splitter.final(spread.group_expression(item, level)))


def _windows(windows: tuple[tree.Node, ...]) -> str:
    """A WINDOW clause, printed with a SELECT around it."""
    shell = parse.parse_one("SELECT 1 WINDOW w AS ()").tree
    return parse.deparse(tree.changed(shell, windowClause=windows)).removeprefix("SELECT 1 ")


def _text(node: tree.Node) -> str:
    """An expression as text that binds together."""
    text = parse.deparse_expression(node)
    return text if isinstance(node, (ast.ColumnRef, ast.FuncCall)) else f"({text})"


class _Splitter:
    """Turns expressions over groups and aggregates into expressions over the partial result."""

    def __init__(
        self,
        prepared: prepare.Prepared,
        level: names.Level,
        groups: list[tree.Node],
        keys: tuple[analyze.ColumnKey, ...],
    ) -> None:
        self._prepared = prepared
        self._keys = keys
        self._level = level
        self._groups = groups
        self.parts = _Parts()

    def final(self, node: tree.Node) -> tree.Node:
        """The expression over the partial result that has the value of `node`."""
        return tree.transform(pieces.canonical(node, self._level), self._replace)

    def final_all(self, nodes: tuple[tree.Node, ...]) -> tuple[tree.Node, ...]:
        """The same for the parts of a list."""
        found: tuple[tree.Node, ...] = tree.transform(
            tuple(pieces.canonical(node, self._level) for node in nodes), self._replace
        )
        return found

    def _replace(self, node: tree.Node) -> tree.Node | None:
        for index, group in enumerate(self._groups):
            if node == group:
                return tree.column(pieces.RELATION, f"g{index}")
        if isinstance(node, (ast.SubLink, ast.SelectStmt)):
            raise spread.Unfit("a sub-SELECT beside an aggregate")
        if isinstance(node, ast.ColumnRef):
            raise spread.Unfit("a column that is neither grouped nor aggregated")
        if isinstance(node, ast.FuncCall) and node.over is None:
            parts = tree.strings(node.funcname)
            if self._prepared.ctx.builtins.is_aggregate(parts):
                return self._aggregate(node, parts[-1])
            function = self._prepared.ctx.builtins.function(parts)
            if function is not None and function.returns_set:
                raise spread.Unfit("a set-returning function beside an aggregate")
        return None

    def _aggregate(self, node: tree.Node, name: str) -> tree.Node:
        if node.agg_order or node.agg_within_group or node.func_variadic:
            raise spread.Unfit(f"{name} depends on the order of its input")
        if node.agg_distinct and self._is_disjoint(node, name):
            return _sql(f"coalesce(sum({self.part(node, name, distinct=True)}), 0)::bigint")
        if node.agg_distinct and name not in ("min", "max", "bool_and", "bool_or", "every"):
            raise spread.Unfit(f"{name}(DISTINCT) needs all values together")
        if any(isinstance(part, ast.SubLink) for part in tree.walk(node)):
            raise spread.Unfit("a sub-SELECT inside an aggregate")
        split = _SPLITS.get(name)
        if split is None or (
            len(tree.strings(node.funcname)) > 1 and tree.strings(node.funcname)[0] != "pg_catalog"
        ):
            raise spread.Unfit(f"aggregate {name} does not split")
        return split(self, node)

    def _is_disjoint(self, node: tree.Node, name: str) -> bool:
        """Whether the shards' distinct values are different ones: counting those of the distribution column."""
        if name != "count" or len(node.args or ()) != 1 or not tree.is_column(node.args[0]):
            return False
        key = self._prepared.analysis.key(node.args[0], self._level)
        terms = self._prepared.analysis.where(self._level)
        return key is not None and spread.Checker(self._prepared).closed(self._keys, terms, key)

    def part(
        self, node: tree.Node, name: str, argument: tree.Node | None = None, *, distinct: bool = False
    ) -> str:
        """A partial column: the aggregate `name` over the arguments and FILTER of `node`."""
        arguments = node.args if argument is None else (argument,)
        call = tree.changed(
            node, funcname=tree.names(name), args=arguments, agg_star=node.agg_star, agg_distinct=distinct
        )
        return f"{pieces.RELATION}.{self.parts.add(call)}"

    def argument_type(self, node: tree.Node) -> str:
        """The type of an aggregate's only argument, as `pg_typeof` prints it.

        Columns stand in as typed NULLs, and the expression is not evaluated, only its type is.
        """
        (argument,) = node.args
        known = pieces.known_type(argument, self._level)
        if known is not None:
            return known.type_name.split("(")[0]

        shape = safety.fold(_typed(argument, self._level), self._prepared.ctx)
        sql = f"CASE WHEN false THEN ({parse.deparse_expression(shape)}) END"
        if sql not in self._prepared.ctx.folded:
            self._prepared.analysis.wishes.append(sql)
            return "integer"  # a guess for the rest of this pass, which is not kept
        found = self._prepared.ctx.folded[sql]
        return found.type_name if found is not None else ""


def _typed(node: tree.Node, level: names.Level) -> tree.Node:
    """`node` with a typed NULL for every column: an expression of the same type that reads no table."""

    def replace(part: tree.Node) -> tree.Node | None:
        if isinstance(part, (ast.SubLink, ast.SelectStmt)):
            raise spread.Unfit("a sub-SELECT inside an aggregate's argument")
        if not isinstance(part, ast.ColumnRef):
            return None
        column = pieces.known_type(part, level)
        if column is not None:
            return _sql(f"NULL::{column.type_name}")
        behind = lookup.derived(part, level)
        if behind is None:
            raise spread.Unfit("the type of an aggregate's argument is not known")
        return _typed(*behind)

    return tree.transform(node, replace)


def _same(splitter: _Splitter, node: tree.Node) -> tree.Node:
    name = tree.strings(node.funcname)[-1]
    return _sql(f"{name}({splitter.part(node, name)})")


def _count(splitter: _Splitter, node: tree.Node) -> tree.Node:
    return _sql(f"coalesce(sum({splitter.part(node, 'count')}), 0)::bigint")


def _sum(splitter: _Splitter, node: tree.Node) -> tree.Node:
    kind = splitter.argument_type(node)
    if kind not in _SUMMED:
        raise spread.Unfit(f"sum of {kind} does not split")
    part = splitter.part(node, "sum")
    return _sql(f"sum({part})::bigint" if kind in ("smallint", "integer") else f"sum({part})")


def _avg(splitter: _Splitter, node: tree.Node) -> tree.Node:
    kind = splitter.argument_type(node)
    if kind not in _SUMMED or kind == "money":
        raise spread.Unfit(f"avg of {kind} does not split")
    argument = None
    if kind == "real":  # its average is taken in double precision
        (argument,) = node.args
        argument = tree.changed(_sql("x::double precision"), arg=argument)
    total, count = splitter.part(node, "sum", argument), splitter.part(node, "count")
    floating = kind in ("real", "double precision", "interval")
    divisor = f"nullif(sum({count}), 0)" + ("::double precision" if floating else "")
    return _sql(f"(sum({total}) / {divisor})")


def _sql(text: str) -> tree.Node:
    """An expression given as text."""
    return parse.parse_one(f"SELECT {text}").tree.targetList[0].val


_SPLITS: dict[str, Callable[[_Splitter, tree.Node], tree.Node]] = {
    **dict.fromkeys(_SAME, _same),
    "count": _count,
    "sum": _sum,
    "avg": _avg,
}
