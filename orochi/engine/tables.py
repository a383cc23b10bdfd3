"""The tables that DuckDB reads: heap rows, stripes less their deleted rows, and rows of earlier stages.

Columns have native types (`orochi.engine.native`); short decimals come out of stripes as integers, without their
binary form in between. A numeric without a declared scale has that of the value with the most decimals:
comparisons are exact then, and the planner lets nothing else be done with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from orochi import pgtypes
from orochi.engine import contract, native
from orochi.storage.columnar import reader
from orochi.storage.compression import buffers, numeric_kernels

_DIGITS = 18
#: Decimals of so many digits are made one by one, for so many rows.
_LONG_DIGITS, _LONG_ROWS = 38, 2_000
#: Strings that lie beside others with a dictionary get one up to so many.
_ENCODED_ROWS = 10_000


def forms(scan: contract.Scan) -> reader.Forms:
    """How a scan's columns are to come out of stripes; SQL says again which rows are wanted."""
    scales = {}
    for column in scan.columns:
        if column.type_oid == pgtypes.NUMERIC and column.typmod >= 0:
            _, scales[column.name] = native.numeric_typmod(column.typmod)
    texts = frozenset(
        column.name for column in scan.columns if pgtypes.carrier(column.type_oid) == pa.string()
    )
    return reader.Forms(scaled=scales, stored=texts, loose=True)


def table(batches: Iterable[pa.RecordBatch], columns: Sequence[contract.OutputColumn]) -> pa.Table:
    """Carrier batches, decimals scaled or not, as a table of native types.

    Raises:
        Unsupported: a type or a value has no native form.
    """
    listed = [batch for batch in batches if batch.num_rows]
    arrays, fields = [], []
    for position, column in enumerate(columns):
        parts = [batch.column(position) for batch in listed]
        if _is_loose(column):
            made = decimals(parts)
        elif any(pa.types.is_dictionary(part.type) for part in parts):
            made = _texts(parts)
        else:
            kind = native.native_schema([column]).field(0).type
            made = pa.chunked_array([native.to(part, column) for part in parts], kind)
        arrays.append(made)
        fields.append(pa.field(column.name, made.type))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _texts(parts: Sequence[pa.Array]) -> pa.ChunkedArray:
    """Strings, all with dictionaries if the few that have none can be given one."""
    plain = sum(len(part) for part in parts if not pa.types.is_dictionary(part.type))
    if plain <= _ENCODED_ROWS:
        coded = [part if pa.types.is_dictionary(part.type) else part.dictionary_encode() for part in parts]
        return pa.chunked_array(coded, pa.dictionary(pa.int32(), pa.string()))
    return pa.chunked_array(
        [part.dictionary.take(part.indices) if pa.types.is_dictionary(part.type) else part for part in parts],
        pa.string(),
    )


def _is_loose(column: contract.OutputColumn) -> bool:
    return column.type_oid == pgtypes.NUMERIC and column.typmod < 0


def common_scale(parts: Sequence[pa.Array]) -> int | None:
    """How many decimals numerics in carrier form have, if all of them have as many; else None.

    Raises:
        Unsupported: one is NaN or infinite, or long.
    """
    found = [scales[valid] for scales, _, valid in map(_split, parts)]
    listed = {int(scale) for scales in found if len(scales) for scale in (scales.min(), scales.max())}
    return listed.pop() if len(listed) == 1 else None if listed else 0


def decimals(parts: Sequence[pa.Array]) -> pa.ChunkedArray:
    """Numerics of any scales as decimals of the greatest.

    Raises:
        Unsupported: one is NaN or infinite, or too long then.
    """
    try:
        found = [_split(part) for part in parts]
    except native.Unsupported:
        return _long_decimals(parts)
    scale = max((int(scales.max()) for scales, _, _ in found if len(scales)), default=0)
    target = pa.decimal64(_DIGITS, scale)
    made = []
    for scales, values, valid in found:
        if not numeric_kernels.rescale(scales, scale, values):
            return _long_decimals(parts)
        bitmap = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
        made.append(pa.Array.from_buffers(target, len(values), [bitmap, pa.py_buffer(values)]))
    return pa.chunked_array(made, target)


def _long_decimals(parts: Sequence[pa.Array]) -> pa.ChunkedArray:
    """The same for a few that are longer, such as averages."""
    if sum(len(part) for part in parts) > _LONG_ROWS:
        raise native.Unsupported("numerics that are no short decimals")
    rows = [[None if v is None else native.numeric_value(v) for v in part.to_pylist()] for part in parts]
    scales = [-int(v.as_tuple().exponent) for values in rows for v in values if v is not None]
    target = pa.decimal128(_LONG_DIGITS, max(scales, default=0))
    try:
        return pa.chunked_array([pa.array(values, target) for values in rows], target)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise native.Unsupported("numerics of too many digits together") from error


def _split(array: pa.Array) -> tuple[buffers.Int64s, buffers.Int64s, buffers.Vector]:
    """Scales, scaled values and which are not null."""
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    dense = array.drop_null() if array.null_count else array
    scales, values = np.zeros(len(array), np.int64), np.zeros(len(array), np.int64)
    if not len(dense):
        return scales, values, valid
    offsets, data = buffers.byte_parts(dense)
    some, numbers = np.empty(len(dense), np.int64), np.empty(len(dense), np.int64)
    misses = np.empty(len(dense), np.uint32)
    if numeric_kernels.split(offsets, np.frombuffer(data, np.uint8), some, numbers, misses):
        raise native.Unsupported("a numeric that is not a short decimal")
    scales[valid], values[valid] = some, numbers
    return scales, values, valid
