"""Errors of nodes as the client may see them: told of its tables, not of shards."""

from __future__ import annotations

import re

from orochi import errors
from orochi.catalog import snapshot as snapshots

#: Where PostgreSQL prints a user's own type, qualified if the server's search path does not find it.
_TYPE = re.compile(
    r"(?P<before>\bdomain |\benum |\btype |\bof type )"
    r'(?P<schema>"(?:[^"]|"")+"|[a-z_][a-z0-9_$]*)\.(?="|[a-z_])'
)
_SHARD = re.compile(r"orochi_([sc])(\d+)_\d+")


def for_client(
    error: errors.RemoteError,
    snapshot: snapshots.Snapshot = snapshots.EMPTY,
    search_path: tuple[str, ...] = (),
) -> None:
    """Change `error` in place: the schema of a shard or chunk becomes the table's, or is left out.

    Types in schemas of `search_path` lose theirs, as they would where the client is.
    """
    if search_path and "M" in error.fields:
        error.fields["M"] = _TYPE.sub(lambda match: _unqualified(match, search_path), error.fields["M"])
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


def _unqualified(match: re.Match[str], search_path: tuple[str, ...]) -> str:
    schema = match["schema"]
    name = schema[1:-1].replace('""', '"') if schema.startswith('"') else schema
    return match["before"] if name in search_path else match.group()
