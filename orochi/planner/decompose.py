"""Two-phase aggregates: each shard aggregates its rows in part, the coordinator finishes the parts.

`orochi.planner.aggregates` says which aggregates split and how. An aggregate of DISTINCT values
splits whatever it is: shards group by the values too, so that the parts of the others still add
up, and the coordinator aggregates the distinct values that are left.
"""

from __future__ import annotations

import dataclasses

from orochi import pgtypes
from orochi.catalog import api
from orochi.planner import (
    aggregates,
    analyze,
    distinct_counts,
    fused,
    given,
    invoked,
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
    vector_query,
)
from orochi.planner import (
    fragment as fragments,
)
from orochi.planner import (
    plan as plans,
)
from orochi.planner.tree import ast


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One column of the partial result: the aggregate call a shard makes, or an element of what that gives."""

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
    pieces.refuse_collations(level, prepared)
    grouped = groups(level)
    # with sets of groups a shard's groups are smaller than the final ones: what it counts in them overlaps
    keys_apart = found.keys if spread.group_expressions(level) is not None else ()
    splitter = _Splitter(prepared, level, grouped, keys_apart)
    head, tail = _head(level, splitter), _tail(level, splitter)
    if splitter.values and splitter.added:  # they are made smaller by the values too
        splitter = _Splitter(prepared, level, grouped, ())
        head, tail = _head(level, splitter), _tail(level, splitter)
    counted = distinct_counts.counted(prepared, level, grouped, splitter.values)
    if counted is not None and not splitter.parts.parts:
        try:
            counting = _Splitter(prepared, level, grouped, keys_apart, counted)
            head, tail = _head(level, counting), _tail(level, counting)
            splitter = counting
        except distinct_counts.NotCounted:
            counted = None
    else:
        counted = None
    keys = [(f"g{index}", node) for index, node in enumerate(grouped)]
    keys += [(f"d{index}", node) for index, node in enumerate(splitter.values)]
    columns = [*keys, *((part.name, part.call) for part in splitter.parts.parts)]
    if not columns:
        raise spread.Unfit("there is nothing to aggregate")
    if splitter.as_it_is and not keys:  # a shard without rows gives a row too
        raise spread.Unfit("an aggregate of distinct constants")
    final = f"SELECT {head} FROM {pieces.FROM}{tail}{pieces.limit_sql(level.stmt)}"
    intermediate = _intermediate(prepared, level, keys, columns, splitter)
    intermediate = dataclasses.replace(intermediate, counted=counted)
    return plans.Distributed("two-phase aggregate", (intermediate, *splitter.given.intermediates()), final)


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
    scanned = pieces.over_scans(folded, prepared)
    sql = parse.deparse(scanned)
    types = tuple(_type(name, node, level, prepared) for name, node in columns)
    describe = None
    if any(column.type_oid == 0 for column in types):
        describe = parse.deparse(pieces.over_shells(folded, prepared))
    found = vector.aggregate(prepared, level, keys, splitter.parts.parts)
    found = found or vector_query.fragment(prepared, scanned)
    shape = fused.shape(
        prepared, level, [node for _, node in keys], [node for _, node in columns], partial=True
    )
    if shape is not None and not splitter.given.intermediates():
        shape = fused.first_groups(level, [node for _, node in keys], shape)
    return pushdown.intermediate_of(prepared, sql, types, describe, found, shape)


#: What PostgreSQL's own sum() gives of numbers.
_TOTALS = {
    pgtypes.INT2: pgtypes.INT8,
    pgtypes.INT4: pgtypes.INT8,
    pgtypes.INT8: pgtypes.NUMERIC,
    pgtypes.NUMERIC: pgtypes.NUMERIC,
    pgtypes.FLOAT8: pgtypes.FLOAT8,
}


def _type(
    name: str, node: tree.Node, level: names.Level, prepared: prepare.Prepared
) -> fragments.OutputColumn:
    """The type of a column of the partial result, as far as it is known here."""
    if isinstance(node, ast.A_Indirection) and name.startswith("p"):  # a key may be an element of any type
        return fragments.OutputColumn(name, pgtypes.FLOAT8, -1, "double precision")
    if isinstance(node, ast.FuncCall) and tree.strings(node.funcname) == ("count",):
        return fragments.OutputColumn(name, pgtypes.INT8, -1, "bigint")
    if (
        isinstance(node, ast.FuncCall)
        and tree.strings(node.funcname) == ("sum",)
        and len(node.args or ()) == 1
    ):
        total = _TOTALS.get(pieces.number_type(node.args[0], level) or 0)
        if total is not None and prepared.ctx.builtins.is_aggregate(("sum",)):
            return fragments.OutputColumn(name, total, -1, pgtypes.type_name(total, -1) or "")
    return pieces.named(pieces.known_type(node, level), name)


def groups(level: names.Level) -> list[tree.Node]:
    """The expressions that groups are made of, those inside grouping sets too, each once.

    Raises:
        Unfit: they can only be told apart where the statement's own outputs are.
    """
    found: list[tree.Node] = []
    said: list[tree.Node] = []
    with_sets = spread.group_expressions(level) is None
    for item in _flat(level.stmt.groupClause or ()):
        node = pieces.canonical(spread.group_expression(item, level), level)
        if isinstance(node, ast.A_Const):
            raise spread.Unfit("GROUP BY a constant")
        if any(isinstance(part, ast.SubLink) for part in tree.walk(node)):
            raise spread.Unfit("GROUP BY a sub-SELECT")
        if node not in found:
            found.append(node)
            said.append(item)
        elif with_sets and item != said[found.index(node)]:
            # two outputs are two groups to PostgreSQL, also if they are alike: one may be NULL where the other is not
            raise spread.Unfit("grouping sets of outputs that are alike")
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


def _head(level: names.Level, splitter: _Splitter) -> str:
    """What the final query selects, with DISTINCT before it."""
    listed = (
        f"{_text(splitter.final(item.expression))} AS {names.quoted(item.name)}"
        for item in pieces.outputs(level)
    )
    return _distinct(level, splitter) + ", ".join(listed)


def _distinct(level: names.Level, splitter: _Splitter) -> str:
    """DISTINCT or DISTINCT ON of the final query, with a space after it."""
    items = level.stmt.distinctClause or ()
    if not any(item is not None for item in items):
        return "DISTINCT " if items else ""
    listed = (_text(splitter.final(pieces.sorted_by(item, level))) for item in items)
    return f"DISTINCT ON ({', '.join(listed)}) "


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
    """Turns expressions over groups and aggregates into expressions over the partial result.

    Attributes:
        parts: the partial aggregates.
        values: what shards group by beside the groups, for aggregates of distinct values.
        added: some parts are aggregates of values that no two shards share.
        as_it_is: an aggregate of distinct values runs over the partial result's rows.
        given: what sub-SELECTs beside the aggregates read.
    """

    def __init__(
        self,
        prepared: prepare.Prepared,
        level: names.Level,
        groups: list[tree.Node],
        keys: tuple[analyze.ColumnKey, ...],
        counted: plans.Counted | None = None,
    ) -> None:
        self._prepared = prepared
        self._counted = counted
        self._keys = keys
        self._level = level
        self._groups = groups
        self.parts = _Parts()
        self.given = given.Given(prepared)
        self.values: list[tree.Node] = []
        self.added = self.as_it_is = False

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
        if isinstance(node, ast.SubLink):
            found = self.given.sublink(node, self.final)
            if found is None:
                raise spread.Unfit("a sub-SELECT beside an aggregate")
            return found
        if isinstance(node, ast.ColumnRef):
            raise spread.Unfit("a column that is neither grouped nor aggregated")
        if not isinstance(node, ast.FuncCall) and invoked.is_aggregate(node, self._prepared.ctx.builtins):
            raise spread.Unfit(f"aggregate {invoked.name(node)} does not split")
        if isinstance(node, ast.FuncCall) and node.over is None:
            parts = tree.strings(node.funcname)
            if self._prepared.ctx.builtins.is_aggregate(parts):
                return self._aggregate(node, parts[-1])
            function = self._prepared.ctx.builtins.function(parts)
            if function is not None and function.returns_set:
                raise spread.Unfit("a set-returning function beside an aggregate")
        return None

    def _aggregate(self, node: tree.Node, name: str) -> tree.Node:
        if any(isinstance(part, ast.SubLink) for part in tree.walk(node)):
            raise spread.Unfit("a sub-SELECT inside an aggregate")
        if node.agg_distinct and name not in aggregates.INDIFFERENT:
            if name not in aggregates.ADDED or not self._is_disjoint(node):
                return self._over_values(node)
            self.added = True
        elif node.agg_distinct:
            node = tree.changed(node, agg_distinct=False)
        split = aggregates.SPLITS.get(name)
        if split is None or node.agg_within_group or node.func_variadic:
            raise spread.Unfit(f"aggregate {name} does not split")
        if tree.strings(node.funcname)[:-1] not in ((), ("pg_catalog",), ("orochi",), (api.SCHEMA,)):
            raise spread.Unfit(f"aggregate {name} does not split")
        return split.build(self, tree.changed(node, agg_order=None))

    def _is_disjoint(self, node: tree.Node) -> bool:
        """Whether the shards' distinct values are different ones: those of the distribution column."""
        if len(node.args or ()) != 1:
            return False
        (argument,) = node.args
        row = argument.args or () if isinstance(argument, ast.RowExpr) else (argument,)
        terms = self._prepared.analysis.where(self._level)
        found = [self._prepared.analysis.key(item, self._level) for item in row if tree.is_column(item)]
        checker = spread.Checker(self._prepared)
        return any(key is not None and checker.closed(self._keys, terms, key) for key in found)

    def _over_values(self, node: tree.Node) -> tree.Node:
        """An aggregate of distinct values as it is, over values that the shards grouped by."""
        self.as_it_is = True
        if self._counted is not None:
            value = self._value(distinct_counts.argument(node))
            return distinct_counts.final(self._counted, value)
        order = tuple(tree.changed(item, node=self._value(item.node)) for item in node.agg_order or ())
        kept = node.agg_filter
        return tree.changed(
            node,
            args=tuple(self._value(item) for item in node.args or ()),
            agg_order=order or None,
            agg_filter=self._value(kept) if kept is not None else None,
        )

    def _value(self, node: tree.Node) -> tree.Node:
        """An argument, as a column of the partial result that its rows are grouped by."""
        if isinstance(node, ast.RowExpr):
            return tree.changed(node, args=tuple(self._value(item) for item in node.args or ()))
        if not any(isinstance(part, ast.ColumnRef) for part in tree.walk(node)):
            return node
        columns = (part for part in tree.walk(node) if isinstance(part, ast.ColumnRef))
        if any(lookup.is_whole_row(part, self._level) is not None for part in columns):
            raise spread.Unfit("a whole row is a value of the coordinator's type")
        expression = pieces.canonical(node, self._level)
        for index, group in enumerate(self._groups):
            if expression == group:
                return tree.column(pieces.RELATION, f"g{index}")
        if expression not in self.values:
            self.values.append(expression)
        return tree.column(pieces.RELATION, f"d{self.values.index(expression)}")

    def part(self, node: tree.Node, name: str, *arguments: tree.Node) -> str:
        """The column of aggregate `name` over `arguments` (those of `node` if none), under its FILTER."""
        return f"{pieces.RELATION}.{self.parts.add(_call(node, (name,), arguments))}"

    def element(self, node: tree.Node, name: str, index: int, *arguments: tree.Node) -> str:
        """The column of one element of an array that Orochi's aggregate `name` gives."""
        shape = aggregates.sql(f"(x)[{index}]")
        call = _call(node, ("orochi", name), arguments)
        return f"{pieces.RELATION}.{self.parts.add(tree.changed(shape, arg=call))}"

    def type_of(self, argument: tree.Node) -> str:
        """The type of an argument, as `pg_typeof` prints it.

        Columns stand in as typed NULLs, and the expression is not evaluated, only its type is.
        """
        known = pieces.known_type(argument, self._level)
        if known is not None:
            return known.type_name.split("(")[0]
        number = pieces.number_type(argument, self._level)
        if number is not None:
            return pgtypes.type_name(number, -1) or ""
        shape = safety.fold(_typed(argument, self._level), self._prepared.ctx)
        sql = f"CASE WHEN false THEN ({parse.deparse_expression(shape)}) END"
        if sql not in self._prepared.ctx.folded:
            self._prepared.analysis.wishes.append(sql)
            return "integer"  # a guess for the rest of this pass, which is not kept
        found = self._prepared.ctx.folded[sql]
        return found.type_name if found is not None else ""


def _call(node: tree.Node, name: tuple[str, ...], arguments: tuple[tree.Node, ...]) -> tree.Node:
    if not arguments:
        return tree.changed(node, funcname=tree.names(*name))
    return tree.changed(node, funcname=tree.names(*name), args=arguments, agg_star=False)


def _typed(node: tree.Node, level: names.Level) -> tree.Node:
    """`node` with a typed NULL for every column: an expression of the same type that reads no table."""

    def replace(part: tree.Node) -> tree.Node | None:
        if isinstance(part, (ast.SubLink, ast.SelectStmt)):
            raise spread.Unfit("a sub-SELECT inside an aggregate's argument")
        if not isinstance(part, ast.ColumnRef):
            return None
        column = pieces.known_type(part, level)
        if column is not None:
            return aggregates.sql(f"NULL::{column.type_name}")
        behind = lookup.derived(part, level)
        if behind is None:
            raise spread.Unfit("the type of an aggregate's argument is not known")
        return _typed(*behind)

    return tree.transform(node, replace)
