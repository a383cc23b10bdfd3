"""Waiting for a maintenance task: it is sent once, and its answer, its error or its loss ends the wait."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

from orochi import errors
from orochi.executor import failures, names, redis_link, tracking
from orochi.planner import fragment as plan_fragment

#: How long to wait for an answer before looking at the lease.
TICK_SECONDS = 0.5


@dataclasses.dataclass(slots=True)
class Watch:
    """Waits for a task that is never sent twice."""

    link: redis_link.RedisLink
    run_id: str
    task_id: str
    queue: str
    answered: bool = False

    async def wait(self, deadline: float) -> dict[str, Any]:
        """The task's answer."""
        fragment = plan_fragment.Fragment(number=0, node_id=0, shard_ids=(), scans=(), sql="", columns=())
        tracker = tracking.Tracker((fragment,), slots=1, attempts=1)
        tracker.next_tasks(time.monotonic(), [self.task_id])
        while True:
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
                tracker.observe(self.task_id, await self._sighting(), now)
            except errors.WorkerLost as error:
                raise errors.WorkerLost(
                    f"the task in queue {self.queue} was lost",
                    detail="Its worker died, or no worker listens.",
                    hint="It may have done its work; running it again does no harm.",
                ) from error

    async def _sighting(self) -> tracking.Sighting:
        async def operation(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            pipeline.get(names.lease_key(self.run_id, self.task_id))
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
