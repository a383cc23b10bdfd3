"""Stripes have the least and the greatest time in them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0007'
down_revision = '0006'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('orochi_stripes', sa.Column('time_min', sa.BigInteger(), nullable=True), schema='orochi')
    op.add_column('orochi_stripes', sa.Column('time_max', sa.BigInteger(), nullable=True), schema='orochi')
    op.execute('''
        UPDATE orochi.orochi_stripes f SET time_min = k.least, time_max = k.greatest
        FROM (SELECT m.stripe_id, min(m.min_value::bigint) AS least, max(m.max_value::bigint) AS greatest,
                sum(m.row_count) AS rows, count(*) = count(m.min_value) AND sum(m.null_count) = 0 AS whole
            FROM orochi.orochi_dimensions d
            JOIN pg_catalog.pg_attribute a ON a.attrelid = d.table_oid AND a.attnum = d.attnum
            JOIN orochi.orochi_shards s ON s.table_oid = d.table_oid
            JOIN orochi.orochi_chunks c ON c.shard_id = s.shard_id
            JOIN orochi.orochi_stripes t ON t.chunk_id = c.chunk_id
            JOIN orochi.orochi_column_chunks m ON m.stripe_id = t.stripe_id AND m.column_name = a.attname
            WHERE d.ordinal = 1 GROUP BY m.stripe_id) k
        WHERE k.stripe_id = f.stripe_id AND k.whole AND k.rows = f.row_count
    ''')


def downgrade() -> None:
    op.drop_column('orochi_stripes', 'time_max', schema='orochi')
    op.drop_column('orochi_stripes', 'time_min', schema='orochi')
