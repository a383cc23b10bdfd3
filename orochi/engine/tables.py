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


def forms(scan: contract.Scan) -> reader.Forms:
    """How a scan's columns are to come out of stripes."""
    scales = {}
    for column in scan.columns:
        if column.type_oid == pgtypes.NUMERIC and column.typmod >= 0:
            _, scales[column.name] = native.numeric_typmod(column.typmod)
    return reader.Forms(scaled=scales)


def table(batches: Iterable[pa.RecordBatch], columns: Sequence[contract.OutputColumn]) -> pa.Table:
    """Carrier batches, decimals scaled or not, as a table of native types.

    Raises:
        Unsupported: a type or a value has no native form.
    """
    loose = [n for n, column in enumerate(columns) if _is_loose(column)]
    if not loose:
        converted = [native.to_native(batch, columns) for batch in batches]
        return pa.Table.from_batches(converted, schema=native.native_schema(columns))
    listed = list(batches)
    arrays, fields = [], []
    for position, column in enumerate(columns):
        if position in loose:
            made = _decimals([batch.column(position) for batch in listed])
        else:
            kind = native.native_schema([column]).field(0).type
            parts = [native.to_native(batch.select([position]), [column]).column(0) for batch in listed]
            made = pa.chunked_array(parts, kind)
        arrays.append(made)
        fields.append(pa.field(column.name, made.type))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _is_loose(column: contract.OutputColumn) -> bool:
    return column.type_oid == pgtypes.NUMERIC and column.typmod < 0


def _decimals(parts: Sequence[pa.Array]) -> pa.ChunkedArray:
    """Numerics of any scales as decimals of the greatest.

    Raises:
        Unsupported: one is NaN or infinite, or too long then.
    """
    found = [_split(part) for part in parts]
    scale = max((int(scales.max()) for scales, _, _ in found if len(scales)), default=0)
    target = pa.decimal64(_DIGITS, scale)
    made = []
    for scales, values, valid in found:
        if not numeric_kernels.rescale(scales, scale, values):
            raise native.Unsupported("numerics of too many digits together")
        bitmap = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
        made.append(pa.Array.from_buffers(target, len(values), [bitmap, pa.py_buffer(values)]))
    return pa.chunked_array(made, target)


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
