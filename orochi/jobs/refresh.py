"""What the policy of a continuous aggregate does: it calls the refresh that a user would call."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orochi.jobs import running

_WINDOW = """
SELECT a.view_oid::int8, {start}, {end}
FROM orochi.orochi_continuous_aggregates a WHERE a.materialization_oid = %(table)s
"""
_MOMENT = "orochi._raw_value({table}::oid, orochi._policy_boundary({table}::oid::regclass, %({name})s))::text"
_TAKEN = """
DELETE FROM orochi.orochi_job_runs WHERE job_id IS NULL AND kind = 'refresh' AND table_oid = %s AND worker = %s
RETURNING rows, details
"""


def refresh(run: running.Run) -> None:
    """Refresh the buckets that are neither older than `start_offset` nor younger than `end_offset`."""
    ages = {name: run.config.get(f"{name}_offset") for name in ("start", "end")}
    moments = {
        name: "NULL::text" if age is None else _MOMENT.format(table=run.table_oid, name=name)
        for name, age in ages.items()
    }
    with run.catalog() as catalog:
        row = catalog.execute(_WINDOW.format(**moments).encode(), {"table": run.table_oid, **ages}).fetchone()
    if row is None:  # dropped meanwhile
        return
    view, start, end = row
    with run.gateway() as gateway:
        gateway.execute("SET timezone = 'UTC'")
        gateway.execute(
            f"SELECT refresh_continuous_aggregate({int(view)}::oid::regclass, %s::text, %s::text)".encode(),
            (start, end),
        )
    run.check()
    with run.catalog() as catalog:
        for rows, details in catalog.execute(_TAKEN, (run.table_oid, f"orochi job {run.job_id}")).fetchall():
            run.count(rows=rows)
            run.note(**details)
