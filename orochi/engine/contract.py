"""What the engine needs of a fragment, as protocols that `orochi.planner.fragment` satisfies.

The engine lies below the planner and does not import it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import pyarrow as pa

from orochi.engine import copybinary, shapes
from orochi.storage.columnar import predicates


class OutputColumn(copybinary.Column, Protocol):
    """A column of a result or a scan."""

    @property
    def typmod(self) -> int:
        """PostgreSQL's type modifier, -1 for none."""

    @property
    def type_name(self) -> str:
        """The type as `format_type` prints it."""


class StripeRef(Protocol):
    """A stripe to read."""

    @property
    def stripe_id(self) -> int:
        """Its catalog id, as in delete vectors."""

    @property
    def path(self) -> str:
        """Its file, relative to the stripe directory."""

    @property
    def row_count(self) -> int:
        """Its rows, deleted ones among them."""


class Input(Protocol):
    """Rows of an earlier stage."""

    @property
    def stage(self) -> str:
        """The stage's name."""

    @property
    def part(self) -> int | None:
        """Which part of its rows; None for all."""

    @property
    def indexes(self) -> Sequence[Sequence[str]]:
        """What they are looked up by."""


class Scan(Protocol):
    """One relation a fragment reads."""

    @property
    def name(self) -> str:
        """The placeholder in SQL."""

    @property
    def relation(self) -> str:
        """The quoted heap relation."""

    @property
    def columns(self) -> Sequence[OutputColumn]:
        """What is read of it."""

    @property
    def stripes(self) -> Sequence[StripeRef]:
        """What is not in the heap."""

    @property
    def predicates(self) -> Sequence[predicates.Predicate]:
        """What the query implies of every row it uses."""

    @property
    def input(self) -> Input | None:
        """Set where the rows are a stage's: then there is no heap relation."""


class Fragment(Protocol):
    """One unit of work."""

    @property
    def number(self) -> int:
        """Its number within the query."""

    @property
    def scans(self) -> Sequence[Scan]:
        """The relations it reads."""

    @property
    def sql(self) -> str:
        """PostgreSQL's SQL over the scans' placeholders."""

    @property
    def vector_sql(self) -> str | None:
        """DuckDB's, where it is known to answer alike."""

    @property
    def fused(self) -> shapes.Shape | None:
        """The same as one pass over columns, where it has that shape."""

    @property
    def columns(self) -> Sequence[OutputColumn]:
        """The result's columns."""

    @property
    def settings(self) -> Sequence[tuple[str, str]]:
        """Session settings that change what `sql` means."""

    @property
    def snapshot(self) -> str:
        """The node's exported snapshot to read, empty for one of its own."""

    @property
    def intermediate(self) -> str:
        """Whose rows its result is."""


@dataclasses.dataclass(frozen=True, slots=True)
class FragmentStats:
    """What a fragment cost, for EXPLAIN ANALYZE.

    Attributes:
        requests, fetched_bytes: what was asked of the object store.
        engine: 'postgres' (heap only), 'postgres+stripes', 'fused', 'duckdb' or 'session'.
    """

    rows: int
    bytes: int
    seconds: float
    chunk_groups_total: int = 0
    chunk_groups_skipped: int = 0
    requests: int = 0
    fetched_bytes: int = 0
    engine: str = "postgres"


#: Takes a batch of the result; may wait for whoever reads it.
Emit: TypeAlias = Callable[[pa.RecordBatch], None]
#: Whether the query was cancelled; asked between batches.
Cancelled: TypeAlias = Callable[[], bool]
