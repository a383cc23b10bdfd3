"""Whether the session's role may do what a statement does to Orochi tables: PostgreSQL decides.

Rights are those on the shells. A role that has them on the whole table is remembered for a moment;
any other case (rights on columns, views, row security) is put to PostgreSQL as EXPLAIN of the very
statement over the shells, which checks it as execution would and runs nothing.
"""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Collection, Iterable

from orochi import ids, pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.planner import known, names, parse
from orochi.planner import tree as trees

#: How long a right once seen is taken for granted, in seconds, unless a change is seen: GRANT and REVOKE
#: are, from wherever they come; what another gateway does to roles and memberships may come that much later.
REMEMBERED_SECONDS = 3.0

#: A table and a right on it, as has_table_privilege spells it.
Need = tuple[int, str]
#: A need that is never remembered: rights that do not rest on tables alone.
NEVER: Need = (0, "")

# A table that is gone (another session dropped it a moment ago) is no error here, nor in the catalog.
_CHECK = """
SELECT o::bigint || ' ' || k FROM ROWS FROM (
    unnest($1::pg_catalog.oid[]), unnest($2::pg_catalog.text[])) AS n(o, k)
JOIN pg_catalog.pg_class c ON c.oid = o
WHERE CASE WHEN pg_catalog.has_table_privilege(o, k)
    THEN pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE') AND NOT pg_catalog.row_security_active(o) END
"""
_SECURED = """
SELECT pg_catalog.bool_or(CASE WHEN $2 THEN c.relrowsecurity ELSE pg_catalog.row_security_active(c.oid) END)
FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1::pg_catalog.oid[])
"""
_ACTIVE = """
SELECT c.oid FROM pg_catalog.pg_class c
WHERE c.oid = ANY ($1::pg_catalog.oid[]) AND pg_catalog.row_security_active(c.oid)
"""
_PLAIN = frozenset(
    {parse.Kind.SELECT, parse.Kind.INSERT, parse.Kind.UPDATE, parse.Kind.DELETE, parse.Kind.MERGE}
)
#: No row is locked without the word.
_FOR = re.compile(r"\bfor\b", re.IGNORECASE)
_granted: weakref.WeakKeyDictionary[context.Session, dict[tuple[str, Need], float]] = (
    weakref.WeakKeyDictionary()
)


async def require(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    tables: Collection[snapshots.Table],
) -> None:
    """Check a SELECT, INSERT, UPDATE or DELETE that touches `tables`, or a statement around one.

    Raises:
        RemoteError: 42501 in PostgreSQL's words.
    """
    if statement.kind not in _PLAIN:
        statement = parse.inner(statement)
    wanted = needs(statement, tables)
    if has_views(session, statement) or writes_several(statement):
        await _ask_for_statement(session, statement, parameters)
        return
    missing = [need for need in wanted if not is_known(session, need)]
    if not missing:
        return
    await ask(session, missing)
    if not all(is_known(session, need) for need in missing):
        await _ask_for_statement(session, statement, parameters)


async def row_security(
    session: context.Session, statement: parse.Statement, tables: Collection[snapshots.Table]
) -> bool:
    """Whether policies of these tables may filter what the statement sees: then PostgreSQL itself must run it.

    Under a view they are its owner's policies, so there any table's row security counts.
    """
    if statement.kind not in _PLAIN:
        statement = parse.inner(statement)
    others = has_views(session, statement) or writes_several(statement)
    if not others:
        wanted = needs(statement, tables)
        missing = [need for need in wanted if not is_known(session, need)]
        if missing:
            await ask(session, missing)
        if all(is_known(session, need) for need in wanted):
            return False
    return await is_secured(session, tables, for_anyone=others)


async def is_secured(
    session: context.Session, tables: Collection[snapshots.Table], *, for_anyone: bool = False
) -> bool:
    """Whether one of the tables has row security that is active for the session's role, or at all."""
    oids = "{" + ",".join(str(table.oid) for table in tables) + "}"
    values = (oids.encode(), b"true" if for_anyone else b"false")
    result = await session.coordinator.fetch(_SECURED, values, (0, 0), (0, pgtypes.BOOL))
    return result.rows[0][0] == b"t"


async def secured_of(session: context.Session, tables: Collection[snapshots.Table]) -> frozenset[ids.TableId]:
    """Those of the tables whose row security is active for the session's role."""
    oids = "{" + ",".join(str(table.oid) for table in tables) + "}"
    result = await session.coordinator.fetch(_ACTIVE, (oids.encode(),), (0,))
    return frozenset(ids.TableId(int(row[0] or b"0")) for row in result.rows)


