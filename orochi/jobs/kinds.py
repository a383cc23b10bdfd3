"""The kinds of job: which queue each waits in, and in what words people are told of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from orochi.executor import envelope, names

Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """What all jobs of one kind share.

    Attributes:
        name: as in `orochi_jobs.kind`.
        queue: one of `names.JOB_QUEUES`.
        order: when `run_maintenance()` runs it, among the other policies; None never.
        title: what `application_name` begins with.
        text: the job in words, from its configuration and the name of its table or procedure.
    """

    name: str
    queue: str
    order: int | None
    title: str
    text: Callable[[Config, str], str]


def _retention(config: Config, relation: str) -> str:
    return f"drop chunks of {relation} older than {config.get('drop_after')}"


def _compression(config: Config, relation: str) -> str:
    return f"compress chunks of {relation} older than {config.get('compress_after')}"


def _tiering(_config: Config, relation: str) -> str:
    return f"move chunks of {relation} to the tier of their age"


def _refresh(config: Config, relation: str) -> str:
    return (
        f"refresh {config.get('view', relation)}"
        f" from {config.get('start_offset') or 'the beginning'} to {config.get('end_offset') or 'now'}"
    )


def _user(_config: Config, procedure: str) -> str:
    return f"call {procedure}"


RETENTION = Kind("retention", names.RETENTION_QUEUE, 10, "Retention Policy", _retention)
COMPRESSION = Kind("compression", names.COMPRESSION_QUEUE, 20, "Columnstore Policy", _compression)
TIERING = Kind("tiering", names.TIERING_QUEUE, 30, "Tiering Policy", _tiering)
REFRESH = Kind("refresh", names.REFRESH_QUEUE, 40, "Refresh Continuous Aggregate Policy", _refresh)
USER = Kind("user", names.JOBS_QUEUE, None, "User-Defined Action", _user)

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (RETENTION, COMPRESSION, TIERING, REFRESH, USER)}


def task_name(kind: str) -> str:
    """The Celery task that runs jobs of that kind."""
    return f"{names.JOB_TASK}.{kind}"


def message(kind: Kind, job_id: int, run_id: int, task_id: str, config: Config | None, relation: str) -> str:
    """The Celery message of a run, for the kind's queue; Flower shows its words."""
    described = f"job {job_id}: {kind.text(config or {}, relation)}"
    request = {"run": run_id, "job": job_id, "task": task_id}
    return envelope.task_message(task_name(kind.name), task_id, kind.queue, request, described, origin="jobs")
