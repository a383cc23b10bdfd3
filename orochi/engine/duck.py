"""DuckDB as an engine for the fragments whose every expression is known to answer as PostgreSQL does.

One connection a process, made on first use: that is after the fork. It reads what is registered
and nothing else: no files, no network, no extensions.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import duckdb
import pyarrow as pa

MEMORY_LIMIT = "1GB"

#: What any statement may raise; the caller runs the fragment in PostgreSQL then.
Error = duckdb.Error


@functools.lru_cache(maxsize=1)
def _connection() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        ":memory:",
        config={
            "threads": "1",
            "memory_limit": MEMORY_LIMIT,
            "enable_external_access": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
        },
    )
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def query(sql: str, tables: Mapping[str, pa.Table]) -> pa.Table:
    """The result of `sql` over Arrow tables, which are read without a copy."""
    connection = _connection()
    try:
        for name, table in tables.items():
            connection.register(name, table)
        return connection.sql(sql).to_arrow_table()
    finally:
        for name in tables:
            connection.unregister(name)


def interrupt() -> None:
    """Stop what runs, from another thread."""
    if _connection.cache_info().currsize:
        _connection().interrupt()
