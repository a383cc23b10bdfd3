"""Framing of the PostgreSQL protocol: bytes in, whole messages out, no I/O.

A length is checked before anything is allocated for it, so that a hostile peer can neither make
the process reserve memory nor step backwards. Lengths include themselves, so less than 4 is never
valid.
"""

from __future__ import annotations

import struct

from orochi import errors

#: The longest packet accepted before authentication, as in PostgreSQL (MAX_STARTUP_PACKET_LENGTH).
STARTUP_LIMIT = 10_000
#: The longest authentication answer of a client (PG_MAX_AUTH_TOKEN_LENGTH).
AUTH_LIMIT = 65_535
#: The longest message, as in PostgreSQL (PQ_LARGE_MESSAGE_LIMIT).
MESSAGE_LIMIT = 0x3FFFFFFF

PROTOCOL_MAJOR = 3
CANCEL_REQUEST = 80_877_102
SSL_REQUEST = 80_877_103
GSSENC_REQUEST = 80_877_104

#: Unpacks the length field of a message at an offset.
length_at = struct.Struct("!i").unpack_from


def startup_packet(buffer: bytes | bytearray) -> tuple[int, bytes, int] | None:
    """The startup packet at the start of `buffer`: its code, its body and its end; None if incomplete.

    Raises:
        ProtocolViolation: the length is impossible.
    """
    if len(buffer) < 4:
        return None
    (length,) = length_at(buffer, 0)
    if length < 8 or length > STARTUP_LIMIT:
        raise errors.ProtocolViolation("invalid length of startup packet")
    if len(buffer) < length:
        return None
    (code,) = length_at(buffer, 4)
    return code, bytes(buffer[8:length]), length


def check_length(kind: int, length: int, limit: int = MESSAGE_LIMIT) -> None:
    """Refuse a length field that no message can have.

    Raises:
        ProtocolViolation: `length` is below 4 or above `limit`.
    """
    if length < 4 or length > limit:
        raise errors.ProtocolViolation(f'invalid message length {length} for message type "{chr(kind)}"')


class Splitter:
    """Cuts a stream of bytes into messages, whatever pieces it arrives in.

    Attributes:
        limit: the longest message accepted.
    """

    __slots__ = ("_buffer", "_start", "limit")

    def __init__(self, limit: int = MESSAGE_LIMIT) -> None:
        self.limit = limit
        self._buffer = bytearray()
        self._start = 0

    def __len__(self) -> int:
        """Bytes held and not yet taken."""
        return len(self._buffer) - self._start

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes."""
        if self._start > 65_536:
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    def missing(self) -> int:
        """How many more bytes the next message needs; 0 when one is whole."""
        have = len(self._buffer) - self._start
        if have < 5:
            return 5 - have
        length: int = length_at(self._buffer, self._start + 1)[0]
        check_length(self._buffer[self._start], length, self.limit)
        return max(0, 1 + length - have)

    def peek(self, offset: int = 0) -> tuple[int, int, int] | None:
        """The message `offset` bytes after the next one: kind, payload start, end, as offsets for `slice`."""
        start = self._start + offset
        if len(self._buffer) - start < 5:
            return None
        kind = self._buffer[start]
        (length,) = length_at(self._buffer, start + 1)
        check_length(kind, length, self.limit)
        if len(self._buffer) - start < 1 + length:
            return None
        return kind, offset + 5, offset + 1 + length

    def slice(self, start: int, end: int) -> bytes:
        """Bytes at offsets relative to the next message, as `peek` tells them."""
        return bytes(self._buffer[self._start + start : self._start + end])

    def next(self) -> tuple[int, bytes] | None:
        """Take the next whole message: its type byte and its payload; None if there is none."""
        found = self.peek()
        if found is None:
            return None
        kind, start, end = found
        payload = self.slice(start, end)
        self.skip(end)
        return kind, payload

    def take_run(self, kind: int) -> list[bytes]:
        """Take the payloads of all whole messages of type `kind` that come next."""
        buffer, start, size = self._buffer, self._start, len(self._buffer)
        payloads = []
        while size - start >= 5 and buffer[start] == kind:
            (length,) = length_at(buffer, start + 1)
            check_length(kind, length, self.limit)
            end = start + 1 + length
            if end > size:
                break
            payloads.append(bytes(buffer[start + 5 : end]))
            start = end
        self.skip(start - self._start)
        return payloads

    def skip(self, size: int) -> None:
        """Drop `size` bytes that were peeked at."""
        self._start += size
        if self._start >= len(self._buffer):
            self._buffer.clear()
            self._start = 0

    def take(self) -> bytes:
        """Take everything that is held, cut or not."""
        data = bytes(self._buffer[self._start :])
        self._buffer.clear()
        self._start = 0
        return data


def split_rows(data: bytes | bytearray | memoryview, start: int, limit: int) -> tuple[int, int]:
    """Walk over up to `limit` whole messages from `start`: the end offset and how many they were."""
    size, count = len(data), 0
    while count < limit and size - start >= 5:
        end = start + 1 + length_at(data, start + 1)[0]
        if end > size:
            break
        start = end
        count += 1
    return start, count
