"""A query on a hypertable's rows, rewritten to read a continuous aggregate that has its groups.

Both texts are PostgreSQL's own print of a query, so two expressions are the same if their texts
are. A level of a query is rewritten if it reads the hypertable alone, its groups are unions of the
aggregate's groups (coarser buckets, fewer keys), its aggregates can be had from what is kept of
them, and its conditions tell of whole groups: they are over keys of the aggregate, or compare the
time with the start of a bucket. All else is left as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

from orochi import pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.planner import continuous, parse, quoting, sources, tree
from orochi.planner.tree import ast
from orochi.timeseries import ranges

#: What the aggregate is called in a rewritten level; every column is named with it.
ALIAS = "orochi_answer"
#: Columns of a printed query before they get their names.
_OUTPUT = "orochi_output_"
#: Types whose equal values are the same value: others may differ beneath one key.
_STEADY = frozenset(
    {pgtypes.BOOL, pgtypes.INT2, pgtypes.INT4, pgtypes.INT8, pgtypes.TEXT, pgtypes.VARCHAR, pgtypes.UUID}
) | frozenset(pgtypes.TIMES)
#: Aggregates that are computed from their own results.
_SAME = frozenset({"min", "max", "bool_and", "bool_or", "every", "bit_and", "bit_or", "bit_xor"})
#: What a sum is of, by the type of its result; sums of real are left out, they would round otherwise.
_SUMS = frozenset({pgtypes.INT8, pgtypes.NUMERIC, pgtypes.FLOAT8, pgtypes.INTERVAL})
_EXACT_SUMS = frozenset({pgtypes.INT8, pgtypes.NUMERIC})
_EXPRESSIONS = (
    ast.ColumnRef,
    ast.FuncCall,
    ast.A_Expr,
    ast.TypeCast,
    ast.CoalesceExpr,
    ast.CaseExpr,
    ast.BoolExpr,
    ast.NullTest,
    ast.BooleanTest,
    ast.MinMaxExpr,
)


class NeedsFact(Exception):
    """Whether a condition without columns holds has to be asked of PostgreSQL first."""

    def __init__(self, sql: str) -> None:
        super().__init__(sql)
        self.sql = sql


def output_names(count: int) -> tuple[str, ...]:
    """Names for the columns of a query that is to be printed."""
    return tuple(f"{_OUTPUT}{number}" for number in range(1, count + 1))


def rewritten(
    printed: str,
    names: tuple[str, ...],
    given: tuple[sources.Source, ...],
    aggregates: frozenset[str],
    facts: Mapping[str, bool],
) -> tuple[str, tuple[snapshots.Aggregate, ...]] | None:
    """The query over aggregates, and which; None if none answers any part of it.

    Args:
        printed: the query as PostgreSQL prints it, its columns called as `output_names` says.
        names: what they are to be called.
        given: the aggregates, the best first.
        aggregates: names that mean an aggregate function for some arguments.
        facts: what is known of conditions without columns.

    Raises:
        NeedsFact: more has to be known.
    """
    used: list[snapshots.Aggregate] = []

    def replace(node: tree.Node) -> tree.Node | None:
        if not isinstance(node, ast.SelectStmt):
            return None
        for exact, item in itertools.product((True, False), given):
            try:
                found = _Level(item, aggregates, facts, exact=exact).answered(node)
            except (sources.Unanswered, parse.CannotDeparse):
                continue
            used.append(item.aggregate)
            return found
        return None

    stmt = tree.transform(parse.parse_one(printed).tree, replace)
    if not used:
        return None
    try:
        return parse.deparse(_named(stmt, names)), tuple(dict.fromkeys(used))
    except (sources.Unanswered, parse.CannotDeparse):
        return None


def _named(stmt: tree.Node, names: tuple[str, ...]) -> tree.Node:
    """The query with its columns' names, none of which may come to mean another in ORDER BY."""
    for item in tree.walk((stmt.sortClause or (), stmt.distinctClause or ())):
        if tree.is_column(item) and len(item.fields) == 1:
            raise sources.Unanswered
    if stmt.larg is not None:
        return tree.changed(stmt, larg=_named(stmt.larg, names))
    if len(stmt.targetList or ()) != len(names):
        raise sources.Unanswered
    targets = tuple(
        tree.changed(target, name=name) for target, name in zip(stmt.targetList, names, strict=True)
    )
    return tree.changed(stmt, targetList=targets)


def _expression(sql: str) -> tree.Node:
    return parse.parse_one(f"SELECT {sql}").tree.targetList[0].val


