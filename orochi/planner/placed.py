"""What `postgres_fdw` sends where it changes rows by their places (see `operations.by_place`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.planner import context, edit, names, parse, prepare, pull, rehearsal, tree
from orochi.planner.tree import ast

_CTID = "ctid"


@dataclasses.dataclass(frozen=True, slots=True)
class Candidates:
    """The rows that may be changed.

    Attributes:
        cursor: its name.
        sql: the DECLARE over a copy, given the copy's name and an expression for a row's place as text.
    """

    cursor: str
    copy: rehearsal.Copy
    sql: Callable[[str, str], str]


def asks_for_places(statement: parse.Statement) -> bool:
    """Whether a DECLARE is for rows of one table with their places."""
    query = statement.tree.query
    return bool(
        isinstance(query, ast.SelectStmt)
        and query.targetList
        and len(query.fromClause or ()) == 1
        and isinstance(query.fromClause[0], ast.RangeVar)
        and _is_ctid(query.targetList[-1].val)
    )


def locks(statement: parse.Statement) -> bool:
    """Whether those rows are to be changed."""
    return bool(statement.tree.query.lockingClause)


def is_by_place(statement: parse.Statement) -> bool:
    """Whether an UPDATE or DELETE is of the row at a place given as its first parameter."""
    where = statement.tree.whereClause
    return (
        isinstance(where, ast.A_Expr)
        and where.name[-1].sval == "="
        and _is_ctid(where.lexpr)
        and isinstance(where.rexpr, ast.ParamRef)
        and where.rexpr.number == 1
    )


def _is_ctid(node: tree.Node) -> bool:
    return isinstance(node, ast.ColumnRef) and tree.strings(node.fields) == (_CTID,)


def _names_places(node: tree.Node) -> bool:
    return any(
        isinstance(part, ast.ColumnRef) and tree.strings(part.fields)[-1] in names.SYSTEM_COLUMNS
        for part in tree.walk(node or ())
    )


def plan(statement: parse.Statement, ctx: context.PlanContext) -> Candidates:
    """What to copy for such a DECLARE.

    Raises:
        NeedsFolding: provide the values, then call again.
        FeatureNotSupported: it is about something else than one Orochi table.
    """
    statement = prepare.bind(statement, ctx)
    query = statement.tree.query
    (relation,) = query.fromClause
    table = names.find_relation(
        ctx.snapshot, ctx.search_path, ctx.temp_tables, relation.schemaname, relation.relname
    )
    if not isinstance(table, snapshots.Table) or _names_places(query.whereClause):
        raise errors.FeatureNotSupported(
            "rows of an Orochi table have no ctid of their own", hint="Name the row by its key."
        )
    read = tree.changed(query, targetList=_NOTHING, lockingClause=None)
    prepared = prepare.prepare(parse.parse_one(parse.deparse(read)), ctx)
    (reference,) = prepared.references
    pruned = prepared.pruned[id(reference)]
    copy = rehearsal.Copy(
        name="orochi_p",
        table=table.oid,
        shard_indexes=tuple(shard.index for shard in pruned.shards),
        condition=" AND ".join(f"({term})" for term in pull.own_terms(reference, prepared)),
        predicates=pruned.predicates,
        assigned=(),
        keyed=False,
    )

    def sql(base: str, place: str) -> str:
        editor = edit.Editor(statement)
        editor.relation(
            relation, f"{base} AS {names.quoted(relation.relname)}" if relation.alias is None else base
        )
        editor.column(query.targetList[-1].val, f"({place})::pg_catalog.tid AS ctid")
        text = editor.result()
        return text[: text.rindex(" FOR ")] if query.lockingClause else text

    return Candidates(statement.tree.portalname, copy, sql)


def assigned(statement: parse.Statement) -> tuple[str, ...]:
    """The columns that an UPDATE sets."""
    return tuple(item.name for item in statement.tree.targetList)


def on_copy(statement: parse.Statement, base: str, number: int, loaded: str) -> str:
    """The UPDATE or DELETE of a row of the copy, if it is as it was read."""
    editor = edit.Editor(statement)
    relation = statement.tree.relation
    editor.relation(
        relation, f"{base} AS {names.quoted(relation.relname)}" if relation.alias is None else base
    )
    where = statement.tree.whereClause
    editor.column(
        where.lexpr, f"orochi_row = {number} AND cmin = '{loaded}'::pg_catalog.cid AND $1::pg_catalog.tid"
    )
    editor.token(where.rexpr.location, "$1::pg_catalog.tid")
    return editor.result()


_NOTHING: tree.Node = parse.parse_one("SELECT 1").tree.targetList
