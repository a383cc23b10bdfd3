"""EXECUTE of a statement of ours that was prepared by SQL's PREPARE, alone or inside another statement.

It becomes the prepared statement itself with parameters. The arguments are evaluated and coerced by
the coordinator, by a prepared statement with the same parameter types that returns them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orochi import errors
from orochi.executor import context
from orochi.pgwire import messages
from orochi.planner import parse, tree

if TYPE_CHECKING:
    from orochi.gateway import session as sessions

#: The prepared statement that evaluates the arguments of an EXECUTE.
_ARGUMENTS = "orochi_arguments"


def prepared(session: sessions.Session, statement: parse.Statement) -> parse.Statement | None:
    """The statement of ours that is run by this EXECUTE, or EXPLAIN or CREATE TABLE AS of one."""
    node = _execute_node(statement.tree)
    inner = None if node is None else session.sql_prepared.get(node.name)
    return inner if inner is not None and session.engine.concerns(session, inner) else None


async def bind(
    session: sessions.Session, statement: parse.Statement, inner: parse.Statement
) -> tuple[parse.Statement, context.Parameters, tuple[messages.FieldDescription, ...] | None]:
    """What is to be run for a statement that runs `inner` by an EXECUTE: itself, parameters, its columns."""
    node = _execute_node(statement.tree)
    oids, names = await _parameter_types(session, node.name)
    values: tuple[bytes | None, ...] = ()
    if oids or node.params:
        values = await _evaluate(session, node, oids, names)
    parameters = context.Parameters(values, (0,) * len(oids), oids)
    if statement.kind is parse.Kind.EXECUTE:
        _, fields = await session.coordinator.describe(inner.sql, oids)
        return inner, parameters, fields
    try:
        sql = parse.deparse(_replaced(statement.tree, inner.tree))
    except parse.CannotDeparse as error:
        raise errors.FeatureNotSupported(
            f"{statement.kind.value.upper()} EXECUTE of this statement is not supported",
            hint="Use the statement itself.",
        ) from error
    fields = None
    if statement.kind is parse.Kind.EXPLAIN:
        _, fields = await session.coordinator.describe(statement.sql)
    return parse.parse_one(sql), parameters, fields


def _execute_node(node: Any) -> Any:
    """The ExecuteStmt that the statement is, or has inside."""
    while node is not None and type(node).__name__ != "ExecuteStmt":
        node = getattr(node, "query", None)
    return node


def _replaced(node: Any, inner: Any) -> Any:
    if type(node).__name__ == "ExecuteStmt":
        return inner
    return tree.changed(node, query=_replaced(node.query, inner))


async def _parameter_types(session: sessions.Session, name: str) -> tuple[tuple[int, ...], str]:
    found = await session.coordinator.fetch(
        "SELECT pg_catalog.array_to_string(parameter_types::oid[], ','), "
        "pg_catalog.array_to_string(parameter_types::text[], ', ') "
        "FROM pg_catalog.pg_prepared_statements WHERE name = $1",
        [messages.encode(name)],
    )
    if not found.rows:
        raise errors.OrochiError(f'prepared statement "{name}" does not exist', sqlstate="26000")
    oids, names = ((value or b"").decode() for value in found.rows[0])
    return tuple(int(oid) for oid in oids.split(",") if oid), names


async def _evaluate(
    session: sessions.Session, node: Any, oids: tuple[int, ...], names: str
) -> tuple[bytes | None, ...]:
    try:
        call = parse.deparse(tree.changed(node, name=_ARGUMENTS))
    except parse.CannotDeparse as error:
        raise errors.FeatureNotSupported("the arguments of EXECUTE could not be read") from error
    coordinator = session.coordinator
    columns = ", ".join(f"${number}::text" for number in range(1, len(oids) + 1))
    types = f" ({names})" if names else ""
    await coordinator.fetch(f"PREPARE {_ARGUMENTS}{types} AS SELECT {columns}")
    try:
        return (await coordinator.fetch(call)).rows[0]
    except errors.RemoteError as error:
        fields = {code: text.replace(_ARGUMENTS, node.name) for code, text in error.fields.items()}
        fields.pop("P", None)
        raise errors.RemoteError(fields) from error
    finally:
        if coordinator.status != "E":
            await coordinator.fetch(f"DEALLOCATE {_ARGUMENTS}")
