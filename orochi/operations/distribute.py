"""Making a table distributed, a reference table, or local again; its rows move, none is lost."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Sequence

from orochi import errors, ids, pgtypes
from orochi import settings as process_settings
from orochi.catalog import definition as definitions
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import chunks, ddl_checks, progress, redistribute, shells, storage_options
from orochi.sharding import colocation, placement
from orochi.timeseries import ranges

FULL_RANGE = (-(2**31), 2**31 - 1)
_TYPE_HINT = (
    "Types to distribute by: smallint, integer, bigint, text, varchar, uuid, date, timestamp, timestamptz."
)


async def create_distributed_table(
    session: context.Session,
    oid: int,
    column: str,
    shard_count: int | None,
    colocate_with: str | None,
) -> None:
    """Distribute a table by the hash of `column`; a hypertable on one node becomes shards x chunks."""
    shell = await shells.definition(session, oid)
    shells.check_table(shell, "distributed")
    _check_column(shell, column)
    shell = await shells.lock(session, shell)
    if shell.catalog_kind not in (None, snapshots.TableKind.SINGLE):
        raise _already(shell)
    if shard_count != 1:
        shells.check_keys(shell, column, "distribution column")
    await ddl_checks.no_rows_refer(session, oid, shell.name)
    if shard_count is not None:
        placement.check_shard_count(shard_count)
    colocation_id, new_shards = await group(session, shell, column, shard_count, colocate_with)
    snapshot = session.snapshot()
    colocation.check_foreign_keys(
        shell, snapshot, distribution_column=column, colocation_id=ids.ColocationId(colocation_id)
    )
    attnum = shell.column(column).attnum
    source: AsyncIterator[bytes] | None = None
    old = snapshot.tables.get(ids.TableId(oid))
    if old is not None:
        old = await retire_layout(session, old.oid)
        source = await _leave_single(session, shell, old, "distributed", attnum, colocation_id)
    else:
        await session.catalog_execute(
            "INSERT INTO orochi.orochi_tables (table_oid, kind, distribution_attnum, colocation_id, options)"
            f" VALUES ({oid}, 'distributed', {attnum}, {colocation_id}, {await storage_options.defaults(session)})"
        )
    await populate(session, shell, new_shards, source)
    if old is not None:
        await rename_layout(session, old)


async def create_reference_table(session: context.Session, oid: int) -> None:
    """Put a whole copy of the table on every data node."""
    shell = await shells.definition(session, oid)
    shells.check_table(shell, "a reference table")
    shell = await shells.lock(session, shell)
    if shell.is_hypertable or shell.catalog_kind not in (None, snapshots.TableKind.SINGLE):
        raise _already(shell)
    await ddl_checks.no_rows_refer(session, oid, shell.name)
    snapshot = session.snapshot()
    colocation.check_foreign_keys(shell, snapshot, distribution_column=None, colocation_id=None)
    nodes = tuple(node.node_id for node in placement.data_nodes(snapshot))
    source: AsyncIterator[bytes] | None = None
    old = snapshot.tables.get(ids.TableId(oid))
    if old is not None:
        old = await retire_layout(session, old.oid)
        source = await _leave_single(session, shell, old, "reference", None, None)
    else:
        await session.catalog_execute(
            f"INSERT INTO orochi.orochi_tables (table_oid, kind) VALUES ({oid}, 'reference')"
        )
    await populate(session, shell, [colocation.NewShard(0, *FULL_RANGE, nodes)], source)
    if old is not None:
        await rename_layout(session, old)


async def undistribute_table(session: context.Session, oid: int) -> None:
    """Bring every row back into the coordinator's table and forget the shards."""
    shell = await shells.definition(session, oid)
    if shell.catalog_kind is None:
        raise errors.InvalidTable(
            f'table "{shell.name}" is not an Orochi table', hint="There is nothing to undistribute."
        )
    shell = await shells.lock(session, shell)
    linked = [key.name for key in shell.foreign_keys() if key.references != oid] + [
        name for name, _ in shell.referencing
    ]
    if linked:
        raise errors.FeatureNotSupported(
            f'table "{shell.name}" cannot be undistributed: foreign key "{linked[0]}" links it to another table',
            hint="Drop the foreign key first.",
        )
    table = await retire_layout(session, ids.TableId(oid))
    await shells.remove_guard(session, shell)
    await _refill(session, shell, table)
    await session.catalog_execute(f"SELECT count(*) FROM orochi._forget_table({oid})")
    if table.storage_type == "columnar":
        await shells.label(session, shell, "heap")
    await session.catalog_changed()


