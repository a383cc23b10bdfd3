"""Whether a cursor goes backwards that neither says SCROLL nor NO SCROLL: where PostgreSQL's plan for it does.

A gathered cursor's own plan is another, so PostgreSQL is asked how it would run the query over the shells
without what is behind them; they have the table's indexes.
"""

from __future__ import annotations

import json
import re
from typing import Any

from orochi import pgtypes
from orochi.executor import context
from orochi.planner import names, parse
from orochi.planner import tree as trees

_SCANS = frozenset(
    {
        "Seq Scan",
        "Tid Scan",
        "Tid Range Scan",
        "Function Scan",
        "Values Scan",
        "CTE Scan",
        "Materialize",
        "Sort",
    }
)
_INDEX_SCANS = frozenset({"Index Scan", "Index Only Scan"})
_AS_BELOW = frozenset({"Result", "Subquery Scan", "Limit", "LockRows", "Append"})
_CHILD = re.compile(r"shell_\d+")
_FORWARD_ONLY = """
SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_am a ON a.oid = c.relam
WHERE c.relname = ANY ($1::pg_catalog.name[]) AND a.amname NOT IN ('btree', 'hash') LIMIT 1
"""


async def goes_back(
    session: context.Session, statement: parse.Statement, parameters: context.Parameters | None
) -> bool:
    """Whether PostgreSQL would let the cursor of this DECLARE, which does not say, go backwards."""
    inner = parse.inner(statement)
    if any(isinstance(part, trees.ast.LockingClause) for part in trees.walk(inner.tree)):
        return False

    def alone(node: trees.Node) -> trees.Node | None:
        if not isinstance(node, trees.ast.RangeVar):
            return None
        path, temp = session.search_path, session.temp_tables
        found = names.find_relation(session.snapshot(), path, temp, node.schemaname, node.relname)
        return trees.changed(node, inh=False) if hasattr(found, "shards") else None

    try:
        sql = parse.deparse(trees.transform(inner.tree, alone))
    except parse.CannotDeparse:
        sql = inner.sql
    oids = tuple(oid or pgtypes.TEXT for oid in parameters.type_oids) if parameters else ()
    values = parameters.values if parameters else ()
    formats = parameters.formats if parameters else ()
    result = await session.coordinator.fetch(f"EXPLAIN (FORMAT JSON) {sql}", values, formats, oids)
    indexes: set[str] = set()
    if not _supports(json.loads(result.rows[0][0] or b"[]")[0]["Plan"], indexes):
        return False
    if not indexes:
        return True
    listed = (
        "{" + ",".join('"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"' for name in indexes) + "}"
    )
    found = await session.coordinator.fetch(_FORWARD_ONLY, (listed.encode(),), (0,))
    return not found.rows


def _supports(plan: dict[str, Any], indexes: set[str]) -> bool:
    """Whether the plan's rows can be had backwards, given that these indexes can be read so."""
    kind = plan["Node Type"]
    below = [
        item
        for item in plan.get("Plans", ())
        if item.get("Parent Relationship") not in ("InitPlan", "SubPlan")
    ]
    if plan.get("Parallel Aware") or plan.get("Async Capable"):
        return False
    if kind in _INDEX_SCANS:
        indexes.add(plan["Index Name"])
        return True
    if kind == "Foreign Scan":  # it stands for the table's own scan, below a view
        return _CHILD.fullmatch(plan.get("Relation Name", "")) is not None
    if kind in _AS_BELOW:
        return bool(below) and all(_supports(item, indexes) for item in below)
    return kind in _SCANS
