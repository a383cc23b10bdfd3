"""Statements on tables whose policies apply to the session's role: PostgreSQL itself applies them.

What only reads is run by PostgreSQL over the shells, whose children bring it the rows of the nodes; conditions
that could tell of a hidden row are kept from going there (`planner/quiet.py`). What changes or locks rows is
rehearsed over copies that have the same policies. See docs/adr/0006.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from orochi import errors, ids
from orochi.catalog import snapshot as snapshots
from orochi.executor import context, hidden_rows, reduce
from orochi.operations import columnar, privileges, rehearse, relay, scrolling, through_shells
from orochi.pgwire import messages
from orochi.planner import barrier, classify, edit, names, parse, quoting, rehearsal
from orochi.planner import tree as trees

_HINT = "Run it as a role that row-level security does not apply to, or in a SECURITY DEFINER function of such a role."
_WRITING = frozenset({parse.Kind.INSERT, parse.Kind.UPDATE, parse.Kind.DELETE, parse.Kind.MERGE})


async def applies(
    session: context.Session, statement: parse.Statement, tables: Sequence[snapshots.Table]
) -> bool:
    """Whether policies apply to a statement that reads or writes rows of `tables`.

    Raises:
        FeatureNotSupported: they do, and its result would be Orochi's to keep.
    """
    if not tables or through_shells.makes_materialized_view(statement):
        return False
    if not await privileges.row_security(session, statement, tables):
        return False
    if columnar.concerns(session, statement):
        raise errors.FeatureNotSupported(
            "a columnar table cannot be made from tables under row-level security",
            hint="Make it first, and fill it by INSERT ... SELECT.",
        )
    return True


async def execute(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
    tables: Collection[snapshots.Table],
) -> None:
    """Run a statement to whose tables policies apply.

    Raises:
        RemoteError: what PostgreSQL says, first of rights.
        FeatureNotSupported: over the shells it would mean another thing.
    """
    await privileges.require(session, statement, parameters, tables)
    if _is_rehearsed(session, statement):
        mine = await _rehearsable(session, statement, tables)
        return await rehearse.execute(session, statement, parameters, fields, sink, mine)
    if statement.kind in _WRITING and through_shells.writes_view(session, statement):
        await through_shells.require_possible(session, statement, tables)
        if not await _is_safe(session, statement.sql, parameters):
            raise hidden_rows.refusal()
        return await through_shells.write_relayed(session, statement, parameters, fields, sink)
    if statement.kind is parse.Kind.DECLARE:
        return await _declare(session, statement, parameters, sink, tables)
    sql = await readable(session, statement, parameters, tables)
    return await relay.execute_sql(session, sql, parameters, fields, sink)


async def _declare(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    sink: context.Sink,
    tables: Collection[snapshots.Table],
) -> None:
    """A cursor over the rows of this moment: left to itself it would ask for them when they are fetched.

    Raises:
        FeatureNotSupported: in a READ ONLY transaction.
    """
    coordinator, inner = session.coordinator, parse.inner(statement)
    if coordinator.status == "I":
        await coordinator.query("BEGIN")  # a cursor WITH HOLD: it ends with the statement
    if await reduce.is_read_only(coordinator):
        raise errors.FeatureNotSupported(
            "cursors over tables under row-level security are not supported in a READ ONLY transaction",
            hint="Run the query itself.",
        )
    opening = statement.sql.removesuffix(inner.sql)
    if not edit.says_scroll(statement):
        back = await scrolling.goes_back(session, statement, parameters)
        opening = edit.with_scroll(opening, goes_back=back)
    sql = await readable(session, inner, parameters, tables)
    _, fields = await coordinator.describe(sql, parameters.type_oids if parameters else ())
    names_of = [quoting.identifier(field.name) for field in fields or ()]
    table = f"pg_temp.orochi_cursor_{secrets.token_hex(8)}"
    columns = ", ".join(f"c{at}" for at in range(len(names_of)))
    given = parameters or context.Parameters((), (), ())
    await coordinator.fetch(
        f"CREATE TEMPORARY TABLE {table} ({columns}) ON COMMIT DROP AS {sql}",
        given.values,
        given.formats,
        given.type_oids,
    )
    listed = ", ".join(f"c{at} AS {name}" for at, name in enumerate(names_of))
    await sink.complete((await coordinator.query(f"{opening}SELECT {listed} FROM {table}"))[-1].tag)


def _is_rehearsed(session: context.Session, statement: parse.Statement) -> bool:
    """Whether it changes or locks rows of an Orochi table otherwise than by a plain INSERT."""
    tree = statement.tree.query if statement.kind is parse.Kind.DECLARE else statement.tree
    if statement.kind is parse.Kind.EXPLAIN:
        return False
    if rehearsal.locks(tree):
        return True
    for part in trees.walk(tree):
        if isinstance(part, rehearsal.WRITES):
            target = part.relation
            found = _find(session, target)
            plain = isinstance(part, trees.ast.InsertStmt) and part.onConflictClause is None
            if isinstance(found, snapshots.Table) and not (plain and part is tree):
                return True
    return False


def _find(session: context.Session, node: trees.Node) -> snapshots.Table | snapshots.View | None:
    return names.find_relation(
        session.snapshot(), session.search_path, session.temp_tables, node.schemaname, node.relname
    )


async def _rehearsable(
    session: context.Session, statement: parse.Statement, tables: Collection[snapshots.Table]
) -> frozenset[ids.TableId]:
    """The tables whose policies apply.

    Raises:
        FeatureNotSupported: they apply by way of views, whose owners they are for.
    """
    if privileges.has_views(session, statement):
        raise errors.FeatureNotSupported(
            "views over Orochi tables under row-level security cannot be in a statement that changes or locks rows",
            hint="Name the table itself.",
        )
    return await privileges.secured_of(session, tables)


async def readable(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    tables: Collection[snapshots.Table],
) -> str:
    """The statement as PostgreSQL can run it over the shells without a sign of hidden rows.

    Raises:
        FeatureNotSupported: it cannot.
    """
    if not await through_shells.have_children(session, tables):
        raise errors.FeatureNotSupported(
            "row-level security on Orochi tables needs postgres_fdw on the coordinator", hint=_HINT
        )
    if through_shells.looks_past(statement.tree, session, but_only=True):
        raise errors.FeatureNotSupported(
            "TABLESAMPLE and system columns are not supported for Orochi tables under row-level security",
            hint=_HINT,
        )
    sql = statement.sql
    if not barrier.only(statement.tree) and await _is_safe(session, sql, parameters):
        return sql
    sql = barrier.behind(statement, through_shells.plan_context(session))
    try:
        if await _is_safe(session, sql, parameters):
            return sql
    except errors.RemoteError as error:
        if not error.sqlstate.startswith("42"):
            raise
    raise hidden_rows.refusal()


async def _is_safe(session: context.Session, sql: str, parameters: context.Parameters | None) -> bool:
    """Whether PostgreSQL, running this, asks nodes only for what they may compute before policies are."""
    given = parameters or context.Parameters((), (), ())
    explained = f"EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) {_unexplained(sql)}"
    result = await session.coordinator.fetch(explained, given.values, given.formats, given.type_oids)
    for remote in _remote(json.loads(result.rows[0][0] or b"[]")):
        asked = parse.parse_one(remote)
        tables = classify.tables_in(asked.tree, session.snapshot(), ())
        if not await hidden_rows.are_safe(session.coordinator, asked, tables):
            return False
    return True


def _unexplained(sql: str) -> str:
    """The statement without EXPLAIN before it."""
    statement = parse.parse_one(sql)
    return parse.inner(statement).sql if statement.kind is parse.Kind.EXPLAIN else sql


def _remote(plan: Any) -> Iterator[str]:
    if isinstance(plan, dict):
        for key, value in plan.items():
            if key == "Remote SQL":
                yield value
            else:
                yield from _remote(value)
    elif isinstance(plan, list):
        for item in plan:
            yield from _remote(item)
