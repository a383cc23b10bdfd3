"""The codecs by id and name. Ids are on disk: a retired one is never given out again."""

from __future__ import annotations

from typing import Protocol, cast

import pyarrow as pa

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
    rle,
    shared_dictionary,
    xor,
    zstd,
)


class Codec(Protocol):
    """A module that encodes dense arrays of some carrier types."""

    @property
    def ID(self) -> int:  # noqa: N802 - a module constant
        """Its number on disk."""

    @property
    def NAME(self) -> str:  # noqa: N802 - a module constant
        """Its name in the catalog and in options."""

    def encode(self, array: pa.Array) -> bytes | None:
        """The encoded values, or None when the codec does not fit or does not save."""

    def decode(self, data: buffers.Data, count: int, arrow_type: pa.DataType) -> pa.Array:
        """The inverse of `encode`; ValueError or struct.error when the bytes make no sense."""


class FixedCodec(Codec, Protocol):
    """A codec that can decode fixed-width values into a vector already there."""

    def decode_into(self, data: buffers.Data, out: buffers.Vector) -> None:
        """The values into `out`, whose length is the count."""


class BlockCompressor(Protocol):
    """A module that compresses bytes of any kind."""

    @property
    def ID(self) -> int:  # noqa: N802 - a module constant
        """Its number on disk; 0 means none."""

    @property
    def NAME(self) -> str:  # noqa: N802 - a module constant
        """Its name in the catalog and in options."""

    def compress(self, data: bytes, level: int) -> pa.Buffer:
        """The compressed bytes."""

    def decompress(self, data: buffers.Data, size: int) -> pa.Buffer:
        """The inverse of `compress`."""


FIXED: dict[int, FixedCodec] = {
    module.ID: cast("FixedCodec", module)
    for module in (plain, frame_of_reference, delta, delta_of_delta, dictionary, rle, gorilla, xor, alp)
}
CODECS: dict[int, Codec] = {
    **FIXED,
    boolean.ID: cast("Codec", boolean),
    numeric.ID: cast("Codec", numeric),
}
CODEC_IDS: dict[str, int] = {codec.NAME: number for number, codec in CODECS.items()}

#: All encodings of column chunks, those too that are no codec by themselves.
IDS: dict[str, int] = {**CODEC_IDS, shared_dictionary.NAME: shared_dictionary.ID}
NAMES: dict[int, str] = {number: name for name, number in IDS.items()}

BLOCKS: dict[int, BlockCompressor] = {module.ID: cast("BlockCompressor", module) for module in (lz4, zstd)}
BLOCK_IDS: dict[str, int] = {"none": 0} | {block.NAME: number for number, block in BLOCKS.items()}
BLOCK_NAMES: dict[int, str] = {number: name for name, number in BLOCK_IDS.items()}
