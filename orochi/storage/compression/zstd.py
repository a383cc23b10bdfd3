"""Zstandard over an encoded column chunk; RFC 8878."""

from __future__ import annotations

import threading

import pyarrow as pa
import zstandard

from orochi.storage.compression import buffers

ID, NAME = 2, "zstd"


class _Kept(threading.local):
    """A thread's compressors by level: making one costs as much as compressing a small chunk."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}


_kept = _Kept()


def compress(data: bytes, level: int) -> pa.Buffer:
    """Compressed at `level` (1 to 19)."""
    compressor = _kept.compressors.get(level)
    if compressor is None:
        compressor = _kept.compressors[level] = zstandard.ZstdCompressor(level=level)
    return pa.py_buffer(compressor.compress(data))


def decompress(data: buffers.Data, size: int) -> pa.Buffer:
    """The `size` bytes that were compressed; ValueError when they do not decompress."""
    try:
        return pa.py_buffer(zstandard.ZstdDecompressor().decompress(data, max_output_size=size))
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
