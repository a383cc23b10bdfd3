"""Queries that group by time_bucket_gapfill, as queries that any PostgreSQL answers.

The groups that the query finds are joined by a row for each bucket that none of them fills; what the
query selects is then computed over both, with the aggregates of a filled row NULL. locf and interpolate
look at the nearest found rows of their series by window functions. The result is TimescaleDB's; its rows
come by series and bucket where no order is asked for. The rewritten statement is planned like any other,
so what finds the groups runs where the rows are.
"""

from __future__ import annotations

from collections.abc import Sequence

from orochi import errors
from orochi.planner import (
    builtins,
    continuous_ddl,
    gapfill_parts,
    gapfill_range,
    gapfill_scope,
    labels,
    parse,
    tree,
)
from orochi.planner.tree import ast

FUNCTION = "time_bucket_gapfill"
_CARRIED = ("locf", "interpolate")

_FILLED = """
SELECT * FROM (
    WITH orochi_found AS MATERIALIZED (SELECT 1)
    SELECT *, pg_catalog.bool_or(orochi_real) OVER (PARTITION BY {same}) AS orochi_held{start}
    FROM (SELECT {bucket}, {keys} {aggregates} true AS orochi_real FROM orochi_found
          UNION ALL
          SELECT orochi_bucket, {keys} {nulls} false
          FROM {series} orochi._gapfill_buckets({arguments}) AS orochi_buckets(orochi_bucket)) orochi_both
    ) orochi_rows
WHERE orochi_real OR NOT orochi_held
"""
# where filling starts, as every row's: the least bucket that is made up
_START = ", pg_catalog.min(orochi_bucket) FILTER (WHERE NOT orochi_real) OVER () AS orochi_start"


def concerns(statement: parse.Statement) -> bool:
    """Whether the text mentions the function at all."""
    return FUNCTION in statement.sql.casefold()


def expand(
    statement: parse.Statement, functions: builtins.Builtins, type_oids: Sequence[int] = ()
) -> parse.Statement:
    """The statement with every query that groups by time_bucket_gapfill rewritten; itself if there is none.

    Args:
        statement: any statement.
        functions: the functions that every server has.
        type_oids: the types of its parameters, as far as they are known.

    Raises:
        OrochiError: TimescaleDB's for what it refuses; 0A000 for GROUPING SETS, ROLLUP and CUBE, and in a
            continuous aggregate.
    """
    if continuous_ddl.create(statement) is not None:
        raise errors.FeatureNotSupported(
            f"{FUNCTION} in a continuous aggregate is not supported",
            hint="Use time_bucket, and fill gaps when you read it.",
        )
    texts = gapfill_scope.text_parameters(statement.tree, type_oids)
    found = _Expansion(functions, texts).everywhere(statement.tree)
    if found is statement.tree:
        return statement
    try:
        return parse.parse_one(parse.deparse(found))
    except parse.CannotDeparse as error:
        raise errors.FeatureNotSupported(
            f"{FUNCTION} in this statement is not supported",
            hint="Put the query into a view or a WITH query.",
        ) from error


class _Expansion:
    """One statement's rewriting."""

    def __init__(self, functions: builtins.Builtins, texts: frozenset[int]) -> None:
        self._functions = functions
        self._texts = texts

    def everywhere(self, node: tree.Node) -> tree.Node:
        """`node` with all its queries rewritten, inner ones first."""

        def replace(part: tree.Node) -> tree.Node | None:
            if not isinstance(part, ast.SelectStmt):
                return None
            inner = tree.changed(part)
            for name in tree.fields(part):
                value = getattr(part, name)
                if isinstance(value, (ast.Node, tuple)):
                    setattr(inner, name, tree.transform(value, replace))
            if inner == part:
                inner = part
            return self._query(inner)

        return tree.transform(node, replace)

    def _query(self, select: tree.Node) -> tree.Node:
        if select.groupClause is None or select.larg is not None:
            return select
        groups = [_group(select, item) for item in select.groupClause]
        if any(isinstance(item, ast.GroupingSet) for item in groups):
            if any(_is_call(part, FUNCTION) for part in tree.walk(select.targetList)):
                raise errors.FeatureNotSupported(
                    f"GROUPING SETS, ROLLUP and CUBE with {FUNCTION} are not supported", hint="Use UNION ALL."
                )
            return select
        calls = [item for item in groups if _is_call(item, FUNCTION)]
        nested = sum(1 for item in groups for part in tree.walk(item) if _is_call(part, FUNCTION))
        outside = sum(len(_calls_outside_windows(target.val)) for target in select.targetList)
        if not nested and not outside:
            return select
        if nested > len(calls) and not calls:
            raise errors.FeatureNotSupported(f"no top level {FUNCTION} in group by clause")
        if nested > 1 or outside > 1:
            raise errors.FeatureNotSupported(f"multiple {FUNCTION} calls not allowed")
        if not calls:
            raise errors.FeatureNotSupported(f"no top level {FUNCTION} in group by clause")
        bounds = gapfill_range.bounds(select, calls[0], self._texts)
        return _Query(self._functions, select, bounds, groups).rewritten()


