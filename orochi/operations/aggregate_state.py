"""Which buckets of continuous aggregates a statement may take as they are materialised.

Read before the statement reads anything else. A bucket that no write has touched by then is, as it is
materialised now or later, at least as new as the moment of this look: a refresh lets its buckets
count as untouched only after they are committed on every node. All others are aggregated live. So
an answer never lacks what was committed before the statement began. See docs/adr/0017.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import weakref
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence

from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import aggregate_log
from orochi.pgwire import messages
from orochi.planner import continuous, names, parse, quoting
from orochi.planner import tree as trees
from orochi.timeseries import buckets

Key = tuple[str, str]
Views = Mapping[Key, snapshots.View]
_now: weakref.WeakKeyDictionary[context.Session, Views] = weakref.WeakKeyDictionary()
#: Catalogs with aggregates defined anew: while nothing changes it is the same object, and plans made from it hold.
_KEPT = 64
_READERS = 5_000
_readers: dict[tuple[str, tuple[str, ...], frozenset[str]], tuple[snapshots.Snapshot, bool]] = {}
_made: collections.OrderedDict[tuple[int, Hashable], tuple[snapshots.Snapshot, snapshots.Snapshot]] = (
    collections.OrderedDict()
)


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """What of an aggregate is not materialised.

    Attributes:
        new: buckets that never were; `dropped` those whose rows drop_chunks() took away.
        touched: buckets that writes have touched, whole ranges too.
    """

    new: buckets.Ranges
    dropped: buckets.Ranges
    touched: buckets.Ranges

    @property
    def live(self) -> buckets.Ranges:
        """What has to be aggregated from the rows; history without rows stays what it was."""
        return buckets.united((*self.new, *buckets.without(self.touched, self.dropped)))


def snapshot(session: context.Session) -> snapshots.Snapshot:
    """The session's catalog, aggregates defined as the statement under way is to read them."""
    found, views = session.snapshot(), _now.get(session)
    if not views:
        return found
    key = id(found), tuple(sorted((name, view.definition) for name, view in views.items()))
    kept = _made.get(key)
    if kept is None or kept[0] is not found:
        kept = found, dataclasses.replace(found, views={**found.views, **views})
        _made[key] = kept
        while len(_made) > _KEPT:
            _made.popitem(last=False)
    return kept[1]


@contextlib.asynccontextmanager
async def looked_up(
    session: context.Session, tree: trees.Node, *, of_rows: bool = False
) -> AsyncIterator[None]:
    """While the statement runs, aggregates that it reads are what is materialised and live parts.

    With `of_rows` they are what the rows give: history whose rows were dropped is left out.

    Where all statements of a block see one state of the data, they are live altogether: buckets and rows
    may lie on nodes whose snapshots are of different moments.
    """
    found = session.snapshot()
    wanted = reached(tree, found, session.search_path, session.temp_tables) if found.aggregates else []
    if session.transaction.steady or session.transaction.wants_snapshot:
        wanted = []
    before = _now.get(session)
    if not wanted and not before:
        yield
        return
    _now[session] = await _definitions(session, wanted, of_rows=of_rows) if wanted else {}
    try:
        yield
    finally:
        if before:
            _now[session] = before
        else:
            _now.pop(session, None)


def is_read(session: context.Session, sql: str) -> bool:
    """Whether a statement reads an aggregate in real time."""
    found = session.snapshot()
    if not found.aggregates:
        return False
    key = sql, session.search_path, session.temp_tables
    known = _readers.get(key)
    if known is None or known[0] is not found:
        trees_of = [item.tree for item in parse.parse(sql)]
        reads = any(reached(tree, found, session.search_path, session.temp_tables) for tree in trees_of)
        if len(_readers) > _READERS:
            _readers.clear()
        known = _readers[key] = found, reads
    return known[1]


def reached(
    tree: trees.Node, found: snapshots.Snapshot, path: tuple[str, ...], temp: frozenset[str]
) -> list[snapshots.Aggregate]:
    """The aggregates read in real time by a statement, through views and other aggregates too."""
    by_query = {item.query: item for item in found.aggregates}
    seen: set[Key] = set()
    pending = [tree]
    while pending:
        for node in trees.walk(pending.pop()):
            if not isinstance(node, trees.ast.RangeVar):
                continue
            view = names.find_relation(found, path, temp, node.schemaname, node.relname)
            if isinstance(view, snapshots.View) and (view.schema, view.name) not in seen:
                seen.add((view.schema, view.name))
                pending.append(parse.parse_one(view.definition).tree)
    return [by_query[key] for key in sorted(seen) if key in by_query]