class _Level:
    """One level of a query, answered from one aggregate: group by group (`exact`), or by unions of groups."""

    def __init__(
        self, of: sources.Source, aggregates: frozenset[str], facts: Mapping[str, bool], *, exact: bool
    ) -> None:
        self._of, self._aggregates, self._facts, self._exact = of, aggregates, facts, exact
        self._bucket = of.aggregate.bucket
        self._merged = False

    def answered(self, stmt: tree.Node) -> tree.Node:
        """The level over the aggregate."""
        if sources.table_of(stmt) != self._of.table:
            raise sources.Unanswered
        groups = stmt.groupClause or ()
        if self._exact and frozenset(sources.text_of(item) for item in groups) != self._of.keys:
            raise sources.Unanswered
        terms = self._conditions(stmt.whereClause)
        targets = tuple(
            tree.changed(
                target, name=target.name or continuous.implied(target.val), val=self._all(target.val)
            )
            for target in stmt.targetList
        )
        having = None if stmt.havingClause is None else self._all(stmt.havingClause)
        sort = self._all(stmt.sortClause or ()) or None
        distinct, windows = self._all(stmt.distinctClause or ()), self._all(stmt.windowClause or ())
        if not groups and not self._merged:
            raise sources.Unanswered  # rows, not groups
        if self._exact and having is not None:
            terms, having = (*terms, having), None
        query = self._of.aggregate.query
        return tree.changed(
            stmt,
            targetList=targets,
            fromClause=parse.parse_one(f"SELECT FROM {quoting.relation(*query)} AS {ALIAS}").tree.fromClause,
            whereClause=tree.conjunction(terms),
            groupClause=None if self._exact else self._keys(groups) or None,
            havingClause=having,
            sortClause=sort,
            distinctClause=distinct or None,
            windowClause=windows or None,
        )

    # --- conditions ---------------------------------------------------------------------------------

    def _conditions(self, where: tree.Node) -> tuple[tree.Node, ...]:
        found, seen = [], set()
        for term in tree.conjuncts(where):
            text = sources.text_of(term)
            if text in self._of.terms:
                seen.add(text)
            else:
                found.append(self._bound(term) or self._keys(term))
        if seen != self._of.terms:
            raise sources.Unanswered
        return tuple(found)

    def _bound(self, term: tree.Node) -> tree.Node | None:
        """A comparison of the time with the start of a bucket: it holds for all rows of one or for none."""
        name = tree.operator(term)
        if name not in (">=", "<", "<=", ">"):
            return None
        time, other = term.lexpr, term.rexpr
        if self._is_time(other):
            time, other, name = other, time, {">=": "<=", "<": ">", "<=": ">=", ">": "<"}[name]
        if not self._is_time(time) or name not in (">=", "<") or self._of.zoned:
            return None
        if not _is_constant(other):
            return None
        value, oid = parse.deparse_expression(other), self._bucket.type_oid
        same = f"pg_catalog.pg_typeof({continuous.TIME})::pg_catalog.oid"
        if oid in _INTEGERS:
            aligned = f"({continuous.TIME}::bigint - ({self._bucket.phase})) % {self._bucket.width} = 0"
            same = f"{same} IN ({', '.join(str(number) for number in sorted(_INTEGERS))})"
        else:
            aligned, same = f"({self._bucket.expression}) = {continuous.TIME}", f"{same} = {oid}"
        self._require(f"SELECT {same} AND {aligned} FROM (SELECT {value} AS {continuous.TIME}) AS moment")
        start = self._column(self._bucket.column)
        if time is term.lexpr:
            return tree.changed(term, lexpr=start)
        return tree.changed(term, rexpr=start)

    def _is_time(self, node: tree.Node) -> bool:
        return tree.is_column(node) and tree.strings(node.fields)[-1] == self._bucket.time

    def _require(self, sql: str) -> None:
        if sql not in self._facts:
            raise NeedsFact(sql)
        if not self._facts[sql]:
            raise sources.Unanswered

    # --- expressions --------------------------------------------------------------------------------

    def _keys(self, node: tree.Node) -> tree.Node:
        """An expression over keys."""
        return tree.transform(node, self._replaced(None))

    def _all(self, node: tree.Node) -> tree.Node:
        """An expression over keys and aggregates."""
        return tree.transform(node, self._replaced(self._merge))

    def _replaced(
        self, aggregate: Callable[[tree.Node], tree.Node] | None
    ) -> Callable[[tree.Node], tree.Node | None]:
        def replace(node: tree.Node) -> tree.Node | None:
            if not isinstance(node, _EXPRESSIONS):
                return None
            text = sources.text_of(node)
            if text in self._of.keys:
                return self._key(text)
            if isinstance(node, ast.FuncCall) and node.over is None:
                name = tree.strings(node.funcname)[-1]
                if name in self._aggregates:
                    if aggregate is None:
                        raise sources.Unanswered
                    self._merged = True
                    return aggregate(node)
                if (coarser := self._coarser(node)) is not None:
                    return coarser
            if isinstance(node, ast.ColumnRef):
                raise sources.Unanswered
            return None

        return replace

    def _key(self, text: str) -> tree.Node:
        name = self._of.outputs.get(text)
        if name is None or self._of.types.get(name) not in _STEADY:
            raise sources.Unanswered
        return self._column(name)

    def _column(self, name: str) -> tree.Node:
        return tree.column(ALIAS, name)

    def _coarser(self, call: tree.Node) -> tree.Node | None:
        """A call of time_bucket() whose buckets are made of whole ones of the aggregate."""
        if tree.strings(call.funcname) not in sources.BUCKETS or self._exact:
            return None
        rest = call.args[2:]
        if len(call.args) < 2 or not self._is_time(call.args[1]) or any(map(continuous.is_text, rest)):
            return None
        if not all(map(_is_constant, (call.args[0], *rest))) or self._bucket.width is None or self._of.zoned:
            return None
        oid, width, phase = self._bucket.type_oid, self._bucket.width, self._bucket.phase
        zero = f"'0'::{_INTEGERS[oid]}" if oid in _INTEGERS else f"'2000-01-01 00:00+00'::{_TIMES[oid]}"
        placed = tree.transform(
            call, lambda node: tree.column(continuous.TIME) if node is call.args[1] else None
        )
        start = ranges.raw_sql(oid, f"({parse.deparse_expression(placed)})")
        apart = f"((SELECT {start} FROM (SELECT {zero} AS {continuous.TIME}) AS moment) - ({phase})) % {width} = 0"
        given = parse.deparse_expression(call.args[0])
        if oid in _INTEGERS:
            self._require(f"SELECT ({given})::bigint % {width} = 0 AND {apart}")
        else:
            unit = ranges.MICROSECONDS_PER_DAY if oid == pgtypes.DATE else 1
            day = ranges.MICROSECONDS_PER_DAY // unit
            self._require(
                f"SELECT CASE WHEN orochi._width_months(w) = 0 THEN orochi._interval_microseconds(w) % {width * unit} = 0"
                f" ELSE w = pg_catalog.make_interval(months => orochi._width_months(w)) AND {day} % {width} = 0 END AND {apart}"
                f" FROM (SELECT ({given})::interval AS w) AS given"
            )
        args = tuple(
            self._column(self._bucket.column) if item is call.args[1] else item for item in call.args
        )
        return tree.changed(call, args=args)

    def _merge(self, call: tree.Node) -> tree.Node:
        """An aggregate of rows, from those of their groups."""
        parts = tree.strings(call.funcname)
        name, text = parts[-1], sources.text_of(call)
        column = self._of.outputs.get(text)
        if column is not None and self._exact:
            return self._column(column)
        if parts[:-1] not in ((), ("pg_catalog",)):
            raise sources.Unanswered
        if column is None:
            return self._average(call) if name == "avg" else self._of_keys(call, name)
        kept = f"{ALIAS}.{quoting.identifier(column)}"
        if call.agg_distinct or call.agg_order:
            raise sources.Unanswered
        if name == "count":
            return _expression(f"(COALESCE(pg_catalog.sum({kept}), 0))::pg_catalog.int8")
        if name == "sum":
            return _expression(self._sum(column))
        if name == "avg":
            return self._average(call)
        if name in _SAME:
            return _expression(f"pg_catalog.{name}({kept})")
        raise sources.Unanswered

    def _sum(self, column: str) -> str:
        kind, kept = self._of.types.get(column), f"{ALIAS}.{quoting.identifier(column)}"
        if kind not in _SUMS:
            raise sources.Unanswered
        whole = f"pg_catalog.sum({kept})"
        return f"({whole})::pg_catalog.int8" if kind == pgtypes.INT8 else whole

    def _average(self, call: tree.Node) -> tree.Node:
        """An average, where the sum and the count of the same values are kept, and exact."""
        if call.agg_distinct or call.agg_order:
            raise sources.Unanswered
        total, count = (
            self._of.outputs.get(sources.text_of(tree.changed(call, funcname=tree.names(name))))
            for name in ("sum", "count")
        )
        if total is None or count is None or self._of.types.get(total) not in _EXACT_SUMS:
            raise sources.Unanswered
        total, count = (f"{ALIAS}.{quoting.identifier(name)}" for name in (total, count))
        if self._exact:
            return _expression(f"({total})::pg_catalog.numeric / NULLIF({count}, 0)::pg_catalog.numeric")
        return _expression(
            f"(pg_catalog.sum({total}))::pg_catalog.numeric / NULLIF(pg_catalog.sum({count}), 0)"
        )

    def _of_keys(self, call: tree.Node, name: str) -> tree.Node:
        """An aggregate of keys that does not ask how many rows have them."""
        if (
            self._exact
            or not (call.agg_distinct or name in ("min", "max"))
            or call.agg_star
            or call.agg_order
        ):
            raise sources.Unanswered
        filtered = None if call.agg_filter is None else self._keys(call.agg_filter)
        return tree.changed(call, args=self._keys(call.args), agg_filter=filtered)


_INTEGERS = {pgtypes.INT2: "smallint", pgtypes.INT4: "integer", pgtypes.INT8: "bigint"}
_TIMES = {pgtypes.DATE: "date", pgtypes.TIMESTAMP: "timestamp", pgtypes.TIMESTAMPTZ: "timestamptz"}


def _is_constant(node: tree.Node) -> bool:
    """A constant of a built-in type: to evaluate it runs no function of a user's."""
    while isinstance(node, ast.NamedArgExpr):
        node = node.arg
    if isinstance(node, ast.TypeCast):
        if tree.strings(node.typeName.names)[:-1] not in ((), ("pg_catalog",)):
            return False
        node = node.arg
    return isinstance(node, ast.A_Const)
