"""Names as PostgreSQL resolves them: relations by CTE, temporary table and search_path; columns by scope.

`resolve` walks a statement once. It is exact for Orochi tables; of other relations only the names
are known, so a bare column name is resolved to an Orochi table where a level of the query has one
of that name (PostgreSQL has already refused an ambiguous one), and otherwise may stay unknown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from pglast import keywords

from orochi import pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.planner import context, tree
from orochi.planner.tree import ast

_KEYWORDS = frozenset().union(
    keywords.RESERVED_KEYWORDS,
    keywords.TYPE_FUNC_NAME_KEYWORDS,
    keywords.COL_NAME_KEYWORDS,
    keywords.UNRESERVED_KEYWORDS,
)
#: Where a statement names what it makes, which is no table that is there already.
_MADE: Mapping[type, str] = {
    ast.CreateStmt: "relation",
    ast.IntoClause: "rel",
    ast.ViewStmt: "view",
    ast.CreateSeqStmt: "sequence",
    ast.CompositeTypeStmt: "typevar",
}
SYSTEM_COLUMNS = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})


def ident(name: str) -> str:
    """An SQL identifier, quoted where it has to be."""
    plain = name.isascii() and name.replace("_", "a").replace("$", "a").isalnum() and name == name.lower()
    if plain and not name[0].isdigit() and name[0] != "$" and name not in _KEYWORDS:
        return name
    return '"' + name.replace('"', '""') + '"'


def quoted(name: str) -> str:
    """An SQL identifier, always quoted."""
    return '"' + name.replace('"', '""') + '"'


def qualified(table: snapshots.Table) -> str:
    """The shell table's name with its schema."""
    return f"{quoted(table.schema)}.{quoted(table.name)}"


def find_relation(
    snapshot: snapshots.Snapshot,
    search_path: tuple[str, ...],
    temp_tables: frozenset[str],
    schema: str | None,
    name: str,
) -> snapshots.Table | snapshots.View | None:
    """The Orochi table, or view over one, that a relation name means; None for any other relation."""
    if schema == "pg_temp":
        schema = temp_schema(search_path)
    if schema is not None:
        return snapshot.table(schema, name) or snapshot.views.get((schema, name))
    if name in temp_tables:
        return None
    if snapshot.shadows and "pg_catalog" not in search_path and ("pg_catalog", name) in snapshot.shadows:
        return None  # it comes first unless the path says otherwise
    for candidate in search_path:
        if (candidate, name) in snapshot.shadows:
            return None
        found = snapshot.table(candidate, name) or snapshot.views.get((candidate, name))
        if found is not None:
            return found
    return None


def temp_schema(search_path: tuple[str, ...]) -> str:
    """The real name of the session's `pg_temp`, as far as its search path tells."""
    return next((name for name in search_path if name.startswith("pg_temp_")), "pg_temp")


def types_of(tables: Iterable[snapshots.Table], search_path: Sequence[str]) -> dict[str, str]:
    """User types that nodes have because columns of these tables are of them: as written, to a full name.

    A bare name means the first on the search path.
    """
    found: dict[str, str] = {}
    bare: dict[str, tuple[int, str]] = {}
    for table in tables:
        for column in table.columns:
            if column.type_oid < pgtypes.FIRST_NORMAL_OID:
                continue
            full = column.type_name.removesuffix("[]").split("(")[0]
            schema, _, name = full.replace('"', "").rpartition(".")
            found[f"{schema}.{name}"] = full
            found[f"{schema}._{name[:62]}"] = full + "[]"  # what PostgreSQL calls an array of it
            if schema in search_path:
                bare[name] = min(
                    bare.get(name, (len(search_path), "")), (list(search_path).index(schema), full)
                )
    return {name: full for name, (_, full) in bare.items()} | found


