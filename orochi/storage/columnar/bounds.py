"""Minimum, maximum and sum of a column chunk as the footer keeps them."""

from __future__ import annotations

import struct
from typing import Any

import pyarrow as pa

from orochi.storage.compression import buffers

_HEAP_REF = struct.Struct("<II")


def pack_bound(value: Any, arrow: pa.DataType, heap: bytearray) -> bytes:
    """A minimum or maximum as 8 bytes; strings and binary go to the heap."""
    if value is None:
        return bytes(8)
    if pa.types.is_floating(arrow):
        return struct.pack("<d", value)
    if not buffers.is_bytes(arrow):
        return struct.pack("<q", value)
    octets = value.encode() if isinstance(value, str) else value
    reference = _HEAP_REF.pack(len(heap), len(octets))
    heap.extend(octets)
    return reference


def unpack_bound(data: bytes, arrow: pa.DataType, heap: bytes) -> Any:
    """The inverse of `pack_bound`."""
    if pa.types.is_floating(arrow):
        return struct.unpack("<d", data)[0]
    if not buffers.is_bytes(arrow):
        return struct.unpack("<q", data)[0]
    start, length = _HEAP_REF.unpack(data)
    octets = heap[start : start + length]
    return octets.decode() if pa.types.is_string(arrow) else octets


def pack_sum(value: float | None) -> bytes:
    """A sum as 16 bytes."""
    if value is None:
        return bytes(16)
    if isinstance(value, int):
        return value.to_bytes(16, "little", signed=True)
    return struct.pack("<dQ", value, 0)


def unpack_sum(data: bytes, arrow: pa.DataType) -> int | float:
    """The inverse of `pack_sum`."""
    if pa.types.is_floating(arrow):
        return float(struct.unpack_from("<d", data)[0])
    return int.from_bytes(data, "little", signed=True)


def text(value: Any) -> str | None:
    """A bound as text for the catalog; binary as hexadecimal."""
    if value is None or isinstance(value, str):
        return value
    return value.hex() if isinstance(value, bytes) else str(value)
