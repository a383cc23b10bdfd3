"""Jobs of users, back-off, progress and counts of runs, and the simulated clock."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None

def _columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column('proc_oid', postgresql.OID()),
        sa.Column('name', sa.Text()),
        sa.Column('fixed_schedule', sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column('initial_start', sa.DateTime(timezone=True)),
        sa.Column('timezone', sa.Text()),
        sa.Column('max_runtime', sa.Interval(), server_default=sa.text("'0'"), nullable=False),
        sa.Column('max_retries', sa.Integer(), server_default=sa.text('-1'), nullable=False),
        sa.Column('retry_period', sa.Interval(), server_default=sa.text("'10 seconds'"), nullable=False),
        sa.Column('owner_oid', postgresql.OID()),
        sa.Column('total_runs', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
        sa.Column('total_successes', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
        sa.Column('total_failures', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
        sa.Column('consecutive_failures', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    )


def upgrade() -> None:
    for column in _columns():
        op.add_column('orochi_jobs', column, schema='orochi')
    op.execute("UPDATE orochi.orochi_jobs SET owner_oid = coalesce("
               "(SELECT oid FROM pg_catalog.pg_roles WHERE rolname = owner), current_user::regrole::oid)")
    op.alter_column('orochi_jobs', 'owner_oid', nullable=False, schema='orochi')
    op.alter_column('orochi_jobs', 'config', nullable=True, schema='orochi')
    op.drop_column('orochi_jobs', 'owner', schema='orochi')
    op.drop_table('orochi_job_runs', schema='orochi')
    op.create_table('orochi_job_runs',
    sa.Column('run_id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('job_id', sa.Integer(), nullable=True),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('table_oid', postgresql.OID(), nullable=True),
    sa.Column('due_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('scheduled', sa.Boolean(), server_default=sa.text('true'), nullable=False),
    sa.Column('queued_at', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
    sa.Column('started_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('finished_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('task_id', sa.Text(), nullable=True),
    sa.Column('worker', sa.Text(), nullable=True),
    sa.Column('pid', sa.Integer(), nullable=True),
    sa.Column('state', sa.Text(), server_default=sa.text("'queued'"), nullable=False),
    sa.Column('sqlstate', sa.Text(), nullable=True),
    sa.Column('message', sa.Text(), nullable=True),
    sa.Column('rows', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('bytes', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('progress_done', sa.BigInteger(), nullable=True),
    sa.Column('progress_total', sa.BigInteger(), nullable=True),
    sa.Column('progress_what', sa.Text(), nullable=True),
    sa.Column('details', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    sa.ForeignKeyConstraint(['job_id'], ['orochi.orochi_jobs.job_id'], name=op.f('orochi_job_runs_job_id_fkey'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('run_id', name=op.f('orochi_job_runs_pkey')),
    schema='orochi'
    )
    op.create_index('orochi_job_runs_unfinished_idx', 'orochi_job_runs', ['job_id'], unique=True, schema='orochi',
                    postgresql_where=sa.text('finished_at IS NULL'))
    op.create_index('orochi_job_runs_job_id_run_id_idx', 'orochi_job_runs', ['job_id', 'run_id'], schema='orochi')
    op.create_table('orochi_clock',
    sa.Column('singleton', sa.Boolean(), server_default=sa.text('true'), nullable=False),
    sa.Column('frozen_at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('singleton', name=op.f('orochi_clock_pkey')),
    schema='orochi'
    )


def downgrade() -> None:
    op.drop_table('orochi_clock', schema='orochi')
    op.drop_table('orochi_job_runs', schema='orochi')
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
    op.execute("DELETE FROM orochi.orochi_jobs WHERE config IS NULL")
    op.alter_column('orochi_jobs', 'config', nullable=False, schema='orochi')
    op.add_column('orochi_jobs', sa.Column('owner', sa.Text(), server_default=sa.text('SESSION_USER'), nullable=False),
                  schema='orochi')
    for column in reversed(_columns()):
        op.drop_column('orochi_jobs', column.name, schema='orochi')
