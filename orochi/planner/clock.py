"""Which statements may ask what time it is, so that all of their parts are to be told one time.

Parts of a statement run as statements of their own, and PostgreSQL's now() stands still only within a transaction.
A word too many costs a BEGIN and a COMMIT; so texts are searched, not parsed.
"""

from __future__ import annotations

import re

from orochi.catalog import snapshot as snapshots

_ASKS = re.compile(
    r"\b(?:now|age|(?:transaction|statement)_timestamp|current_(?:timestamp|date|time)|local(?:time|timestamp))\b"
    # input of a date or time may be a word that means now
    r"|'\s*(?:today|tomorrow|yesterday)\b",
    re.IGNORECASE,
)


def may_be_asked(sql: str, snapshot: snapshots.Snapshot) -> bool:
    """Whether the text of a statement, or a view that it may name, mentions the clock."""
    if _ASKS.search(sql):
        return True
    return any(view.name in sql and _ASKS.search(view.definition) for view in snapshot.views.values())
