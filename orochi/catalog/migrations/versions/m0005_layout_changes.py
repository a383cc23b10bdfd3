"""Changes of the catalog that only concern where rows are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('orochi_catalog_changes', sa.Column('is_layout', sa.Boolean(), server_default=sa.text('false'), nullable=False), schema='orochi')


def downgrade() -> None:
    # the view of versions reads the column; it is made again when the SQL is installed
    op.execute('DROP VIEW IF EXISTS orochi.orochi_catalog_version CASCADE')
    op.drop_column('orochi_catalog_changes', 'is_layout', schema='orochi')
