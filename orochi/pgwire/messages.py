"""Messages of the PostgreSQL protocol as values: builders give bytes, parsers take payloads.

Text is UTF-8 with `surrogateescape`, so that what is passed on is passed on byte for byte even
where a peer uses another encoding.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping, Sequence

from orochi import errors

_INT = struct.Struct("!i")
_SHORT = struct.Struct("!h")
_PARSE_COUNT = struct.Struct("!H")
_HEADER = struct.Struct("!ci")
_FIELD = struct.Struct("!IhIhih")

SYNC = b"S\x00\x00\x00\x04"
FLUSH = b"H\x00\x00\x00\x04"
TERMINATE = b"X\x00\x00\x00\x04"
COPY_DONE = b"c\x00\x00\x00\x04"
EXECUTE_ALL = b"E\x00\x00\x00\x09\x00\x00\x00\x00\x00"
DESCRIBE_PORTAL = b"D\x00\x00\x00\x06P\x00"
PARSE_COMPLETE = b"1\x00\x00\x00\x04"
BIND_COMPLETE = b"2\x00\x00\x00\x04"
CLOSE_COMPLETE = b"3\x00\x00\x00\x04"
NO_DATA = b"n\x00\x00\x00\x04"
EMPTY_QUERY = b"I\x00\x00\x00\x04"
PORTAL_SUSPENDED = b"s\x00\x00\x00\x04"
READY_IDLE = b"Z\x00\x00\x00\x05I"


@dataclasses.dataclass(frozen=True, slots=True)
class FieldDescription:
    """One column of a RowDescription."""

    name: str
    table_oid: int
    column: int
    type_oid: int
    type_size: int
    typmod: int
    format: int


@dataclasses.dataclass(frozen=True, slots=True)
class QueryResult:
    """The answer to one statement: its columns, its rows in wire form, its command tag."""

    fields: tuple[FieldDescription, ...]
    rows: list[tuple[bytes | None, ...]]
    tag: str


@dataclasses.dataclass(frozen=True, slots=True)
class Parse:
    """A Parse message."""

    name: bytes
    sql: bytes
    type_oids: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Bind:
    """A Bind message; `formats` and `result_formats` as sent: none, one for all, or one each."""

    portal: bytes
    statement: bytes
    formats: tuple[int, ...]
    values: tuple[bytes | None, ...]
    result_formats: tuple[int, ...]


def encode(text: str) -> bytes:
    """Text as it goes on the wire, without the final zero."""
    return text.encode("utf-8", "surrogateescape")


def decode(data: bytes | memoryview) -> str:
    """The inverse of `encode`."""
    return bytes(data).decode("utf-8", "surrogateescape")


def message(kind: bytes, payload: bytes | bytearray | memoryview = b"") -> bytes:
    """A whole message."""
    return b"".join((_HEADER.pack(kind, len(payload) + 4), payload))


def cstring(payload: bytes, start: int) -> tuple[bytes, int]:
    """The zero-terminated string at `start`, and the offset after its zero.

    Raises:
        ProtocolViolation: there is no zero.
    """
    end = payload.find(0, start)
    if end < 0:
        raise errors.ProtocolViolation("invalid string in message")
    return payload[start:end], end + 1


def startup(parameters: Mapping[str, str]) -> bytes:
    """A StartupMessage of protocol 3.0."""
    body = b"".join(encode(f"{name}\0{value}\0") for name, value in parameters.items()) + b"\0"
    return struct.pack("!iHH", len(body) + 8, 3, 0) + body


def parse_startup(body: bytes) -> dict[str, str]:
    """The parameters in the body of a StartupMessage, after its version number.

    Raises:
        ProtocolViolation: the layout is wrong.
    """
    if not body.endswith(b"\0"):
        raise errors.ProtocolViolation("invalid startup packet layout: expected terminator as last byte")
    parts = body[:-1].split(b"\0")
    if parts and not parts[-1]:
        parts.pop()
    if len(parts) % 2 or not all(parts[::2]):
        raise errors.ProtocolViolation("invalid startup packet layout: expected terminator as last byte")
    return {decode(parts[i]): decode(parts[i + 1]) for i in range(0, len(parts), 2)}


def query(sql: str) -> bytes:
    """A simple Query."""
    return message(b"Q", encode(sql) + b"\0")


def parse(name: bytes, sql: bytes, type_oids: Sequence[int] = ()) -> bytes:
    """A Parse message."""
    count = len(type_oids)
    tail = struct.pack(f"!H{count}I", count, *type_oids)
    return message(b"P", b"".join((name, b"\0", sql, b"\0", tail)))


def bind(
    portal: bytes,
    statement: bytes,
    formats: Sequence[int],
    values: Sequence[bytes | None],
    result_formats: Sequence[int],
) -> bytes:
    """A Bind message."""
    count = len(formats)
    parts = [portal, b"\0", statement, b"\0", struct.pack(f"!H{count}hH", count, *formats, len(values))]
    for value in values:
        if value is None:
            parts.append(b"\xff\xff\xff\xff")
        else:
            parts += (_INT.pack(len(value)), value)
    count = len(result_formats)
    parts.append(struct.pack(f"!H{count}h", count, *result_formats))
    return message(b"B", b"".join(parts))


def describe(target: bytes, name: bytes = b"") -> bytes:
    """A Describe message; `target` is b"S" (statement) or b"P" (portal)."""
    return message(b"D", target + name + b"\0")


def close(target: bytes, name: bytes) -> bytes:
    """A Close message; `target` is b"S" (statement) or b"P" (portal)."""
    return message(b"C", target + name + b"\0")


def execute(portal: bytes = b"", max_rows: int = 0) -> bytes:
    """An Execute message."""
    return message(b"E", portal + b"\0" + _INT.pack(max_rows))


def copy_fail(reason: str) -> bytes:
    """A CopyFail message."""
    return message(b"f", encode(reason) + b"\0")


def cancel_request(pid: int, secret: bytes) -> bytes:
    """A CancelRequest packet."""
    return struct.pack("!iiI", 12 + len(secret), 80_877_102, pid) + secret


def parse_parse(payload: bytes) -> Parse:
    """A Parse message's payload."""
    name, at = cstring(payload, 0)
    sql, at = cstring(payload, at)
    oids, at = _integers(payload, at, "I", 4)
    _at_end(payload, at)
    return Parse(name, sql, oids)


