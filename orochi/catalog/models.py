"""The catalog's tables, as SQLAlchemy 2 models, in schema `orochi` of the coordinator database.

Tables, columns and dimensions are named by OID and attribute number where PostgreSQL has one, so
that renaming a shell table or a column needs no change here. What a reader plans from is read by
`orochi._snapshot()`; statement triggers (see `sql/20_triggers.sql`) move the catalog version for
every change a plan can depend on, and for no other.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql as pg

SCHEMA = "orochi"
_CASCADE = "CASCADE"


class Base(orm.DeclarativeBase):
    """Base of all catalog tables."""

    metadata = sa.MetaData(
        schema=SCHEMA,
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        },
    )
    type_annotation_map = {
        int: sa.BigInteger,
        str: sa.Text,
        dict[str, Any]: pg.JSONB,
        list[str]: pg.ARRAY(sa.Text),
        dt.datetime: sa.DateTime(timezone=True),
        dt.timedelta: sa.Interval,
    }


SHARD_IDS = sa.Sequence("orochi_shard_id_seq", start=102008, metadata=Base.metadata)
CHUNK_IDS = sa.Sequence("orochi_chunk_id_seq", start=1, metadata=Base.metadata)
STRIPE_IDS = sa.Sequence("orochi_stripe_id_seq", start=1, metadata=Base.metadata)


def _now() -> orm.MappedColumn[dt.datetime]:
    return orm.mapped_column(server_default=sa.func.now())


def _text(default: str) -> orm.MappedColumn[str]:
    return orm.mapped_column(server_default=sa.text(f"'{default}'"))


def _zero() -> orm.MappedColumn[int]:
    return orm.mapped_column(server_default=sa.text("0"))


def _small(**options: Any) -> orm.MappedColumn[int]:
    return orm.mapped_column(sa.Integer, **options)


def _attribute(**options: Any) -> orm.MappedColumn[Any]:
    return orm.mapped_column(sa.SmallInteger, **options)


def _json() -> orm.MappedColumn[dict[str, Any]]:
    return orm.mapped_column(server_default=sa.text("'{}'"))


def _identity() -> orm.MappedColumn[int]:
    return orm.mapped_column(sa.Identity(always=False), primary_key=True)


def _to(target: str, **options: Any) -> orm.MappedColumn[Any]:
    return orm.mapped_column(sa.ForeignKey(f"{SCHEMA}.{target}", ondelete=_CASCADE), **options)


class ColocationGroup(Base):
    """Tables of one group have equal shard ranges on equal nodes."""

    __tablename__ = "orochi_colocation_groups"

    colocation_id: orm.Mapped[int] = orm.mapped_column(
        sa.Integer, sa.Identity(always=False), primary_key=True
    )
    shard_count: orm.Mapped[int] = _small()
    distribution_type: orm.Mapped[int] = orm.mapped_column(pg.OID)
    is_default: orm.Mapped[bool] = orm.mapped_column(server_default=sa.true())


class Node(Base):
    """A PostgreSQL database with a Celery queue and a directory of stripes."""

    __tablename__ = "orochi_nodes"
    __table_args__ = (sa.UniqueConstraint("identity"),)

    node_id: orm.Mapped[int] = orm.mapped_column(sa.Integer, sa.Identity(always=False), primary_key=True)
    hostname: orm.Mapped[str]
    port: orm.Mapped[int] = _small()
    dbname: orm.Mapped[str]
    role: orm.Mapped[str] = _text("data")
    state: orm.Mapped[str] = _text("active")
    holds_shards: orm.Mapped[bool] = orm.mapped_column(server_default=sa.true())
    identity: orm.Mapped[str | None]  # of its server and database, whatever their address
    size_bytes: orm.Mapped[int] = _zero()
    last_heartbeat: orm.Mapped[dt.datetime | None]


class Table(Base):
    """An Orochi table; `table_oid` is its shell's OID."""

    __tablename__ = "orochi_tables"
    __table_args__ = (sa.CheckConstraint("kind IN ('distributed', 'reference', 'single')", name="kind"),)

    table_oid: orm.Mapped[int] = orm.mapped_column(pg.OID, primary_key=True, autoincrement=False)
    kind: orm.Mapped[str]
    distribution_attnum: orm.Mapped[int | None] = _attribute()
    colocation_id: orm.Mapped[int | None] = orm.mapped_column(
        sa.Integer, sa.ForeignKey(f"{SCHEMA}.orochi_colocation_groups.colocation_id")
    )
    storage_type: orm.Mapped[str] = _text("row")
    segmentby: orm.Mapped[list[str]] = orm.mapped_column(server_default=sa.text("'{}'"))
    orderby: orm.Mapped[list[str]] = orm.mapped_column(server_default=sa.text("'{}'"))
    options: orm.Mapped[dict[str, Any]] = _json()
    created_at: orm.Mapped[dt.datetime] = _now()


