"""What a query's conditions imply for the rows of each Orochi table in it.

Three sets of conditions are kept apart, because outer joins treat them differently:

* `filters(reference)`: may be applied to the table's rows before anything else, whatever they are;
* `quals(reference)`: hold for every row of the table that can matter to the answer, provided only
  conditions that NULL never satisfies are drawn from them (comparisons are such);
* the ON conditions of an outer join say which pairs match, and nothing of the preserved side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from pglast import enums

from orochi import pgtypes
from orochi.planner import context, invoked, literals, lookup, names, parse, safety, tree
from orochi.planner.tree import ast

Terms = tuple[tuple[tree.Node, names.Level], ...]
ColumnKey = tuple[int, str]
Key = tuple[int, str] | tuple[str, object]

_TEXTS = frozenset({pgtypes.TEXT, pgtypes.VARCHAR})


@dataclasses.dataclass(eq=False, slots=True)
class Join:
    """A join of the FROM tree: its kind, its two sides, its terms (those of USING spelled out)."""

    kind: str
    left: Item
    right: Item
    terms: tuple[tree.Node, ...]


Item = names.Reference | names.Other | Join


class Classes:
    """Equivalence classes of columns and constants."""

    def __init__(self) -> None:
        self._parent: dict[Key, Key] = {}

    def find(self, key: Key) -> Key:
        """The representative of `key`'s class."""
        while (above := self._parent.get(key, key)) != key:
            self._parent[key] = self._parent.get(above, above)
            key = above
        return key

    def union(self, a: Key, b: Key) -> None:
        """Both are equal."""
        first, second = self.find(a), self.find(b)
        self._parent.setdefault(first, first)
        if first != second:
            self._parent[second] = first

    def equal(self, a: Key, b: Key) -> bool:
        """Whether the two are known to be equal."""
        return self.find(a) == self.find(b)

    def members(self, key: Key) -> list[Key]:
        """All of `key`'s class, `key` too."""
        root = self.find(key)
        return [key, *(other for other in self._parent if other != key and self.find(other) == root)]


