"""Reads the whole catalog into one `Snapshot`.

It takes a single statement, so what it sees is of one moment, and a snapshot never mixes two
versions. Inside a transaction it sees that transaction's own uncommitted changes.

Where only the places of rows have changed since another snapshot, those of the shards concerned are read
(`load_after`). Every change is a row of `orochi_catalog_changes`: as long as all that made the former one
are still seen and all others name their shards, nothing else can differ.

No load waits for another transaction's lock of a table: what PostgreSQL prints only under a lock comes
from `texts` then, which knows what it printed before.
"""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from orochi import errors, ids
from orochi.catalog import snapshot as snapshots
from orochi.catalog import texts

if TYPE_CHECKING:
    import psycopg

    from orochi.pgwire import client

_LOAD_SQL = "SELECT kind, data::text FROM orochi._snapshot()"
_SINCE_SQL = "SELECT kind, data::text FROM orochi._snapshot_since($1)"
_UNLOCKED_SQL = "SELECT kind, data::text FROM orochi._snapshot(patient => false)"
#: A lock that came between the look at the locks and the printing is not waited for either.
_BRIEF_SQL = f"SET LOCAL lock_timeout TO '1s'; {_UNLOCKED_SQL}"
_NODES_SQL = "SELECT node_id, hostname, port, dbname, role, state, holds_shards FROM orochi.orochi_nodes ORDER BY node_id"
_MAX64 = 2**63 - 1
VERSION_SQL = "SELECT version::text FROM orochi.orochi_catalog_version"

#: Runs a statement with Orochi's own rights in a client's transaction; returns rows of JSON arrays.
GATEWAY_EXECUTE_SQL = "SELECT row::text FROM orochi._gateway_execute($1, $2) AS row"


async def load(
    connection: client.PgConnection, *, after: snapshots.Snapshot = snapshots.EMPTY
) -> snapshots.Snapshot:
    """The catalog as `connection` sees it now; waits for locks only for texts never printed before.

    What is as it was in `after`, any other snapshot, is not read if that can be told.

    Raises:
        RemoteError: the catalog is not installed (3F000, 42883): run `orochi migrate`.
    """
    if (found := await load_after(connection, after)) is not None:
        return found
    parts = await _parts_of(connection, _UNLOCKED_SQL)
    if not texts.PRINTED.complete(parts):
        parts = await _parts_of(connection, _LOAD_SQL)
        texts.PRINTED.complete(parts)
    return _from_parts(parts)


async def load_after(
    connection: client.PgConnection, former: snapshots.Snapshot
) -> snapshots.Snapshot | None:
    """What has become of `former`, as `connection` sees it: of its shape, and read only where it has changed.

    None if the catalog must be read whole: more has changed than where rows are, or it is not known where.
    """
    if former.changes is None:
        return None
    known = "{" + ",".join(map(str, former.changes)) + "}"
    result = await connection.fetch(_SINCE_SQL, [known.encode()])
    if not result.rows:
        return None
    parts = _parts((_text(row[0]), _text(row[1])) for row in result.rows)
    shards = {ids.TableId(oid): found for oid, found in _shards(parts).items()}
    return former.with_shards(int(parts["version"] or 0), frozenset(parts["changes"]), shards)


async def load_unheld(connection: client.PgConnection) -> snapshots.Snapshot | None:
    """The same on an idle connection of Orochi's own; None if another session is in the way: try again soon.

    Raises:
        RemoteError: as `load`.
    """
    try:
        parts = await _parts_of(connection, _BRIEF_SQL)
    except errors.RemoteError as error:
        if error.sqlstate == "55P03":
            return None
        raise
    return _from_parts(parts) if texts.PRINTED.complete(parts) else None


async def _parts_of(connection: client.PgConnection, sql: str) -> dict[str, Any]:
    result = (await connection.query(sql))[-1]
    return _parts((_text(row[0]), _text(row[1])) for row in result.rows)


def load_sync(connection: psycopg.Connection[Any]) -> snapshots.Snapshot:
    """The same over psycopg, for workers and tools."""
    return from_rows(connection.execute(_LOAD_SQL).fetchall())


def nodes_sync(connection: psycopg.Connection[Any]) -> tuple[snapshots.Node, ...]:
    """The nodes alone, over psycopg."""
    rows = connection.execute(_NODES_SQL).fetchall()
    return tuple(snapshots.Node(*row) for row in rows)


def gateway_token(secret: str, pid: int, statement: str) -> str:
    """What proves to `_gateway_execute` that the gateway made `statement` for the backend `pid`."""
    return hashlib.sha256(f"{secret}:{pid}:{statement}".encode()).hexdigest()


def from_rows(rows: Iterable[tuple[str | None, str | None]]) -> snapshots.Snapshot:
    """A snapshot from the rows of `orochi._snapshot()`."""
    return _from_parts(_parts(rows))


def _parts(rows: Iterable[tuple[str | None, str | None]]) -> dict[str, Any]:
    return {str(kind): json.loads(data) if data else [] for kind, data in rows}


