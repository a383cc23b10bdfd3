"""All chunks of a column in one compiled call, where their codecs allow it and no value is null.

What these loops decline, the codecs decode one chunk at a time: the answer is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa

from orochi.storage.columnar import format as layout
from orochi.storage.compression import (
    alp,
    buffers,
    delta,
    delta_of_delta,
    frame_of_reference,
    numeric,
    registry,
    rle,
    shared_dictionary,
)

_STREAMS = frozenset({frame_of_reference.NAME, delta.NAME, delta_of_delta.NAME, rle.NAME})

#: Chunks' words in memory: where each begins and ends.
Loop = Callable[["Words", buffers.Vector], int]


class Words:
    """Decompressed chunks side by side, as 64-bit words."""

    def __init__(self, stored: Iterable[pa.Buffer], parts: Sequence[layout.ColumnChunk]) -> None:
        sizes = np.array([chunk.payload_size + buffers.pad(chunk.payload_size) for chunk in parts], np.int64)
        self.ends = np.cumsum(sizes) // 8
        self.starts = self.ends - sizes // 8
        self.counts = np.array([chunk.stats.rows for chunk in parts], np.int64)
        self.kinds = np.array([chunk.codec == rle.NAME for chunk in parts], np.int64)
        _, octets = buffers.allocate(int(sizes.sum()), np.dtype(np.uint8))
        self.words = octets.view(np.uint64)
        at = 0
        for data, chunk, size in zip(stored, parts, sizes.tolist(), strict=True):
            payload = data.slice(0, chunk.stored_size)
            if chunk.block != "none":
                block = registry.BLOCKS[registry.BLOCK_IDS[chunk.block]]
                payload = block.decompress(payload, chunk.payload_size)
            octets[at : at + len(payload)] = np.frombuffer(payload, np.uint8)
            octets[at + len(payload) : at + size] = 0
            at += size


def loop_for(
    parts: Sequence[layout.ColumnChunk],
    dtype: np.dtype[np.generic],
    *,
    distinct: int | None = None,
    scale: int | None = None,
) -> Loop | None:
    """The loop that decodes these chunks into values of a type, or None when there is none.

    Args:
        parts: chunks of one column.
        dtype: the values' type.
        distinct: they are codes into a dictionary of so many values.
        scale: they are numerics, wanted times ten to this.
    """
    codecs = {chunk.codec for chunk in parts}
    if not parts or any(chunk.stats.null_count or not chunk.stats.rows for chunk in parts):
        return None
    if distinct is not None:
        return _codes(distinct) if codecs == {shared_dictionary.NAME} else None
    if scale is not None:
        return _decimals(scale) if codecs == {numeric.NAME} else None
    if dtype == np.float64 and codecs == {alp.NAME}:
        return _doubles
    return _integers if dtype in (np.int64, np.int32) and codecs <= _STREAMS else None


def _integers(found: Words, out: buffers.Vector) -> int:
    from orochi.storage.compression import bulk_kernels

    loop = bulk_kernels.integers if out.dtype == np.int64 else bulk_kernels.narrow_integers
    return int(loop(found.words, found.starts, found.ends, found.counts, found.kinds, out))


def _doubles(found: Words, out: buffers.Vector) -> int:
    from orochi.storage.compression import bulk_kernels

    return int(bulk_kernels.doubles(found.words, found.starts, found.ends, found.counts, out))


def _codes(distinct: int) -> Loop:
    def loop(found: Words, out: buffers.Vector) -> int:
        from orochi.storage.compression import bulk_kernels

        return int(bulk_kernels.codes(found.words, found.starts, found.ends, found.counts, distinct, out))

    return loop


def _decimals(scale: int) -> Loop:
    def loop(found: Words, out: buffers.Vector) -> int:
        from orochi.storage.compression import bulk_kernels

        return int(bulk_kernels.decimals(found.words, found.starts, found.ends, found.counts, scale, out))

    return loop
