"""From where to where time_bucket_gapfill fills: its arguments, or what WHERE says of the time column.

A bound is taken from a term that WHERE or an inner join's ON joins by AND, and that compares the very
column with something that reads no column; of several the narrowest holds.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence

from orochi import errors
from orochi.planner import gapfill_scope, parse, tree
from orochi.planner.tree import ast

_HINT = "Specify start and finish as arguments or in the WHERE clause."
_INVALID = "invalid time_bucket_gapfill argument: "
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_TOO_SMALL = re.compile(r"\s*(?:-|0+(?:\.0*)?\s*[a-z]*\s*$)", re.IGNORECASE)
_PLAIN = ("bucket_width", "ts", "start", "finish")
_ZONED = ("bucket_width", "ts", "timezone", "start", "finish")


@dataclasses.dataclass(frozen=True, slots=True)
class Bounds:
    """The arguments of one call: `starts` and `finishes` are SQL with {sample} for a NULL of the time's type."""

    width: tree.Node
    time: tree.Node
    timezone: tree.Node | None
    starts: tuple[str, ...]
    finishes: tuple[str, ...]

    def bucket(self) -> tree.Node:
        """The call of time_bucket that finds a row's bucket."""
        zone = (
            ()
            if self.timezone is None
            else (ast.NamedArgExpr(name="timezone", arg=self.timezone, argnumber=-1),)
        )
        return ast.FuncCall(
            funcname=tree.names("orochi", "time_bucket"),
            args=(self.width, self.time, *zone),
            funcformat=_CALL.funcformat,
            agg_within_group=False,
            agg_star=False,
            agg_distinct=False,
            func_variadic=False,
        )

    def arguments(self, sample: str) -> str:
        """The arguments of orochi._gapfill_buckets."""
        start = _combined("GREATEST", self.starts).format(sample=sample)
        finish = _combined("LEAST", self.finishes).format(sample=sample)
        zone = "" if self.timezone is None else f", timezone => {parse.deparse_expression(self.timezone)}"
        return f"{parse.deparse_expression(self.width)}, {sample}, {start}, {finish}{zone}"


_CALL = parse.parse_one("SELECT f()").tree.targetList[0].val


def arguments(call: tree.Node, order: Sequence[str]) -> dict[str, tree.Node]:
    """The arguments of a call by name; `order` has the names of positional ones."""
    found = {}
    for name, node in zip(order, call.args or (), strict=False):
        if isinstance(node, ast.NamedArgExpr):
            break
        found[name] = node
    for node in call.args or ():
        if isinstance(node, ast.NamedArgExpr):
            found[node.name] = node.arg
    return found


def bounds(select: tree.Node, call: tree.Node, texts: frozenset[int]) -> Bounds:
    """The bounds for a call in GROUP BY; `texts` are the statement's parameters that are texts.

    Raises:
        OrochiError: 22023, an argument is missing or cannot be used.
    """
    own = gapfill_scope.own_names(select)
    given = arguments(call, _ZONED if _has_zone(call, texts, own) else _PLAIN)
    width, time, zone = given["bucket_width"], given["ts"], given.get("timezone")
    if _is_null(width):
        raise errors.InvalidParameter(f"{_INVALID}bucket_width cannot be NULL")
    if _is_too_small(width):
        raise errors.InvalidParameter(f"{_INVALID}bucket_width must be greater than 0")
    if _is_null(time):
        raise errors.InvalidParameter(f"{_INVALID}ts cannot be NULL")
    if zone is not None and _is_null(zone):
        raise errors.InvalidParameter(f"{_INVALID}timezone cannot be NULL")
    for name, node in (
        ("bucket_width", width),
        ("start", given.get("start")),
        ("finish", given.get("finish")),
    ):
        if node is not None and gapfill_scope.reads_columns(node, own):
            raise errors.InvalidParameter(f"{_INVALID}{name} must be a simple expression")
    if zone is not None and not gapfill_scope.is_constant(zone):
        raise errors.FeatureNotSupported(
            "time_bucket_gapfill does not support non-constant timezone",
            hint="Use a constant timezone value.",
        )
    sides: list[tuple[str, ...]] = []
    for name, operators in (("start", (">=", ">")), ("finish", ("<", "<="))):
        node = given.get(name)
        if node is not None and not _is_null(node):
            text = parse.deparse_expression(node).replace("{", "{{").replace("}", "}}")
            # an outer query's column is a start or a time zone: PostgreSQL, which knows its type, says which
            outer = name == "start" and tree.is_column(node)
            sides.append((f"orochi._gapfill_start({{sample}}, {text})" if outer else text,))
        else:
            sides.append(tuple(_inferred(select, own, time, name, operators)))
    return Bounds(width, time, zone, *sides)