class Dimension(Base):
    """A hypertable's time (`ordinal` 1), or what else cuts its stripes; `chunk_interval` in the column's raw units."""

    __tablename__ = "orochi_dimensions"

    table_oid: orm.Mapped[int] = _to("orochi_tables.table_oid", primary_key=True)
    ordinal: orm.Mapped[int] = _small(primary_key=True, server_default=sa.text("1"))
    attnum: orm.Mapped[int] = _attribute()
    chunk_interval: orm.Mapped[int]


class Shard(Base):
    """A hash range of a table, inclusive at both ends."""

    __tablename__ = "orochi_shards"
    __table_args__ = (sa.UniqueConstraint("table_oid", "shard_index"),)

    shard_id: orm.Mapped[int] = orm.mapped_column(
        SHARD_IDS, server_default=SHARD_IDS.next_value(), primary_key=True
    )
    table_oid: orm.Mapped[int] = _to("orochi_tables.table_oid")
    shard_index: orm.Mapped[int] = _small()
    hash_min: orm.Mapped[int] = _small()
    hash_max: orm.Mapped[int] = _small()
    layout: orm.Mapped[int] = _small(server_default=sa.text("1"))
    row_count: orm.Mapped[int] = _zero()
    size_bytes: orm.Mapped[int] = _zero()


class ShardPlacement(Base):
    """A shard's copy on a node; the lowest `ordinal` is the primary."""

    __tablename__ = "orochi_shard_placements"

    shard_id: orm.Mapped[int] = _to("orochi_shards.shard_id", primary_key=True)
    node_id: orm.Mapped[int] = orm.mapped_column(
        sa.Integer, sa.ForeignKey(f"{SCHEMA}.orochi_nodes.node_id"), primary_key=True, index=True
    )
    ordinal: orm.Mapped[int] = _small(server_default=sa.text("0"))
    state: orm.Mapped[str] = _text("active")


class Chunk(Base):
    """A half-open time range of one shard, in raw units."""

    __tablename__ = "orochi_chunks"
    __table_args__ = (sa.UniqueConstraint("shard_id", "range_start"),)

    chunk_id: orm.Mapped[int] = orm.mapped_column(
        CHUNK_IDS, server_default=CHUNK_IDS.next_value(), primary_key=True
    )
    shard_id: orm.Mapped[int] = _to("orochi_shards.shard_id")
    range_start: orm.Mapped[int]
    range_end: orm.Mapped[int]
    generation: orm.Mapped[int] = _small(server_default=sa.text("0"))
    tier: orm.Mapped[str] = _text("hot")
    row_count: orm.Mapped[int] = _zero()
    size_bytes: orm.Mapped[int] = _zero()
    created_at: orm.Mapped[dt.datetime] = _now()


