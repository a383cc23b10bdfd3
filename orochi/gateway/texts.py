"""What the relay must know of a statement's text before it lets the bytes pass.

Answers are cached by text and shared by all sessions; the cache lives as long as the classifier it
was made with, so a new catalog starts an empty one. An answer may say too much (the statement is
then looked at closely, and relayed after all) but never too little.
"""

from __future__ import annotations

import re
from typing import Protocol

#: The text may touch an Orochi table or call an Orochi function.
TOUCHES = 1
#: The session keeps track of it: savepoints, SQL-level prepared statements, DISCARD.
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
_SPECIAL = re.compile(
    rb"(?:^|;)" + _GAP + rb"(?:prepare|execute|deallocate|discard|savepoint|release|"
    rb"(?:rollback|abort)" + _GAP + rb"(?:(?:work|transaction)" + _GAP + rb")?to)(?![a-z0-9_])|"
    rb"^" + _GAP + rb"(?:explain|create)\b.*\bexecute\s",
    re.IGNORECASE | re.DOTALL,
)
_SETTINGS = re.compile(
    rb"(?:^|;)" + _GAP + rb"(?:set|reset|discard|create|drop|alter|do|call)(?![a-z0-9_])|"
    rb"\bcreate\s.{0,80}\btemp|\binto" + _GAP + rb"(?:(?:local|global)\s+)?\"?(?:pg_)?temp|"
    rb"set_config|isolation\s|read\s+(?:only|write)|deferrable|\bset\s+(?:local|session|role|transaction)\b",
    re.IGNORECASE | re.DOTALL,
)
_CATALOG = re.compile(
    rb"(?:^|;)" + _GAP + rb"(?:create|drop|alter|do|call|import|reassign)(?![a-z0-9_])|"
    rb"^" + _GAP + rb"explain\b.*\bcreate\s|"
    rb"^" + _GAP + rb"(?:select|with)\b.*\binto\b",
    re.IGNORECASE | re.DOTALL,
)
_RIGHTS = re.compile(rb"(?:^|;)" + _GAP + rb"(?:grant|revoke)(?![a-z0-9_])", re.IGNORECASE | re.DOTALL)
_ISOLATION = re.compile(rb"isolation", re.IGNORECASE)


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
        self.version = 0

    def cache(self) -> dict[bytes, int]:
        """Known answers for the newest catalog; ask `flags` for a text that is missing."""
        source = self._source
        if source is not None:
            classifier = source.classifier()
            if classifier is not self._classifier:
                self._classifier = classifier
                self._flags = {}
                self.version += 1
        return self._flags

    def flags(self, sql: bytes) -> int:
        """The flags of a text, now cached."""
        cache = self.cache()
        known = cache.get(sql)
        if known is not None:
            return known
        flags = 0
        if self._classifier is not None:
            if self._classifier.touches(sql.decode("utf-8", "surrogateescape")):
                flags |= TOUCHES
            if _SPECIAL.search(sql):
                flags |= SPECIAL
            if _SETTINGS.search(sql):
                flags |= SETTINGS | (METHOD if b"default_table_access_method" in sql.lower() else 0)
                if _ISOLATION.search(sql):
                    flags |= ISOLATION
            if _CATALOG.search(sql):
                flags |= SETTINGS | CATALOG
            if _RIGHTS.search(sql):
                flags |= RIGHTS
        if len(sql) <= _LONGEST:
            if len(cache) >= _MOST:
                cache.clear()
            cache[sql] = flags
        return flags
