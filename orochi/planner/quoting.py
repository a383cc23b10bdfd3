"""Identifiers and string constants as SQL text."""

from __future__ import annotations


def identifier(name: str) -> str:
    """An SQL identifier, always quoted."""
    return '"' + name.replace('"', '""') + '"'


def relation(schema: str, name: str) -> str:
    """A qualified relation name."""
    return f"{identifier(schema)}.{identifier(name)}"


def text(value: str) -> str:
    """An SQL string literal, read alike under any setting of standard_conforming_strings."""
    escaped = value.replace("'", "''")
    return "E'" + escaped.replace("\\", "\\\\") + "'" if "\\" in value else f"'{escaped}'"