class Stripe(Base):
    """An immutable columnar file, its path relative to the node's stripe directory."""

    __tablename__ = "orochi_stripes"

    stripe_id: orm.Mapped[int] = orm.mapped_column(
        STRIPE_IDS, server_default=STRIPE_IDS.next_value(), primary_key=True
    )
    chunk_id: orm.Mapped[int] = _to("orochi_chunks.chunk_id", index=True)
    node_id: orm.Mapped[int] = orm.mapped_column(sa.Integer, sa.ForeignKey(f"{SCHEMA}.orochi_nodes.node_id"))
    path: orm.Mapped[str]
    row_count: orm.Mapped[int]
    size_bytes: orm.Mapped[int]
    heap_bytes: orm.Mapped[int] = _zero()  # what the rows took in the heap before
    time_min: orm.Mapped[int | None]  # raw; NULL where it is not known, or there is no time column
    time_max: orm.Mapped[int | None]
    created_at: orm.Mapped[dt.datetime] = _now()


class ColumnChunk(Base):
    """One column of one chunk group of a stripe: the skip list, as its file's footer holds it."""

    __tablename__ = "orochi_column_chunks"

    stripe_id: orm.Mapped[int] = _to("orochi_stripes.stripe_id", primary_key=True)
    column_name: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    chunk_group: orm.Mapped[int] = _small(primary_key=True)
    row_count: orm.Mapped[int]
    null_count: orm.Mapped[int]
    min_value: orm.Mapped[str | None]
    max_value: orm.Mapped[str | None]
    encoding: orm.Mapped[str]
    compression: orm.Mapped[str]
    size_bytes: orm.Mapped[int]


class ChunkAccess(Base):
    """Reads and writes of a chunk, counted by its node's PostgreSQL.

    `seen_*` are the node's counters when they were last looked at; `recent_reads` halves with every day.
    """

    __tablename__ = "orochi_chunk_access"

    chunk_id: orm.Mapped[int] = _to("orochi_chunks.chunk_id", primary_key=True, autoincrement=False)
    seen_reads: orm.Mapped[int] = _zero()
    seen_writes: orm.Mapped[int] = _zero()
    reads: orm.Mapped[int] = _zero()
    writes: orm.Mapped[int] = _zero()
    recent_reads: orm.Mapped[float] = orm.mapped_column(sa.Double, server_default=sa.text("0"))
    counted_at: orm.Mapped[dt.datetime] = _now()
    last_read_at: orm.Mapped[dt.datetime | None]
    last_write_at: orm.Mapped[dt.datetime | None]


class TieringDecision(Base):
    """What a tiering policy decided of a chunk, why, and what came of it: 'decided', 'moved' or 'failed'."""

    __tablename__ = "orochi_tiering_decisions"

    decision_id: orm.Mapped[int] = _identity()
    decided_at: orm.Mapped[dt.datetime]
    job_id: orm.Mapped[int | None] = _small()
    table_oid: orm.Mapped[int] = _to("orochi_tables.table_oid", index=True)
    chunk_id: orm.Mapped[int]
    from_tier: orm.Mapped[str]
    to_tier: orm.Mapped[str]
    reason: orm.Mapped[str]
    outcome: orm.Mapped[str] = _text("decided")
    message: orm.Mapped[str | None]


class VectorIndex(Base):
    """An index over a vector column of an Orochi table."""

    __tablename__ = "orochi_vector_indexes"

    index_oid: orm.Mapped[int] = orm.mapped_column(pg.OID, primary_key=True, autoincrement=False)
    table_oid: orm.Mapped[int] = _to("orochi_tables.table_oid")
    attnum: orm.Mapped[int] = _attribute()
    method: orm.Mapped[str]
    metric: orm.Mapped[str]
    options: orm.Mapped[dict[str, Any]] = _json()


