"""Reads and writes of each chunk, and what tiering policies decided."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_table('orochi_tiering_policies', schema='orochi')
    # the view of chunks reads the column; it is made again when the SQL is installed
    op.execute('DROP VIEW IF EXISTS orochi.chunks CASCADE')
    op.drop_column('orochi_chunks', 'last_read_at', schema='orochi')
    op.create_table('orochi_chunk_access',
    sa.Column('chunk_id', sa.BigInteger(), nullable=False),
    sa.Column('seen_reads', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('seen_writes', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('reads', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('writes', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('recent_reads', sa.Double(), server_default=sa.text('0'), nullable=False),
    sa.Column('counted_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('last_read_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('last_write_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['chunk_id'], ['orochi.orochi_chunks.chunk_id'], name=op.f('orochi_chunk_access_chunk_id_fkey'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('chunk_id', name=op.f('orochi_chunk_access_pkey')),
    schema='orochi'
    )
    op.create_table('orochi_tiering_decisions',
    sa.Column('decision_id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('decided_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('job_id', sa.Integer(), nullable=True),
    sa.Column('table_oid', postgresql.OID(), nullable=False),
    sa.Column('chunk_id', sa.BigInteger(), nullable=False),
    sa.Column('from_tier', sa.Text(), nullable=False),
    sa.Column('to_tier', sa.Text(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=False),
    sa.Column('outcome', sa.Text(), server_default=sa.text("'decided'"), nullable=False),
    sa.Column('message', sa.Text(), nullable=True),
    sa.ForeignKeyConstraint(['table_oid'], ['orochi.orochi_tables.table_oid'], name=op.f('orochi_tiering_decisions_table_oid_fkey'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('decision_id', name=op.f('orochi_tiering_decisions_pkey')),
    schema='orochi'
    )
    op.create_index(op.f('orochi_tiering_decisions_table_oid_idx'), 'orochi_tiering_decisions', ['table_oid'], unique=False, schema='orochi')


def downgrade() -> None:
    op.drop_table('orochi_tiering_decisions', schema='orochi')
    op.drop_table('orochi_chunk_access', schema='orochi')
    op.add_column('orochi_chunks', sa.Column('last_read_at', sa.DateTime(timezone=True), nullable=True), schema='orochi')
    op.create_table('orochi_tiering_policies',
    sa.Column('table_oid', postgresql.OID(), nullable=False),
    sa.Column('hot_after', sa.Interval(), nullable=True),
    sa.Column('warm_after', sa.Interval(), nullable=True),
    sa.Column('cold_after', sa.Interval(), nullable=True),
    sa.ForeignKeyConstraint(['table_oid'], ['orochi.orochi_tables.table_oid'], name=op.f('orochi_tiering_policies_table_oid_fkey'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('table_oid', name=op.f('orochi_tiering_policies_pkey')),
    schema='orochi'
    )
