"""A worker process's heartbeat: says it lives, renews the running task's lease, hears of cancellation.

It runs in a thread of its own, so that it beats while the task computes. Redis being away is no
reason to stop: beats go on when it is back.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import redis
import structlog

from orochi.executor import names

log = structlog.get_logger()

BEAT_SECONDS = 0.5


class Work:
    """The task a process is busy with."""

    def __init__(self, run: str, task: str) -> None:
        self.run = run
        self.task = task
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._interrupt: Callable[[], None] | None = None
        self._each_beat: Callable[[], None] | None = None

    def each_beat(self, function: Callable[[], None]) -> None:
        """Say what is to be done beside the work, again and again; it is called from another thread."""
        self._each_beat = function

    def beat(self) -> None:
        """Do what is to be done beside the work."""
        if self._each_beat is not None:
            self._each_beat()

    def cancelled(self) -> bool:
        """Whether to stop."""
        return self._cancelled.is_set()

    def interruptible(self, interrupt: Callable[[], None]) -> None:
        """Say what stops the step that follows."""
        with self._lock:
            self._interrupt = interrupt

    def settle(self) -> None:
        """Nothing is left to interrupt; waits for an interruption under way, which must not hit what comes next."""
        with self._lock:
            self._interrupt = None

    def cancel(self) -> None:
        """Stop: sets the flag and interrupts what runs; between two statements that is in vain, so do it again."""
        self._cancelled.set()
        with self._lock:
            if self._interrupt is not None:
                self._interrupt()


class Heartbeat:
    """Beats for one process."""

    def __init__(self, client: redis.Redis, queues: tuple[str, ...], lease_seconds: float) -> None:
        self._client = client
        self._queues = queues
        self._lease_milliseconds = int(lease_seconds * 1000)
        self._lock = threading.Lock()
        self._work: Work | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more."""
        self._stopped.set()

    def begin(self, work: Work) -> bool:
        """Take the task's lease; False if nobody waits for it any more."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.set(names.lease_key(work.run, work.task), self._now(), px=self._lease_milliseconds)
        pipeline.exists(names.query_key(work.run))
        pipeline.exists(names.cancel_key(work.run))
        _, wanted, cancelled = pipeline.execute()
        if not wanted or cancelled:
            self._client.unlink(names.lease_key(work.run, work.task))
            return False
        with self._lock:
            self._work = work
        return True

    def end(self) -> None:
        """The task has no more to do than to send what it has: its lease is renewed no more."""
        with self._lock:
            self._work = None

    def _beat_on(self) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(redis.RedisError, OSError):
                self._beat()
            self._stopped.wait(BEAT_SECONDS)

    def _beat(self) -> None:
        with self._lock:
            work = self._work
        pipeline = self._client.pipeline(transaction=False)
        for queue in self._queues:
            pipeline.set(names.alive_key(queue), self._now(), ex=names.ALIVE_TTL_SECONDS)
        if work is not None:
            pipeline.exists(names.query_key(work.run))
            pipeline.exists(names.cancel_key(work.run))
        answers = pipeline.execute()
        if work is None:
            return
        wanted, cancelled = answers[-2:]
        with self._lock:
            current = self._work is work
            if current and not work.cancelled():
                # under the lock, so that it cannot overwrite the mark of a task that has just ended
                self._client.set(
                    names.lease_key(work.run, work.task), self._now(), px=self._lease_milliseconds
                )
        if not current:
            return
        if cancelled or not wanted:
            if not work.cancelled():
                log.info("task.cancelled", run=work.run, task=work.task)
            work.cancel()
        else:
            work.beat()

    @staticmethod
    def _now() -> str:
        return str(int(time.time() * 1000))