@dataclasses.dataclass(eq=False, slots=True)
class Level:
    """One query level: a SELECT without its sub-SELECTs, an arm of a set operation, or a DML statement.

    Attributes:
        place: how it hangs under its parent: top, from, lateral, sublink, cte, arm.
        relations: what its FROM holds, by the id of the FROM item's node.
        arms: the branches of a set operation, the left one first.
    """

    stmt: tree.Node
    parent: Level | None
    place: str
    arms: list[Level] = dataclasses.field(default_factory=list)
    relations: dict[int, Reference | Other] = dataclasses.field(default_factory=dict)
    merged: dict[str, tuple[Reference, str] | None] = dataclasses.field(default_factory=dict)

    def is_below(self, top: Level) -> bool:
        """Whether it lies inside `top`."""
        current = self.parent
        while current is not None:
            if current is top:
                return True
            current = current.parent
        return False

    @property
    def references(self) -> list[Reference]:
        """Its Orochi tables."""
        return [item for item in self.relations.values() if isinstance(item, Reference)]

    @property
    def outer(self) -> Level | None:
        """The next level whose columns it may name: a sub-SELECT of FROM, or a CTE, does not see its siblings."""
        if self.parent is None or self.place not in ("from", "cte"):
            return self.parent
        return self.parent.outer


@dataclasses.dataclass(eq=False, slots=True)
class Reference:
    """One mention of an Orochi table in a FROM clause, or as the target of UPDATE or DELETE.

    Attributes:
        visible: names the statement may call its columns by, to their real names.
        hidden: a join alias above it hides it from the statement.
    """

    node: tree.Node
    table: snapshots.Table
    alias: str
    visible: Mapping[str, str]
    level: Level
    renamed: bool = False
    target: bool = False
    hidden: bool = False
    sampled: bool = False


@dataclasses.dataclass(eq=False, slots=True)
class Other:
    """Any other FROM item.

    Attributes:
        kind: local, cte, subquery, function, values, join.
        columns: its column names where they are known.
        level: of a sub-SELECT.
    """

    node: tree.Node
    kind: str
    alias: str | None
    columns: frozenset[str] | None = None
    level: Level | None = None


@dataclasses.dataclass(slots=True)
class Scopes:
    """What `resolve` found.

    Attributes:
        levels: every query level, outer ones first.
        columns: every column reference (stars too) with the level it stands in.
        others: relation names in places where they are not read: targets of DDL, INSERT, COPY ...
    """

    levels: list[Level] = dataclasses.field(default_factory=list)
    columns: list[tuple[tree.Node, Level]] = dataclasses.field(default_factory=list)
    others: list[tree.Node] = dataclasses.field(default_factory=list)
    views: list[tuple[tree.Node, snapshots.View]] = dataclasses.field(default_factory=list)

    @property
    def references(self) -> list[Reference]:
        """Every mention of an Orochi table."""
        return [item for level in self.levels for item in level.references]


def resolve(node: tree.Node, ctx: context.PlanContext) -> Scopes:
    """The scopes of a statement."""
    resolver = _Resolver(ctx)
    resolver.statement(node, None, frozenset(), "top")
    return resolver.scopes