class Analysis:
    """The conditions of one statement, and the values that pruning by them needs."""

    def __init__(self, scopes: names.Scopes, ctx: context.PlanContext, *, fold: bool = True) -> None:
        self.scopes = scopes
        self.ctx = ctx
        self.wishes: list[str] = []
        self._fold = fold
        self._quals: dict[int, Terms] = {}
        self._filters: dict[int, Terms] = {}
        self.joins: dict[int, Item | None] = {}
        self._where: dict[int, Terms] = {}
        self._by_id = {id(item): item for item in scopes.references}
        # a join of many tables asks for the same ones again and again; what has an id here is kept for it
        self._keys: dict[tuple[int, int], tuple[tree.Node, ColumnKey | None]] = {}
        self._known: dict[tuple[int, ...], tuple[Terms, Classes]] = {}
        for level in scopes.levels:
            self._level(level)

    def quals(self, reference: names.Reference) -> Terms:
        """Conditions that hold for the rows of `reference` that can matter (NULL-rejecting ones only)."""
        return self._quals.get(id(reference), ())

    def filters(self, reference: names.Reference) -> Terms:
        """Conditions that rows of `reference` may be filtered by, if they are about it alone."""
        return self._filters.get(id(reference), ())

    def where(self, level: names.Level) -> Terms:
        """The conditions that hold for every row a query level lets through, those of outer levels too."""
        return self._where.get(id(level), ())

    def settle(self) -> None:
        """Raise NeedsFolding if a value was missed that the session can tell."""
        if self.wishes:
            raise literals.NeedsFolding(self.wishes)

    def key(self, node: tree.Node, level: names.Level) -> ColumnKey | None:
        """The key of the Orochi column that `node` is, or None."""
        if not tree.is_column(node):
            return None
        named = (id(node), id(level))
        if named not in self._keys:
            found = lookup.origin(node, level)
            self._keys[named] = (node, None if found is None else (id(found[0]), found[1]))
        return self._keys[named][1]

    def _level(self, level: names.Level) -> None:
        stmt = level.stmt
        where = tuple((term, level) for term in tree.conjuncts(getattr(stmt, "whereClause", None)))
        inherited = self._where.get(id(level.parent), ()) if _inherits(level) else ()
        items = [
            self._item(node, level)
            for node in (
                *(getattr(stmt, "fromClause", None) or ()),
                *(getattr(stmt, "usingClause", None) or ()),
            )
        ]
        target = getattr(stmt, "relation", None)
        if target is not None and id(target) in level.relations:
            items.insert(0, level.relations[id(target)])
        root: Item | None = None
        for item in items:
            root = item if root is None else Join("JOIN_INNER", root, item, ())
        if isinstance(stmt, ast.MergeStmt):
            root = self._merge(stmt, level)
        self.joins[id(level)] = root
        everything = where + inner_terms(root, level)
        self._where[id(level)] = everything + inherited
        if root is not None:
            self._descend(root, level, everything + inherited, everything)

    def _merge(self, stmt: tree.Node, level: names.Level) -> Item:
        """MERGE as the join that it is: rows of the target that match nothing matter only where it says so."""
        source, target = self._item(stmt.sourceRelation, level), level.relations[id(stmt.relation)]
        kinds = {
            clause.matchKind.name
            for clause in stmt.mergeWhenClauses
            if clause.commandType.name != "CMD_NOTHING"
        }
        terms = tree.conjuncts(stmt.joinCondition)
        if "MERGE_WHEN_NOT_MATCHED_BY_SOURCE" not in kinds:
            inner = "MERGE_WHEN_NOT_MATCHED_BY_TARGET" not in kinds
            return Join("JOIN_INNER" if inner else "JOIN_LEFT", source, target, terms)
        if "MERGE_WHEN_NOT_MATCHED_BY_TARGET" not in kinds:
            return Join("JOIN_LEFT", target, source, terms)
        return Join("JOIN_FULL", source, target, terms)

    def _item(self, node: tree.Node, level: names.Level) -> Item:
        if isinstance(node, ast.JoinExpr):
            if node.alias is not None:
                return level.relations[id(node)]
            left, right = self._item(node.larg, level), self._item(node.rarg, level)
            kind = node.jointype.name
            terms = tree.conjuncts(node.quals) + _using_terms(node, left, right, level)
            if kind == "JOIN_RIGHT":
                return Join("JOIN_LEFT", right, left, terms)
            return Join(kind, left, right, terms)
        if isinstance(node, ast.RangeTableSample):
            return self._item(node.relation, level)
        return level.relations[id(node)]

    def _descend(self, item: Item, level: names.Level, quals: Terms, filters: Terms) -> None:
        if isinstance(item, names.Reference):
            self._quals[id(item)], self._filters[id(item)] = quals, filters
        elif isinstance(item, Join):
            terms = tuple((term, level) for term in item.terms)
            if item.kind == "JOIN_INNER":
                self._descend(item.left, level, quals, filters)
                self._descend(item.right, level, quals, filters)
            elif item.kind == "JOIN_LEFT":
                self._descend(item.left, level, quals, filters)
                inner = terms + inner_terms(item.right, level)
                self._descend(item.right, level, quals + inner, inner)
            else:
                for side in (item.left, item.right):
                    inner = inner_terms(side, level)
                    self._descend(side, level, quals + inner, inner)

    def classes(self, terms: Terms) -> Classes:
        """Which columns equal which, and which constants, where all of `terms` hold: to be read only."""
        named = tuple(id(part) for term in terms for part in term)
        if named not in self._known:
            self._known[named] = (terms, self._classes(terms))
        return self._known[named][1]

    def _classes(self, terms: Terms) -> Classes:
        found = Classes()
        for term, level in terms:
            if tree.operator(term) != "=":
                continue
            left, right = self.key(term.lexpr, level), self.key(term.rexpr, level)
            if left is not None and right is not None:
                if self._family(left) is not None and self._family(left) == self._family(right):
                    found.union(left, right)
                continue
            key, other = (left, term.rexpr) if left is not None else (right, term.lexpr)
            if key is None:
                continue
            value = self.point(key, other)
            if value is not None:
                found.union(key, (f"value {self._family(key)}", value))
            elif isinstance(other, ast.ParamRef):
                found.union(key, ("parameter", other.number))
        return found

    def reference(self, key: ColumnKey) -> names.Reference:
        """The table of a column key."""
        return self._by_id[key[0]]

    def type_of(self, key: ColumnKey) -> int:
        """The base type of a column."""
        column = self.reference(key).table.column(key[1])
        assert column is not None
        return column.base_oid

    def _family(self, key: ColumnKey) -> object:
        """What columns must share for their equality to be equality of values; None for no such thing."""
        column = self.reference(key).table.column(key[1])
        assert column is not None
        if column.collation not in (None, 'pg_catalog."C"', 'pg_catalog."POSIX"', 'pg_catalog."default"'):
            return None
        if column.base_oid in pgtypes.INTEGERS:
            return "integer"
        return "text" if column.base_oid in _TEXTS else column.base_oid

    def constant(self, node: tree.Node) -> literals.Constant | None:
        """The value of an expression without columns; asks for folding where only the session can tell."""
        found = literals.constant(node)
        if found is not None or not self._fold or not safety.is_foldable(node, self.ctx.builtins):
            return found
        try:
            return self._folded(parse.deparse_expression(node))
        except parse.CannotDeparse:
            return None

    def _folded(self, sql: str) -> literals.Constant | None:
        if sql not in self.ctx.folded:
            self.wishes.append(sql)
            return None
        value = self.ctx.folded[sql]
        return None if value is None else literals.Constant(value.oid, value.text)

    def bound(self, key: ColumnKey, name: str, node: tree.Node) -> literals.Bound | None:
        """`column name node` as a comparison of carrier values, or None if it gives no certain one."""
        oid = self.type_of(key)
        if self._family(key) is None:
            return None
        value = self.constant(node)
        if value is None or value.text is None:
            return None
        found = literals.compare(oid, name, value, self.ctx.zone)
        if found is not None or not self._fold or oid not in pgtypes.TIMES:
            return found
        allowed = {pgtypes.UNKNOWN, oid} | (
            {pgtypes.DATE, pgtypes.TIMESTAMP} if oid == pgtypes.TIMESTAMPTZ else set()
        )
        if value.oid not in allowed:
            return None
        # only the session's own reading of the text is certain
        target = _TIME_NAMES[oid]
        source = "" if value.oid in (pgtypes.UNKNOWN, oid) else f"::{_TIME_NAMES[value.oid]}"
        value = self._folded(f"{literals.quote(value.text)}{source}::{target}")
        return None if value is None else literals.compare(oid, name, value, self.ctx.zone)

    def point(self, key: ColumnKey, node: tree.Node) -> int | str | bytes | None:
        """The carrier value a column has where it equals `node`; None if that is not certain."""
        oid = self.type_of(key)
        if oid == pgtypes.UUID:
            value = self.constant(node)
            return None if value is None else literals.hashable(oid, value, self.ctx.zone)
        found = self.bound(key, "=", node)
        return None if found is None or isinstance(found[1], float) else found[1]