class ContinuousAggregate(Base):
    """A continuous aggregate: the user's view, its query as a hidden view, and where its buckets are kept.

    `table_oid` is the hypertable whose time the buckets are of; `bucket` says how (`snapshot.Bucket`).
    """

    __tablename__ = "orochi_continuous_aggregates"

    aggregate_id: orm.Mapped[int] = _identity()
    view_oid: orm.Mapped[int] = orm.mapped_column(pg.OID, unique=True)
    query_oid: orm.Mapped[int] = orm.mapped_column(pg.OID)
    table_oid: orm.Mapped[int] = _to("orochi_tables.table_oid")
    materialization_oid: orm.Mapped[int] = orm.mapped_column(pg.OID)
    bucket: orm.Mapped[dict[str, Any]] = _json()
    materialized_only: orm.Mapped[bool] = orm.mapped_column(server_default=sa.false())
    created_at: orm.Mapped[dt.datetime] = _now()


class Invalidation(Base):
    """Buckets of an aggregate that are not as its rows say, both ends included, in raw units.

    `reason` is 'new' for buckets never materialised, 'dropped' for those whose rows drop_chunks() took away.
    What writes have touched stands in `orochi_data.aggregate_log` of each node, written by their transactions.
    """

    __tablename__ = "orochi_invalidation_log"

    invalidation_id: orm.Mapped[int] = _identity()
    aggregate_id: orm.Mapped[int] = _to("orochi_continuous_aggregates.aggregate_id", index=True)
    lowest: orm.Mapped[int]
    greatest: orm.Mapped[int]
    reason: orm.Mapped[str] = _text("new")
    recorded_at: orm.Mapped[dt.datetime] = _now()


class Transaction(Base):
    """A commit decision: the row's existence commits the node's prepared transaction `gid`."""

    __tablename__ = "orochi_transactions"

    gid: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    node_id: orm.Mapped[int] = _small(primary_key=True)
    created_at: orm.Mapped[dt.datetime] = _now()


class Job(Base):
    """A policy of a table, or a user's job; `next_due` is when it runs next, by `orochi._now()`."""

    __tablename__ = "orochi_jobs"
    __table_args__ = (sa.UniqueConstraint("kind", "table_oid"),)

    job_id: orm.Mapped[int] = orm.mapped_column(sa.Integer, sa.Identity(start=1000), primary_key=True)
    kind: orm.Mapped[str]
    table_oid: orm.Mapped[int | None] = _to("orochi_tables.table_oid")
    proc_oid: orm.Mapped[int | None] = orm.mapped_column(pg.OID)
    name: orm.Mapped[str | None]
    config: orm.Mapped[dict[str, Any] | None] = orm.mapped_column(server_default=sa.text("'{}'"))
    schedule_interval: orm.Mapped[dt.timedelta]
    fixed_schedule: orm.Mapped[bool] = orm.mapped_column(server_default=sa.false())
    initial_start: orm.Mapped[dt.datetime | None]
    timezone: orm.Mapped[str | None]
    max_runtime: orm.Mapped[dt.timedelta] = orm.mapped_column(server_default=sa.text("'0'"))
    max_retries: orm.Mapped[int] = _small(server_default=sa.text("-1"))
    retry_period: orm.Mapped[dt.timedelta] = orm.mapped_column(server_default=sa.text("'10 seconds'"))
    enabled: orm.Mapped[bool] = orm.mapped_column(server_default=sa.true())
    owner_oid: orm.Mapped[int] = orm.mapped_column(pg.OID)
    next_due: orm.Mapped[dt.datetime] = _now()
    total_runs: orm.Mapped[int] = _zero()
    total_successes: orm.Mapped[int] = _zero()
    total_failures: orm.Mapped[int] = _zero()
    consecutive_failures: orm.Mapped[int] = _zero()


