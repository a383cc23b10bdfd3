"""What a statement has changed so far is not in the shards while PostgreSQL still runs it over copies.

A volatile function that it calls would see those changes in PostgreSQL. So where such a function reads or
changes the very table, through the shell, it is refused: `executor.transaction.Transaction.changing`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection, Iterator

from orochi import ids
from orochi.executor import context
from orochi.planner import parse
from orochi.planner import tree as trees

_VOLATILE = """
SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE p.proname = ANY ($1::pg_catalog.name[]) AND p.provolatile = 'v' AND n.nspname NOT IN ('pg_catalog', 'orochi')
LIMIT 1
"""


@contextlib.asynccontextmanager
async def unseen(
    session: context.Session, statement: parse.Statement, tables: Collection[ids.TableId]
) -> AsyncIterator[None]:
    """While the statement runs over copies of `tables`, volatile functions that it calls cannot use these."""
    names = sorted(set(_called(session, statement)))
    if not names or not tables:
        yield
        return
    listed = (
        "{" + ",".join('"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"' for name in names) + "}"
    )
    found = await session.coordinator.fetch(_VOLATILE, (listed.encode(),), (0,))
    if not found.rows:
        yield
        return
    before, session.transaction.changing = session.transaction.changing, frozenset(tables)
    try:
        yield
    finally:
        session.transaction.changing = before


def _called(session: context.Session, statement: parse.Statement) -> Iterator[str]:
    """Names of functions that may be a user's."""
    for part in trees.walk(statement.tree):
        if isinstance(part, trees.ast.FuncCall):
            parts = trees.strings(part.funcname)
            if session.runtime.builtins.function(parts) is None:
                yield parts[-1]
