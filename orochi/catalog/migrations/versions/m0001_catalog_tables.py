"""The catalog's tables, as of the first release."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0001'
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, start in (('orochi_shard_id_seq', 102008), ('orochi_chunk_id_seq', 1), ('orochi_stripe_id_seq', 1)):
        op.execute(sa.schema.CreateSequence(sa.Sequence(name, start=start, schema='orochi')))
    op.create_table('orochi_catalog_changes',
    sa.Column('change_id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('weight', sa.BigInteger(), server_default=sa.text('1'), nullable=False),
    sa.PrimaryKeyConstraint('change_id', name=op.f('orochi_catalog_changes_pkey')),
    schema='orochi'
    )
    op.create_table('orochi_cleanup',
    sa.Column('cleanup_id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('node_id', sa.Integer(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('object_id', sa.BigInteger(), nullable=False),
    sa.Column('path', sa.Text(), nullable=True),
    sa.Column('not_before', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.PrimaryKeyConstraint('cleanup_id', name=op.f('orochi_cleanup_pkey')),
    schema='orochi'
    )
    op.create_index(op.f('orochi_cleanup_node_id_idx'), 'orochi_cleanup', ['node_id'], unique=False, schema='orochi')
    op.create_table('orochi_colocation_groups',
    sa.Column('colocation_id', sa.Integer(), sa.Identity(always=False), nullable=False),
    sa.Column('shard_count', sa.Integer(), nullable=False),
    sa.Column('distribution_type', postgresql.OID(), nullable=False),
    sa.Column('is_default', sa.Boolean(), server_default=sa.text('true'), nullable=False),
    sa.PrimaryKeyConstraint('colocation_id', name=op.f('orochi_colocation_groups_pkey')),
    schema='orochi'
    )
    op.create_table('orochi_installed_sql',
    sa.Column('singleton', sa.Boolean(), server_default=sa.text('true'), nullable=False),
    sa.Column('digest', sa.Text(), nullable=False),
    sa.PrimaryKeyConstraint('singleton', name=op.f('orochi_installed_sql_pkey')),
    schema='orochi'
    )
    op.create_table('orochi_nodes',
    sa.Column('node_id', sa.Integer(), sa.Identity(always=False), nullable=False),
    sa.Column('hostname', sa.Text(), nullable=False),
    sa.Column('port', sa.Integer(), nullable=False),
    sa.Column('dbname', sa.Text(), nullable=False),
    sa.Column('role', sa.Text(), server_default=sa.text("'data'"), nullable=False),
    sa.Column('state', sa.Text(), server_default=sa.text("'active'"), nullable=False),
    sa.Column('holds_shards', sa.Boolean(), server_default=sa.text('true'), nullable=False),
    sa.Column('identity', sa.Text(), nullable=True),
    sa.Column('size_bytes', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('last_heartbeat', sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('node_id', name=op.f('orochi_nodes_pkey')),
    sa.UniqueConstraint('identity', name=op.f('orochi_nodes_identity_key')),
    schema='orochi'
    )
    op.create_table('orochi_secret',
    sa.Column('singleton', sa.Boolean(), server_default=sa.text('true'), nullable=False),
    sa.Column('secret', sa.Text(), server_default=sa.text("replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '')"), nullable=False),
    sa.PrimaryKeyConstraint('singleton', name=op.f('orochi_secret_pkey')),
    schema='orochi'
    )
    op.create_table('orochi_transactions',
    sa.Column('gid', sa.Text(), nullable=False),
    sa.Column('node_id', sa.Integer(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.PrimaryKeyConstraint('gid', 'node_id', name=op.f('orochi_transactions_pkey')),
    schema='orochi'
    )
    op.create_table('orochi_tables',
    sa.Column('table_oid', postgresql.OID(), autoincrement=False, nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('distribution_attnum', sa.SmallInteger(), nullable=True),
    sa.Column('colocation_id', sa.Integer(), nullable=True),
    sa.Column('storage_type', sa.Text(), server_default=sa.text("'row'"), nullable=False),
    sa.Column('segmentby', postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    sa.Column('orderby', postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    sa.Column('options', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint("kind IN ('distributed', 'reference', 'single')", name=op.f('orochi_tables_kind_check')),
    sa.ForeignKeyConstraint(['colocation_id'], ['orochi.orochi_colocation_groups.colocation_id'], name=op.f('orochi_tables_colocation_id_fkey')),
    sa.PrimaryKeyConstraint('table_oid', name=op.f('orochi_tables_pkey')),
    schema='orochi'
    )
    op.create_table('orochi_continuous_aggregates',
    sa.Column('view_oid', postgresql.OID(), autoincrement=False, nullable=False),
    sa.Column('table_oid', postgresql.OID(), nullable=False),
    sa.Column('materialization_oid', postgresql.OID(), nullable=False),
    sa.Column('definition', sa.Text(), nullable=False),
    sa.Column('bucket_width', sa.BigInteger(), nullable=False),
    sa.Column('refresh_interval', sa.Interval(), nullable=False),
    sa.Column('materialized_only', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('watermark', sa.BigInteger(), nullable=True),
    sa.ForeignKeyConstraint(['table_oid'], ['orochi.orochi_tables.table_oid'], name=op.f('orochi_continuous_aggregates_table_oid_fkey'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('view_oid', name=op.f('orochi_continuous_aggregates_pkey')),
    schema='orochi'
    )
    op.create_table('orochi_dimensions',
    sa.Column('table_oid', postgresql.OID(), nullable=False),
    sa.Column('ordinal', sa.Integer(), server_default=sa.text('1'), nullable=False),
    sa.Column('attnum', sa.SmallInteger(), nullable=False),
    sa.Column('chunk_interval', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['table_oid'], ['orochi.orochi_tables.table_oid'], name=op.f('orochi_dimensions_table_oid_fkey'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('table_oid', 'ordinal', name=op.f('orochi_dimensions_pkey')),
    schema='orochi'
    )
    op.create_table('orochi_invalidation_log',
    sa.Column('invalidation_id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('table_oid', postgresql.OID(), nullable=False),
    sa.Column('lowest', sa.BigInteger(), nullable=False),
    sa.Column('greatest', sa.BigInteger(), nullable=False),
    sa.Column('recorded_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['table_oid'], ['orochi.orochi_tables.table_oid'], name=op.f('orochi_invalidation_log_table_oid_fkey'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('invalidation_id', name=op.f('orochi_invalidation_log_pkey')),
    schema='orochi'
    )
    op.create_index(op.f('orochi_invalidation_log_table_oid_idx'), 'orochi_invalidation_log', ['table_oid'], unique=False, schema='orochi')
    op.create_table('orochi_jobs',
    sa.Column('job_id', sa.Integer(), sa.Identity(always=False, start=1000), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('table_oid', postgresql.OID(), nullable=True),
    sa.Column('config', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    sa.Column('schedule_interval', sa.Interval(), nullable=False),
    sa.Column('enabled', sa.Boolean(), server_default=sa.text('true'), nullable=False),
    sa.Column('owner', sa.Text(), server_default=sa.text('SESSION_USER'), nullable=False),
    sa.Column('next_due', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['table_oid'], ['orochi.orochi_tables.table_oid'], name=op.f('orochi_jobs_table_oid_fkey'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('job_id', name=op.f('orochi_jobs_pkey')),
    sa.UniqueConstraint('kind', 'table_oid', name=op.f('orochi_jobs_kind_table_oid_key')),
    schema='orochi'
    )
    op.create_table('orochi_shards',
    sa.Column('shard_id', sa.BigInteger(), server_default=sa.text("nextval('orochi.orochi_shard_id_seq')"), nullable=False),
    sa.Column('table_oid', postgresql.OID(), nullable=False),
    sa.Column('shard_index', sa.Integer(), nullable=False),
    sa.Column('hash_min', sa.Integer(), nullable=False),
    sa.Column('hash_max', sa.Integer(), nullable=False),
    sa.Column('layout', sa.Integer(), server_default=sa.text('1'), nullable=False),
    sa.Column('row_count', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('size_bytes', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.ForeignKeyConstraint(['table_oid'], ['orochi.orochi_tables.table_oid'], name=op.f('orochi_shards_table_oid_fkey'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('shard_id', name=op.f('orochi_shards_pkey')),
    sa.UniqueConstraint('table_oid', 'shard_index', name=op.f('orochi_shards_table_oid_shard_index_key')),
    schema='orochi'
    )
    op.create_table('orochi_tiering_policies',
    sa.Column('table_oid', postgresql.OID(), nullable=False),
    sa.Column('hot_after', sa.Interval(), nullable=True),
    sa.Column('warm_after', sa.Interval(), nullable=True),
    sa.Column('cold_after', sa.Interval(), nullable=True),
    sa.ForeignKeyConstraint(['table_oid'], ['orochi.orochi_tables.table_oid'], name=op.f('orochi_tiering_policies_table_oid_fkey'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('table_oid', name=op.f('orochi_tiering_policies_pkey')),
    schema='orochi'
    )
    op.create_table('orochi_vector_indexes',
    sa.Column('index_oid', postgresql.OID(), autoincrement=False, nullable=False),
    sa.Column('table_oid', postgresql.OID(), nullable=False),
    sa.Column('attnum', sa.SmallInteger(), nullable=False),
    sa.Column('method', sa.Text(), nullable=False),
    sa.Column('metric', sa.Text(), nullable=False),
    sa.Column('options', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    sa.ForeignKeyConstraint(['table_oid'], ['orochi.orochi_tables.table_oid'], name=op.f('orochi_vector_indexes_table_oid_fkey'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('index_oid', name=op.f('orochi_vector_indexes_pkey')),
    schema='orochi'
    )
    op.create_table('orochi_chunks',
    sa.Column('chunk_id', sa.BigInteger(), server_default=sa.text("nextval('orochi.orochi_chunk_id_seq')"), nullable=False),
    sa.Column('shard_id', sa.BigInteger(), nullable=False),
    sa.Column('range_start', sa.BigInteger(), nullable=False),
    sa.Column('range_end', sa.BigInteger(), nullable=False),
    sa.Column('generation', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('tier', sa.Text(), server_default=sa.text("'hot'"), nullable=False),
    sa.Column('row_count', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('size_bytes', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('last_read_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['shard_id'], ['orochi.orochi_shards.shard_id'], name=op.f('orochi_chunks_shard_id_fkey'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('chunk_id', name=op.f('orochi_chunks_pkey')),
    sa.UniqueConstraint('shard_id', 'range_start', name=op.f('orochi_chunks_shard_id_range_start_key')),
    schema='orochi'
    )
    op.create_table('orochi_job_runs',
    sa.Column('run_id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('job_id', sa.Integer(), nullable=False),
    sa.Column('due_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('started_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('finished_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('task_id', sa.Text(), nullable=True),
    sa.Column('state', sa.Text(), server_default=sa.text("'running'"), nullable=False),
    sa.Column('message', sa.Text(), nullable=True),
    sa.ForeignKeyConstraint(['job_id'], ['orochi.orochi_jobs.job_id'], name=op.f('orochi_job_runs_job_id_fkey'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('run_id', name=op.f('orochi_job_runs_pkey')),
    sa.UniqueConstraint('job_id', 'due_at', name=op.f('orochi_job_runs_job_id_due_at_key')),
    schema='orochi'
    )
    op.create_table('orochi_shard_placements',
    sa.Column('shard_id', sa.BigInteger(), nullable=False),
    sa.Column('node_id', sa.Integer(), nullable=False),
    sa.Column('ordinal', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('state', sa.Text(), server_default=sa.text("'active'"), nullable=False),
    sa.ForeignKeyConstraint(['node_id'], ['orochi.orochi_nodes.node_id'], name=op.f('orochi_shard_placements_node_id_fkey')),
    sa.ForeignKeyConstraint(['shard_id'], ['orochi.orochi_shards.shard_id'], name=op.f('orochi_shard_placements_shard_id_fkey'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('shard_id', 'node_id', name=op.f('orochi_shard_placements_pkey')),
    schema='orochi'
    )
    op.create_index(op.f('orochi_shard_placements_node_id_idx'), 'orochi_shard_placements', ['node_id'], unique=False, schema='orochi')
    op.create_table('orochi_stripes',
    sa.Column('stripe_id', sa.BigInteger(), server_default=sa.text("nextval('orochi.orochi_stripe_id_seq')"), nullable=False),
    sa.Column('chunk_id', sa.BigInteger(), nullable=False),
    sa.Column('node_id', sa.Integer(), nullable=False),
    sa.Column('path', sa.Text(), nullable=False),
    sa.Column('row_count', sa.BigInteger(), nullable=False),
    sa.Column('size_bytes', sa.BigInteger(), nullable=False),
    sa.Column('heap_bytes', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['chunk_id'], ['orochi.orochi_chunks.chunk_id'], name=op.f('orochi_stripes_chunk_id_fkey'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['node_id'], ['orochi.orochi_nodes.node_id'], name=op.f('orochi_stripes_node_id_fkey')),
    sa.PrimaryKeyConstraint('stripe_id', name=op.f('orochi_stripes_pkey')),
    schema='orochi'
    )
    op.create_index(op.f('orochi_stripes_chunk_id_idx'), 'orochi_stripes', ['chunk_id'], unique=False, schema='orochi')
    op.create_table('orochi_column_chunks',
    sa.Column('stripe_id', sa.BigInteger(), nullable=False),
    sa.Column('column_name', sa.Text(), nullable=False),
    sa.Column('chunk_group', sa.Integer(), nullable=False),
    sa.Column('row_count', sa.BigInteger(), nullable=False),
    sa.Column('null_count', sa.BigInteger(), nullable=False),
    sa.Column('min_value', sa.Text(), nullable=True),
    sa.Column('max_value', sa.Text(), nullable=True),
    sa.Column('encoding', sa.Text(), nullable=False),
    sa.Column('compression', sa.Text(), nullable=False),
    sa.Column('size_bytes', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['stripe_id'], ['orochi.orochi_stripes.stripe_id'], name=op.f('orochi_column_chunks_stripe_id_fkey'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('stripe_id', 'column_name', 'chunk_group', name=op.f('orochi_column_chunks_pkey')),
    schema='orochi'
    )


def downgrade() -> None:
    op.drop_table('orochi_column_chunks', schema='orochi')
    op.drop_index(op.f('orochi_stripes_chunk_id_idx'), table_name='orochi_stripes', schema='orochi')
    op.drop_table('orochi_stripes', schema='orochi')
    op.drop_index(op.f('orochi_shard_placements_node_id_idx'), table_name='orochi_shard_placements', schema='orochi')
    op.drop_table('orochi_shard_placements', schema='orochi')
    op.drop_table('orochi_job_runs', schema='orochi')
    op.drop_table('orochi_chunks', schema='orochi')
    op.drop_table('orochi_vector_indexes', schema='orochi')
    op.drop_table('orochi_tiering_policies', schema='orochi')
    op.drop_table('orochi_shards', schema='orochi')
    op.drop_table('orochi_jobs', schema='orochi')
    op.drop_index(op.f('orochi_invalidation_log_table_oid_idx'), table_name='orochi_invalidation_log', schema='orochi')
    op.drop_table('orochi_invalidation_log', schema='orochi')
    op.drop_table('orochi_dimensions', schema='orochi')
    op.drop_table('orochi_continuous_aggregates', schema='orochi')
    op.drop_table('orochi_tables', schema='orochi')
    op.drop_table('orochi_transactions', schema='orochi')
    op.drop_table('orochi_secret', schema='orochi')
    op.drop_table('orochi_nodes', schema='orochi')
    op.drop_table('orochi_installed_sql', schema='orochi')
    op.drop_table('orochi_colocation_groups', schema='orochi')
    op.drop_index(op.f('orochi_cleanup_node_id_idx'), table_name='orochi_cleanup', schema='orochi')
    op.drop_table('orochi_cleanup', schema='orochi')
    op.drop_table('orochi_catalog_changes', schema='orochi')
    for name in ('orochi_shard_id_seq', 'orochi_chunk_id_seq', 'orochi_stripe_id_seq'):
        op.execute(sa.schema.DropSequence(sa.Sequence(name, schema='orochi')))