class _Resolver:
    def __init__(self, ctx: context.PlanContext) -> None:
        self._ctx = ctx
        self.scopes = Scopes()

    def statement(
        self, node: tree.Node, parent: Level | None, ctes: frozenset[str], place: str
    ) -> Level | None:
        if isinstance(node, ast.SelectStmt):
            return self._select(node, parent, ctes, place)
        if isinstance(node, (ast.UpdateStmt, ast.DeleteStmt, ast.InsertStmt, ast.MergeStmt)):
            return self._modify(node, parent, ctes, place)
        self._utility(node)
        return None

    def _select(self, node: tree.Node, parent: Level | None, ctes: frozenset[str], place: str) -> Level:
        level = self._open(node, parent, place)
        ctes = self._ctes(node.withClause, level, ctes)
        if node.larg is not None:
            level.arms += [self._select(arm, level, ctes, "arm") for arm in (node.larg, node.rarg)]
        for item in node.fromClause or ():
            self._from(item, level, ctes)
        for name in (
            "targetList",
            "whereClause",
            "groupClause",
            "havingClause",
            "windowClause",
            "valuesLists",
        ):
            self._expression(getattr(node, name), level, ctes)
        for name in ("distinctClause", "sortClause", "limitOffset", "limitCount"):
            self._expression(getattr(node, name), level, ctes)
        return level

    def _modify(self, node: tree.Node, parent: Level | None, ctes: frozenset[str], place: str) -> Level:
        level = self._open(node, parent, place)
        ctes = self._ctes(node.withClause, level, ctes)
        if isinstance(node, ast.InsertStmt):
            self.scopes.others.append(node.relation)
            if node.selectStmt is not None:
                self._select(node.selectStmt, level, ctes, "from")
            for name in ("onConflictClause", "returningClause"):
                self._expression(getattr(node, name), level, ctes)
            return level
        self._relation(node.relation, level, frozenset(), target=True)
        if isinstance(node, ast.MergeStmt):
            self._from(node.sourceRelation, level, ctes)
        for item in getattr(node, "fromClause", None) or getattr(node, "usingClause", None) or ():
            self._from(item, level, ctes)
        for name in ("targetList", "whereClause", "joinCondition", "mergeWhenClauses", "returningClause"):
            self._expression(getattr(node, name, None), level, ctes)
        return level

    def _open(self, node: tree.Node, parent: Level | None, place: str) -> Level:
        level = Level(node, parent, place)
        self.scopes.levels.append(level)
        return level

    def _ctes(self, clause: tree.Node, level: Level, ctes: frozenset[str]) -> frozenset[str]:
        if clause is None:
            return ctes
        if clause.recursive:
            ctes |= {item.ctename for item in clause.ctes}
        for item in clause.ctes:
            self.statement(item.ctequery, level, ctes, "cte")
            ctes |= {item.ctename}
        return ctes

    def _from(self, item: tree.Node, level: Level, ctes: frozenset[str]) -> None:
        if isinstance(item, ast.RangeVar):
            self._relation(item, level, ctes)
        elif isinstance(item, ast.JoinExpr):
            self._join(item, level, ctes)
        elif isinstance(item, ast.RangeSubselect):
            inner = self._select(item.subquery, level, ctes, "lateral" if item.lateral else "from")
            kind = "values" if item.subquery.valuesLists else "subquery"
            level.relations[id(item)] = Other(item, kind, _alias(item), level=inner)
        elif isinstance(item, ast.RangeTableSample):
            self._from(item.relation, level, ctes)
            found = level.relations.get(id(item.relation))
            if isinstance(found, Reference):
                found.sampled = True
            self._expression((item.args or (), item.repeatable), level, ctes)
        else:
            level.relations[id(item)] = Other(item, "function", _alias(item))
            self._expression(item, level, ctes)

    def _join(self, item: tree.Node, level: Level, ctes: frozenset[str]) -> None:
        before = len(level.relations)
        self._from(item.larg, level, ctes)
        middle = len(level.relations)
        self._from(item.rarg, level, ctes)
        sides = list(level.relations.values())
        _merge(item, level, sides[before:middle], sides[middle:])
        if item.quals is not None:
            self._expression(item.quals, level, ctes)
        if item.alias is not None:
            for found in list(level.relations.values())[before:]:
                if isinstance(found, Reference):
                    found.hidden = True
            level.relations[id(item)] = Other(item, "join", item.alias.aliasname)

    def _relation(self, node: tree.Node, level: Level, ctes: frozenset[str], *, target: bool = False) -> None:
        if node.schemaname is None and node.relname in ctes:
            level.relations[id(node)] = Other(node, "cte", _alias(node) or node.relname)
            return
        found = find_relation(
            self._ctx.snapshot,
            self._ctx.search_path,
            self._ctx.temp_tables,
            node.schemaname,
            node.relname,
        )
        alias = _alias(node) or node.relname
        if isinstance(found, snapshots.Table):
            level.relations[id(node)] = _reference(node, found, alias, level, target)
            return
        if found is not None:
            self.scopes.views.append((node, found))
        level.relations[id(node)] = Other(node, "local", alias)

    def _expression(self, node: tree.Node, level: Level, ctes: frozenset[str]) -> None:
        if node is None:
            return
        for part in tree.walk(node, stop=(ast.SelectStmt, ast.A_Const)):  # of constants there are thousands
            if isinstance(part, ast.SelectStmt):
                self._select(part, level, ctes, "sublink")
            elif isinstance(part, ast.ColumnRef):
                self.scopes.columns.append((part, level))

    def _utility(self, node: tree.Node) -> None:
        stop = (
            ast.SelectStmt,
            ast.InsertStmt,
            ast.UpdateStmt,
            ast.DeleteStmt,
            ast.MergeStmt,
            ast.TableLikeClause,
        )
        made: set[int] = set()
        for part in tree.walk(node, stop=stop):
            target = _MADE.get(type(part))
            if target is not None:
                made.add(id(getattr(part, target)))
            if isinstance(part, ast.RangeVar):
                if id(part) not in made:
                    self.scopes.others.append(part)
            elif isinstance(part, stop[:-1]) and not isinstance(node, (ast.ViewStmt, ast.RuleStmt)):
                self.statement(part, None, frozenset(), "top")


