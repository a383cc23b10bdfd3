"""Tasks of jobs: the look at which are due, and one task for each kind, which runs one of them."""

from __future__ import annotations

from typing import Any

from orochi.executor import names, serving
from orochi.jobs import kinds, ledger, running
from orochi.timeseries import connections
from workers import app


@app.task(names.SCHEDULE_JOBS)
def schedule() -> None:
    """Send a task for each job that is due, and end the runs of workers that died."""
    seat = serving.seat()
    with connections.borrowed(seat.settings.coordinator_dsn) as catalog:
        orders = ledger.schedule(catalog)
    for order in orders:
        seat.post(order.queue, order.message)


def _register(kind: str) -> None:
    @app.task(kinds.task_name(kind))
    def run(request: dict[str, Any]) -> None:
        seat = serving.seat()
        running.execute(seat.settings, request, f"node{seat.node_id}.jobs")


for _kind in kinds.KINDS:
    _register(_kind)
