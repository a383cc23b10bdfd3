"""The staging table: rows as PostgreSQL makes them, before they go to shards.

It is a temporary table of the client's session, shaped as the shell table, so that parsing,
defaults, casts, generated columns, NOT NULL and CHECK are PostgreSQL's own. Its name never shows:
errors that mention it are told of the table it stands for. Identity columns of the shell become
plain defaults on the shell's own sequence.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from orochi import errors
from orochi.catalog import snapshot as snapshots
from orochi.executor import context
from orochi.operations import routing
from orochi.planner import cells, quoting
from orochi.planner import insert as insert_plan

NAME = insert_plan.STAGING
RELATION = f"pg_temp.{NAME}"


@contextlib.asynccontextmanager
async def table(session: context.Session, target: snapshots.Table) -> AsyncIterator[None]:
    """Have the staging table for the length of the block; errors inside speak of `target`."""
    coordinator = session.coordinator
    try:
        for sql in await _create_sql(session, target):
            await coordinator.fetch(sql)
        yield
    except errors.RemoteError as error:
        raise renamed(error, target) from error
    finally:
        # in a failed transaction the rollback drops it
        if not coordinator.closed and not coordinator.busy and coordinator.status != "E":
            with contextlib.suppress(errors.RemoteError):
                await coordinator.fetch(f"DROP TABLE {RELATION}")


def column_names(target: snapshots.Table) -> tuple[str, ...]:
    """The columns that staged rows are read with."""
    return tuple(column.name for column in routing.stored_columns(target))


def renamed(error: errors.RemoteError, target: snapshots.Table) -> errors.RemoteError:
    """The same error, told of `target` where it was of the staging table."""
    if not any(NAME in text for text in error.fields.values()):
        return error
    fields = {
        code: text.replace(RELATION, target.name).replace(NAME, target.name)
        for code, text in error.fields.items()
    }
    if "s" in fields:
        fields["s"] = target.schema
    return errors.RemoteError(fields)


async def _create_sql(session: context.Session, target: snapshots.Table) -> list[str]:
    """DDL of the staging table. LIKE needs SELECT on the shell; who may only INSERT has it spelled out."""
    shell = quoting.relation(target.schema, target.name)
    known = await session.coordinator.fetch(
        "SELECT pg_catalog.has_table_privilege($1::pg_catalog.oid, 'SELECT'), "
        f"pg_catalog.to_regclass('{RELATION}') IS NOT NULL",
        (str(target.oid).encode(),),
        (0,),
    )
    readable, left_over = (value == b"t" for value in known.rows[0])
    statements = [f"DROP TABLE {RELATION}"] if left_over else []
    if readable:
        body = f"LIKE {shell} INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING CONSTRAINTS"
    else:
        body = ", ".join(_definition(column) for column in target.columns)
    statements.append(f"CREATE TEMPORARY TABLE {NAME} ({body})")
    statements += [
        f"ALTER TABLE {RELATION} ALTER {quoting.identifier(column.name)} "
        f"SET DEFAULT {cells.identity_sql(target, column.name)}"
        for column in target.columns
        if column.identity
    ]
    return statements


def _definition(column: snapshots.Column) -> str:
    parts = [quoting.identifier(column.name), column.type_name]
    if column.collation is not None:
        parts.append(f"COLLATE {column.collation}")
    if column.generated:
        kind = "STORED" if column.generated == "s" else "VIRTUAL"
        parts.append(f"GENERATED ALWAYS AS ({column.default_sql}) {kind}")
    elif column.default_sql is not None:
        parts.append(f"DEFAULT {column.default_sql}")
    if column.not_null:
        parts.append("NOT NULL")
    return " ".join(parts)