def merged_names(item: tree.Node, left: list[Reference | Other], right: list[Reference | Other]) -> list[str]:
    """The columns that USING or NATURAL joins by, as far as they are known."""
    if not item.isNatural:
        return list(tree.strings(item.usingClause))
    if any(isinstance(side, Other) for side in (*left, *right)):
        return []
    names = {name for side in left if isinstance(side, Reference) for name in side.visible}
    return [name for side in right if isinstance(side, Reference) for name in side.visible if name in names]


def _merge(
    item: tree.Node, level: Level, left: list[Reference | Other], right: list[Reference | Other]
) -> None:
    """Note what the bare names of columns merged by USING or NATURAL mean from here on."""
    if not item.isNatural and not item.usingClause:
        return
    kind = item.jointype.name
    unknown = item.isNatural and any(isinstance(side, Other) for side in (*left, *right))
    if unknown and kind != "JOIN_INNER":
        for side in (*left, *right):
            if isinstance(side, Reference):
                level.merged.update(dict.fromkeys(side.visible))
    for name in merged_names(item, left, right):
        on_left, on_right = _holder(name, left, level), _holder(name, right, level)
        if kind == "JOIN_INNER":
            level.merged[name] = on_left or on_right
        else:
            level.merged[name] = {"JOIN_LEFT": on_left, "JOIN_RIGHT": on_right}.get(kind)


def _holder(name: str, side: list[Reference | Other], level: Level) -> tuple[Reference, str] | None:
    """The column called `name` on one side of a join, where that is certain."""
    hits = [item for item in side if isinstance(item, Reference) and name in item.visible and not item.hidden]
    if name in level.merged and (level.merged[name] is None or level.merged[name][0] in hits):  # type: ignore[index]
        return level.merged[name]
    return (hits[0], hits[0].visible[name]) if len(hits) == 1 else None


def _alias(node: tree.Node) -> str | None:
    return node.alias.aliasname if getattr(node, "alias", None) is not None else None


def _reference(node: tree.Node, table: snapshots.Table, alias: str, level: Level, target: bool) -> Reference:
    real = [item.name for item in table.columns]
    given = tree.strings(node.alias.colnames) if node.alias is not None else ()
    visible = dict(zip([*given, *real[len(given) :]], real, strict=False))
    return Reference(node, table, alias, visible, level, renamed=bool(given), target=target)
