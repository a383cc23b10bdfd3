"""What the relay must know of a statement's text before it lets the bytes pass.

Answers are cached by text and shared by all sessions; the cache lives as long as the classifier it
was made with, so a new catalog starts an empty one. An answer may say too much (the statement is
then looked at closely, and relayed after all) but never too little.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

#: The text may touch an Orochi table or call an Orochi function.
TOUCHES = 1
#: The session keeps track of it: savepoints, SQL-level prepared statements, DISCARD, Orochi's settings.
SPECIAL = 2
#: It may change a setting that node connections must share, the role or the search path.
SETTINGS = 4
#: It may change the catalog by DDL that is not ours, or DDL inside it.
CATALOG = 8
#: It may change how the session's new tables are stored.
METHOD = 16
#: It may change what roles may do.
RIGHTS = 32
#: It may change the isolation level of this transaction or of later ones.
ISOLATION = 64

#: Texts longer than this are not cached, and no more than so many are.
_LONGEST = 8_192
_MOST = 20_000

_GAP = rb"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*"
#: The first word of a statement, lower case, after blanks and comments.
_FIRST_WORD = re.compile(_GAP + rb"([a-z][a-z0-9_]*)", re.DOTALL)
_SPECIAL_WORDS = frozenset({b"prepare", b"execute", b"deallocate", b"discard", b"savepoint", b"release"})
_ENDS = frozenset({b"rollback", b"abort"})
_SETTINGS_WORDS = frozenset({b"set", b"reset", b"discard", b"create", b"drop", b"alter", b"do", b"call"})
_CATALOG_WORDS = frozenset({b"create", b"drop", b"alter", b"do", b"call", b"import", b"reassign"})
_RIGHTS_WORDS = frozenset({b"grant", b"revoke"})
# These are looked for in lower-case text, anywhere. Each begins with a literal, so that a text of many
# megabytes is gone through at memory speed, and not one character at a time.
_BACK_TO = re.compile(
    rb"(?:rollback|abort)" + _GAP + rb"(?:(?:work|transaction)" + _GAP + rb")?to(?![a-z0-9_])", re.DOTALL
)
_SET_OURS = re.compile(rb"constraints\b|orochi\s*\.|orochi\"\s*\.")
_OURS = re.compile(rb"orochi")
_EXECUTE = re.compile(rb"execute\s")
_CREATE = re.compile(rb"create\s")
_INTO = re.compile(rb"into\b")
_SETTINGS = (
    re.compile(rb"create\s.{0,80}\btemp", re.DOTALL),
    re.compile(rb"into" + _GAP + rb"(?:(?:local|global)\s+)?\"?(?:pg_)?temp", re.DOTALL),
    re.compile(rb"set_config"),
    re.compile(rb"isolation\s"),
    re.compile(rb"read\s+(?:only|write)"),
    re.compile(rb"deferrable"),
    re.compile(rb"set\s+(?:local|session|role|transaction)\b"),
)


class Classifier(Protocol):
    """`planner.classify.Classifier`, as seen from here."""

    def touches(self, sql: str) -> bool:
        """Whether the text may touch anything of Orochi's."""


class HasClassifier(Protocol):
    """The part of the runtime that this module needs."""

    def classifier(self) -> Classifier:
        """The classifier of the newest catalog; a new object for each."""


class Texts:
    """The cache. `version` moves when the catalog does."""

    def __init__(self, source: HasClassifier | None) -> None:
        """Classify by `source`; without one (another database), nothing is special."""
        self._source = source
        self._classifier: Classifier | None = None
        self._flags: dict[bytes, int] = {}
        self._long_text, self._long_flags = b"", 0
        self.version = 0

    def cache(self) -> dict[bytes, int]:
        """Known answers for the newest catalog; ask `flags` for a text that is missing."""
        source = self._source
        if source is not None:
            classifier = source.classifier()
            if classifier is not self._classifier:
                self._classifier = classifier
                self._flags = {}
                self._long_text = b""
                self.version += 1
        return self._flags

    def flags(self, sql: bytes) -> int:
        """The flags of a text, now cached."""
        cache = self.cache()
        known = cache.get(sql)
        if known is not None:
            return known
        if sql == self._long_text and sql:
            return self._long_flags
        flags = 0
        if self._classifier is not None:
            flags = _by_words(sql.lower())
            if self._classifier.touches(sql.decode("utf-8", "surrogateescape")):
                flags |= TOUCHES
        if len(sql) <= _LONGEST:
            if len(cache) >= _MOST:
                cache.clear()
            cache[sql] = flags
        else:
            self._long_text, self._long_flags = sql, flags
        return flags


def _by_words(text: bytes) -> int:
    """The flags that words tell, of a text in lower case."""
    words = list(_first_words(text))
    first, all_words = words[0] if words else b"", frozenset(words)
    flags = 0
    if (
        all_words & _SPECIAL_WORDS
        or (b"set" in all_words and _SET_OURS.search(text))
        or (all_words & _ENDS and _BACK_TO.search(text))
        or (first in (b"explain", b"create") and _EXECUTE.search(text))
        or (first == b"show" and _OURS.search(text))
    ):
        flags |= SPECIAL
    if all_words & _SETTINGS_WORDS or any(pattern.search(text) for pattern in _SETTINGS):
        flags |= SETTINGS
        if b"default_table_access_method" in text:
            flags |= METHOD
        if b"isolation" in text:
            flags |= ISOLATION
    if (
        all_words & _CATALOG_WORDS
        or (first == b"explain" and _CREATE.search(text))
        or (first in (b"select", b"with") and _INTO.search(text))
    ):
        flags |= SETTINGS | CATALOG
    if all_words & _RIGHTS_WORDS:
        flags |= RIGHTS
    return flags


def _first_words(text: bytes) -> Iterator[bytes]:
    """The first words of what may be statements: of the text, and after every semicolon."""
    at = 0
    while True:
        found = _FIRST_WORD.match(text, at)
        if found is not None:
            yield found.group(1)
        elif at == 0:
            yield b""
        at = text.find(b";", at) + 1
        if not at:
            return
