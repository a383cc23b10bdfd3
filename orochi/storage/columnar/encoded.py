"""Chunks of a column as the file has them, for loops that use values as they decode them.

Decoding a whole column first would write and read memory that nothing else needs, and in a young process the kernel
would have to find that memory.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orochi.storage.columnar.scan import runs
from orochi.storage.compression import (
    alp,
    buffers,
    delta,
    delta_of_delta,
    frame_of_reference,
    registry,
    rle,
)

#: By number: the codecs of doubles, and of integers, that there are such loops for.
_DOUBLES = np.isin(np.arange(256), [alp.ID])
_INTEGERS = np.isin(np.arange(256), [frame_of_reference.ID, delta.ID, delta_of_delta.ID, rle.ID])
_UNCOMPRESSED = registry.BLOCK_IDS["none"]

#: A footer's records of a column.
Records = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """Chunks of one column, none with a null; their checksums fit.

    Attributes:
        is_float: whether they are `alp` doubles; else 64-bit integers.
        words, starts, ends, counts, kinds: as in `bulk_kernels`.
        decode: the values as an array, for whom there is no such loop; DataCorrupted if they make no sense.
    """

    is_float: bool
    words: buffers.Vector
    starts: buffers.Int64s
    ends: buffers.Int64s
    counts: buffers.Int64s
    kinds: buffers.Int64s
    decode: Callable[[], pa.Array]


def can_be(records: Records, arrow: pa.DataType) -> bool:
    """Whether chunks with these records are doubles or 64-bit integers, without nulls and not compressed again."""
    if arrow == pa.float64():
        codecs = _DOUBLES
    elif arrow == pa.int64():
        codecs = _INTEGERS
    else:
        return False
    if records["nulls"].any() or not records["rows"].all() or (records["block"] != _UNCOMPRESSED).any():
        return False
    return bool(len(records) and codecs[records["codec"]].all())


def read(
    records: Records,
    groups: Sequence[int],
    arrow: pa.DataType,
    source: Callable[[int, int], pa.Buffer],
    decode: Callable[[], pa.Array],
) -> Encoded | None:
    """The chunks of some groups; None if one is damaged, or as `can_be` says.

    Args:
        records: of all chunks of the column.
        groups: ascending, one at least.
        arrow: the column's carrier type.
        source: reads so many bytes at an offset of the file.
        decode: for `Encoded`.
    """
    together = len(groups) == groups[-1] - groups[0] + 1
    chosen = records[groups[0] : groups[-1] + 1] if together else records[list(groups)]
    if not can_be(chosen, arrow):
        return None
    pieces, starts, ends, size = [], [], [], 0
    for run in [groups] if together else runs(groups):
        part = records[run[0] : run[-1] + 1]
        begins = part["offset"].astype(np.int64)
        stops = begins + (part["stored"].astype(np.int64) + 7) // 8 * 8
        words = _words(begins, stops, part["checksum"], source)
        if words is None:
            return None
        pieces.append(words)
        first = begins[0] - size
        starts.append((begins - first) >> 3)
        ends.append((stops - first) >> 3)
        size += words.nbytes
    return Encoded(
        arrow == pa.float64(),
        _joined(pieces),
        _joined(starts),
        _joined(ends),
        chosen["rows"].astype(np.int64),
        (chosen["codec"] == rle.ID).astype(np.int64),
        decode,
    )


def _words(
    begins: buffers.Int64s, ends: buffers.Int64s, checksums: Records, source: Callable[[int, int], pa.Buffer]
) -> buffers.Vector | None:
    """The bytes of neighbouring chunks; None if they are not what was written."""
    first = int(begins[0])
    data = source(first, int(ends[-1]) - first)
    view, at = memoryview(data), 0
    for end, checksum in zip((ends - first).tolist(), checksums.tolist(), strict=True):
        if len(view) < end or zlib.crc32(view[at:end]) != checksum:
            return None
        at = end
    return buffers.raw(data).view(np.uint64)


def _joined(pieces: list[buffers.Vector]) -> buffers.Vector:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
