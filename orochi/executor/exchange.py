"""How answers travel: a JSON header and Arrow IPC bytes in one Redis list item, or a file beside it.

A fragment's answer is one or more parts, the last marked so and carrying the statistics. Small
answers travel in the item. Larger ones go into a file where the gateway can map it, which it proves
by a token it wrote there; where it cannot, parts follow one another through Redis, a few at a time.
Parts are numbered: a broken connection may lose what was taken from the list, or put it there twice.
They name their writer: a task that the queue delivers twice answers twice, and its rows may come in another order.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import pathlib
import secrets
import struct
import time
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from orochi import errors

_LENGTH = struct.Struct(">I")
_MARKER = ".token"
#: Where the gateway maps files, a file of this size costs less than an item of Redis.
_MAPPED_BYTES = 256 << 10
#: Parts of one run that may wait in Redis at a time.
_WAITING_PARTS = 8


def pack(header: dict[str, Any], payload: bytes | memoryview | pa.Buffer = b"") -> bytes:
    """One list item."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join((_LENGTH.pack(len(text)), text, payload))


def unpack(item: bytes) -> tuple[dict[str, Any], memoryview]:
    """The inverse of `pack`."""
    (size,) = _LENGTH.unpack_from(item)
    begin = _LENGTH.size + size
    return json.loads(item[_LENGTH.size : begin]), memoryview(item)[begin:]


