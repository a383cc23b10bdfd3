"""What maintenance tasks call: arguments as they crossed the queue in, JSON-serialisable facts out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pyarrow as pa
import structlog

from orochi import settings as process_settings
from orochi.catalog import nodes
from orochi.executor import exchange, names, recovery
from orochi.tiered import move
from orochi.timeseries import compression, direct, upkeep

log = structlog.get_logger()

Settings = process_settings.Settings
Facts = dict[str, Any]


def compress_chunk(settings: Settings, arguments: Facts) -> Facts:
    """Move the rows of `chunk_id`, or of each of `chunk_ids`, into stripes."""
    return _logged("chunk.compressed", compression.compress_chunks, settings, arguments)


def decompress_chunk(settings: Settings, arguments: Facts) -> Facts:
    """Move the rows of `chunk_id`, or of each of `chunk_ids`, back into the heap."""
    return _logged("chunk.decompressed", compression.decompress_chunks, settings, arguments)


def write_stripes(settings: Settings, arguments: Facts, rows: Iterator[pa.RecordBatch]) -> Facts:
    """Write rows as stripes, for the gateway to publish; what is in each file."""
    facts = direct.write(settings, direct.Request.from_json(arguments), rows)
    log.info("stripes.written", path=arguments["path"], stripes=len(facts))
    return {"stripes": facts}


def flush(settings: Settings, arguments: Facts) -> Facts:
    """Move what has gathered in the heaps of a node's columnar tables into stripes."""
    node_id, patient = int(arguments["node_id"]), bool(arguments.get("patient"))
    results = compression.flush(settings.coordinator_dsn, node_id, settings, patient=patient)
    for facts in results:
        log.info("chunk.flushed", **facts)
    return {"results": results}


def _logged(
    event: str,
    change: Callable[[str, list[int], Settings], list[Facts]],
    settings: Settings,
    arguments: Facts,
) -> Facts:
    """The facts of every chunk as `results`."""
    chunk_ids = [int(chunk_id) for chunk_id in arguments.get("chunk_ids") or [arguments["chunk_id"]]]
    results = change(settings.coordinator_dsn, chunk_ids, settings)
    for facts in results:
        log.info(event, **facts)
    return {"results": results}


def move_chunk(settings: Settings, arguments: Facts) -> Facts:
    """Bring `chunk_id` into `tier`."""
    facts = move.move_chunk(
        settings.coordinator_dsn, int(arguments["chunk_id"]), str(arguments["tier"]), settings
    )
    log.info("chunk.moved", **facts)
    return facts


def restore_stripes(settings: Settings, arguments: Facts) -> Facts:
    """Ask for the archived objects of catalog `paths`; `ready` of `total`, until all are."""
    paths = [str(path) for path in arguments["paths"]]
    return move.restoring(paths, settings) or {"ready": len(paths), "total": len(paths)}


def collect_stats(settings: Settings, arguments: Facts) -> Facts:
    """Count rows and bytes of a node's shards and chunks."""
    found = upkeep.collect_stats(settings.coordinator_dsn, int(arguments["node_id"]), settings)
    return {"relations": found}


def sweep(settings: Settings, arguments: Facts) -> Facts:
    """Remove schemas, stripes and files that the catalog no longer names, and results nobody reads."""
    swept = upkeep.sweep(settings.coordinator_dsn, int(arguments["node_id"]), settings)
    results = exchange.SharedFolder(settings.data_dir / "results", "").sweep(names.RESULT_TTL_SECONDS)
    facts = {**dataclasses.asdict(swept), "results": results}
    if any(facts.values()):
        log.info("node.swept", **facts)
    return facts


def resolve_transactions(settings: Settings, coordinator: psycopg.Connection[Any]) -> None:
    """Finish two-phase commits that a gateway left unfinished."""
    outcome = recovery.resolve(settings.coordinator_dsn, nodes.all_dsns(coordinator, settings))
    if outcome is not None and (outcome.committed or outcome.aborted or outcome.unreachable):
        log.warning("recovery.resolved", **dataclasses.asdict(outcome))
