"""Calls of aggregates and window functions, by whichever syntax: `JSON_ARRAYAGG` has nodes of its own."""

from __future__ import annotations

from orochi.planner import builtins, tree
from orochi.planner.tree import ast

_JSON = {ast.JsonArrayAgg: "json_arrayagg", ast.JsonObjectAgg: "json_objectagg"}


def window(node: tree.Node) -> tree.Node | None:
    """The OVER of a window function's call; None for anything else."""
    if isinstance(node, ast.FuncCall):
        return node.over
    return node.constructor.over if type(node) in _JSON else None


def is_aggregate(node: tree.Node, functions: builtins.Builtins) -> bool:
    """Whether a node is an aggregate's call, and not as a window function."""
    if window(node) is not None:
        return False
    if isinstance(node, ast.FuncCall):
        return functions.is_aggregate(tree.strings(node.funcname))
    return type(node) in _JSON


def name(node: tree.Node) -> str:
    """The last part of the name that a call goes by."""
    return _JSON.get(type(node)) or tree.strings(node.funcname)[-1]


def order(node: tree.Node) -> tuple[tree.Node, ...]:
    """The ORDER BY inside an aggregate's call."""
    return tuple((node.constructor if type(node) in _JSON else node).agg_order or ())
