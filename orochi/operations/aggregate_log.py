"""What writes the invalidation log: triggers of the shards whose rows continuous aggregates read.

They run on the nodes in the transaction of the write, by whatever path it came, and enter which
buckets below the threshold it touched. Rows that only move (recalled from stripes) touch none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orochi.catalog import definition as definitions
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import shells
from orochi.planner import continuous, quoting
from orochi.timeseries import buckets, invalidation, ranges

#: While it is on in a node's session, rows move and none changes.
MOVING = "orochi.moving_rows"
_EVENTS = {
    "insert": "REFERENCING NEW TABLE AS added",
    "update": "REFERENCING OLD TABLE AS removed NEW TABLE AS added",
    "delete": "REFERENCING OLD TABLE AS removed",
    "truncate": "",
}
_SETS = {"insert": ("added",), "update": ("removed", "added"), "delete": ("removed",)}


def nodes_of(snapshot: snapshots.Snapshot, aggregate: snapshots.Aggregate) -> frozenset[int]:
    """The nodes whose rows the aggregate's query reads, and so those with parts of its log."""
    found = [snapshot.current(aggregate.table_oid)]
    found += [table for oid, table in snapshot.tables.items() if oid in aggregate.bucket.others]
    return frozenset(node_id for table in found for shard in table.shards for node_id in shard.node_ids)


async def install(session: context.Session, aggregate_id: int, oid: int, bucket: snapshots.Bucket) -> None:
    """Make the triggers of an aggregate over the hypertable `oid`, in the transaction.

    The layouts of all tables concerned are locked by the caller.
    """
    snapshot = session.snapshot()
    tables = [table for key, table in snapshot.tables.items() if key == oid or key in bucket.others]
    nodes = {node_id for table in tables for shard in table.shards for node_id in shard.node_ids}
    work: dict[int, list[str]] = {
        int(node_id): list(_functions(aggregate_id, bucket)) for node_id in sorted(nodes)
    }
    for table in tables:
        which = "" if table.oid == oid else "all_"
        for shard in table.shards:
            for node_id in shard.node_ids:
                relation = f"{quoting.identifier(shard.schema)}.{quoting.identifier(table.name)}"
                work[node_id].extend(_triggers(aggregate_id, relation, which))
                work[node_id].append(follow_sql(shard.schema, table.name))
    await shells.run_on_nodes(session, work)


def follow_sql(schema: str, name: str) -> str:
    """A node's statement: chunks of a shard, just made or as they are, log inserts that name them as the shard does."""
    relation = f"{quoting.identifier(schema)}.{quoting.identifier(name)}"
    return f"SELECT orochi_data.follow_triggers({quoting.text(relation)}::pg_catalog.regclass)"


async def forget_gone(session: context.Session, before: snapshots.Snapshot) -> None:
    """Remove from nodes what was of aggregates that the transaction has dropped, knowing or not."""
    kept = {item.aggregate_id for item in session.snapshot().aggregates}
    gone = [item.aggregate_id for item in before.aggregates if item.aggregate_id not in kept]
    if gone:
        await remove(session, gone)


async def remove(session: context.Session, aggregate_ids: list[int]) -> None:
    """Remove the triggers and entries of aggregates that are gone, from all nodes."""
    statements = [sql for aggregate_id in aggregate_ids for sql in invalidation.removal(aggregate_id)]
    nodes = [node.node_id for node in session.snapshot().data_nodes]
    await shells.run_on_nodes(session, dict.fromkeys(nodes, statements))


async def dropped(session: context.Session, oid: int, spans: Sequence[buckets.Range]) -> None:
    """Note that chunks of a hypertable, half-open spans of its time, are going with all their rows."""
    rows = []
    for item in session.snapshot().aggregates:
        if item.table_oid == oid:
            found = buckets.united(buckets.touching(item.bucket, start, end - 1) for start, end in spans)
            rows += [f"({item.aggregate_id}, {low}, {high}, 'dropped')" for low, high in found]
    if rows:
        await session.catalog_execute(
            "INSERT INTO orochi.orochi_invalidation_log (aggregate_id, lowest, greatest, reason)"
            f" VALUES {', '.join(rows)}"
        )


def _functions(aggregate_id: int, bucket: snapshots.Bucket) -> Iterator[str]:
    name = invalidation.threshold(aggregate_id)
    yield f"CREATE SEQUENCE {name} MINVALUE {-(2**63)} START {-(2**63)}"
    time = quoting.identifier(bucket.time)
    moving = f"pg_catalog.current_setting('{MOVING}', true) = 'on'"
    for event in _EVENTS:
        if event == "truncate":
            yield _function(f"{name}_{event}", f"PERFORM orochi_data.log_all({aggregate_id});")
            yield _function(f"{name}_all_{event}", f"PERFORM orochi_data.log_all({aggregate_id});")
            continue
        touched = " UNION ".join(
            f"SELECT {bucket.expression} AS start FROM (SELECT {time} AS {continuous.TIME} FROM {rows}) AS rows"
            for rows in _SETS[event]
        )
        entries = (
            f"IF {moving} THEN RETURN NULL; END IF;"
            " INSERT INTO orochi_data.aggregate_log (aggregate_id, lowest, greatest, place)"
            f" SELECT {aggregate_id}, raw, raw, TG_TABLE_SCHEMA FROM (SELECT DISTINCT {ranges.raw_sql(bucket.type_oid, 'start')} AS raw"
            f" FROM ({touched}) AS touched) AS buckets WHERE raw < (SELECT last_value FROM {name});"
        )
        yield _function(f"{name}_{event}", entries)
        any_row = " OR ".join(f"EXISTS (SELECT FROM {rows})" for rows in _SETS[event])
        yield _function(
            f"{name}_all_{event}",
            f"IF {moving} THEN RETURN NULL; END IF;"
            f" IF {any_row} THEN PERFORM orochi_data.log_all({aggregate_id}); END IF;",
        )


def _function(name: str, body: str) -> str:
    text = definitions.quote_literal(f"BEGIN {body} RETURN NULL; END")
    return f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS {text}"


def _triggers(aggregate_id: int, relation: str, which: str) -> Iterator[str]:
    for event, transition in _EVENTS.items():
        yield (
            f"CREATE TRIGGER orochi_aggregate_{aggregate_id}_{event} AFTER {event.upper()} ON {relation}"
            f" {transition} FOR EACH STATEMENT EXECUTE FUNCTION {invalidation.threshold(aggregate_id)}_{which}{event}()"
        )
