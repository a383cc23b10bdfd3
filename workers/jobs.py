"""Tasks of jobs: the look at which are due, and one task for each kind, which runs one of them."""

from __future__ import annotations

from typing import Any

import psycopg
import redis
import structlog

from orochi.executor import names, serving
from orochi.jobs import kinds, ledger, running
from orochi.timeseries import connections
from workers import app

log = structlog.get_logger()


@app.task(names.SCHEDULE_JOBS, shown=False)
def schedule() -> None:
    """Send a task for each job that is due, and end the runs of workers that died."""
    seat = serving.seat()
    try:
        with connections.borrowed(seat.settings.coordinator_dsn) as catalog:
            orders = ledger.schedule(catalog)
        for order in orders:
            seat.post(order.queue, order.message)
    except (psycopg.Error, redis.RedisError) as error:  # the next look is a second away
        log.warning("jobs.postponed", error=type(error).__name__)


def _register(kind: str) -> None:
    @app.task(kinds.task_name(kind))
    def run(request: dict[str, Any]) -> None:
        seat = serving.seat()
        try:
            running.execute(seat.settings, request, f"node{seat.node_id}.jobs")
        except psycopg.Error as error:  # the coordinator is gone: the run is sent again, or known as crashed
            log.warning("jobs.postponed", run=request["run"], error=type(error).__name__)


for _kind in kinds.KINDS:
    _register(_kind)
