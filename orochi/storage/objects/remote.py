"""An object as a stripe reader reads it: range requests, neighbours in one, several at a time, through the disk cache."""

from __future__ import annotations

import concurrent.futures
import functools
import os
from collections.abc import Hashable, Iterable, Sequence

import pyarrow as pa

from orochi import errors
from orochi.storage.objects import client, diskcache, places

#: Ranges this close are asked for as one: a request costs more than these bytes.
_NEAR_BYTES = 8 << 10
#: Larger ranges are asked for in parts, side by side.
_PART_BYTES = 4 << 20
_THREADS = 8
#: The end of an object that is asked for first: about what a footer takes, and little of what follows.
_LEAST_TAIL, _MOST_TAIL, _TAIL_SHARE = 4 << 10, 64 << 10, 64


@functools.lru_cache(maxsize=1)
def _pool(_process: int) -> concurrent.futures.ThreadPoolExecutor:
    """The process's threads; a forked child makes its own."""
    return concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="orochi-objects")


class RemoteObject:
    """An open object; for one thread.

    Attributes:
        name: for messages.
        key: tells it from every other file.
        size: bytes.
        tail: how many bytes at its end to look for a footer in.
        is_far: True.
    """

    is_far = True

    def __init__(
        self, path: str, cache: diskcache.DiskCache | None, store: client.Store | None = None
    ) -> None:
        """Opens the object of a catalog path; nothing is asked for yet.

        Raises:
            OrochiError: 55000, no store is configured.
        """
        self._object = places.key_of(path)
        self._store = store if store is not None else client.shared()
        self.name = path
        self.size = places.size_of(self._object)
        self.key: Hashable = ("object", self._object, self.size)
        self.tail = min(max(self.size // _TAIL_SHARE, _LEAST_TAIL), _MOST_TAIL)
        self._cache = cache
        self._entry = None if cache is None else cache.open(self._object, self.size)
        self._held: list[tuple[int, bytes]] = []  # without a cache: what was fetched ahead
        self._fetched = False

    def close(self) -> None:
        """Let go of the cached file, and see that the cache keeps to its size."""
        entry, self._entry = self._entry, None
        if entry is not None:
            entry.close()
            if self._fetched:
                entry.trim()
        self._held = []

    def read(self, offset: int, size: int) -> pa.Buffer:
        """`size` bytes in the Arrow pool; fewer at the end.

        Raises:
            StalePlan: the object is gone: it was replaced after the plan was made.
            OrochiError: the store does not give it.
        """
        size = max(0, min(size, self.size - offset))
        buffer = pa.allocate_buffer(size)
        if not size:
            return buffer
        view = memoryview(buffer).cast("B")
        for start, data in self._held:
            if start <= offset and offset + size <= start + len(data):
                view[:] = data[offset - start : offset - start + size]
                return buffer
        entry = self._entry
        gaps = [(offset, size)] if entry is None else entry.missing(offset, size)
        fetched = self._fetch(gaps)
        if entry is not None and gaps != [(offset, size)]:
            entry.read_into(view, offset)
        for start, data in fetched:
            view[start - offset : start - offset + len(data)] = data
        return buffer

    def prefetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Have ranges, as (offset, size), that will be read: all of them at once.

        Raises:
            As `read`.
        """
        wanted: list[tuple[int, int]] = []
        for offset, size in ranges:
            if size > 0:
                wanted += [(offset, size)] if self._entry is None else self._entry.missing(offset, size)
        fetched = self._fetch(together(wanted))
        if self._entry is None:
            self._held = fetched

    def distrust(self) -> bool:
        """What was read is damaged: forget what is cached; whether reading again may help."""
        if self._cache is None or self._entry is None:
            return False
        self._entry.forget()
        self._entry.close()
        self._entry = self._cache.open(self._object, self.size)
        return True

    def _fetch(self, gaps: Sequence[tuple[int, int]]) -> list[tuple[int, bytes]]:
        """Ask the store for parts, and keep them."""
        parts = [
            (at, min(_PART_BYTES, offset + size - at))
            for offset, size in gaps
            for at in range(offset, offset + size, _PART_BYTES)
        ]
        if not parts:
            return []
        self._fetched = True

        def get(part: tuple[int, int]) -> bytes:
            try:
                return self._store.get_range(self._object, *part)
            except FileNotFoundError as error:
                raise errors.StalePlan(f'object "{self._object}" is not in the store any more') from error

        if len(parts) == 1:
            found = [get(parts[0])]
        else:
            found = list(_pool(os.getpid()).map(get, parts))
        if self._entry is not None:
            for (offset, _), data in zip(parts, found, strict=True):
                self._entry.write(offset, data)
        return [(offset, data) for (offset, _), data in zip(parts, found, strict=True)]


def together(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges, as (offset, size), with near ones joined."""
    joined: list[tuple[int, int]] = []
    for offset, size in sorted(ranges):
        if joined and offset <= joined[-1][0] + joined[-1][1] + _NEAR_BYTES:
            start, length = joined[-1]
            joined[-1] = start, max(length, offset + size - start)
        else:
            joined.append((offset, size))
    return joined
