"""`orochi jobs`: every job, how its last run ended, when it runs next, and how far those under way are."""

from __future__ import annotations

import dataclasses
import datetime as dt
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import rows
from rich import box, console, live, progress_bar, table

from orochi.embedded import state

_QUERY = """
SELECT s.job_id, s.application_name, coalesce(s.relation, j.proc_schema || '.' || j.proc_name) AS about, s.job_status,
    s.last_run_status, extract(epoch FROM s.last_run_duration)::float8 AS seconds,
    extract(epoch FROM s.next_start - orochi._now())::float8 AS due_in, s.total_runs, s.total_failures,
    p.done, p.total, p.what, extract(epoch FROM p.elapsed)::float8 AS elapsed, p.task_id, l.rows, l.bytes,
    split_part(l.message, E'\\n', 1) AS message
FROM orochi.job_stats s JOIN orochi.jobs j USING (job_id)
LEFT JOIN orochi.job_progress p USING (job_id)
LEFT JOIN LATERAL (SELECT h.rows, h.bytes, CASE WHEN NOT h.succeeded THEN h.err_message END AS message
    FROM orochi.job_history h WHERE h.job_id = s.job_id AND h.succeeded IS NOT NULL ORDER BY h.id DESC LIMIT 1) l ON true
ORDER BY p.run_id IS NULL, s.job_id
"""
_STYLES = {"Success": "green", "Failed": "red", "Crashed": "red", "Running": "cyan", "Paused": "yellow"}


class Unreachable(Exception):
    """The catalog cannot be read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """Where the jobs are: a coordinator, or the cluster of a data directory."""

    data_dir: pathlib.Path
    dsn: str | None = None

    def read(self) -> list[dict[str, Any]]:
        """The jobs now, those under way first; times in seconds.

        Raises:
            Unreachable: there is no such cluster, or its coordinator does not answer.
        """
        dsn = self.dsn or self._known()
        try:
            with psycopg.connect(dsn, connect_timeout=5, row_factory=rows.dict_row) as connection:
                return connection.execute(_QUERY).fetchall()
        except psycopg.Error as error:
            raise Unreachable(f"the catalog cannot be read: {str(error).strip()}") from error

    def _known(self) -> str:
        known = state.load(self.data_dir) if state.is_locked(self.data_dir) else None
        if known is None or "coordinator_dsn" not in known.info:
            raise Unreachable(f"no cluster is running on {self.data_dir}")
        return str(known.info["coordinator_dsn"])


def show(out: console.Console, jobs: Sequence[dict[str, Any]]) -> None:
    """Print the jobs once."""
    out.print(_table(jobs))


def watch(out: console.Console, source: Source, seconds: float) -> None:
    """Show the jobs until interrupted."""
    with live.Live(_table(source.read()), console=out, auto_refresh=False, screen=out.is_terminal) as shown:
        while True:
            time.sleep(seconds)
            shown.update(_table(source.read()), refresh=True)


def _table(jobs: Sequence[dict[str, Any]]) -> table.Table:
    found = table.Table(
        box=box.SIMPLE_HEAD,
        title=f"Jobs at {dt.datetime.now(dt.UTC):%H:%M:%S} UTC",
        title_justify="left",
        caption=None if jobs else "no jobs; add_retention_policy(), add_job() and others make some",
    )
    for heading in ("id", "job", "status", "last run"):
        found.add_column(heading, overflow="fold")
    for heading in ("rows", "next", "runs", "failed"):
        found.add_column(heading, justify="right", no_wrap=True)
    for job in jobs:
        status, title = job["job_status"], job["application_name"].rpartition(" [")[0]
        found.add_row(
            str(job["job_id"]),
            f"{title}\n[dim]{job['about'] or ''}[/]",
            _progress(job) or f"[{_STYLES.get(status, 'default')}]{status}[/]",
            _last(job),
            f"{job['rows']:,}" if job["rows"] else "",
            "" if job["due_in"] is None else _in(job["due_in"]),
            str(job["total_runs"]),
            str(job["total_failures"] or ""),
        )
    return found


def _last(job: dict[str, Any]) -> str:
    outcome = job["last_run_status"] or ""
    took = "" if job["seconds"] is None else f" {job['seconds']:.1f} s"
    said = f"\n[dim]{job['message']}[/]" if job["message"] else ""
    return f"[{_STYLES.get(outcome, 'default')}]{outcome}[/]{took}{said}"


def _progress(job: dict[str, Any]) -> table.Table | str | None:
    """How far a run under way is; None for other jobs."""
    if job["job_status"] != "Running":
        return None
    if job["elapsed"] is None:
        return "[dim]waits for a worker[/]"
    if not job["total"]:
        return f"[cyan]Running[/] {job['elapsed']:.0f} s"
    grid = table.Table.grid()
    grid.add_row(progress_bar.ProgressBar(total=job["total"], completed=job["done"], width=18))
    grid.add_row(f"{job['done']}/{job['total']} {job['what']}, {job['elapsed']:.0f} s")
    return grid


def _in(seconds: float) -> str:
    if seconds <= 0:
        return "now"
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
