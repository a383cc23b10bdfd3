"""Plans: what the planner decided, as a closed union of frozen dataclasses read by `match`.

`Router` and `Modify` are templates: their SQL keeps `$n`, and names each table's shard schema by a
placeholder `orochi_shard_<i>` (i = position in `tables`), filled in once the distribution key is
known. Such a plan is cached per statement text and snapshot version and costs nothing to reuse.
`Distributed` is for one execution: parameters are already literals in it.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TypeAlias

from orochi import ids
from orochi.catalog import snapshot as snapshots
from orochi.planner import fragment as fragments


@dataclasses.dataclass(frozen=True, slots=True)
class HashKey:
    """The distribution key is a constant; `value` is its int32 hash."""

    value: int


@dataclasses.dataclass(frozen=True, slots=True)
class ParamKey:
    """The distribution key is parameter `$number` (1-based), bound as type `type_oid`, whose hash it has."""

    number: int
    type_oid: int


@dataclasses.dataclass(frozen=True, slots=True)
class AnyKey:
    """Reference tables and tables with one shard only: any node with placements of all answers."""


Key: TypeAlias = HashKey | ParamKey | AnyKey


@dataclasses.dataclass(frozen=True, slots=True)
class Router:
    """The whole SELECT runs on one node's heap; bytes come back untouched.

    Valid only while no chosen shard has stripes; otherwise the statement is planned again with
    its parameters known.

    Attributes:
        locks: it locks rows, so the node counts as written: its locks last until all nodes have committed.
    """

    key: Key
    tables: tuple[ids.TableId, ...]
    sql: str
    locks: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Modify:
    """UPDATE or DELETE pushed to the shards of `target`.

    Attributes:
        shard_indexes: the shards that can hold affected rows, when `key` is None.
        key: set when exactly one shard is affected, known at execution.
        predicates: implied conditions on the target, to find the stripe rows to recall.
        rekeys: it may give rows other unique keys, which rows in stripes may have.
    """

    key: Key | None
    shard_indexes: tuple[int, ...]
    tables: tuple[ids.TableId, ...]
    target: ids.TableId
    sql: str
    predicates: tuple[fragments.Predicate, ...]
    returning: bool
    rekeys: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Counted:
    """Rows of groups and of one value each, of which the final SQL wants how many values a group has.

    Equal values have equal carriers, but for trailing blanks of `character(n)`.

    Attributes:
        groups: the columns that make a group.
        value: the column whose distinct values are counted, without NULLs.
        name: what the count is called, in the value's place.
    """

    groups: tuple[str, ...]
    value: str
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Intermediate:
    """Fragment results gathered under one name, which the final SQL reads as a relation.

    Attributes:
        name: `orochi_i0`; appears in final SQL as `pg_temp.orochi_i0 AS "alias"`.
        columns: their shape; where only parse analysis can tell a type, type 0.
        fragments: may be none: then the relation is empty.
        table: what it was made of, for EXPLAIN.
        describe_sql: over the shell tables, its described columns are `columns`' types; None if
            they are all known.
        primary_key: not empty if the final SQL needs a real table with this primary key, because a
            GROUP BY names no more than the key.
        needs_table: the final SQL reads it in a way that only a real table allows (a primary key,
            TABLESAMPLE).
        stage: the stage whose rows it holds, when no fragments give them.
        counted: what is made of the fragments' rows before the final SQL reads them.
    """

    name: str
    columns: tuple[fragments.OutputColumn, ...]
    fragments: tuple[fragments.Fragment, ...]
    shards_total: int
    table: str
    describe_sql: str | None = None
    primary_key: tuple[str, ...] = ()
    needs_table: bool = False
    stage: str | None = None
    counted: Counted | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Partition:
    """How a stage's rows are dealt out: by the hash of a column, as the shards they will meet are.

    Attributes:
        column: its position among the stage's columns.
        type_oid: the type it is hashed as.
        ranges: the inclusive hash range of each part.
    """

    column: int
    type_oid: int
    ranges: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """A SELECT that runs before others, which read its rows as a relation.

    Attributes:
        name: `x0`, ...; unique within the whole plan.
        plan: how its rows are got; it has no stages of its own, they come before this one.
        columns: the rows' shape.
        sql: the SELECT, for EXPLAIN.
        partition: None if every reader needs all rows (broadcast).
        rows, bytes: how many were expected, None where nothing is known.
        indexes: as `fragment.Input` has them.
        key: the same for stages that would hold the same rows in the same columns; empty for one that is dealt out.
    """

    name: str
    plan: SelectPlan
    columns: tuple[fragments.OutputColumn, ...]
    sql: str
    partition: Partition | None = None
    rows: int | None = None
    bytes: int | None = None
    indexes: tuple[tuple[str, ...], ...] = ()
    key: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Distributed:
    """Stages, then fragments on workers, then `final_sql` on the coordinator, or mere concatenation.

    Attributes:
        strategy: 'router' | 'pushdown' | 'two-phase aggregate' | 'recursive' | 'pull', as EXPLAIN
            prints it; a router with stripes to read is one fragment, and 'recursive' reads nothing
            but stages.
        final_sql: None when the one intermediate's rows are the answer, in any order if there are
            several fragments, in the fragment's own if there is one.
        limit: with no final SQL, stop after this many rows; None is no limit.
    """

    strategy: str
    intermediates: tuple[Intermediate, ...]
    final_sql: str | None
    limit: int | None = None
    reason: str = ""
    stages: tuple[Stage, ...] = ()

    @property
    def is_as_it_comes(self) -> bool:
        """Whether the rows of its fragments, all of them in any order, are the answer."""
        alone = len(self.intermediates) == 1 and self.intermediates[0].counted is None
        return alone and self.final_sql is None and self.limit is None and not self.stages

    @property
    def all_fragments(self) -> list[fragments.Fragment]:
        """Those of all intermediates, each with the name of its own."""
        return [
            dataclasses.replace(part, intermediate=item.name)
            for item in self.intermediates
            for part in item.fragments
        ]


SelectPlan: TypeAlias = Router | Distributed

_PLACEHOLDER = re.compile(r"\borochi_shard_(\d+)\b")


def fill(sql: str, shards: tuple[snapshots.Shard, ...]) -> str:
    """`sql` with each `orochi_shard_<i>` replaced by the schema of `shards[i]`."""
    return _PLACEHOLDER.sub(lambda match: shards[int(match.group(1))].schema, sql)