async def _definitions(
    session: context.Session, aggregates: Sequence[snapshots.Aggregate], *, of_rows: bool
) -> dict[Key, snapshots.View]:
    found = session.snapshot()
    states = await read(session, aggregates)
    result = {}
    for item in aggregates:
        view = found.views[item.query]
        state = states[item.aggregate_id]
        wanted = buckets.united((*state.live, *state.dropped)) if of_rows else state.live
        live = buckets.coarser(buckets.on_grid(item.bucket, wanted))
        if live != buckets.EVERYTHING:
            definition = _definition(found, item, view, live)
            result[item.query] = dataclasses.replace(view, definition=definition)
            result[item.view] = dataclasses.replace(found.views[item.view], definition=definition)
    return result


def _definition(
    found: snapshots.Snapshot, item: snapshots.Aggregate, view: snapshots.View, live: buckets.Ranges
) -> str:
    table = found.current(item.materialization_oid)
    columns = ", ".join(quoting.identifier(name) for name in view.columns)
    finished = buckets.inside(
        f"{continuous.FINISHED}.{quoting.identifier(item.bucket.column)}",
        item.bucket.type_oid,
        buckets.without(buckets.EVERYTHING, live),
    )
    query = continuous.template(view.definition)
    rows = query.where(buckets.rows_of(item.bucket, query.time, query.start, live))
    return (
        f"SELECT {columns} FROM {quoting.relation(table.schema, table.name)} AS {continuous.FINISHED}"
        f" WHERE {finished} UNION ALL ({rows})"
    )


async def materialized(session: context.Session, aggregate: snapshots.Aggregate) -> State:
    """What of an aggregate was never materialised, or dropped; what writes have touched is not asked for."""
    async with session.runtime.service() as connection:
        return unread(aggregate, await connection.fetch(catalog_sql(str(aggregate.aggregate_id))))


def unread(aggregate: snapshots.Aggregate, answer: messages.QueryResult) -> State:
    """The same by what `catalog_sql` gave."""
    return _state(aggregate.aggregate_id, _spans(answer), ())


async def read(session: context.Session, aggregates: Sequence[snapshots.Aggregate]) -> dict[int, State]:
    """The state of each aggregate, by its id."""
    found = session.snapshot()
    nodes = {node for item in aggregates for node in aggregate_log.nodes_of(found, item)}
    listed = ", ".join(str(item.aggregate_id) for item in aggregates)
    catalog, parts = await asyncio.gather(
        _catalog(session, listed),
        asyncio.gather(*(_entries(session, node_id, listed) for node_id in sorted(nodes))),
    )
    touched = [item for part in parts for item in part]
    return {item.aggregate_id: _state(item.aggregate_id, catalog, touched) for item in aggregates}


def _state(
    key: int, catalog: Sequence[tuple[int, int, int, str]], touched: Sequence[tuple[int, int, int]]
) -> State:
    rows = [(low, high, reason) for number, low, high, reason in catalog if number == key]
    new = buckets.united((low, high) for low, high, reason in rows if reason == "new")
    return State(
        # none at all: the aggregate was made by a transaction that is still open
        new=new or buckets.EVERYTHING,
        dropped=buckets.united((low, high) for low, high, reason in rows if reason == "dropped"),
        touched=buckets.united((low, high) for number, low, high in touched if number == key),
    )


async def _catalog(session: context.Session, listed: str) -> list[tuple[int, int, int, str]]:
    async with session.runtime.service() as connection:
        return _spans(await connection.fetch(catalog_sql(listed)))


def catalog_sql(listed: str) -> str:
    """What the catalog says of aggregates, their ids as SQL lists them; anybody may ask."""
    return (
        "SELECT aggregate_id::text, lowest::text, greatest::text, reason"
        f" FROM orochi.orochi_invalidation_log WHERE aggregate_id IN ({listed})"
    )


def _spans(answer: messages.QueryResult) -> list[tuple[int, int, int, str]]:
    return [
        (int(row[0] or b"0"), int(row[1] or b"0"), int(row[2] or b"0"), (row[3] or b"").decode())
        for row in answer.rows
    ]


async def _entries(session: context.Session, node_id: int, listed: str) -> list[tuple[int, int, int]]:
    sql = (
        "SELECT DISTINCT aggregate_id::text, lowest::text, greatest::text FROM orochi_data.aggregate_log"
        f" WHERE aggregate_id IN ({listed})"
    )
    if node_id in session.transaction.participants:
        # with what the transaction itself has written
        answer = await (await session.transaction.node(node_id, write=False)).fetch(sql)
    else:
        async with session.runtime.nodes.lease(node_id, session.settings) as connection:
            answer = await connection.fetch(sql)
    return [(int(row[0] or b"0"), int(row[1] or b"0"), int(row[2] or b"0")) for row in answer.rows]
