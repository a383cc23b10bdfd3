"""The last step of a distributed SELECT: the client's own coordinator session runs SQL over what was gathered.

Small intermediates go along as array parameters, which costs no catalog change; large ones are
copied into temporary tables. Either way PostgreSQL evaluates the final SQL, and its DataRows reach
the client untouched.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import types
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import pyarrow as pa

from orochi import errors, pgtypes
from orochi.engine import copybinary, placeholders
from orochi.executor import context, exchange
from orochi.pgwire import client
from orochi.planner import fragment as plan_fragment

Columns: TypeAlias = Sequence[plan_fragment.OutputColumn]
Loaded: TypeAlias = "Mapping[str, tuple[tuple[plan_fragment.OutputColumn, ...], list[pa.RecordBatch]]]"
Keys: TypeAlias = Mapping[str, tuple[str, ...]]
NO_KEYS: Keys = types.MappingProxyType({})

#: Intermediates of at most this size together go along as parameters.
PARAMETER_BYTES = 1 << 20
PARAMETER_ROWS = 20_000
#: An array parameter's size at most, where larger data must go that way.
_PIECE_BYTES = 64 << 20
_MAX_PARAMETERS = 65_535
#: Encoding more than this leaves the event loop.
_THREAD_BYTES = 256 << 10
#: Types whose array of values cannot be spread by unnest: vectors, records.
_NOT_SPREADABLE = frozenset({22, 30, 2249})

#: An intermediate in the final SQL, which always gives it an alias.
_RELATION = r"\bpg_temp\.orochi_i\d+\b"


async def finish(
    session: context.Session, loaded: Loaded, final_sql: str, sink: context.Sink, keys: Keys = NO_KEYS
) -> str:
    """Run `final_sql` over the intermediates and stream its rows; the command tag.

    Args:
        session: whose coordinator connection runs it.
        loaded: columns and batches by name; `pg_temp.<name>` stands for it in the SQL.
        final_sql: one SELECT without parameters.
        sink: gets DataRows in its own formats.
        keys: those intermediates that must be real tables, with their primary keys (maybe empty).
    """
    coordinator = session.coordinator
    if not keys and _fits_parameters(loaded):
        return await _with_parameters(coordinator, loaded, final_sql, sink)
    if coordinator.status == "I":
        return await _in_own_transaction(session, loaded, final_sql, sink, keys)
    if not keys and await is_read_only(coordinator):
        return await _with_parameters(coordinator, loaded, final_sql, sink)
    names = await load_temp(coordinator, loaded, keys=keys)
    tag = await coordinator.stream(rename(final_sql, names), (), (), (), sink.formats, sink.rows)
    await drop_temp(coordinator, names.values())
    return tag


async def declare(session: context.Session, loaded: Loaded, final_sql: str, sink: context.Sink) -> str | None:
    """Run a DECLARE CURSOR that keeps the intermediates as parameters; None if they must be tables."""
    coordinator = session.coordinator
    if _fits_parameters(loaded) or (coordinator.status != "I" and await is_read_only(coordinator)):
        return await _with_parameters(coordinator, loaded, final_sql, sink)
    return None


async def load_temp(
    coordinator: client.PgConnection, loaded: Loaded, *, keys: Keys = NO_KEYS, on_commit_drop: bool = False
) -> dict[str, str]:
    """Copy each intermediate into a temporary table of the connection; the tables' names, to `rename` with."""
    names = {}
    for name, (columns, batches) in loaded.items():
        table = f"pg_temp.{name}_{secrets.token_hex(4)}"
        definition = ", ".join(f"{placeholders.quote(c.name)} {c.type_name}" for c in columns)
        if keys.get(name):
            definition += f", PRIMARY KEY ({', '.join(placeholders.quote(column) for column in keys[name])})"
        tail = " ON COMMIT DROP" if on_commit_drop else ""
        await coordinator.query(f"CREATE TEMPORARY TABLE {table} ({definition}){tail}")
        await coordinator.copy_in(f"COPY {table} FROM STDIN (FORMAT binary)", stream_of(batches, columns))
        names[name] = table
    return names


async def drop_temp(coordinator: client.PgConnection, tables: Iterable[str]) -> None:
    """Drop tables that `load_temp` made."""
    listed = ", ".join(tables)
    if listed and not coordinator.closed and coordinator.status != "E":
        await coordinator.query(f"DROP TABLE {listed}")


def rename(sql: str, names: Mapping[str, str]) -> str:
    """`sql` with `pg_temp.<name>` replaced by the table `names` gives for it."""
    return _replace(sql, names)


async def stream_of(batches: Iterable[pa.RecordBatch], columns: Columns) -> AsyncIterator[bytes]:
    """Batches in carrier form as a binary COPY stream; other sessions go on while a large one is encoded."""
    yield copybinary.HEADER
    for batch in batches:
        if batch.nbytes > _THREAD_BYTES:
            yield await asyncio.to_thread(copybinary.encode, batch, columns, False, False)
            exchange.forget(batches)
        else:
            yield copybinary.encode(batch, columns, header=False, trailer=False)
    yield copybinary.TRAILER


async def _in_own_transaction(
    session: context.Session, loaded: Loaded, final_sql: str, sink: context.Sink, keys: Keys
) -> str:
    coordinator = session.coordinator
    await coordinator.query("BEGIN READ WRITE")
    try:
        names = await load_temp(coordinator, loaded, keys=keys, on_commit_drop=True)
        tag = await coordinator.stream(rename(final_sql, names), (), (), (), sink.formats, sink.rows)
        await coordinator.query("COMMIT")
    except BaseException:
        if not coordinator.closed and not coordinator.busy and coordinator.status != "I":
            await coordinator.query("ROLLBACK")
        raise
    return tag


