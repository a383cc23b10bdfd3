"""The catalog as one statement sees it: an immutable value, loaded whole, never half-updated.

A plan is made from exactly one `Snapshot`. Relation names on nodes carry a layout number in
their schema (`orochi_s<shard>_<layout>`); any change of what a shard's heap holds (a chunk
compressed, dropped, moved) renames that schema in the same node transaction, so a plan made from
an older snapshot cannot read a newer layout: PostgreSQL answers 3F000 or 42P01, and the
statement is planned again.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Collection, Mapping

from orochi import errors, ids


class TableKind(enum.StrEnum):
    """How a table's rows are placed."""

    DISTRIBUTED = "distributed"  # hash of the distribution column picks the shard
    REFERENCE = "reference"  # one shard, a placement on every node
    SINGLE = "single"  # one shard on one node: a hypertable that is not distributed


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A column of the shell table, as pg_attribute tells it.

    Attributes:
        type_oid: OID on the coordinator; `base_oid` is the same with domains resolved.
        type_name: `format_type(atttypid, atttypmod)`, e.g. `numeric(10,2)`.
        collation: the collation, qualified and quoted for SQL, if it is not the type's default, else None.
        default_sql: `pg_get_expr` of the default (its domain's where it has none) or generation expression, else None.
        default_is_volatile: the default must be computed once, on the coordinator (sequences,
            now(), user functions), not by the node.
        identity: '' | 'a' (always) | 'd' (by default); generated: '' | 's' | 'v'.
    """

    name: str
    attnum: int
    type_oid: int
    base_oid: int
    typmod: int
    type_name: str
    not_null: bool
    collation: str | None = None
    default_sql: str | None = None
    default_is_volatile: bool = False
    identity: str = ""
    generated: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A cluster member: a PostgreSQL database, a Celery queue and a directory of stripes."""

    node_id: ids.NodeId
    host: str
    port: int
    dbname: str
    role: str  # 'coordinator' | 'data'
    state: str  # 'active' | 'draining' | 'down'
    holds_shards: bool

    @property
    def name(self) -> str:
        """How EXPLAIN and logs call it."""
        return f"n{self.node_id}"

    @property
    def queue(self) -> str:
        """The Celery queue of its fragments."""
        return f"node.{self.node_id}"

    @property
    def maintenance_queue(self) -> str:
        """The Celery queue of its background work."""
        return f"maintenance.{self.node_id}"


@dataclasses.dataclass(frozen=True, slots=True)
class Stripe:
    """An immutable columnar file. `path` is relative to the node's stripe directory.

    `times`: the least and greatest raw time in it; None where that is not known.
    `bounds`: the same of each further dimension of the table, where the skip list has them.
    """

    stripe_id: ids.StripeId
    path: str
    row_count: int
    size_bytes: int
    times: tuple[int, int] | None = None
    bounds: tuple[tuple[int, int] | None, ...] = ()

    def may_have(self, low: int, high: int) -> bool:
        """Whether a row's raw time can be one of these, both inclusive."""
        return self.times is None or (low <= self.times[1] and high >= self.times[0])


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """A time range of one shard of a hypertable; ranges are half-open, in raw units.

    Raw units are the integers PostgreSQL stores: microseconds since 2000-01-01 for timestamps,
    days since 2000-01-01 for dates, the value itself for integers.
    """

    chunk_id: ids.ChunkId
    shard_id: ids.ShardId
    range_start: int
    range_end: int
    generation: int
    tier: str = "hot"
    stripes: tuple[Stripe, ...] = ()

    @property
    def schema(self) -> str:
        """The node schema holding this chunk's heap partition (named as the table)."""
        return f"orochi_c{self.chunk_id}_{self.generation}"

    @property
    def name(self) -> str:
        """What `show_chunks` and `orochi.chunks.chunk_name` print and `compress_chunk` takes."""
        return f"orochi_chunks.chunk_{self.chunk_id}"

    @property
    def is_compressed(self) -> bool:
        """Whether part of its rows lies in stripes."""
        return bool(self.stripes)


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """A hash range of a table, inclusive at both ends, and where it lives."""

    shard_id: ids.ShardId
    index: int
    hash_min: int
    hash_max: int
    node_ids: tuple[ids.NodeId, ...]  # placements; the first is the primary
    layout: int
    chunks: tuple[Chunk, ...] = ()  # sorted by range_start; empty for tables without time
    row_count: int = 0  # as statistics last counted them, stripes included; 0 before that
    size_bytes: int = 0

    @property
    def node_id(self) -> ids.NodeId:
        """The primary placement's node."""
        return self.node_ids[0]

    @property
    def schema(self) -> str:
        """The node schema holding this shard's relation, which is named as the shell table."""
        return f"orochi_s{self.shard_id}_{self.layout}"

    @property
    def has_stripes(self) -> bool:
        """Whether any chunk of it lies in stripes."""
        return any(chunk.stripes for chunk in self.chunks)


@dataclasses.dataclass(frozen=True, slots=True)
class TimeDimension:
    """A hypertable's time column, or one more that has ranges; `interval` in raw units of the column's type."""

    column: str
    type_oid: int
    interval: int


@dataclasses.dataclass(frozen=True, slots=True)
class Referencing:
    """A foreign key that points at a table.

    Attributes:
        table_oid: whose it is; an Orochi table, maybe the same one.
        columns: its columns; `referenced` are those they must be found in, in this order.
        acts: a change there changes rows here, instead of being refused.
    """

    table_oid: ids.TableId
    columns: tuple[str, ...]
    referenced: tuple[str, ...]
    acts: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """An Orochi table: its shell's shape and its shards (sorted by index)."""

    oid: ids.TableId
    schema: str
    name: str
    kind: TableKind
    columns: tuple[Column, ...]
    shards: tuple[Shard, ...]
    colocation_id: ids.ColocationId | None
    distribution_column: str | None = None
    distribution_oid: int | None = None  # base type of the distribution column
    dimension: TimeDimension | None = None
    unique_keys: tuple[tuple[str, ...], ...] = ()
    storage_type: str = "row"
    owner: str = ""
    segmentby: tuple[str, ...] = ()
    orderby: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()  # names of the shell's indexes, in the table's schema
    referenced_by: tuple[Referencing, ...] = ()
    further: tuple[
        TimeDimension, ...
    ] = ()  # dimensions by range beside the time: rows of stripes lie by them

    def column(self, name: str) -> Column | None:
        """The column of that name, or None."""
        return next((column for column in self.columns if column.name == name), None)

    def rekeyed_by(self, assigned: Collection[str]) -> bool:
        """Whether a unique key has a column that gets a value, or is computed from others."""
        keys = {name for key in self.unique_keys for name in key}
        return any(
            column.name in assigned or column.generated for column in self.columns if column.name in keys
        )

    def shard_for_hash(self, value: int) -> Shard:
        """The shard whose range holds the int32 hash `value`."""
        count = len(self.shards)
        index = min((value + 2**31) * count >> 32, count - 1)
        for candidate in (index, index - 1, index + 1):
            if 0 <= candidate < count:
                shard = self.shards[candidate]
                if shard.hash_min <= value <= shard.hash_max:
                    return shard
        return next(s for s in self.shards if s.hash_min <= value <= s.hash_max)


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """A view (or rule) whose definition reads an Orochi table, directly or through views.

    `definition` is `pg_get_viewdef` with an empty search_path: every name qualified.
    """

    schema: str
    name: str
    definition: str
    columns: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Bucket:
    """How the rows of a hypertable fall into the buckets of a continuous aggregate.

    Attributes:
        column: the aggregate's column of buckets; `type_oid` is its type, and that of the time column.
        time: the hypertable's time column.
        expression: SQL for the bucket of a row whose time is named `orochi_time`, for nodes.
        width: raw units, where all buckets are of one width; else None (months, time zones).
        phase: the raw start of some bucket of that width.
        slack: raw units that a row's time is at most away from its bucket's start.
        others: OIDs of the Orochi tables that the query reads besides.
        direct: chunks have the triggers of their shard that log inserts, so that rows may name a chunk.
    """

    column: str
    type_oid: int
    time: str
    expression: str
    width: int | None
    phase: int
    slack: int
    others: tuple[int, ...] = ()
    direct: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Aggregate:
    """A continuous aggregate.

    Attributes:
        view: schema and name of what the user reads.
        query: of the hidden view that is its query.
        table_oid: the hypertable; `materialization_oid` the table of its finished buckets.
    """

    aggregate_id: int
    view_oid: int
    view: tuple[str, str]
    query: tuple[str, str]
    table_oid: ids.TableId
    materialization_oid: ids.TableId
    materialized_only: bool
    bucket: Bucket


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything planning needs to know of the catalog, at one version.

    Attributes:
        shadows: (schema, name) of relations that are not Orochi's but share the bare name of an
            Orochi table or of one of `views`: they may come first on a search_path.
        definitions: its version but for changes that only concern where rows are.
        shape: the same thing as long as nothing else changes: names, columns, rights and placements are as they were.
        changes: ids of the changes that made it; None if what came after it cannot be told from them.
    """

    version: int
    tables: Mapping[ids.TableId, Table]
    names: Mapping[tuple[str, str], ids.TableId]  # (schema, name) → oid
    nodes: Mapping[ids.NodeId, Node]
    views: Mapping[tuple[str, str], View]
    shadows: frozenset[tuple[str, str]] = frozenset()
    aggregates: tuple[Aggregate, ...] = ()
    definitions: int = 0
    shape: object = dataclasses.field(default_factory=object, compare=False)
    changes: frozenset[int] | None = dataclasses.field(default=None, compare=False)

    def following(self, former: Snapshot) -> Snapshot:
        """The same, committed after `former`, with its shape if only layouts have changed since.

        Both are asked, the version and the content: where no event triggers are, DDL moves no version.
        """
        if self.definitions != former.definitions or self._outline() != former._outline():
            return self
        return dataclasses.replace(self, shape=former.shape)

    def with_shards(
        self, version: int, changes: frozenset[int], shards: Mapping[ids.TableId, Collection[Shard]]
    ) -> Snapshot | None:
        """The same with these shards, by table, in place of those of their ids; of the same shape.

        Tables of which no shard is given are the same objects. None if a shard is not one of a table here.
        """
        tables = dict(self.tables)
        for oid, changed in shards.items():
            fresh = {shard.shard_id: shard for shard in changed}
            table = tables.get(oid)
            if table is None or not fresh.keys() <= {shard.shard_id for shard in table.shards}:
                return None
            listed = tuple(fresh.get(shard.shard_id, shard) for shard in table.shards)
            tables[oid] = dataclasses.replace(table, shards=listed)
        return dataclasses.replace(self, version=version, changes=changes, tables=tables)

    def _outline(self) -> tuple[object, ...]:
        tables = {
            oid: (
                dataclasses.replace(table, shards=()),
                [(shard.shard_id, shard.hash_min, shard.node_ids) for shard in table.shards],
            )
            for oid, table in self.tables.items()
        }
        return tables, self.names, self.nodes, self.views, self.shadows, self.aggregates

    def aggregates_of(self, oid: int) -> tuple[Aggregate, ...]:
        """The continuous aggregates whose query reads the Orochi table of that OID."""
        return tuple(item for item in self.aggregates if oid in (item.table_oid, *item.bucket.others))

    def table(self, schema: str, name: str) -> Table | None:
        """The Orochi table of that exact schema and name, or None."""
        oid = self.names.get((schema, name))
        return None if oid is None else self.tables[oid]

    def current(self, oid: ids.TableId) -> Table:
        """The Orochi table of that OID, for one who knew of it from an earlier snapshot.

        Raises:
            StalePlan: it has been dropped or made a local table since.
        """
        table = self.tables.get(oid)
        if table is None:
            raise errors.StalePlan("a table is gone, or no longer an Orochi table")
        return table

    @property
    def data_nodes(self) -> tuple[Node, ...]:
        """Active nodes that hold shards, by id."""
        return tuple(
            node for _, node in sorted(self.nodes.items()) if node.holds_shards and node.state == "active"
        )


EMPTY = Snapshot(version=0, tables={}, names={}, nodes={}, views={})
