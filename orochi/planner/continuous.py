"""The query of a continuous aggregate: whose time its buckets are of, and the query for some buckets only.

Queries come as PostgreSQL prints the definition of a view, every name qualified and every constant
typed. A bucket's groups must depend on no row of the hypertable outside of the bucket: the time
column is followed from the call of `time_bucket` down to the hypertable, through sub-SELECTs, CTEs,
views and other continuous aggregates that hand rows on one by one. A condition on that column beside
the query's own WHERE then leaves exactly the groups of the buckets it admits, whatever FROM holds.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping

from orochi import errors, ids
from orochi.catalog import snapshot as snapshots
from orochi.planner import parse, quoting, tree
from orochi.planner.tree import ast

#: What stands for the row's time in the bucket expression of nodes.
TIME = "orochi_time"
_MARKER = "orochi_buckets_wanted"
_FUNCTION = "time_bucket"
#: Where finished buckets are, and what their table is called in a query of both parts.
SCHEMA, FINISHED = "orochi_aggregates", "orochi_finished"


@dataclasses.dataclass(frozen=True, slots=True)
class Analysis:
    """What a query aggregates.

    Attributes:
        column: the output column of buckets.
        table: the hypertable; `time` its time column.
        expression: SQL for a bucket, of a time called `orochi_time`.
        width: SQL for the bucket's width; `zoned` whether the bucket depends on a time zone.
        others: the other Orochi tables it reads.
        columns: output columns that are plain columns of tables: name to (OID of the table, column).
        above: whether it is over another continuous aggregate.
    """

    column: str
    table: snapshots.Table
    time: str
    expression: str
    width: str
    zoned: bool
    others: frozenset[int]
    columns: Mapping[str, tuple[int, str]]
    above: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Template:
    """A query with a place for a condition: `sql.replace(marker, condition)`; `time` and `start` are SQL there."""

    sql: str
    time: str
    start: str

    def where(self, condition: str) -> str:
        """The query for the rows that the condition admits."""
        return self.sql.replace(_MARKER, f"({condition})")


@dataclasses.dataclass(frozen=True, slots=True)
class _Origin:
    """Where a column comes from, and the buckets that continuous aggregates on the way made of it."""

    table: snapshots.Table
    column: str
    chain: tuple[snapshots.Bucket, ...] = ()


def is_of_parts(stmt: tree.Node) -> bool:
    """Whether a query is an aggregate as it is read: its finished buckets and, by UNION ALL, live ones."""
    if not isinstance(stmt, ast.SelectStmt) or stmt.larg is None or not stmt.all:
        return False
    if stmt.op.name != "SETOP_UNION" or stmt.sortClause or stmt.limitCount or stmt.limitOffset:
        return False
    sources: tree.Node = stmt.larg.fromClause or ()
    return (
        len(sources) == 1
        and isinstance(sources[0], ast.RangeVar)
        and sources[0].schemaname == SCHEMA
        and sources[0].alias is not None
        and sources[0].alias.aliasname == FINISHED
        and bool(stmt.rarg.groupClause)
    )


def analyze(definition: str, columns: tuple[str, ...], snapshot: snapshots.Snapshot) -> Analysis:
    """Read the query of a continuous aggregate.

    Args:
        definition: as PostgreSQL prints it.
        columns: names of its output columns.
        snapshot: the catalog.

    Raises:
        FeatureNotSupported: its buckets could not be kept right.
    """
    stmt = parse.parse_one(definition).tree
    _check_shape(stmt)
    position, call, column = bucket_of(stmt)
    origin = _trace(stmt, column, snapshot, {})
    if origin is None or origin.table.dimension is None or origin.table.dimension.column != origin.column:
        raise _refused(
            f"{_FUNCTION}() of a continuous aggregate must be of the time column of a hypertable",
            "Make the table a hypertable with create_hypertable(), and hand its time column on as it is.",
        )
    expression = _of_time(call, column)
    for bucket in reversed(origin.chain):
        expression = expression.replace(TIME, f"({bucket.expression})")
    others = _others(stmt, snapshot, origin.table)
    plain: dict[str, tuple[int, str]] = {}
    for name, target in zip(columns, stmt.targetList, strict=True):
        if tree.is_column(target.val):
            try:
                found = _trace(stmt, target.val, snapshot, {})
            except errors.FeatureNotSupported:
                continue
            if found is not None and not found.chain:
                plain[name] = (int(found.table.oid), found.column)
    return Analysis(
        column=columns[position],
        table=origin.table,
        time=origin.column,
        expression=expression,
        width=parse.deparse_expression(call.args[0]),
        zoned=any(is_text(item) for item in call.args[1:]),
        others=others,
        columns=plain,
        above=bool(origin.chain),
    )


@functools.lru_cache(maxsize=256)
def template(definition: str) -> Template:
    """The query with a place for a condition on its rows.

    Raises:
        FeatureNotSupported: its text cannot be composed anew.
    """
    stmt = parse.parse_one(definition).tree
    _, call, column = bucket_of(stmt)
    terms = tree.conjuncts(stmt.whereClause)
    where = tree.conjunction((*terms, tree.column(_MARKER)))
    try:
        return Template(
            parse.deparse(tree.changed(stmt, whereClause=where)),
            parse.deparse_expression(column),
            parse.deparse_expression(call),
        )
    except parse.CannotDeparse as error:
        raise _refused(
            "this query cannot be that of a continuous aggregate", "Write it more simply."
        ) from error


def _refused(message: str, hint: str) -> errors.FeatureNotSupported:
    return errors.FeatureNotSupported(message, hint=hint)


def _check_shape(stmt: tree.Node) -> None:
    if not isinstance(stmt, ast.SelectStmt) or stmt.larg is not None or stmt.valuesLists:
        raise _refused("a continuous aggregate is one SELECT with GROUP BY", "Make one of each part.")
    for clause, what in (
        (stmt.distinctClause, "DISTINCT"),
        (stmt.limitCount or stmt.limitOffset, "LIMIT"),
        (stmt.lockingClause, "FOR UPDATE"),
        (stmt.sortClause, "ORDER BY"),
    ):
        if clause:
            raise _refused(f"{what} in the query of a continuous aggregate", f"Use {what} when you read it.")
    if not stmt.groupClause:
        raise _refused("a continuous aggregate needs GROUP BY", f"Group by {_FUNCTION}().")
    for item in tree.walk((stmt.groupClause, stmt.targetList, stmt.havingClause or ())):
        if isinstance(item, ast.GroupingSet):
            raise _refused("grouping sets in a continuous aggregate", "Make one for each set.")
        if isinstance(item, ast.FuncCall) and item.over is not None:
            raise _refused("window functions in a continuous aggregate", "Use them when you read it.")
    for item in tree.walk(stmt):
        if isinstance(item, ast.RangeTableSample):
            raise _refused("TABLESAMPLE in a continuous aggregate", "Filter rows by a condition.")


def bucket_of(stmt: tree.Node) -> tuple[int, tree.Node, tree.Node]:
    """The output column that is a bucket: its position, the call, the column it is of."""
    for position, target in enumerate(stmt.targetList):
        call = target.val
        if not isinstance(call, ast.FuncCall) or tree.strings(call.funcname)[-1] != _FUNCTION:
            continue
        columns = [item for item in call.args if tree.is_column(item)]
        rest = [item for item in call.args if not tree.is_column(item)]
        if len(columns) == 1 and call.args[1] is columns[0] and all(_is_constant(item) for item in rest):
            return position, call, columns[0]
    raise _refused(
        f"a continuous aggregate needs an output column {_FUNCTION}(width, time column)",
        f"Select and group by {_FUNCTION}() of the hypertable's time column, with constants beside it."
        " An integer width has the column's type.",
    )


def _is_constant(node: tree.Node) -> bool:
    while isinstance(node, (ast.TypeCast, ast.NamedArgExpr)):
        node = node.arg
    return isinstance(node, ast.A_Const)


def is_text(node: tree.Node) -> bool:
    """Whether an argument of time_bucket() is text, and so a time zone."""
    while isinstance(node, ast.NamedArgExpr):
        node = node.arg
    return isinstance(node, ast.TypeCast) and tree.strings(node.typeName.names)[-1] == "text"


def _of_time(call: tree.Node, column: tree.Node) -> str:
    placed = tree.transform(call, lambda node: tree.column(TIME) if node is column else None)
    return parse.deparse_expression(placed)


# --- where a column comes from ---------------------------------------------------------------------


def _trace(
    stmt: tree.Node, column: tree.Node, snapshot: snapshots.Snapshot, ctes: Mapping[str, tree.Node]
) -> _Origin | None:
    """The table's column that a column of a query level is, row by row; None if it is none."""
    ctes = {**ctes, **_ctes(stmt)}
    parts = tree.strings(column.fields)
    items = [entry for item in stmt.fromClause or () for entry in _leaves(item, nullable=False)]
    for node, nullable in items:
        alias = node.alias.aliasname if node.alias is not None else getattr(node, "relname", None)
        if len(parts) > 1 and alias != parts[-2]:
            continue
        if len(parts) == 1 and len(items) > 1:
            return None
        found = _in_item(node, parts[-1], snapshot, ctes)
        if found is not None and nullable:
            raise _refused(
                "the hypertable of a continuous aggregate cannot be on the nullable side of an outer join",
                "Turn the join around.",
            )
        return found
    return None


