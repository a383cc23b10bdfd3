"""Hypertables: partitioning a table, or each of its shards, by time; and dropping old ranges.

A shard of a hypertable is a natively partitioned relation, so PostgreSQL itself routes rows to
chunks and excludes them. A table that is not distributed becomes one shard on one node.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

from orochi import errors, ids, pgtypes
from orochi.catalog import definition as definitions
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import (
    aggregate_log,
    chunks,
    distribute,
    locking,
    progress,
    shells,
    storage_options,
    striped,
)
from orochi.sharding import colocation, placement
from orochi.timeseries import ranges

_TYPE_HINT = "Use an integer, timestamp, or date type."


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
    """A length of time as it was given: `kind` is 'interval', 'integer' or 'literal'."""

    text: str
    kind: str = "literal"

    @classmethod
    def from_given(cls, given: str | None) -> Interval | None:
        """From the text of an `orochi.time_value`."""
        if given is None:
            return None
        text = given.removeprefix("interval ")
        return cls(text, "integer" if text.strip().lstrip("+-").isdigit() else "literal")


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What `create_hypertable` was asked for."""

    column: str
    interval: Interval | None = None
    if_not_exists: bool = False
    migrate_data: bool = True
    default_indexes: bool = True


async def create_hypertable(session: context.Session, sink: context.Sink, oid: int, options: Options) -> bool:
    """Partition the table by time; False if it was a hypertable already and that was no error."""
    shell = await shells.definition(session, oid)
    if shell.is_hypertable:
        if not options.if_not_exists:
            raise errors.InvalidTableDefinition(
                f'table "{shell.name}" is already a hypertable', hint="Use if_not_exists => true."
            )
        await sink.notice(f'table "{shell.name}" is already a hypertable, skipping')
        return False
    shells.check_table(shell, "a hypertable")
    if shell.catalog_kind == snapshots.TableKind.REFERENCE:
        raise errors.FeatureNotSupported(f'reference table "{shell.name}" cannot be a hypertable')
    check_column(shell, options.column)
    shell = await shells.lock(session, shell)
    shells.check_keys(shell, options.column, "time column")
    interval = await resolve_interval(session, shell.column(options.column).base_oid, options.interval)
    if not shell.column(options.column).not_null:
        await sink.notice(
            f'adding not-null constraint to column "{options.column}"',
            hint="Dimensions cannot have NULL values.",
        )
    if shell.catalog_kind is None:
        await _partition_local(session, sink, shell, options, interval)
    else:
        await _partition_shards(session, sink, shell, options, interval)
    return True


async def rows_of(session: context.Session, oid: int) -> int:
    """The table of rows behind a relation: of a continuous aggregate, the one that keeps its buckets."""
    result = await session.coordinator.query(f"SELECT orochi._rows_of({oid}::oid::regclass)::oid::bigint")
    return int((result[-1].rows[0][0] or b"0").decode())


def shown(session: context.Session, shell: definitions.Definition) -> str:
    """What a user calls a hypertable: a continuous aggregate's by the view's name."""
    kept = (item for item in session.snapshot().aggregates if item.materialization_oid == shell.oid)
    return next((item.view[1] for item in kept), shell.name)


async def hypertable(session: context.Session, oid: int) -> definitions.Definition:
    """The definition of a hypertable that the user owns.

    Raises:
        InvalidTable: it is none.
        OrochiError: 42501, the user does not own it.
    """
    shell = await shells.definition(session, oid)
    if not shell.is_hypertable:
        raise errors.InvalidTable(
            f'table "{shell.name}" is not a hypertable', hint="Make it one with create_hypertable()."
        )
    if not shell.owned:
        name = shown(session, shell)
        kind = "hypertable" if name == shell.name else "continuous aggregate"
        raise errors.OrochiError(f"must be owner of {kind} {name}", sqlstate="42501")
    return shell


