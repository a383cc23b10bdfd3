"""Text of clients that do not speak UTF-8."""

from __future__ import annotations

import pytest

from orochi import errors, pgtypes
from orochi.executor import context
from orochi.gateway import encodings


@pytest.mark.parametrize(
    ("encoding", "codec"),
    [
        ("LATIN1", "latin1"),
        ("WIN1252", "cp1252"),
        ("KOI8R", "koi8-r"),
        ("EUC_JP", "euc_jp"),
        ("UTF8", "utf-8"),
    ],
)
def test_text_is_read(encoding: str, codec: str) -> None:
    text = {"KOI8R": "SELECT 'Ж'", "EUC_JP": "SELECT '日本'"}.get(encoding, "SELECT 'é'")
    assert encodings.read(text.encode(codec), encoding) == text
    assert encodings.read(b"SELECT 1", encoding) == "SELECT 1"


def test_what_cannot_be_read() -> None:
    assert encodings.read(b"SELECT '\xe9'", "UTF8") is None
    assert encodings.read(b"SELECT '\xe9'", "MULE_INTERNAL") is None


def test_values() -> None:
    given = context.Parameters((None, b"\xff\x00", "é".encode()), (0, 1, 0), (0, pgtypes.BYTEA, pgtypes.TEXT))
    assert encodings.readable(given, "UTF8")
    assert not encodings.readable(given, "LATIN1")
    with pytest.raises(errors.FeatureNotSupported, match="LATIN1"):
        encodings.require_readable(given, "LATIN1")
