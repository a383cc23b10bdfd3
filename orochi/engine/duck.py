"""DuckDB as an engine for the fragments whose every expression is known to answer as PostgreSQL does.

One connection a process, made on first use: that is after the fork. It reads what is registered
and nothing else: no files, no network, no extensions. Tables that are kept for later statements stay
registered, each under a name of its own, until nobody else holds them.
"""

from __future__ import annotations

import functools
import itertools
import warnings
import weakref
from collections.abc import Collection, Mapping

import duckdb
import pyarrow as pa

from orochi.engine import placeholders

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
    # it copies the rows, which costs less than a second plan
    warnings.filterwarnings("ignore", message="Arrow output on a DB-API result")
    return connection


class _Lasting:
    """Names that tables stay registered under for as long as others hold them."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._numbers = itertools.count()
        self._left: list[str] = []

    def name(self, connection: duckdb.DuckDBPyConnection, table: pa.Table) -> str:
        """The table's name, given now unless it has one."""
        key = id(table)
        if key not in self._names:
            name = f"orochi_kept_{next(self._numbers)}"
            # another object over the same memory: the engine holds what is registered, and would keep the table alive
            connection.register(name, table.slice())
            # called as the table dies, so before its id can be another's
            weakref.finalize(table, self._leave, key).atexit = False
            self._names[key] = name
        return self._names[key]

    def _leave(self, key: int) -> None:
        self._left.append(self._names.pop(key))

    def forget(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let go of the tables that nobody else holds any more."""
        while self._left:
            connection.unregister(self._left.pop())


_lasting = _Lasting()


def query(sql: str, tables: Mapping[str, pa.Table], lasting: Collection[str] = ()) -> pa.Table:
    """The result of `sql` over Arrow tables, which are read without a copy.

    Args:
        sql: one SELECT, without names that begin with `orochi_kept_`.
        tables: what it reads, by name.
        lasting: those of them that are likely to be read again, as the same objects.
    """
    connection = _connection()
    given = [name for name in tables if name not in lasting]
    _lasting.forget(connection)
    try:
        for name in given:
            connection.register(name, tables[name])
        if lasting:
            named = {name: _lasting.name(connection, tables[name]) for name in lasting}
            sql = placeholders.fill(sql, named)
        return _rows(connection, sql)
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
