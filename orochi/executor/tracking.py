"""Which parts of a run are with which task, and when to give a task up. No I/O.

A task that has started renews a lease; one whose lease ran out is lost. A task that has not started
waits in its queue; it is lost if the queue is empty and no lease appears. Both must be seen twice,
with nothing read in between, as an answer may be on its way. A queue that no worker listens to is
given up after a while.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Collection, Iterable, Sequence

from orochi import errors
from orochi.engine import together
from orochi.executor import names
from orochi.planner import fragment as plan_fragment

#: Fragments of a node's first tasks at most, when nothing is known of their cost. A task that takes
#: long gives back what it has not begun (see `Tracker.deferred`).
_FIRST_FRAGMENTS = 8
#: A task should carry about this much work, once the first fragments have shown what they cost.
_TASK_SECONDS = 0.2
#: How long an empty queue without a lease is believed to be a message on its way.
_QUEUED_SECONDS = 3.0
#: How long a queue may be without a living worker: a supervisor needs a while to start one.
_ABSENT_SECONDS = 11.0


@dataclasses.dataclass(slots=True)
class Task:
    """A Celery task in flight."""

    task_id: str
    node_id: int
    attempt: int
    fragments: tuple[plan_fragment.Fragment, ...]
    sent_at: float
    started: bool = False
    doubts: int = 0
    empty_since: float | None = None
    absent_since: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Sighting:
    """What Redis says of a task: its lease's value, its queue's length, a worker of the queue."""

    lease: bytes | None
    queue_length: int
    worker_alive: bool


class Tracker:
    """The state of one run."""

    def __init__(self, fragments: Sequence[plan_fragment.Fragment], *, slots: int, attempts: int) -> None:
        """Plan to run `fragments`, on each node in `slots` tasks at a time, each at most `attempts` times."""
        self._slots = max(slots, 1)
        self._attempts = attempts
        self._pending: dict[int, collections.deque[plan_fragment.Fragment]] = {}
        for fragment in fragments:
            self._pending.setdefault(fragment.node_id, collections.deque()).append(fragment)
        self._open = {fragment.number for fragment in fragments}
        self._tried: collections.Counter[int] = collections.Counter()
        self._seconds: dict[int, list[float]] = {}
        self.tasks: dict[str, Task] = {}

    @property
    def is_done(self) -> bool:
        """Whether every fragment was answered."""
        return not self._open

    def next_tasks(self, now: float, new_id: Iterable[str]) -> list[Task]:
        """The tasks to send now: as many as there are free slots and fragments waiting."""
        ids = iter(new_id)
        made = []
        for node_id, waiting in self._pending.items():
            while waiting and self._busy(node_id) < self._slots:
                take = self._take(node_id, waiting)
                chosen = tuple(waiting.popleft() for _ in range(take))
                for fragment in chosen:
                    self._tried[fragment.number] += 1
                attempt = max(self._tried[fragment.number] for fragment in chosen)
                task = Task(next(ids), node_id, attempt, chosen, now)
                self.tasks[task.task_id] = task
                made.append(task)
        return made

    def answered(self, task_id: str, numbers: Collection[int], seconds: float) -> bool:
        """Note one whole answer to fragments that ran together.

        False if one of them was answered before, by another attempt: then this answer is of no use, as nobody can tell
        which of its rows are of the others, and those wait again.
        """
        task = self.tasks.get(task_id)
        if task is not None:
            self.heard(task_id)
            self._seconds.setdefault(task.node_id, []).extend([seconds / len(numbers)] * len(numbers))
        if not self._open.issuperset(numbers):
            self.deferred(task_id, numbers)
            return False
        self._open.difference_update(numbers)
        if task is None:
            self._forget_answered()
        for other in list(self.tasks.values()):
            if not any(fragment.number in self._open for fragment in other.fragments):
                del self.tasks[other.task_id]
        return True

    def _forget_answered(self) -> None:
        """A task that was given up answered after all: nobody else has to."""
        for node_id, waiting in self._pending.items():
            self._pending[node_id] = collections.deque(f for f in waiting if f.number in self._open)

    def deferred(self, task_id: str, numbers: Iterable[int]) -> None:
        """Take fragments back that a task had no time to begin: others were waiting for its worker."""
        task = self.tasks.get(task_id)
        if task is None:
            return
        back = [f for f in task.fragments if f.number in set(numbers) and f.number in self._open]
        task.fragments = tuple(f for f in task.fragments if f not in back)
        for fragment in back:
            self._tried[fragment.number] -= 1
            self._pending[task.node_id].append(fragment)
        if not any(fragment.number in self._open for fragment in task.fragments):
            del self.tasks[task_id]

    def heard(self, task_id: str) -> None:
        """Note that something of the task arrived."""
        task = self.tasks.get(task_id)
        if task is not None:
            task.started, task.doubts = True, 0

    def observe(self, task_id: str, sighting: Sighting, now: float) -> None:
        """Judge a task while its list of answers is empty; a lost one's fragments wait again.

        Raises:
            WorkerLost: it was the last attempt, or no worker serves the queue.
        """
        task = self.tasks[task_id]
        if sighting.lease is not None and sighting.lease != names.DONE:
            task.started, task.doubts = True, 0
            return
        if task.started or sighting.lease == names.DONE:
            task.doubts += 1
            if task.doubts >= 2:
                self._give_up(task)
            return
        self._observe_queued(task, sighting, now)

    def resend_all(self) -> None:
        """Redis forgot everything: what is open waits again."""
        for task in list(self.tasks.values()):
            self._give_up(task)

    def _observe_queued(self, task: Task, sighting: Sighting, now: float) -> None:
        task.absent_since = None if sighting.worker_alive else task.absent_since or now
        if task.absent_since is not None and now - task.absent_since > _ABSENT_SECONDS:
            raise errors.WorkerLost(
                f"no worker of node {task.node_id} answers",
                hint=f"Start one with: orochi worker --node {task.node_id}",
            )
        task.empty_since = None if sighting.queue_length else task.empty_since or now
        if task.empty_since is not None and now - task.empty_since > _QUEUED_SECONDS:
            self._give_up(task)

    def _give_up(self, task: Task) -> None:
        del self.tasks[task.task_id]
        for fragment in task.fragments:
            if fragment.number not in self._open:
                continue
            if self._tried[fragment.number] >= self._attempts:
                raise errors.WorkerLost(
                    f"a worker of node {task.node_id} was lost {self._attempts} times running one fragment",
                    detail=f"Fragment {fragment.number} reads shards {', '.join(map(str, fragment.shard_ids))}.",
                )
            self._pending[task.node_id].append(fragment)

    def _busy(self, node_id: int) -> int:
        return sum(task.node_id == node_id for task in self.tasks.values())

    def _take(self, node_id: int, waiting: Sequence[plan_fragment.Fragment]) -> int:
        """A slot's share: of the first few until costs are known, then of about `_TASK_SECONDS`.

        Of what can run together as much as does.
        """
        share = math.ceil(len(waiting) / self._slots)
        joined = len(together.groups(list(itertools.islice(waiting, share)))[0])
        seconds = self._seconds.get(node_id)
        if not seconds:
            return min(share, max(_FIRST_FRAGMENTS, joined))
        mean = sum(seconds) / len(seconds)
        return max(joined, min(share, int(_TASK_SECONDS / max(mean, 1e-4))))
