"""Minimum, maximum and sum of a column chunk as the footer keeps them."""

from __future__ import annotations

import struct
from collections.abc import Callable
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


def pack_sum(value: float | None) -> bytes:
    """A sum as 16 bytes."""
    if value is None:
        return bytes(16)
    if isinstance(value, int):
        return value.to_bytes(16, "little", signed=True)
    return struct.pack("<dQ", value, 0)


def reader_of(arrow: pa.DataType, heap: bytes) -> tuple[str, Callable[..., tuple[Any, Any, Any]]]:
    """How a column's minimum, maximum and sum are read: their 32 bytes as fields of a struct, and values of these."""
    if pa.types.is_floating(arrow):
        return "ddd8x", lambda low, high, total: (low, high, total)
    if not buffers.is_bytes(arrow):
        return "qq16s", lambda low, high, total: (low, high, _whole(total))

    def octets(start: int, length: int) -> str | bytes:
        found = heap[start : start + length]
        return found.decode() if pa.types.is_string(arrow) else found

    def values(start: int, length: int, begin: int, size: int, total: bytes) -> tuple[Any, Any, Any]:
        return octets(start, length), octets(begin, size), _whole(total)

    return "IIII16s", values


def _whole(total: bytes) -> int:
    return int.from_bytes(total, "little", signed=True)


def text(value: Any) -> str | None:
    """A bound as text for the catalog; binary as hexadecimal."""
    if value is None or isinstance(value, str):
        return value
    return value.hex() if isinstance(value, bytes) else str(value)
