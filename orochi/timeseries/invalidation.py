"""What a node has of a continuous aggregate: triggers that log what writes touch, their functions, a threshold, a log.

All of it is named by the aggregate's number, which is never used again. A DROP that reaches an aggregate by way of
something else (a schema, an owner) leaves it behind, for the sweep.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg

EVENTS = ("insert", "update", "delete", "truncate")
_THERE = r"""
SELECT pg_catalog.substring(relname, '\d+$')::pg_catalog.int8 FROM pg_catalog.pg_class
WHERE relnamespace = 'orochi_data'::pg_catalog.regnamespace AND relkind = 'S' AND relname ~ '^aggregate_\d+$'
UNION SELECT aggregate_id FROM orochi_data.aggregate_log WHERE aggregate_id <> 0
"""


def threshold(aggregate_id: int) -> str:
    """The sequence of a node whose value is the first bucket that writes need not enter.

    A sequence, because its value is the same for every snapshot.
    """
    return f"orochi_data.aggregate_{aggregate_id}"


def removal(aggregate_id: int) -> Iterator[str]:
    """A node's statements that remove all it has of an aggregate."""
    name = threshold(aggregate_id)
    for event in EVENTS:
        yield from (f"DROP FUNCTION IF EXISTS {name}_{which}{event}() CASCADE" for which in ("", "all_"))
    yield f"DROP SEQUENCE IF EXISTS {name}"
    yield f"DELETE FROM orochi_data.aggregate_log WHERE aggregate_id = {aggregate_id}"


def sweep(catalog: psycopg.Connection[Any], node: psycopg.Connection[Any]) -> int:
    """Remove from a node what it has of aggregates that are gone; how many those were.

    The node is asked first: what is committed there is committed in the catalog before.
    """
    there = [int(row[0]) for row in node.execute(_THERE.encode())]
    known = {
        int(row[0])
        for row in catalog.execute(
            "SELECT aggregate_id FROM orochi.orochi_continuous_aggregates WHERE aggregate_id = ANY(%s)",
            (there,),
        )
    }
    removed = 0
    for aggregate_id in sorted(set(there) - known):
        try:
            for statement in removal(aggregate_id):
                node.execute(statement.encode())
            removed += 1
        except psycopg.errors.LockNotAvailable:
            continue  # a table with a trigger of it is in use: next time
    return removed
