"""The systems that a benchmark compares, each asked through its own native interface, without Python values.

Orochi and plain PostgreSQL answer over the wire with libpq's results; DuckDB, in this process and from a
file of its own, with Arrow. The CPU of a system is that of all its processes.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import os
import pathlib
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import duckdb
import psutil
import psycopg
import pyarrow as pa
from psycopg import conninfo, pq

from benchmarks import local

_REAP_SECONDS = 0.02  # a parallel worker of PostgreSQL that has ended is counted when it is waited for

_INTEGERS, _FLOATS, _NUMERIC = frozenset({20, 21, 23}), frozenset({700, 701}), 1700
_TIMESTAMPTZ, _BPCHAR = 1184, 1042

Row = tuple[Any, ...]


class Refused(Exception):
    """A system answered with an error."""


class System(Protocol):
    """One of the systems."""

    name: str

    def execute(self, sql: str) -> None:
        """Run a statement that has no rows."""

    def ask(self, sql: str) -> Any:
        """The whole answer of a query, as the system's client library gives it."""

    def rows(self, answer: Any) -> list[Row]:
        """An answer as values that can be compared between systems."""

    def load(self, table: str, file: pathlib.Path) -> None:
        """Load a CSV file."""

    def cpu(self) -> float:
        """CPU seconds used so far."""

    def close(self) -> None:
        """End the connection."""


class Wire:
    """A PostgreSQL server, or what speaks like one."""

    def __init__(self, name: str, dsn: str, dbname: str | None, pids: Iterable[int]) -> None:
        self.name = name
        info = conninfo.make_conninfo(dsn, **({"dbname": dbname} if dbname else {}))
        self._connection = psycopg.connect(info, autocommit=True)
        self._cpu = Cpu(pids)
        self.execute("SET timezone TO 'UTC'")

    def execute(self, sql: str) -> None:
        self.ask(sql)

    def ask(self, sql: str) -> pq.abc.PGresult:
        result = self._connection.pgconn.exec_(sql.encode())
        if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            raise Refused(f"{self.name}: {result.error_message.decode(errors='replace').strip()}")
        return result

    def rows(self, answer: pq.abc.PGresult) -> list[Row]:
        types = [answer.ftype(column) for column in range(answer.nfields)]
        return [
            tuple(_value(answer.get_value(row, column), oid) for column, oid in enumerate(types))
            for row in range(answer.ntuples)
        ]

    def load(self, table: str, file: pathlib.Path) -> None:
        with (
            self._connection.cursor().copy(f"COPY {table} FROM STDIN (FORMAT csv)") as copy,
            file.open("rb") as data,
        ):
            while block := data.read(1 << 20):
                copy.write(block)

    def cpu(self) -> float:
        time.sleep(_REAP_SECONDS)
        return self._cpu.seconds()

    def close(self) -> None:
        self._connection.close()


def _value(data: bytes | None, oid: int) -> Any:
    if data is None:
        return None
    text = data.decode()
    if oid in _INTEGERS:
        return int(text)
    if oid in _FLOATS or oid == _NUMERIC:
        return float(text)
    if oid == _TIMESTAMPTZ:
        return dt.datetime.fromisoformat(text).isoformat()
    return text.rstrip(" ") if oid == _BPCHAR else text


class Duck:
    """DuckDB in this process, on a file."""

    def __init__(self, file: pathlib.Path, threads: int) -> None:
        self.name, self.file, self._threads = "duckdb", file, threads
        self._connection = self._open()

    def _open(self) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect(str(self.file), config={"threads": str(self._threads)})
        connection.execute("SET TimeZone = 'UTC'")
        return connection

    def execute(self, sql: str) -> None:
        self._connection.execute(sql)

    def ask(self, sql: str) -> pa.Table:
        return self._connection.sql(sql).to_arrow_table()

    def rows(self, answer: pa.Table) -> list[Row]:
        return [tuple(_plain(value) for value in row.values()) for row in answer.to_pylist()]

    def load(self, table: str, file: pathlib.Path) -> None:
        self._connection.execute(f"COPY {table} FROM '{file}' (FORMAT csv, HEADER false)")

    def cpu(self) -> float:
        return time.process_time()

    def reopen(self) -> None:
        """Write all to the file, and read it anew."""
        self._connection.execute("CHECKPOINT")
        self._connection.close()
        self._connection = self._open()

    def close(self) -> None:
        self._connection.close()


def _plain(value: Any) -> Any:
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, dt.datetime):
        return value.replace(tzinfo=dt.UTC).isoformat()
    return value.isoformat() if isinstance(value, dt.date) else value


def differ(rows: Sequence[Row], others: Sequence[Row]) -> str | None:
    """How two answers differ, whatever the order of their rows; None if they do not.

    Numbers are equal to a millionth: systems divide, and add floats, in their own ways.
    """
    if len(rows) != len(others):
        return f"{len(rows)} rows and {len(others)}"
    for one, other in zip(sorted(rows, key=_key), sorted(others, key=_key), strict=True):
        if len(one) != len(other) or not all(_equal(a, b) for a, b in zip(one, other, strict=True)):
            return f"{one} and {other}"
    return None


def _key(row: Row) -> tuple[str, ...]:
    texts = ["" if value is None else str(value) for value in row if not isinstance(value, int | float)]
    return (*texts, *(f"{value:.6g}" for value in row if isinstance(value, int | float)))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= 1e-6 * max(abs(one), abs(other), 1e-9)
    return bool(one == other)


class Cpu:
    """CPU time of processes and of all below them, those that have ended among them."""

    def __init__(self, roots: Iterable[int]) -> None:
        self._roots = list(roots)

    def seconds(self) -> float:
        """Seconds so far; only differences mean something."""
        return sum(_spent(process) for process in self._processes())

    def _processes(self) -> Iterator[psutil.Process]:
        found: dict[int, psutil.Process] = {}
        for pid in self._roots:
            with contextlib.suppress(psutil.Error):
                root = psutil.Process(pid)
                found |= {process.pid: process for process in (root, *root.children(recursive=True))}
        yield from found.values()


def _spent(process: psutil.Process) -> float:
    """Living threads to the nanosecond, children that were waited for to the tick."""
    try:
        times = process.cpu_times()
        waited = float(times.children_user + times.children_system)
        exact = 0
        tasks = pathlib.Path(f"/proc/{process.pid}/task")
        if not tasks.is_dir():
            return float(times.user + times.system) + waited
        for task in tasks.iterdir():
            with contextlib.suppress(OSError, ValueError):
                exact += int((task / "schedstat").read_text().split()[0])
    except (psutil.Error, OSError):
        return 0.0
    return (exact / 1e9 if exact else float(times.user + times.system)) + waited


def forget(*folders: pathlib.Path) -> None:
    """Have the operating system drop its cache of all files in the folders."""
    if not hasattr(os, "posix_fadvise"):
        return
    os.sync()
    for folder in folders:
        for path in [folder] if folder.is_file() else folder.rglob("*"):
            with contextlib.suppress(OSError):
                if not path.is_file():
                    continue
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(descriptor)


def processes(info: dict[str, Any], *groups: str) -> list[int]:
    """The process ids of a cluster, of all groups or some."""
    return [pid for group, pids in info["pids"].items() if not groups or group in groups for pid in pids]


def coordinator_database(info: dict[str, Any], name: str) -> None:
    """An empty database beside Orochi's own."""
    with local.connect(info["coordinator_dsn"]) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name}")
        admin.execute(f"CREATE DATABASE {name}")