def _has_zone(call: tree.Node, texts: frozenset[int], own: set[str]) -> bool:
    """Whether the third argument is a time zone: PostgreSQL decides by types, which a text shows well enough."""
    named = {node.name for node in call.args if isinstance(node, ast.NamedArgExpr)}
    positional = [node for node in call.args if not isinstance(node, ast.NamedArgExpr)]
    if "timezone" in named or len(positional) == len(_ZONED):
        return True
    if len(positional) < 3 or "start" in named:
        return len(positional) > 2
    if gapfill_scope.is_text(positional[2], texts):
        return True
    # a column of the query's own can be no start, and buckets of a number have no zone
    numbered = isinstance(positional[0], ast.A_Const) and isinstance(positional[0].val, ast.Integer)
    column = tree.is_column(positional[2]) and gapfill_scope.reads_columns(positional[2], own)
    return column and len(positional) == 3 and not numbered


def _inferred(
    select: tree.Node, own: set[str], time: tree.Node, name: str, operators: tuple[str, str]
) -> Iterator[str]:
    if not tree.is_column(time):
        raise errors.InvalidParameter(
            f"{_INVALID}ts needs to refer to a single column if no start or finish is supplied", hint=_HINT
        )
    found = False
    for term in _terms(select):
        for operator, bound in _comparisons(term, own, time):
            if operator in operators:
                found = True
                text = parse.deparse_expression(bound).replace("{", "{{").replace("}", "}}")
                exact = operator in (">=", "<")
                yield text if exact else f"orochi._gapfill_after({{sample}}, {text})"
    if not found:
        raise errors.InvalidParameter(
            f"missing time_bucket_gapfill argument: could not infer {name} from WHERE clause", hint=_HINT
        )


def _terms(select: tree.Node) -> Iterator[tree.Node]:
    yield from tree.conjuncts(select.whereClause)
    waiting = list(select.fromClause or ())
    while waiting:
        item = waiting.pop()
        if isinstance(item, ast.JoinExpr) and item.jointype.name == "JOIN_INNER":
            yield from tree.conjuncts(item.quals)
            waiting += [item.larg, item.rarg]


def _comparisons(term: tree.Node, own: set[str], time: tree.Node) -> Iterator[tuple[str, tree.Node]]:
    """(operator, bound) of a term that compares the column with something that reads none."""
    if isinstance(term, ast.A_Expr) and term.kind.name == "AEXPR_BETWEEN" and same_column(term.lexpr, time):
        low, high = term.rexpr
        pairs = [(">=", low), ("<=", high)]
    else:
        operator = tree.operator(term)
        if operator not in _TURNED:
            return
        if same_column(term.lexpr, time):
            pairs = [(operator, term.rexpr)]
        elif same_column(term.rexpr, time):
            pairs = [(_TURNED[operator], term.lexpr)]
        else:
            return
    for found, bound in pairs:
        if not gapfill_scope.reads_columns(bound, own):
            yield found, bound


def same_column(node: tree.Node, time: tree.Node) -> bool:
    """Whether two column references, one perhaps without its table, are of the same column."""
    if not tree.is_column(node):
        return False
    one, other = tree.strings(node.fields), tree.strings(time.fields)
    shorter = min(len(one), len(other))
    return one[-shorter:] == other[-shorter:]


def _is_null(node: tree.Node) -> bool:
    if isinstance(node, ast.TypeCast):
        return _is_null(node.arg)
    return isinstance(node, ast.A_Const) and bool(node.isnull)


def _is_too_small(width: tree.Node) -> bool:
    """Whether a width is written as zero or less; any other is found when buckets are made."""
    if isinstance(width, ast.TypeCast):
        return _is_too_small(width.arg)
    match width.val if isinstance(width, ast.A_Const) else None:
        case ast.Integer(ival=number):
            return bool(number <= 0)
        case ast.String(sval=text):
            return _TOO_SMALL.match(text) is not None
    return False


def _combined(function: str, texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{function}({', '.join(texts)})"
