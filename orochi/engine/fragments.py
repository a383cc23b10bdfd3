"""Runs one fragment on the node that holds its rows.

Without stripes it is one COPY out of the node's PostgreSQL. With stripes, heap rows, the delete
vector and the statement itself see one snapshot; stripe rows join them in a temporary table, or
both go to DuckDB where the fragment allows it. Whatever DuckDB refuses PostgreSQL answers, so the
result never depends on the engine. Fragments that differ only in where they read go to DuckDB as one (`run_together`).
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import structlog
from psycopg import sql as pgsql

from orochi import errors
from orochi.engine import (
    contract,
    copybinary,
    duck,
    fused,
    heapfilter,
    kept,
    lasting,
    native,
    newest,
    placeholders,
    rows,
    shapes,
    staging,
    stripes,
    tables,
)
from orochi.storage.objects import traffic

log = structlog.get_logger()

Connection = psycopg.Connection[Any]
Deleted = Mapping[int, np.ndarray]

_CHECK_EVERY = 4_096  # COPY messages between looks at the cancel flag


def run_fragment(
    fragment: contract.Fragment,
    connection: Connection,
    stripe_dir: pathlib.Path,
    cancelled: contract.Cancelled,
    emit: contract.Emit,
    staged: staging.Staging | None = None,
) -> contract.FragmentStats:
    """Run `fragment` and hand its batches to `emit`, in carrier form.

    Args:
        fragment: what to run.
        connection: to the node's database, in autocommit mode and idle; it is left idle.
        stripe_dir: where the node keeps its stripe files.
        cancelled: asked between batches.
        emit: takes each batch.
        staged: gives the rows of earlier stages to scans with an input.

    Raises:
        psycopg.Error: PostgreSQL refused the statement or a row.
        OrochiError: a stripe is gone or damaged, or the query was cancelled.
    """
    run = _Run(fragment, connection, stripe_dir, cancelled, emit, staged or staging.Staging(staging.none))
    if run.recall() and run.vectorise(None):
        return run.stats("duckdb")
    if run.has_inputs and run.is_vectorised:
        # rows of stages are loaded outside the transaction, so first see whether they have to be
        with _transaction(connection, fragment.settings, fragment.snapshot, with_stripes=True):
            if run.vectorise(None):
                return run.stats("duckdb")
    run.stage()
    with _transaction(connection, fragment.settings, fragment.snapshot, with_stripes=run.has_stripes):
        engine = run.execute()
    return run.stats(engine)


def run_together(
    group: Sequence[contract.Fragment],
    connection: Connection,
    stripe_dir: pathlib.Path,
    cancelled: contract.Cancelled,
    emit: contract.Emit,
    staged: staging.Staging,
) -> contract.FragmentStats | None:
    """Run fragments of one group of `together.groups` over the rows of all of them; the arguments are those of `run_fragment`.

    Returns:
        What it cost; None, with nothing emitted, if DuckDB or a type refuses: then each is for `run_fragment`.
    """
    first = group[0]
    run = _Run(first, connection, stripe_dir, cancelled, emit, staged, group[1:])
    if run.recall():
        return run.stats("duckdb") if run.vectorise(None) else None
    with _transaction(connection, first.settings, first.snapshot, with_stripes=True):
        return run.stats("duckdb") if run.vectorise(None) else None


def run_scan(
    fragment: contract.Fragment,
    _connection: Connection,
    stripe_dir: pathlib.Path,
    cancelled: contract.Cancelled,
    emit: contract.Emit,
    _staged: staging.Staging,
) -> contract.FragmentStats:
    """Emit the stripe rows of the fragment's scans with their row ids, deleted ones among them; see `run_fragment`."""
    counters = stripes.Counters()
    rows_sent = size = 0
    for scan in fragment.scans:
        for batch in stripes.read_stripes(
            scan, stripe_dir, with_row_ids=True, counters=counters, cancelled=cancelled
        ):
            rows_sent += batch.num_rows
            size += batch.nbytes
            emit(batch)
    return contract.FragmentStats(rows_sent, size, 0.0, counters.total, counters.skipped, engine="stripes")