async def drop_chunks(session: context.Session, oid: int, chunk_ids: Sequence[int]) -> list[str]:
    """Drop whole chunks with all their rows; their names."""
    shell = await hypertable(session, oid)
    table = session.snapshot().current(ids.TableId(oid))
    wanted = set(chunk_ids)
    affected = [shard for shard in table.shards if any(chunk.chunk_id in wanted for chunk in shard.chunks)]
    if not affected:
        return []
    await shells.bump_layouts(session, affected)
    table = session.snapshot().current(ids.TableId(oid))
    work: dict[int, list[str]] = {}
    locked: dict[int, list[str]] = {}
    for shard in table.shards:
        gone = [chunk for chunk in shard.chunks if chunk.chunk_id in wanted]
        if gone:
            for node_id in shard.node_ids:
                work.setdefault(node_id, []).extend(_drop_sql(shell, shard, gone))
                locked.setdefault(node_id, []).extend(_locked(shell, shard, gone))
    await locking.exclude_all(session, locked)
    await shells.run_on_nodes(session, work)
    listed = ", ".join(str(chunk_id) for chunk_id in sorted(wanted))
    await session.catalog_execute(
        "INSERT INTO orochi.orochi_cleanup (node_id, kind, object_id, path, not_before)"
        " SELECT node_id, 'stripe', stripe_id, path, now() + interval '1 minute' FROM orochi.orochi_stripes"
        f" WHERE chunk_id IN ({listed})"
    )
    await session.catalog_execute(f"DELETE FROM orochi.orochi_chunks WHERE chunk_id IN ({listed})")
    names = {chunk.chunk_id: chunk.name for shard in table.shards for chunk in shard.chunks}
    gone = [chunk for shard in table.shards for chunk in shard.chunks if chunk.chunk_id in wanted]
    await aggregate_log.dropped(session, oid, [(chunk.range_start, chunk.range_end) for chunk in gone])
    await session.catalog_changed()
    return [names[ids.ChunkId(chunk_id)] for chunk_id in dict.fromkeys(chunk_ids) if chunk_id in names]


async def resolve_interval(session: context.Session, type_oid: int, interval: Interval | None) -> int:
    """A chunk interval in raw units of the time column's type.

    Raises:
        InvalidParameter: it does not fit, or an integer column was given none.
    """
    is_time = type_oid in pgtypes.TIMES
    if interval is None:
        if not is_time:
            raise errors.InvalidParameter(
                "integer dimensions require an explicit interval",
                hint="Give chunk_time_interval => the number of units in a chunk.",
            )
        interval = Interval("1 day")
    if interval.kind == "integer":
        return ranges.interval_from_integer(type_oid, int(interval.text))
    result = await session.coordinator.fetch(
        "SELECT orochi._interval_microseconds($1::interval)::text", (interval.text.encode(),), (0,), (25,)
    )
    return ranges.interval_from_microseconds(type_oid, int(result.rows[0][0] or b"0"))


def check_column(shell: definitions.Definition, name: str) -> None:
    """That a column of this type may have ranges.

    Raises:
        InvalidTableDefinition: it may not.
        UndefinedColumn: there is none of that name.
    """
    column = shell.column(name)
    if column.base_oid not in pgtypes.TIME_DIMENSION:
        raise errors.InvalidTableDefinition(
            f'invalid type for dimension "{name}"', detail=f"Its type is {column.type}.", hint=_TYPE_HINT
        )
    if column.generated:
        raise errors.InvalidTableDefinition(f'generated column "{name}" cannot be a dimension')


async def _prepare_shell(
    session: context.Session, shell: definitions.Definition, options: Options
) -> definitions.Definition:
    """NOT NULL on the time column, and an index on it unless one leads with it."""
    column = definitions.quote(options.column)
    if not shell.column(options.column).not_null:
        await session.catalog_execute(f"ALTER TABLE {shell.relation} ALTER COLUMN {column} SET NOT NULL")
    leading = {index.columns[0] for index in shell.indexes if index.columns} | {
        constraint.columns[0] for constraint in shell.constraints if constraint.is_key
    }
    if options.default_indexes and options.column not in leading:
        await session.catalog_execute(f"CREATE INDEX ON {shell.relation} ({column} DESC)")
    return await shells.definition(session, shell.oid)


