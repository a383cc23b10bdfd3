"""Changes of layouts say which shards they are about."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('orochi_catalog_changes', sa.Column('shards', postgresql.ARRAY(sa.BigInteger()), nullable=True), schema='orochi')


def downgrade() -> None:
    op.drop_column('orochi_catalog_changes', 'shards', schema='orochi')
