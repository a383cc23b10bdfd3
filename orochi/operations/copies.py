"""Copies of shard rows in the client's session, and what a statement did to them.

A copy is a temporary table of the table's columns and a number for each row, behind a view that does
not show the number. Where a row came from (shard, relation, ctid, xmin) stays here, by its number:
xmin and ctid together name one version of one row, so nobody else's change goes unseen.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from orochi import errors, pgtypes
from orochi.catalog import snapshot as snapshots
from orochi.engine import copybinary
from orochi.executor import context
from orochi.operations import claims, recall, routing, secured_copies, stage, views_above, writes
from orochi.pgwire import client
from orochi.planner import cells, quoting, rehearsal, through
from orochi.planner import fragment as fragments

NUMBER = fragments.OutputColumn("orochi_row", pgtypes.INT8, -1, "bigint")
_ORIGIN = (
    fragments.OutputColumn("orochi_relation", pgtypes.INT8, -1, "bigint"),
    fragments.OutputColumn("orochi_tid", pgtypes.TEXT, -1, "text"),
    fragments.OutputColumn("orochi_xid", pgtypes.TEXT, -1, "text"),
    fragments.OutputColumn("orochi_image", pgtypes.TEXT, -1, "text"),
)
#: How PostgreSQL ends the row of a copy that a view's check option is against.
_NUMBERED = re.compile(r", (\d+|null)\)\.$")
#: Types that rows can be sorted by here, so that keys are met in the order they were likely written in.
_SORTABLE = frozenset({*pgtypes.INTEGERS, *pgtypes.TIMES})

_UNIQUE = """
SELECT c.relname, pg_catalog.pg_get_indexdef(i.indexrelid)
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = $1::pg_catalog.oid AND i.indisunique AND i.indimmediate ORDER BY c.relname
"""


@dataclasses.dataclass(slots=True)
class Copied:
    """A copy that was made.

    Attributes:
        shards, relations, tids, xids, images: by row number: where the row came from. An image is the
            row as text, for reference tables only, whose other placements have it under another ctid.
        above: the views through which the statement writes, from the copy upwards.
        loaded: the command that filled it, by which later versions of rows are told.
    """

    plan: rehearsal.Copy
    table: snapshots.Table
    base: str
    view: str
    shards: npt.NDArray[np.int64]
    relations: npt.NDArray[np.int64]
    tids: pa.Array
    xids: pa.Array
    images: pa.Array
    loaded: str = "0"
    above: list[str] = dataclasses.field(default_factory=list)

    @property
    def columns(self) -> tuple[fragments.OutputColumn, ...]:
        """The columns that hold values of their own."""
        return output_columns(self.table)


@dataclasses.dataclass(slots=True)
class Changes:
    """What a statement did to a copy; rows are known by their numbers.

    Attributes:
        deleted: gone.
        updated: number, then the stored columns, of rows that stay in their shard.
        moved: of rows that belong to another shard now: their new versions count as inserted.
        inserted: how many rows of the copy have no number.
    """

    copied: Copied
    deleted: npt.NDArray[np.int64]
    updated: pa.RecordBatch
    moved: npt.NDArray[np.int64]
    inserted: int

    @property
    def touched(self) -> npt.NDArray[np.int64]:
        """The numbers of all rows that must be locked."""
        updated = self.updated.column(0).to_numpy(zero_copy_only=False)
        return np.concatenate([self.deleted, updated, self.moved]).astype(np.int64)


def output_columns(table: snapshots.Table) -> tuple[fragments.OutputColumn, ...]:
    """The stored columns of a table, as a stream has them."""
    return tuple(
        fragments.OutputColumn(column.name, column.base_oid, column.typmod, column.type_name)
        for column in routing.stored_columns(table)
    )


#: A version of a row: shard index, relation, ctid, xmin.
Version = tuple[int, int, str, str]


async def recall_rows(session: context.Session, plans: Sequence[rehearsal.Copy], lock: str = "") -> None:
    """Bring what the copies are to hold from stripes into the heaps, before anything is read.

    Args:
        session: the client's session.
        plans: the copies.
        lock: the statement's locking clause: it may say not to wait for rows.

    Raises:
        RemoteError: 55P03, another transaction has recalled one, and it says NOWAIT.
    """
    work: dict[int, list[Callable[[], Awaitable[int]]]] = {}
    for plan in plans:
        table = session.snapshot().current(plan.table)
        others = claims.Others.of(lock) if plan.is_locked else claims.Others.AWAIT
        for shard in (table.shards[index] for index in plan.shard_indexes):
            if shard.has_stripes:
                job = functools.partial(
                    recall.matching, session, table, shard, plan.predicates, others=others, early=True
                )
                work.setdefault(shard.node_id, []).append(job)
    if work:
        await writes.per_node(work)


async def make(
    session: context.Session, plan: rehearsal.Copy, skipped: AbstractSet[Version] = frozenset()
) -> Copied:
    """Read the rows, which `recall_rows` has brought into the heap, and fill a copy with them.

    Those to be skipped are left out.
    """
    table = session.snapshot().current(plan.table)
    shards = [table.shards[index] for index in plan.shard_indexes]
    work: dict[int, list[Callable[[], Awaitable[tuple[int, pa.RecordBatch]]]]] = {}
    for shard in shards:
        work.setdefault(shard.node_id, []).append(functools.partial(_read, session, plan, table, shard))
    parts = [part for found in (await writes.per_node(work)).values() for part in found] if work else []
    origins = copybinary.schema(_ORIGIN)
    columns = output_columns(table)
    whole = pa.Table.from_batches(
        [batch for _, batch in parts], copybinary.schema((*_ORIGIN, *columns))
    ).combine_chunks()
    indexes = np.repeat(
        np.array([index for index, _ in parts], np.int64), [batch.num_rows for _, batch in parts]
    )
    if skipped:
        keep = np.array([version not in skipped for version in _versions(indexes, whole)], np.bool_)
        whole, indexes = whole.filter(pa.array(keep, pa.bool_())), indexes[keep]
    order = _order(table, plan, whole)
    if order is not None:
        whole, indexes = whole.take(pa.array(order)), indexes[order]
    suffix = secrets.token_hex(4)
    copied = Copied(
        plan=plan,
        table=table,
        base=f"{plan.name}_{suffix}",
        view=f"{plan.name}_{suffix}_v",
        shards=indexes,
        relations=whole.column(0).to_numpy().astype(np.int64),
        **{
            name: pa.chunked_array(whole.column(at), origins.field(at).type)
            for at, name in ((1, "tids"), (2, "xids"), (3, "images"))
        },
    )
    await _create(session, copied)
    if whole.num_rows:
        await _fill(session, copied, whole.select(range(len(_ORIGIN), len(_ORIGIN) + len(columns))))
    if plan.has_policies:
        await secured_copies.put_on(session, table, copied.base)
    return copied


def _versions(indexes: npt.NDArray[np.int64], rows: pa.Table) -> list[Version]:
    origins = (rows.column(at).to_pylist() for at in range(3))
    return list(zip(indexes.tolist(), *origins, strict=True))


def _order(table: snapshots.Table, plan: rehearsal.Copy, rows: pa.Table) -> npt.NDArray[np.int64] | None:
    if not plan.keyed or not table.unique_keys:
        return None
    names = [
        name
        for name in table.unique_keys[0]
        if (column := table.column(name)) is not None and column.base_oid in _SORTABLE
    ]
    if not names:
        return None
    keys = pa.table({name: rows.column(rows.column_names.index(name)) for name in names})
    order: npt.NDArray[np.int64] = pc.sort_indices(
        keys, sort_keys=[(name, "ascending") for name in names]
    ).to_numpy()
    return order.astype(np.int64)


async def _read(
    session: context.Session,
    plan: rehearsal.Copy,
    table: snapshots.Table,
    shard: snapshots.Shard,
) -> tuple[int, pa.RecordBatch]:
    """One shard's rows with their origins, read in the session's own transaction there."""
    connection = await session.transaction.node(shard.node_id, write=False)
    batches = await read_origins(connection, table, shard, output_columns(table), plan.condition)
    return shard.index, batches


async def read_origins(
    connection: client.PgConnection,
    table: snapshots.Table,
    shard: snapshots.Shard,
    columns: tuple[fragments.OutputColumn, ...],
    condition: str = "",
) -> pa.RecordBatch:
    """Origins and `columns` of the rows of a shard's heap on one of its placements."""
    name = quoting.identifier(table.name)
    image = f"{name}::pg_catalog.text" if table.kind is snapshots.TableKind.REFERENCE else "''"
    listed = ", ".join(
        [
            f"{name}.tableoid::pg_catalog.int8",
            f"{name}.ctid::pg_catalog.text",
            f"{name}.xmin::pg_catalog.text",
            f"{image}::pg_catalog.text",
            *(f"{name}.{quoting.identifier(column.name)}" for column in columns),
        ]
    )
    sql = f"SELECT {listed} FROM {routing.relation(table, shard)} AS {name}"
    if condition:
        sql += f" WHERE {condition}"
    return await read(connection, sql, (*_ORIGIN, *columns))


