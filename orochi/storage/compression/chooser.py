"""Picks codec and block compressor for each column chunk, from a sample of its values.

The sample is a few contiguous runs, so that both value ranges and neighbourhoods show. Every codec
that knows the type encodes the sample; the best two then encode the chunk, and the smaller result,
after block compression, is stored. Whatever is chosen decodes to the same values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pyarrow as pa

from orochi import errors
from orochi.storage.compression import (
    alp,
    boolean,
    buffers,
    delta,
    delta_of_delta,
    dictionary,
    frame_of_reference,
    gorilla,
    lz4,
    numeric,
    plain,
    registry,
    rle,
    shared_dictionary,
    xor,
    zstd,
)

COMPRESSIONS = ("auto", "zstd", "lz4", "none")

_RUNS, _RUN = 4, 256
#: Block compression must save more than this share to be worth decompressing.
_SAVING = 0.10
#: Bit-packed integers unpack ten times faster than anything decompresses: much must be saved there, and a
#: piece of large ones tells whether it can be.
_PACKED_SAVING = 0.25
_PIECE = 4096
_LEAST_BLOCK = 64
#: LZ4 decodes several times faster than Zstandard: it may be this much larger.
_LZ4_ALLOWANCE = 1.15
#: What a byte counts for with each codec. Bit-serial decoding must be worth it; numerics are computed on
#: without their binary form, and codes without their strings.
_WEIGHTS = {gorilla.ID: 1.5, numeric.ID: 0.75}
_PLAIN_BYTES_WEIGHT = 1.15
#: Smaller than this all are alike, and the one that decodes faster is taken.
_LEAST_COST = 256

_PACKED = frozenset(
    {frame_of_reference.ID, delta.ID, delta_of_delta.ID, alp.ID, numeric.ID, shared_dictionary.ID}
)

_INTEGER = (frame_of_reference.ID, delta.ID, delta_of_delta.ID, rle.ID, dictionary.ID, plain.ID)
_FLOAT = (alp.ID, dictionary.ID, rle.ID, xor.ID, gorilla.ID, plain.ID)
_TEXT = (dictionary.ID, rle.ID, plain.ID)
_BYTES = (numeric.ID, *_TEXT)


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """A dense array as bytes: `payload_size` is what `data` decompresses to."""

    codec: int
    block: int
    payload_size: int
    data: pa.Buffer | bytes


def encode(
    array: pa.Array, *, compression: str, level: int, codec: str | None = None, prefix: bytes = b""
) -> Encoded:
    """The dense `array`, encoded by the best codec or by the one named, after `prefix`.

    A forced codec that does not fit the values gives way to plain.
    """
    finalists = _finalists(array) if codec is None else (_codec_id(codec),)
    best: Encoded | None = None
    for number in finalists:
        data = registry.CODECS[number].encode(array)
        if data is None:
            continue
        stored, block = _compress(prefix + data, compression, level, packed=number in _PACKED)
        cost = _cost(number, len(stored), array.type)
        if best is None or cost < _cost(best.codec, len(best.data), array.type):
            best = Encoded(number, block, len(prefix) + len(data), stored)
    if best is not None:
        return best
    fallback = boolean if pa.types.is_boolean(array.type) else plain
    data = prefix + (fallback.encode(array) or b"")
    stored, block = _compress(data, compression, level, packed=False)
    return Encoded(fallback.ID, block, len(data), stored)


def fitting(arrow_type: pa.DataType) -> tuple[str, ...]:
    """Names of the codecs that values of a carrier type can be encoded by."""
    numbers = (boolean.ID,) if pa.types.is_boolean(arrow_type) else _candidates(arrow_type)
    return tuple(registry.CODECS[number].NAME for number in numbers)


def store(data: bytes, codec: int, *, compression: str, level: int) -> Encoded:
    """Bytes already encoded, block-compressed when that saves enough."""
    stored, block = _compress(data, compression, level, packed=codec in _PACKED)
    return Encoded(codec, block, len(data), stored)


def _codec_id(name: str) -> int:
    number = registry.CODEC_IDS.get(name)
    if number is None:
        raise errors.InvalidParameter(
            f'unknown codec "{name}"', hint=f"Codecs are {', '.join(sorted(registry.CODEC_IDS))}."
        )
    return number


def _finalists(array: pa.Array) -> tuple[int, ...]:
    """The most promising codecs for `array`, judged by its sample."""
    if pa.types.is_boolean(array.type):
        return (boolean.ID,)
    if len(array) == 0:
        return (plain.ID,)
    sample = _sample(array)
    sizes: list[tuple[float, int]] = []
    for number in _candidates(array.type):
        data = registry.CODECS[number].encode(sample)
        if data is not None:
            sizes.append((_cost(number, len(data), array.type), number))
    sizes.sort(key=lambda item: item[0])
    chosen = [number for _, number in sizes[:2]]
    if buffers.is_bytes(array.type) and plain.ID not in chosen:
        chosen.append(plain.ID)
    return tuple(chosen)


def _cost(number: int, size: int, arrow_type: pa.DataType) -> float:
    weight = _WEIGHTS.get(number, 1.0)
    if number == plain.ID and buffers.is_bytes(arrow_type):
        weight = _PLAIN_BYTES_WEIGHT
    return max(size, _LEAST_COST) * weight


def _candidates(arrow_type: pa.DataType) -> Sequence[int]:
    if buffers.is_bytes(arrow_type):
        return _BYTES if pa.types.is_binary(arrow_type) else _TEXT
    return _FLOAT if pa.types.is_floating(arrow_type) else _INTEGER


def _sample(array: pa.Array) -> pa.Array:
    if len(array) <= _RUNS * _RUN:
        return array
    step = (len(array) - _RUN) // (_RUNS - 1)
    return pa.concat_arrays([array.slice(run * step, _RUN) for run in range(_RUNS)])


def _compress(data: bytes, compression: str, level: int, *, packed: bool) -> tuple[pa.Buffer | bytes, int]:
    """`data`, block-compressed when the option allows and enough is saved."""
    saving = _PACKED_SAVING if packed and compression == "auto" else _SAVING
    limit = len(data) * (1 - saving)
    if compression == "none" or len(data) < _LEAST_BLOCK:
        return data, 0
    if packed and len(data) > 2 * _PIECE and len(zstd.compress(data[:_PIECE], 1)) > _PIECE * (1 - saving / 2):
        return data, 0
    if compression == "lz4":
        packed_data = lz4.compress(data, level)
        return (packed_data, lz4.ID) if len(packed_data) < limit else (data, 0)
    dense = zstd.compress(data, level)
    if compression == "auto":
        fast = lz4.compress(data, level)
        if len(fast) < limit and len(fast) <= len(dense) * _LZ4_ALLOWANCE:
            return fast, lz4.ID
    return (dense, zstd.ID) if len(dense) < limit else (data, 0)
