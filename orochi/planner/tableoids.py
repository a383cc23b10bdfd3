"""`tableoid` of an Orochi table: the shell's OID, one constant for all its rows wherever they lie.

Not where an outer join may put NULL in its place: there it stays, and is refused as other system columns are.
"""

from __future__ import annotations

from collections.abc import Iterator

from orochi.catalog import snapshot as snapshots
from orochi.planner import context, labels, lookup, names, parse, tree
from orochi.planner.tree import ast

_NAME = "tableoid"
_OPTIONAL = {"JOIN_LEFT": ("rarg",), "JOIN_RIGHT": ("larg",), "JOIN_FULL": ("larg", "rarg")}


def replaced(statement: parse.Statement, scopes: names.Scopes, ctx: context.PlanContext) -> parse.Statement:
    """`statement` with the OIDs in place of the columns that are known to be a table's; else as it is."""
    known = {
        id(node): table.oid
        for node, level in scopes.columns
        if tree.is_column(node)
        and tree.strings(node.fields)[-1] == _NAME
        and (table := _table(node, level, ctx)) is not None
    }
    if not known:
        return statement

    def put(node: tree.Node) -> tree.Node | None:
        if isinstance(node, ast.ColumnRef) and id(node) in known:
            constant = parse.parse_one(f"SELECT '{known[id(node)]}'::pg_catalog.oid")
            return constant.tree.targetList[0].val
        if isinstance(node, ast.ResTarget) and node.name is None and not labels.is_star(node):
            value = tree.transform(node.val, put)
            return node if value is node.val else tree.changed(node, val=value, name=labels.output_name(node))
        return None

    try:
        return parse.parse_one(parse.deparse(tree.transform(statement.tree, put)))
    except parse.CannotDeparse:
        return statement


def _table(node: tree.Node, level: names.Level, ctx: context.PlanContext) -> snapshots.Table | None:
    parts = tree.strings(node.fields)
    if isinstance(level.stmt, ast.InsertStmt):
        return _inserted(parts, level.stmt.relation, ctx)
    if len(parts) > 1:
        found = lookup.find_alias(parts[:-1], level)
    else:
        only = list(level.relations.values())
        found = only[0] if len(only) == 1 and isinstance(only[0], names.Reference) else None
    if found is None or found.hidden or id(found.node) in set(_nullable(found.level.stmt)):
        return None
    return found.table


def _inserted(parts: tuple[str, ...], node: tree.Node, ctx: context.PlanContext) -> snapshots.Table | None:
    alias = node.alias.aliasname if node.alias is not None else node.relname
    found = names.find_relation(ctx.snapshot, ctx.search_path, ctx.temp_tables, node.schemaname, node.relname)
    if isinstance(found, snapshots.Table) and parts[:-1] in ((), (alias,), (found.schema, alias)):
        return found
    return None


def _nullable(stmt: tree.Node) -> Iterator[int]:
    """The FROM items that an outer join may fill with NULLs, by the id of their nodes."""
    items = (getattr(stmt, "fromClause", None) or (), getattr(stmt, "usingClause", None) or ())
    for join in tree.walk(items, stop=(ast.RangeSubselect,)):
        if isinstance(join, ast.JoinExpr):
            for side in _OPTIONAL.get(join.jointype.name, ()):
                yield from (id(part) for part in tree.walk(getattr(join, side), stop=(ast.RangeSubselect,)))
    if isinstance(stmt, ast.MergeStmt):
        yield from (id(part) for part in tree.walk((stmt.relation, stmt.sourceRelation)))
