"""Pushdown: every shard answers the query for its own rows; the answers together are the answer.

Rows only have to be sorted, cut and freed of duplicates once more where the statement says so.
"""

from __future__ import annotations

from pglast import enums

from orochi.engine import shapes
from orochi.planner import (
    analyze,
    fused,
    group_keys,
    names,
    parse,
    pieces,
    prepare,
    pull,
    safety,
    scans,
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


def plan(prepared: prepare.Prepared, level: names.Level, found: spread.Spread) -> plans.Distributed:
    """The pushdown plan of a checked statement.

    Raises:
        Unfit: the statement has a part that is not answered shard by shard.
        CannotDeparse: the fragment's SQL cannot be printed faithfully.
    """
    stmt = level.stmt
    checker = spread.Checker(prepared)
    apart = spread.is_aggregated(stmt, prepared) and not checker.grouped_by_key(level, found)
    if apart and not _alone(prepared, level):
        raise spread.Unfit("its groups spread over shards")
    if not checker.windows_by_key(level, found):
        raise spread.Unfit("a window is not partitioned by the distribution column")
    pieces.refuse_collations(level, prepared)
    outputs, keys = pieces.outputs(level), pieces.sort_keys(level)
    if keys and any(safety.may_return_sets(item.expression, prepared.ctx.builtins) for item in outputs):
        # PostgreSQL sorts first: a row's set stays in its order, and LIMIT cuts it there
        raise spread.Unfit("sets are returned of rows that are sorted before")
    targets = [pieces.strip_collation(item.expression) for item in outputs]
    columns = [f"c{index}" for index in range(len(targets))]
    order = []

    def position_of(wanted: tree.Node) -> int:
        expression = pieces.canonical(wanted, level)
        for position, (node, _) in enumerate(targets):
            if pieces.canonical(node, level) == expression:
                return position
        if stmt.distinctClause and not distinct:
            raise spread.Unfit("DISTINCT sorted by something else")
        targets.append((wanted, ""))
        columns.append(f"s{len(targets) - 1 - len(outputs)}")
        return len(targets) - 1

    distinct = [item for item in stmt.distinctClause or () if item is not None]
    for key in keys:
        position = position_of(key.expression)
        order.append((position, "" if key.collation == targets[position][1] else key.collation, key.words))
    first = tuple(position_of(pieces.sorted_by(item, level)) for item in distinct)
    if first and any(collation or targets[index][1] for index, collation, _ in order):
        raise spread.Unfit("DISTINCT ON by a collation")
    return _build(prepared, level, outputs, targets, columns, order, first)


def _build(
    prepared: prepare.Prepared,
    level: names.Level,
    outputs: list[pieces.Output],
    targets: list[tuple[tree.Node, str]],
    columns: list[str],
    order: list[tuple[int, str, str]],
    first: tuple[int, ...],
) -> plans.Distributed:
    """The plan; `first` are the columns of DISTINCT ON, of which each shard keeps the first rows it has."""
    stmt = level.stmt
    body = tree.changed(
        stmt,
        distinctClause=tuple(pieces.position(index) for index in first) or stmt.distinctClause,
        targetList=tuple(
            ast.ResTarget(name=name, val=node) for (node, _), name in zip(targets, columns, strict=True)
        ),
        sortClause=None,
        limitCount=None,
        limitOffset=None,
        limitOption=enums.LimitOption.LIMIT_OPTION_DEFAULT,
        groupClause=_grouping(level),
    )
    folded = pieces.fold(prepared, body)
    scanned = pieces.over_scans(folded, prepared)
    sql = parse.deparse(scanned)
    count, offset = pieces.number(stmt.limitCount), pieces.number(stmt.limitOffset)
    bounded = stmt.limitCount is not None and stmt.limitOption.name != "LIMIT_OPTION_WITH_TIES"
    top = None
    # the fragment's columns come without the collations that the statement sorts by
    sortable = not any(collation or targets[index][1] for index, collation, _ in order)
    if bounded and sortable and count is not None and (stmt.limitOffset is None or offset is not None):
        top = count + (offset or 0)
    if top is not None or first:
        sql += _order(order, [str(index + 1) for index in range(len(columns))])
    if top is not None:
        sql += f" LIMIT {top}"
    types = _types(prepared, level, [node for node, _ in targets], columns)
    describe = None
    if any(column.type_oid == 0 for column in types):
        describe = parse.deparse(pieces.over_shells(folded, prepared))
    vectorised = vector.rows(prepared, level, targets, top)
    if vectorised is None:
        vectorised = vector_query.fragment(prepared, scanned, order, top)
    intermediate = intermediate_of(
        prepared,
        sql,
        types,
        describe,
        vectorised,
        _fused(prepared, level, [node for node, _ in targets], top),
    )
    final = None
    listed = list(zip(columns, targets, strict=True))
    if (
        order
        or stmt.distinctClause
        or stmt.limitOffset is not None
        or (stmt.limitCount is not None and top is None)
    ):
        shown = [f"{name}{collation}" for name, (_, collation) in listed]
        final = _final(stmt, outputs, shown, order, first)
    return plans.Distributed("pushdown", (intermediate,), final, limit=None if final else top)


def _types(
    prepared: prepare.Prepared, level: names.Level, targets: list[tree.Node], columns: list[str]
) -> tuple[fragments.OutputColumn, ...]:
    """The columns of the fragments; where only parse analysis can tell a type, type 0."""
    described = prepared.ctx.described.get(prepared.statement.sql, ())
    if level is prepared.scopes.levels[0] and len(described) == len(targets) == len(pieces.outputs(level)):
        return tuple(pieces.named(column, name) for column, name in zip(described, columns, strict=True))
    return tuple(
        pieces.named(pieces.known_type(node, level), name)
        for node, name in zip(targets, columns, strict=True)
    )


def _alone(prepared: prepare.Prepared, level: names.Level) -> bool:
    """Whether one shard has all the groups, and gives them in one pass over its columns."""
    kept = kept_shards(prepared)
    if len(kept) != 1 or len(prepared.references) != 1:
        return False
    (reference,) = prepared.references
    shard = reference.table.shards[kept[0] if scans.is_distributed(reference) else 0]
    if not prepared.pruned[id(reference)].stripes(shard):
        return False
    targets = [pieces.strip_collation(item.expression)[0] for item in pieces.outputs(level)]
    targets += [key.expression for key in pieces.sort_keys(level)]
    return _fused(prepared, level, targets) is not None


def _last_points(
    prepared: prepare.Prepared, level: names.Level, targets: list[tree.Node]
) -> shapes.Shape | None:
    """The shape of DISTINCT ON one column, sorted by it and one other."""
    distinct, keys = level.stmt.distinctClause, pieces.sort_keys(level)
    if len(distinct) != 1 or distinct[0] is None or len(keys) != 2 or any(key.collation for key in keys):
        return None
    if spread.is_aggregated(level.stmt, prepared):
        return None
    series = pieces.canonical(pieces.sorted_by(distinct[0], level), level)
    first, second = (pieces.canonical(key.expression, level) for key in keys)
    if series != first or keys[1].words.strip().upper() not in ("", "ASC", "DESC"):
        return None
    descending = keys[1].words.strip().upper() == "DESC"
    return fused.best_rows(prepared, level, targets, series, second, descending=descending)


def _fused(
    prepared: prepare.Prepared, level: names.Level, targets: list[tree.Node], top: int | None = None
) -> shapes.Shape | None:
    """The shape of a shard's own rows, or groups: all of them, however few suffice."""
    stmt, grouped = level.stmt, spread.group_expressions(level)
    if stmt.distinctClause and not (stmt.groupClause or stmt.havingClause or stmt.windowClause):
        return _last_points(prepared, level, targets)
    if grouped is None or stmt.havingClause or stmt.windowClause or stmt.distinctClause:
        return None
    if not spread.is_aggregated(stmt, prepared):
        return fused.rows(prepared, level, targets) if top is None else None
    keys = [pieces.canonical(node, level) for node in grouped]
    outputs = [pieces.canonical(node, level) for node in targets]
    shape = fused.shape(prepared, level, keys, outputs, partial=False)
    return None if shape is None else fused.first_groups(level, keys, shape)


def _final(
    stmt: tree.Node,
    outputs: list[pieces.Output],
    columns: list[str],
    order: list[tuple[int, str, str]],
    first: tuple[int, ...],
) -> str:
    listed = ", ".join(
        f"{pieces.RELATION}.{name} AS {names.quoted(item.name)}"
        for item, name in zip(outputs, columns, strict=False)
    )
    distinct = "DISTINCT " if stmt.distinctClause else ""
    if first:
        distinct += f"ON ({', '.join(f'{pieces.RELATION}.{columns[index]}' for index in first)}) "
    sorted_by = _order(order, [f"{pieces.RELATION}.{name}" for name in columns])
    return f"SELECT {distinct}{listed} FROM {pieces.FROM}{sorted_by}{pieces.limit_sql(stmt)}"


def _order(order: list[tuple[int, str, str]], columns: list[str]) -> str:
    if not order:
        return ""
    return " ORDER BY " + ", ".join(
        f"{columns[index]}{collation}{words}" for index, collation, words in order
    )


def _grouping(level: names.Level) -> tuple[tree.Node, ...] | None:
    """GROUP BY with positions and output names spelled out: the fragment's outputs are others."""
    grouped = spread.group_expressions(level)
    if any(isinstance(item, ast.A_Const) for item in grouped or ()):
        raise spread.Unfit("GROUP BY a constant")
    return grouped or None if grouped is not None else level.stmt.groupClause


def intermediate_of(
    prepared: prepare.Prepared,
    sql: str,
    columns: tuple[fragments.OutputColumn, ...],
    describe: str | None,
    vector_sql: str | None,
    shape: shapes.Shape | None = None,
) -> plans.Intermediate:
    """The intermediate that one SQL over all the statement's tables, run shard by shard, fills."""
    references = prepared.references
    kept = kept_shards(prepared)
    units = scans.units(references, prepared.pruned, kept)
    used = pull.used_columns(prepared)
    pull.refuse_rows(prepared)
    refuse_keyless_groups(prepared, units)
    wanted = [used[id(item)] for item in references]
    spread_tables = [item for item in references if scans.is_distributed(item)]
    return plans.Intermediate(
        name=pieces.RELATION,
        columns=columns,
        fragments=scans.build(
            units,
            references,
            prepared.pruned,
            wanted,
            sql,
            columns,
            prepared.ctx,
            scans.Numbers(),
            vector_sql,
            shape,
        ),
        shards_total=len(spread_tables[0].table.shards) if spread_tables else 1,
        table=", ".join(dict.fromkeys(f"{item.table.schema}.{item.table.name}" for item in references)),
        describe_sql=describe,
    )


def kept_shards(prepared: prepare.Prepared) -> list[int]:
    """The shard indexes whose rows can matter, of tables that are joined on their distribution columns."""
    counts = [len(item.table.shards) for item in prepared.references if scans.is_distributed(item)]
    if not counts:
        return [0]
    kept = _kept(prepared.analysis.joins[id(prepared.scopes.levels[0])], prepared)
    return list(range(counts[0])) if kept is None else sorted(kept)


def _kept(item: analyze.Item | None, prepared: prepare.Prepared) -> set[int] | None:
    """The shards without which a FROM tree has no rows; None for any."""
    if isinstance(item, names.Reference):
        return (
            {shard.index for shard in prepared.pruned[id(item)].shards}
            if scans.is_distributed(item)
            else None
        )
    if isinstance(item, names.Other):
        return _kept(prepared.analysis.joins[id(item.level)], prepared) if item.level is not None else None
    if item is None or item.kind not in ("JOIN_INNER", "JOIN_LEFT"):
        return None
    left = _kept(item.left, prepared)
    right = _kept(item.right, prepared) if item.kind == "JOIN_INNER" else None
    if left is None or right is None:
        return right if left is None else left
    return left & right


def refuse_keyless_groups(prepared: prepare.Prepared, units: list[scans.Unit]) -> None:
    """Raise Unfit where GROUP BY relies on a primary key that a scan of stripes does not have."""
    used = pull.used_columns(prepared)
    for position, reference in enumerate(prepared.references):
        if group_keys.primary_key(reference, used[id(reference)], prepared) and any(
            prepared.pruned[id(reference)].stripes(unit.shards[position]) for unit in units
        ):
            raise spread.Unfit("GROUP BY relies on a primary key that compressed rows do not have")