async def retire_layout(session: context.Session, oid: ids.TableId) -> snapshots.Table:
    """Keep writers out of the table's shards, for good once the transaction commits; the table as it is then.

    The schemas keep their names until `rename_layout`, so that this transaction can still read.
    """
    table = await shells.lock_layouts(session, oid)
    work: dict[int, list[str]] = {}
    for shard in table.shards:
        relation = f"{definitions.quote(shard.schema)}.{definitions.quote(table.name)}"
        for node_id in shard.node_ids:
            work.setdefault(node_id, []).append(f"LOCK TABLE {relation} IN EXCLUSIVE MODE")
    await shells.run_on_nodes(session, work)
    return table


async def rename_layout(session: context.Session, table: snapshots.Table, *, retired: bool = True) -> None:
    """Make every plan that names the table's present shards fail, so that it is made again.

    Also those that name chunks of theirs, if these are `retired`, and not kept.
    """
    work: dict[int, list[str]] = {}
    for shard in table.shards:
        old, new = shard.schema, f"orochi_s{shard.shard_id}_{shard.layout + 1}"
        relation = f"{definitions.quote(old)}.{definitions.quote(table.name)}"
        renamed = [(old, new)]
        if retired and table.dimension is not None:
            renamed += [
                (chunk.schema, f"orochi_c{chunk.chunk_id}_{chunk.generation + 1}") for chunk in shard.chunks
            ]
        for node_id in shard.node_ids:
            work.setdefault(node_id, []).extend(
                (
                    f"LOCK TABLE {relation} IN ACCESS EXCLUSIVE MODE",
                    *(
                        f"ALTER SCHEMA {definitions.quote(before)} RENAME TO {definitions.quote(after)}"
                        for before, after in renamed
                    ),
                )
            )
    await shells.run_on_nodes(session, work)


async def renew_layout(session: context.Session, table: snapshots.Table) -> snapshots.Table:
    """Give the table's shards and chunks other names on nodes; the table with them.

    Plans by its former definition then fail, rather than take values of a type for those of another.

    Args:
        session: inside a transaction.
        table: named as on the nodes, whatever has become of the shell.
    """
    listed = ", ".join(str(shard.shard_id) for shard in table.shards)
    renewed: set[str] = set()
    if table.dimension is not None:
        await shells.lock_layouts(session, table.oid)
        rows = await session.catalog_execute(
            "UPDATE orochi.orochi_chunks SET generation = generation + 1"
            f" WHERE shard_id IN ({listed}) RETURNING chunk_id"
        )
        renewed = {str(chunk_id) for (chunk_id,) in rows}
    await shells.bump_layouts(session, table.shards)
    fresh = session.snapshot().current(table.oid).shards
    former = tuple(
        dataclasses.replace(
            shard,
            layout=shard.layout - 1,
            chunks=tuple(
                dataclasses.replace(chunk, generation=chunk.generation - 1)
                for chunk in shard.chunks
                if str(chunk.chunk_id) in renewed
            ),
        )
        for shard in fresh
    )
    await rename_layout(session, dataclasses.replace(table, shards=former))
    return dataclasses.replace(table, shards=fresh)


async def rows_of(
    session: context.Session, shell: definitions.Definition, table: snapshots.Table
) -> AsyncIterator[bytes]:
    """All rows of `table`, generated columns left out, as a binary COPY stream.

    Its first piece is fetched at once, because making it may need the coordinator connection; what
    follows leaves that connection free.
    """
    from orochi.operations import whole_table

    stream = whole_table.copy_binary(session, table)
    first = await anext(stream)

    async def pieces() -> AsyncIterator[bytes]:
        yield first
        async for piece in stream:
            yield piece

    if not any(column.generated for column in shell.columns):
        return pieces()
    # Through a temporary table whose columns are all plain: COPY cannot write generated ones.
    names = ", ".join(definitions.insertable(shell.columns))
    await session.coordinator.query(
        f"CREATE TEMP TABLE orochi_moved ON COMMIT DROP AS SELECT * FROM ONLY {shell.relation} WITH NO DATA"
    )
    await session.coordinator.copy_in("COPY pg_temp.orochi_moved FROM STDIN (FORMAT binary)", pieces())
    data = [
        piece
        async for piece in session.coordinator.copy_out(
            f"COPY pg_temp.orochi_moved ({names}) TO STDOUT (FORMAT binary)"
        )
    ]
    await session.coordinator.query("DROP TABLE pg_temp.orochi_moved")

    async def kept() -> AsyncIterator[bytes]:
        for piece in data:
            yield piece

    return kept()


