"""What may run where the rows are, as one page: `python -m orochi.planner.allowed > docs/functions.md`.

The lists themselves stand where they are used; this page is made of them, and a meta test holds it
to them. Each entry names the test that compares it with plain PostgreSQL.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from orochi.planner import aggregates, builtins, vector

_TEST = "tests/cluster/test_pushed.py::"

_HEAD = """\
# Functions and aggregates that run where the rows are

Made by `python -m orochi.planner.allowed`; do not edit. Nodes are PostgreSQL servers of the coordinator's major
version, so every *immutable* built-in function, operator and cast means the same there and is pushed. Everything
else is pushed only if it stands below. What is not pushed runs on the coordinator, over the rows that the shards
have joined and filtered; no function is refused.
"""
_SPLITS = """
## Aggregates that split

Grouped by the distribution column, every built-in aggregate is answered by the shards alone. Otherwise these are
computed in part by each shard and finished on the coordinator; FILTER, HAVING, GROUPING SETS and windows over them
too. An aggregate of DISTINCT values splits whatever it is: shards group by the values as well
(`tests/cluster/test_aggregates.py::test_distinct`). The others aggregate gathered rows
(`tests/cluster/test_aggregates.py::test_rows`).
"""
_FOLDED = """
## Evaluated once, on the client's session

Their value is put into what the shards are sent, so that all of them, and the coordinator, use the same.
"""
_STABLE = """
## Stable functions that shards evaluate

They depend on their arguments and on settings that every node connection is given: TimeZone, DateStyle,
IntervalStyle, extra_float_digits, bytea_output, the lc_ settings, xmlbinary, the search_path.
"""
_VECTOR = """
## The vectorised engine

Fragments over stripes run in DuckDB where every expression is on this list, and in PostgreSQL otherwise.
"""
_VOLATILE = """
## Volatile functions in writes

A SELECT evaluates volatile functions on the coordinator. An UPDATE may evaluate these for each row on its node:
"""


def page() -> str:
    """The page as Markdown."""
    return "".join(
        (
            _HEAD,
            _SPLITS,
            _table(
                ("aggregate", "arguments", "each shard", "coordinator", "test"),
                (
                    (f"`{name}`", split.arguments, split.partial, split.final, f"`{split.test}`")
                    for name, split in sorted(aggregates.SPLITS.items())
                ),
            ),
            _FOLDED,
            _names(builtins.FOLDED, "test_folded"),
            _STABLE,
            _names(builtins.SESSION_STABLE, "test_stable"),
            _VOLATILE,
            "\n" + ", ".join(f"`{name}`" for name in sorted(builtins.NODE_VOLATILE)) + ".\n",
            _VECTOR,
            _table(
                ("expression", "test"),
                ((name, f"`{test}`") for name, test in sorted(vector.ALLOWED.items())),
            ),
        )
    )


def _names(names: Iterable[str], test: str) -> str:
    return _table(("function", "test"), ((f"`{name}`", f"`{_TEST}{test}`") for name in sorted(names)))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(page())