def parse_bind(payload: bytes) -> Bind:
    """A Bind message's payload.

    Raises:
        ProtocolViolation: its counts or lengths do not add up.
    """
    portal, at = cstring(payload, 0)
    statement, at = cstring(payload, at)
    formats, at = _integers(payload, at, "h", 2)
    values, at = _values(payload, at)
    if len(formats) > 1 and len(formats) != len(values):
        raise errors.ProtocolViolation(
            f"bind message has {len(formats)} parameter formats but {len(values)} parameters"
        )
    result_formats, at = _integers(payload, at, "h", 2)
    _at_end(payload, at)
    return Bind(portal, statement, formats, values, result_formats)


def parse_target(payload: bytes) -> tuple[int, bytes]:
    """A Describe or Close payload: the target byte and the name."""
    name, at = cstring(payload, 1)
    _at_end(payload, at)
    return payload[0], name


def parse_execute(payload: bytes) -> tuple[bytes, int]:
    """An Execute payload: the portal and the row limit, 0 for none."""
    portal, at = cstring(payload, 0)
    _at_end(payload, at + 4)
    return portal, max(0, _INT.unpack_from(payload, at)[0])


def _integers(payload: bytes, at: int, code: str, width: int) -> tuple[tuple[int, ...], int]:
    if at + 2 > len(payload):
        raise errors.ProtocolViolation("insufficient data left in message")
    (count,) = _PARSE_COUNT.unpack_from(payload, at)
    at += 2
    if at + count * width > len(payload):
        raise errors.ProtocolViolation("insufficient data left in message")
    return struct.unpack_from(f"!{count}{code}", payload, at), at + count * width


def _values(payload: bytes, at: int) -> tuple[tuple[bytes | None, ...], int]:
    if at + 2 > len(payload):
        raise errors.ProtocolViolation("insufficient data left in message")
    (count,) = _PARSE_COUNT.unpack_from(payload, at)
    at += 2
    values: list[bytes | None] = []
    for _ in range(count):
        if at + 4 > len(payload):
            raise errors.ProtocolViolation("insufficient data left in message")
        (length,) = _INT.unpack_from(payload, at)
        at += 4
        if length == -1:
            values.append(None)
            continue
        if length < 0 or at + length > len(payload):
            raise errors.ProtocolViolation("insufficient data left in message")
        values.append(payload[at : at + length])
        at += length
    return tuple(values), at


def _at_end(payload: bytes, at: int) -> None:
    if at != len(payload):
        raise errors.ProtocolViolation("invalid message format")


def row_description(fields: Sequence[FieldDescription]) -> bytes:
    """A RowDescription message."""
    parts = [_SHORT.pack(len(fields))]
    for f in fields:
        packed = _FIELD.pack(f.table_oid, f.column, f.type_oid, f.type_size, f.typmod, f.format)
        parts += (encode(f.name), b"\0", packed)
    return message(b"T", b"".join(parts))