async def _partition_local(
    session: context.Session,
    sink: context.Sink,
    shell: definitions.Definition,
    options: Options,
    interval: int,
) -> None:
    """An ordinary table becomes one partitioned shard on one node."""
    snapshot = session.snapshot()
    colocation.check_foreign_keys(shell, snapshot, distribution_column=None, colocation_id=None)
    filled = await shells.has_rows(session, shell)
    if filled and not options.migrate_data:
        raise _not_empty(shell)
    node_id = placement.least_loaded(snapshot)
    shell = await _prepare_shell(session, shell, options)
    await session.catalog_execute(
        "INSERT INTO orochi.orochi_tables (table_oid, kind, options)"
        f" VALUES ({shell.oid}, 'single', {await storage_options.defaults(session)})"
    )
    await _insert_dimension(session, shell, options, interval)
    shard = colocation.NewShard(0, *distribute.FULL_RANGE, (node_id,))
    report = await progress.migration(session, sink, shell) if filled else None
    await distribute.populate(session, shell, [shard], None, report)


async def _partition_shards(
    session: context.Session,
    sink: context.Sink,
    shell: definitions.Definition,
    options: Options,
    interval: int,
) -> None:
    """Every shard of a distributed table is rebuilt as a partitioned relation, on its own node."""
    if shell.referencing:
        name, other = shell.referencing[0]
        raise errors.FeatureNotSupported(
            f'table "{shell.name}" cannot become a hypertable: foreign key "{name}" of {other} refers to it',
            hint="Drop the foreign key first.",
        )
    if session.snapshot().current(ids.TableId(shell.oid)).storage_type == "columnar":
        await striped.drop_whole_chunks(session, ids.TableId(shell.oid))
    old = session.snapshot().current(ids.TableId(shell.oid))
    await _lock_shards(session, old)
    values = await _sampled(session, shell, old, options.column, interval)
    if values and not options.migrate_data:
        raise _not_empty(shell)
    if values:
        await progress.migration(session, sink, shell)
    shell = await _prepare_shell(session, shell, options)
    await _insert_dimension(session, shell, options, interval)
    await shells.bump_layouts(session, old.shards)
    snapshot = session.snapshot()
    table = snapshot.current(old.oid)
    work: dict[int, list[str]] = {}
    for shard in table.shards:
        references = colocation.referenced_schemas(shell, snapshot, shard.index, shard.schema)
        statements = definitions.create_relation(
            shell, shard.schema, time_column=options.column, references=references
        )
        for node_id in shard.node_ids:
            work.setdefault(node_id, []).extend(statements)
    await shells.run_on_nodes(session, work)
    if values:
        await chunks.ensure(session, table, values)
    await _move_rows(session, shell, old, table)


async def _lock_shards(session: context.Session, table: snapshots.Table) -> None:
    work: dict[int, list[str]] = {}
    for shard in table.shards:
        for node_id in shard.node_ids:
            statement = f"LOCK TABLE {_relation(shard, table.name)} IN ACCESS EXCLUSIVE MODE"
            work.setdefault(node_id, []).append(statement)
    await shells.run_on_nodes(session, work)


