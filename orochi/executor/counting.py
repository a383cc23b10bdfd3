"""Distinct values that the gateway counts, so that the final SQL need not: `orochi.planner.plan.Counted`.

Only of types whose values are equal if and only if their carriers are. A count is one more step between the gathered
rows and the final SQL; it knows nothing of who computed them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orochi import pgtypes
from orochi.engine import copybinary
from orochi.engine.kernels import distinct
from orochi.executor import exchange, ranking
from orochi.planner import fragment as plan_fragment
from orochi.planner import plan as plans

_TYPMOD_HEADER = 4
#: Of fewer different rows each has a number in 64 bits.
_SPAN = 1 << 62
#: More rows are sorted together, which takes less memory.
_HASHED = 1_000_000

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
    by_name = {column.name: column for column in columns}
    keys = [_key(table.column(name), by_name[name]) for name in (*counted.groups, counted.value)]
    shown, counts = _by_numbers(keys) or _by_values(keys)
    made = tuple(by_name[name] for name in counted.groups)
    made += (plan_fragment.OutputColumn(counted.name, pgtypes.INT8, -1, "bigint"),)
    arrays = [_shown(table.column(c.name).take(shown), c) for c in made[:-1]]
    arrays.append(counts)
    return made, exchange.Gathered(pa.Table.from_arrays(arrays, schema=copybinary.schema(made)).to_batches())


def _key(values: pa.ChunkedArray, column: plan_fragment.OutputColumn) -> pa.ChunkedArray:
    """What is equal where the values are; of `character(n)` trailing blanks mean nothing, and are shown."""
    if not pa.types.is_string(values.type):
        return values
    return ranking.ranked(values, padded=column.type_oid == pgtypes.BPCHAR)


def _shown(values: pa.ChunkedArray, column: plan_fragment.OutputColumn) -> pa.ChunkedArray:
    if column.type_oid != pgtypes.BPCHAR:
        return values
    return pc.utf8_rpad(pc.utf8_rtrim(values, " "), column.typmod - _TYPMOD_HEADER, " ")


def _by_values(keys: Sequence[pa.ChunkedArray]) -> tuple[Any, Any]:
    """A row of each group by its place, and how many values of the last key it has."""
    names = [f"k{at}" for at in range(len(keys))]
    held = pa.table([*keys, pa.array(np.arange(len(keys[0])))], [*names, "row"])
    grouped = pa.TableGroupBy(held, names[:-1], use_threads=False).aggregate(
        [("row", "min"), (names[-1], "count_distinct")]
    )
    return grouped.column("row_min"), grouped.column(f"{names[-1]}_count_distinct")


def _by_numbers(keys: Sequence[pa.ChunkedArray]) -> tuple[Any, Any] | None:
    """The same by one number for all keys of a row; None if there is none that is short."""
    if not len(keys[0]) or not all(pa.types.is_integer(key.type) and not key.null_count for key in keys):
        return None
    groups, span = np.zeros(len(keys[0]), np.int64), 1
    for key in keys[:-1]:
        numbers, size = _from_zero(key)
        if span * size >= _SPAN:
            return None
        groups, span = groups * size + numbers, span * size
    values, size = _from_zero(keys[-1])
    if len(groups) <= _HASHED:
        places, counts = distinct.counted(groups, values, span)
        return pa.array(places), pa.array(counts)
    if span * size >= _SPAN:
        return None
    rows = groups * size + values
    order = np.argsort(rows)
    ordered = rows[order]
    is_new = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    groups = ordered // size
    starts = np.flatnonzero(np.concatenate(([True], groups[1:] != groups[:-1])))
    return pa.array(order[starts]), pa.array(np.add.reduceat(is_new.astype(np.int64), starts))


def _from_zero(key: pa.ChunkedArray) -> tuple[Any, int]:
    """Its values as their distances from the least, and more than the largest of these."""
    values = key.to_numpy().astype(np.int64)
    least, greatest = int(values.min()), int(values.max())
    return values - least, greatest - least + 1
