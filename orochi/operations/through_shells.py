"""Statements over Orochi tables that PostgreSQL runs itself: each shell's child brings it the rows.

See docs/adr/0006. Where a shell has no child, PostgreSQL would see it empty: the statement is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import privileges, rehearse, relay, views_above
from orochi.pgwire import messages
from orochi.planner import builtins, names, parse, through
from orochi.planner import context as planning
from orochi.planner import tree as trees

_CHILDREN = """
SELECT pg_catalog.count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'pg_orochi' AND c.relkind = 'f' AND c.relname = ANY ($1::pg_catalog.text[])
"""
_HANDED_ON = re.compile(r"->  Foreign (Update|Delete) on ")
_TELLS_OF_CHILDREN = re.compile(r"\bctid\b|\bshell_\d+\b")


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


def writes_view(session: context.Session, statement: parse.Statement) -> bool:
    """Whether an INSERT, UPDATE, DELETE or MERGE names a view over Orochi tables as its target."""
    relation = statement.tree.relation
    found = names.find_relation(
        session.snapshot(),
        session.search_path,
        session.temp_tables,
        relation.schemaname,
        relation.relname,
    )
    return isinstance(found, snapshots.View)


async def write_view(
    session: context.Session,
    statement: parse.Statement,
    tables: Collection[snapshots.Table],
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> None:
    """A write through a view: PostgreSQL rewrites it, asks for the rights of the view's owner, runs INSTEAD OF triggers.

    Raises:
        FeatureNotSupported: the shells have no children, or PostgreSQL would look past them or find rows again.
    """
    await require_possible(session, statement, tables)
    if await _is_rehearsed(session, statement, parameters):
        await privileges.require(session, statement, parameters, tables)
        return await rehearse.execute(session, statement, parameters, fields, sink)
    return await write_relayed(session, statement, parameters, fields, sink)


async def require_possible(
    session: context.Session, statement: parse.Statement, tables: Collection[snapshots.Table]
) -> None:
    """Check that PostgreSQL finds the rows that a write through a view means.

    Raises:
        FeatureNotSupported: it does not.
    """
    reason = await _past_children(session, statement, tables)
    if reason is not None:
        raise _not_through(statement, reason)


async def write_relayed(
    session: context.Session,
    statement: parse.Statement,
    parameters: context.Parameters | None,
    fields: Sequence[messages.FieldDescription] | None,
    sink: context.Sink,
) -> None:
    """A write through a view as PostgreSQL does it over the shells.

    Raises:
        FeatureNotSupported: rows would have to be found again.
    """
    try:
        await relay.execute(session, statement, parameters, fields, sink)
    except errors.RemoteError as error:
        if error.sqlstate == "0A000" and _TELLS_OF_CHILDREN.search(str(error)):
            raise _not_through(statement, "its rows would have to be found again") from error
        raise


async def _is_rehearsed(
    session: context.Session, statement: parse.Statement, parameters: context.Parameters | None
) -> bool:
    """Whether PostgreSQL could not hand the write on as one statement, nor the view's owner has said what it does."""
    tree = statement.tree
    if statement.kind is parse.Kind.INSERT and tree.onConflictClause is None:
        return False
    ctx = plan_context(session)
    view = names.find_relation(
        session.snapshot(),
        session.search_path,
        session.temp_tables,
        tree.relation.schemaname,
        tree.relation.relname,
    )
    assert isinstance(view, snapshots.View)
    try:
        _, above = through.chain(view, ctx)
    except errors.FeatureNotSupported:
        return False
    for item in above:
        if await views_above.has_its_own_ways(session, item):
            return False
    if statement.kind is parse.Kind.INSERT:
        return True
    return not any(
        _HANDED_ON.search(line) for line in await privileges.explained(session, statement, parameters)
    )


def plan_context(session: context.Session) -> planning.PlanContext:
    """By what names in a statement of the session are looked up."""
    return planning.PlanContext(
        session.snapshot(), session.search_path, builtins.EMPTY, temp_tables=session.temp_tables
    )


def _not_through(statement: parse.Statement, reason: str) -> errors.FeatureNotSupported:
    name = statement.tree.relation.relname
    return errors.FeatureNotSupported(
        f'cannot modify view "{name}" over an Orochi table in this statement: {reason}',
        hint="Modify the table itself.",
    )


async def _past_children(
    session: context.Session, statement: parse.Statement, tables: Collection[snapshots.Table]
) -> str | None:
    """Why PostgreSQL would not find the rows that the statement means; None if it does."""
    if statement.kind is parse.Kind.MERGE:
        return "MERGE"
    if not await have_children(session, tables):
        return "the coordinator does not have postgres_fdw"
    if looks_past(statement.tree, session):
        return "it has ONLY, TABLESAMPLE or system columns"
    return None


def looks_past(tree: trees.Node, session: context.Session, *, but_only: bool = False) -> bool:
    """Whether a statement, or a view that it names, tells a shell from its child; its own ONLY may not count."""
    return _looks_past(tree, plan_context(session), frozenset(), but_only=but_only)


def _looks_past(
    node: trees.Node,
    ctx: planning.PlanContext,
    inside: frozenset[snapshots.View],
    *,
    but_only: bool = False,
) -> bool:
    for part in trees.walk(node):
        if isinstance(part, trees.ast.RangeTableSample):
            return True
        if isinstance(part, trees.ast.ColumnRef) and trees.strings(part.fields)[-1] in names.SYSTEM_COLUMNS:
            return True
        if not isinstance(part, trees.ast.RangeVar):
            continue
        if not part.inh and not but_only:
            return True
        path, temp = ctx.search_path, ctx.temp_tables
        found = names.find_relation(ctx.snapshot, path, temp, part.schemaname, part.relname)
        if isinstance(found, snapshots.View) and found not in inside:
            (definition,) = parse.parse(found.definition)
            if _looks_past(definition.tree, ctx, inside | {found}):
                return True
    return False
