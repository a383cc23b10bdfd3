"""Compiled loops of bloom filters: hashes of values, and bits set and looked up."""

# numba infers the scalars; to mypy they are numpy's, and decorated functions untyped.
# mypy: disallow-untyped-decorators=False
# mypy: disable-error-code="arg-type,assignment,call-overload,no-any-return,operator,return-value"

from __future__ import annotations

import numba
import numpy as np
from numba import types

from orochi.storage.compression.buffers import Vector

_U8_IN = types.Array(types.uint8, 1, "C", readonly=True)
_I32_IN = types.Array(types.int32, 1, "C", readonly=True)
_I64_IN = types.Array(types.int64, 1, "C", readonly=True)
_U32_IN = types.Array(types.uint32, 1, "C", readonly=True)
_U64_IN = types.Array(types.uint64, 1, "C", readonly=True)
_U32 = types.Array(types.uint32, 1, "C")
_U64 = types.Array(types.uint64, 1, "C")

_SALTS = np.array(
    [0x47B6137B, 0x44974D91, 0x8824AD5B, 0xA2B7289D, 0x705495C7, 0x2DF1424B, 0x9EFC4947, 0x5C6BFB31],
    np.uint64,
)
_LOW = np.uint64(0xFFFFFFFF)


@numba.njit(types.uint64(types.uint64), cache=True, nogil=True)
def _mix(value: int) -> int:
    """The finalizer of SplitMix64."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@numba.njit(types.void(_I64_IN, _U64), cache=True, nogil=True)
def hash_integers(values: Vector, out: Vector) -> None:
    """A hash of each integer."""
    for row in range(values.size):
        out[row] = _mix(np.uint64(values[row]) + np.uint64(0x9E3779B97F4A7C15))


@numba.njit(types.void(_I32_IN, _U8_IN, _U64), cache=True, nogil=True)
def hash_octets(offsets: Vector, data: Vector, out: Vector) -> None:
    """A hash of each value's bytes and length."""
    for row in range(out.size):
        at, end = np.int64(offsets[row]), np.int64(offsets[row + 1])
        total = np.uint64(end - at) * np.uint64(0x9E3779B97F4A7C15)
        while at < end:
            word = np.uint64(0)
            size = min(8, end - at)
            for index in range(size):
                word |= np.uint64(data[at + index]) << np.uint64(8 * index)
            total = _mix(total ^ word) + np.uint64(0x9E3779B97F4A7C15)
            at += size
        out[row] = _mix(total)


@numba.njit(types.void(_U64_IN, _U32), cache=True, nogil=True)
def insert(hashes: Vector, words: Vector) -> None:
    """Sets each hash's eight bits in its block of eight words."""
    blocks = np.uint64(words.size // 8)
    for row in range(hashes.size):
        block = np.int64(((hashes[row] >> np.uint64(32)) * blocks) >> np.uint64(32)) * 8
        key = hashes[row] & _LOW
        for lane in range(8):
            bit = ((key * _SALTS[lane]) & _LOW) >> np.uint64(27)
            words[block + lane] |= np.uint32(np.uint64(1) << bit)


@numba.njit(types.boolean(_U64_IN, _U32_IN), cache=True, nogil=True)
def any_found(hashes: Vector, words: Vector) -> bool:
    """Whether the bits of one of the hashes are all set."""
    blocks = np.uint64(words.size // 8)
    for row in range(hashes.size):
        block = np.int64(((hashes[row] >> np.uint64(32)) * blocks) >> np.uint64(32)) * 8
        key = hashes[row] & _LOW
        found = True
        for lane in range(8):
            bit = ((key * _SALTS[lane]) & _LOW) >> np.uint64(27)
            if (np.uint64(words[block + lane]) >> bit) & np.uint64(1) == 0:
                found = False
                break
        if found:
            return True
    return False
