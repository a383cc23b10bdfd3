"""A run of a job, as its runner sees it: what to do, connections, progress, counts.

A runner is a plain function in a thread of a jobs worker. It may wait: for nodes' maintenance tasks, and
for the gateway, which waits for those; it must never be waited for by one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import structlog
from psycopg import conninfo

from orochi import errors, metrics
from orochi import settings as process_settings
from orochi.executor import failures
from orochi.jobs import ledger, runners
from orochi.timeseries import connections

log = structlog.get_logger()

Connection = psycopg.Connection[Any]

_CONNECT_SECONDS = 5
_PROGRESS_SECONDS = 0.5
_WATCH_SECONDS = 1.0
#: How long to wait for the lock of a job whose last worker just died.
_LOCK_SECONDS = 5.0
_ADDRESS = """
SELECT (SELECT substr(i, 6) FROM unnest(srvoptions) AS i WHERE i LIKE 'host=%'),
    (SELECT substr(i, 6) FROM unnest(srvoptions) AS i WHERE i LIKE 'port=%')
FROM pg_catalog.pg_foreign_server WHERE srvname = 'orochi_gateway'
"""


@dataclasses.dataclass(eq=False, slots=True)
class Run:
    """One run of a job.

    Attributes:
        settings: the process's settings.
        claim: what to run, as it was when the run began.
        holder: holds the job's lock.
    """

    settings: process_settings.Settings
    claim: ledger.Claim
    holder: Connection
    rows: int = 0
    size: int = 0
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    _began: float = dataclasses.field(default_factory=time.monotonic)
    _told: float = 0.0

    @property
    def job_id(self) -> int:
        """The job's id."""
        return self.claim.job_id

    @property
    def run_id(self) -> int:
        """The run's id, in `orochi.job_history`."""
        return self.claim.run_id

    @property
    def kind(self) -> str:
        """The kind of job."""
        return self.claim.kind

    @property
    def table_oid(self) -> int:
        """The table that a policy is for."""
        if self.claim.table_oid is None:
            raise errors.UndefinedObject(f"job {self.job_id} has no table")
        return self.claim.table_oid

    @property
    def config(self) -> Mapping[str, Any]:
        """The job's configuration."""
        return self.claim.config or {}

    def catalog(self) -> contextlib.AbstractContextManager[Connection]:
        """A connection to the coordinator, in autocommit, as Orochi's own role, `pg_catalog` its search_path."""
        return connections.borrowed(self.settings.coordinator_dsn)

    def gateway(
        self, user: str | None = None, password: str | None = None
    ) -> contextlib.AbstractContextManager[Connection]:
        """A connection through the gateway, in autocommit, as Orochi's own role unless `user` is given.

        Raises:
            NodeUnavailable: no gateway can be reached.
        """
        return self._gateway(user, password)

    def progress(self, done: int, total: int, what: str = "steps") -> None:
        """Say that `done` of `total` is done; written now and then, and when all is done."""
        now = time.monotonic()
        if now - self._told >= _PROGRESS_SECONDS or done >= total:
            self._told = now
            ledger.progress(self.holder, self.run_id, done, total, what, self.rows, self.size)

    def count(self, rows: int = 0, bytes: int = 0) -> None:  # noqa: A002  (what the history calls it)
        """Add to the rows and bytes that the run has changed."""
        self.rows += rows
        self.size += bytes

    def note(self, **facts: Any) -> None:
        """Add facts to what `orochi.job_history` tells of the run."""
        self.details.update(facts)

    def check(self) -> None:
        """Go on only if the run is still wanted: to be called between steps.

        Raises:
            QueryCanceled: the job was deleted, the run cancelled, or its `max_runtime` has passed.
        """
        if not ledger.is_wanted(self.holder, self.run_id):
            raise errors.QueryCanceled("the run was cancelled")
        if self.claim.max_runtime and time.monotonic() - self._began > self.claim.max_runtime:
            raise errors.QueryCanceled("the job ran longer than its max_runtime")

    @contextlib.contextmanager
    def _gateway(self, user: str | None, password: str | None) -> Iterator[Connection]:
        with self.catalog() as catalog:
            dsn = gateway_dsn(self.settings, catalog)
        if user is not None:
            dsn = conninfo.make_conninfo(dsn, user=user, password=password or "")
        try:
            connection = psycopg.connect(
                dsn,
                autocommit=True,
                connect_timeout=_CONNECT_SECONDS,
                application_name=f"orochi job {self.job_id}",
                client_encoding="UTF8",
            )
        except psycopg.OperationalError as error:
            if error.sqlstate is not None:
                raise
            raise errors.NodeUnavailable(f"the gateway cannot be reached: {str(error).strip()}") from error
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(connection, done), daemon=True)
        watcher.start()
        try:
            yield connection
        finally:
            done.set()
            watcher.join()
            connection.close()

    def _watch(self, connection: Connection, done: threading.Event) -> None:
        """Cancel what runs on the connection once the run is not wanted any more."""
        while not done.wait(_WATCH_SECONDS):
            try:
                self.check()
            except errors.QueryCanceled:
                with contextlib.suppress(psycopg.Error):
                    connection.cancel_safe(timeout=_CONNECT_SECONDS)
            except psycopg.Error:
                return  # without its lock the run is over anyway


