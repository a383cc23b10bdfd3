"""Parts of objects on local disk, bounded in bytes and shared by the worker processes of a node.

An object has one sparse file: its parts at their own offsets, and behind the object's end a journal of
which parts are there. A part is entered after its bytes are written. What a crash of the machine left
unwritten shows as a wrong checksum, upon which the reader forgets the file and asks the store. Least
recently opened objects go first; who has a file open keeps what it had.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import pathlib
import struct
from collections.abc import Iterator

_RECORD = struct.Struct("<QQ")
_SUFFIX = ".parts"
_BLOCK = 512


class DiskCache:
    """The folder of a node's cached objects."""

    def __init__(self, folder: pathlib.Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes

    def open(self, key: str, size: int) -> Entry | None:
        """What is here of an object of `size` bytes; None if nothing can be kept."""
        if self._limit <= 0:
            return None
        path = self._folder / (hashlib.sha256(key.encode()).hexdigest()[:40] + _SUFFIX)
        try:
            return Entry(self, path, size)
        except OSError:
            return None  # a full or read-only disk: the store has everything

    def size(self) -> int:
        """Bytes on disk."""
        return sum(found.size for found in self._files())

    def trim(self) -> None:
        """Remove the least recently used objects until the rest fits."""
        files = sorted(self._files(), key=lambda found: found.used)
        total = sum(found.size for found in files)
        for found in files:
            if total <= self._limit:
                return
            with contextlib.suppress(OSError):
                found.path.unlink()
            total -= found.size

    def _files(self) -> list[_File]:
        found = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(_SUFFIX):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat()
                        found.append(
                            _File(pathlib.Path(entry.path), status.st_blocks * _BLOCK, status.st_mtime_ns)
                        )
        return found


@dataclasses.dataclass(frozen=True, slots=True)
class _File:
    path: pathlib.Path
    size: int
    used: int


class Entry:
    """One object's cached parts."""

    def __init__(self, cache: DiskCache, path: pathlib.Path, size: int) -> None:
        self._cache = cache
        self._path = path
        self._size = size
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with self._locked() as descriptor:
                if os.fstat(descriptor).st_size < size:
                    os.ftruncate(descriptor, size)
            os.utime(descriptor)
            self._parts: list[tuple[int, int]] = []
            self._journal = size
            self._catch_up()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def missing(self, offset: int, length: int) -> list[tuple[int, int]]:
        """The parts of a range, as (offset, length), that are not here."""
        self._catch_up()
        gaps, at, end = [], offset, offset + length
        for start, stop in self._parts:
            if stop <= at:
                continue
            if start >= end:
                break
            if start > at:
                gaps.append((at, start - at))
            at = stop
        if at < end:
            gaps.append((at, end - at))
        return gaps

    def read_into(self, view: memoryview, offset: int) -> bool:
        """Fill `view` with what is here; whether it was."""
        done = 0
        while done < len(view):
            got = os.preadv(self._open(), [view[done:]], offset + done)
            if got == 0:
                return False
            done += got
        return True

    def write(self, offset: int, data: bytes) -> bool:
        """Keep a part; whether the disk took it."""
        try:
            at = 0
            while at < len(data):
                at += os.pwrite(self._open(), data[at:], offset + at)
            with self._locked() as descriptor:
                end = os.fstat(descriptor).st_size
                end -= (end - self._size) % _RECORD.size
                os.pwrite(descriptor, _RECORD.pack(offset, len(data)), end)
        except OSError:
            return False
        return True

    def forget(self) -> None:
        """Remove the object's file: something in it is wrong."""
        with contextlib.suppress(OSError):
            self._path.unlink()

    def trim(self) -> None:
        """Keep the whole cache within its bounds."""
        self._cache.trim()

    def _open(self) -> int:
        if self._descriptor is None:
            raise ValueError("the cached object is closed")
        return self._descriptor

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        descriptor = self._open()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield descriptor
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _catch_up(self) -> None:
        """Read what was entered since, by any process."""
        descriptor = self._open()
        end = os.fstat(descriptor).st_size
        count = (end - self._journal) // _RECORD.size
        if count <= 0:
            return
        data = os.pread(descriptor, count * _RECORD.size, self._journal)
        fresh = [
            (offset, offset + length)
            for offset, length in _RECORD.iter_unpack(data[: len(data) // _RECORD.size * _RECORD.size])
            if length and offset + length <= self._size
        ]
        self._journal += len(data) // _RECORD.size * _RECORD.size
        merged: list[tuple[int, int]] = []
        for start, stop in sorted([*self._parts, *fresh]):
            if merged and start <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(stop, merged[-1][1])
            else:
                merged.append((start, stop))
        self._parts = merged
