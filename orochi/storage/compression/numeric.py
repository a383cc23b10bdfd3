"""Numeric: PostgreSQL's decimals as scaled integers and scales, each an `integers` stream.

`numeric(15,2)` is what DECIMAL is to column stores that keep it as int64 (Abadi, Madden, Ferreira,
"Integrating Compression and Execution in Column-Oriented Database Systems", SIGMOD 2006, on frames
of reference over them), but its binary form is base 10,000 with its own display scale, and
`1.0` is not `1.00`: so scales are kept, usually a constant that takes nothing. Values beyond 18
digits, NaN and infinities are kept as they are.

The codec looks at bytes, not at types: any binary column that is made of canonical numerics fits.

    exception count u32, 0 u32, scales, values (`integers` streams)
    exceptions' positions u32 each (padded), exceptions as plain binary
"""

from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orochi.storage.compression import buffers, integers, plain

ID, NAME = 9, "numeric"

_HEADER = struct.Struct("<II")
#: Above this share of exceptions another codec does better.
_MOST_EXCEPTIONS = 0.1
_TRIED = 256


class NotScaledError(Exception):
    """A numeric that is not an integer of the scale asked for."""


def encode(array: pa.Array) -> bytes | None:
    """None for types that are not binary, for values that are not numerics, and when it saves nothing."""
    if not pa.types.is_binary(array.type) or len(array) == 0:
        return None
    if _split(array.slice(0, _TRIED)) is None:
        return None
    found = _split(array)
    if found is None:
        return None
    scales, values, misses = found
    positions = misses.tobytes()
    kept = plain.pack(array.take(pa.array(misses))) if len(misses) else b""
    data = b"".join(
        (
            _HEADER.pack(len(misses), 0),
            integers.encode(scales, (0,)),
            integers.encode(values, (0, 1, 2)),
            positions,
            bytes(buffers.pad(len(positions))),
            kept,
        )
    )
    return data if len(data) < len(array) + int(buffers.byte_parts(array)[0][-1]) else None


def decode(data: buffers.Data, count: int, arrow_type: pa.DataType) -> pa.Array:
    """The inverse of `encode`."""
    from orochi.storage.compression import numeric_kernels

    if count == 0:
        return pa.array([], arrow_type)
    scales, values, misses, octets = _streams(data, count)
    offset_buffer, offsets = buffers.allocate(count + 1, np.dtype(np.int32))
    body = pa.allocate_buffer(count * numeric_kernels.MOST_BYTES, resizable=True)
    size = numeric_kernels.write(scales, values, offsets, np.frombuffer(body, np.uint8))
    if size < 0:
        raise ValueError("numeric out of range")
    body.resize(size, shrink_to_fit=True)
    array = pa.Array.from_buffers(arrow_type, count, [None, offset_buffer, body])
    if not misses:
        return array
    end = misses * 4
    positions = octets[:end].view(np.uint32)
    if int(positions.max()) >= count:
        raise ValueError("exception outside the vector")
    mask = np.zeros(count, np.bool_)
    mask[positions] = True
    kept = plain.decode(octets[end + buffers.pad(end) :], misses, arrow_type)
    return pc.replace_with_mask(array, pa.array(mask), kept)


def scaled_into(data: buffers.Data, out: buffers.Int64s, scale: int) -> bool:
    """The values times ten to the `scale` into `out`; False if one of them is not such an integer.

    What engines compute on: no digit of the binary form is written or read.
    """
    from orochi.storage.compression import numeric_kernels

    if not len(out):
        return True
    octets = buffers.raw(data)
    misses, _ = _HEADER.unpack_from(octets.data)
    if misses:
        return False
    scales = np.empty(len(out), np.int64)
    at = _HEADER.size + integers.decode_into(octets[_HEADER.size :], scales)
    integers.decode_into(octets[at:], out)
    if scales[0] == scale and (scales == scale).all():
        return True
    return bool(numeric_kernels.rescale(scales, scale, out))


def fill_scaled(data: buffers.Data, out: buffers.Vector, scale: int) -> None:
    """`scaled_into`, with NotScaledError for False."""
    if not scaled_into(data, out, scale):
        raise NotScaledError


def scale_dense(array: pa.Array, out: buffers.Vector, scale: int) -> None:
    """The same for dense values in binary form."""
    from orochi.storage.compression import numeric_kernels

    found = _split(array, most=0)
    if found is None or not numeric_kernels.rescale(found[0], scale, found[1]):
        raise NotScaledError
    out[:] = found[1]


def scaled(array: pa.Array, decimals: int) -> pa.Array | None:
    """Numerics in binary form, nulls among them, as int64 times ten to `decimals`; None if one is not."""
    buffer, out = buffers.allocate(len(array), np.dtype(np.int64))
    valid = array.is_valid()
    try:
        if not array.null_count:
            scale_dense(array, out, decimals)
            return buffers.wrap(pa.int64(), len(array), buffer)
        dense = np.empty(len(array) - array.null_count, np.int64)
        scale_dense(array.drop_null(), dense, decimals)
    except NotScaledError:
        return None
    flags = valid.to_numpy(zero_copy_only=False)
    out[:] = 0
    out[flags] = dense
    return pa.Array.from_buffers(
        pa.int64(),
        len(array),
        [pa.py_buffer(np.packbits(flags, bitorder="little")), buffer],
        array.null_count,
    )


def _split(
    array: pa.Array, most: float = _MOST_EXCEPTIONS
) -> tuple[buffers.Int64s, buffers.Int64s, buffers.Vector] | None:
    from orochi.storage.compression import numeric_kernels

    offsets, data = buffers.byte_parts(array)
    scales, values = np.empty(len(array), np.int64), np.empty(len(array), np.int64)
    misses = np.empty(len(array), np.uint32)
    octets = np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)
    found = numeric_kernels.split(offsets, octets, scales, values, misses)
    return None if found > len(array) * most else (scales, values, misses[:found])


def _streams(data: buffers.Data, count: int) -> tuple[buffers.Int64s, buffers.Int64s, int, buffers.Vector]:
    """Scales, values, how many exceptions, and what lies after the streams."""
    octets = buffers.raw(data)
    misses, _ = _HEADER.unpack_from(octets.data)
    scales, values = np.empty(count, np.int64), np.empty(count, np.int64)
    at = _HEADER.size + integers.decode_into(octets[_HEADER.size :], scales)
    at += integers.decode_into(octets[at:], values)
    return scales, values, misses, octets[at:]
