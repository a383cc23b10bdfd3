"""Compiled loop for the hash of integers: the final steps of lookup3 over one word, as PostgreSQL's `hashint8` takes them."""

# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types

from orochi.engine.kernels.copyrows import Vector

_I32_IN = types.Array(types.int32, 1, "C", readonly=True)
_I64_IN = types.Array(types.int64, 1, "C", readonly=True)
_U32 = types.Array(types.uint32, 1, "C")


@numba.njit(inline="always")
def _rotate(value: Any, bits: int) -> Any:
    return np.uint32(np.uint32(value << np.uint32(bits)) | np.uint32(value >> np.uint32(32 - bits)))


@numba.njit(
    [types.void(_I32_IN, types.uint32, _U32), types.void(_I64_IN, types.uint32, _U32)],
    cache=True,
    nogil=True,
)
def hashed(values: Vector, start: int, hashes: Vector) -> None:
    """The hash of every value.

    Args:
        values: integers of any width that is given here; equal ones hash alike.
        start: what the three words of the state begin with.
        hashes: they are written there.
    """
    for row in range(values.size):
        value = np.int64(values[row])
        high = np.uint32(value >> 32)
        word = np.uint32(np.uint32(value) ^ (np.uint32(~high) if value < 0 else high))
        a, b, c = np.uint32(start + word), np.uint32(start), np.uint32(start)
        c = np.uint32(np.uint32(c ^ b) - _rotate(b, 14))
        a = np.uint32(np.uint32(a ^ c) - _rotate(c, 11))
        b = np.uint32(np.uint32(b ^ a) - _rotate(a, 25))
        c = np.uint32(np.uint32(c ^ b) - _rotate(b, 16))
        a = np.uint32(np.uint32(a ^ c) - _rotate(c, 4))
        b = np.uint32(np.uint32(b ^ a) - _rotate(a, 14))
        c = np.uint32(np.uint32(c ^ b) - _rotate(b, 24))
        hashes[row] = c
