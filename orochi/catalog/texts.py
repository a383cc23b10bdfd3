"""What PostgreSQL printed of views and generation expressions, by what decides how it prints them.

A key (see `orochi._text_key`) stands for one text for ever, so a text found here is never stale, whichever
transaction it was printed in, and whichever snapshot asks for it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

#: Bound on the texts kept; those that no snapshot has asked for the longest go first.
_KEPT = 20_000
#: Where text and key are in the rows of a column and of a view.
_COLUMN, _VIEW = (8, 12), (2, 4)


class Texts:
    """Texts by key; may be used from several threads."""

    def __init__(self) -> None:
        self._texts: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def complete(self, parts: dict[str, Any]) -> bool:
        """Keep the texts in `parts`, rows of a snapshot, and put in those that are missing.

        Returns:
            Whether `parts` has them all now.
        """
        whole = True
        with self._lock:
            for table in parts["tables"]:
                for column in table["columns"] or ():
                    whole &= self._fill(column, *_COLUMN)
            for view in parts["views"]:
                whole &= self._fill(view, *_VIEW)
            while len(self._texts) > _KEPT:
                self._texts.popitem(last=False)
        return whole

    def _fill(self, row: list[Any], text: int, key: int) -> bool:
        if row[key] is None:
            return True
        found = row[text]
        if found is None:
            found = row[text] = self._texts.get(row[key])
        if found is None:
            return False
        self._texts[row[key]] = found
        self._texts.move_to_end(row[key])
        return True


PRINTED = Texts()
