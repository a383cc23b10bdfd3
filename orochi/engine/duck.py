"""DuckDB as an engine for the fragments whose every expression is known to answer as PostgreSQL does.

One connection a process, made on first use: that is after the fork. It reads what is registered
and nothing else: no files, no network, no extensions. Rows that are kept for later statements
(`orochi.engine.lasting`) stay, each under a name of its own, until nobody holds them.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping

import duckdb
import pyarrow as pa

from orochi import settings
from orochi.engine import lasting, placeholders

#: What queries may take, beside the rows that are kept.
MEMORY_LIMIT_MB = 1_000

#: What any statement may raise; the caller runs the fragment in PostgreSQL then.
Error = duckdb.Error


@functools.lru_cache(maxsize=1)
def _connection() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        ":memory:",
        config={
            "threads": "1",
            "memory_limit": f"{MEMORY_LIMIT_MB + settings.get().scan_cache_mb}MB",
            "enable_external_access": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
        },
    )
    connection.execute("SET TimeZone = 'UTC'")
    lasting.prepare(connection)
    # it copies the rows, which costs less than a second plan
    warnings.filterwarnings("ignore", message="Arrow output on a DB-API result")
    return connection


def query(sql: str, tables: Mapping[str, pa.Table | lasting.Rows]) -> pa.Table:
    """The result of `sql` over Arrow tables, which are read without a copy, and rows that last.

    Args:
        sql: one SELECT, without names that begin with `orochi_kept_`.
        tables: what it reads, by name.
    """
    connection = _connection()
    lasting.forget(connection)
    given = {name: table for name, table in tables.items() if isinstance(table, pa.Table)}
    try:
        for name, table in given.items():
            connection.register(name, table)
        kept = {name: rows for name, rows in tables.items() if isinstance(rows, lasting.Rows)}
        # asked once each, however often the statement reads them
        known = {rows: rows.name(connection) for rows in dict.fromkeys(kept.values())}
        named = {name: known[rows] for name, rows in kept.items()}
        return _rows(connection, placeholders.fill(sql, named) if named else sql)
    finally:
        for name in given:
            connection.unregister(name)


def _rows(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    """The rows of a SELECT; its plan is made once, where a relation's is made twice."""
    try:
        return connection.execute(sql).to_arrow_table()
    finally:
        connection.abort()


def interrupt() -> None:
    """Stop what runs, from another thread."""
    if _connection.cache_info().currsize:
        _connection().interrupt()