def _check_column(shell: definitions.Definition, name: str) -> None:
    column = shell.column(name)
    if column.base_oid not in pgtypes.DISTRIBUTABLE:
        raise errors.InvalidTableDefinition(
            f'column "{name}" of type {column.type} cannot be the distribution column', hint=_TYPE_HINT
        )
    if column.generated:
        raise errors.InvalidTableDefinition(f'generated column "{name}" cannot be the distribution column')
    if not column.deterministic:
        raise errors.InvalidTableDefinition(
            f'column "{name}" cannot be the distribution column: its collation is not deterministic'
        )


def _already(shell: definitions.Definition) -> errors.OrochiError:
    kinds = {"distributed": "distributed", "reference": "a reference table", "single": "a hypertable"}
    return errors.InvalidTableDefinition(
        f'table "{shell.name}" is already {kinds[shell.catalog_kind or "distributed"]}',
        hint="undistribute_table() makes it local again.",
    )


async def group(
    session: context.Session,
    shell: definitions.Definition,
    column: str,
    shard_count: int | None,
    colocate_with: str | None,
) -> tuple[int, list[colocation.NewShard]]:
    """The co-location group that the table joins or starts, and the table's shards in it."""
    snapshot = session.snapshot()
    type_oid = shell.column(column).base_oid
    if colocate_with is not None and colocate_with.lower() not in (colocation.DEFAULT, colocation.NONE):
        table = await _colocated_table(session, colocate_with)
        if table.distribution_oid != type_oid:
            raise errors.InvalidTableDefinition(
                f'cannot colocate "{shell.name}" with "{table.name}": their distribution columns differ in type'
            )
        if shard_count is not None and shard_count != len(table.shards):
            raise errors.InvalidParameter(
                f'"{table.name}" has {len(table.shards)} shards, not {shard_count}',
                hint="Leave shard_count out when you give colocate_with.",
            )
        assert table.colocation_id is not None
        if not await _joined(session, table.colocation_id):
            raise errors.UndefinedObject(f'relation "{colocate_with}" does not exist', sqlstate="42P01")
        return table.colocation_id, colocation.shards_like(table)
    shared = colocate_with is None or colocate_with.lower() == colocation.DEFAULT
    count = placement.check_shard_count(
        shard_count if shard_count is not None else default_shard_count(session)
    )
    if shared:
        # One at a time: two transactions must not both start the default group of a type.
        await session.catalog_execute("SELECT count(*) FROM pg_advisory_xact_lock(1330792264, 1)")
        for row in await session.catalog_execute(
            "SELECT colocation_id FROM orochi.orochi_colocation_groups"
            f" WHERE is_default AND shard_count = {count} AND distribution_type = {type_oid}"
            " ORDER BY colocation_id"
        ):
            group = int(str(row[0]))
            for table in snapshot.tables.values():
                if table.colocation_id == group and table.shards and await _joined(session, group):
                    return group, colocation.shards_like(table)
    rows = await session.catalog_execute(
        "INSERT INTO orochi.orochi_colocation_groups (shard_count, distribution_type, is_default)"
        f" VALUES ({count}, {type_oid}, {str(shared).lower()}) RETURNING colocation_id"
    )
    nodes = placement.round_robin(count, placement.data_nodes(snapshot))
    return int(str(rows[0][0])), colocation.plan_shards(nodes)


async def _joined(session: context.Session, group: int) -> bool:
    """Keep the group until the transaction ends; False if its last table was dropped meanwhile."""
    found = await session.catalog_execute(
        f"SELECT colocation_id FROM orochi.orochi_colocation_groups WHERE colocation_id = {group} FOR KEY SHARE"
    )
    return bool(found)


async def _colocated_table(session: context.Session, name: str) -> snapshots.Table:
    result = await session.coordinator.fetch("SELECT $1::regclass::oid::text", (name.encode(),), (0,), (25,))
    oid = int(result.rows[0][0] or b"0")
    table = session.snapshot().tables.get(ids.TableId(oid))
    if table is None or table.kind is not snapshots.TableKind.DISTRIBUTED:
        raise errors.InvalidTable(f'"{name}" is not a distributed table, so nothing can be colocated with it')
    return table


def default_shard_count(session: context.Session) -> int:
    """The session's `orochi.default_shard_count`, else the process's."""
    text = session.settings.get("orochi.default_shard_count")
    if text is None:
        return process_settings.get().default_shard_count
    if not text.strip().isdigit():
        raise errors.InvalidParameter(f'invalid value for orochi.default_shard_count: "{text}"')
    return int(text)