def _ctes(stmt: tree.Node) -> dict[str, tree.Node]:
    if stmt.withClause is None:
        return {}
    if stmt.withClause.recursive:
        raise _refused("WITH RECURSIVE in a continuous aggregate", "Use it when you read the aggregate.")
    return {item.ctename: item for item in stmt.withClause.ctes}


def _leaves(item: tree.Node, *, nullable: bool) -> Iterator[tuple[tree.Node, bool]]:
    if isinstance(item, ast.JoinExpr) and item.alias is None:
        kind = item.jointype.name
        yield from _leaves(item.larg, nullable=nullable or kind in ("JOIN_RIGHT", "JOIN_FULL"))
        yield from _leaves(item.rarg, nullable=nullable or kind in ("JOIN_LEFT", "JOIN_FULL"))
    else:
        yield item, nullable


def _in_item(
    node: tree.Node, name: str, snapshot: snapshots.Snapshot, ctes: Mapping[str, tree.Node]
) -> _Origin | None:
    """The origin of the output column `name` of a FROM item."""
    given = tree.strings(node.alias.colnames) if getattr(node, "alias", None) is not None else ()
    if isinstance(node, ast.RangeSubselect):
        return _in_query(node.subquery, given, name, snapshot, ctes)
    if not isinstance(node, ast.RangeVar):
        return None
    if node.schemaname is None and node.relname in ctes:
        cte = ctes[node.relname]
        listed = given or tree.strings(cte.aliascolnames)
        before = {key: value for key, value in ctes.items() if key != node.relname}
        return _in_query(cte.ctequery, listed, name, snapshot, before)
    schema = node.schemaname or ""
    table = snapshot.table(schema, node.relname)
    if table is not None:
        names = [column.name for column in table.columns]
        real = dict(zip([*given, *names[len(given) :]], names, strict=False)).get(name)
        return None if real is None else _Origin(table, real)
    return _in_view(snapshot.views.get((schema, node.relname)), given, name, snapshot)


