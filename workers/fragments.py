"""Tasks that read: fragments of queries, and scans of stripes."""

from __future__ import annotations

from typing import Any

from orochi.executor import names, serving
from workers import app


@app.task(names.RUN_FRAGMENTS)
def run_fragments(request: dict[str, Any]) -> None:
    """Run the fragments of a request and send each one's rows."""
    serving.seat().serve_fragments(request)


@app.task(names.SCAN_STRIPES)
def scan_stripes(request: dict[str, Any]) -> None:
    """Send the stripe rows of a request's scans."""
    serving.seat().serve_scan(request)
