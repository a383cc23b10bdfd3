"""Dimensions of hypertables beside the time: by hash, which is what a table is distributed by, and by range.

Chunks are cut by time alone. A further dimension by range says how rows lie inside of a chunk: stripes
end where its ranges do (`orochi.timeseries.cells`), so that conditions on it exclude whole stripes, and an index
finds the rows that are in heaps.
"""

from __future__ import annotations

from orochi import errors, ids
from orochi.catalog import definition as definitions
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import ddl, distribute, hypertable, shells
from orochi.operations.arguments import Arguments
from orochi.planner import ddl as ddl_plans
from orochi.planner import parse

Rows = list[tuple[str | None, ...]]
_MOST_PARTITIONS = 32767


async def add_dimension(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Divide a hypertable by the hash or by the ranges of one more column."""
    oid = call.oid("hypertable")
    shell = await hypertable.hypertable(session, oid)
    by_info = call.has("dimension")
    count, interval = None, None
    if by_info:
        fields = call.fields("dimension")
        column, by_hash = str(fields["column_name"]), fields["kind"] == "hash"
        if by_hash:
            count = _checked(fields["partitions"])
        else:
            interval = hypertable.Interval.from_given(fields["chunk_interval"])
    else:
        column, by_hash = call.required("column_name"), call.text("number_partitions") is not None
        interval = call.interval("chunk_time_interval")
        if by_hash and interval is not None:
            raise errors.InvalidParameter("cannot specify both the number of partitions and the interval")
        if not by_hash and interval is None:
            raise errors.InvalidParameter("cannot omit both the number of partitions and an interval")
        count = partitions(call) if by_hash else None
    shell.column(column)
    created = not await is_one(session, sink, oid, column, if_not_exists=call.boolean("if_not_exists"))
    if created and count is not None:
        await add_hash(session, oid, column, count)
    elif created:
        await _add_range(session, sink, shell, column, interval)
    number = str(_number(session.snapshot().current(ids.TableId(oid)), column))
    if by_info:
        return [(number, _bool(created))]
    return [(number, shell.schema, shell.name, column, _bool(created))]


async def is_one(
    session: context.Session, sink: context.Sink, oid: int, column: str, *, if_not_exists: bool
) -> bool:
    """Whether the column is a dimension of the hypertable already; a NOTICE if so.

    Raises:
        OrochiError: 42710, it is one, and `if_not_exists` is not given.
    """
    if column not in _names(session.snapshot().current(ids.TableId(oid))):
        return False
    if not if_not_exists:
        raise errors.OrochiError(f'column "{column}" is already a dimension', sqlstate="42710")
    await sink.notice(f'column "{column}" is already a dimension, skipping')
    return True


async def add_hash(session: context.Session, oid: int, column: str, count: int) -> None:
    """Distribute a hypertable by the column, into so many shards."""
    table = session.snapshot().current(ids.TableId(oid))
    if (hashed := _hashed(table)) is not None:
        raise errors.FeatureNotSupported(
            f'hypertable "{table.name}" is divided by the hash of column "{hashed}" already',
            detail=f'Column "{column}" would be its second dimension by hash.',
            hint="alter_distributed_table() changes the column.",
        )
    await distribute.create_distributed_table(session, oid, column, count, None)


async def _add_range(
    session: context.Session,
    sink: context.Sink,
    shell: definitions.Definition,
    name: str,
    interval: hypertable.Interval | None,
) -> None:
    """Stripes that are made from now on end where ranges of the column do."""
    hypertable.check_column(shell, name)
    shell = await shells.lock(session, shell)
    raw = await hypertable.resolve_interval(session, shell.column(name).base_oid, interval)
    table = session.snapshot().current(ids.TableId(shell.oid))
    assert table.dimension is not None
    column, time = definitions.quote(name), definitions.quote(table.dimension.column)
    if not shell.column(name).not_null:
        await sink.notice(
            f'adding not-null constraint to column "{name}"', hint="Dimensions cannot have NULL values."
        )
        await _change(session, sink, f"ALTER TABLE {shell.relation} ALTER COLUMN {column} SET NOT NULL")
    leading = {index.columns[0] for index in shell.indexes if index.columns} | {
        constraint.columns[0] for constraint in shell.constraints if constraint.is_key
    }
    if name not in leading:
        await _change(session, sink, f"CREATE INDEX ON {shell.relation} ({column}, {time} DESC)")
    await session.catalog_execute(
        "INSERT INTO orochi.orochi_dimensions (table_oid, ordinal, attnum, chunk_interval)"
        f" SELECT table_oid, max(ordinal) + 1, {shell.column(name).attnum}, {raw}"
        f" FROM orochi.orochi_dimensions WHERE table_oid = {shell.oid} GROUP BY table_oid"
    )
    await session.catalog_changed()


async def _change(session: context.Session, sink: context.Sink, sql: str) -> None:
    """Have the shell changed, and its shards follow."""
    statement = parse.parse_one(sql)
    await ddl.run(session, statement, ddl_plans.read(statement), sink)


async def set_chunk_time_interval(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """The length of ranges made from now on: of chunks, or of a further dimension's in new stripes."""
    interval, name = call.interval("chunk_time_interval"), call.text("dimension_name")
    oid = await hypertable.rows_of(session, call.oid("hypertable"))
    if interval is None:
        raise errors.InvalidParameter("invalid interval: an explicit interval must be specified")
    shell = await hypertable.hypertable(session, oid)
    table = session.snapshot().current(ids.TableId(oid))
    assert table.dimension is not None
    name = table.dimension.column if name is None else name
    dimension = next((item for item in (table.dimension, *table.further) if item.column == name), None)
    if dimension is None:
        raise errors.UndefinedObject(
            f'hypertable "{hypertable.shown(session, shell)}" does not have a matching dimension',
            sqlstate="42704",
        )
    raw = await hypertable.resolve_interval(session, dimension.type_oid, interval)
    await session.catalog_execute(
        f"UPDATE orochi.orochi_dimensions SET chunk_interval = {raw}"
        f" WHERE table_oid = {oid} AND attnum = {shell.column(name).attnum}"
    )
    await session.catalog_changed()
    return [("",)]


def partitions(call: Arguments) -> int:
    """How many partitions by hash the call asks for."""
    return _checked(call.integer("number_partitions"))


def _checked(number: int | None) -> int:
    if number is None or not 1 <= number <= _MOST_PARTITIONS:
        raise errors.InvalidParameter(
            f"invalid number of partitions: must be between 1 and {_MOST_PARTITIONS}"
        )
    return number


def _hashed(table: snapshots.Table) -> str | None:
    return table.distribution_column if table.kind is snapshots.TableKind.DISTRIBUTED else None


def _names(table: snapshots.Table) -> list[str]:
    """The columns of a hypertable's dimensions, in the order of their numbers."""
    assert table.dimension is not None
    found = [table.dimension.column, _hashed(table), *(item.column for item in table.further)]
    return [name for name in found if name is not None]


def _number(table: snapshots.Table, column: str) -> int:
    return _names(table).index(column) + 1


def _bool(value: bool) -> str:
    return "t" if value else "f"
