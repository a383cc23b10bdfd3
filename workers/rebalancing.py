"""The task that looks at how evenly shards lie on nodes."""

from __future__ import annotations

from orochi.executor import names, serving
from orochi.sharding import balance
from workers import app


@app.task(names.REBALANCING_COLLECT)
def collect() -> None:
    """Report shards and bytes of each node."""
    serving.seat().serve_periodic(
        names.REBALANCING_LOCK, lambda _settings, connection: balance.report(connection)
    )
