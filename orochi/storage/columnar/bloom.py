"""Bloom filters of column chunks: whether a chunk group can hold one of some values.

Split-block filters (Putze, Sanders, Singler, "Cache-, Hash- and Space-Efficient Bloom Filters",
JEA 2009; the layout is Parquet's): a value sets one bit in each of the eight words of one block.
A column has them where minimum and maximum say little, equality is likely to be asked (many
distinct integers, strings, UUIDs), and they are small beside the values.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orochi import pgtypes
from orochi.storage.columnar import predicates, skiplist
from orochi.storage.compression import buffers

BLOCK_BYTES = 32
_BITS_PER_VALUE = 10
#: A column's filters take at most this share of its chunks.
_SHARE = 0.15
_LEAST_ROWS = 1000
_SAMPLE = 1024

_OIDS = skiplist.BOUNDED_BYTES | {pgtypes.INT4, pgtypes.INT8, pgtypes.OID}


def size(count: int) -> int:
    """Bytes of the filter of a chunk of `count` values that are not null."""
    return BLOCK_BYTES * -(-count * _BITS_PER_VALUE // (BLOCK_BYTES * 8))


def wanted(column: pa.ChunkedArray, type_oid: int, parts: Sequence[skiplist.Stats], stored: int) -> bool:
    """Whether a column whose chunks take `stored` bytes should have filters."""
    if type_oid not in _OIDS or len(column) < _LEAST_ROWS:
        return False
    if sum(size(part.rows - part.null_count) for part in parts) > stored * _SHARE or _apart(parts):
        return False
    step = max(1, len(column) // _SAMPLE)
    sample = column.take(pa.array(np.arange(0, len(column), step))).drop_null()
    return len(pc.unique(sample)) * 2 > len(sample)


def build(array: pa.Array) -> bytes:
    """The filter of a chunk's values; nulls are in no filter."""
    from orochi.storage.columnar import bloom_kernels

    dense = array.drop_null()
    words = np.zeros(size(len(dense)) // 4, np.uint32)
    if len(dense):
        bloom_kernels.insert(_hashes(dense), words)
    return words.tobytes()


def keys(condition: predicates.Condition, arrow_type: pa.DataType) -> buffers.Vector | None:
    """Hashes of the only values that can pass, or None when the condition is not an equality."""
    values: Sequence[object]
    if isinstance(condition, predicates.Members):
        values = condition.values
    elif isinstance(condition, predicates.Range) and condition.low is not None:
        if condition.low != condition.high:
            return None
        values = (condition.low,)
    else:
        return None
    return _hashes(pa.array(values, arrow_type))


def may_hold(octets: buffers.Vector, hashes: buffers.Vector) -> bool:
    """Whether a chunk with this filter can hold a value with one of the hashes."""
    from orochi.storage.columnar import bloom_kernels

    return len(octets) > 0 and bool(bloom_kernels.any_found(hashes, octets.view(np.uint32)))


def _hashes(array: pa.Array) -> buffers.Vector:
    from orochi.storage.columnar import bloom_kernels

    out = np.empty(len(array), np.uint64)
    if buffers.is_bytes(array.type):
        offsets, data = buffers.byte_parts(array)
        octets = np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)
        bloom_kernels.hash_octets(offsets, octets, out)
    else:
        bloom_kernels.hash_integers(buffers.as_int64(array), out)
    return out


def _apart(parts: Sequence[skiplist.Stats]) -> bool:
    """Whether most chunks' bounds do not meet the next one's: bounds prune well enough."""
    pairs = list(itertools.pairwise(parts))
    apart = 0
    for one, other in pairs:
        bounds = (one.minimum, one.maximum, other.minimum, other.maximum)
        if all(bound is not None for bound in bounds):
            apart += predicates.less(one.maximum, other.minimum) or predicates.less(
                other.maximum, one.minimum
            )
    return apart * 2 > len(pairs)
