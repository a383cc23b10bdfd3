"""Puts relations in place of the names that stand for them in SQL the planner made.

Only identifiers are replaced: what lies in quotes is text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping

_QUOTED = (
    r"""[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|(?P<tag>\$(?:[A-Za-z_]\w*)?\$).*?(?P=tag)"""
)


@functools.lru_cache(maxsize=16)
def _tokens(pattern: str) -> re.Pattern[str]:
    return re.compile(f"{_QUOTED}|(?P<found>{pattern})", re.DOTALL)


def substitute(sql: str, pattern: str, replace: Callable[[str], str]) -> str:
    """`sql` with each match of `pattern` outside quotes replaced; the pattern has no groups of its own."""

    def one(match: re.Match[str]) -> str:
        found = match.group("found")
        return match.group() if found is None else replace(found)

    return _tokens(pattern).sub(one, sql)


def fill(sql: str, relations: Mapping[str, str]) -> str:
    """`sql` with each name in `relations` replaced."""
    return substitute(sql, r"\b[a-z_]\w*", lambda name: relations.get(name, name))


def quote(name: str) -> str:
    """An SQL identifier, always quoted."""
    return '"' + name.replace('"', '""') + '"'
