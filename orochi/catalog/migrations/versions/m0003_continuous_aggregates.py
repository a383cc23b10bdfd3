"""Continuous aggregates: their buckets, and what of them is not materialised."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_table("orochi_invalidation_log", schema="orochi")
    op.drop_table("orochi_continuous_aggregates", schema="orochi")
    op.create_table(
        "orochi_continuous_aggregates",
        sa.Column("aggregate_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("view_oid", postgresql.OID(), nullable=False),
        sa.Column("query_oid", postgresql.OID(), nullable=False),
        sa.Column("table_oid", postgresql.OID(), nullable=False),
        sa.Column("materialization_oid", postgresql.OID(), nullable=False),
        sa.Column(
            "bucket",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column("materialized_only", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["table_oid"],
            ["orochi.orochi_tables.table_oid"],
            name=op.f("orochi_continuous_aggregates_table_oid_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("aggregate_id", name=op.f("orochi_continuous_aggregates_pkey")),
        sa.UniqueConstraint("view_oid", name=op.f("orochi_continuous_aggregates_view_oid_key")),
        schema="orochi",
    )
    op.create_table(
        "orochi_invalidation_log",
        sa.Column("invalidation_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("aggregate_id", sa.BigInteger(), nullable=False),
        sa.Column("lowest", sa.BigInteger(), nullable=False),
        sa.Column("greatest", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), server_default=sa.text("'new'"), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["aggregate_id"],
            ["orochi.orochi_continuous_aggregates.aggregate_id"],
            name=op.f("orochi_invalidation_log_aggregate_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("invalidation_id", name=op.f("orochi_invalidation_log_pkey")),
        schema="orochi",
    )
    op.create_index(
        op.f("orochi_invalidation_log_aggregate_id_idx"),
        "orochi_invalidation_log",
        ["aggregate_id"],
        unique=False,
        schema="orochi",
    )


def downgrade() -> None:
    op.drop_table("orochi_invalidation_log", schema="orochi")
    op.drop_table("orochi_continuous_aggregates", schema="orochi")
    op.create_table(
        "orochi_continuous_aggregates",
        sa.Column("view_oid", postgresql.OID(), autoincrement=False, nullable=False),
        sa.Column("table_oid", postgresql.OID(), nullable=False),
        sa.Column("materialization_oid", postgresql.OID(), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("bucket_width", sa.BigInteger(), nullable=False),
        sa.Column("refresh_interval", sa.Interval(), nullable=False),
        sa.Column("materialized_only", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("watermark", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["table_oid"],
            ["orochi.orochi_tables.table_oid"],
            name=op.f("orochi_continuous_aggregates_table_oid_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("view_oid", name=op.f("orochi_continuous_aggregates_pkey")),
        schema="orochi",
    )
    op.create_table(
        "orochi_invalidation_log",
        sa.Column("invalidation_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("table_oid", postgresql.OID(), nullable=False),
        sa.Column("lowest", sa.BigInteger(), nullable=False),
        sa.Column("greatest", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["table_oid"],
            ["orochi.orochi_tables.table_oid"],
            name=op.f("orochi_invalidation_log_table_oid_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("invalidation_id", name=op.f("orochi_invalidation_log_pkey")),
        schema="orochi",
    )
    op.create_index(
        op.f("orochi_invalidation_log_table_oid_idx"),
        "orochi_invalidation_log",
        ["table_oid"],
        unique=False,
        schema="orochi",
    )