def parse_row_description(payload: bytes) -> tuple[FieldDescription, ...]:
    """A RowDescription payload."""
    (count,) = _SHORT.unpack_from(payload, 0)
    at = 2
    fields = []
    for _ in range(count):
        name, at = cstring(payload, at)
        fields.append(FieldDescription(decode(name), *_FIELD.unpack_from(payload, at)))
        at += 18
    return tuple(fields)


def with_formats(fields: Sequence[FieldDescription], formats: Sequence[int]) -> tuple[FieldDescription, ...]:
    """The fields with the formats that a Bind asked for: none is text, one is for all."""
    if len(formats) <= 1:
        wanted = formats[0] if formats else 0
        formats = (wanted,) * len(fields)
    return tuple(
        field if field.format == form else dataclasses.replace(field, format=form)
        for field, form in zip(fields, formats, strict=True)
    )


def parameter_description(type_oids: Sequence[int]) -> bytes:
    """A ParameterDescription message."""
    return message(b"t", struct.pack(f"!H{len(type_oids)}I", len(type_oids), *type_oids))


def parse_parameter_description(payload: bytes) -> tuple[int, ...]:
    """A ParameterDescription payload."""
    return _integers(payload, 0, "I", 4)[0]


def data_row(values: Sequence[bytes | None]) -> bytes:
    """A DataRow message."""
    parts = [_SHORT.pack(len(values))]
    for value in values:
        if value is None:
            parts.append(b"\xff\xff\xff\xff")
        else:
            parts += (_INT.pack(len(value)), value)
    return message(b"D", b"".join(parts))


def parse_data_row(data: bytes | memoryview, start: int = 0) -> tuple[bytes | None, ...]:
    """The values of the DataRow payload at `start`."""
    (count,) = _SHORT.unpack_from(data, start)
    start += 2
    values: list[bytes | None] = []
    for _ in range(count):
        (length,) = _INT.unpack_from(data, start)
        start += 4
        if length < 0:
            values.append(None)
        else:
            values.append(bytes(data[start : start + length]))
            start += length
    return tuple(values)


def command_complete(tag: str) -> bytes:
    """A CommandComplete message."""
    return message(b"C", encode(tag) + b"\0")


def ready_for_query(status: str) -> bytes:
    """A ReadyForQuery message; `status` is I, T or E."""
    return b"Z\x00\x00\x00\x05" + status.encode()


def error_response(error: errors.OrochiError, severity: str = "ERROR") -> bytes:
    """An ErrorResponse; a RemoteError's fields go through as they came."""
    if isinstance(error, errors.RemoteError):
        return _report(b"E", {"S": severity, "V": severity, **error.fields})
    fields = {"S": severity, "V": severity, "C": error.sqlstate, "M": error.message}
    if error.detail is not None:
        fields["D"] = error.detail
    if error.hint is not None:
        fields["H"] = error.hint
    if error.routine is not None:
        fields["R"] = error.routine
    return _report(b"E", fields)


def notice_response(
    text: str, severity: str = "NOTICE", *, hint: str | None = None, sqlstate: str = "00000"
) -> bytes:
    """A NoticeResponse."""
    fields = {"S": severity, "V": severity, "C": sqlstate, "M": text}
    if hint is not None:
        fields["H"] = hint
    return _report(b"N", fields)


def _report(kind: bytes, fields: Mapping[str, str]) -> bytes:
    body = b"".join(encode(code + value) + b"\0" for code, value in fields.items())
    return message(kind, body + b"\0")


def parse_error(payload: bytes) -> errors.RemoteError:
    """An ErrorResponse (or NoticeResponse) payload as an exception."""
    fields = {}
    for part in payload.split(b"\0"):
        if part:
            fields[chr(part[0])] = decode(part[1:])
    return errors.RemoteError(fields)


def copy_response(kind: bytes, overall_format: int, column_formats: Sequence[int]) -> bytes:
    """A CopyInResponse (b"G") or CopyOutResponse (b"H")."""
    count = len(column_formats)
    return message(kind, struct.pack(f"!bh{count}h", overall_format, count, *column_formats))


def copy_data(payload: bytes | bytearray | memoryview) -> bytes:
    """A CopyData message."""
    return message(b"d", payload)


def parameter_status(name: str, value: str) -> bytes:
    """A ParameterStatus message."""
    return message(b"S", encode(f"{name}\0{value}\0"))


def parse_parameter_status(payload: bytes) -> tuple[str, str]:
    """A ParameterStatus payload: name and value."""
    name, at = cstring(payload, 0)
    value, _ = cstring(payload, at)
    return decode(name), decode(value)