class JobRun(Base):
    """One run of a job, or of what a policy does when a user calls it (`job_id` is NULL then).

    A job has one unfinished run at a time, so that two schedulers run it once.
    """

    __tablename__ = "orochi_job_runs"
    __table_args__ = (
        sa.Index(
            "orochi_job_runs_unfinished_idx",
            "job_id",
            unique=True,
            postgresql_where=sa.text("finished_at IS NULL"),
        ),
        sa.Index("orochi_job_runs_job_id_run_id_idx", "job_id", "run_id"),
    )

    run_id: orm.Mapped[int] = _identity()
    job_id: orm.Mapped[int | None] = _to("orochi_jobs.job_id")
    kind: orm.Mapped[str]
    table_oid: orm.Mapped[int | None] = orm.mapped_column(pg.OID)
    due_at: orm.Mapped[dt.datetime] = _now()
    scheduled: orm.Mapped[bool] = orm.mapped_column(server_default=sa.true())
    queued_at: orm.Mapped[dt.datetime] = orm.mapped_column(server_default=sa.text("clock_timestamp()"))
    started_at: orm.Mapped[dt.datetime | None]
    finished_at: orm.Mapped[dt.datetime | None]
    task_id: orm.Mapped[str | None]
    worker: orm.Mapped[str | None]
    pid: orm.Mapped[int | None] = _small()
    state: orm.Mapped[str] = _text("queued")
    sqlstate: orm.Mapped[str | None]
    message: orm.Mapped[str | None]
    rows: orm.Mapped[int] = _zero()
    bytes: orm.Mapped[int] = _zero()
    progress_done: orm.Mapped[int | None]
    progress_total: orm.Mapped[int | None]
    progress_what: orm.Mapped[str | None]
    details: orm.Mapped[dict[str, Any]] = _json()


class Clock(Base):
    """At most one row: the time that policies and schedules take for now."""

    __tablename__ = "orochi_clock"

    singleton: orm.Mapped[bool] = orm.mapped_column(primary_key=True, server_default=sa.true())
    frozen_at: orm.Mapped[dt.datetime]


class Cleanup(Base):
    """Something on a node that no catalog row needs any more: dropped after `not_before`.

    `kind` is 'shard' or 'chunk' (node schemas of `object_id`, any layout or generation) or
    'stripe' (the file `path` and the delete vector of `object_id`).
    """

    __tablename__ = "orochi_cleanup"

    cleanup_id: orm.Mapped[int] = _identity()
    node_id: orm.Mapped[int] = _small(index=True)
    kind: orm.Mapped[str]
    object_id: orm.Mapped[int]
    path: orm.Mapped[str | None]
    not_before: orm.Mapped[dt.datetime] = _now()


class CatalogChange(Base):
    """The catalog's version is the sum of `weight`: every change adds a row, maintenance folds them.

    Rows instead of one counter, so that concurrent catalog changes do not wait for each other. Those that are
    `is_layout` concern nothing but where rows are: chunks, stripes, layouts; `shards` are all whose rows they
    are about, NULL where that is not known.
    """

    __tablename__ = "orochi_catalog_changes"

    change_id: orm.Mapped[int] = _identity()
    weight: orm.Mapped[int] = orm.mapped_column(server_default=sa.text("1"))
    is_layout: orm.Mapped[bool] = orm.mapped_column(server_default=sa.false())
    shards: orm.Mapped[list[int] | None] = orm.mapped_column(pg.ARRAY(sa.BigInteger))


class Secret(Base):
    """One row: what the gateway proves itself with to `_gateway_execute`. Not readable by users."""

    __tablename__ = "orochi_secret"

    singleton: orm.Mapped[bool] = orm.mapped_column(primary_key=True, server_default=sa.true())
    secret: orm.Mapped[str] = orm.mapped_column(
        server_default=sa.text("replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '')")
    )


class InstalledSql(Base):
    """Digest of the functions, triggers and views last installed: unchanged SQL is not run again."""

    __tablename__ = "orochi_installed_sql"

    singleton: orm.Mapped[bool] = orm.mapped_column(primary_key=True, server_default=sa.true())
    digest: orm.Mapped[str]
