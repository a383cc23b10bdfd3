"""Tasks that count rows and bytes of shards and chunks into the catalog."""

from __future__ import annotations

from typing import Any

from orochi.executor import maintenance, names, serving
from workers import app


@app.task(names.COLLECT_STATS)
def collect() -> None:
    """Ask every node to count."""
    serving.seat().send_everywhere(names.COLLECT_NODE_STATS)


@app.task(names.COLLECT_NODE_STATS)
def collect_node(request: dict[str, Any]) -> None:
    """Count this worker's node."""
    serving.seat().serve_call(request, maintenance.collect_stats)
