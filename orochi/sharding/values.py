"""Single values from PostgreSQL's text and binary forms to carrier form, where that is certain.

Only distribution and time columns need it. A form whose reading depends on more than the text and
the time zone (`now`, `Jan 1`, an hour that a clock change skips or repeats) gives None: the caller
then asks the server. So an answer here is always the server's.
"""

from __future__ import annotations

import datetime as dt
import re
import struct
import uuid
import zoneinfo
from collections.abc import Mapping

from orochi import pgtypes

INFINITY = {pgtypes.DATE: 2**31 - 1, pgtypes.TIMESTAMP: 2**63 - 1, pgtypes.TIMESTAMPTZ: 2**63 - 1}
MINUS_INFINITY = {pgtypes.DATE: -(2**31), pgtypes.TIMESTAMP: -(2**63), pgtypes.TIMESTAMPTZ: -(2**63)}

_LIMITS = {pgtypes.INT2: 2**15, pgtypes.INT4: 2**31, pgtypes.INT8: 2**63}
_STRUCTS = {
    pgtypes.INT2: ">h",
    pgtypes.INT4: ">i",
    pgtypes.DATE: ">i",
    pgtypes.INT8: ">q",
    pgtypes.TIMESTAMP: ">q",
    pgtypes.TIMESTAMPTZ: ">q",
}
_INTEGER = re.compile(r"[ \t\n\r\f\v]*([+-]?[0-9]+)[ \t\n\r\f\v]*")
_UUID = re.compile(r"\{[0-9a-fA-F-]{36}\}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32}")
_TIME = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})"
    r"(?:[ T](\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,6}))?)? ?(Z|z|UTC|[+-]\d{2}(?::?\d{2})?)?)?"
)
_ZERO = dt.datetime(2000, 1, 1)  # noqa: DTZ001
_MICROSECOND = dt.timedelta(microseconds=1)
#: Years for which every copy of the time zone database agrees well enough.
_ZONE_YEARS = range(1971, 2037)


def timezone(settings: Mapping[str, str]) -> str:
    """The session's TimeZone; empty, which only the server can resolve, if it has the server's default."""
    return next((value for name, value in settings.items() if name.lower() == "timezone"), "")


def from_text(type_oid: int, text: str, zone_name: str = "UTC") -> int | str | bytes | None:
    """The carrier value of `text` read as type `type_oid`; None if only the server can tell."""
    if type_oid in (pgtypes.TEXT, pgtypes.VARCHAR):
        return text
    if type_oid in _LIMITS:
        match = _INTEGER.fullmatch(text)
        if match is None:
            return None
        value = int(match.group(1))
        return value if -_LIMITS[type_oid] <= value < _LIMITS[type_oid] else None
    if type_oid == pgtypes.UUID:
        return uuid.UUID(text).bytes if _UUID.fullmatch(text) else None
    if type_oid in pgtypes.TIMES:
        return _time(type_oid, text.strip(" "), zone_name)
    return None


def from_wire(
    type_oid: int, data: bytes, wire_format: int, zone_name: str = "UTC"
) -> int | str | bytes | None:
    """The carrier value of a bound parameter; None if only the server can tell or it is malformed."""
    if wire_format == 0 or type_oid in (pgtypes.TEXT, pgtypes.VARCHAR):
        try:
            return from_text(type_oid, data.decode(), zone_name)
        except UnicodeDecodeError:
            return None
    if type_oid == pgtypes.UUID:
        return data if len(data) == 16 else None
    form = _STRUCTS.get(type_oid)
    if form is None or struct.calcsize(form) != len(data):
        return None
    value: int = struct.unpack(form, data)[0]
    return value


def convert(
    value: int | str | bytes, from_oid: int, to_oid: int, typmod: int = -1
) -> int | str | bytes | None:
    """What assigning a value of type `from_oid` to a column stores; None if only the server can tell."""
    text = (pgtypes.TEXT, pgtypes.VARCHAR)
    if isinstance(value, str) and from_oid in text and to_oid in text:
        limit = typmod - 4
        if to_oid == pgtypes.VARCHAR and typmod >= 4 and len(value) > limit:
            # assignment cuts excess spaces; anything else is an error that the server raises
            return value[:limit] if not value[limit:].strip(" ") else value
        return value
    if from_oid in _LIMITS and to_oid in _LIMITS and isinstance(value, int):
        return value if -_LIMITS[to_oid] <= value < _LIMITS[to_oid] else None
    if from_oid == to_oid:
        rounded = to_oid in (pgtypes.TIMESTAMP, pgtypes.TIMESTAMPTZ) and typmod >= 0
        return None if rounded else value
    return None


def _time(type_oid: int, text: str, zone_name: str) -> int | None:
    lowered = text.lower()
    if lowered in ("infinity", "-infinity"):
        return (INFINITY if lowered == "infinity" else MINUS_INFINITY)[type_oid]
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    fraction, offset = (match.group(7) or "").ljust(6, "0"), match.group(8)
    try:
        moment = dt.datetime(year, month, day, hour, minute, second, int(fraction))  # noqa: DTZ001
    except ValueError:
        return None
    if type_oid == pgtypes.DATE:
        return (moment - _ZERO).days if match.group(4) is None else None
    shift: dt.timedelta | None = dt.timedelta()
    if type_oid == pgtypes.TIMESTAMPTZ:
        shift = _explicit_offset(offset) if offset else _zone_offset(moment, zone_name)
    return None if shift is None else (moment - shift - _ZERO) // _MICROSECOND


def _explicit_offset(offset: str) -> dt.timedelta | None:
    if offset in ("Z", "z", "UTC"):
        return dt.timedelta()
    hours, minutes = int(offset[1:3]), int(offset[-2:]) if len(offset) > 3 else 0
    if hours > 15 or minutes > 59:
        return None
    size = dt.timedelta(hours=hours, minutes=minutes)
    return -size if offset[0] == "-" else size


def _zone_offset(moment: dt.datetime, zone_name: str) -> dt.timedelta | None:
    if zone_name in ("UTC", "Etc/UTC", "GMT"):
        return dt.timedelta()
    if moment.year not in _ZONE_YEARS:
        return None
    try:
        zone = zoneinfo.ZoneInfo(zone_name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return None
    first = moment.replace(tzinfo=zone, fold=0).utcoffset()
    second = moment.replace(tzinfo=zone, fold=1).utcoffset()
    return first if first == second else None
