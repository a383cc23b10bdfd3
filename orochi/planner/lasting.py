"""Whether a statement's plan holds until the catalog changes: all that it names is built in, or an Orochi table.

What a user's function, type or view means, or a table of the coordinator's own looks like, may change
without the catalog's snapshot being replaced.
"""

from __future__ import annotations

from orochi import pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.planner import context, names, parse, tree
from orochi.planner.tree import ast

#: A kept plan takes memory with the statement's length.
_LONGEST = 64 << 10


def is_lasting(statement: parse.Statement, ctx: context.PlanContext) -> bool:
    """Whether the statement's plan, made in `ctx`, holds for as long as its snapshot does."""
    if len(statement.sql) > _LONGEST:
        return False
    return _all_hold(statement.tree, ctx)


def _all_hold(stmt: tree.Node, ctx: context.PlanContext) -> bool:
    nodes = list(tree.walk(stmt))
    queries = {node.ctename for node in nodes if isinstance(node, ast.CommonTableExpr)}
    return all(_holds(node, ctx, queries) for node in nodes)


def _holds(node: tree.Node, ctx: context.PlanContext, queries: set[str]) -> bool:
    if isinstance(node, ast.RangeVar):
        if node.schemaname is None and node.relname in queries:
            return True
        found = names.find_relation(
            ctx.snapshot, ctx.search_path, ctx.temp_tables, node.schemaname, node.relname
        )
        if isinstance(found, snapshots.View):  # its definition is the snapshot's
            return len(found.definition) <= _LONGEST and _all_hold(
                parse.parse_one(found.definition).tree, ctx
            )
        return isinstance(found, snapshots.Table) and all(
            0 < column.type_oid < pgtypes.FIRST_NORMAL_OID for column in found.columns
        )
    if isinstance(node, ast.FuncCall):
        return ctx.builtins.function(tree.strings(node.funcname)) is not None
    if isinstance(node, ast.TypeName):
        return not node.pct_type and ctx.builtins.is_type(tree.strings(node.names))
    if isinstance(node, ast.A_Expr):
        parts = tree.strings(node.name)
        return len(parts) == 1 or parts[0] == "pg_catalog"
    return not isinstance(node, ast.CollateClause)