async def is_read_only(coordinator: client.PgConnection) -> bool:
    """Whether the connection's transaction may not write."""
    result = await coordinator.fetch("SHOW transaction_read_only")
    return result.rows[0][0] == b"on"


def _fits_parameters(loaded: Loaded) -> bool:
    batches = [batch for _, parts in loaded.values() for batch in parts]
    return (
        sum(batch.nbytes for batch in batches) <= PARAMETER_BYTES
        and sum(batch.num_rows for batch in batches) <= PARAMETER_ROWS
        and sum(len(columns) for columns, _ in loaded.values()) <= _MAX_PARAMETERS
        and all(is_spreadable(column) for columns, _ in loaded.values() for column in columns)
    )


def is_spreadable(column: plan_fragment.OutputColumn) -> bool:
    """Whether an array of the type is surely what unnest spreads into values of it.

    An array of arrays has no such type, one of composites spreads into their fields, and what kind
    a type of the user's is its name does not tell.
    """
    return (
        column.type_oid < pgtypes.FIRST_NORMAL_OID
        and column.type_oid not in _NOT_SPREADABLE
        and not column.type_name.endswith("[]")
    )


async def _with_parameters(
    coordinator: client.PgConnection, loaded: Loaded, final_sql: str, sink: context.Sink
) -> str:
    values: list[bytes | None] = []
    relations = {}
    for name, (columns, batches) in loaded.items():
        if all(is_spreadable(column) for column in columns):
            relations[name] = spread(columns, batches, values)
        else:
            relations[name] = _listed(columns, batches, values)
    if len(values) > _MAX_PARAMETERS:
        raise errors.FeatureNotSupported(
            "this query moves too many rows for a read-only transaction",
            hint="Run it outside the block, or in a READ WRITE transaction.",
        )
    sql = _replace(final_sql, relations)
    return await coordinator.stream(sql, values, (1,) if values else (), (), sink.formats, sink.rows)


def spread(columns: Columns, batches: Sequence[pa.RecordBatch], values: list[bytes | None]) -> str:
    """A subquery that unnests array parameters, which are appended to `values`."""
    pieces = list(_pieces(columns, batches))
    selects = []
    for piece in pieces:
        arguments = []
        for array, column in zip(piece.columns, columns, strict=True):
            values.append(copybinary.encode_array(array, column.type_oid))
            arguments.append(f"${len(values)}::{column.type_name}[]")
        spread = ", ".join(f"pg_catalog.unnest({argument})" for argument in arguments)
        selects.append(f"SELECT * FROM ROWS FROM ({spread}) AS orochi_u({_names(columns)})")
    return f"({' UNION ALL '.join(selects)})"


def _listed(columns: Columns, batches: Sequence[pa.RecordBatch], values: list[bytes | None]) -> str:
    """A subquery over a VALUES list of one parameter a value: for types that arrays cannot carry."""
    rows = []
    for batch in batches:
        for row in _wire_rows(batch, columns):
            first = len(values)
            values += row
            cells = (f"${first + i + 1}::{column.type_name}" for i, column in enumerate(columns))
            rows.append(f"({', '.join(cells)})")
    if not rows:
        nulls = ", ".join(f"NULL::{column.type_name}" for column in columns)
        return f"(SELECT * FROM (VALUES ({nulls})) AS orochi_u({_names(columns)}) WHERE false)"
    return f"(SELECT * FROM (VALUES {', '.join(rows)}) AS orochi_u({_names(columns)}))"


def _wire_rows(batch: pa.RecordBatch, columns: Columns) -> Iterator[list[bytes | None]]:
    """Each row's values in binary form."""
    data = memoryview(copybinary.encode(batch, columns, header=False, trailer=False))
    at = 0
    for _ in range(batch.num_rows):
        at += 2
        row: list[bytes | None] = []
        for _ in columns:
            length = int.from_bytes(data[at : at + 4], "big", signed=True)
            at += 4
            row.append(None if length < 0 else bytes(data[at : at + length]))
            at += max(length, 0)
        yield row


def _pieces(columns: Columns, batches: Sequence[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches joined into few, none too large for a parameter; at least one, maybe empty."""
    schema = copybinary.schema(columns)
    # names may repeat and batches may carry others: only position and type count
    held = [pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in batches]
    held = held or [pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)]
    group: list[pa.RecordBatch] = []
    size = 0
    for batch in itertools.chain.from_iterable(map(_halved, held)):
        if group and size + batch.nbytes > _PIECE_BYTES:
            yield pa.concat_batches(group)
            group, size = [], 0
        group.append(batch)
        size += batch.nbytes
    yield pa.concat_batches(group)


def _halved(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    if batch.nbytes <= _PIECE_BYTES or batch.num_rows <= 1:
        yield batch
        return
    half = batch.num_rows // 2
    yield from _halved(batch.slice(0, half))
    yield from _halved(batch.slice(half))


def _names(columns: Columns) -> str:
    return ", ".join(placeholders.quote(column.name) for column in columns)


def _replace(sql: str, relations: Mapping[str, str]) -> str:
    def one(found: str) -> str:
        return relations.get(found.removeprefix("pg_temp."), found)

    return placeholders.substitute(sql, _RELATION, one)
