"""Tasks that turn chunks' heap rows into stripes and back."""

from __future__ import annotations

from typing import Any

from orochi.executor import maintenance, names, serving
from workers import app


@app.task(names.COMPRESS_CHUNK)
def compress_chunk(request: dict[str, Any]) -> None:
    """Compress one chunk of this worker's node."""
    serving.seat().serve_call(request, maintenance.compress_chunk)


@app.task(names.DECOMPRESS_CHUNK)
def decompress_chunk(request: dict[str, Any]) -> None:
    """Decompress one chunk of this worker's node."""
    serving.seat().serve_call(request, maintenance.decompress_chunk)


@app.task(names.WRITE_STRIPES)
def write_stripes(request: dict[str, Any]) -> None:
    """Write rows that a gateway ships as stripes of this worker's node."""
    serving.seat().serve_rows(request, maintenance.write_stripes)


@app.task(names.FLUSH_COLUMNAR)
def flush() -> None:
    """Ask every node to move full heaps of columnar tables into stripes."""
    serving.seat().send_everywhere(names.FLUSH_NODE)


@app.task(names.FLUSH_NODE)
def flush_node(request: dict[str, Any]) -> None:
    """Do so on this worker's node."""
    serving.seat().serve_call(request, maintenance.flush)
