"""The hash that picks a shard is PostgreSQL's own hash of the type, bit for bit.

Every function here equals the server's (`hashint8`, `hashtext`, `uuid_hash`, `timestamp_hash`, ...),
so that a row's shard can be told in SQL as well as here; tests compare them with a real server.
Integers of different widths hash alike when they are equal. NULL belongs to hash 0.

The text hash is Bob Jenkins' lookup3 with PostgreSQL's seed, over the UTF-8 bytes, as it comes
out on little-endian machines and deterministic collations.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orochi import pgtypes
from orochi.engine.kernels import integers
from orochi.sharding import values

#: The hash whose shard holds rows with a NULL distribution column.
NULL_HASH = 0

_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})
_SEED = (0x9E3779B9 + 3923095) & 0xFFFFFFFF
_MASK = 0xFFFFFFFF
_WIDE = frozenset({pgtypes.INT8, pgtypes.TIMESTAMP, pgtypes.TIMESTAMPTZ})
_NARROW = frozenset({pgtypes.INT2, pgtypes.INT4, pgtypes.DATE})
_TEXT = frozenset({pgtypes.TEXT, pgtypes.VARCHAR})

# numpy's stubs do not follow the scalar types through mixed arithmetic
Words = npt.NDArray[Any]


def shard_ranges(count: int) -> list[tuple[int, int]]:
    """`count` inclusive ranges that split the int32 space evenly, in order."""
    width = 2**32 // count
    starts = [-(2**31) + index * width for index in range(count)]
    return list(zip(starts, [start - 1 for start in starts[1:]] + [2**31 - 1], strict=True))


def hash_value(type_oid: int, value: object) -> int:
    """The int32 hash of a carrier value: int for numbers and times, str, or UUID (object or 16 bytes)."""
    if value is None:
        return NULL_HASH
    if type_oid in _TEXT and isinstance(value, str):
        return _signed(_hash_bytes(value.encode()))
    if type_oid == pgtypes.UUID:
        return _signed(_hash_bytes(value.bytes if isinstance(value, uuid.UUID) else bytes(value)))  # type: ignore[call-overload]
    if (type_oid in _NARROW or type_oid in _WIDE) and isinstance(value, int):
        return _signed(_hash_word(_fold(value)))
    raise TypeError(f"cannot hash {type(value).__name__} as type {type_oid}")


def hash_text_value(type_oid: int, text: str, timezone: str = "UTC") -> int | None:
    """The hash of a value given in PostgreSQL's input form; None if only the server can read it.

    Args:
        type_oid: a distributable type.
        text: as in a literal or a text-format parameter.
        timezone: the session's TimeZone.
    """
    value = values.from_text(type_oid, text, timezone)
    return None if value is None else hash_value(type_oid, value)


def hash_wire(
    type_oid: int, data: bytes | None, wire_format: int, settings: Mapping[str, str] = _NO_SETTINGS
) -> int | None:
    """The hash of a bound parameter of type `type_oid`; None if only the server can read it.

    `settings` are the session's GUCs, of which TimeZone matters.
    """
    if data is None:
        return NULL_HASH
    value = values.from_wire(type_oid, data, wire_format, values.timezone(settings))
    return None if value is None else hash_value(type_oid, value)


def hash_column(type_oid: int, column: pa.Array) -> npt.NDArray[np.int32]:
    """The hash of every value of a carrier column, NULLs as `NULL_HASH`."""
    if type_oid in _TEXT or type_oid == pgtypes.UUID:
        hashed = _hash_binary_column(column)
    elif type_oid in _NARROW or type_oid in _WIDE:
        filled = column.fill_null(0) if column.null_count else column
        raw = filled.to_numpy(zero_copy_only=False)
        raw = raw.astype(np.int32 if raw.dtype.itemsize <= 4 else np.int64, copy=False)
        hashed = np.empty(len(raw), np.uint32)
        integers.hashed(raw, (_SEED + 4) & _MASK, hashed)
    else:
        raise TypeError(f"cannot distribute by type {type_oid}")
    if column.null_count:
        hashed[np.asarray(column.is_null())] = NULL_HASH
    return hashed.view(np.int32)


def _signed(value: int) -> int:
    return value - 2**32 if value >= 2**31 else value


def _fold(value: int) -> int:
    # hashint8: xor of the halves, arranged so that equal int4 and int2 values hash alike
    low, high = value & _MASK, (value >> 32) & _MASK
    return (low ^ (~high if value < 0 else high)) & _MASK


def _rotate(value: Any, bits: int) -> Any:
    return (value << bits) | (value >> (32 - bits))


def _rotate_int(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & _MASK


def _mix(a: Any, b: Any, c: Any, rotate: Callable[[Any, int], Any], mask: Any) -> tuple[Any, Any, Any]:
    for bits in (4, 6, 8, 16, 19, 4):
        # each step of lookup3's mix() is this one with the roles of a, b, c moved on
        a = ((a - c) & mask) ^ rotate(c, bits)
        c = (c + b) & mask
        a, b, c = b, c, a
    return a, b, c


def _finish(a: Any, b: Any, c: Any, rotate: Callable[[Any, int], Any], mask: Any) -> Any:
    for bits in (14, 11, 25, 16, 4, 14, 24):
        # likewise for final(): c ^= b; c -= rot(b), and on to a, b, c, ...
        c = ((c ^ b) - rotate(b, bits)) & mask
        a, b, c = b, c, a
    return b


def _hash_word(word: int) -> int:
    start = (_SEED + 4) & _MASK
    result: int = _finish((start + word) & _MASK, start, start, _rotate_int, _MASK)
    return result


def _hash_bytes(data: bytes) -> int:
    a = b = c = (_SEED + len(data)) & _MASK
    whole = len(data) - len(data) % 12
    for at in range(0, whole, 12):
        a = (a + int.from_bytes(data[at : at + 4], "little")) & _MASK
        b = (b + int.from_bytes(data[at + 4 : at + 8], "little")) & _MASK
        c = (c + int.from_bytes(data[at + 8 : at + 12], "little")) & _MASK
        a, b, c = _mix(a, b, c, _rotate_int, _MASK)
    tail = data[whole:]
    a = (a + int.from_bytes(tail[0:4], "little")) & _MASK
    b = (b + int.from_bytes(tail[4:8], "little")) & _MASK
    c = (c + (int.from_bytes(tail[8:12], "little") << 8)) & _MASK  # the low byte of c is the length's
    result: int = _finish(a, b, c, _rotate_int, _MASK)
    return result


def _hash_binary_column(column: pa.Array) -> Words:
    count = len(column)
    if count == 0:
        return np.empty(0, np.uint32)
    _, offset_buffer, data_buffer = column.buffers()
    wide = pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type)
    offsets = np.frombuffer(offset_buffer, np.int64 if wide else np.int32)
    offsets = offsets[column.offset : column.offset + count + 1].astype(np.int64)
    first, last = int(offsets[0]), int(offsets[-1])
    data = np.zeros(last - first + 12, np.uint8)  # padded: a tail may be read 11 bytes past the end
    if last > first:
        data[: last - first] = np.frombuffer(data_buffer, np.uint8)[first:last]
    starts, lengths = offsets[:-1] - first, np.diff(offsets)
    mask = np.uint32(_MASK)
    a = (np.uint32(_SEED) + lengths.astype(np.uint32)).astype(np.uint32)
    b, c = a.copy(), a.copy()
    blocks = lengths // 12
    for block in range(int(blocks.max())):
        rows = np.flatnonzero(blocks > block)
        at = starts[rows] + block * 12
        mixed = _mix(
            a[rows] + _word(data, at),
            b[rows] + _word(data, at + 4),
            c[rows] + _word(data, at + 8),
            _rotate,
            mask,
        )
        a[rows], b[rows], c[rows] = mixed
    at, left = starts + blocks * 12, lengths % 12
    a += _word(data, at) & _keep(left)
    b += _word(data, at + 4) & _keep(left - 4)
    c += (_word(data, at + 8) & _keep(left - 8)) << np.uint32(8)
    result: Words = _finish(a, b, c, _rotate, mask)
    return result


def _word(data: npt.NDArray[np.uint8], at: npt.NDArray[Any]) -> Words:
    word: Words = data[at].astype(np.uint32)
    for index in (1, 2, 3):
        word |= data[at + index].astype(np.uint32) << np.uint32(8 * index)
    return word


def _keep(length: npt.NDArray[Any]) -> Words:
    """A mask of the low `length` bytes of a word, `length` clipped to 0..4."""
    masks = np.array([0, 0xFF, 0xFFFF, 0xFFFFFF, 0xFFFFFFFF], np.uint32)
    kept: Words = masks[np.clip(length, 0, 4)]
    return kept
