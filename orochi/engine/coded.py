"""Batches whose columns of strings may be codes into a dictionary, as large loads carry them.

Codes are int16; null has no code. Dictionaries of one column and load only grow, so the longest serves all its
batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa


def is_coded(arrow: pa.DataType) -> bool:
    """Whether a column of the type is codes."""
    return bool(pa.types.is_dictionary(arrow))


def plain(array: pa.Array) -> pa.Array:
    """An array in carrier form."""
    return array.dictionary_decode() if is_coded(array.type) else array


def plain_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch in carrier form."""
    if not any(is_coded(kind) for kind in batch.schema.types):
        return batch
    return pa.RecordBatch.from_arrays([plain(array) for array in batch.columns], names=batch.schema.names)


def plain_table(table: pa.Table) -> pa.Table:
    """A table in carrier form."""
    for at, field in enumerate(table.schema):
        if is_coded(field.type):
            table = table.set_column(at, field.name, table.column(at).cast(field.type.value_type))
    return table


def alike(batches: Sequence[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Batches of one load with the same types and dictionaries; codes where all have codes."""
    names = batches[0].schema.names
    columns = []
    for at in range(len(names)):
        arrays = [batch.column(at) for batch in batches]
        if all(is_coded(array.type) for array in arrays):
            longest = max((array.dictionary for array in arrays), key=len)
            arrays = [pa.DictionaryArray.from_arrays(array.indices, longest, safe=False) for array in arrays]
        columns.append([plain(array) for array in arrays] if _differ(arrays) else arrays)
    return [
        pa.RecordBatch.from_arrays([column[at] for column in columns], names=names)
        for at in range(len(batches))
    ]


def _differ(arrays: Sequence[pa.Array]) -> bool:
    return any(array.type != arrays[0].type for array in arrays)


def held_bytes(batch: pa.RecordBatch) -> int:
    """What a batch takes in memory, without dictionaries, which it shares with others."""
    return sum((array.indices if is_coded(array.type) else array).nbytes for array in batch.columns)
