"""The last step of a SELECT that only sorts and cuts what shards gave: done here, the rows encoded at once.

The order is PostgreSQL's own: of types whose carriers sort as their values do, text by bytes where the
database's collation does. Whatever is left open (an order of NaN, many rows) is for PostgreSQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from orochi.executor import context, reduce, results
from orochi.operations import own_types
from orochi.planner import plan as plans

#: More than this is sorted by PostgreSQL, which can do so on disk.
_MOST_BYTES = 64 << 20
#: Less than this is sorted at once, on the event loop.
_QUICK_BYTES = 128 << 10


async def answer(
    session: context.Session, plan: plans.Distributed, loaded: reduce.Loaded, sink: context.Sink
) -> str | None:
    """Send the rows of the one intermediate in the order that `plan.ordering` says; the command tag.

    None, and nothing is sent, where PostgreSQL has to do it.
    """
    ordering = plan.ordering
    assert ordering is not None
    columns, batches = loaded[plan.intermediates[0].name]
    shown = columns[: ordering.width]
    size = sum(batch.nbytes for batch in batches)
    if size > _MOST_BYTES or not ordering.fits(columns):
        return None
    if await own_types.affected(session, [column.type_oid for column in shown], sink.formats):
        return None
    settings = await results.ready(session, shown, sink.formats)
    if settings is None:
        return None
    if not batches:
        return "SELECT 0"
    if size > _QUICK_BYTES:
        rows = await asyncio.to_thread(_sorted, batches, ordering)
    else:
        rows = _sorted(batches, ordering)
    if rows is None:
        return None
    async for data, count in results.encoded(rows, shown, sink.formats, settings):
        await sink.rows(data, count)
    return f"SELECT {rows.num_rows}"


def _sorted(batches: Sequence[pa.RecordBatch], ordering: plans.Ordering) -> pa.RecordBatch | None:
    """The rows in order, between offset and limit; None where Arrow's order may be another one."""
    width = batches[0].num_columns
    named = [pa.RecordBatch.from_arrays(batch.columns, _names(width)) for batch in batches]
    table = pa.Table.from_batches(named).combine_chunks()
    keys = []
    for key in ordering.keys:
        column = table.column(key.column)
        if pa.types.is_floating(column.type) and pc.any(pc.is_nan(column)).as_py():
            return None
        direction = "descending" if key.descending else "ascending"
        keys.append((str(key.column), direction, "at_start" if key.nulls_first else "at_end"))
    order = pc.sort_indices(table, keys)
    stop = None if ordering.limit is None else ordering.offset + ordering.limit
    chosen = table.select(range(ordering.width)).take(order[ordering.offset : stop])
    return pa.RecordBatch.from_arrays(
        [column.combine_chunks() for column in chosen.columns], chosen.column_names
    )


def _names(width: int) -> list[str]:
    return [str(index) for index in range(width)]
