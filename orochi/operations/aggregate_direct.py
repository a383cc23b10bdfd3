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
import re
from collections.abc import Iterable, Mapping, Sequence

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.catalog import twophase
from orochi.executor import context, small
from orochi.operations import aggregate_pending, aggregate_plans, redistribute, routing, writes
from orochi.pgwire import client, messages
from orochi.pgwire import reply as replies
from orochi.planner import quoting

#: Values of a shard's rows that go along with the statements; more are copied.
_MOST_PARAMETERS = 500
#: Milliseconds for a statement of a node that is given queries.
_PATIENCE_MS = 500
_CANCELED = "57014"

#: Positions of shards, by node.
Places = Mapping[int, Sequence[int]]
#: Schemas of shards and of chunks on nodes.
_PLACE = re.compile(r"orochi_([sc])(\d+)_\d+")


@dataclasses.dataclass(frozen=True, slots=True)
class Replacement:
    """What is to be done on the nodes.

    Attributes:
        table: of the finished buckets; `columns` are those of the rows.
        places: the shards to write.
        first: a statement for each node to begin with.
        held: the condition of the rows to be replaced.
        last: statements to end with, by node.
        rows: tuples of binary COPY, by the position of their shard.
        queries: SELECTs that give further rows on the shard's node, by its position.
        repeats: what a crash of a node loses of it is done again for what that node still has in its log.
    """

    table: snapshots.Table
    columns: Sequence[str]
    places: Places
    first: str
    held: str
    last: Mapping[int, str]
    rows: Mapping[int, Sequence[bytes]] = dataclasses.field(default_factory=dict)
    queries: Mapping[int, Sequence[str]] = dataclasses.field(default_factory=dict)
    repeats: bool = False


class TooLongError(Exception):
    """Queries take so long that tasks are to run them; nothing has changed."""


def places(
    snapshot: snapshots.Snapshot,
    aggregate: snapshots.Aggregate,
    points: Sequence[int],
    touched: Iterable[aggregate_pending.Entry],
) -> Places | None:
    """The shards of finished buckets to write; None if that takes more than plain statements on heap rows.

    Args:
        snapshot: the catalog.
        aggregate: whose buckets `points`, their starts in raw units, are.
        points: not empty.
        touched: what logs say of them.
    """
    table, source = snapshot.current(aggregate.materialization_oid), snapshot.current(aggregate.table_oid)
    found: dict[int, list[int]] = collections.defaultdict(list)
    for position, shard in enumerate(table.shards):
        chunks = routing.chunks_at(shard, points)
        there = all(any(chunk.range_start <= at < chunk.range_end for chunk in chunks) for at in points)
        if len(shard.node_ids) != 1 or not there or any(chunk.stripes for chunk in chunks):
            return None
        found[shard.node_id].append(position)
    if not is_beside(table, source):
        return found
    # a group's rows are in the shard beside its own, and where none was touched it is as it was
    positions = _positions(source, points)
    written: dict[int, set[int]] = collections.defaultdict(set)
    for entry in touched:
        here = found[entry.node_id]
        for place in entry.places:
            at = positions.get(_kind_and_number(place))
            written[entry.node_id].update([at] if at is not None and at in here else here)
    return {node_id: sorted(shards) for node_id, shards in written.items()}


def _positions(source: snapshots.Table, points: Sequence[int]) -> dict[tuple[str, int] | None, int]:
    """The position of the shard that a place of the log means, of those that writes of these buckets may name."""
    found: dict[tuple[str, int] | None, int] = {}
    for position, shard in enumerate(source.shards):
        found["s", shard.shard_id] = position
        found.update({("c", chunk.chunk_id): position for chunk in routing.chunks_at(shard, points)})
    return found


@functools.lru_cache(maxsize=4096)
def _kind_and_number(place: str) -> tuple[str, int] | None:
    """Whether the schema is a shard's or a chunk's, and its number; None if neither."""
    named = _PLACE.fullmatch(place)
    return None if named is None else (named[1], int(named[2]))


def is_beside(table: snapshots.Table, source: snapshots.Table) -> bool:
    """Whether each group is in the shard beside that of its rows."""
    alone = len(table.shards) == len(source.shards) == 1
    if table.distribution_column is None and not alone:
        return False
    return _places_of(table) == _places_of(source)


def _places_of(table: snapshots.Table) -> list[tuple[int, int, int]]:
    return [(shard.hash_min, shard.hash_max, shard.node_id) for shard in table.shards]


def queries(
    session: context.Session, source: snapshots.Table, known: Sequence[aggregate_plans.Known]
) -> dict[int, list[str]] | None:
    """What gives the rows of buckets on the nodes of the shards, by position; None if something else is needed.

    Args:
        session: a client's.
        source: the hypertable, whose shards have groups beside them.
        known: the buckets' plans, if they have any.
    """
    if not known or not small.limit_of(session):
        return None
    positions = {int(shard.shard_id): position for position, shard in enumerate(source.shards)}
    result: dict[int, list[str]] = collections.defaultdict(list)
    for item in known:
        found = item.queries(session.snapshot())
        if found is None:
            return None
        for shard_id, sql in found:
            result[positions[shard_id]].append(sql)
    return result


async def replace(session: context.Session, wanted: Replacement) -> int:
    """Replace the rows; how many were written. The session's own transaction takes no part.

    Raises:
        OrochiError: a node refused or is gone. It is as it was, others may be done.
        TooLongError: with `queries` only.
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
    first, inserts = _first(wanted, relations.values()), _selected(wanted, relations)
    requests = [messages.query("; ".join([*first, *inserts]))]
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
    count = sum(len(wanted.rows.get(position, ())) for position in relations)
    if copied:
        await _sent(connection, requests)
        for relation, rows in copied:
            await redistribute.copy_in(connection, relation, wanted.columns, [b"".join(rows)])
        await _sent(connection, end)
        return count
    try:
        begun, *_ = await _sent(connection, requests + end)
    except errors.OrochiError as error:
        if inserts and error.sqlstate == _CANCELED and not connection.cancelled:
            raise TooLongError from error
        raise
    return count + sum(writes.affected(result.tag) for result in begun.results[len(first) :])


def _first(wanted: Replacement, relations: Iterable[str]) -> list[str]:
    settings = {}
    if wanted.repeats:
        settings["synchronous_commit"] = "off"
    if wanted.queries:
        settings["statement_timeout"] = str(_PATIENCE_MS)
    return [
        "BEGIN ISOLATION LEVEL READ COMMITTED",
        wanted.first,
        *(f"SET LOCAL {name} = {value}" for name, value in settings.items()),
        *(f"DELETE FROM {relation} WHERE {wanted.held}" for relation in relations),
    ]


def _selected(wanted: Replacement, relations: Mapping[int, str]) -> list[str]:
    listed = ", ".join(map(quoting.identifier, wanted.columns))
    return [
        f"INSERT INTO {relation} ({listed}) {query}"
        for position, relation in relations.items()
        for query in wanted.queries.get(position, ())
    ]


async def _sent(connection: client.PgConnection, requests: Sequence[bytes]) -> list[replies.Reply]:
    pending = [(request, replies.Reply()) for request in requests]
    connection.send_all(pending)
    for _, reply in pending:
        await reply.done
        reply.check()
    return [reply for _, reply in pending]


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
