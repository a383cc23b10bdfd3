"""Rows of earlier stages as temporary tables of a node's PostgreSQL, for the fragments of one task.

Fragments of a task that read the same rows share the table. It lies outside their transactions, on
the connection that runs them, and is dropped when the task ends.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql as pgsql

from orochi.engine import contract, copybinary, placeholders, tables

Connection = psycopg.Connection[Any]
#: Gives the batches of a stage, or of one part of its rows.
Read = Callable[[str, int | None], Iterable[pa.RecordBatch]]
#: PostgreSQL plans well enough without statistics of fewer rows.
_ANALYZED_ROWS = 500
#: Of so many rows it need not look at all.
_FEW_ROWS = 20_000


class Staging:
    """The staged tables of one task on one connection."""

    def __init__(self, read: Read) -> None:
        """Prepare to stage what `read` gives."""
        self._read = read
        self._connection: Connection | None = None
        self._tables: dict[tuple[str, int | None], str] = {}
        self._native: dict[tuple[tuple[str, int | None], ...], pa.Table] = {}
        self._numbers = itertools.count()

    def relation(self, connection: Connection, scan: contract.Scan) -> str:
        """The table that holds what the scan reads, made now unless it is there.

        Args:
            connection: idle and in autocommit mode.
            scan: one with an input.
        """
        if connection is not self._connection:
            self._connection, self._tables = connection, {}
        assert scan.input is not None
        key = (scan.input.stage, scan.input.part)
        if key not in self._tables:
            self._tables[key] = self._load(connection, scan, scan.input)
        return self._tables[key]

    def native(self, scans: Sequence[contract.Scan]) -> pa.Table:
        """What scans of one stage read together as a table of native types, which fragments of a task share.

        Raises:
            Unsupported: a value has no native form.
        """
        inputs = [scan.input for scan in scans if scan.input is not None]
        key = tuple(dict.fromkeys((item.stage, item.part) for item in inputs))
        if key not in self._native:
            batches = itertools.chain.from_iterable(self._read(*part) for part in key)
            self._native[key] = tables.table(batches, scans[0].columns)
        return self._native[key]

    def close(self) -> None:
        """Drop the tables."""
        connection, tables = self._connection, list(self._tables.values())
        self._tables = {}
        if connection is None or connection.closed or not tables:
            return
        with contextlib.suppress(psycopg.Error):  # then they go with the connection
            connection.execute(_raw(f"DROP TABLE IF EXISTS {', '.join(tables)}"))

    def _load(self, connection: Connection, scan: contract.Scan, source: contract.Input) -> str:
        table = f"pg_temp.orochi_input_{next(self._numbers)}"
        batches = self._read(source.stage, source.part)
        rows = 0
        with connection.transaction():
            connection.execute(_raw(f"CREATE TEMPORARY TABLE {table} ({definition(scan)})"))
            # frozen: a fragment may read from a snapshot that is older than the table
            with connection.cursor().copy(_raw(f"COPY {table} FROM STDIN (FORMAT binary, FREEZE)")) as copy:
                copy.write(copybinary.HEADER)
                for batch in batches:
                    rows += batch.num_rows
                    copy.write(copybinary.encode(batch, scan.columns, header=False, trailer=False))
                copy.write(copybinary.TRAILER)
            for columns in source.indexes:
                listed = ", ".join(placeholders.quote(name) for name in columns)
                connection.execute(_raw(f"CREATE INDEX ON {table} ({listed})"))
            if rows >= _ANALYZED_ROWS:
                sampled = "SET LOCAL default_statistics_target TO 10; " if rows <= _FEW_ROWS else ""
                connection.execute(_raw(f"{sampled}ANALYZE {table}"))
        return table


def definition(scan: contract.Scan) -> str:
    """The columns of a table that holds what the scan reads."""
    return ", ".join(f"{placeholders.quote(column.name)} {column.type_name}" for column in scan.columns)


def none(stage: str, part: int | None) -> Iterable[pa.RecordBatch]:
    """The rows of a fragment that reads no stage.

    Raises:
        LookupError: always.
    """
    raise LookupError(f"no rows of stage {stage}, part {part}")


def _raw(sql: str) -> pgsql.SQL:
    """SQL made of quoted names and types."""
    return pgsql.SQL(sql)