def gateway_dsn(settings: process_settings.Settings, catalog: Connection) -> str:
    """How to connect to the gateway as Orochi's own role: where the gateway said that it listens."""
    if settings.gateway_address is not None:
        host, _, port = settings.gateway_address.rpartition(":")
    else:
        row = catalog.execute(_ADDRESS).fetchone()
        host, port = row if row is not None else (settings.gateway_host, str(settings.gateway_port))
    return conninfo.make_conninfo(settings.coordinator_dsn, host=host, port=port)


def execute(settings: process_settings.Settings, request: Mapping[str, Any], worker: str) -> None:
    """Run what a message asks for, unless that is over or under way; never raises but for lost connections."""
    job_id, run_id = int(request["job"]), int(request["run"])
    with (
        structlog.contextvars.bound_contextvars(job=job_id, run=run_id, task=request["task"]),
        psycopg.connect(
            settings.coordinator_dsn,
            autocommit=True,
            connect_timeout=_CONNECT_SECONDS,
            application_name=f"orochi job {job_id}",
            options="-c search_path=pg_catalog",
        ) as holder,
    ):
        claim = _begin(holder, job_id, run_id, request["task"], worker)
        if claim is None:
            log.info("job.unwanted")
            return
        _run(Run(settings, claim, holder))


def _begin(holder: Connection, job_id: int, run_id: int, task_id: str, worker: str) -> ledger.Claim | None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while not ledger.lock(holder, job_id):
        if time.monotonic() > deadline:
            return None  # the scheduler sends it again
        time.sleep(0.1)
    return ledger.begin(holder, run_id, task_id, worker)


def _run(run: Run) -> None:
    failed: errors.OrochiError | None = None
    began = time.monotonic()
    log.info("job.started", kind=run.kind)
    try:
        runners.RUNNERS[run.kind](run)
    except Exception as error:  # it is to be recorded, whatever it is
        failed = failures.from_json(failures.to_json(error))
        if not isinstance(error, errors.OrochiError | psycopg.Error):
            # as text: renderers of exceptions print local variables, which may hold what is secret
            log.error("job.broken", kind=run.kind, trace="".join(traceback.format_exception(error)))
    seconds = time.monotonic() - began
    metrics.JOB_SECONDS.labels(run.kind, "succeeded" if failed is None else "failed").observe(seconds)
    metrics.JOB_ROWS.labels(run.kind).inc(run.rows)
    metrics.JOB_BYTES.labels(run.kind).inc(run.size)
    facts = {
        "kind": run.kind,
        "seconds": round(seconds, 3),
        "rows": run.rows,
        "bytes": run.size,
    }
    if failed is None:
        log.info("job.finished", **facts)
    else:
        log.warning("job.failed", sqlstate=failed.sqlstate, **facts)
    with run.catalog() as catalog:
        ledger.finish(catalog, run.run_id, failed, run.rows, run.size, run.details)
