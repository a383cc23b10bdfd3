"""Fragments so small that a task would cost more than the work: the gateway runs them on node connections itself.

What decides is how much the fragments read: bytes of heap, as the nodes tell them, and rows of
earlier stages. The answers are those of a task: each node's fragments see one snapshot per
statement, errors read alike, a cancel reaches the servers. What turns out larger than thought, or
meets a connection that is gone, is left to tasks: nothing has been handed on by then.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from orochi import errors
from orochi import settings as process_settings
from orochi.engine import placeholders
from orochi.executor import context, datarows, failures, reduce, transport
from orochi.pgwire import client, messages
from orochi.pgwire import reply as replies
from orochi.planner import fragment as plan_fragment

SETTING = "orochi.small_query_bytes"
#: A node that is going down or coming up, or cut the connection: a task waits for it, and tries again.
_GONE = frozenset({"57P01", "57P02", "57P03", "08006"})
_CANCELED = "57014"
#: How long a relation's size is taken for granted, in seconds; a large one does not shrink soon.
_SMALL_SECONDS, _LARGE_SECONDS = 1.0, 10.0
_SIZES_KEPT = 20_000
#: Rows of stages at most; fewer where they are looked up one at a time, as here they have no index.
_INPUT_ROWS, _LOOKED_UP_ROWS = 2_000, 200
_SIZES = """
SELECT coalesce((SELECT pg_catalog.sum(pg_catalog.pg_relation_size(relid)) FROM (
    SELECT relid::oid FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass(name))
    UNION SELECT pg_catalog.to_regclass(name)::oid) AS parts(relid)), 0)
FROM pg_catalog.unnest($1::pg_catalog.text[]) WITH ORDINALITY AS names(name, number) ORDER BY number
"""


_raised: contextvars.ContextVar[int] = contextvars.ContextVar("_raised", default=0)
_patience: contextvars.ContextVar[int] = contextvars.ContextVar("_patience", default=0)


class _NotSmall(Exception):
    """Leave it to tasks after all."""


class _Sizes:
    """Bytes of heap relations, as nodes told them a moment ago."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], tuple[int, float]] = {}

    async def total(self, session: context.Session, wanted: Mapping[int, Iterable[str]], limit: int) -> int:
        """The bytes of these relations, by node, together; more than `limit` once that is sure."""
        now, found = time.monotonic(), 0
        missing: dict[int, list[str]] = {}
        for node_id, relations in wanted.items():
            for relation in relations:
                size, expires = self._known.get((node_id, relation), (0, 0.0))
                if expires > now:
                    found += size
                else:
                    missing.setdefault(node_id, []).append(relation)
        if missing and found <= limit:
            asked = (self._ask(session, node_id, names, limit) for node_id, names in missing.items())
            found += sum(await asyncio.gather(*asked))
        return found

    async def _ask(self, session: context.Session, node_id: int, relations: list[str], limit: int) -> int:
        listed = ",".join('"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"' for name in relations)
        async with session.runtime.nodes.lease(node_id, session.settings) as connection:
            result = await connection.fetch(_SIZES, [f"{{{listed}}}".encode()], (0,))
        if len(self._known) > _SIZES_KEPT:
            self._known.clear()
        now, sizes = time.monotonic(), [int(row[0] or b"0") for row in result.rows]
        for relation, size in zip(relations, sizes, strict=True):
            kept = _SMALL_SECONDS if size <= limit else _LARGE_SECONDS
            self._known[node_id, relation] = size, now + kept
        return sum(sizes)


_sizes = _Sizes()


def limit_of(session: context.Session) -> int:
    """Bytes that may be read without a task; 0 is none."""
    text = session.settings.get(SETTING, "")
    limit = int(text) if text.isdigit() else process_settings.get().small_query_bytes
    return max(limit, _raised.get()) if limit else 0


@contextlib.contextmanager
def raised(limit: int, patience: int = 0) -> Iterator[None]:
    """For the block, as much as `limit` bytes is small, unless nothing is to be.

    With `patience` nodes are not asked how much they would read: they have so many milliseconds for it.
    """
    token, other = _raised.set(limit), _patience.set(patience)
    try:
        yield
    finally:
        _raised.reset(token)
        _patience.reset(other)


def slots_of(session: context.Session) -> int:
    """Tasks that one query's fragments may make at a node at once: the session's `orochi.parallel_workers`."""
    text = session.settings.get("orochi.parallel_workers", "")
    return max(1, int(text)) if text.isdigit() else process_settings.get().parallel_workers


async def fits(session: context.Session, fragments: Sequence[plan_fragment.Fragment]) -> bool:
    """Whether the heap that the fragments read is small, and all that they read but for rows of stages."""
    limit = limit_of(session)
    scans = [(part.node_id, scan) for part in fragments for scan in part.scans]
    if not limit or any(part.snapshot or not part.sql for part in fragments):
        return False
    if any(scan.stripes for _, scan in scans):
        return False
    wanted: dict[int, dict[str, None]] = {}
    for node_id, scan in scans:
        if scan.input is None:
            relations = (scan.relation,) if scan.heap is None else scan.heap
            wanted.setdefault(node_id, {}).update(dict.fromkeys(relations))
    nodes = session.runtime.nodes
    if not all(nodes.has_room(part.node_id) for part in fragments):
        return False
    if _patience.get():
        return True
    try:
        return await _sizes.total(session, wanted, limit) <= limit
    except errors.OrochiError as error:
        if error.sqlstate == _CANCELED:
            raise
        return False  # a task will say what is wrong, if it still is


