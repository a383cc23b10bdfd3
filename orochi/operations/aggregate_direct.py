"""A few buckets of a continuous aggregate replaced at once: on each node by one message, in a transaction of its own.

A group lies in one shard, and a bucket counts as live until all that touched it has left the log. So what one
node replaces does not have to become visible together with what another does: where the log is on the same node
its entries go in the same transaction, else after all of them. Only snapshots of all nodes are kept out while
several nodes commit.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence

from orochi.catalog import snapshot as snapshots
from orochi.catalog import twophase
from orochi.executor import context
from orochi.operations import redistribute, routing, writes
from orochi.pgwire import client, messages
from orochi.pgwire import reply as replies
from orochi.planner import quoting

#: Values of a shard's rows that go along with the statements; more are copied.
_MOST_PARAMETERS = 500

#: Positions of shards, by node.
Places = Mapping[int, Sequence[int]]


@dataclasses.dataclass(frozen=True, slots=True)
class Replacement:
    """What is to be done on the nodes.

    Attributes:
        table: of the finished buckets; `columns` are those of the rows.
        places: the shards to write.
        rows: tuples of binary COPY, by the position of their shard.
        first: a statement for each node to begin with.
        held: the condition of the rows to be replaced.
        last: statements to end with, by node.
    """

    table: snapshots.Table
    columns: Sequence[str]
    places: Places
    rows: Mapping[int, Sequence[bytes]]
    first: str
    held: str
    last: Mapping[int, str]


def places(
    snapshot: snapshots.Snapshot,
    aggregate: snapshots.Aggregate,
    points: Sequence[int],
    touched: Iterable[int],
) -> Places | None:
    """The shards of finished buckets to write; None if that takes more than plain statements on heap rows.

    Args:
        snapshot: the catalog.
        aggregate: whose buckets `points`, their starts in raw units, are.
        points: not empty.
        touched: the nodes whose logs name one of them.
    """
    table, source = snapshot.tables[aggregate.materialization_oid], snapshot.tables[aggregate.table_oid]
    found: dict[int, list[int]] = collections.defaultdict(list)
    for position, shard in enumerate(table.shards):
        chunks = routing.chunks_at(shard, points)
        there = all(any(chunk.range_start <= at < chunk.range_end for chunk in chunks) for at in points)
        if len(shard.node_ids) != 1 or not there or any(chunk.stripes for chunk in chunks):
            return None
        found[shard.node_id].append(position)
    if not is_beside(table, source):
        return found
    # a group's rows are in its own shard, and those of other nodes are as they were
    return {node_id: found[node_id] for node_id in touched if node_id in found}


def is_beside(table: snapshots.Table, source: snapshots.Table) -> bool:
    """Whether each group is on the node that its rows are on."""
    return table.distribution_column is not None and _places_of(table) == _places_of(source)


def _places_of(table: snapshots.Table) -> list[tuple[int, int, int]]:
    return [(shard.hash_min, shard.hash_max, shard.node_id) for shard in table.shards]


async def replace(session: context.Session, wanted: Replacement) -> int:
    """Replace the rows; how many were written. The session's own transaction takes no part.

    Raises:
        OrochiError: a node refused or is gone. It is as it was, others may be done.
    """
    nodes, beside = session.runtime.nodes, session.transaction.beside
    async with contextlib.AsyncExitStack() as stack:
        connections: dict[int, client.PgConnection] = {}
        for node_id in wanted.places:
            connection = await stack.enter_async_context(nodes.lease(node_id, session.settings))
            connections[node_id] = connection
            beside.add(connection)
            stack.callback(beside.discard, connection)
        alone = len(connections) == 1
        counts = await writes.per_node(
            {
                node_id: [functools.partial(_send, connection, node_id, wanted, commit=alone)]
                for node_id, connection in connections.items()
            }
        )
        if not alone:
            await _commit(session, connections)
    return sum(count for found in counts.values() for count in found)


async def _commit(session: context.Session, connections: Mapping[int, client.PgConnection]) -> None:
    await session.coordinator.query(twophase.LOCK_COMMITS_SQL)
    try:
        await writes.per_node(
            {
                node_id: [functools.partial(connection.query, "COMMIT")]
                for node_id, connection in connections.items()
            }
        )
    finally:
        if not session.coordinator.closed:
            await session.coordinator.query(twophase.UNLOCK_COMMITS_SQL)


async def _send(connection: client.PgConnection, node_id: int, wanted: Replacement, *, commit: bool) -> int:
    """All of a node's statements in one go; how many rows were written."""
    relations = {
        position: routing.relation(wanted.table, wanted.table.shards[position])
        for position in wanted.places[node_id]
    }
    removals = (f"DELETE FROM {relation} WHERE {wanted.held}" for relation in relations.values())
    requests = [messages.query("; ".join(("BEGIN ISOLATION LEVEL READ COMMITTED", wanted.first, *removals)))]
    copied = []
    for position, relation in relations.items():
        rows = wanted.rows.get(position, ())
        if len(rows) * len(wanted.columns) > _MOST_PARAMETERS:
            copied.append((relation, rows))
        elif rows:
            requests.append(_insert(relation, wanted.columns, rows))
    last = [wanted.last[node_id]] if node_id in wanted.last else []
    if commit:
        last.append("COMMIT")
    end = [messages.query("; ".join(last))] if last else []
    if copied:
        await _sent(connection, requests)
        for relation, rows in copied:
            await redistribute.copy_in(connection, relation, wanted.columns, [b"".join(rows)])
        await _sent(connection, end)
    else:
        await _sent(connection, requests + end)
    return sum(len(wanted.rows.get(position, ())) for position in relations)


async def _sent(connection: client.PgConnection, requests: Sequence[bytes]) -> None:
    pending = [(request, replies.Reply()) for request in requests]
    connection.send_all(pending)
    for _, reply in pending:
        await reply.done
        reply.check()


def _insert(relation: str, columns: Sequence[str], rows: Sequence[bytes]) -> bytes:
    """An INSERT of tuples of binary COPY: their values are those of binary parameters."""
    listed, width = ", ".join(map(quoting.identifier, columns)), len(columns)
    values = [value for row in rows for value in messages.parse_data_row(row)]
    numbered = (
        ", ".join(f"${number}" for number in range(at + 1, at + width + 1))
        for at in range(0, len(values), width)
    )
    sql = f"INSERT INTO {relation} ({listed}) VALUES {', '.join(f'({row})' for row in numbered)}"
    return b"".join(
        (
            messages.parse(b"", messages.encode(sql)),
            messages.bind(b"", b"", (1,), values, ()),
            messages.EXECUTE_ALL,
            messages.SYNC,
        )
    )
