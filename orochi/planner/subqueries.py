"""Sub-SELECTs that are run first and put into a modifying statement as their values.

A shard can evaluate a sub-SELECT only if it has all of its rows. One that it cannot, and that does
not depend on the row being modified, is evaluated once: what PostgreSQL does with it as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from orochi import errors
from orochi.planner import context, edit, literals, names, parse, prepare, tree
from orochi.planner.tree import ast


class NeedsSubqueries(Exception):
    """Run every SELECT (they may read Orochi tables), add the results to `PlanContext.subqueries`, plan again."""

    def __init__(self, queries: Iterable[str]) -> None:
        self.queries = tuple(dict.fromkeys(queries))
        super().__init__("; ".join(self.queries))


@dataclasses.dataclass(frozen=True, slots=True)
class Subquery:
    """A part of a statement to be replaced by rows.

    Attributes:
        span: what is replaced, parentheses included.
        sql: the SELECT that gives the rows.
        kind: scalar, row, list, exists, array or from.
        alias: of a FROM item, quoted, column names not included.
        columns: column names that the alias gives.
    """

    span: tuple[int, int]
    sql: str
    kind: str
    alias: str = ""
    columns: tuple[str, ...] = ()


_KINDS = {
    "EXISTS_SUBLINK": "exists",
    "ALL_SUBLINK": "list",
    "ANY_SUBLINK": "list",
    "ROWCOMPARE_SUBLINK": "row",
    "EXPR_SUBLINK": "scalar",
    "ARRAY_SUBLINK": "array",
}


def of_sublink(node: tree.Node, prepared: prepare.Prepared, editor: edit.Editor) -> Subquery:
    """The sub-SELECT of an expression.

    Raises:
        CannotDeparse: it was not found in the text.
    """
    start, end = editor.parenthesised(node.location)
    sql = editor.sql[start + 1 : end - 1]
    found = parse.parse(sql)
    if len(found) != 1 or found[0].tree != node.subselect:
        raise parse.CannotDeparse("the sub-SELECT is not where it should be")
    kind = "row" if _is_assigned(node, prepared.statement.tree) else _KINDS[node.subLinkType.name]
    return Subquery((node.location if kind in ("exists", "array") else start, end), sql, kind)


def _is_assigned(node: tree.Node, statement: tree.Node) -> bool:
    """Whether `SET (a, b) = (SELECT ...)` takes its columns apart, be it only one."""
    return any(
        isinstance(item.val, ast.MultiAssignRef)
        and isinstance(item.val.source, ast.SubLink)
        and item.val.source.location == node.location
        for item in getattr(statement, "targetList", None) or ()
    )


def of_from(item: tree.Node, prepared: prepare.Prepared, editor: edit.Editor) -> Subquery:
    """A FROM item: a sub-SELECT or a table.

    Raises:
        CannotDeparse: it was not found in the text.
    """
    columns = tree.strings(item.alias.colnames) if item.alias is not None else ()
    if isinstance(item, ast.RangeVar):
        span = editor.relation_span(item)
        alias = "" if item.alias is not None else f" AS {names.quoted(item.relname)}"
        return Subquery(span, f"SELECT * FROM {editor.sql[span[0] : span[1]]}", "from", alias, columns)
    for start, end in editor.parentheses():
        sql = editor.sql[start + 1 : end - 1]
        if not sql.strip():
            continue
        try:
            found = parse.parse(sql)
        except errors.OrochiError:
            continue
        if len(found) == 1 and found[0].tree == item.subquery:
            return Subquery((start, end), sql, "from", "", columns)
    raise parse.CannotDeparse("the sub-SELECT is not where it should be")


def substitute(
    statement: parse.Statement, found: list[Subquery], editor: edit.Editor, ctx: context.PlanContext
) -> parse.Statement:
    """The statement with the rows in place of the sub-SELECTs.

    Raises:
        NeedsSubqueries: rows are missing.
        OrochiError: 21000, a scalar sub-SELECT gave several rows.
    """
    missing = [item.sql for item in found if item.sql not in ctx.subqueries]
    if missing:
        raise NeedsSubqueries(missing)
    for item in found:
        editor.replace(item.span, _values(item, ctx.subqueries[item.sql]))
    return parse.parse_one(editor.result())


def _values(item: Subquery, result: context.SubqueryResult) -> str:
    if item.kind == "exists":
        return "true" if result.rows else "false"
    rows = [
        [literals.Literal(0, kind, text).sql for text, kind in zip(row, result.types, strict=True)]
        for row in result.rows
    ]
    if item.kind in ("scalar", "row"):
        if len(rows) > 1:
            raise errors.OrochiError(
                "more than one row returned by a subquery used as an expression", sqlstate="21000"
            )
        values = rows[0] if rows else [literals.Literal(0, kind, None).sql for kind in result.types]
        return values[0] if len(values) == 1 and item.kind == "scalar" else f"ROW({', '.join(values)})"
    if item.kind == "array":
        return f"(ARRAY[{', '.join(row[0] for row in rows)}]::{_array_type(result.types[0])})"
    if rows:
        listed = "VALUES " + ", ".join(f"({', '.join(row)})" for row in rows)
    else:
        nulls = ", ".join(literals.Literal(0, kind, None).sql for kind in result.types)
        listed = f"SELECT {nulls} WHERE false"
    if item.kind == "list":
        return f"({listed})"
    return _from_item(item, listed, result)


def _from_item(item: Subquery, listed: str, result: context.SubqueryResult) -> str:
    """A FROM item of given rows that shows the same column names under whatever alias follows it."""
    columns = ", ".join(names.quoted(name) for name in result.columns)
    return f"(SELECT * FROM ({listed}) AS orochi_rows({columns})){item.alias}"


def _array_type(name: str) -> str:
    # bare names of types with an implied length would cut the values
    cast = literals.Literal(0, name, None).sql.split("::", 1)[1][:-1]
    return cast if cast.endswith("[]") else f"{cast}[]"
