"""Tasks that move chunks between tiers, and ask for archived ones."""

from __future__ import annotations

from typing import Any

from orochi.executor import maintenance, names, serving
from workers import app


@app.task(names.MOVE_CHUNK)
def move_chunk(request: dict[str, Any]) -> None:
    """Move a chunk of this worker's node to a tier."""
    serving.seat().serve_call(request, maintenance.move_chunk)


@app.task(names.RESTORE_STRIPES)
def restore(request: dict[str, Any]) -> None:
    """Ask for archived objects of this worker's node."""
    serving.seat().serve_call(request, maintenance.restore_stripes)
