"""Tasks that finish what a crash interrupted: two-phase commits, node objects and files nobody names."""

from __future__ import annotations

from typing import Any

from orochi.executor import maintenance, names, serving
from workers import app


@app.task(names.RESOLVE_TRANSACTIONS)
def resolve() -> None:
    """Commit what is decided and abort what is not, on every node."""
    serving.seat().serve_periodic(names.RECOVERY_LOCK, maintenance.resolve_transactions)


@app.task(names.SWEEP)
def sweep() -> None:
    """Ask every node to remove what the catalog no longer names."""
    serving.seat().send_everywhere(names.SWEEP_NODE)


@app.task(names.SWEEP_NODE)
def sweep_node(request: dict[str, Any]) -> None:
    """Remove from this worker's node what the catalog no longer names."""
    serving.seat().serve_call(request, maintenance.sweep)
