"""`run_job` and `run_maintenance`: jobs' runs that somebody waits for. Workers do the work, as always.

They run outside the client's transaction: a worker sees what is committed, and ends transactions of its own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Sequence

import structlog

from orochi import errors
from orochi.executor import context, names
from orochi.jobs import kinds, ledger
from orochi.operations import jobs
from orochi.operations.arguments import Arguments

log = structlog.get_logger()

Rows = list[tuple[str | None, ...]]

_TIMEOUT_SECONDS = 3600.0
_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.02, 0.3
#: Nobody takes a job: seconds.
_UNTAKEN_SECONDS = 60.0
_POLICIES = "SELECT job_id, kind FROM orochi.orochi_jobs WHERE enabled AND kind <> 'user' ORDER BY job_id"


@dataclasses.dataclass(frozen=True, slots=True)
class _State:
    """Where a run is."""

    state: str
    finished: bool
    sqlstate: str | None
    message: str | None


async def run_job(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Run a job now, whatever its schedule, and wait for its end.

    Raises:
        OrochiError: what the job failed with.
    """
    job_id = int(call.required("job_id"))
    await jobs.find(session, job_id, "run")
    ended = await _run(session, job_id)
    await session.runtime.refresh()
    if ended.state != "succeeded":
        raise _error(ended)
    return [("",)]


async def run_maintenance(session: context.Session, sink: context.Sink, call: Arguments) -> Rows:
    """Count rows and sizes, let every policy look at what is due, kind by kind, and remove what is not needed."""
    snapshot = await session.runtime.refresh()
    everywhere = [node.node_id for node in snapshot.data_nodes]
    flushes = [(node_id, names.FLUSH_NODE, {"node_id": node_id, "patient": 1}) for node_id in everywhere]
    await _on_nodes(session, flushes)
    await _on_nodes(
        session, [(node_id, names.COLLECT_NODE_STATS, {"node_id": node_id}) for node_id in everywhere]
    )
    policies = [(int(job_id or 0), str(kind)) for job_id, kind in await _query(session, _POLICIES)]
    ordered = sorted((kind for kind in kinds.KINDS.values() if kind.order is not None), key=_order)
    for kind in ordered:
        due = [job_id for job_id, of_kind in policies if of_kind == kind.name]
        for at in range(0, len(due), ledger.AT_ONCE):
            together = due[at : at + ledger.AT_ONCE]
            outcomes = await asyncio.gather(*(_run(session, job_id) for job_id in together))
            for job_id, ended in zip(together, outcomes, strict=True):
                if ended.state != "succeeded":
                    await sink.notice(f"job {job_id} failed: {_error(ended).message}", severity="WARNING")
    await _on_nodes(session, [(node_id, names.SWEEP_NODE, {"node_id": node_id}) for node_id in everywhere])
    await session.runtime.refresh()
    return [("",)]


def _order(kind: kinds.Kind) -> int:
    return kind.order or 0


def _error(ended: _State) -> errors.OrochiError:
    message, _, detail = (ended.message or f"the run {ended.state}").partition("\n")
    return errors.OrochiError(message, detail=detail or None, sqlstate=ended.sqlstate or "XX000")


async def _run(session: context.Session, job_id: int) -> _State:
    """Queue a run of a job, after the one under way, and wait for its end; a job that is gone has nothing to do."""
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    run_id = await _queue(session, job_id, deadline)
    if run_id is None:
        return _State("succeeded", True, None, None)
    try:
        await _send(session, run_id)
        return await _wait(session, run_id, deadline)
    except BaseException:
        await asyncio.shield(_cancel(session, run_id))
        raise


async def _queue(session: context.Session, job_id: int, deadline: float) -> int | None:
    sql = (
        f"SELECT orochi._queue_run({job_id}), EXISTS (SELECT FROM orochi.orochi_jobs WHERE job_id = {job_id})"
    )
    pause = _POLL_SECONDS
    while True:
        asked = asyncio.ensure_future(_query(session, sql))
        try:
            (row,) = await asyncio.shield(asked)
        except asyncio.CancelledError:  # it may be queued all the same, and then nobody would end it
            (row,) = await asked
            if row[0] is not None:
                await asyncio.shield(_cancel(session, int(row[0])))
            raise
        if row[0] is not None:
            return int(row[0])
        if row[1] != "t":
            return None
        if time.monotonic() > deadline:
            raise errors.QueryCanceled(f"another run of job {job_id} did not end in time")
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_POLL_SECONDS)


async def _send(session: context.Session, run_id: int) -> None:
    for row in await _query(session, ledger.ORDERS_SQL.format(f"ARRAY[{run_id}]")):
        run, job, kind, task_id, config, relation = row
        order = ledger.order(
            int(run or 0),
            int(job or 0),
            str(kind),
            str(task_id),
            None if config is None else json.loads(config),
            str(relation),
        )
        await session.runtime.transport.post(order.queue, order.message)


async def _wait(session: context.Session, run_id: int, deadline: float) -> _State:
    began, pause = time.monotonic(), _POLL_SECONDS
    while True:
        rows = await _query(
            session,
            "SELECT state, finished_at IS NOT NULL, sqlstate, message FROM orochi.orochi_job_runs"
            f" WHERE run_id = {run_id}",
        )
        if not rows:
            return _State("failed", True, "57014", "the job was deleted")
        state = _State(str(rows[0][0]), rows[0][1] == "t", rows[0][2], rows[0][3])
        if state.finished:
            return state
        now = time.monotonic()
        if state.state == "queued" and now - began > _UNTAKEN_SECONDS:
            raise errors.WorkerLost(
                "no worker took the job", hint="See `orochi status`: each node has a worker for jobs."
            )
        if now > deadline:
            raise errors.QueryCanceled("the job did not finish in time")
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_POLL_SECONDS)


async def _cancel(session: context.Session, run_id: int) -> None:
    """Nobody waits for the run any more: it ends before it begins, or at its next step."""
    await _query(
        session,
        f"UPDATE orochi.orochi_job_runs SET state = 'cancelled' WHERE run_id = {run_id} AND finished_at IS NULL"
        " AND state = 'running' RETURNING run_id",
    )
    await _query(
        session,
        "SELECT orochi._finish_run(run_id, 'failed', '57014', 'the run was cancelled', 0, 0, '{}')"
        f" FROM orochi.orochi_job_runs WHERE run_id = {run_id} AND state = 'queued'",
    )


async def _query(session: context.Session, sql: str) -> list[tuple[str | None, ...]]:
    async with session.runtime.service() as connection:
        result = await connection.fetch(sql)
    return [tuple(None if value is None else value.decode() for value in row) for row in result.rows]


async def _on_nodes(session: context.Session, work: Sequence[tuple[int, str, dict[str, int]]]) -> None:
    """Run tasks, those of one node one after another, all nodes at once."""

    async def one(node_id: int) -> None:
        for target, task, arguments in work:
            if target == node_id:
                await session.runtime.transport.run_task(node_id, task, arguments, timeout=_TIMEOUT_SECONDS)

    await asyncio.gather(*(one(node_id) for node_id in {target for target, _, _ in work}))
