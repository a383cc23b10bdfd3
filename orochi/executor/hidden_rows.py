"""What comes to the gateway from PostgreSQL over a shell with row-level security must not tell of hidden rows."""

from __future__ import annotations

import json
from collections.abc import Sequence

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.pgwire import client
from orochi.planner import parse, quiet

_POLICIES = """
SELECT pg_catalog.array_to_json(ARRAY(
    SELECT e FROM pg_catalog.pg_policy p, pg_catalog.unnest(ARRAY[
        pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)]) AS e
    WHERE p.polrelid = c.oid AND e IS NOT NULL))
FROM pg_catalog.pg_class c WHERE c.relrowsecurity AND c.oid = ANY ($1::pg_catalog.oid[])
"""


async def are_safe(
    coordinator: client.PgConnection, statement: parse.Statement, tables: Sequence[snapshots.Table]
) -> bool:
    """Whether the nodes may compute what `statement`, as `postgres_fdw` wrote it, says about `tables`."""
    if not tables or (len(tables) == 1 and quiet.is_quiet(statement.tree, tables[0])):
        return True
    oids = "{" + ",".join(str(table.oid) for table in tables) + "}"
    found = await coordinator.fetch(_POLICIES, (oids.encode(),), (0,))
    if not found.rows:
        return True
    if len(tables) > 1:
        return False
    return quiet.is_quiet(statement.tree, tables[0], json.loads(found.rows[0][0] or b"[]"))


def refusal() -> errors.FeatureNotSupported:
    """What to say where it is not so."""
    return errors.FeatureNotSupported(
        "a condition on an Orochi table with row-level security cannot be computed on its nodes:"
        " it might be before the policy is",
        hint="Compute it over (SELECT * FROM the_table OFFSET 0) instead.",
    )
