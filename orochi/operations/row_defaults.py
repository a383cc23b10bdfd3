"""New columns whose default gives each row another value: random(), the next number of a sequence.

Such values are the coordinator's to compute. A shard gets as many as it has rows, and hands them out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orochi.catalog import definition as definitions
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.planner import cells


async def of_shard(
    session: context.Session,
    table: snapshots.Table,
    shard: snapshots.Shard,
    columns: Sequence[definitions.Column],
) -> Mapping[str, str]:
    """For each of the columns an array of text, as SQL, with a value for each row of the shard, which is locked.

    Raises:
        RemoteError: 23514 and others, a default fails.
    """
    if not columns:
        return {}
    relation = f"{definitions.quote(shard.schema)}.{definitions.quote(table.name)}"
    count = b"0"
    for node_id in shard.node_ids:
        connection = await session.transaction.node(node_id, write=True)
        await connection.query(f"LOCK TABLE {relation} IN ACCESS EXCLUSIVE MODE")
        count = (await connection.query(f"SELECT count(*) FROM {relation}"))[-1].rows[0][0] or b"0"
    return {column.name: await _values(session, table, column, int(count)) for column in columns}


async def _values(
    session: context.Session, table: snapshots.Table, column: definitions.Column, count: int
) -> str:
    number = column.attnum
    found = await session.coordinator.query(
        "SELECT pg_catalog.format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute"
        f" WHERE attrelid = {table.oid} AND attnum = {number}"
    )
    type_name = (found[-1].rows[0][0] or b"").decode()
    default = cells.identity_sql(table, column.name) if column.identity else column.default
    result = await session.coordinator.query(
        "SELECT pg_catalog.array_agg(v)::text FROM (SELECT"
        f" ({default})::{type_name}::text AS v FROM pg_catalog.generate_series(1, {count})) AS s"
    )
    return f"{definitions.quote_literal((result[-1].rows[0][0] or b'{}').decode())}::pg_catalog.text[]"
