"""Parts that pushdown and two-phase plans are put together from: fragment SQL, outputs, sort and limit."""

from __future__ import annotations

import dataclasses

from orochi import pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.planner import fragment as fragments
from orochi.planner import (
    labels,
    literals,
    lookup,
    names,
    parse,
    prepare,
    safety,
    scans,
    spread,
    staged,
    tree,
)
from orochi.planner.tree import ast

#: The name under which final SQL reads the only intermediate.
RELATION = "orochi_i0"
FROM = f"pg_temp.{RELATION} AS {RELATION}"


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """A column of the statement's result, or of its sort key."""

    name: str
    expression: tree.Node


def outputs(level: names.Level) -> list[Output]:
    """The result columns of a query level, stars spelled out.

    Raises:
        Unfit: a star's columns are not known here.
    """
    found = []
    for target in level.stmt.targetList or ():
        if not labels.is_star(target):
            found.append(Output(labels.output_name(target), target.val))
            continue
        for relation in _starred(target, level):
            found += _columns(relation)
    if not found:
        raise spread.Unfit("it has no columns")
    return found


def _starred(target: tree.Node, level: names.Level) -> list[names.Reference | names.Other]:
    parts = tree.strings(target.val.fields)
    if len(parts) > 1:
        found = lookup.find_alias(parts[:-1], level)
        if found is not None:
            return [found]
        return [
            item
            for item in level.relations.values()
            if isinstance(item, names.Other) and item.alias == parts[0]
        ]
    merging = any(
        isinstance(node, ast.JoinExpr) and (node.usingClause or node.isNatural or node.alias is not None)
        for node in tree.walk(level.stmt.fromClause or (), stop=(ast.SelectStmt,))
    )
    if merging:
        raise spread.Unfit("a star over merged columns")
    return list(level.relations.values())


def _columns(relation: names.Reference | names.Other) -> list[Output]:
    """All columns of a FROM item, as a star spells them out."""
    if isinstance(relation, names.Reference):
        return [Output(shown, tree.column(relation.alias, shown)) for shown in relation.visible]
    if relation.kind != "subquery" or relation.level is None or relation.alias is None:
        raise spread.Unfit("a star over something else than tables")
    first = relation.level
    while first.arms:
        first = first.arms[0]
    if first.stmt.valuesLists:
        raise spread.Unfit("a star over a set operation")
    inner = [item.name for item in outputs(first)]
    given = tree.strings(relation.node.alias.colnames) if relation.node.alias is not None else ()
    shown = [*given, *inner[len(given) :]]
    if len(set(shown)) != len(shown):
        raise spread.Unfit("a star over columns of one name")
    return [Output(name, tree.column(relation.alias, name)) for name in shown]


def position(index: int) -> tree.Node:
    """An output column as ORDER BY and its like name it by number; `index` counts from 0."""
    return ast.A_Const(isnull=False, val=ast.Integer(ival=index + 1))


def canonical(node: tree.Node, level: names.Level) -> tree.Node:
    """`node` with every bare column of this level's tables qualified, so that equal expressions are equal trees."""

    def replace(part: tree.Node) -> tree.Node | None:
        if isinstance(part, ast.SelectStmt):
            return part
        if not tree.is_column(part):
            return None
        found = lookup.find_column(part, level)
        if found is None or found[0].level is not level or tree.strings(part.fields)[-1] in level.merged:
            return None
        shown = next(shown for shown, real in found[0].visible.items() if real == found[1])
        return tree.column(found[0].alias, shown)

    return tree.transform(node, replace)


def over_scans(node: tree.Node, prepared: prepare.Prepared) -> tree.Node:
    """`node` reading scans instead of tables, every name in it meaning the same on a node."""
    placeholders = dict(
        zip(
            (id(item) for item in prepared.references),
            scans.scan_names(len(prepared.references)),
            strict=True,
        )
    )
    return _over(node, prepared, {key: ("", name) for key, name in placeholders.items()})


def over_shells(node: tree.Node, prepared: prepare.Prepared) -> tree.Node:
    """`node` reading the shell tables, by their full names."""
    return _over(
        node, prepared, {id(item): (item.table.schema, item.table.name) for item in prepared.references}
    )