class _Run:
    """One execution of a fragment, or of several together."""

    def __init__(
        self,
        fragment: contract.Fragment,
        connection: Connection,
        stripe_dir: pathlib.Path,
        cancelled: contract.Cancelled,
        emit: contract.Emit,
        staged: staging.Staging,
        beside: Sequence[contract.Fragment] = (),
    ) -> None:
        self._fragment = fragment
        self._parts = [list(scans) for scans in zip(*(f.scans for f in (fragment, *beside)), strict=True)]
        self._connection = connection
        self._stripe_dir = stripe_dir
        self._cancelled = cancelled
        self._emit = emit
        self._started = time.perf_counter()
        self._rows = 0
        self._bytes = 0
        self._counters = stripes.Counters()
        self._before = traffic.total.requests, traffic.total.bytes
        self.has_stripes = any(scan.stripes for scan in fragment.scans)
        self.has_inputs = any(scan.input is not None for scan in fragment.scans)
        self.is_vectorised = self.has_stripes and fragment.vector_sql is not None
        self._staged_inputs = staged
        self._inputs: dict[str, str] = {}
        self._recalled: dict[str, kept.Loaded] = {}

    def recall(self) -> bool:
        """Whether DuckDB may answer, and all rows are kept as the node has them now: then no transaction is needed.

        One statement tells what the node has, so all scans are of one snapshot.
        """
        if not self.is_vectorised or self._fragment.fused is not None or self._fragment.snapshot:
            return False
        view = kept.View(self._connection, (), {})
        found = {}
        for parts in self._parts:
            if parts[0].input is None:
                loaded = kept.shared().again(_different(parts), view, self._stripe_dir)
                if loaded is None:
                    return False
                found[parts[0].name] = loaded
        self._recalled = found
        return True

    def stage(self) -> None:
        """Have the rows of earlier stages on the node."""
        for scan in self._fragment.scans:
            if scan.input is not None:
                self._inputs[scan.name] = self._staged_inputs.relation(self._connection, scan)

    def vectorise(self, deleted: Deleted | None) -> bool:
        """Run it in DuckDB; False, and never again, if that or a type refuses."""
        assert self._fragment.vector_sql is not None
        batches = self._vectorised(self._fragment.vector_sql, deleted)
        if batches is None:
            self.is_vectorised = False
            self._counters = stripes.Counters()
            return False
        for batch in batches:
            self._send(batch)
        return True

    def execute(self) -> str:
        """Run it; the name of the engine that answered."""
        if not self.has_stripes:
            relations = {scan.name: self._relation(scan) for scan in self._fragment.scans}
            self._copy_out(placeholders.fill(self._fragment.sql, relations))
            return "postgres"
        deleted = stripes.deleted_rows(self._connection, iter(self._fragment.scans))
        if self._fragment.fused is not None and self._fuse(self._fragment.fused, deleted):
            return "columns" if self._fragment.fused.rows else "fused"
        if self.is_vectorised and self.vectorise(deleted):
            return "duckdb"
        relations = {
            scan.name: self._staged(scan, f"orochi_stage_{index}", deleted)
            if scan.stripes
            else self._relation(scan)
            for index, scan in enumerate(self._fragment.scans)
        }
        self._copy_out(placeholders.fill(self._fragment.sql, relations))
        return "postgres+stripes"

    def _relation(self, scan: contract.Scan) -> str:
        return self._inputs.get(scan.name, scan.relation)

    def stats(self, engine: str) -> contract.FragmentStats:
        """What it cost so far."""
        return contract.FragmentStats(
            rows=self._rows,
            bytes=self._bytes,
            seconds=time.perf_counter() - self._started,
            chunk_groups_total=self._counters.total,
            chunk_groups_skipped=self._counters.skipped,
            requests=traffic.total.requests - self._before[0],
            fetched_bytes=traffic.total.bytes - self._before[1],
            engine=engine,
        )

    def _send(self, batch: pa.RecordBatch) -> None:
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        self._emit(batch)

    def _copy_out(self, sql: str) -> None:
        for batch in self._copied(sql, self._fragment.columns):
            self._send(batch)

    def _copied(self, sql: str, columns: Sequence[contract.OutputColumn]) -> Iterator[pa.RecordBatch]:
        decoder = copybinary.Decoder(columns)
        with self._connection.cursor().copy(_raw(f"COPY ({sql}) TO STDOUT (FORMAT binary)")) as copy:
            for number, data in enumerate(copy):
                yield from decoder.feed(data)
                if number % _CHECK_EVERY == 0 and self._cancelled():
                    raise errors.QueryCanceled("canceling statement due to user request")
        yield from decoder.finish()

    def _stripe_batches(self, scan: contract.Scan, deleted: Deleted) -> Iterator[pa.RecordBatch]:
        return stripes.live_rows(scan, self._stripe_dir, deleted, self._counters, self._cancelled)

    def _staged(self, scan: contract.Scan, stage: str, deleted: Deleted) -> str:
        """Load the scan's stripe rows beside its heap rows; what the statement reads of both."""
        names = [placeholders.quote(column.name) for column in scan.columns]
        definition = ", ".join(
            f"{name} {column.type_name}" for name, column in zip(names, scan.columns, strict=True)
        )
        self._connection.execute(_raw(f"CREATE TEMPORARY TABLE {stage} ({definition}) ON COMMIT DROP"))
        with self._connection.cursor().copy(_raw(f"COPY pg_temp.{stage} FROM STDIN (FORMAT binary)")) as copy:
            copy.write(copybinary.HEADER)
            for batch in self._stripe_batches(scan, deleted):
                copy.write(copybinary.encode(batch, scan.columns, header=False, trailer=False))
            copy.write(copybinary.TRAILER)
        columns = ", ".join(names)
        return f"(SELECT {columns} FROM {scan.relation} UNION ALL SELECT {columns} FROM pg_temp.{stage})"

    def _fuse(self, shape: shapes.Shape, deleted: Deleted) -> bool:
        """Answer by the fused aggregate; False, with nothing sent, if it declines the values."""
        (scan,) = self._fragment.scans
        if shape.best is not None:
            return self._last_points(shape, scan, deleted)
        if shape.rows:
            self._copy_out(placeholders.fill(self._fragment.sql, {scan.name: scan.relation}))
            for found in rows.of_stripes(
                shape,
                scan,
                self._fragment.columns,
                self._stripe_dir,
                deleted,
                self._counters,
                self._cancelled,
            ):
                self._send(found)
            return True
        heap: Iterable[pa.RecordBatch] = ()
        if not shape.partial:
            heap = self._heap_rows(scan)
        try:
            batch = fused.run(
                shape,
                scan,
                self._fragment.columns,
                self._stripe_dir,
                deleted,
                heap,
                self._counters,
                self._cancelled,
            )
        except native.Unsupported as error:
            return self._declined(error)
        if shape.partial:
            self._copy_out(placeholders.fill(self._fragment.sql, {scan.name: scan.relation}))
        self._send(batch)
        return True

    def _last_points(self, shape: shapes.Shape, scan: contract.Scan, deleted: Deleted) -> bool:
        """Heap and stripes each with their own last points; False, with nothing sent, if declined."""
        try:
            found = newest.of_stripes(
                shape,
                scan,
                self._fragment.columns,
                self._stripe_dir,
                deleted,
                self._counters,
                self._cancelled,
            )
        except native.Unsupported as error:
            return self._declined(error)
        self._copy_out(placeholders.fill(self._fragment.sql, {scan.name: scan.relation}))
        for batch in found:
            self._send(batch)
        return True

    def _declined(self, error: native.Unsupported) -> bool:
        """Values turned out not to suit; False, to go on as if nothing had been tried."""
        log.info("fragment.not_fused", fragment=self._fragment.number, error=str(error)[:300])
        self._counters = stripes.Counters()
        return False

    def _heap_rows(self, scan: contract.Scan) -> Iterator[pa.RecordBatch]:
        return self._copied(heapfilter.rows_sql(scan), scan.columns)

    def _vectorised(self, sql: str, deleted: Deleted | None) -> list[pa.RecordBatch] | None:
        """The result by DuckDB, None if it or a type refuses."""
        view = kept.View(self._connection, [scan for parts in self._parts for scan in parts], deleted)
        try:
            given = {parts[0].name: self._native_table(parts, view) for parts in self._parts}
            return native.from_native(duck.query(sql, given), self._fragment.columns)
        except (duck.Error, native.Unsupported) as error:
            if self._cancelled():
                raise errors.QueryCanceled("canceling statement due to user request") from error
            log.info("fragment.not_vectorised", fragment=self._fragment.number, error=str(error)[:300])
            return None

    def _native_table(self, parts: Sequence[contract.Scan], view: kept.View) -> pa.Table | lasting.Rows:
        if parts[0].input is not None:
            return self._staged_inputs.native(parts)
        different = _different(parts)

        def load() -> kept.Loaded:
            counters, heap_rows = stripes.Counters(), 0

            def batches() -> Iterator[pa.RecordBatch]:
                nonlocal heap_rows
                for part in different:
                    for batch in self._heap_rows(part):
                        heap_rows += batch.num_rows
                        yield batch
                    yield from stripes.live_rows(
                        part,
                        self._stripe_dir,
                        view.deleted() if part.stripes else {},
                        counters,
                        self._cancelled,
                        tables.forms(part),
                    )

            rows = tables.table(batches(), parts[0].columns)
            return kept.Loaded(rows, heap_rows, counters.total, counters.skipped)

        found = self._recalled.get(parts[0].name) or kept.shared().rows(
            different, view, self._stripe_dir, load
        )
        self._counters.total += found.groups
        self._counters.skipped += found.skipped
        return found.rows