class _Query:
    """One query that groups by time_bucket_gapfill."""

    def __init__(
        self,
        functions: builtins.Builtins,
        select: tree.Node,
        bounds: gapfill_range.Bounds,
        groups: Sequence[tree.Node],
    ) -> None:
        self._functions = functions
        self._select = select
        self._bounds = bounds
        self._keys = gapfill_parts.Named("orochi_key")
        self._aggregates = gapfill_parts.Named("orochi_aggregate")
        self._carried = gapfill_parts.Named("orochi_carried")
        for item in groups:
            if not _is_call(item, FUNCTION) and not isinstance(item, ast.A_Const):
                self._keys.add(item)

    def rewritten(self) -> tree.Node:
        """The query over found and filled rows."""
        select = self._select
        outputs = {labels.output_name(target) for target in select.targetList}
        targets = tuple(
            tree.changed(target, name=labels.output_name(target), val=self._over_rows(target.val))
            for target in select.targetList
        )
        order = tuple(
            item
            if isinstance(item.node, ast.A_Const) or _names_output(item.node, outputs)
            else tree.changed(item, node=self._over_rows(item.node))
            for item in select.sortClause or ()
        )
        distinct = tuple(
            self._over_rows(item)
            if isinstance(item, ast.Node) and not isinstance(item, ast.A_Const)
            else item
            for item in select.distinctClause or ()
        )
        windows = tuple(self._over_rows(item) for item in select.windowClause or ())
        counted, carried = self._carried_columns()
        source = gapfill_parts.levels(self._filled(), (counted, carried), self._order())
        return tree.changed(
            select,
            targetList=targets,
            fromClause=(source,),
            whereClause=None,
            groupClause=None,
            groupDistinct=False,
            havingClause=None,
            sortClause=order or None,
            distinctClause=distinct or select.distinctClause,
            windowClause=windows or None,
        )

    def _over_rows(self, node: tree.Node) -> tree.Node:
        """An expression of the query's, over columns of the filled rows."""

        def replace(part: tree.Node) -> tree.Node | None:
            key = self._keys.name(part)
            if key is not None:
                return tree.column(key)
            if isinstance(part, ast.SubLink):
                return self._correlated(part)
            if not isinstance(part, ast.FuncCall):
                return tree.column(self._aggregate(part)) if isinstance(part, _JSON_AGGREGATES) else None
            if _is_call(part, FUNCTION):
                return tree.column("orochi_bucket")
            if any(_is_call(part, name) for name in _CARRIED):
                return tree.column(self._carry_call(part))
            if part.over is None and self._is_aggregate(part):
                return tree.column(self._aggregate(part))
            return None

        return tree.transform(node, replace)

    def _correlated(self, sublink: tree.Node) -> tree.Node:
        """A sub-SELECT, whose references to the query's tables become references to the rows.

        Without its table's name a column may be one of the sub-SELECT's own; those stay.
        """
        own = {
            part.alias.aliasname for part in tree.walk(sublink) if getattr(part, "alias", None) is not None
        }
        own |= {
            part.relname
            for part in tree.walk(sublink)
            if isinstance(part, ast.RangeVar) and part.alias is None
        }

        def replace(node: tree.Node) -> tree.Node | None:
            if not tree.is_column(node) or len(node.fields) == 1 or tree.strings(node.fields)[-2] in own:
                return None
            key = self._keys.name(node)
            return None if key is None else tree.column("orochi_rows", key)

        return tree.transform(sublink, replace)

    def _is_aggregate(self, call: tree.Node) -> bool:
        if call.agg_star or call.agg_within_group or call.agg_distinct or call.agg_filter or call.agg_order:
            return True
        if self._functions.is_aggregate(tree.strings(call.funcname)):
            return True
        # columns that the query does not group by can stand in aggregates only
        inner = tree.transform(call.args or (), self._stand_in)
        return any(tree.is_column(part) for part in tree.walk(inner, stop=(ast.SubLink,)))

    def _stand_in(self, node: tree.Node) -> tree.Node | None:
        known = self._keys.name(node) is not None
        if known or (
            isinstance(node, ast.FuncCall) and (_is_call(node, FUNCTION) or self._is_aggregate(node))
        ):
            return ast.A_Const(isnull=True)
        return None

    def _aggregate(self, call: tree.Node) -> str:
        for part in tree.walk(call):
            if any(_is_call(part, name) for name in _CARRIED):
                name = tree.strings(part.funcname)[-1]
                raise errors.FeatureNotSupported(f"aggregate functions must be below {name}")
        return self._aggregates.add(call)

    def _carry_call(self, call: tree.Node) -> str:
        name = tree.strings(call.funcname)[-1]
        for part in tree.walk(call.args):
            if any(_is_call(part, other) for other in _CARRIED):
                raise errors.FeatureNotSupported(
                    "multiple interpolate/locf function calls per resultset column not supported"
                )
            if isinstance(part, ast.FuncCall) and part.over is not None:
                raise errors.FeatureNotSupported(f"window functions must not be below {name}")
        return self._carried.add(call)

    def _filled(self) -> tree.Node:
        """The rows that were found and those that fill gaps."""
        keys = [name for name, _ in self._keys.items]
        wanted = [name for name, _ in self._aggregates.items]
        given = any(gapfill_parts.Carried(call).prev is not None for _, call in self._carried.items)
        series = f"(SELECT DISTINCT {', '.join(keys)} FROM orochi_found) orochi_series," if keys else ""
        text = _FILLED.format(
            same=", ".join([*keys, "orochi_bucket"]),
            start=_START if given else "",
            bucket="orochi_bucket",
            keys="".join(f"{name}, " for name in keys),
            aggregates="".join(f"{name}, " for name in wanted),
            nulls="NULL, " * len(wanted),
            series=series,
            arguments=self._bounds.arguments("(SELECT orochi_bucket FROM orochi_found LIMIT 0)"),
        )
        found = tree.changed(
            self._select,
            targetList=(
                ast.ResTarget(name="orochi_bucket", val=self._bounds.bucket()),
                *(ast.ResTarget(name=name, val=node) for name, node in self._keys.items),
                *(ast.ResTarget(name=name, val=node) for name, node in self._aggregates.items),
            ),
            groupClause=(self._bounds.bucket(), *(node for _, node in self._keys.items)),
            distinctClause=None,
            windowClause=None,
            sortClause=None,
            limitCount=None,
            limitOffset=None,
            limitOption=parse.parse_one("SELECT 1").tree.limitOption,
            withClause=None,
            intoClause=None,
            lockingClause=None,
        )
        return gapfill_parts.with_found(parse.parse_one(text).tree, found)

    def _order(self) -> str:
        """The columns that rows are ordered by: the series, then the bucket."""
        return "".join(f"{name}, " for name, _ in self._keys.items) + "orochi_bucket"

    def _carried_columns(self) -> tuple[list[str], list[str]]:
        """What locf and interpolate need, as two levels of columns: found rows before and after, then values."""
        by = "".join(f"{name}, " for name, _ in self._keys.items)
        counted, carried = [], []
        for number, (column, node) in enumerate(self._carried.items, 1):
            call = gapfill_parts.Carried(node)
            value = gapfill_parts.text(self._over_rows(call.value))
            present = f"orochi_real AND ({value}) IS NOT NULL" if call.nulls_missing else "orochi_real"
            windows = [(f"orochi_before{number}", "ASC", call.prev)]
            if call.name == "interpolate":
                windows.append((f"orochi_after{number}", "DESC", call.next))
            ends = []
            for name, direction, given in windows:
                counted.append(
                    f"pg_catalog.count(*) FILTER (WHERE {present}) OVER (PARTITION BY {by}1"
                    f" ORDER BY orochi_bucket {direction}) AS {name}"
                )
                near = f"OVER (PARTITION BY {by}{name} ORDER BY orochi_bucket {direction})"
                takes, rest = f"{name} = 0", ""
                if given is not None and direction == "ASC":
                    takes, rest = (
                        gapfill_parts.nothing_before(name, value, near),
                        f"WHEN {name} = 0 THEN NULL ",
                    )
                ends += [
                    f"CASE WHEN {takes} THEN {other} {rest}ELSE pg_catalog.first_value({found}) {near} END"
                    for other, found in self._ends(call, value, given)
                ]
            filled = ends[0]
            if call.name == "interpolate":
                here = "orochi._gapfill_at(orochi_bucket)"
                filled = f"orochi._gapfill_on_line({_typed(value)}, {here}, {', '.join(ends)})"
            carried.append(f"CASE WHEN {present} THEN {value} ELSE {filled} END AS {column}")
        return counted, carried

    def _ends(self, call: gapfill_parts.Carried, value: str, given: tree.Node) -> list[tuple[str, str]]:
        """What a filled row takes from the nearest found row: (if there is none, the found row's) expressions."""
        if call.name == "locf":
            return [("NULL" if given is None else f"({gapfill_parts.text(self._over_rows(given))})", value)]
        found = ("orochi._gapfill_at(orochi_bucket)", value)
        point = gapfill_parts.point(given)
        if point is None:
            return [("NULL", part) for part in found]
        time, other = (gapfill_parts.text(self._over_rows(part)) for part in point)
        return [
            (f"orochi._gapfill_given_at(orochi_bucket, ({time}))", found[0]),
            (f"orochi._gapfill_given_value({_typed(value)}, ({other}))", found[1]),
        ]


