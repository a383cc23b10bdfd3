"""Client encodings: which text of a client the gateway may read as it is, and how to read other text.

Everything behind the session reads UTF-8, and backslashes in strings as themselves, so text in which that may be
otherwise is only looked at to see that no Orochi table is meant; what does mean one is refused, and never read as
other characters.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping

from orochi import errors, pgtypes
from orochi.executor import context

_AS_IT_IS = frozenset({"", "UTF8", "UNICODE", "SQL_ASCII"})
#: PostgreSQL's names that Python has others for.
_CODECS = {
    "LATIN5": "iso8859-9",
    "LATIN6": "iso8859-10",
    "LATIN7": "iso8859-13",
    "LATIN8": "iso8859-14",
    "LATIN9": "iso8859-15",
    "LATIN10": "iso8859-16",
    "KOI8R": "koi8-r",
    "KOI8U": "koi8-u",
    "UHC": "cp949",
    "SHIFT_JIS_2004": "shift_jis_2004",
}


def is_utf8(encoding: str) -> bool:
    """Whether text in client encoding `encoding` is taken as UTF-8."""
    return encoding in _AS_IT_IS


def read(sql: bytes, encoding: str) -> str | None:
    """The text of a statement, None if it is not valid, or in an encoding that Python does not have."""
    name = "utf-8"
    if not is_utf8(encoding) and not sql.isascii():
        name = _CODECS.get(encoding, encoding.replace("WIN", "cp", 1) if encoding[3:].isdigit() else encoding)
    try:
        return codecs.decode(sql, name)
    except (LookupError, UnicodeError):
        return None


def unread(sql: bytes, parameters: Mapping[str, str]) -> errors.FeatureNotSupported | None:
    """Why a statement on Orochi tables cannot be read for certain under the server's `parameters`; None if it can."""
    encoding = parameters.get("client_encoding", "UTF8")
    if b"\\" in sql and parameters.get("standard_conforming_strings") == "off":
        return errors.FeatureNotSupported(
            "backslashes are not read while standard_conforming_strings is off",
            hint="SET standard_conforming_strings TO on, and write E'...' where a backslash is an escape.",
        )
    return None if is_utf8(encoding) or sql.isascii() else refusal(encoding)


def readable(parameters: context.Parameters, encoding: str) -> bool:
    """Whether no value is text that only the client's encoding explains."""
    return is_utf8(encoding) or all(
        value is None or (fmt and oid not in pgtypes.CHARACTER) or value.isascii()
        for value, fmt, oid in zip(parameters.values, parameters.formats, parameters.type_oids, strict=True)
    )


def require_readable(parameters: context.Parameters, encoding: str) -> None:
    """Refuse values that are not `readable`.

    Raises:
        FeatureNotSupported: there is one.
    """
    if not readable(parameters, encoding):
        raise refusal(encoding)


def refusal(encoding: str) -> errors.FeatureNotSupported:
    """The error for a statement on Orochi tables with such text."""
    return errors.FeatureNotSupported(
        f"statements on Orochi tables cannot be read in client encoding {encoding}",
        hint="SET client_encoding = 'UTF8'.",
    )
