"""Statements over Orochi tables that PostgreSQL runs itself: each shell's child brings it the rows.

See docs/adr/0006. Where a shell has no child, PostgreSQL would see it empty: the statement is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import relay
from orochi.pgwire import messages
from orochi.planner import parse
from orochi.planner import tree as trees

_CHILDREN = """
SELECT pg_catalog.count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'pg_orochi' AND c.relkind = 'f' AND c.relname = ANY ($1::pg_catalog.text[])
"""


def makes_materialized_view(statement: parse.Statement) -> bool:
    """Whether this is CREATE MATERIALIZED VIEW."""
    tree = statement.tree
    return isinstance(tree, trees.ast.CreateTableAsStmt) and tree.objtype.name == "OBJECT_MATVIEW"


async def have_children(session: context.Session, tables: Collection[snapshots.Table]) -> bool:
    """Whether PostgreSQL finds the rows behind all these shells."""
    wanted = "{" + ",".join(f"shell_{table.oid}" for table in tables) + "}"
    result = await session.coordinator.fetch(_CHILDREN, (wanted.encode(),), (0,))
    return int(result.rows[0][0] or b"0") == len(tables)


async def create_materialized_view(
    session: context.Session,
    statement: parse.Statement,
    tables: Collection[snapshots.Table],
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> None:
    """CREATE MATERIALIZED VIEW over Orochi tables, which the coordinator keeps; what it cannot read the event trigger refuses.

    Raises:
        FeatureNotSupported: the shells have no children.
    """
    if not await have_children(session, tables):
        raise errors.FeatureNotSupported(
            "materialized views over Orochi tables are not supported without postgres_fdw",
            hint="Install PostgreSQL's contrib on the coordinator and migrate, or use CREATE TABLE AS.",
        )
    await relay.execute(session, statement, None, fields, sink)
