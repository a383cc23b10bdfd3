"""Errors of nodes as the client may see them: told of its tables, not of shards."""

from __future__ import annotations

import re

from orochi import errors
from orochi.catalog import snapshot as snapshots

_SHARD = re.compile(r"orochi_([sc])(\d+)_\d+")


def for_client(error: errors.RemoteError, snapshot: snapshots.Snapshot = snapshots.EMPTY) -> None:
    """Change `error` in place: the schema of a shard or chunk becomes the table's, or is left out."""
    match = _SHARD.fullmatch(error.fields.get("s", ""))
    if match is None:
        return
    kind, number = match.group(1), int(match.group(2))
    schema = next(
        (
            table.schema
            for table in snapshot.tables.values()
            for shard in table.shards
            if (shard.shard_id == number if kind == "s" else any(c.chunk_id == number for c in shard.chunks))
        ),
        None,
    )
    if schema is None:
        del error.fields["s"]
    else:
        error.fields["s"] = schema
