"""LZ4 over an encoded column chunk, in the raw block format (sizes are in the footer)."""

from __future__ import annotations

import lz4.block
import pyarrow as pa

from orochi.storage.compression import buffers

ID, NAME = 1, "lz4"


def compress(data: bytes, level: int) -> pa.Buffer:
    """`level` has no meaning for LZ4's fast mode and is ignored."""
    return pa.py_buffer(lz4.block.compress(data, store_size=False))


def decompress(data: buffers.Data, size: int) -> pa.Buffer:
    """The `size` bytes that were compressed; ValueError when they do not decompress."""
    try:
        return pa.py_buffer(lz4.block.decompress(data, uncompressed_size=size))
    except lz4.block.LZ4BlockError as error:
        raise ValueError(str(error)) from error
