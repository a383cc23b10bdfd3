"""Whether bound values are valid for their types: seen at a glance, else asked of the coordinator.

PostgreSQL reads the values when it binds them, and answers an error instead of BindComplete. A
statement of ours is bound here, and its values reach a server only when it runs, so they are
checked first. Most values are plainly valid.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable

from orochi import pgtypes
from orochi.executor import context
from orochi.gateway import exchange, portal
from orochi.gateway import relay as relays
from orochi.pgwire import messages

_NUMBER = re.compile(rb"[+-]?[0-9]{1,15}(?:\.[0-9]{1,15})?")
_DATE = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = re.compile(
    rb"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{3}|\.[0-9]{6})?"
    rb"(?:[+-](?:0[0-9]|1[0-4])(?::[0-5][0-9])?)?"
)
_UUID = re.compile(rb"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_UTF8 = frozenset({"UTF8", "UNICODE"})
_CHARACTER = frozenset({pgtypes.TEXT, pgtypes.VARCHAR})
_BOOLS = frozenset({b"t", b"f", b"true", b"false", b"0", b"1"})
_WIDTHS = {
    pgtypes.BOOL: 1,
    pgtypes.INT2: 2,
    pgtypes.INT4: 4,
    pgtypes.INT8: 8,
    pgtypes.FLOAT4: 4,
    pgtypes.FLOAT8: 8,
    pgtypes.UUID: 16,
}


def _integer(digits: int) -> Callable[[bytes], bool]:
    def is_valid(value: bytes) -> bool:
        return len(value) <= digits and (value.isdigit() or (value[:1] == b"-" and value[1:].isdigit()))

    return is_valid


def _text(value: bytes) -> bool:
    if b"\0" in value:
        return False
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _date(value: bytes) -> bool:
    if _DATE.fullmatch(value) is None:
        return False
    try:
        dt.date.fromisoformat(value.decode())
    except ValueError:
        return False
    return True


def _time(value: bytes) -> bool:
    if _TIME.fullmatch(value) is None:
        return False
    try:
        dt.datetime.fromisoformat(value.decode())
    except ValueError:
        return False
    return True


_TEXT_FORMS: dict[int, Callable[[bytes], bool]] = {
    pgtypes.INT2: _integer(4),
    pgtypes.INT4: _integer(9),
    pgtypes.INT8: _integer(18),
    pgtypes.FLOAT4: lambda value: _NUMBER.fullmatch(value) is not None,
    pgtypes.FLOAT8: lambda value: _NUMBER.fullmatch(value) is not None,
    pgtypes.NUMERIC: lambda value: _NUMBER.fullmatch(value) is not None,
    pgtypes.BOOL: _BOOLS.__contains__,
    pgtypes.TEXT: _text,
    pgtypes.VARCHAR: _text,
    pgtypes.UUID: lambda value: _UUID.fullmatch(value) is not None,
    pgtypes.DATE: _date,
    pgtypes.TIMESTAMP: _time,
    pgtypes.TIMESTAMPTZ: _time,
}


def is_plainly_valid(parameters: context.Parameters, encoding: str) -> bool:
    """Whether the server is sure to take every value from a client of this encoding; False says nothing."""
    any_text = encoding in _UTF8
    for value, form, oid in zip(parameters.values, parameters.formats, parameters.type_oids, strict=True):
        if value is None:
            continue
        if not form or oid in _CHARACTER:
            is_valid = _TEXT_FORMS.get(oid)
            if is_valid is None or not is_valid(value) or not (any_text or value.isascii()):
                return False
        elif len(value) != _WIDTHS.get(oid):
            return False
    return True


async def probe(relay: relays.Relay, name: bytes, held: portal.Portal) -> None:
    """Bind the values on the coordinator, under the portal's name, which an error may quote; nothing is left.

    Raises:
        RemoteError: the coordinator refuses them; it skips everything until Sync.
    """
    scratch, oids = relay.server.scratch, held.parameters.type_oids
    listed = ", ".join(f"${number} IS NULL" for number in range(1, len(oids) + 1))
    parts = (
        messages.close(b"S", scratch),
        messages.parse(scratch, f"SELECT ARRAY[{listed}]".encode(), oids),
        messages.bind(name, scratch, held.bind.formats, held.bind.values, ()),
        messages.close(b"P", name),
        messages.close(b"S", scratch),
    )
    capture = exchange.Capture(relay, len(parts))
    await capture.run(b"".join(parts))
    if capture.error is not None:
        raise capture.error
