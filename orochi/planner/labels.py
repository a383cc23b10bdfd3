"""What PostgreSQL calls an output column that was given no name."""

from __future__ import annotations

from orochi.planner import tree
from orochi.planner.tree import ast


def is_star(target: tree.Node) -> bool:
    """Whether an item of a target list is `*` or `t.*`."""
    return isinstance(target.val, ast.ColumnRef) and isinstance(target.val.fields[-1], ast.A_Star)


def output_name(target: tree.Node) -> str:
    """The name PostgreSQL gives to an output column."""
    return target.name if target.name is not None else _figure(target.val)[0] or "?column?"


def _figure(node: tree.Node) -> tuple[str | None, int]:
    """A name for an expression and how strongly it is meant, as FigureColname does."""
    if isinstance(node, ast.ColumnRef):
        parts = [part for part in tree.strings(node.fields) if part != "*"]
        return (parts[-1], 2) if parts else (None, 0)
    if isinstance(node, ast.A_Indirection):
        parts = [item.sval for item in node.indirection if isinstance(item, ast.String)]
        return (parts[-1], 2) if parts else _figure(node.arg)
    if isinstance(node, ast.FuncCall):
        return tree.strings(node.funcname)[-1], 2
    if isinstance(node, ast.A_Expr):
        return ("nullif", 2) if node.kind.name == "AEXPR_NULLIF" else (None, 0)
    if isinstance(node, ast.TypeCast):
        name, strength = _figure(node.arg)
        return (name, strength) if strength > 1 else (tree.strings(node.typeName.names)[-1], 1)
    if isinstance(node, ast.CollateClause):
        return _figure(node.arg)
    if isinstance(node, ast.CaseExpr):
        name, strength = _figure(node.defresult) if node.defresult is not None else (None, 0)
        return (name, strength) if strength > 1 else ("case", 1)
    if isinstance(node, ast.SubLink):
        return _figure_sublink(node)
    if isinstance(node, ast.SQLValueFunction):
        return _SQL_VALUES[node.op.name], 2
    if isinstance(node, ast.XmlExpr):
        return _XML[node.op.name], 2
    if isinstance(node, ast.MinMaxExpr):
        return ("greatest" if node.op.name == "IS_GREATEST" else "least"), 2
    if isinstance(node, ast.JsonFuncExpr):
        return node.op.name.removesuffix("_OP").lower(), 2
    fixed = _FIXED.get(type(node).__name__)
    return (fixed, 2) if fixed else (None, 0)


def _figure_sublink(node: tree.Node) -> tuple[str | None, int]:
    kind = node.subLinkType.name
    if kind == "EXISTS_SUBLINK":
        return "exists", 2
    if kind == "ARRAY_SUBLINK":
        return "array", 2
    if kind == "EXPR_SUBLINK":
        select = node.subselect
        while select.larg is not None:
            select = select.larg
        if select.targetList:
            target = select.targetList[0]
            return (target.name, 2) if target.name is not None else _figure(target.val)
    return None, 0


_FIXED = {
    "CoalesceExpr": "coalesce",
    "A_ArrayExpr": "array",
    "RowExpr": "row",
    "GroupingFunc": "grouping",
    "MergeSupportFunc": "merge_action",
    "XmlSerialize": "xmlserialize",
    "JsonParseExpr": "json",
    "JsonScalarExpr": "json_scalar",
    "JsonSerializeExpr": "json_serialize",
    "JsonObjectConstructor": "json_object",
    "JsonArrayConstructor": "json_array",
    "JsonArrayQueryConstructor": "json_array",
    "JsonObjectAgg": "json_objectagg",
    "JsonArrayAgg": "json_arrayagg",
}
_SQL_VALUES = {
    "SVFOP_CURRENT_DATE": "current_date",
    "SVFOP_CURRENT_TIME": "current_time",
    "SVFOP_CURRENT_TIME_N": "current_time",
    "SVFOP_CURRENT_TIMESTAMP": "current_timestamp",
    "SVFOP_CURRENT_TIMESTAMP_N": "current_timestamp",
    "SVFOP_LOCALTIME": "localtime",
    "SVFOP_LOCALTIME_N": "localtime",
    "SVFOP_LOCALTIMESTAMP": "localtimestamp",
    "SVFOP_LOCALTIMESTAMP_N": "localtimestamp",
    "SVFOP_CURRENT_ROLE": "current_role",
    "SVFOP_CURRENT_USER": "current_user",
    "SVFOP_USER": "user",
    "SVFOP_SESSION_USER": "session_user",
    "SVFOP_CURRENT_CATALOG": "current_catalog",
    "SVFOP_CURRENT_SCHEMA": "current_schema",
}
_XML = {
    "IS_XMLCONCAT": "xmlconcat",
    "IS_XMLELEMENT": "xmlelement",
    "IS_XMLFOREST": "xmlforest",
    "IS_XMLPARSE": "xmlparse",
    "IS_XMLPI": "xmlpi",
    "IS_XMLROOT": "xmlroot",
    "IS_XMLSERIALIZE": "xmlserialize",
    "IS_DOCUMENT": None,
}