def _in_view(
    view: snapshots.View | None, given: tuple[str, ...], name: str, snapshot: snapshots.Snapshot
) -> _Origin | None:
    if view is None:
        return None
    names = [*given, *view.columns[len(given) :]]
    if name not in names:
        return None
    for aggregate in snapshot.aggregates:
        if (view.schema, view.name) in _live_names(aggregate):
            # columns of the user's view may have been renamed
            if snapshot.views[aggregate.query].columns[names.index(name)] != aggregate.bucket.column:
                return None
            table = snapshot.tables[aggregate.table_oid]
            return _Origin(table, aggregate.bucket.time, (aggregate.bucket,))
    return _in_query(parse.parse_one(view.definition).tree, tuple(names), name, snapshot, {})


def _live_names(aggregate: snapshots.Aggregate) -> tuple[tuple[str, str], ...]:
    """The views by whose names an aggregate is read in real time."""
    return (aggregate.query,) if aggregate.materialized_only else (aggregate.query, aggregate.view)


def _in_query(
    stmt: tree.Node,
    given: tuple[str, ...],
    name: str,
    snapshot: snapshots.Snapshot,
    ctes: Mapping[str, tree.Node],
) -> _Origin | None:
    """The origin of a column of a query that hands rows on one by one."""
    if not isinstance(stmt, ast.SelectStmt) or stmt.larg is not None or stmt.valuesLists:
        return None
    position = None
    for at, target in enumerate(stmt.targetList):
        called = given[at] if at < len(given) else target.name or implied(target.val)
        if called == name:
            position = at
    if position is None or not tree.is_column(stmt.targetList[position].val):
        return None
    found = _trace(stmt, stmt.targetList[position].val, snapshot, ctes)
    if found is None:
        return None
    clauses = (stmt.groupClause, stmt.distinctClause, stmt.limitCount, stmt.limitOffset, stmt.lockingClause)
    windows = any(
        isinstance(item, ast.FuncCall) and item.over is not None for item in tree.walk(stmt.targetList)
    )
    if any(clauses) or stmt.havingClause is not None or windows:
        raise _refused(
            "the hypertable of a continuous aggregate cannot be aggregated, limited or numbered in a sub-SELECT",
            "Make a continuous aggregate of the sub-SELECT, and another one over it.",
        )
    return found


