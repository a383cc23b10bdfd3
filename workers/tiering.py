"""The task that looks at which chunks are older than their tier allows."""

from __future__ import annotations

from orochi.executor import names, serving
from orochi.tiered import due
from workers import app


@app.task(names.TIERING_DUE)
def run_due() -> None:
    """Report the chunks that tiering policies want moved."""
    serving.seat().serve_periodic(names.TIERING_LOCK, lambda _settings, connection: due.report(connection))