async def read(
    connection: client.PgConnection, sql: str, columns: tuple[fragments.OutputColumn, ...]
) -> pa.RecordBatch:
    """The rows of a SELECT, in carrier form."""
    decoder = copybinary.Decoder(columns)
    batches: list[pa.RecordBatch] = []
    async for data in connection.copy_out(f"COPY ({sql}) TO STDOUT (FORMAT binary)"):
        batches += decoder.feed(data)
    batches += decoder.finish()
    empty = copybinary.schema(columns).empty_table().to_batches()
    return pa.concat_batches(batches) if batches else _only(empty, columns)


def _only(batches: list[pa.RecordBatch], columns: tuple[fragments.OutputColumn, ...]) -> pa.RecordBatch:
    if batches:
        return batches[0]
    schema = copybinary.schema(columns)
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


async def _create(session: context.Session, copied: Copied) -> None:
    """The temporary table and the view: columns, defaults and generated columns of the shell, no constraints.

    Constraints are the shards', whose messages are the table's own; but unique keys are here too,
    where the statement may violate them among its own rows or asks for conflicts with them.
    """
    table = copied.table
    listed = ", ".join([*(_definition(table, column) for column in table.columns), f"{NUMBER.name} bigint"])
    shown = ", ".join(quoting.identifier(column.name) for column in table.columns)
    statements = [f"CREATE TEMPORARY TABLE {copied.base} ({listed}) ON COMMIT DROP"]
    if copied.plan.keyed:
        result = await session.coordinator.fetch(_UNIQUE, (str(table.oid).encode(),), (0,))
        for row in result.rows:
            name, definition = ((value or b"").decode() for value in row)
            after = definition.split(" USING ", 1)[1]
            statements.append(
                f"CREATE UNIQUE INDEX {quoting.identifier(name)} ON pg_temp.{copied.base} USING {after}"
            )
    statements.append(f"CREATE TEMPORARY VIEW {copied.view} AS SELECT {shown} FROM pg_temp.{copied.base}")
    # SET column = DEFAULT through a view means the view's own
    statements += [
        f"ALTER VIEW pg_temp.{copied.view} ALTER {quoting.identifier(column.name)} SET DEFAULT {default}"
        for column in table.columns
        if (default := _default(table, column)) is not None
    ]
    await session.coordinator.query("; ".join(statements))
    lower = copied.view
    for at, view in enumerate(copied.plan.above):
        upper = f"{copied.base}_t{at}"
        await views_above.create(session, view, through.over(view, f"pg_temp.{lower}"), upper)
        copied.above.append(upper)
        lower = upper


