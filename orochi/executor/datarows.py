"""DataRow messages in binary format as carrier batches: less their headers they are rows of binary COPY."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pyarrow as pa

from orochi.engine import copybinary


class Collector:
    """Keeps rows as they come."""

    def __init__(self, columns: Sequence[copybinary.Column]) -> None:
        self._decoder = copybinary.Decoder(columns)
        self._batches: list[pa.RecordBatch] = self._decoder.feed(copybinary.HEADER)

    def rows(self, data: bytes | memoryview, count: int) -> None:
        """Keep `count` whole messages, which are all of `data`."""
        view, at, pieces = memoryview(data), 0, []
        for _ in range(count):
            (length,) = struct.unpack_from("!i", view, at + 1)
            pieces.append(view[at + 5 : at + 1 + length])
            at += 1 + length
        self._batches += self._decoder.feed(b"".join(pieces))

    def finish(self) -> list[pa.RecordBatch]:
        """All rows."""
        self._batches += self._decoder.feed(copybinary.TRAILER)
        return self._batches + self._decoder.finish()