def implied(node: tree.Node) -> str | None:
    """The name that an output column without AS has; None if it is no column's."""
    return tree.strings(node.fields)[-1] if tree.is_column(node) else None


# --- what else it reads -----------------------------------------------------------------------------


def _others(stmt: tree.Node, snapshot: snapshots.Snapshot, table: snapshots.Table) -> frozenset[int]:
    found = list(_tables(stmt, snapshot, frozenset()))
    if sum(item.oid == table.oid for item in found) != 1:
        raise _refused(
            f'the query of a continuous aggregate can read the hypertable "{table.name}" only once',
            "Make a continuous aggregate of each part, and join them when you read them.",
        )
    return frozenset(int(item.oid) for item in found if item.oid != table.oid)


def _tables(stmt: tree.Node, snapshot: snapshots.Snapshot, ctes: frozenset[str]) -> Iterator[snapshots.Table]:
    """Every mention of an Orochi table, views looked through."""
    for item in tree.walk(stmt):
        if isinstance(item, ast.CommonTableExpr):
            ctes |= {item.ctename}
    for item in tree.walk(stmt):
        if not isinstance(item, ast.RangeVar) or (item.schemaname is None and item.relname in ctes):
            continue
        table = snapshot.table(item.schemaname or "", item.relname)
        view = snapshot.views.get((item.schemaname or "", item.relname))
        if table is not None:
            yield table
        elif view is not None:
            queries = [a.query for a in snapshot.aggregates if (view.schema, view.name) in _live_names(a)]
            view = snapshot.views[queries[0]] if queries else view
            yield from _tables(parse.parse_one(view.definition).tree, snapshot, frozenset())
        else:
            raise _refused(
                f'a continuous aggregate cannot read "{item.relname}", which is no Orochi table',
                f"SELECT create_reference_table({quoting.text(item.relname)}) first.",
            )


def reads(
    definition: str, query: tuple[str, str], tables: set[ids.TableId], snapshot: snapshots.Snapshot
) -> bool:
    """Whether a query reads the hidden view `query` or one of the tables, through other views too."""
    for item in tree.walk(parse.parse_one(definition).tree):
        if not isinstance(item, ast.RangeVar) or item.schemaname is None:
            continue
        key = (item.schemaname, item.relname)
        table, view = snapshot.table(*key), snapshot.views.get(key)
        if key == query or (table is not None and table.oid in tables):
            return True
        if view is not None and reads(view.definition, query, tables, snapshot):
            return True
    return False
