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

#: The longest text whose pieces are kept for the next time.
_LONGEST = 4_000


@functools.lru_cache(maxsize=16)
def _tokens(pattern: str) -> re.Pattern[str]:
    return re.compile(f"{_QUOTED}|(?P<found>{pattern})", re.DOTALL)


def substitute(sql: str, pattern: str, replace: Callable[[str], str]) -> str:
    """`sql` with each match of `pattern` outside quotes replaced; the pattern has no groups of its own."""
    pieces = list(_known_cut(sql, pattern) if len(sql) <= _LONGEST else _cut(sql, pattern))
    pieces[1::2] = map(replace, pieces[1::2])
    return "".join(pieces)


def _cut(sql: str, pattern: str) -> tuple[str, ...]:
    """The text before the first match, that match, the text before the next one, and so on."""
    pieces, at = [], 0
    for match in _tokens(pattern).finditer(sql):
        if match.group("found") is not None:
            pieces += [sql[at : match.start()], match.group()]
            at = match.end()
    return (*pieces, sql[at:])


_known_cut = functools.lru_cache(maxsize=256)(_cut)


def fill(sql: str, relations: Mapping[str, str]) -> str:
    """`sql` with each name in `relations` replaced."""
    return substitute(sql, r"\b[a-z_]\w*", lambda name: relations.get(name, name))


def quote(name: str) -> str:
    """An SQL identifier, always quoted."""
    return '"' + name.replace('"', '""') + '"'
