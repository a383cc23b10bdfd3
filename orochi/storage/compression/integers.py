"""Vectors of int64 as patched, bit-packed residuals of order 0, 1 or 2.

Order 0 packs the values (frame of reference), order 1 their differences, order 2 the differences
of differences. Before packing, a greatest common divisor is taken out (timestamps of whole
seconds, prices of whole cents) and a base is subtracted: the minimum, a low quantile, or the
median with zigzag folding, whichever needs fewest bits. Values that do not fit the chosen width
are patched in afterwards (PFOR: Zukowski, Heman, Nes, Boncz, "Super-Scalar RAM-CPU Cache
Compression", ICDE 2006), so one outlier never widens all.

Stream, little-endian, every part a multiple of 8 bytes:

    order u8, width u8, zigzag u8, 0 u8, exception count u32
    first i64, first difference i64 (0 below order 1, 2), base i64, scale i64
    packed words, exceptions u64 each, their positions u32 each (padded)
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence

import numpy as np

from orochi.storage.compression import buffers

_HEADER = struct.Struct("<BBBBIqqqq")
_EXCEPTION_BYTES = 12
#: Width and base are judged by about this many values; a bad guess costs exceptions, never values.
_JUDGED = 2048
#: The order of differences is judged by runs of this length.
_TRIED = 768
#: Quantiles are of about this many.
_RANKED = 256
_MASK = (1 << 64) - 1


@dataclasses.dataclass(frozen=True, slots=True)
class _Plan:
    """How one vector of differences will be packed, and what it will take."""

    base: int
    scale: int
    zigzag: bool
    width: int
    size: int


def encode(values: buffers.Int64s, orders: Sequence[int]) -> bytes:
    """The smallest stream for `values` among the given orders."""
    best: tuple[_Plan, int, buffers.Int64s] | None = None
    if len(orders) > 1 and len(values) > 4 * _TRIED:
        orders = (_promising(values, orders),)
    for order in orders:
        if order > len(values):
            continue
        differences = _differences(values, order)
        plan = _plan(differences)
        if best is None or plan.size < best[0].size:
            best = plan, order, differences
    if best is None:
        raise ValueError("no order fits the vector")
    plan, order, differences = best
    first = int(values[0]) if order else 0
    step = _wrap(int(values[1]) - first) if order == 2 else 0
    return _pack(differences, plan, order, first, step)


def order_of(data: bytes) -> int:
    """The order of differences of the stream that starts `data`."""
    return data[0]


def _promising(values: buffers.Int64s, orders: Sequence[int]) -> int:
    """The order that packs two runs of the values best."""
    sizes = dict.fromkeys(orders, 0)
    for start in (len(values) // 5, 4 * len(values) // 5 - _TRIED):
        run = values[start : start + _TRIED]
        for order in orders:
            sizes[order] += _plan(_differences(run, order)).size
    return min(orders, key=lambda order: sizes[order])


def decode_into(data: buffers.Data, out: buffers.Int64s) -> int:
    """Fills `out` with the values of the stream that starts `data`; the stream's length in bytes."""
    from orochi.storage.compression import int_kernels

    octets = buffers.raw(data)
    order, width, zigzag, _, exceptions, first, step, base, scale = _HEADER.unpack_from(octets.data)
    if order > min(2, len(out)) or width > 64:
        raise ValueError("malformed integer stream")
    target = out if order == 0 else np.empty(len(out) - order, np.int64)
    end = _HEADER.size + _word_count(len(target), width) * 8
    if len(octets) < end + exceptions * _EXCEPTION_BYTES:
        raise ValueError("integer stream too short")
    if width:
        int_kernels.unpack(octets[_HEADER.size : end].view(np.uint64), width, target)
    else:
        target[:] = 0
    if exceptions:
        bits = octets[end : end + exceptions * 8].view(np.uint64)
        end += exceptions * 8
        positions = octets[end : end + exceptions * 4].view(np.uint32)
        end += exceptions * 4 + buffers.pad(exceptions * 4)
        if int(positions.max()) >= len(target):
            raise ValueError("exception outside the vector")
        int_kernels.patch(target, positions, bits)
    if base or zigzag or scale != 1:
        int_kernels.restore(target, base, scale, bool(zigzag))
    if order == 1:
        int_kernels.running_sum(target, first, out)
    elif order == 2:
        int_kernels.double_running_sum(target, first, step, out)
    return end


def _differences(values: buffers.Int64s, order: int) -> buffers.Int64s:
    for _ in range(order):
        values = values[1:] - values[:-1]
    return values


def _plan(values: buffers.Int64s) -> _Plan:
    """The cheapest base, scale and width for packing `values`."""
    from orochi.storage.compression import int_kernels

    if not len(values):
        return _Plan(0, 1, False, 0, _HEADER.size)
    base, scale, zigzag, width, size = int_kernels.cheapest(values, _JUDGED, _RANKED, _EXCEPTION_BYTES)
    return _Plan(base, scale, zigzag, width, _HEADER.size + size)


def _pack(values: buffers.Int64s, plan: _Plan, order: int, first: int, step: int) -> bytes:
    from orochi.storage.compression import int_kernels

    folded = np.empty(len(values), np.uint64)
    int_kernels.residuals(values, plan.base, plan.scale, plan.zigzag, folded)
    positions, exceptions = np.empty(len(values), np.uint32), np.empty(len(values), np.uint64)
    found = 0
    if plan.width < 64:
        found = int_kernels.extract_exceptions(folded, plan.width, positions, exceptions)
    words = np.zeros(_word_count(len(values), plan.width), np.uint64)
    if plan.width:
        int_kernels.pack(folded, plan.width, words)
    header = _HEADER.pack(order, plan.width, plan.zigzag, 0, found, first, step, plan.base, plan.scale)
    tail = positions[:found].tobytes()
    return b"".join(
        (header, words.tobytes(), exceptions[:found].tobytes(), tail, bytes(buffers.pad(len(tail))))
    )


def _word_count(count: int, width: int) -> int:
    blocks, rest = divmod(count, 1024)
    return blocks * 16 * width + -(-rest * width // 64)


def _wrap(value: int) -> int:
    """A Python integer reduced to int64, as machine arithmetic would."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value