def needs(statement: parse.Statement, tables: Collection[snapshots.Table]) -> frozenset[Need]:
    """The rights that `statement` needs at most on Orochi tables."""
    tree, target = statement.tree, _target_name(statement)
    found: set[Need] = set()
    if statement.kind is parse.Kind.SELECT and _locks_rows(statement):
        found |= {(table.oid, "UPDATE") for table in tables}
    for table in tables:
        if target is None or table.name != target:
            found.add((table.oid, "SELECT"))
            continue
        match statement.kind:
            case parse.Kind.INSERT:
                found.add((table.oid, "INSERT"))
                if tree.returningClause is not None or tree.onConflictClause is not None:
                    found.add((table.oid, "SELECT"))
                if tree.onConflictClause is not None and tree.onConflictClause.targetList:
                    found.add((table.oid, "UPDATE"))
                if tree.selectStmt is not None and not tree.selectStmt.valuesLists:
                    found.add((table.oid, "SELECT"))
            case parse.Kind.UPDATE:
                found |= {(table.oid, "UPDATE"), (table.oid, "SELECT")}
            case parse.Kind.DELETE:
                found |= {(table.oid, "DELETE"), (table.oid, "SELECT")}
            case _:
                found.add((table.oid, "SELECT"))
    return frozenset(found)


async def require_copy_from(session: context.Session, table: snapshots.Table, columns: Iterable[str]) -> None:
    """Check a COPY FROM as the INSERT that it is.

    Raises:
        RemoteError: 42501 in PostgreSQL's words.
    """
    need = (int(table.oid), "INSERT")
    if is_known(session, need):
        return
    await ask(session, [need])
    if not is_known(session, need):
        listed = [names.quoted(column) for column in columns]
        nulls = ", ".join("NULL" for _ in listed)
        await session.coordinator.fetch(
            f"EXPLAIN INSERT INTO {names.qualified(table)} ({', '.join(listed)}) "
            f"OVERRIDING SYSTEM VALUE SELECT {nulls} WHERE false"
        )


def is_known(session: context.Session, need: Need) -> bool:
    """Whether PostgreSQL granted this a moment ago."""
    seen = _granted.get(session)
    return seen is not None and time.monotonic() - seen.get((session.user, need), 0.0) < REMEMBERED_SECONDS


def forget() -> None:
    """Rights may have changed: ask again, for every session of this process."""
    _granted.clear()


def has_views(session: context.Session, statement: parse.Statement) -> bool:
    """Whether rights on views come in."""
    return known.facts(statement, session.snapshot(), session.search_path, session.temp_tables).has_views


def writes_several(statement: parse.Statement) -> bool:
    """Whether the statement may write otherwise than by what it is: MERGE, WITH queries that modify."""
    clause = getattr(statement.tree, "withClause", None)
    inside = clause is not None and any(
        not isinstance(item.ctequery, trees.ast.SelectStmt) for item in clause.ctes
    )
    return inside or statement.kind is parse.Kind.MERGE


def _locks_rows(statement: parse.Statement) -> bool:
    return _FOR.search(statement.sql) is not None and any(
        getattr(part, "lockingClause", None) for part in trees.walk(statement.tree)
    )


def _target_name(statement: parse.Statement) -> str | None:
    relation: trees.Node = getattr(statement.tree, "relation", None)
    return None if relation is None else str(relation.relname)


async def ask(session: context.Session, wanted: Iterable[Need]) -> None:
    """Have PostgreSQL say which of these rights the session's role has, and remember them."""
    listed = sorted(wanted)
    oids = "{" + ",".join(str(oid) for oid, _ in listed) + "}"
    kinds = "{" + ",".join(kind for _, kind in listed) + "}"
    result = await session.coordinator.fetch(_CHECK, (oids.encode(), kinds.encode()), (0, 0))
    seen = _granted.setdefault(session, {})
    now = time.monotonic()
    for row in result.rows:
        oid, _, kind = (row[0] or b"").decode().partition(" ")
        seen[session.user, (int(oid), kind)] = now


async def _ask_for_statement(
    session: context.Session, statement: parse.Statement, parameters: context.Parameters | None
) -> None:
    await explained(session, statement, parameters)


async def explained(
    session: context.Session, statement: parse.Statement, parameters: context.Parameters | None
) -> list[str]:
    """EXPLAIN over the shells, without the parameters' values: rights do not depend on them.

    Raises:
        RemoteError: 42501 in PostgreSQL's words.
    """
    oids = parameters.type_oids if parameters is not None else ()
    kept = tuple(oid or pgtypes.TEXT for oid in oids)
    result = await session.coordinator.fetch(
        f"EXPLAIN {_explainable(statement)}", (None,) * len(kept), (), kept
    )
    return [(row[0] or b"").decode() for row in result.rows]


def _explainable(statement: parse.Statement) -> str:
    """The statement's text, for MERGE into shells alone: behind them stand tables that PostgreSQL cannot merge into."""

    def alone(node: trees.Node) -> trees.Node | None:
        if not isinstance(node, trees.ast.MergeStmt):
            return None
        return trees.changed(node, relation=trees.changed(node.relation, inh=False))

    if not any(isinstance(node, trees.ast.MergeStmt) for node in trees.walk(statement.tree)):
        return statement.sql
    try:
        return parse.deparse(trees.transform(statement.tree, alone))
    except parse.CannotDeparse:
        return statement.sql
