"""One value of an INSERT's VALUES list: sent to the node as it stands, or computed first.

A cell goes to a node as it stands only if it means the same there as on the coordinator: constants,
parameters, and casts of these to built-in types. All else (function calls, `now`, operators) is an
expression for the coordinator to evaluate once, whose result takes its place.
"""

from __future__ import annotations

import dataclasses
import re

from pglast import ast

from orochi import errors, pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.planner import parse, quoting
from orochi.planner import tree as trees

#: Cast targets by name: OID, or 0 where no distribution or time column has the type.
_BUILTIN_TYPES = {
    "int2": pgtypes.INT2,
    "int4": pgtypes.INT4,
    "int8": pgtypes.INT8,
    "text": pgtypes.TEXT,
    "varchar": pgtypes.VARCHAR,
    "uuid": pgtypes.UUID,
    "date": pgtypes.DATE,
    "timestamp": pgtypes.TIMESTAMP,
    "timestamptz": pgtypes.TIMESTAMPTZ,
    "bool": pgtypes.BOOL,
    **dict.fromkeys(
        [
            "float4",
            "float8",
            "numeric",
            "bpchar",
            "time",
            "timetz",
            "interval",
            "json",
            "jsonb",
            "bytea",
            "inet",
            "cidr",
            "macaddr",
            "macaddr8",
            "bit",
            "varbit",
            "money",
            "point",
            "line",
            "lseg",
            "box",
            "path",
            "polygon",
            "circle",
            "tsvector",
            "tsquery",
            "xml",
            "jsonpath",
            "int4range",
            "int8range",
            "numrange",
            "tsrange",
            "tstzrange",
            "daterange",
        ],
        0,
    ),
}
_TIMELY = frozenset({pgtypes.TIME, pgtypes.TIMETZ, *pgtypes.TIMES})
_TIMELY_NAMES = frozenset({"date", "time", "timetz", "timestamp", "timestamptz"})
#: Times written with digits, which mean the same at any moment (unlike `now` or `today`).
_FIXED_TIME = re.compile(r"\s*([+-]?[0-9]|-?infinity\s*$)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """See the module docstring.

    Attributes:
        sql: the SQL of the value; a parameter in it is spelled `$n`.
        is_expression: the coordinator must evaluate `sql`.
        is_null: the constant NULL.
        text: a constant's text, where `type_oid` says how PostgreSQL reads it.
        type_oid: type of `text`, or the type a parameter is cast to; UNKNOWN for a bare string,
            0 where it is not told.
        parameter: the 1-based number of the parameter that the cell consists of, else 0.
    """

    sql: str
    is_expression: bool = False
    is_null: bool = False
    text: str | None = None
    type_oid: int = 0
    parameter: int = 0


NULL = Cell("NULL", is_null=True)


def make(node: trees.Node, column: snapshots.Column | None) -> Cell:
    """The cell of expression `node`, to be assigned to `column`."""
    plain = _plain(node, column)
    return Cell(_text(node), is_expression=True) if plain is None else plain


def default(table: snapshots.Table, column: snapshots.Column) -> Cell | None:
    """What a column gets when the statement gives it nothing; None if NULL."""
    if column.identity:
        return Cell(identity_sql(table, column.name), is_expression=True)
    if column.default_sql is None or column.generated:
        return None
    if column.default_is_volatile:
        # as the column's type, so that `CURRENT_DATE` in a text column is what PostgreSQL makes of it
        return Cell(column.default_sql, is_expression=True)
    return Cell(f"({column.default_sql})", type_oid=-1)


def identity_sql(table: snapshots.Table, column: str) -> str:
    """The next value of an identity column."""
    relation = quoting.text(quoting.relation(table.schema, table.name))
    return (
        f"pg_catalog.nextval(pg_catalog.pg_get_serial_sequence({relation}, {quoting.text(column)})::regclass)"
    )


def is_whole_row_source(node: trees.Node) -> bool:
    """Whether an expression needs more than one value computed: a sub-select, a row, a set."""
    return any(isinstance(item, (ast.SubLink, ast.RowExpr, ast.MultiAssignRef)) for item in trees.walk(node))


def _plain(node: trees.Node, column: snapshots.Column | None) -> Cell | None:
    match node:
        case ast.A_Const():
            return _constant(node, column)
        case ast.ParamRef():
            if not node.number:
                return None
            return Cell(f"${node.number}", parameter=node.number, type_oid=0)
        case ast.TypeCast():
            return _cast(node)
    return None


def _constant(node: trees.Node, column: snapshots.Column | None) -> Cell | None:
    if node.isnull:
        return NULL
    match node.val:
        case ast.Integer():
            text = str(node.val.ival or 0)
            return Cell(text, text=text, type_oid=pgtypes.INT4)
        case ast.Float():
            text = str(node.val.fval)
            whole = text.lstrip("+-").isdigit()
            return Cell(text, text=text, type_oid=pgtypes.INT8 if whole else pgtypes.NUMERIC)
        case ast.Boolean():
            text = "true" if node.val.boolval else "false"
            return Cell(text, text=text, type_oid=pgtypes.BOOL)
        case ast.String():
            text = str(node.val.sval)
            quoted = quoting.text(text)
            if column is not None and column.base_oid in _TIMELY and not _FIXED_TIME.match(text):
                return Cell(f"CAST({quoted} AS {column.type_name})", is_expression=True)
            return Cell(quoted, text=text, type_oid=pgtypes.UNKNOWN)
    return Cell(_text(node))  # a bit string


def _cast(node: trees.Node) -> Cell | None:
    names = trees.strings(node.typeName.names)
    qualified = len(names) == 2 and names[0] == "pg_catalog"
    if not (len(names) == 1 or qualified) or names[-1] not in _BUILTIN_TYPES or node.typeName.setof:
        return None
    inner = _plain(node.arg, None)
    if inner is None or (
        inner.text is not None and names[-1] in _TIMELY_NAMES and not _FIXED_TIME.match(inner.text)
    ):
        return None
    if inner.is_null:
        return dataclasses.replace(NULL, sql=_text(node))
    limited = bool(node.typeName.typmods) or bool(node.typeName.arrayBounds)
    oid = 0 if limited else _BUILTIN_TYPES[names[-1]]
    # only a constant or parameter cast once says which value it is
    readable = (
        oid
        and (inner.parameter or inner.type_oid == pgtypes.UNKNOWN)
        and not isinstance(node.arg, ast.TypeCast)
    )
    sql = _text(node)
    if not readable:
        return Cell(sql, parameter=inner.parameter, type_oid=-1)
    return Cell(sql, text=inner.text, type_oid=oid, parameter=inner.parameter)


def _text(node: trees.Node) -> str:
    try:
        return parse.deparse_expression(node)
    except parse.CannotDeparse as error:
        raise errors.FeatureNotSupported("an expression of the INSERT could not be rewritten") from error