async def _sampled(
    session: context.Session,
    shell: definitions.Definition,
    table: snapshots.Table,
    column: str,
    interval: int,
) -> list[int]:
    """A raw time of every chunk that the shards' rows need."""
    type_oid, quoted = shell.column(column).base_oid, definitions.quote(column)
    if any(True for _ in table.shards):
        await _refuse_nulls(session, table, column)

    async def one(node_id: int, relations: Sequence[str]) -> list[int]:
        connection = await session.transaction.node(node_id, write=True)
        found: list[int] = []
        for relation in relations:
            result = await connection.query(ranges.sample_sql(type_oid, interval, quoted, relation))
            found.extend(int(row[0] or b"0") for row in result[-1].rows)
        return found

    by_node: dict[int, list[str]] = {}
    for shard in table.shards:
        by_node.setdefault(shard.node_id, []).append(_relation(shard, table.name))
    results = await asyncio.gather(*(one(node_id, relations) for node_id, relations in by_node.items()))
    return sorted({value for result in results for value in result})


async def _refuse_nulls(session: context.Session, table: snapshots.Table, column: str) -> None:
    for shard in table.shards:
        connection = await session.transaction.node(shard.node_id, write=True)
        result = await connection.query(
            f"SELECT EXISTS (SELECT FROM {_relation(shard, table.name)} WHERE {definitions.quote(column)} IS NULL)"
        )
        if result[-1].rows[0][0] == b"t":
            raise errors.OrochiError(
                f'column "{column}" of relation "{table.name}" contains null values', sqlstate="23502"
            )


async def _move_rows(
    session: context.Session, shell: definitions.Definition, old: snapshots.Table, new: snapshots.Table
) -> None:
    columns = ", ".join(definitions.insertable(shell.columns))
    work: dict[int, list[str]] = {}
    for before, after in zip(old.shards, new.shards, strict=True):
        statements = [
            f"INSERT INTO {_relation(after, old.name)} ({columns}) SELECT {columns} FROM {_relation(before, old.name)}",
            f"DROP SCHEMA {definitions.quote(before.schema)} CASCADE",
        ]
        for node_id in before.node_ids:
            work.setdefault(node_id, []).extend(statements)
    await shells.run_on_nodes(session, work)


async def _insert_dimension(
    session: context.Session, shell: definitions.Definition, options: Options, interval: int
) -> None:
    await session.catalog_execute(
        "INSERT INTO orochi.orochi_dimensions (table_oid, attnum, chunk_interval)"
        f" VALUES ({shell.oid}, {shell.column(options.column).attnum}, {interval})"
    )


def _not_empty(shell: definitions.Definition) -> errors.OrochiError:
    return errors.OrochiError(
        f'table "{shell.name}" is not empty',
        sqlstate="0A000",
        hint="You can migrate data by specifying 'migrate_data => true' when calling this function.",
    )


def _relation(shard: snapshots.Shard, name: str) -> str:
    return f"{definitions.quote(shard.schema)}.{definitions.quote(name)}"


def _locked(
    shell: definitions.Definition, shard: snapshots.Shard, gone: Sequence[snapshots.Chunk]
) -> list[str]:
    """What is locked to drop chunks of a shard, whose layout in the catalog is already the next one."""
    schemas = [f"orochi_s{shard.shard_id}_{shard.layout - 1}", *(chunk.schema for chunk in gone)]
    return [f"ONLY {definitions.quote(schema)}.{definitions.quote(shell.name)}" for schema in schemas]


def _drop_sql(
    shell: definitions.Definition, shard: snapshots.Shard, gone: Sequence[snapshots.Chunk]
) -> list[str]:
    """A node's statements: the shard's layout in the catalog is already the next one."""
    old = f"orochi_s{shard.shard_id}_{shard.layout - 1}"
    statements = [f"DROP SCHEMA {definitions.quote(chunk.schema)} CASCADE" for chunk in gone]
    stripes = [str(stripe.stripe_id) for chunk in gone for stripe in chunk.stripes]
    if stripes:
        statements.append(f"DELETE FROM orochi_data.delete_vectors WHERE stripe_id IN ({', '.join(stripes)})")
    statements.append(f"ALTER SCHEMA {definitions.quote(old)} RENAME TO {definitions.quote(shard.schema)}")
    return statements
