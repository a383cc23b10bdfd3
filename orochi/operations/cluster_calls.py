"""Calls about nodes: adding and removing them, and running a command on all of them."""

from __future__ import annotations

import asyncio

from orochi import errors, ids
from orochi import settings as process_settings
from orochi.catalog import bootstrap, nodes
from orochi.catalog import definition as definitions
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import distribute, shells
from orochi.operations.arguments import Arguments
from orochi.pgwire import client
from orochi.sharding import colocation

Rows = list[tuple[str | None, ...]]


async def add_node(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Prepare a database, enter it as a data node and copy the reference tables to it; its id."""
    await _require_superuser(session, call.function)
    settings = process_settings.get()
    dsn = nodes.dsn(
        settings, call.required("hostname"), call.integer("port") or 5432, call.required("dbname")
    )
    await asyncio.to_thread(bootstrap.prepare_node, dsn)
    node_id = await asyncio.to_thread(bootstrap.register_node, settings.coordinator_dsn, dsn)
    await session.runtime.refresh()
    for table in session.runtime.snapshot().tables.values():
        if table.kind is snapshots.TableKind.REFERENCE and node_id not in table.shards[0].node_ids:
            async with shells.transactional(session):
                await _replicate(session, table.oid, ids.NodeId(node_id))
    return [(str(node_id),)]


async def remove_node(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Take a node that holds no shard out of the cluster."""
    await _require_superuser(session, call.function)
    node_id = ids.NodeId(int(call.required("node_id")))
    snapshot = session.snapshot()
    if node_id not in snapshot.nodes:
        raise errors.UndefinedObject(f"node {node_id} does not exist")
    for table in snapshot.tables.values():
        for shard in table.shards:
            if node_id in shard.node_ids and (
                table.kind is not snapshots.TableKind.REFERENCE or len(shard.node_ids) == 1
            ):
                raise errors.OrochiError(
                    f'node {node_id} holds shards of table "{table.name}"',
                    sqlstate="55000",
                    hint="Move its shards to other nodes first.",
                )
    await session.catalog_execute(f"DELETE FROM orochi.orochi_shard_placements WHERE node_id = {node_id}")
    await session.catalog_execute(f"DELETE FROM orochi.orochi_cleanup WHERE node_id = {node_id}")
    await session.catalog_execute(f"DELETE FROM orochi.orochi_nodes WHERE node_id = {node_id}")
    await session.catalog_changed()
    return [("",)]


async def run_command_on_nodes(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Run a command on every node, each by itself."""
    await _require_superuser(session, call.function)
    command = call.required("command")
    rows: Rows = []
    for node_id in sorted(session.snapshot().nodes):
        try:
            async with session.runtime.nodes.lease(node_id, session.settings) as connection:
                rows.append((str(node_id), "t", await _first_value(connection, command)))
        except errors.OrochiError as error:
            rows.append((str(node_id), "f", error.message))
    return rows


async def run_command_on_shards(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Run a command on every shard of a table, in the client's transaction; `%s` is the shard's relation."""
    await _require_superuser(session, call.function)
    command = call.required("command")
    table = session.snapshot().tables.get(ids.TableId(call.oid("table_name")))
    if table is None:
        raise errors.InvalidTable(f'"{call.text("table_name")}" is not an Orochi table')
    rows: Rows = []
    for shard in table.shards:
        relation = f"{definitions.quote(shard.schema)}.{definitions.quote(table.name)}"
        for node_id in shard.node_ids:
            connection = await session.transaction.node(node_id, write=True)
            value = await _first_value(connection, command.replace("%s", relation))
        rows.append((str(shard.shard_id), "t", value))
    return rows


async def _first_value(connection: client.PgConnection, command: str) -> str | None:
    results = await connection.query(command)
    if not results or not results[-1].rows or not results[-1].rows[0]:
        return results[-1].tag if results else ""
    value = results[-1].rows[0][0]
    return None if value is None else value.decode()


async def _require_superuser(session: context.Session, function: str) -> None:
    result = await session.coordinator.query("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
    if not result[-1].rows or result[-1].rows[0][0] != b"t":
        raise errors.OrochiError(f"{function}() needs a superuser", sqlstate="42501")


async def _replicate(session: context.Session, oid: ids.TableId, node_id: ids.NodeId) -> None:
    """Give a reference table a copy on another node, and make writers know of it."""
    shell = await shells.definition(session, oid)
    before = await distribute.retire_layout(session, oid)
    await shells.bump_layouts(session, before.shards)
    snapshot = session.snapshot()
    table = snapshot.current(oid)
    shard, old = table.shards[0], before.shards[0]
    await session.catalog_execute(
        "INSERT INTO orochi.orochi_shard_placements (shard_id, node_id, ordinal)"
        f" VALUES ({shard.shard_id}, {node_id}, {len(shard.node_ids)})"
    )
    references = colocation.referenced_schemas(shell, snapshot, 0, shard.schema)
    statements = definitions.prerequisites(shell) + definitions.create_relation(
        shell, shard.schema, references=references
    )
    await shells.run_on_nodes(session, {node_id: statements})
    columns = ", ".join(definitions.insertable(shell.columns))
    source = await session.transaction.node(old.node_id, write=True)
    target = await session.transaction.node(node_id, write=True)
    name = definitions.quote(table.name)
    await target.copy_in(
        f"COPY {definitions.quote(shard.schema)}.{name} ({columns}) FROM STDIN (FORMAT binary)",
        source.copy_out(
            f"COPY (SELECT {columns} FROM {definitions.quote(old.schema)}.{name}) TO STDOUT (FORMAT binary)"
        ),
    )
    await distribute.rename_layout(session, before)
    await session.catalog_changed()
