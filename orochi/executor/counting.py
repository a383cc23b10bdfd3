"""Distinct values that the gateway counts, so that the final SQL need not: `orochi.planner.plan.Counted`.

Only of types whose values are equal if and only if their carriers are. A count is one more step between the gathered
rows and the final SQL; it knows nothing of who computed them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from orochi import pgtypes
from orochi.engine import copybinary
from orochi.executor import exchange
from orochi.planner import fragment as plan_fragment
from orochi.planner import plan as plans

_TYPMOD_HEADER = 4

Columns: TypeAlias = tuple[plan_fragment.OutputColumn, ...]
Loaded: TypeAlias = dict[str, tuple[Columns, exchange.Gathered]]


async def applied(intermediates: Iterable[plans.Intermediate], loaded: Loaded) -> Loaded:
    """What the final SQL reads: the gathered rows by intermediate, counted where that is wanted."""
    for item in intermediates:
        if item.counted is not None:
            columns, batches = loaded[item.name]
            loaded[item.name] = await asyncio.to_thread(count, item.counted, columns, batches)
    return loaded


def count(
    counted: plans.Counted, columns: Columns, batches: Sequence[pa.RecordBatch]
) -> tuple[Columns, exchange.Gathered]:
    """The groups, each with the number of its distinct values that are not NULL.

    Args:
        counted: which columns they are.
        columns: of the batches, in their order.
        batches: in carrier form; a group or a value may come several times.
    """
    schema = copybinary.schema(columns)
    held = [pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in batches]
    table = pa.Table.from_batches(held, schema)
    for position, column in enumerate(columns):
        if column.type_oid == pgtypes.BPCHAR:  # trailing blanks mean nothing, and are shown
            bare = pc.utf8_rtrim(table.column(position), " ")
            padded = pc.utf8_rpad(bare, column.typmod - _TYPMOD_HEADER, " ")
            table = table.set_column(position, column.name, padded)
    grouped = pa.TableGroupBy(table, list(counted.groups), use_threads=False).aggregate(
        [(counted.value, "count_distinct")]
    )
    by_name = {column.name: column for column in columns}
    made = tuple(by_name[name] for name in counted.groups)
    made += (plan_fragment.OutputColumn(counted.name, pgtypes.INT8, -1, "bigint"),)
    arrays = [grouped.column(name) for name in counted.groups] + [
        grouped.column(f"{counted.value}_count_distinct")
    ]
    return made, exchange.Gathered(pa.Table.from_arrays(arrays, schema=copybinary.schema(made)).to_batches())