async def _leave_single(
    session: context.Session,
    shell: definitions.Definition,
    table: snapshots.Table,
    kind: str,
    attnum: int | None,
    colocation_id: int | None,
) -> AsyncIterator[bytes]:
    """Turn the catalog entry of a retired one-node table into another kind's; its rows, to be moved."""
    source = await rows_of(session, shell, table)
    await shells.remove_guard(session, shell)
    kept = (
        await session.catalog_execute(
            "SELECT quote_literal(storage_type), quote_literal(segmentby), quote_literal(orderby),"
            f" quote_literal(options) FROM orochi.orochi_tables WHERE table_oid = {shell.oid}"
        )
    )[0]
    await session.catalog_execute(f"SELECT count(*) FROM orochi._forget_table({shell.oid})")
    await session.catalog_execute(
        "INSERT INTO orochi.orochi_tables (table_oid, kind, distribution_attnum, colocation_id,"
        " storage_type, segmentby, orderby, options)"
        f" VALUES ({shell.oid}, '{kind}', {attnum or 'NULL'}, {colocation_id or 'NULL'}, {', '.join(map(str, kept))})"
    )
    if table.dimension is not None:
        rows = ", ".join(
            f"({shell.oid}, {ordinal}, {shell.column(item.column).attnum}, {item.interval})"
            for ordinal, item in enumerate((table.dimension, *table.further), 1)
        )
        await session.catalog_execute(
            f"INSERT INTO orochi.orochi_dimensions (table_oid, ordinal, attnum, chunk_interval) VALUES {rows}"
        )
    return source


async def populate(
    session: context.Session,
    shell: definitions.Definition,
    new_shards: Sequence[colocation.NewShard],
    source: AsyncIterator[bytes] | None,
    report: progress.Report | None = None,
) -> None:
    """Make the shards, move the rows there, and close the shell to writers; `report` hears how far that is."""
    shards = await shells.insert_shards(session, shell.oid, new_shards)
    await shells.insert_whole_chunks(session, shell.oid)
    await create_shards(session, shell, shards)
    await session.catalog_changed()
    filled = source is None and await shells.has_rows(session, shell)
    if source is not None or filled:
        await fill_shards(session, shell, source, report)
    if filled:
        await shells.empty(session, shell)
    await shells.install_guard(session, shell)


async def create_shards(
    session: context.Session, shell: definitions.Definition, shards: Sequence[snapshots.Shard]
) -> None:
    """Make the relations of `shards`, partitioned by time if the table is a hypertable."""
    await session.catalog_changed()
    snapshot = session.snapshot()
    dimension = snapshot.current(ids.TableId(shell.oid)).dimension
    work = [
        (
            shard,
            definitions.create_relation(
                shell,
                shard.schema,
                time_column=dimension.column if dimension is not None else None,
                references=colocation.referenced_schemas(shell, snapshot, shard.index, shard.schema),
            ),
        )
        for shard in shards
    ]
    await shells.run_on_nodes(session, shells.statements_by_node(definitions.prerequisites(shell), work))


async def fill_shards(
    session: context.Session,
    shell: definitions.Definition,
    source: AsyncIterator[bytes] | None,
    report: progress.Report | None = None,
) -> None:
    """Move rows, the shell's own or those of `source`, to the table's shards."""
    table = session.snapshot().current(ids.TableId(shell.oid))
    columns = [column.name for column in shell.columns if not column.generated]
    if source is None:
        await _make_chunks(session, shell, table)
        names = ", ".join(definitions.insertable(shell.columns))
        source = session.coordinator.copy_out(
            f"COPY (SELECT {names} FROM ONLY {shell.relation}) TO STDOUT (FORMAT binary)"
        )
    if report is not None:
        source = progress.watched(source, report)
    await redistribute.load(session, session.snapshot().current(table.oid), source, columns)


async def _make_chunks(
    session: context.Session, shell: definitions.Definition, table: snapshots.Table
) -> None:
    """Make all chunks that the shell's rows need, while the coordinator connection is free for it."""
    dimension = table.dimension
    if dimension is not None:
        sql = ranges.sample_sql(
            dimension.type_oid,
            dimension.interval,
            definitions.quote(dimension.column),
            f"ONLY {shell.relation}",
        )
        result = await session.coordinator.query(sql)
        await chunks.ensure(session, table, [int(row[0] or b"0") for row in result[-1].rows])


async def _refill(session: context.Session, shell: definitions.Definition, table: snapshots.Table) -> None:
    """Copy every row of the shards into the shell."""
    source = await rows_of(session, shell, table)
    columns = ", ".join(definitions.insertable(shell.columns))
    await session.coordinator.copy_in(f"COPY {shell.relation} ({columns}) FROM STDIN (FORMAT binary)", source)
    await rename_layout(session, table)
