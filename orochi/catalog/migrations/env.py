"""Alembic's entry: runs the migrations on the connection that `bootstrap.migrate` opened."""

from __future__ import annotations

from alembic import context

from orochi.catalog import models


def _run() -> None:
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=models.Base.metadata,
        version_table="orochi_alembic_version",
        version_table_schema=models.SCHEMA,
        include_schemas=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


_run()
