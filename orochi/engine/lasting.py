"""Rows that a worker keeps for later statements, as DuckDB reads them.

At first they are the Arrow table that they were read as. When they are read again they become a table of DuckDB's own:
with its statistics, and strings of few values as codes, queries take about half the time. Making it costs some
queries, so rows that are read once stay as they are. Both forms hold the same values, and one of them is held at a time.
"""

from __future__ import annotations

import itertools
import weakref

import duckdb
import pyarrow as pa

from orochi.engine import placeholders

#: The database of tables that have strings as codes; the main one of a connection compresses nothing.
CODED = "orochi_coded"
#: A string takes so many bytes, beside the letters of one that is longer than 12.
_STRING_BYTES = 16
#: Strings are codes if there are so many times as many rows as words in their dictionaries, and so many rows.
_ROWS_PER_WORD, _CODED_ROWS = 8, 50_000

_numbers = itertools.count()
_left: list[str] = []


def prepare(connection: duckdb.DuckDBPyConnection) -> None:
    """Make a connection one that rows can last on."""
    connection.execute(f"ATTACH ':memory:' AS {CODED} (COMPRESS)")


def forget(connection: duckdb.DuckDBPyConnection) -> None:
    """Let go of the rows that nobody holds any more."""
    while _left:
        connection.execute(_left[-1])
        _left.pop()


class Rows:
    """A table, for as long as somebody holds this object; of one connection only."""

    def __init__(self, table: pa.Table) -> None:
        """Take over an Arrow table.

        Args:
            table: nobody else's from now on.
        """
        self._arrow: pa.Table | None = table
        self._name = ""
        self._stays = False
        self.num_rows = table.num_rows
        self.size_bytes = max(table.nbytes, sum(_size(column) for column in table.columns))

    @property
    def is_native(self) -> bool:
        """Whether it is DuckDB's own by now."""
        return self._arrow is None

    def name(self, connection: duckdb.DuckDBPyConnection) -> str:
        """What SQL calls it; the second to ask has it made DuckDB's own.

        Raises:
            InterruptException: the connection was interrupted; the rows are what they were.
        """
        if self._arrow is None or self._stays:
            return self._name
        if self._name:
            self._take_in(connection, self._arrow)
            return self._name
        self._name = f"orochi_kept_{next(_numbers)}"
        connection.register(self._name, self._arrow)
        _when_gone(self, f"DROP VIEW IF EXISTS {self._name}")
        return self._name

    def _take_in(self, connection: duckdb.DuckDBPyConnection, table: pa.Table) -> None:
        pairs = zip(table.column_names, table.columns, strict=True)
        coded = {name for name, column in pairs if _is_coded(column)}
        made = f"{CODED if coded else 'memory'}.main.{self._name}_{next(_numbers)}"
        try:
            types = connection.execute(f"DESCRIBE {self._name}").fetchall()
            listed = (
                f"{placeholders.quote(name)} {kind} USING COMPRESSION {'dict_fsst' if name in coded else 'uncompressed'}"
                for name, kind, *_ in types
            )
            connection.execute(f"CREATE TABLE {made} ({', '.join(listed)})")
            _when_gone(self, f"DROP TABLE IF EXISTS {made}")
            connection.execute(f"INSERT INTO {made} SELECT * FROM {self._name}")
            if coded:
                connection.execute(f"CHECKPOINT {CODED}")
        except duckdb.InterruptException:
            raise
        except duckdb.Error:
            # no memory for both forms
            self._stays = True
            return
        connection.unregister(self._name)
        self._arrow, self._name = None, made


def _when_gone(rows: Rows, sql: str) -> None:
    # dropped by the next statement's thread; at exit all goes with the connection
    weakref.finalize(rows, _left.append, sql).atexit = False


def _is_coded(column: pa.ChunkedArray) -> bool:
    if not pa.types.is_dictionary(column.type) or len(column) < _CODED_ROWS:
        return False
    return len(column) >= _ROWS_PER_WORD * sum(len(chunk.dictionary) for chunk in column.chunks)


def _size(column: pa.ChunkedArray) -> int:
    """Bytes of a column as DuckDB's own, at most."""
    if pa.types.is_string(column.type) or (pa.types.is_dictionary(column.type) and not _is_coded(column)):
        return _STRING_BYTES * len(column) + int(column.nbytes)
    return int(column.nbytes)
