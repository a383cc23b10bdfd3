"""What maintenance asks of the engine's stripe reader (`orochi.engine.contract`)."""

from __future__ import annotations

import dataclasses

from orochi.catalog import definition as definitions
from orochi.storage.columnar import predicates


@dataclasses.dataclass(frozen=True, slots=True)
class StripeFile:
    """A stripe; `path` is relative to the node's stripe directory."""

    stripe_id: int
    path: str
    row_count: int


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A column in its base type's carrier."""

    name: str
    type_oid: int
    typmod: int
    type_name: str

    @classmethod
    def of(cls, column: definitions.Column) -> Column:
        """The column of a shell."""
        return cls(column.name, column.base_oid, -1, column.type)


@dataclasses.dataclass(frozen=True, slots=True)
class Scan:
    """All rows of some stripes."""

    name: str
    relation: str
    columns: tuple[Column, ...]
    stripes: tuple[StripeFile, ...]
    predicates: tuple[predicates.Predicate, ...] = ()
    input: None = None
