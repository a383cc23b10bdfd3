"""Which shards, chunks and stripe rows can matter to a statement, from its conditions.

A shard, a chunk or a row is left out only if a condition that must hold excludes it for certain.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from orochi import pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.planner import analyze, literals, names, nulls, tree
from orochi.planner import fragment as fragments
from orochi.planner.tree import ast
from orochi.sharding import hashing

Points = frozenset[int | str | bytes | None]
Range = tuple[int, int]  # inclusive

_EVERYTHING = (-(2**63), 2**63 - 1)


@dataclasses.dataclass(frozen=True, slots=True)
class Pruned:
    """What is left of one table.

    Attributes:
        shards: those that can hold rows that matter, by index.
        ranges: of the time column, in raw units; None for no restriction.
        further: the same of each further dimension of the table.
        predicates: implied comparisons of single columns with constants.
    """

    shards: tuple[snapshots.Shard, ...]
    ranges: tuple[Range, ...] | None
    predicates: tuple[fragments.Predicate, ...]
    further: tuple[tuple[Range, ...] | None, ...] = ()

    def chunks(self, shard: snapshots.Shard) -> tuple[snapshots.Chunk, ...]:
        """The chunks of `shard` that can hold rows that matter."""
        if self.ranges is None:
            return shard.chunks
        return tuple(
            chunk
            for chunk in shard.chunks
            if any(low < chunk.range_end and high >= chunk.range_start for low, high in self.ranges)
        )

    def stripes(self, shard: snapshots.Shard) -> tuple[snapshots.Stripe, ...]:
        """The stripes of those chunks that can hold such rows."""
        return self.stripes_of(self.chunks(shard))

    def stripes_of(self, chunks: Iterable[snapshots.Chunk]) -> tuple[snapshots.Stripe, ...]:
        """The stripes of chunks that can hold such rows."""
        return tuple(stripe for chunk in chunks for stripe in chunk.stripes if not self._excludes(stripe))

    def likely_rows(self, stripes: Iterable[snapshots.Stripe]) -> int:
        """About how many rows of those stripes have a time that is wanted, as if times were evenly spread."""
        if self.ranges is None:
            return sum(stripe.row_count for stripe in stripes)
        found = 0
        for stripe in stripes:
            if stripe.times is not None:
                first, last = stripe.times
                wanted = sum(max(min(high, last) - max(low, first) + 1, 0) for low, high in self.ranges)
                found += stripe.row_count * wanted // (last - first + 1)
        return found

    def _excludes(self, stripe: snapshots.Stripe) -> bool:
        if self.ranges is not None and not any(stripe.may_have(low, high) for low, high in self.ranges):
            return True
        return any(
            kept is not None
            and bounds is not None
            and not any(low <= bounds[1] and high >= bounds[0] for low, high in kept)
            for kept, bounds in zip(self.further, stripe.bounds, strict=False)
        )


def prune(reference: names.Reference, analysis: analyze.Analysis) -> Pruned:
    """What can matter of one mention of a table."""
    table, terms = reference.table, analysis.quals(reference)
    # only its own level's: a sub-SELECT is evaluated for the one row of an aggregate over nothing, too
    if any(nulls.never(term) for term, level in terms if level is reference.level):
        return Pruned((), (), ())
    classes = analysis.classes(terms)
    shards = table.shards
    if table.kind is snapshots.TableKind.DISTRIBUTED:
        points = distribution_points(reference, terms, analysis, classes)
        if points is not None:
            shards = shards_of(table, points)
    ranges = None
    if table.dimension is not None:
        ranges = _time_ranges((id(reference), table.dimension.column), terms, analysis, classes)
    further = tuple(
        _time_ranges((id(reference), item.column), terms, analysis, classes) for item in table.further
    )
    return Pruned(shards, ranges, predicates(reference, terms, analysis), further)


def shards_of(table: snapshots.Table, points: Points) -> tuple[snapshots.Shard, ...]:
    """The shards of rows with one of these distribution values (None: NULL)."""
    assert table.distribution_oid is not None
    oid = table.distribution_oid
    found = {}
    for point in points:
        shard = table.shard_for_hash(hashing.hash_value(oid, point))
        found[shard.index] = shard
    return tuple(found[index] for index in sorted(found))


def distribution_points(
    reference: names.Reference,
    terms: analyze.Terms,
    analysis: analyze.Analysis,
    classes: analyze.Classes,
) -> Points | None:
    """The distribution values that rows that matter can have; None for any."""
    assert reference.table.distribution_column is not None
    key = (id(reference), reference.table.distribution_column)
    found: Points | None = None
    for member in classes.members(key):
        if isinstance(member[0], str) and member[0].startswith("value "):
            found = _intersect(found, frozenset({member[1]}))  # type: ignore[arg-type]
        elif isinstance(member[0], int):
            own = {id(term) for term, _ in analysis.filters(reference)} if member == key else set()
            for term, level in terms:
                points = _points(term, level, member, analysis, nulls=id(term) in own)
                if member != key and points is not None:
                    points -= {None}  # it equals the other column, so neither is NULL
                found = _intersect(found, points)
    return found


def _intersect(a: Points | None, b: Points | None) -> Points | None:
    if a is None or b is None:
        return b if a is None else a
    return a & b


def _points(
    term: tree.Node,
    level: names.Level,
    key: analyze.ColumnKey,
    analysis: analyze.Analysis,
    *,
    nulls: bool = False,
) -> Points | None:
    """The values the column can have where `term` holds; None for any.

    `nulls`: draw something from IS NULL, which an outer join's missing rows satisfy too.
    """
    if isinstance(term, ast.BoolExpr):
        parts = [_points(item, level, key, analysis, nulls=nulls) for item in term.args]
        if term.boolop.name == "AND_EXPR":
            found: Points | None = None
            for part in parts:
                found = _intersect(found, part)
            return found
        if term.boolop.name == "OR_EXPR" and all(part is not None for part in parts):
            return frozenset().union(*parts)  # type: ignore[arg-type]
        return None
    if isinstance(term, ast.NullTest):
        is_null = nulls and term.nulltesttype.name == "IS_NULL"
        return frozenset({None}) if is_null and analysis.key(term.arg, level) == key else None
    choices = _choices(term, level, key, analysis)
    if choices is None:
        return None
    points = set()
    for choice in choices:
        if not _is_null(choice, analysis):
            point = analysis.point(key, choice)
            if point is None:
                return None
            points.add(point)
    return frozenset(points)


def _choices(
    term: tree.Node, level: names.Level, key: analyze.ColumnKey, analysis: analyze.Analysis
) -> tuple[tree.Node, ...] | None:
    """The constants of `column = c`, `column IN (...)`, `column = ANY (array)`; None for other terms."""
    if tree.operator(term) == "=":
        for side, other in ((term.lexpr, term.rexpr), (term.rexpr, term.lexpr)):
            if analysis.key(side, level) == key:
                return None if tree.is_column(other) else (other,)
        return None
    if not isinstance(term, ast.A_Expr) or tree.strings(term.name) not in (("=",), ("pg_catalog", "=")):
        return None
    if term.kind.name == "AEXPR_IN" and analysis.key(term.lexpr, level) == key:
        return tuple(term.rexpr)
    if term.kind.name == "AEXPR_OP_ANY" and analysis.key(term.lexpr, level) == key:
        found = literals.elements(term.rexpr)
        return None if found is None else tuple(_node(item) for item in found)
    return None


_CASTS = {oid: name for name, oid in reversed(literals.TYPE_OIDS.items()) if " " not in name}


def _node(value: literals.Constant) -> tree.Node:
    """A constant as a node again."""
    if value.text is None:
        return ast.A_Const(isnull=True)
    node = ast.A_Const(isnull=False, val=ast.String(sval=value.text))
    if value.oid == pgtypes.UNKNOWN:
        return node
    return ast.TypeCast(
        arg=node, typeName=ast.TypeName(names=tree.names("pg_catalog", _CASTS[value.oid]), typemod=-1)
    )


def _is_null(node: tree.Node, analysis: analyze.Analysis) -> bool:
    value = literals.constant(node)
    return value is not None and value.text is None


def _time_ranges(
    key: analyze.ColumnKey, terms: analyze.Terms, analysis: analyze.Analysis, classes: analyze.Classes
) -> tuple[Range, ...] | None:
    """The ranges that the time column of rows that matter can lie in; None for any."""
    ranges: tuple[Range, ...] = (_EVERYTHING,)
    for member in classes.members(key):
        if not isinstance(member[0], int):
            continue
        for term, level in terms:
            found = _ranges(term, level, member, analysis)
            if found is not None:
                ranges = _overlap(ranges, found)
    return None if ranges == (_EVERYTHING,) else ranges


def _overlap(a: Iterable[Range], b: Iterable[Range]) -> tuple[Range, ...]:
    b = tuple(b)
    pairs = ((max(x[0], y[0]), min(x[1], y[1])) for x in a for y in b)
    return tuple(sorted({(low, high) for low, high in pairs if low <= high}))


def _ranges(
    term: tree.Node, level: names.Level, key: analyze.ColumnKey, analysis: analyze.Analysis
) -> tuple[Range, ...] | None:
    """The ranges the column can lie in where `term` holds; None for any."""
    if isinstance(term, ast.BoolExpr):
        parts = [_ranges(item, level, key, analysis) for item in term.args]
        if term.boolop.name == "AND_EXPR":
            known = [part for part in parts if part is not None]
            found: tuple[Range, ...] = (_EVERYTHING,)
            for part in known:
                found = _overlap(found, part)
            return found if known else None
        if term.boolop.name == "OR_EXPR" and all(part is not None for part in parts):
            return tuple(item for part in parts if part is not None for item in part)
        return None
    choices = _choices(term, level, key, analysis)
    if choices is not None:
        points = [analysis.point(key, choice) for choice in choices if not _is_null(choice, analysis)]
        if all(isinstance(point, int) for point in points):
            return tuple((point, point) for point in points if isinstance(point, int))
        return None
    bounds = list(_bounds(term, level, analysis, lambda found: found == key))
    if not bounds:
        return None
    low, high = _EVERYTHING
    for _, (name, value) in bounds:
        if not isinstance(value, int):
            return None
        if name in (">", ">=", "="):
            low = max(low, value + (name == ">"))
        if name in ("<", "<=", "="):
            high = min(high, value - (name == "<"))
    return ((low, high),) if low <= high else ()


def _bounds(
    term: tree.Node,
    level: names.Level,
    analysis: analyze.Analysis,
    wanted: Callable[[analyze.ColumnKey], bool],
) -> Iterator[tuple[analyze.ColumnKey, literals.Bound]]:
    """The comparisons of wanted columns with constants that `term` is made of."""
    name = tree.operator(term)
    if name in literals.COMPARISONS:
        for side, other, op in (
            (term.lexpr, term.rexpr, name),
            (term.rexpr, term.lexpr, literals.flipped(name)),
        ):
            key = analysis.key(side, level)
            if key is not None and wanted(key) and not tree.is_column(other):
                found = analysis.bound(key, op, other)
                if found is not None:
                    yield key, found
    elif isinstance(term, ast.A_Expr) and term.kind.name == "AEXPR_BETWEEN":
        key = analysis.key(term.lexpr, level)
        if key is not None and wanted(key):
            for op, other in zip((">=", "<="), term.rexpr, strict=True):
                found = analysis.bound(key, op, other)
                if found is not None:
                    yield key, found


def predicates(
    reference: names.Reference, terms: analyze.Terms, analysis: analyze.Analysis
) -> tuple[fragments.Predicate, ...]:
    """What the conditions imply for single columns of the table, in carrier units."""
    found: dict[fragments.Predicate, None] = {}
    for term, level in terms:
        for key, (name, value) in _bounds(term, level, analysis, lambda key: key[0] == id(reference)):
            found[fragments.Predicate(key[1], name, (value,))] = None
        listed = _in_predicate(term, level, reference, analysis)
        if listed is not None:
            found[listed] = None
        if isinstance(term, ast.NullTest) and term.nulltesttype.name == "IS_NOT_NULL":
            tested = analysis.key(term.arg, level)
            if tested is not None and tested[0] == id(reference):
                found[fragments.Predicate(tested[1], "notnull")] = None
    for term, level in analysis.filters(reference):
        # IS NULL is no comparison: it may be drawn only from what filters the table's own rows
        if isinstance(term, ast.NullTest) and term.nulltesttype.name == "IS_NULL":
            tested = analysis.key(term.arg, level)
            if tested is not None and tested[0] == id(reference):
                found[fragments.Predicate(tested[1], "isnull")] = None
    return tuple(found)


def _in_predicate(
    term: tree.Node, level: names.Level, reference: names.Reference, analysis: analyze.Analysis
) -> fragments.Predicate | None:
    """`column IN (...)`, also as `= ANY (array)` or as equalities joined by OR."""
    for column in _columns_of(term, level, reference, analysis):
        oid = analysis.type_of(column)
        if oid == pgtypes.UUID:
            continue
        points = _points(term, level, column, analysis)
        if points is not None and None not in points and tree.operator(term) != "=":
            kept = sorted(points, key=lambda value: (str(type(value)), value))
            return fragments.Predicate(column[1], "in", tuple(kept))  # type: ignore[arg-type]
    return None


def _columns_of(
    term: tree.Node, level: names.Level, reference: names.Reference, analysis: analyze.Analysis
) -> list[analyze.ColumnKey]:
    if isinstance(term, ast.BoolExpr) and term.boolop.name == "OR_EXPR":
        return _columns_of(term.args[0], level, reference, analysis)
    sides = (term.lexpr, term.rexpr) if isinstance(term, ast.A_Expr) else ()
    keys = [analysis.key(side, level) for side in sides if tree.is_column(side)]
    return [key for key in keys if key is not None and key[0] == id(reference)]