def _from_parts(parts: dict[str, Any]) -> snapshots.Snapshot:
    shards = _shards(parts)
    tables = {}
    for item in parts["tables"]:
        table = _table(item, tuple(shards.get(item["oid"], ())))
        tables[table.oid] = table
    return snapshots.Snapshot(
        version=int(parts["version"] or 0),
        definitions=int(parts.get("definitions") or 0),
        tables=tables,
        names={(table.schema, table.name): oid for oid, table in tables.items()},
        nodes={ids.NodeId(item[0]): snapshots.Node(*item) for item in parts["nodes"]},
        views={
            (schema, name): snapshots.View(schema, name, definition, tuple(columns or ()))
            for schema, name, definition, columns, *_ in parts["views"]
            if definition is not None  # else it is gone, though an old MVCC snapshot may still have it
        },
        shadows=frozenset((schema, name) for schema, name in parts.get("shadows", ())),
        aggregates=tuple(_aggregate(item) for item in parts.get("aggregates", ())),
        changes=frozenset(parts["changes"]) if "changes" in parts else None,
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _shards(parts: dict[str, Any]) -> dict[int, list[snapshots.Shard]]:
    """Shards by table, in order of their index, with their chunks and stripes."""
    stripes: dict[int, list[snapshots.Stripe]] = collections.defaultdict(list)
    for stripe_id, chunk_id, path, row_count, size_bytes, low, high, bounds in parts["stripes"]:
        times = None if low is None or high is None else (low, high)
        known = tuple(None if None in pair else tuple(pair) for pair in bounds or ())
        stripe = snapshots.Stripe(ids.StripeId(stripe_id), path, row_count, size_bytes, times, known)
        stripes[chunk_id].append(stripe)
    chunks: dict[int, list[snapshots.Chunk]] = collections.defaultdict(list)
    for chunk_id, shard_id, start, end, generation, tier in parts["chunks"]:
        chunks[shard_id].append(
            snapshots.Chunk(
                chunk_id=ids.ChunkId(chunk_id),
                shard_id=ids.ShardId(shard_id),
                range_start=start,
                range_end=end if end < _MAX64 else 2**63,  # kept as the largest bigint
                generation=generation,
                tier=tier,
                stripes=tuple(stripes.get(chunk_id, ())),
            )
        )
    found: dict[int, list[snapshots.Shard]] = collections.defaultdict(list)
    for shard_id, table_oid, index, hash_min, hash_max, layout, node_ids, rows, size in parts["shards"]:
        found[table_oid].append(
            snapshots.Shard(
                shard_id=ids.ShardId(shard_id),
                index=index,
                hash_min=hash_min,
                hash_max=hash_max,
                node_ids=tuple(node_ids),
                layout=layout,
                chunks=tuple(chunks.get(shard_id, ())),
                row_count=rows,
                size_bytes=size,
            )
        )
    return found


def _table(item: dict[str, Any], shards: tuple[snapshots.Shard, ...]) -> snapshots.Table:
    distribution, dimension = item["distribution"], item["dimension"]
    colocation = item["colocation"]
    return snapshots.Table(
        oid=ids.TableId(item["oid"]),
        schema=item["schema"],
        name=item["name"],
        kind=snapshots.TableKind(item["kind"]),
        columns=tuple(_column(column) for column in item["columns"] or ()),
        shards=shards,
        colocation_id=None if colocation is None else ids.ColocationId(colocation),
        distribution_column=distribution[0] if distribution else None,
        distribution_oid=distribution[1] if distribution else None,
        dimension=snapshots.TimeDimension(*dimension) if dimension else None,
        further=tuple(snapshots.TimeDimension(*further) for further in item.get("further") or ()),
        unique_keys=tuple(tuple(key) for key in item["unique"] or ()),
        storage_type=item["storage"],
        owner=item["owner"],
        segmentby=tuple(item["segmentby"]),
        orderby=tuple(item["orderby"]),
        indexes=tuple(item["indexes"] or ()),
        referenced_by=tuple(
            snapshots.Referencing(ids.TableId(oid), tuple(columns), tuple(referenced), acts)
            for oid, columns, referenced, acts in item.get("referenced_by") or ()
        ),
    )


def _aggregate(item: dict[str, Any]) -> snapshots.Aggregate:
    bucket = {**item["bucket"], "others": tuple(item["bucket"]["others"])}
    return snapshots.Aggregate(
        aggregate_id=item["id"],
        view_oid=item["view_oid"],
        view=(item["view"][0], item["view"][1]),
        query=(item["query"][0], item["query"][1]),
        table_oid=ids.TableId(item["table"]),
        materialization_oid=ids.TableId(item["materialization"]),
        materialized_only=item["materialized_only"],
        bucket=snapshots.Bucket(**bucket),
    )


def _column(item: list[Any]) -> snapshots.Column:
    (
        name,
        attnum,
        type_oid,
        base_oid,
        typmod,
        type_name,
        not_null,
        collation,
        default,
        volatile,
        identity,
        generated,
        *_,
    ) = item
    return snapshots.Column(
        name=name,
        attnum=attnum,
        type_oid=type_oid,
        base_oid=base_oid,
        typmod=typmod,
        type_name=type_name,
        not_null=not_null,
        collation=collation,
        default_sql=default,
        default_is_volatile=volatile,
        identity=identity,
        generated=generated,
    )