def read_part(header: dict[str, Any], payload: memoryview) -> list[pa.RecordBatch]:
    """The batches of one part; a file is mapped and its name removed."""
    path = header.get("file")
    if path is None:
        if not payload:
            return []
        with pa.ipc.open_stream(pa.py_buffer(payload)) as reader:
            return list(reader)
    try:
        with open(path, "rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        with pa.ipc.open_stream(pa.py_buffer(mapping)) as reader:
            return Gathered(reader, mapping)
    finally:
        pathlib.Path(path).unlink(missing_ok=True)


class Gathered(list[pa.RecordBatch]):
    """Batches of one answer, or of several, and the mapped files that some of them lie in."""

    def __init__(self, batches: Iterable[pa.RecordBatch] = (), mapping: mmap.mmap | None = None) -> None:
        super().__init__(batches)
        self._mappings = [] if mapping is None else [mapping]

    def add(self, batches: list[pa.RecordBatch]) -> None:
        """Those of another answer, after these."""
        self.extend(batches)
        if isinstance(batches, Gathered):
            self._mappings += batches._mappings

    def forget(self) -> None:
        """Give back the memory of what was read so far; what is read again comes from the files again."""
        for mapping in self._mappings:
            mapping.madvise(mmap.MADV_DONTNEED)


def forget(batches: Iterable[pa.RecordBatch]) -> None:
    """Of batches that are read once: give back the memory of what was read."""
    if isinstance(batches, Gathered):
        batches.forget()


class Answers:
    """The parts of answers that have come so far; an answer counts if each of its parts came."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[int, Gathered]] = {}

    def take(self, header: dict[str, Any], payload: memoryview) -> list[pa.RecordBatch] | None:
        """All batches of an answer whose last part this is; None if it is not, or another part is missing.

        Raises:
            FileNotFoundError: the part's file is gone.
        """
        key = header["writer"]
        count, batches = self._parts.get(key) or (0, Gathered())
        if header["part"] == count:
            batches.add(read_part(header, payload))
            self._parts[key] = (count + 1, batches)
        if not header.get("last"):
            return None
        count, batches = self._parts.pop(key, (0, batches))
        return batches if count == header["part"] + 1 else None


class SharedFolder:
    """A folder of the gateway, and the token in it by which a worker sees that it is the same one."""

    def __init__(self, folder: pathlib.Path, token: str) -> None:
        self.folder = folder
        self.token = token

    @classmethod
    def create(cls, folder: pathlib.Path) -> SharedFolder:
        """Make the folder, with a token that stays: gateways of one folder share it."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        marker = folder / _MARKER
        if not marker.exists():
            token = secrets.token_hex(16)
            own = folder / f"{_MARKER}-{token}"
            own.write_text(token)
            with contextlib.suppress(FileExistsError):  # another gateway was first
                os.link(own, marker)
            own.unlink()
        return cls(folder, marker.read_text())

    def is_visible(self) -> bool:
        """Whether this process sees the gateway's own folder and may write there."""
        try:
            token = (self.folder / _MARKER).read_text()
        except OSError:
            return False
        return bool(token) and token == self.token and os.access(self.folder, os.W_OK)

    def remove(self, prefix: str) -> None:
        """Delete the files that begin with `prefix`."""
        for name in os.listdir(self.folder):  # a pattern would be compiled for each run
            if name.startswith(prefix):
                (self.folder / name).unlink(missing_ok=True)

    def sweep(self, older_than_seconds: float) -> int:
        """Delete what nobody will read: files of gateways that died. How many they were."""
        limit, removed = time.time() - older_than_seconds, 0
        for path in self.folder.glob("*.arrow*"):
            try:
                if path.stat().st_mtime < limit:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:
                continue
        return removed


class ResultWriter:
    """A worker's side of one fragment's answer: takes batches, sends parts."""

    def __init__(
        self,
        header: dict[str, Any],
        send: Callable[[bytes], int],
        *,
        inline_bytes: int,
        folder: SharedFolder | None,
        file_name: str,
        cancelled: Callable[[], bool],
        waiting: Callable[[], int],
    ) -> None:
        """Prepare to answer.

        Args:
            header: what every part says of itself.
            send: appends an item to the run's list.
            inline_bytes: larger answers leave the item; smaller ones too where the gateway maps files.
            folder: where the gateway maps files, None if it cannot see any of ours.
            file_name: what the name of a file begins with.
            cancelled: whether to stop.
            waiting: how many items the list holds.
        """
        writer = secrets.token_hex(8)
        self._header = {**header, "writer": writer}
        self._send = send
        self._inline_bytes = inline_bytes
        self._folder = folder
        self._path = folder.folder / f"{file_name}-{writer}.arrow" if folder is not None else None
        self._cancelled = cancelled
        self._waiting = waiting
        self._sink: pa.NativeFile | None = None
        self._writer: pa.RecordBatchWriter | None = None
        self._held: list[pa.RecordBatch] = []
        self._size = 0
        self._sent = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Take a batch; may wait until the gateway has read earlier ones."""
        if batch.num_rows == 0:
            return
        if self._writer is not None:
            self._writer.write_batch(batch)
            return
        self._held.append(batch)
        self._size += batch.nbytes
        if self._size <= (
            self._inline_bytes if self._path is None else min(self._inline_bytes, _MAPPED_BYTES)
        ):
            return
        if self._path is not None:
            self._open_file(batch.schema)
        else:
            self._send_held({})

    def finish(self, last: dict[str, Any]) -> None:
        """Send the last part, with what `last` adds to its header."""
        header = {**last, "last": True}
        if self._writer is None:
            self._send_held(header)
            return
        self._close_file()
        assert self._path is not None
        if self._cancelled():
            self.abandon()
            raise errors.QueryCanceled("canceling statement due to user request")
        self._send(pack({**self._header, **header, "part": self._sent, "file": str(self._path)}))

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._close_file()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _open_file(self, schema: pa.Schema) -> None:
        assert self._path is not None
        self._sink = pa.OSFile(str(self._path), "wb")
        self._writer = pa.ipc.new_stream(self._sink, schema)
        for batch in self._held:
            self._writer.write_batch(batch)
        self._held.clear()

    def _close_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._sink is not None:
            self._sink.close()
            self._sink = None

    def _send_held(self, header: dict[str, Any]) -> None:
        payload: bytes | pa.Buffer = b""
        if self._held:
            memory = pa.BufferOutputStream()
            with pa.ipc.new_stream(memory, self._held[0].schema) as writer:
                for batch in self._held:
                    writer.write_batch(batch)
            payload = memory.getvalue()
        self._held, self._size = [], 0
        length = self._send(pack({**self._header, **header, "part": self._sent}, payload))
        self._sent += 1
        while length > _WAITING_PARTS and "last" not in header:
            if self._cancelled():
                raise errors.QueryCanceled("canceling statement due to user request")
            time.sleep(0.01)
            length = self._waiting()
