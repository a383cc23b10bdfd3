"""Views of the client's session that are to a copy what a user's views are to the table."""

from __future__ import annotations

from orochi.catalog import snapshot as snapshots
from orochi.executor import context

_LIKE = """
SELECT pg_catalog.array_to_string(c.reloptions, ', '), (
        SELECT pg_catalog.string_agg(pg_catalog.format('ALTER VIEW pg_temp.%I ALTER %I SET DEFAULT %s', $3,
            a.attname, pg_catalog.pg_get_expr(d.adbin, d.adrelid)), '; ')
        FROM pg_catalog.pg_attrdef d JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.adnum
        WHERE d.adrelid = c.oid),
    (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0),
    EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid)
        OR EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type <> '1')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2
"""


async def _like(session: context.Session, view: snapshots.View, name: str) -> list[str]:
    result = await session.coordinator.fetch(
        _LIKE, (view.schema.encode(), view.name.encode(), name.encode()), (0, 0, 0), (19, 19, 25)
    )
    return [(value or b"").decode() for value in result.rows[0]] if result.rows else ["", "", "", "f"]


async def has_its_own_ways(session: context.Session, view: snapshots.View) -> bool:
    """Whether INSTEAD OF triggers or rules say what a write through the view does."""
    return (await _like(session, view, ""))[3] == "t"


async def create(session: context.Session, view: snapshots.View, definition: str, name: str) -> None:
    """Make a temporary view with the options and defaults of another."""
    options, defaults, columns, _ = await _like(session, view, name)
    kept = f" WITH ({options})" if options else ""
    await session.coordinator.query(f"CREATE TEMPORARY VIEW {name} ({columns}){kept} AS {definition}")
    if defaults:
        await session.coordinator.query(defaults)
