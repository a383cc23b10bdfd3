"""Zstandard over an encoded column chunk; RFC 8878."""

from __future__ import annotations

import pyarrow as pa
import zstandard

from orochi.storage.compression import buffers

ID, NAME = 2, "zstd"


def compress(data: bytes, level: int) -> pa.Buffer:
    """Compressed at `level` (1 to 19)."""
    return pa.py_buffer(zstandard.ZstdCompressor(level=level).compress(data))


def decompress(data: buffers.Data, size: int) -> pa.Buffer:
    """The `size` bytes that were compressed; ValueError when they do not decompress."""
    try:
        return pa.py_buffer(zstandard.ZstdDecompressor().decompress(data, max_output_size=size))
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
