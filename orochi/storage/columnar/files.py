"""What a stripe reader reads from: a local file here, an object in `orochi.storage.objects`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Hashable, Iterable
from typing import Protocol

import pyarrow as pa

from orochi.storage.columnar import cache as caching

_TAIL_BYTES = 32 << 10


class Source(Protocol):
    """An open stripe's bytes; for one thread.

    Attributes:
        name: for messages.
        key: tells it from every other stripe, for caches.
        size: bytes.
        tail: how many bytes at its end to look for a footer in.
        is_far: whether it is worth to tell what will be read.
    """

    name: str
    key: Hashable
    size: int
    tail: int
    is_far: bool

    def read(self, offset: int, size: int) -> pa.Buffer:
        """Bytes in the Arrow pool; fewer at the end."""

    def prefetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Have ranges, as (offset, size), that will be read."""

    def distrust(self) -> bool:
        """What was read is damaged; whether reading it again may help."""

    def close(self) -> None:
        """Let go of it; a second time does nothing."""


def _will_need(descriptor: int, offset: int, size: int) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_WILLNEED)


def foresee(path: str | os.PathLike[str]) -> None:
    """Have the kernel begin to read what opening the stripe file will read, if it is there."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            start = max(os.fstat(descriptor).st_size - _TAIL_BYTES, 0)
            for offset in (start, 0) if start else (0,):
                _will_need(descriptor, offset, _TAIL_BYTES if offset == start else 1)
        finally:
            os.close(descriptor)


class LocalFile:
    """A file of this host, as a `Source`."""

    tail = _TAIL_BYTES
    is_far = False

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens it.

        Raises:
            FileNotFoundError: there is no such file.
        """
        self.name = os.fspath(path)
        self._descriptor: int | None = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(self._descriptor)
        self.key: Hashable = caching.file_key(status)
        self.size = status.st_size

    def close(self) -> None:
        """Closes the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def read(self, offset: int, size: int) -> pa.Buffer:
        """`size` bytes of the file in the Arrow pool; fewer at its end."""
        if self._descriptor is None:
            raise ValueError("the stripe is closed")
        buffer = pa.allocate_buffer(size)
        view = memoryview(buffer)
        done = 0
        while done < size:
            got = os.preadv(self._descriptor, [view[done:]], offset + done)
            if got == 0:
                return buffer.slice(0, done)
            done += got
        return buffer

    def prefetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Have the kernel begin to read what it has not in memory; it waits for nothing."""
        if self._descriptor is not None:
            for offset, size in ranges:
                _will_need(self._descriptor, offset, size)

    def distrust(self) -> bool:
        """Reading again would give the same."""
        return False