def _default(table: snapshots.Table, column: snapshots.Column) -> str | None:
    if column.identity:
        return cells.identity_sql(table, column.name)
    return None if column.generated else column.default_sql


def _definition(table: snapshots.Table, column: snapshots.Column) -> str:
    parts = [quoting.identifier(column.name), column.type_name]
    if column.collation is not None:
        parts.append(f"COLLATE {column.collation}")
    if column.generated:
        kind = "STORED" if column.generated == "s" else "VIRTUAL"
        parts.append(f"GENERATED ALWAYS AS ({column.default_sql}) {kind}")
    elif (default := _default(table, column)) is not None:
        parts.append(f"DEFAULT {default}")
    return " ".join(parts)


async def _fill(session: context.Session, copied: Copied, rows: pa.Table) -> None:
    columns = (NUMBER, *copied.columns)
    batch = _batch(rows)
    numbered = pa.RecordBatch.from_arrays(
        [pa.array(np.arange(batch.num_rows, dtype=np.int64)), *batch.columns],
        schema=copybinary.schema(columns),
    )
    names = ", ".join(quoting.identifier(column.name) for column in columns)
    await session.coordinator.copy_in(
        f"COPY pg_temp.{copied.base} ({names}) FROM STDIN (FORMAT binary)",
        [copybinary.encode(numbered, columns)],
    )
    (result,) = await session.coordinator.query(f"SELECT cmin FROM pg_temp.{copied.base} LIMIT 1")
    copied.loaded = (result.rows[0][0] or b"").decode()


def _batch(rows: pa.Table) -> pa.RecordBatch:
    """A table without chunks as one batch."""
    arrays = [column.combine_chunks() for column in rows.columns]
    flat = [a.chunk(0) if isinstance(a, pa.ChunkedArray) and a.num_chunks else a for a in arrays]
    return pa.RecordBatch.from_arrays(flat, schema=rows.schema)


