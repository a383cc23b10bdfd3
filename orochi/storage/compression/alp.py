"""ALP: doubles that are decimals as scaled integers, the others patched in.

Afroozeh, Kuffo, Boncz, "ALP: Adaptive Lossless floating-Point Compression", SIGMOD 2024. Here a
value is `integer / 10**k`: the division is correctly rounded, so every decimal of up to 15 digits
comes back bit for bit with the smallest `k`, and no second factor is needed. The integers are an
`integers` stream of order 0, 1 or 2; values that do not come back (NaN, -0.0, full precision) are
kept by their bits.

    k u8, 0 u8 ×3, exception count u32
    exceptions' bits (u64 each), their positions u32 each (padded), integers
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from orochi.storage.compression import buffers, integers

ID, NAME = 8, "alp"

_HEADER = struct.Struct("<BBBBI")
ORDERS = (0, 1, 2)
_SAMPLE = 256
_MOST_DIGITS = 15
#: Above this share of exceptions another codec does better.
_MOST_EXCEPTIONS = 0.1


def encode(array: pa.Array, orders: Sequence[int] = ORDERS) -> bytes | None:
    """None for types that are not floats, for few decimals, and when it saves nothing.

    `orders` are those of differences that the integers may be packed by.
    """
    if not pa.types.is_floating(array.type) or len(array) == 0:
        return None
    vector = buffers.values(array)
    digits = _digits(vector[:: -(-len(vector) // _SAMPLE)])
    if digits is None:
        return None
    whole, misses = _scale(vector, digits)
    if len(misses) > len(vector) * _MOST_EXCEPTIONS:
        return None
    positions = misses.tobytes()
    data = b"".join(
        (
            _HEADER.pack(digits, 0, 0, 0, len(misses)),
            _bits(vector)[misses].tobytes(),
            positions,
            bytes(buffers.pad(len(positions))),
            integers.encode(whole, orders),
        )
    )
    return data if len(data) < vector.nbytes else None


def order_of(data: bytes) -> int:
    """The order of differences that `encode` packed the integers by."""
    _, _, _, _, missed = _HEADER.unpack_from(data)
    at = _HEADER.size + missed * 12
    return integers.order_of(data[at + buffers.pad(missed * 4) :][:1])


def decode(data: buffers.Data, count: int, arrow_type: pa.DataType) -> pa.Array:
    """The inverse of `encode`."""
    dtype = buffers.dtype_of(arrow_type)
    if dtype is None:
        raise ValueError(f"{arrow_type} is not a float type")
    buffer, out = buffers.allocate(count, dtype)
    decode_into(data, out)
    return buffers.wrap(arrow_type, count, buffer)


def decode_into(data: buffers.Data, out: buffers.Vector) -> None:
    """Values into `out`."""
    from orochi.storage.compression import float_kernels

    if not len(out):
        return
    octets = buffers.raw(data)
    digits, _, _, _, missed = _HEADER.unpack_from(octets.data)
    middle = _HEADER.size + missed * 8
    end = middle + missed * 4
    whole = np.empty(len(out), np.int64)
    integers.decode_into(octets[end + buffers.pad(missed * 4) :], whole)
    single = out.dtype == np.float32
    target = np.empty(len(out), np.float64) if single else out
    float_kernels.alp_decode(whole, 10.0**digits, target)
    if single:
        with np.errstate(all="ignore"):
            np.copyto(out, target, casting="unsafe")
    if missed:
        exact = octets[_HEADER.size : middle].view(np.uint64)
        positions = octets[middle:end].view(np.uint32)
        kept = out.view(np.uint32 if single else np.uint64)
        kept[positions] = exact.astype(kept.dtype)


def _digits(sample: buffers.Vector) -> int | None:
    """The fewest decimals that give back almost all of the sample, or None."""
    best: tuple[int, int] | None = None
    for digits in range(_MOST_DIGITS + 1):
        _, misses = _scale(sample, digits)
        if best is None or len(misses) < best[0]:
            best = len(misses), digits
        if not len(misses):
            break
    if best is None or best[0] > len(sample) * _MOST_EXCEPTIONS:
        return None
    return best[1]


def _scale(vector: buffers.Vector, digits: int) -> tuple[buffers.Int64s, buffers.Vector]:
    from orochi.storage.compression import float_kernels

    whole, misses = np.empty(len(vector), np.int64), np.empty(len(vector), np.uint32)
    single = vector.dtype == np.float32
    with np.errstate(invalid="ignore"):  # signalling NaN
        wide = np.ascontiguousarray(vector, np.float64)
    found = float_kernels.alp_encode(wide, _bits(vector), 10.0**digits, single, whole, misses)
    return whole, misses[:found]


def _bits(vector: buffers.Vector) -> buffers.Vector:
    if vector.dtype == np.float64:
        return np.ascontiguousarray(vector).view(np.uint64)
    return np.ascontiguousarray(vector).view(np.uint32).astype(np.uint64)