def _typed(value: str) -> str:
    """A NULL of the type that interpolate has for a value."""
    return f"CASE WHEN false THEN orochi.interpolate({value}) END"


_JSON_AGGREGATES = (ast.JsonArrayAgg, ast.JsonObjectAgg)


def _group(select: tree.Node, item: tree.Node) -> tree.Node:
    """What an item of GROUP BY stands for: PostgreSQL takes numbers and, if no column has it, output names."""
    if isinstance(item, ast.A_Const) and isinstance(item.val, ast.Integer):
        place = item.val.ival
        return select.targetList[place - 1].val if 1 <= place <= len(select.targetList) else item
    if isinstance(item, ast.ColumnRef) and len(item.fields) == 1:
        name = tree.strings(item.fields)[0]
        for target in select.targetList:
            if target.name == name and not _mentions(target.val, name):
                return target.val
    return item


def _mentions(node: tree.Node, name: str) -> bool:
    """Whether an expression reads a column of that name, which then is what GROUP BY means; never for a bucket."""
    if _is_call(node, FUNCTION):
        return False
    return any(tree.is_column(part) and tree.strings(part.fields)[-1] == name for part in tree.walk(node))


def _names_output(node: tree.Node, outputs: set[str]) -> bool:
    return (
        isinstance(node, ast.ColumnRef) and len(node.fields) == 1 and tree.strings(node.fields)[0] in outputs
    )


def _calls_outside_windows(node: tree.Node) -> list[tree.Node]:
    return [part for part in tree.walk(node, stop=(ast.WindowDef, ast.SubLink)) if _is_call(part, FUNCTION)]


def _is_call(node: tree.Node, name: str) -> bool:
    if not isinstance(node, ast.FuncCall):
        return False
    parts = tree.strings(node.funcname)
    return parts[-1] == name and (len(parts) == 1 or parts[0] in ("orochi", "orochi_api"))
