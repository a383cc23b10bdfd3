"""The catalog's side of jobs: which runs are due, who runs them, and how they ended.

Everything is decided by rows and locks of the coordinator, so two schedulers, a lost message or a dead
worker do no harm: a job has one unfinished run at most; a run's worker holds the job's advisory lock on a
connection of its own, and a running run that nobody holds the lock of has died with its worker.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from orochi import errors
from orochi.jobs import kinds

Connection = psycopg.Connection[Any]

#: First key of the advisory locks of running jobs; the second is the job's id.
LOCK_CLASS = 0x6F6A6F62
#: Runs of one kind at a time, in the whole cluster: maintenance is not to starve queries.
AT_ONCE, USERS_AT_ONCE = 2, 4
#: A message that no worker took for so long was lost; seconds.
_LOST_SECONDS = 20

_SCHEDULER_LOCK = 0x6F726F63_68690024  # a key of its own: loads and moves hold others for long
_LOST = """
UPDATE orochi.orochi_job_runs SET queued_at = clock_timestamp(), task_id = gen_random_uuid()::text
WHERE state = 'queued' AND finished_at IS NULL AND job_id IS NOT NULL
  AND queued_at < clock_timestamp() - %s * interval '1 second'
RETURNING run_id
"""
#: What is sent to a worker, of each of the runs `%s`.
ORDERS_SQL = """
SELECT r.run_id, r.job_id, r.kind, r.task_id, j.config,
    coalesce(j.proc_oid::regprocedure::text, a.view_oid::regclass::text, j.table_oid::regclass::text, '')
FROM orochi.orochi_job_runs r JOIN orochi.orochi_jobs j USING (job_id)
LEFT JOIN orochi.orochi_continuous_aggregates a ON a.materialization_oid = j.table_oid
WHERE r.run_id = ANY({}) AND r.finished_at IS NULL ORDER BY r.run_id
"""
_BEGIN = """
UPDATE orochi.orochi_job_runs r SET state = 'running', started_at = clock_timestamp(), worker = %s, pid = pg_backend_pid()
FROM orochi.orochi_jobs j
WHERE r.run_id = %s AND r.task_id = %s AND r.state = 'queued' AND r.finished_at IS NULL AND j.job_id = r.job_id
RETURNING j.job_id, r.kind, j.table_oid::bigint, j.proc_oid::bigint, j.owner_oid::bigint, j.config,
    extract(epoch FROM j.max_runtime)::float8
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """A message to be sent: a run for the worker that takes it."""

    queue: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """A run that this process has begun.

    Attributes:
        max_runtime: seconds, 0 for no limit.
    """

    run_id: int
    job_id: int
    kind: str
    table_oid: int | None
    proc_oid: int | None
    owner_oid: int
    config: Mapping[str, Any] | None
    max_runtime: float


def schedule(catalog: Connection) -> list[Order]:
    """End what died, and take what is due: the messages to send now, none if another scheduler is at it."""
    with catalog.transaction():
        row = catalog.execute("SELECT pg_try_advisory_xact_lock(%s)", (_SCHEDULER_LOCK,)).fetchone()
        if row is None or not row[0]:
            return []
        catalog.execute("SELECT orochi._bury_runs(%s)", (LOCK_CLASS,))
        runs = catalog.execute(_LOST, (_LOST_SECONDS,)).fetchall()
        runs += catalog.execute("SELECT orochi._claim_due(%s, %s)", (AT_ONCE, USERS_AT_ONCE)).fetchall()
    if not runs:
        return []
    rows = catalog.execute(ORDERS_SQL.format("%s").encode(), ([run_id for (run_id,) in runs],)).fetchall()
    return [order(*row) for row in rows]


def order(
    run_id: int, job_id: int, kind: str, task_id: str, config: Mapping[str, Any] | None, relation: str
) -> Order:
    """The message of a run."""
    known = kinds.KINDS.get(kind, kinds.USER)
    return Order(known.queue, kinds.message(known, job_id, run_id, task_id, config, relation))


def lock(holder: Connection, job_id: int) -> bool:
    """Take the job for the life of `holder`; False if another process runs it."""
    row = holder.execute("SELECT pg_try_advisory_lock(%s, %s)", (LOCK_CLASS, job_id)).fetchone()
    return row is not None and bool(row[0])


def begin(holder: Connection, run_id: int, task_id: str, worker: str) -> Claim | None:
    """Begin a run whose job `holder` has locked; None if it is over, or was sent again since."""
    row = holder.execute(_BEGIN, (worker, run_id, task_id)).fetchone()
    return None if row is None else Claim(run_id, *row)


def is_wanted(holder: Connection, run_id: int) -> bool:
    """Whether the run is to go on: its job was not deleted, nor it cancelled."""
    row = holder.execute(
        "SELECT state = 'running' FROM orochi.orochi_job_runs WHERE run_id = %s", (run_id,)
    ).fetchone()
    return row is not None and bool(row[0])


def finish(
    catalog: Connection,
    run_id: int,
    error: errors.OrochiError | None,
    rows: int,
    size: int,
    details: Mapping[str, Any],
) -> None:
    """Record how a run ended, and when its job is due next."""
    outcome = ("succeeded", None, None) if error is None else ("failed", error.sqlstate, _words(error))
    catalog.execute(
        "SELECT orochi._finish_run(%s, %s, %s, %s, %s, %s, %s::jsonb)",
        (run_id, *outcome, rows, size, json.dumps(dict(details))),
    )


def record(
    catalog: Connection,
    *,
    kind: str,
    table_oid: int,
    started_at: Any,
    rows: int = 0,
    size: int = 0,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Enter into the history what a policy of that kind does when a user calls it without a job."""
    catalog.execute(
        "INSERT INTO orochi.orochi_job_runs (kind, table_oid, scheduled, started_at, finished_at, state, rows, bytes,"
        " details) VALUES (%s, %s, false, %s, clock_timestamp(), 'succeeded', %s, %s, %s::jsonb)",
        (kind, table_oid, started_at, rows, size, json.dumps(dict(details or {}))),
    )


def progress(holder: Connection, run_id: int, done: int, total: int, what: str, rows: int, size: int) -> None:
    """Say how far a run is."""
    holder.execute(
        "UPDATE orochi.orochi_job_runs SET progress_done = %s, progress_total = %s, progress_what = %s,"
        " rows = %s, bytes = %s WHERE run_id = %s AND finished_at IS NULL",
        (done, total, what, rows, size, run_id),
    )


def _words(error: errors.OrochiError) -> str:
    parts: Sequence[str | None] = (error.message, error.detail, error.hint)
    return "\n".join(part for part in parts if part)
