"""Policies on a copy: those of the table that apply to the session's role, so that a rehearsal is under them.

They are put on when the copy is filled, and taken off, for its owner, after the statement: what hidden rows
became is to be seen then.
"""

from __future__ import annotations

import json

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.planner import edit, parse, quoting
from orochi.planner import tree as trees

_POLICIES = """
SELECT pg_catalog.json_build_array(p.polname, p.polpermissive, p.polcmd,
    pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))
FROM pg_catalog.pg_policy p
WHERE p.polrelid = $1::pg_catalog.oid AND EXISTS (SELECT FROM pg_catalog.unnest(p.polroles) AS r(role)
    WHERE role = 0 OR pg_catalog.pg_has_role(role, 'USAGE'))
ORDER BY p.polname
"""
_COMMANDS = {"*": "ALL", "r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE"}


async def put_on(session: context.Session, table: snapshots.Table, base: str) -> None:
    """Give the copy `base` the policies of `table` that apply to the session's role.

    Raises:
        FeatureNotSupported: one of them cannot be said of another table.
    """
    found = await session.coordinator.fetch(_POLICIES, (str(table.oid).encode(),), (0,))
    statements = []
    for row in found.rows:
        name, permissive, command, using, check = json.loads(row[0] or b"[]")
        sql = f"CREATE POLICY {quoting.identifier(name)} ON pg_temp.{base}"
        sql += f" AS {'PERMISSIVE' if permissive else 'RESTRICTIVE'} FOR {_COMMANDS[command]}"
        for word, condition in (("USING", using), ("WITH CHECK", check)):
            if condition is not None:
                sql += f" {word} ({_of(condition, table.name, base)})"
        statements.append(sql)
    statements.append(f"ALTER TABLE pg_temp.{base} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    try:
        await session.coordinator.query("; ".join(statements))
    except errors.RemoteError as error:
        raise errors.FeatureNotSupported(
            f'a policy of table "{table.name}" cannot be applied to this statement: {error.message}',
            hint="Run it as a role that row-level security does not apply to,"
            " or in a SECURITY DEFINER function of such a role.",
        ) from error


async def take_off(session: context.Session, base: str) -> None:
    """Let the copy's owner see all its rows again."""
    await session.coordinator.query(f"ALTER TABLE pg_temp.{base} NO FORCE ROW LEVEL SECURITY")


def _of(condition: str, name: str, base: str) -> str:
    """The condition, its mentions of the table by name being of the copy.

    PostgreSQL prints a name before columns only within sub-SELECTs, where no relation of theirs has the same.
    """
    statement = parse.parse_one(f"SELECT {condition}")
    editor = edit.Editor(statement)
    for node in trees.walk(statement.tree):
        if isinstance(node, trees.ast.ColumnRef) and len(node.fields) == 2:
            parts = trees.strings(node.fields)
            if parts[0] == name:
                last = "*" if parts[1] == "*" else quoting.identifier(parts[1])
                editor.column(node, f"{base}.{last}")
    return editor.result().removeprefix("SELECT ")