def _over(node: tree.Node, prepared: prepare.Prepared, relations: dict[int, tuple[str, str]]) -> tree.Node:
    by_node = {id(item.node): item for item in prepared.references}
    levels = {id(column): level for column, level in prepared.scopes.columns}

    def replace(part: tree.Node) -> tree.Node | None:
        if isinstance(part, ast.RangeVar) and id(part) in by_node:
            reference = by_node[id(part)]
            schema, name = relations[id(reference)]
            if schema and staged.is_stage(reference.table):
                return staged.empty(reference.table, part.alias or ast.Alias(aliasname=reference.alias))
            alias = part.alias or ast.Alias(aliasname=reference.alias)
            return tree.changed(
                part, schemaname=schema or None, relname=name, alias=alias, inh=True, catalogname=None
            )
        if isinstance(part, ast.ColumnRef) and len(part.fields) > 2 and id(part) in levels:
            found = lookup.find_alias(tree.strings(part.fields)[:-1], levels[id(part)])
            if found is not None:
                return tree.changed(part, fields=(ast.String(sval=found.alias), part.fields[-1]))
        if isinstance(part, ast.FuncCall) and len(part.funcname) == 1:
            function = prepared.ctx.builtins.function(tree.strings(part.funcname))
            if function is not None and function.schema != "pg_catalog":
                call = tree.changed(part, funcname=tree.names(function.schema, function.name))
                return _descend(call, replace)
        return None

    return tree.transform(node, replace)


def _descend(node: tree.Node, replace: object) -> tree.Node:
    """Transform what is under `node`, but not itself."""
    top = [True]

    def once(part: tree.Node) -> tree.Node | None:
        if top[0]:
            top[0] = False
            return None
        return replace(part)  # type: ignore[operator]

    return tree.transform(node, once)


@dataclasses.dataclass(frozen=True, slots=True)
class SortKey:
    """One item of ORDER BY: what to sort by, and the words after it."""

    expression: tree.Node
    collation: str
    words: str
    node: tree.Node


def sort_keys(level: names.Level) -> list[SortKey]:
    """The items of ORDER BY.

    Raises:
        Unfit: an operator was given, or a collation cannot be carried over.
    """
    found = []
    for item in level.stmt.sortClause or ():
        direction = {"SORTBY_DEFAULT": "", "SORTBY_ASC": " ASC", "SORTBY_DESC": " DESC"}.get(
            item.sortby_dir.name
        )
        nulls = {
            "SORTBY_NULLS_DEFAULT": "",
            "SORTBY_NULLS_FIRST": " NULLS FIRST",
            "SORTBY_NULLS_LAST": " NULLS LAST",
        }
        if direction is None:
            raise spread.Unfit("ORDER BY ... USING")
        expression, collation = strip_collation(sorted_by(item.node, level))
        found.append(SortKey(expression, collation, direction + nulls[item.sortby_nulls.name], item))
    return found


def sorted_by(item: tree.Node, level: names.Level) -> tree.Node:
    """The expression that an item of ORDER BY stands for, a position among a star's columns too."""
    expression = spread.sort_expression(item, level)
    if expression is not item or not isinstance(item, ast.A_Const) or not isinstance(item.val, ast.Integer):
        return expression
    listed, position = outputs(level), item.val.ival or 0
    if not 0 < position <= len(listed):
        raise spread.Unfit("ORDER BY a position that is not there")
    return listed[position - 1].expression


def strip_collation(node: tree.Node) -> tuple[tree.Node, str]:
    """An expression without the COLLATE at its top, and that as text to put after a column."""
    if not isinstance(node, ast.CollateClause):
        return node, ""
    name = ".".join(names.quoted(part) for part in tree.strings(node.collname))
    return node.arg, f" COLLATE {name}"


