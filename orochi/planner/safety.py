"""Whether a part of a statement means the same on a node as on the coordinator, and what to fold first.

A node has the same built-in functions and types, the same settings and the rows of its shards; it
has none of the user's own functions, local tables or sequences, and not the client's session.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator

from orochi.planner import builtins, context, literals, names, parse, tree
from orochi.planner.tree import ast

#: Words that a date or time type reads as the moment of reading.
_CLOCK_WORDS = re.compile(r"\s*(now|today|tomorrow|yesterday)\b", re.IGNORECASE)
_COLLATIONS = frozenset({"C", "POSIX", "default", "ucs_basic", "C.UTF-8", "C.utf8", "pg_c_utf8"})


def problem(
    node: tree.Node, ctx: context.PlanContext, types: Container[str], *, allow_volatile: bool = False
) -> str | None:
    """Why `node` (or a tuple of nodes) must not run on a node, or None if it may.

    Calls that are folded count as constants. Relations are not looked at.

    Args:
        node: an expression or a whole statement.
        ctx: the planning context.
        types: names of user types that the nodes have, as they may be written.
        allow_volatile: accept volatile functions that any server evaluates alike, row by row.
    """
    for part in tree.walk(node):
        found = _CHECKS.get(type(part))
        reason = found(part, ctx, types) if found is not None else None
        if reason is None:
            continue
        volatile = (
            isinstance(part, ast.FuncCall) and tree.strings(part.funcname)[-1] in builtins.NODE_VOLATILE
        )
        if not (allow_volatile and volatile):
            return reason
    return None


def _call(node: tree.Node, ctx: context.PlanContext, _types: Container[str]) -> str | None:
    parts = tree.strings(node.funcname)
    function = ctx.builtins.function(parts)
    if function is None:
        return f"function {'.'.join(parts)} runs on the coordinator"
    place = function.place(len(node.args or ()))
    if place is builtins.Place.ANYWHERE or (
        place is builtins.Place.SESSION and is_foldable(node, ctx.builtins)
    ):
        return None
    kind = "volatile function" if "v" in function.volatility else "function"
    return f"{kind} {parts[-1]} runs on the coordinator"


def _type(node: tree.Node, ctx: context.PlanContext, types: Container[str]) -> str | None:
    parts = tree.strings(node.names)
    if node.pct_type:
        return "%TYPE runs on the coordinator"
    if ctx.builtins.is_type(parts) or ".".join(parts) in types:
        return None
    return f"type {'.'.join(parts)} is known on the coordinator"


def _collation(node: tree.Node, _ctx: context.PlanContext, _types: Container[str]) -> str | None:
    parts = tree.strings(node.collname)
    known = parts[-1] in _COLLATIONS and (len(parts) == 1 or parts[0] == "pg_catalog")
    return None if known else f"collation {parts[-1]} is known on the coordinator"


def _constant(node: tree.Node, _ctx: context.PlanContext, _types: Container[str]) -> str | None:
    if isinstance(node.val, ast.String) and _CLOCK_WORDS.match(node.val.sval):
        return f"'{node.val.sval.strip()}' may be read from the clock"
    return None


def _operator(node: tree.Node, _ctx: context.PlanContext, _types: Container[str]) -> str | None:
    parts = tree.strings(node.name)
    if len(parts) > 1 and parts[0] not in ("pg_catalog", "public"):
        return f"operator {'.'.join(parts)} is known on the coordinator"
    return None


def _cursor(_node: tree.Node, _ctx: context.PlanContext, _types: Container[str]) -> str | None:
    return "WHERE CURRENT OF runs on the coordinator"


_CHECKS = {
    ast.FuncCall: _call,
    ast.TypeName: _type,
    ast.CollateClause: _collation,
    ast.A_Const: _constant,
    ast.A_Expr: _operator,
    ast.CurrentOfExpr: _cursor,
}


def folded_calls(node: tree.Node, ctx: context.PlanContext) -> Iterator[tree.Node]:
    """The calls in `node` that the client's session must evaluate once: `now()`, `current_user`, ..."""
    for part in tree.walk(node):
        if isinstance(part, ast.SQLValueFunction):
            yield part
        elif isinstance(part, ast.FuncCall):
            function = ctx.builtins.function(tree.strings(part.funcname))
            place = function.place(len(part.args or ())) if function is not None else None
            if place is builtins.Place.SESSION and is_foldable(part, ctx.builtins):
                yield part


def folds(node: tree.Node, ctx: context.PlanContext) -> tuple[str, ...]:
    """The SQL of the calls in `node` that must be evaluated on the client's session."""
    return tuple(dict.fromkeys(parse.deparse_expression(call) for call in folded_calls(node, ctx)))


def fold(node: tree.Node, ctx: context.PlanContext) -> tree.Node:
    """`node` with those calls replaced by their values.

    Raises:
        NeedsFolding: values are missing.
        CannotDeparse: a call has no text.
    """
    missing = [sql for sql in folds(node, ctx) if sql not in ctx.folded]
    if missing:
        raise literals.NeedsFolding(missing)
    calls = {id(call) for call in folded_calls(node, ctx)}
    if not calls:
        return node

    def replace(part: tree.Node) -> tree.Node | None:
        if id(part) not in calls:
            return None
        return literal_node(ctx.folded[parse.deparse_expression(part)])

    return tree.transform(node, replace)


def literal_node(value: literals.Literal | None) -> tree.Node:
    """A typed literal as a tree."""
    sql = "NULL" if value is None else value.sql
    return parse.parse_one(f"SELECT {sql}").tree.targetList[0].val


def node_types(references: list[names.Reference], search_path: tuple[str, ...]) -> dict[str, str]:
    """`types_of` the tables of these references."""
    return names.types_of([item.table for item in references], search_path)


_CONSTANT_NODES = (
    ast.A_Const,
    ast.A_Expr,
    ast.TypeCast,
    ast.TypeName,
    ast.FuncCall,
    ast.SQLValueFunction,
    ast.CoalesceExpr,
    ast.MinMaxExpr,
    ast.String,
    ast.Integer,
    ast.Float,
    ast.Boolean,
)


def may_be_volatile(sql: str, functions: builtins.Builtins) -> bool:
    """Whether the value of an expression may differ from one evaluation to the next of one statement."""
    for part in tree.walk(parse.parse_one(f"SELECT {sql}").tree):
        if isinstance(part, ast.FuncCall):
            function = functions.function(tree.strings(part.funcname))
            if function is None or "v" in function.volatility:
                return True
    return False


def is_foldable(node: tree.Node, functions: builtins.Builtins) -> bool:
    """Whether an expression is one value for the whole statement, told by the client's session."""
    for part in tree.walk(node):
        if not isinstance(part, _CONSTANT_NODES):
            return False
        if isinstance(part, ast.FuncCall):
            function = functions.function(tree.strings(part.funcname))
            if function is None or set(function.kinds) != {"f"} or function.returns_set:
                return False
            if function.place(len(part.args or ())) is builtins.Place.COORDINATOR or part.over is not None:
                return False
        if isinstance(part, ast.TypeName) and not functions.is_type(tree.strings(part.names)):
            return False
    return True


def may_return_sets(node: tree.Node, functions: builtins.Builtins) -> bool:
    """Whether a call in an expression may return several rows, or none; those of users' functions may."""
    return any(
        isinstance(part, ast.FuncCall)
        and ((known := functions.function(tree.strings(part.funcname))) is None or known.returns_set)
        for part in tree.walk(node, stop=(ast.SelectStmt,))
    )
