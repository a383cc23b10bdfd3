"""What the fused aggregate computes of one relation, as plain data: group keys, aggregates, filters.

The planner writes a shape only where every part of it means what PostgreSQL means by the same
fragment's SQL; the engine may still decline for what it finds in the rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from orochi.storage.columnar import predicates


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """A group key: a column, or its bucket `floor((value - origin) / width) * width + origin`.

    Attributes:
        width: of a bucket, in carrier units; 0 groups by the value itself.
        floor: values below this are not known to be bucketed as PostgreSQL does; None: all are.
    """

    column: str
    width: int = 0
    origin: int = 0
    floor: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """A column of the result.

    Attributes:
        kind: `column` (of a shape of rows), `key`, `count`, `sum`, `min`, `max`, `avg`, or `moment`, an element of PostgreSQL's
            transition state of a float's average (count, sum, 0: nobody reads the third).
        column: the argument; empty for `count(*)` and keys.
        index: which key, or which element from 1.
    """

    kind: str
    column: str = ""
    index: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Condition:
    """`column op values` in carrier units, exactly a conjunct of WHERE; `op` as in `storage.columnar.predicates`."""

    column: str
    op: str
    values: tuple[int | float | str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Best:
    """Of the rows with one key only the first by an order column is wanted: the last point of a series."""

    column: str
    descending: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Top:
    """Of the groups only those with the `count` first buckets of a key are wanted; more of them do no harm.

    Attributes:
        key: which; its column has no nulls.
    """

    key: int
    count: int
    descending: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """A fused aggregate, or rows that are only filtered.

    Attributes:
        partial: the coordinator adds groups up, so heap and stripes may answer apart.
        rows: nothing is aggregated; each output is a column.
        best: of rows, which one of each value of the only key; more of them do no harm.
        top: of groups, which are wanted; None: all.
    """

    keys: tuple[Key, ...]
    outputs: tuple[Output, ...]
    conditions: tuple[Condition, ...] = ()
    partial: bool = False
    rows: bool = False
    best: Best | None = None
    top: Top | None = None

    @property
    def filters(self) -> Sequence[predicates.Predicate]:
        """The conditions, as scans take them."""
        return self.conditions


def from_dict(item: dict[str, Any] | None) -> Shape | None:
    """The inverse of `dataclasses.asdict`."""
    if item is None:
        return None
    return Shape(
        keys=tuple(Key(**key) for key in item["keys"]),
        outputs=tuple(Output(**output) for output in item["outputs"]),
        conditions=tuple(
            Condition(each["column"], each["op"], tuple(each["values"])) for each in item["conditions"]
        ),
        partial=item["partial"],
        rows=item["rows"],
        best=None if item["best"] is None else Best(**item["best"]),
        top=None if item["top"] is None else Top(**item["top"]),
    )