def _inherits(level: names.Level) -> bool:
    """Whether rows of this level that fail the conditions of the level above cannot matter."""
    if level.parent is None or level.place in ("cte", "arm"):
        return False
    return level.place == "sublink" or is_transparent(level.stmt)


def is_transparent(stmt: tree.Node) -> bool:
    """Whether a condition on columns that a SELECT hands on may be applied to its input instead."""
    if not isinstance(stmt, ast.SelectStmt) or not lookup.hands_on(stmt):
        return False
    if stmt.limitCount is not None or stmt.limitOffset is not None or any(stmt.distinctClause or ()):
        return False
    return not any(
        invoked.window(part) is not None
        for part in tree.walk((stmt.targetList or (), stmt.sortClause or ()), stop=(ast.SelectStmt,))
    )


_TIME_NAMES = {
    pgtypes.DATE: "date",
    pgtypes.TIMESTAMP: "timestamp without time zone",
    pgtypes.TIMESTAMPTZ: "timestamp with time zone",
}


def inner_terms(item: Item | None, level: names.Level) -> Terms:
    """The ON terms of the inner joins at the top of a FROM tree: they restrict like WHERE."""
    if not isinstance(item, Join):
        return ()
    if item.kind == "JOIN_INNER":
        own = tuple((term, level) for term in item.terms)
        return own + inner_terms(item.left, level) + inner_terms(item.right, level)
    return inner_terms(item.left, level) if item.kind == "JOIN_LEFT" else ()


def members(item: Item) -> Iterable[names.Reference | names.Other]:
    """The leaves of a FROM tree."""
    if isinstance(item, Join):
        yield from members(item.left)
        yield from members(item.right)
    else:
        yield item


def _using_terms(node: tree.Node, left: Item, right: Item, level: names.Level) -> tuple[tree.Node, ...]:
    """The equalities that USING or NATURAL means, between Orochi tables."""
    if not node.usingClause and not node.isNatural:
        return ()
    sides = list(members(left)), list(members(right))
    found = []
    for name in names.merged_names(node, *sides):
        holders = [
            [item for item in side if isinstance(item, names.Reference) and name in item.visible]
            for side in sides
        ]
        # several holders on the left are themselves merged: equal, unless an outer join lies between
        if len(holders[0]) == 1 and len(holders[1]) == 1:
            found.append(equality((holders[0][0].alias, name), (holders[1][0].alias, name)))
        elif holders[0] and len(holders[1]) == 1 and level.merged.get(name) is not None:
            base = level.merged[name]
            assert base is not None
            shown = next(shown for shown, real in base[0].visible.items() if real == base[1])
            found.append(equality((base[0].alias, shown), (holders[1][0].alias, name)))
    return tuple(found)


def equality(left: tuple[str, str], right: tuple[str, str]) -> tree.Node:
    """`left = right` of two qualified columns."""
    return ast.A_Expr(
        kind=enums.A_Expr_Kind.AEXPR_OP,
        name=tree.names("="),
        lexpr=tree.column(*left),
        rexpr=tree.column(*right),
    )
