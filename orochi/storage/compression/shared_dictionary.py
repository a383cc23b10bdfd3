"""Codes into a dictionary that all chunks of a column share; the dictionary lies beside them.

One dictionary a stripe (as the global dictionaries of Abadi, Madden, Ferreira, SIGMOD 2006): codes
mean the same in every chunk group, so engines group and compare by them. The codes themselves are
runs where those are shorter (`rle`), else packed (`integers`). It is not a codec of its own: the
reader brings the dictionary.

    1 if runs u8, 0 u8 ×7, codes
"""

from __future__ import annotations

import numpy as np

from orochi.storage.compression import buffers, integers, rle

ID, NAME = 11, "shared_dictionary"

_HEADER = 8
#: Runs of more values on average take less than a bit a value.
_LONG = 200


def encode(codes: buffers.Int64s) -> bytes:
    """The codes (not negative, at least one) as bytes."""
    runs = rle.encode_integers(codes)
    if runs is None or rle.count(runs) * _LONG > len(codes):
        packed = integers.encode(codes, (0,))
        if runs is None or len(runs) >= len(packed):
            return bytes(_HEADER) + packed
    return b"\x01" + bytes(_HEADER - 1) + runs


def decode_into(data: buffers.Data, out: buffers.Vector, distinct: int) -> None:
    """The codes into `out`, int32; ValueError if one does not lie in a dictionary of `distinct` values."""
    from orochi.storage.compression import int_kernels

    if not len(out):
        return
    octets = buffers.raw(data)
    wide = np.empty(len(out), np.int64)
    if octets[0]:
        rle.decode_into(octets[_HEADER:], wide)
    else:
        integers.decode_into(octets[_HEADER:], wide)
    if not int_kernels.narrow_codes(wide, distinct, out):
        raise ValueError("code outside the dictionary")
