"""What every writing operation shares: work spread over nodes, DataRows held back, the commit.

A statement outside a transaction block is committed before its command tag is sent, so a client
that saw the tag has its rows. Rows of RETURNING are held until the statement has succeeded on all
shards, so that a statement that must be planned again has shown nothing yet.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from orochi import errors, pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.pgwire import client, messages

Result = TypeVar("Result")
Bound = tuple[tuple[bytes | None, ...], tuple[int, ...], tuple[int, ...]]
NOTHING_BOUND: Bound = ((), (), ())

#: First part of the key of the advisory lock of `take_turns`, on the first shard's node.
_TURNS = 0x4F54
_REFERENCE = re.compile(r"\$(\d+)")
_STALE_STATES = frozenset({"3F000", "42P01", "42704"})
#: No such column, table, schema, object; another type, too many or few columns, a cached plan's other result.
_NAMES_STATES = frozenset({"42703", "42P01", "3F000", "42704", "42804", "42601", "0A000"})
#: Relations that went while PostgreSQL looked at them; rows of the catalog that came or went meanwhile.
_GONE = re.compile(
    r"could not open relation with OID|cache lookup failed for (relation|attribute)|constraint \"orochi_"
)
_NODE_SCHEMA = re.compile(r"orochi_[sc]\d")


class HeldRows:
    """DataRow messages kept until they may be sent; `append` is a row callback of `PgConnection`."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.count = 0

    async def append(self, data: memoryview, count: int) -> None:
        """Take `count` whole messages."""
        self._pieces.append(bytes(data))
        self.count += count

    def data(self) -> bytes:
        """All of them."""
        return b"".join(self._pieces)

    def messages(self) -> list[bytes]:
        """Each of them."""
        found = []
        for piece in self._pieces:
            at = 0
            while at < len(piece):
                end = at + 1 + int.from_bytes(piece[at + 1 : at + 5], "big")
                found.append(piece[at:end])
                at = end
        return found


def merge(parts: Sequence[tuple[Sequence[int], HeldRows]]) -> tuple[bytes, int]:
    """Rows of several shards in the order of the rows they came from.

    Args:
        parts: for each shard, the positions of its rows in the statement, and what it returned.

    A shard that returned fewer rows than it was given (ON CONFLICT DO NOTHING) does not say which:
    then shards follow one another.
    """
    total = sum(held.count for _, held in parts)
    if len(parts) == 1 or any(len(positions) != held.count for positions, held in parts):
        return b"".join(held.data() for _, held in parts), total
    placed = [pair for positions, held in parts for pair in zip(positions, held.messages(), strict=True)]
    placed.sort(key=lambda pair: pair[0])
    return b"".join(message for _, message in placed), total


async def answer(
    session: context.Session,
    sink: context.Sink,
    tag: str,
    fields: Sequence[messages.FieldDescription] | None = None,
    rows: tuple[bytes, int] | None = None,
) -> None:
    """Commit a statement that is its own transaction, then send its rows and its tag."""
    if not session.transaction.in_block:
        await session.transaction.commit(session.coordinator)
    if rows is not None:
        if fields is not None:
            await sink.columns(fields)
        if rows[1]:
            await sink.rows(*rows)
    await sink.complete(tag)


def is_alone(session: context.Session) -> bool:
    """Whether the statement under way is a transaction by itself, and no other statement's doing."""
    transaction = session.transaction
    return not (transaction.in_block or transaction.participants or session.comes_back)


async def take_turns(session: context.Session, table: snapshots.Table) -> None:
    """Let statements that lock rows of `table` on several nodes run one after another.

    In PostgreSQL two such statements meet rows in the same order and one waits for the other. Here
    each could be first on another node, and they would wait for each other.
    """
    connection = await session.transaction.node(table.shards[0].node_id, write=False)
    await connection.fetch(
        "SELECT pg_catalog.pg_advisory_xact_lock($1::pg_catalog.int4, $2::pg_catalog.int4)",
        (str(_TURNS).encode(), str(table.oid & 0x7FFFFFFF).encode()),
        (0, 0),
    )


async def per_node(
    work: Mapping[int, Sequence[Callable[[], Awaitable[Result]]]],
) -> dict[int, list[Result]]:
    """Run each node's jobs one after another, all nodes at once; waits for all, then raises the first error."""

    async def one(jobs: Sequence[Callable[[], Awaitable[Result]]]) -> list[Result]:
        return [await job() for job in jobs]

    if len(work) == 1:
        ((node_id, jobs),) = work.items()
        return {node_id: await one(jobs)}
    results = await asyncio.gather(*(one(jobs) for jobs in work.values()), return_exceptions=True)
    found: dict[int, list[Result]] = {}
    for node_id, result in zip(work, results, strict=True):
        if isinstance(result, BaseException):
            raise result
        found[node_id] = result
    return found


async def run(
    connection: client.PgConnection, sql: str, bound: Bound, formats: Sequence[int], rows: HeldRows
) -> int:
    """Run a writing statement on a node; the number in its command tag."""
    values, value_formats, oids = bound
    tag = await connection.stream(sql, values, value_formats, oids, formats, rows.append)
    return affected(tag)


def affected(tag: str) -> int:
    """The row count of a command tag such as `INSERT 0 5`."""
    last = tag.rpartition(" ")[2]
    return int(last) if last.isdigit() else 0


def referenced(sql: str) -> set[int]:
    """The numbers of the parameters in `sql`; a superset where a string constant looks like one."""
    return {int(number) for number in _REFERENCE.findall(sql)}


def bind_for_node(sql: str, parameters: context.Parameters | None) -> Bound:
    """Values for the `$n` in `sql`, whose numbers are the client's.

    Types of the coordinator's own have another OID on the node, which infers them again.
    """
    used = referenced(sql)
    if parameters is None or not used:
        return NOTHING_BOUND
    values, oids = [], []
    for number, (value, oid) in enumerate(zip(parameters.values, parameters.type_oids, strict=True), 1):
        if number in used:
            values.append(value)
            oids.append(oid if oid < pgtypes.FIRST_NORMAL_OID else 0)
        else:
            values.append(None)  # not mentioned: of some type, or PostgreSQL cannot infer one
            oids.append(pgtypes.TEXT)
    return tuple(values), all_formats(parameters), tuple(oids)


def all_formats(parameters: context.Parameters) -> tuple[int, ...]:
    """One format code for each value, as `Bind` may give none or one for all."""
    formats, count = parameters.formats, len(parameters.values)
    if len(formats) == count:
        return formats
    return (formats[0] if formats else 0,) * count


def is_stale(error: errors.OrochiError) -> bool:
    """Whether a node refused because the plan's shard layout no longer exists."""
    return isinstance(error, errors.StalePlan) or (
        error.sqlstate in _STALE_STATES and _NODE_SCHEMA.search(error.message) is not None
    )


async def is_overtaken(
    session: context.Session, error: errors.OrochiError, planned: snapshots.Snapshot
) -> bool:
    """Whether something is missing or of another type, and DDL of others has come since `planned` was read.

    Then what a plan wrote out may be what is missing, not what the client named: a new plan will tell.
    """
    if error.sqlstate not in _NAMES_STATES and not _GONE.search(error.message):
        return False
    return (await session.runtime.refresh()).definitions != planned.definitions