def _different(parts: Sequence[contract.Scan]) -> list[contract.Scan]:
    """The scans that read something that those before them do not."""
    return list({(part.relation, part.stripes): part for part in parts}.values())


class _transaction:  # noqa: N801 - reads as a statement
    """A transaction of the fragment's own, with its settings; rolled back on any error."""

    def __init__(
        self,
        connection: Connection,
        settings: Iterable[tuple[str, str]],
        snapshot: str,
        *,
        with_stripes: bool,
    ) -> None:
        self._connection = connection
        self._snapshot = snapshot
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE" if with_stripes else "BEGIN READ ONLY"
        if snapshot and not with_stripes:
            begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        self._statements = [pgsql.SQL(begin)] + [
            pgsql.SQL("SELECT pg_catalog.set_config({}, {}, true)").format(name, value)
            for name, value in settings
        ]

    def __enter__(self) -> None:
        if self._snapshot:
            self._take_over()
        self._connection.execute(pgsql.SQL("; ").join(self._statements))

    def _take_over(self) -> None:
        begin = self._statements.pop(0)
        take = pgsql.SQL("SET TRANSACTION SNAPSHOT {}").format(self._snapshot)
        try:
            self._connection.execute(pgsql.SQL("; ").join((begin, take)))
        except (psycopg.errors.InvalidParameterValue, psycopg.errors.UndefinedObject) as error:
            self._connection.execute("ROLLBACK")
            raise errors.SerializationFailure(
                "the snapshot of this statement is gone from a node", hint="Run the statement again."
            ) from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._connection.closed:
            return
        self._connection.execute("COMMIT" if kind is None else "ROLLBACK")


def _raw(sql: str) -> pgsql.SQL:
    """SQL that was composed by the planner or of quoted names."""
    return pgsql.SQL(sql)