async def observe(session: context.Session, copied: Copied) -> Changes:
    """What became of the copy; rows that have to move lose their number there."""
    base, columns = f"pg_temp.{copied.base}", (NUMBER, *copied.columns)
    names = ", ".join(quoting.identifier(column.name) for column in columns)
    updated = await read(
        session.coordinator,
        f"SELECT {names} FROM {base} WHERE orochi_row IS NOT NULL AND NOT cmin = '{copied.loaded}'::pg_catalog.cid",
        columns,
    )
    total = len(copied.shards)
    gone, fresh = await session.coordinator.query(
        f"SELECT n FROM pg_catalog.generate_series(0, {total - 1}) AS s(n) "
        f"EXCEPT SELECT orochi_row FROM {base}; "
        f"SELECT pg_catalog.count(*) FILTER (WHERE orochi_row IS NULL), "
        f"pg_catalog.count(*) FILTER (WHERE {_timeless(copied.table)}) FROM {base}"
    )
    if fresh.rows[0][1] != b"0":
        await _tell_null_time(session, copied)
    deleted = np.array(sorted(int(row[0] or b"0") for row in gone.rows), np.int64)
    stay = _stays(copied, updated)
    numbers = updated.column(0).to_numpy(zero_copy_only=False).astype(np.int64)
    moved = numbers[~stay]
    if moved.size:
        listed = "{" + ",".join(map(str, moved.tolist())) + "}"
        await session.coordinator.query(
            f"UPDATE {base} SET orochi_row = NULL WHERE orochi_row = ANY ('{listed}'::pg_catalog.int8[])"
        )
    inserted = int(fresh.rows[0][0] or b"0") + len(moved)
    return Changes(copied, deleted, updated.filter(pa.array(stay)), moved, inserted)


def _timeless(table: snapshots.Table) -> str:
    """The condition that a row has no time, where it must have one."""
    return "false" if table.dimension is None else f"{quoting.identifier(table.dimension.column)} IS NULL"


async def _tell_null_time(session: context.Session, copied: Copied) -> None:
    """PostgreSQL's own words for a NULL time: a node would only say that there is no partition for it.

    Raises:
        RemoteError: 23502.
    """
    names = ", ".join(quoting.identifier(column.name) for column in copied.columns)
    async with stage.table(session, copied.table):
        await session.coordinator.fetch(
            f"INSERT INTO {stage.RELATION} ({names}) "
            f"SELECT {names} FROM pg_temp.{copied.base} WHERE {_timeless(copied.table)}"
        )


def _stays(copied: Copied, updated: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    """Which updated rows belong to the shard they were in."""
    table = copied.table
    if table.kind is not snapshots.TableKind.DISTRIBUTED or not updated.num_rows:
        return np.ones(updated.num_rows, np.bool_)
    names = [column.name for column in copied.columns]
    keys = updated.column(1 + names.index(str(table.distribution_column)))
    now = routing.shard_indexes(table, keys, updated.num_rows)
    before = copied.shards[updated.column(0).to_numpy(zero_copy_only=False).astype(np.int64)]
    same: npt.NDArray[np.bool_] = now == before
    return same


def versions(copied: Copied, numbers: npt.NDArray[np.int64]) -> list[Version]:
    """The versions of these rows."""
    at = pa.array(numbers)
    return list(
        zip(
            copied.shards[numbers].tolist(),
            copied.relations[numbers].tolist(),
            copied.tids.take(at).to_pylist(),
            copied.xids.take(at).to_pylist(),
            strict=True,
        )
    )


async def locked(session: context.Session, copied: Copied) -> npt.NDArray[np.int64]:
    """The numbers of the rows that the statement locked in the copy."""
    (result,) = await session.coordinator.query(
        f"SELECT orochi_row FROM pg_temp.{copied.base} WHERE xmax <> '0'::pg_catalog.xid ORDER BY 1"
    )
    return np.array([int(row[0] or b"0") for row in result.rows], np.int64)


def renamed(error: errors.RemoteError, all_copied: list[Copied]) -> errors.RemoteError:
    """The same error, told of the tables where it was of their copies."""
    fields = dict(error.fields)
    if fields.get("C") == "44000" and "D" in fields:
        fields["D"] = _NUMBERED.sub(").", fields["D"])
    for copied in all_copied:
        if any(copied.base in text for text in fields.values()):
            for name, view in zip(copied.above, copied.plan.above, strict=True):
                fields = {code: text.replace(name, view.name) for code, text in fields.items()}
            fields = {
                code: text.replace(copied.view, copied.table.name).replace(copied.base, copied.table.name)
                for code, text in fields.items()
            }
            if "s" in fields:
                fields["s"] = copied.table.schema
    return errors.RemoteError(fields)
