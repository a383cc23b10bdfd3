"""The text that stands for all statements that differ in constants only, for statistics.

It is for people to read and for counters to be kept by; nothing is planned from it. It is made by a pattern, as
statements are counted by the thousands.
"""

from __future__ import annotations

import collections
import hashlib
import itertools
import re

#: Longer texts are cut; those of many rows sooner, as one says it all.
LONGEST, _LONGEST_OF_ROWS = 4_096, 1_024
_KEPT = 2_000
_TOKEN = re.compile(
    r"""
    (?P<keep> "(?:[^"]|"")*" | --[^\n]* | /\*.*?\*/ | [^\W\d]\w*+(?:\$\w*+)*+ (?!') )
    | \$(?P<number>\d+)
    | (?P<constant>
        (?:[eE]'(?:[^'\\]|\\.|'')*'?)
        | (?:(?:[bBxXnN]|[uU]&)?'(?:[^']|'')*'?)
        | (?P<tag>\$(?:[^\W\d]\w*)?\$).*?(?:(?P=tag)|\Z)
        | (?:\d[\w.]*(?:(?<=[eE])[+-]\d+)?|\.\d+(?:[eE][+-]?\d+)?)
      )
    | [^\W\d]\w*
    """,
    re.VERBOSE | re.DOTALL,
)
#: Stands for a constant that has no number yet.
_MARK = "\N{OBJECT REPLACEMENT CHARACTER}"
_ITEM = rf"(?:{_MARK}|\$\d+)(?:::[\w.]+)?"
_LIST = re.compile(rf"\(\s*({_ITEM})(?:\s*,\s*{_ITEM})+\s*\)")
_ROWS = re.compile(r"(\([^()]*\))(?:\s*,\s*\([^()]*\))+")
_VALUES = re.compile(r"\bvalues\s*(?=\()", re.IGNORECASE)
_INSERT = re.compile(r"\s*insert\b(?:(?!select\b).){0,300}?\bvalues\b", re.IGNORECASE | re.DOTALL)
_IN = re.compile(r"\bin\s*(?=\()", re.IGNORECASE)
_MORE = " /*, ... */"


class Texts:
    """Remembers what it made of texts that come again; not for several threads at once."""

    def __init__(self) -> None:
        self._known: collections.OrderedDict[str, tuple[str, int]] = collections.OrderedDict()

    def find(self, sql: str) -> tuple[str, int]:
        """The text with `$n` for its constants, and a number for it, the same in every process."""
        found = self._known.get(sql)
        if found is None:
            text = normalize(sql)
            digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
            found = text, int.from_bytes(digest, "big", signed=True)
            self._known[sql] = found
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(sql)
        return found


def normalize(sql: str) -> str:
    """The text with `$n` for its constants, of rows of VALUES and members of IN lists the first only."""
    longest = _LONGEST_OF_ROWS if _INSERT.match(sql) else LONGEST
    cut = len(sql) > longest
    sql = sql[:longest].replace(_MARK, "?").strip().rstrip(";").rstrip()
    count = max((int(found["number"]) for found in _TOKEN.finditer(sql) if found["number"]), default=0)
    text = _TOKEN.sub(lambda match: match[0] if match["constant"] is None else _MARK, sql)
    for pattern, squeeze in ((_VALUES, _first_row), (_IN, _first_member)):
        parts, at = [], 0
        for match in pattern.finditer(text):
            if match.start() < at:
                continue
            end, shorter = squeeze(text, match.end())
            parts += [text[at : match.end()], shorter]
            at = end
        text = "".join([*parts, text[at:]])
    if cut:
        at = text.rfind(_MORE)
        text = text[: at + len(_MORE)] if at >= 0 else text[: longest // 2] + " ..."
    numbers = itertools.count(count + 1)
    return re.sub(_MARK, lambda _: f"${next(numbers)}", text)


def _first_row(text: str, at: int) -> tuple[int, str]:
    rows = _ROWS.match(text, at)
    return (at, "") if rows is None else (rows.end(), rows[1] + _MORE)


def _first_member(text: str, at: int) -> tuple[int, str]:
    members = _LIST.match(text, at)
    return (at, "") if members is None else (members.end(), f"({members[1]}{_MORE})")