def refuse_collations(level: names.Level, prepared: prepare.Prepared) -> None:
    """Raise Unfit where a collation would be lost on the way through an intermediate."""
    for node, where in prepared.scopes.columns:
        found = lookup.origin(node, where) if where is level and tree.is_column(node) else None
        if found is None:
            continue
        column = found[0].table.column(found[1])
        assert column is not None
        if column.collation not in (None, 'pg_catalog."default"') or column.base_oid == pgtypes.NAME:
            raise spread.Unfit(f"column {column.name} has a collation of its own")
    stmt = level.stmt
    parts = [item.val for item in stmt.targetList or ()] + [item.node for item in stmt.sortClause or ()]
    for part in parts:
        inner, _ = strip_collation(part)
        if any(isinstance(node, ast.CollateClause) for node in tree.walk(inner)):
            raise spread.Unfit("COLLATE inside an expression")
    for part in (stmt.groupClause or (), stmt.havingClause or (), stmt.windowClause or ()):
        if any(isinstance(node, ast.CollateClause) for node in tree.walk(part)):
            raise spread.Unfit("COLLATE inside GROUP BY, HAVING or WINDOW")


def number(node: tree.Node) -> int | None:
    """A LIMIT or OFFSET given as a constant; None where it is not one."""
    value = literals.constant(node) if node is not None else None
    if value is None or value.text is None or value.oid not in (*pgtypes.INTEGERS, pgtypes.UNKNOWN):
        return None
    return int(value.text) if value.text.strip().isdigit() else None


def limit_sql(stmt: tree.Node) -> str:
    """The LIMIT and OFFSET of a statement as text.

    Raises:
        CannotDeparse: they have none.
    """
    text = ""
    if stmt.limitOffset is not None:
        text += f" OFFSET ({parse.deparse_expression(stmt.limitOffset)})"
    if stmt.limitCount is not None:
        count = parse.deparse_expression(stmt.limitCount)
        if stmt.limitOption.name == "LIMIT_OPTION_WITH_TIES":
            text += f" FETCH FIRST ({count}) ROWS WITH TIES"
        else:
            text += f" LIMIT ({count})"
    return text


def known_type(node: tree.Node, level: names.Level) -> fragments.OutputColumn | None:
    """The type of a plain column of an Orochi table; None for anything else."""
    if not tree.is_column(node):
        return None
    found = lookup.origin(node, level) or lookup.of_parts(node, level)
    column: snapshots.Column | None = found[0].table.column(found[1]) if found is not None else None
    return None if column is None else scans.output(column)


#: Of two numbers that PostgreSQL's own `+ - * /` take, it is the later type's operator, and so its result.
_NUMBERS = (pgtypes.INT2, pgtypes.INT4, pgtypes.INT8, pgtypes.NUMERIC, pgtypes.FLOAT8)
_ARITHMETIC = frozenset("+-*/")


def number_type(node: tree.Node, level: names.Level) -> int | None:
    """The type of arithmetic on columns and constants; None where parse analysis has to tell."""
    if tree.is_column(node):
        known = known_type(node, level)
        if known is not None:
            return known.type_oid if known.type_oid in _NUMBERS else None
        behind = lookup.derived(node, level)
        return None if behind is None else number_type(*behind)
    if isinstance(node, ast.A_Const):
        if isinstance(node.val, ast.Integer):
            return pgtypes.INT4
        return pgtypes.NUMERIC if isinstance(node.val, ast.Float) and "." in node.val.fval else None
    if tree.operator(node) not in _ARITHMETIC:
        return None
    left, right = number_type(node.lexpr, level), number_type(node.rexpr, level)
    return None if left is None or right is None else max(left, right, key=_NUMBERS.index)


def unknown(name: str) -> fragments.OutputColumn:
    """A column whose type parse analysis has to tell."""
    return fragments.OutputColumn(name, 0, -1, "")


def named(column: fragments.OutputColumn | None, name: str) -> fragments.OutputColumn:
    """A column under another name; of unknown type for None."""
    return unknown(name) if column is None else dataclasses.replace(column, name=name)


def fold(prepared: prepare.Prepared, node: tree.Node) -> tree.Node:
    """`node` with the client's `now()` and the like put in."""
    try:
        return safety.fold(node, prepared.ctx)
    except literals.NeedsFolding as needed:
        raise literals.NeedsFolding((*prepared.analysis.wishes, *needed.expressions)) from needed
