"""A maintenance task: sent, watched, and sent again when it was lost; its answer or its error ends the wait.

A worker process is replaced now and then, and a message on its way to the one that leaves is lost
without anybody having died. Maintenance tasks do no harm when they run twice.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from orochi import errors
from orochi.executor import envelope, failures, names, redis_link, tracking
from orochi.planner import fragment as plan_fragment

log = structlog.get_logger()

#: How long to wait for an answer before looking at the lease.
TICK_SECONDS = 0.5
#: How often a task is sent at most.
_ATTEMPTS = 3


@dataclasses.dataclass(slots=True)
class Watch:
    """One run of a task.

    Attributes:
        send: puts the message of a new task id into `queue`.
        task_ids: those sent so far.
        answered: whether any of them answered.
    """

    link: redis_link.RedisLink
    run_id: str
    queue: str
    send: Callable[[str], Awaitable[None]]
    task_ids: list[str] = dataclasses.field(default_factory=list)
    answered: bool = False

    async def result(self, deadline: float) -> dict[str, Any]:
        """Send the task and wait for its answer.

        Raises:
            WorkerLost: it was lost every time, or nobody listens to the queue.
            QueryCanceled: the deadline passed, a time of `time.monotonic`.
            OrochiError: what the task raised.
        """
        fragment = plan_fragment.Fragment(number=0, node_id=0, shard_ids=(), scans=(), sql="", columns=())
        tracker = tracking.Tracker((fragment,), slots=1, attempts=_ATTEMPTS)
        while True:
            for task in tracker.next_tasks(time.monotonic(), [envelope.new_task_id()]):
                if self.task_ids:
                    log.warning("task.resent", run=self.run_id, queue=self.queue, lost=self.task_ids[-1])
                self.task_ids.append(task.task_id)
                await self.send(task.task_id)
            items = await self.link.pop(
                names.result_key(self.run_id), TICK_SECONDS, redis_link.RUNNING_SECONDS
            )
            if items:
                self.answered = True
                return _answer(json.loads(items[0]))
            now = time.monotonic()
            if now > deadline:
                raise errors.QueryCanceled("a maintenance task did not finish in time")
            try:
                tracker.observe(self.task_ids[-1], await self._sighting(), now)
            except errors.WorkerLost as error:
                raise errors.WorkerLost(
                    f"the task in queue {self.queue} was lost",
                    detail="Its worker died each time it was sent, or no worker listens.",
                    hint="It may have done its work; running it again does no harm.",
                ) from error

    async def again(self, deadline: float) -> dict[str, Any]:
        """Send it once more, after an answer, and wait for the next; raises what `result` does."""
        self.answered = False
        return await self.result(deadline)

    async def _sighting(self) -> tracking.Sighting:
        async def operation(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            pipeline.get(names.lease_key(self.run_id, self.task_ids[-1]))
            pipeline.llen(self.queue)
            pipeline.exists(names.alive_key(self.queue))
            pipeline.expire(names.query_key(self.run_id), names.QUERY_TTL_SECONDS)
            answers: list[Any] = await pipeline.execute()
            return answers

        lease, length, alive, _ = await self.link.call(operation, redis_link.RUNNING_SECONDS)
        return tracking.Sighting(lease, length, bool(alive))


def _answer(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        raise failures.from_json(answer["error"])
    return dict(answer["result"])
