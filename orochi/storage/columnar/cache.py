"""A cache of footers and decoded columns in one process, bounded in bytes.

Stripes never change, so an entry is right as long as its file is the same file (device, inode,
size, time of change); entries of deleted files age out. Least recently used goes first. Arrays are
shared between readers and never written to.
"""

from __future__ import annotations

import collections
import functools
import os
import threading
from collections.abc import Hashable
from typing import Any

from orochi import metrics, settings


class Cache:
    """A thread-safe LRU map whose values are charged by size."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._entries: collections.OrderedDict[Hashable, tuple[Any, int]] = collections.OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """What the entries were charged."""
        return self._size

    def get(self, key: Hashable) -> Any:
        """The value, now the most recently used, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                metrics.CACHE_MISS.inc()
                return None
            metrics.CACHE_HIT.inc()
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: Hashable, value: Any, size: int) -> bool:
        """Keeps `value`; False for one larger than a quarter of the bound, which is not kept."""
        if size > self.limit_bytes // 4:
            return False
        with self._lock:
            _, old = self._entries.pop(key, (None, 0))
            self._entries[key] = (value, size)
            self._size += size - old
            while self._size > self.limit_bytes:
                _, (_, dropped) = self._entries.popitem(last=False)
                self._size -= dropped
        return True

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._entries.clear()
            self._size = 0


class Unfilled(Cache):
    """A cache that is only read: for what is decoded once, to keep something small that is made of it."""

    def __init__(self, kept: Cache) -> None:
        super().__init__(0)
        self._kept = kept

    def get(self, key: Hashable) -> Any:
        """What the other cache has."""
        return self._kept.get(key)

    def put(self, key: Hashable, value: Any, size: int) -> bool:
        """Keeps nothing."""
        return False


def file_key(status: os.stat_result) -> tuple[int, int, int, int]:
    """What tells a file from every other file."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=1)
def shared() -> Cache:
    """The process's cache, of the size that the settings give."""
    return Cache(settings.get().cache_size_mb << 20)
