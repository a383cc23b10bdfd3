"""The aggregates that split: what a shard computes of each, and how the parts become the value.

`SPLITS` is the allow-list of two-phase aggregates. The value is PostgreSQL's own, of its own type
and scale: `sum(bigint)` is numeric whichever way it is added up, an average is its sum divided by
its count, a variance of exact numbers is made of exact sums, and one of floats of the transition
states that PostgreSQL's parallel workers exchange. Each entry names the test that shows it equal
to PostgreSQL.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from orochi.planner import parse, spread, tree

_INTEGERS = frozenset({"smallint", "integer", "bigint"})
_SMALL = frozenset({"smallint", "integer"})
_FLOATS = frozenset({"real", "double precision"})
#: Argument types of sum and avg, by the name `pg_typeof` prints.
_SUMMED = _INTEGERS | _FLOATS | {"numeric", "interval", "money"}
#: Types of times by which first and last may compare their parts.
_SORTED = _INTEGERS | _FLOATS | {
    "numeric", "date", "timestamp without time zone", "timestamp with time zone", "text", "interval"
}  # fmt: skip

#: Aggregates whose value stays the same when rows are repeated: DISTINCT changes nothing.
INDIFFERENT = frozenset(
    {"min", "max", "bool_and", "bool_or", "every", "bit_and", "bit_or", "any_value", "range_intersect_agg"}
)
#: Aggregates of distinct values that are added up where the shards' values are different ones.
ADDED = frozenset({"count", "sum", "avg"})


class Splitter(Protocol):
    """Collects the columns of the partial result."""

    def part(self, node: tree.Node, name: str, *arguments: tree.Node) -> str:
        """The column of aggregate `name` over `arguments` (those of `node` if none), under its FILTER."""

    def element(self, node: tree.Node, name: str, index: int, *arguments: tree.Node) -> str:
        """The column of one element of an array that aggregate `name` gives."""

    def type_of(self, argument: tree.Node) -> str:
        """The type of an argument as `pg_typeof` prints it; empty if it has none of that name."""


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """How one aggregate splits.

    Attributes:
        arguments: the argument types for which it does.
        partial: what each shard computes.
        final: what the coordinator makes of it.
        test: the test that shows the value to be PostgreSQL's.
        build: makes the final expression, adding the parts it needs.
    """

    arguments: str
    partial: str
    final: str
    test: str
    build: Callable[[Splitter, tree.Node], tree.Node]


def sql(text: str) -> tree.Node:
    """An expression given as text."""
    return parse.parse_one(f"SELECT {text}").tree.targetList[0].val


def _name(node: tree.Node) -> str:
    return tree.strings(node.funcname)[-1]


def _only(node: tree.Node) -> tree.Node:
    if len(node.args or ()) != 1:
        raise spread.Unfit(f"{_name(node)} takes one argument")
    return node.args[0]


def _cast(argument: tree.Node, kind: str) -> tree.Node:
    return tree.changed(sql(f"x::{kind}"), arg=argument)


def _same(splitter: Splitter, node: tree.Node) -> tree.Node:
    return sql(f"{_name(node)}({splitter.part(node, _name(node))})")


def _count(splitter: Splitter, node: tree.Node) -> tree.Node:
    return sql(f"coalesce(sum({splitter.part(node, 'count')}), 0)::bigint")


def _sum(splitter: Splitter, node: tree.Node) -> tree.Node:
    kind = splitter.type_of(_only(node))
    if kind not in _SUMMED:
        raise spread.Unfit(f"sum of {kind} does not split")
    part = splitter.part(node, "sum")
    return sql(f"sum({part})::bigint" if kind in _SMALL else f"sum({part})")


def _avg(splitter: Splitter, node: tree.Node) -> tree.Node:
    kind = splitter.type_of(_only(node))
    if kind in _FLOATS:
        return sql(f"float8_avg({_moments(splitter, node)})")
    if kind not in _SUMMED or kind == "money":
        raise spread.Unfit(f"avg of {kind} does not split")
    total, count = splitter.part(node, "sum"), splitter.part(node, "count")
    divisor = f"nullif(sum({count}), 0)" + ("::double precision" if kind == "interval" else "")
    return sql(f"(sum({total}) / {divisor})")


def _moments(splitter: Splitter, node: tree.Node) -> str:
    """The merged transition state of a statistic of one float."""
    argument = _cast(_only(node), "double precision")
    elements = (splitter.element(node, "_moments", index, argument) for index in (1, 2, 3))
    return f"orochi._merged_moments(ARRAY[{', '.join(elements)}])"


def _spread_of(name: str) -> Callable[[Splitter, tree.Node], tree.Node]:
    """A variance or standard deviation: `name` is like `var_samp`."""

    def build(splitter: Splitter, node: tree.Node) -> tree.Node:
        argument = _only(node)
        kind = splitter.type_of(argument)
        if kind in _FLOATS:
            return sql(f"float8_{name}({_moments(splitter, node)})")
        if kind not in _INTEGERS | {"numeric"}:
            raise spread.Unfit(f"{_name(node)} of {kind} does not split")
        wide = _cast(
            argument, "bigint" if kind in _SMALL else "numeric"
        )  # a square of an integer fits bigint
        square = tree.changed(sql("x * x"), lexpr=wide, rexpr=wide)
        count, total = splitter.part(node, "count"), splitter.part(node, "sum")
        squares = splitter.part(node, "sum", square)
        function = "_variance" if name.startswith("var") else "_stddev"
        sample = "true" if name.endswith("samp") else "false"
        return sql(f"orochi.{function}(sum({count}), sum({total}), sum({squares}), {sample})")

    return build


def _pair(name: str) -> Callable[[Splitter, tree.Node], tree.Node]:
    """A statistic of two floats: `name` is the function of its state, empty for the count of pairs."""

    def build(splitter: Splitter, node: tree.Node) -> tree.Node:
        if len(node.args or ()) != 2:
            raise spread.Unfit(f"{_name(node)} takes two arguments")
        arguments = tuple(_cast(argument, "double precision") for argument in node.args)
        if not name:
            both = _where_both(*node.args)
            return sql(f"coalesce(sum({splitter.part(node, 'count', both)}), 0)::bigint")
        elements = (splitter.element(node, "_comoments", index, *arguments) for index in range(1, 7))
        return sql(f"{name}(orochi._merged_comoments(ARRAY[{', '.join(elements)}]))")

    return build


def _where_both(x: tree.Node, y: tree.Node) -> tree.Node:
    """1 where neither is NULL."""
    given = {"x": x, "y": y}

    def replace(node: tree.Node) -> tree.Node | None:
        return given[tree.strings(node.fields)[0]] if tree.is_column(node) else None

    return tree.transform(sql("CASE WHEN x IS NOT NULL AND y IS NOT NULL THEN 1 END"), replace)


def _bookend(splitter: Splitter, node: tree.Node) -> tree.Node:
    name = _name(node)
    if len(node.args or ()) != 2 or splitter.type_of(node.args[1]) not in _SORTED:
        raise spread.Unfit(f"{name} by such a value does not split")
    value = splitter.part(node, name)
    when = splitter.part(node, "min" if name == "first" else "max", node.args[1])
    return sql(f"orochi.{name}({value}, {when})")


def _histogram(splitter: Splitter, node: tree.Node) -> tree.Node:
    return sql(f"orochi._merged_histogram({splitter.part(node, 'histogram')})")


def _rolled(name: str) -> Callable[[Splitter, tree.Node], tree.Node]:
    """A sketch: shards make sketches by the aggregate `name`, which are merged."""

    def build(splitter: Splitter, node: tree.Node) -> tree.Node:
        return sql(f"orochi.rollup({splitter.part(node, name)})")

    return build


def _counted(splitter: Splitter, node: tree.Node) -> tree.Node:
    buckets = sql("16384")
    part = splitter.part(node, "hyperloglog", buckets, _only(node))
    return sql(f"orochi._hll_count(orochi.rollup({part}))")


def _digest(splitter: Splitter, node: tree.Node) -> tree.Node:
    """Sketches of quantiles are all alike; percentile_agg makes them quickest."""
    return sql(f"orochi.rollup({splitter.part(node, 'percentile_agg', node.args[-1])})")


_TEST = "tests/cluster/test_aggregates.py::"
_ANY = Split(
    "any type it takes", "itself", "itself over the parts", f"{_TEST}test_same", _same
)  # fmt: skip
_MOMENTS = ("count, sum, sum of squares; of floats PostgreSQL's state", "exact arithmetic; `float8_combine`")


def _statistic(name: str) -> Split:
    return Split(
        "smallint, integer, bigint, numeric, real, double precision",
        *_MOMENTS,
        f"{_TEST}test_statistics",
        _spread_of(name),
    )


def _pairs(name: str) -> Split:
    return Split(
        "double precision, and what is cast to it",
        "PostgreSQL's state",
        "`float8_regr_combine`",
        f"{_TEST}test_statistics",
        _pair(name),
    )


_SKETCHED = "tests/cluster/test_sketches.py::test_layouts"


def _sketch(arguments: str, build: Callable[[Splitter, tree.Node], tree.Node]) -> Split:
    return Split(arguments, "a sketch", "the merged sketch, or what is read of it", _SKETCHED, build)


SPLITS: Mapping[str, Split] = MappingProxyType(
    {
        **dict.fromkeys(sorted(INDIFFERENT | {"bit_xor", "range_agg"}), _ANY),
        "count": Split("any", "count", "sum of the counts", f"{_TEST}test_same", _count),
        "sum": Split(
            "smallint, integer, bigint, numeric, real, double precision, interval, money",
            "sum",
            "sum of the sums, of sum's own type",
            f"{_TEST}test_sums",
            _sum,
        ),
        "avg": Split(
            "smallint, integer, bigint, numeric, interval, real, double precision",
            "sum and count; of floats PostgreSQL's state",
            "the sum divided by the count; `float8_combine`",
            f"{_TEST}test_sums",
            _avg,
        ),
        "variance": _statistic("var_samp"),
        "var_samp": _statistic("var_samp"),
        "var_pop": _statistic("var_pop"),
        "stddev": _statistic("stddev_samp"),
        "stddev_samp": _statistic("stddev_samp"),
        "stddev_pop": _statistic("stddev_pop"),
        "corr": _pairs("float8_corr"),
        "covar_pop": _pairs("float8_covar_pop"),
        "covar_samp": _pairs("float8_covar_samp"),
        "regr_count": _pairs(""),
        **{
            f"regr_{name}": _pairs(f"float8_regr_{name}")
            for name in ("avgx", "avgy", "intercept", "r2", "slope", "sxx", "sxy", "syy")
        },
        "histogram": Split(
            "double precision, and what is cast to it",
            "itself",
            "sums of the counts",
            "tests/cluster/test_time_bucket.py::test_groups",
            _histogram,
        ),
        "approx_count_distinct": _sketch("any that has a hash", _counted),
        "hyperloglog": _sketch("any that has a hash", _rolled("hyperloglog")),
        **{
            name: _sketch("double precision, and what is cast to it", _digest)
            for name in ("percentile_agg", "tdigest", "uddsketch")
        },
        "rollup": _sketch("sketches", _rolled("rollup")),
        **dict.fromkeys(
            ("first", "last"),
            Split(
                "any, by an integer, float, numeric, text or time",
                "itself, and the least or greatest time",
                "itself over the parts",
                f"{_TEST}test_same",
                _bookend,
            ),
        ),
    }
)
