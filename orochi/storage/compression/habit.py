"""A column's choice of codec, kept from chunk group to chunk group while it does as well.

Trying every codec costs several times what encoding by the best one does. A load that must be fast asks
for the choice once, and again when a chunk comes out much larger than the last ones did. Whatever is
chosen decodes to the same values.
"""

from __future__ import annotations

import pyarrow as pa

from orochi.storage.compression import alp, chooser, registry

#: Bytes a value may take, relative to those of the chunk that was chosen for, before it is chosen anew.
_ALLOWANCE = 1.25
_SLACK_BYTES = 256
#: Fewer values say nothing of the column: any codec does as well for them.
_LEAST_VALUES = 1000


class Habit:
    """What was best for a column so far."""

    def __init__(self) -> None:
        self._codec: int | None = None
        self._block = 0
        self._bytes_per_value = 0.0
        self._orders: tuple[int, ...] = alp.ORDERS

    def encode(
        self, array: pa.Array, *, compression: str, level: int, codec: str | None, prefix: bytes
    ) -> chooser.Encoded:
        """What `chooser.encode` does, by the codec of last time where that still serves."""
        if self._codec is not None and codec is None and len(array):
            found = self._as_before(array, level, prefix)
            if found is not None:
                return found
        chosen = chooser.encode(array, compression=compression, level=level, codec=codec, prefix=prefix)
        if len(array) >= _LEAST_VALUES:
            self._codec, self._block = chosen.codec, chosen.block
            self._bytes_per_value = (len(chosen.data) - len(prefix)) / len(array)
            self._orders = alp.ORDERS
        return chosen

    def _as_before(self, array: pa.Array, level: int, prefix: bytes) -> chooser.Encoded | None:
        assert self._codec is not None
        if self._codec == alp.ID:
            data = alp.encode(array, self._orders)
        else:
            data = registry.CODECS[self._codec].encode(array)
        if data is None:
            return None
        if self._codec == alp.ID:
            self._orders = (alp.order_of(data),)
        whole = prefix + data
        stored = registry.BLOCKS[self._block].compress(whole, level) if self._block else whole
        limit = self._bytes_per_value * len(array) * _ALLOWANCE + len(prefix) + _SLACK_BYTES
        if len(stored) > limit or len(stored) > len(whole):
            return None
        return chooser.Encoded(self._codec, self._block, len(whole), stored)