async def run(
    session: context.Session,
    fragments: Sequence[plan_fragment.Fragment],
    inputs: transport.Inputs,
    *,
    steady: bool = False,
) -> list[transport.FragmentResult] | None:
    """Every fragment's result, or None: they are not small, and tasks are to run them.

    `steady`: those of a node read one snapshot.
    """
    if not _brings_little(fragments, inputs) or not await fits(session, fragments):
        return None
    by_node: dict[int, list[plan_fragment.Fragment]] = collections.defaultdict(list)
    for part in fragments:
        by_node[part.node_id].append(part)
    asked = (_on_node(session, node_id, parts, inputs, steady) for node_id, parts in by_node.items())
    answers = await asyncio.gather(*asked, return_exceptions=True)
    failed = [answer for answer in answers if isinstance(answer, BaseException)]
    for error in failed:
        if isinstance(error, _NotSmall) or _is_gone(error):
            return None
    for error in failed:
        raise failures.of_node(error) if isinstance(error, errors.RemoteError) else error from error
    return [result for answer in answers if not isinstance(answer, BaseException) for result in answer]


def _is_gone(error: BaseException) -> bool:
    return isinstance(error, errors.OrochiError) and error.sqlstate in _GONE


def _brings_little(fragments: Sequence[plan_fragment.Fragment], inputs: transport.Inputs) -> bool:
    """Whether the rows of stages that the fragments read can go along with their SQL."""
    for part in fragments:
        for scan in part.scans:
            if scan.input is None:
                continue
            rows = sum(batch.num_rows for batch in inputs.get((scan.input.stage, scan.input.part), ()))
            most = _LOOKED_UP_ROWS if scan.input.indexes else _INPUT_ROWS
            if rows > most or not all(reduce.is_spreadable(column) for column in scan.columns):
                return False
    return True


async def _on_node(
    session: context.Session,
    node_id: int,
    fragments: Sequence[plan_fragment.Fragment],
    inputs: transport.Inputs,
    steady: bool,
) -> list[transport.FragmentResult]:
    """A node's fragments, sent at once, as one transaction."""
    async with session.runtime.nodes.lease(node_id, session.settings) as connection:
        session.transaction.beside.add(connection)
        try:
            begin = _begin(fragments[0].settings, steady)
            return await _pipelined(connection, begin, fragments, inputs, limit_of(session))
        except errors.RemoteError as error:
            if _patience.get() and error.sqlstate == _CANCELED and not connection.cancelled:
                raise _NotSmall from error
            raise
        finally:
            session.transaction.beside.discard(connection)


async def _pipelined(
    connection: client.PgConnection,
    begin: str,
    fragments: Sequence[plan_fragment.Fragment],
    inputs: transport.Inputs,
    limit: int,
) -> list[transport.FragmentResult]:
    started = time.perf_counter()
    requests: list[tuple[bytes, replies.Reply]] = [(messages.query(begin), replies.Reply())]
    streams = []
    for part in fragments:
        values: list[bytes | None] = []
        data, stream = connection.stream_request(_filled(part, inputs, values), values)
        streams.append(stream)
        requests.append((data, stream))
    requests.append((messages.query("COMMIT"), replies.Reply()))
    connection.send_all(requests)
    results: list[transport.FragmentResult] = []
    size = 0
    try:
        for part, stream in zip(fragments, streams, strict=True):
            kept = datarows.Collector(part.columns)
            while (item := await stream.take()) is not None:
                size += len(item[0])
                if size > limit:
                    raise _NotSmall
                kept.rows(*item)
            if not stream.failed():
                results.append(_result(part, kept, time.perf_counter() - started))
        await requests[-1][1].done
    except BaseException:
        for stream in streams:
            stream.abandon()
        raise
    for _, reply in requests:
        reply.check()
    return results


def _begin(settings: Iterable[tuple[str, str]], steady: bool) -> str:
    path = dict(settings).get("search_path")  # all others are the connection's already
    begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if steady else "BEGIN READ ONLY"
    if patience := _patience.get():
        begin += f"; SET LOCAL statement_timeout = {patience}"
    return f"{begin}; SET LOCAL search_path = {path}" if path else begin


def _filled(fragment: plan_fragment.Fragment, inputs: transport.Inputs, values: list[bytes | None]) -> str:
    """The fragment's SQL over heap relations and over stages' rows, which become parameters."""
    relations = {}
    for scan in fragment.scans:
        relations[scan.name] = scan.relation
        if scan.input is not None:
            batches = inputs.get((scan.input.stage, scan.input.part), ())
            relations[scan.name] = reduce.spread(scan.columns, list(batches), values)
    return placeholders.fill(fragment.sql, relations)


def _result(
    fragment: plan_fragment.Fragment, kept: datarows.Collector, seconds: float
) -> transport.FragmentResult:
    batches = kept.finish()
    rows, size = sum(batch.num_rows for batch in batches), sum(batch.nbytes for batch in batches)
    stats = transport.FragmentStats(rows=rows, bytes=size, seconds=seconds, engine="postgres")
    return transport.FragmentResult(fragment.number, batches, stats)
