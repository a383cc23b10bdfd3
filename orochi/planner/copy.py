"""COPY of an Orochi table: what PostgreSQL itself is asked to parse or to print, and where.

The client's options are passed on to a COPY of the coordinator, so formats, encodings and errors
are PostgreSQL's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.planner import insert, parse, quoting
from orochi.planner import tree as trees
from orochi.planner.tree import ast


@dataclasses.dataclass(frozen=True, slots=True)
class Plain:
    """How the data is written, where no option asks for more than separators.

    Attributes:
        quote: empty for the text form; else CSV, whose escape is the quote.
        header: whether the first line is to be skipped.
        again: the COPY of `CopyFrom` without a header, for pieces of the data.
    """

    delimiter: str
    null: str
    quote: str
    header: bool
    again: str


@dataclasses.dataclass(frozen=True, slots=True)
class CopyFrom:
    """COPY ... FROM, aimed at the staging table.

    Attributes:
        sql: the COPY to run on the client's session, once the staging table exists.
        from_client: it reads the client's CopyData.
        columns: the columns that the data has; binary: whether its format is binary.
        plain: None if only PostgreSQL is to read it.
        freeze: it says FREEZE, which PostgreSQL takes only in the transaction that made or emptied the table.
    """

    table: snapshots.Table
    sql: str
    from_client: bool
    columns: tuple[str, ...]
    binary: bool
    plain: Plain | None = None
    freeze: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class CopyTo:
    """COPY ... TO: a query, and what comes after `COPY (query)`.

    Attributes:
        query: the SELECT whose rows are wanted.
        columns: how many columns it has, None where only PostgreSQL knows.
    """

    query: parse.Statement
    tail: str
    to_client: bool
    columns: int | None
    binary: bool


def analyze(
    statement: parse.Statement,
    snapshot: snapshots.Snapshot,
    search_path: Sequence[str],
    temp_tables: frozenset[str] = frozenset(),
) -> CopyFrom | CopyTo:
    """What to do for a COPY that names an Orochi table."""
    tree = statement.tree
    binary = _format(tree.options) == "binary"
    target = _endpoint(tree)
    options = _options(tree.options)
    if tree.query is not None:
        return CopyTo(parse.inner(statement), f" TO {target}{options}", tree.filename is None, None, binary)
    table = insert.resolve(tree.relation, snapshot, search_path, temp_tables)
    listed = [str(name.sval) for name in tree.attlist or ()]
    for name in listed:
        column = table.column(name)
        if column is None:
            raise errors.UndefinedColumn(f'column "{name}" of relation "{table.name}" does not exist')
        if column.generated:
            raise errors.OrochiError(
                f'column "{name}" is a generated column',
                detail="Generated columns cannot be used in COPY.",
                sqlstate="42P10",
            )
    columns = listed or [column.name for column in table.columns if not column.generated]
    names = ", ".join(quoting.identifier(name) for name in columns)
    if not tree.is_from:
        query = parse.parse_one(f"SELECT {names} FROM {quoting.relation(table.schema, table.name)}")
        return CopyTo(query, f" TO {target}{options}", tree.filename is None, len(columns), binary)
    where = f" WHERE {parse.deparse_expression(tree.whereClause)}" if tree.whereClause is not None else ""
    sql = f"COPY pg_temp.{insert.STAGING} ({names}) FROM {target}{options}{where}"
    plain = None
    if tree.filename is None and tree.whereClause is None and len(set(columns)) == len(columns):
        plain = _plain(tree.options or (), f"COPY pg_temp.{insert.STAGING} ({names}) FROM STDIN")
    freeze = any(option.defname == "freeze" and _simple(option.arg) in _TRUE for option in tree.options or ())
    return CopyFrom(table, sql, tree.filename is None, tuple(columns), binary, plain, freeze)


#: What PostgreSQL's text form does not allow as a delimiter.
_NO_DELIMITERS = frozenset("\\.abcdefghijklmnopqrstuvwxyz0123456789\r\n")


def _plain(options: Sequence[trees.Node], head: str) -> Plain | None:
    """The options as far as they are simple, and surely what PostgreSQL allows."""
    given: dict[str, str] = {}
    for option in options:
        value = _simple(option.arg)
        if value is None or option.defname in given:
            return None
        given[option.defname] = value
    csv = given.pop("format", "text") == "csv"
    if any(name not in _SIMPLE for name in given) or (given.get("encoding", "utf8").lower() not in _UTF8):
        return None
    delimiter = given.get("delimiter", "," if csv else "\t")
    quote = given.get("quote", '"' if csv else "")
    null = given.get("null", "" if csv else "\\N")
    header = given.get("header", "false").lower()
    if not all(len(one) == 1 and one.isascii() and one not in "\r\n\0" for one in (delimiter, *quote)):
        return None
    if (
        delimiter == quote
        or (not csv and (quote or delimiter in _NO_DELIMITERS))
        or (csv and len(quote) != 1)
    ):
        return None
    if "escape" in given and (not csv or given["escape"] != quote):
        return None
    if set(null) & {delimiter, *quote, "\r", "\n"} or (not csv and "\\" in null and null != "\\N"):
        return None
    if header not in (("true", "false", "on", "off", "1", "0") if csv else ("false", "off", "0")):
        return None
    rest = [option for option in options if option.defname != "header"]
    return Plain(delimiter, null, quote, header in ("true", "on", "1"), head + _options(rest))


_SIMPLE = frozenset({"delimiter", "null", "header", "quote", "escape", "encoding"})
_UTF8 = frozenset({"utf8", "utf-8"})
_TRUE = frozenset({"true", "on", "1"})


def _simple(argument: trees.Node | None) -> str | None:
    match argument:
        case None:
            return "true"
        case ast.Boolean():
            return "true" if argument.boolval else "false"
        case ast.Integer():
            return str(argument.ival or 0)
        case ast.String():
            return str(argument.sval)
    return None


def _endpoint(tree: trees.Node) -> str:
    if tree.filename is None:
        return "STDIN" if tree.is_from else "STDOUT"
    return ("PROGRAM " if tree.is_program else "") + quoting.text(tree.filename)


def _format(options: Sequence[trees.Node] | None) -> str:
    for option in options or ():
        if option.defname == "format":
            return str(option.arg.sval)
    return "text"


def _options(options: Sequence[trees.Node] | None) -> str:
    """The options in the form that allows all of them."""
    if not options:
        return ""
    return f" WITH ({', '.join(_option(option) for option in options)})"


def _option(option: trees.Node) -> str:
    name = quoting.identifier(option.defname)
    match option.arg:
        case None:
            return name
        case tuple():
            return f"{name} ({', '.join(quoting.identifier(item.sval) for item in option.arg)})"
        case ast.A_Star():
            return f"{name} *"
        case ast.Boolean():
            return f"{name} {'true' if option.arg.boolval else 'false'}"
        case ast.Integer():
            return f"{name} {option.arg.ival or 0}"
        case ast.Float():
            return f"{name} {option.arg.fval}"
        case ast.String():
            return f"{name} {quoting.text(option.arg.sval)}"
    raise errors.FeatureNotSupported(f'COPY option "{option.defname}" is not understood')
