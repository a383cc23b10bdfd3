"""A worker process's side of the queue: takes a task's request, does it, sends the answer.

One `Seat` a process holds what tasks share: Redis, the node's connection, the heartbeat. A task ends
in an answer or an error item, never in silence, unless its process dies; that the gateway sees by
the lease. No exception leaves a request, as Celery would have nothing better to do with it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
import pyarrow as pa
import redis
import structlog
from redis import backoff, retry

from orochi import errors
from orochi import settings as process_settings
from orochi.engine import contract, duck, fragments, staging, together, warm
from orochi.executor import envelope, exchange, failures, heartbeat, names, node_link, rehearsal, shipping
from orochi.planner import fragment as plan_fragment

log = structlog.get_logger()

Connection = psycopg.Connection[Any]
Answer = dict[str, Any]
#: Does a fragment's work: of the fragment, the node's connection, its stripe files, and where rows go.
Runner = Callable[..., contract.FragmentStats | None]

_CONNECT_SECONDS = 5
#: A task begins no further fragment after so long, so that other queries get their turn.
_TASK_SECONDS = 0.5
#: So many requests' fragments are kept as they were read, of texts that are not longer: of some 50 MB together.
_KNOWN_TEXTS, _KNOWN_LETTERS = 128, 64 << 10
#: Answers wait for others at most so long, and until there is so much of them.
_OUTBOX_SECONDS, _OUTBOX_BYTES = 0.005, 64 << 10
#: A node's maintenance queue that is this long gets no more periodic work.
_BACKLOG = 100
_NODES = "SELECT node_id FROM orochi.orochi_nodes WHERE state <> 'down' ORDER BY node_id"


class Seat:
    """What the tasks of one worker process share."""

    def __init__(self, settings: process_settings.Settings, node_id: int, queues: tuple[str, ...]) -> None:
        self.settings = settings
        self.node_id = node_id
        self._redis = redis.Redis.from_url(
            settings.redis_url,
            socket_connect_timeout=2,
            socket_timeout=10,
            retry=retry.Retry(backoff.ConstantBackoff(0.3), 10),
        )
        beats = redis.Redis.from_url(settings.redis_url, socket_connect_timeout=1, socket_timeout=2)
        self._heartbeat = heartbeat.Heartbeat(beats, queues, settings.fragment_lease)
        self._reads_rows = not queues or not set(queues) <= set(names.JOB_QUEUES)
        self._runs_fragments = names.fragment_queue(node_id) in queues
        self._node = node_link.NodeLink(settings, node_id)

    def start(self) -> None:
        """Have at hand what the first task would wait for, and begin to beat."""
        self.settings.stripe_dir.mkdir(parents=True, exist_ok=True)
        if self._reads_rows:
            warm.load()
        if self._runs_fragments:
            with contextlib.suppress(errors.OrochiError, psycopg.Error):  # each task tries again
                self._node.connection()
        self._heartbeat.start()
        if self._runs_fragments and self._node.is_open:
            self._rehearse()

    def _rehearse(self) -> None:
        """Serve a request that nobody sent, so that the first that somebody sends finds everything at hand."""
        with (
            contextlib.suppress(redis.RedisError, OSError),
            rehearsal.request(self._redis) as (asked, runner),
        ):
            self._serve(asked, runner)

    def serve_fragments(self, request: Answer) -> None:
        """Run a request's fragments one after another, answering each."""
        self._serve(request, fragments.run_fragment)

    def serve_scan(self, request: Answer) -> None:
        """Send the stripe rows of a request's scans, with their row ids."""
        self._serve(request, fragments.run_scan)

    def serve_call(
        self, request: Answer, function: Callable[[process_settings.Settings, Answer], Answer | None]
    ) -> None:
        """Call a function with the settings and the request's arguments; send what it returns.

        A request without a run is from `send`: nobody waits for its answer.
        """
        run = request.get("run")
        work = heartbeat.Work(run or "", request["task"])
        if run is not None and not self._heartbeat.begin(work):
            return
        try:
            answer: Answer = {"result": function(self.settings, request["arguments"]) or {}}
        except Exception as error:  # the gateway is to hear of it
            _log_failure(error, task=request["task"])
            answer = {"error": failures.to_json(error)}
        if run is not None:
            outbox = _Outbox(self._redis, work)
            outbox.last = True
            outbox.add(json.dumps(answer).encode())
            self._heartbeat.end()
            outbox.close()

    def serve_rows(
        self,
        request: Answer,
        function: Callable[[process_settings.Settings, Answer, Iterator[pa.RecordBatch]], Answer],
    ) -> None:
        """Call a function that also reads the rows which the gateway shipped with the request."""

        def call(settings: process_settings.Settings, arguments: Answer) -> Answer:
            rows = shipping.read(self._redis, _visible_folder(request), request["run"], names.ROWS, None)
            try:
                return function(settings, arguments, rows)
            except shipping.Missing:
                return {names.MISSING: True}

        self.serve_call(request, call)

    def send(self, node_id: int, task_name: str, arguments: Answer) -> bool:
        """Ask a node's maintenance worker to do something; False if it has plenty to do already."""
        queue, task_id = names.maintenance_queue(node_id), envelope.new_task_id()
        if int(self._redis.llen(queue)) >= _BACKLOG:
            log.warning("maintenance.backlog", queue=queue, task=task_name)
            return False
        request = {"run": None, "task": task_id, "arguments": arguments}
        described = ", ".join([*(f"{name}={value}" for name, value in arguments.items()), f"on n{node_id}"])
        message = envelope.task_message(task_name, task_id, queue, request, described, origin="worker")
        self.post(queue, message)
        return True

    def post(self, queue: str, message: str) -> None:
        """Put a task's message into a queue."""
        self._redis.lpush(queue, message)

    def send_everywhere(self, task_name: str) -> None:
        """Ask every node's maintenance worker to do something."""
        with self.coordinator() as connection:
            rows = connection.execute(_NODES).fetchall()
        for (node_id,) in rows:
            self.send(node_id, task_name, {"node_id": node_id})

    def serve_periodic(
        self, lock: int, function: Callable[[process_settings.Settings, Connection], Any]
    ) -> None:
        """Call a function with the settings and a coordinator connection, unless another process does so now."""
        try:
            with self.coordinator() as connection:
                row = connection.execute("SELECT pg_try_advisory_lock(%s)", (lock,)).fetchone()
                if row is None or not row[0]:
                    log.info("periodic.skipped", lock=lock, reason="another process runs it")
                    return
                function(self.settings, connection)
        except Exception as error:  # the next run tries again
            _log_failure(error, lock=lock)

    def coordinator(self) -> Connection:
        """A new connection to the coordinator, as Orochi's own role, in autocommit mode."""
        return psycopg.connect(
            self.settings.coordinator_dsn,
            autocommit=True,
            connect_timeout=_CONNECT_SECONDS,
            application_name=f"orochi worker n{self.node_id}",
        )

    def _serve(
        self,
        request: Answer,
        runner: Runner,
    ) -> None:
        work = heartbeat.Work(request["run"], request["task"])
        if not self._heartbeat.begin(work):
            log.info("task.unwanted", run=work.run, task=work.task)
            return
        folder = _visible_folder(request)
        outbox = _Outbox(self._redis, work)
        work.each_beat(outbox.flush_late)
        staged = staging.Staging(functools.partial(shipping.read, self._redis, folder, work.run))
        began = time.monotonic()
        self._node.give_way(request.get("yields", False))
        try:
            waiting = groups(request["fragments"])
            for position, group in enumerate(waiting):
                outbox.last = position == len(waiting) - 1
                if work.cancelled():
                    break
                if position and time.monotonic() - began > _TASK_SECONDS:
                    deferred = [later.number for others in waiting[position:] for later in others]
                    outbox.add(exchange.pack({"task": work.task, "deferred": deferred}))
                    break
                try:
                    self._node.do(
                        functools.partial(
                            self._answer_group, request, work, outbox, group, folder, runner, staged
                        )
                    )
                except shipping.Missing:
                    deferred = [later.number for others in waiting[position:] for later in others]
                    outbox.add(exchange.pack({"task": work.task, "deferred": deferred, "missing": True}))
                    break
        except Exception as error:  # the gateway is to hear of it
            if not work.cancelled():
                _log_failure(error, run=work.run, task=work.task)
                outbox.add(exchange.pack({"task": work.task, "error": failures.to_json(error)}))
        finally:
            self._heartbeat.end()
            outbox.close()
            work.settle()
            staged.close()

    def _answer_group(
        self,
        request: Answer,
        work: heartbeat.Work,
        outbox: _Outbox,
        group: Sequence[contract.Fragment],
        folder: exchange.SharedFolder | None,
        runner: Runner,
        staged: staging.Staging,
    ) -> None:
        """Answer fragments that may run together: one answer for all of them, or each by itself."""
        writers = [_writer(request, work, outbox, fragment.number, folder) for fragment in group]
        if len(group) > 1:
            run = functools.partial(fragments.run_together, group)
            beside = [fragment.number for fragment in group[1:]]
            if self._finished(writers[0], work, staged, run, beside=beside):
                return
            outbox.last = False
        for fragment, writer in zip(group, writers, strict=True):
            self._finished(writer, work, staged, functools.partial(runner, fragment))

    def _finished(
        self,
        writer: exchange.ResultWriter,
        work: heartbeat.Work,
        staged: staging.Staging,
        runner: Runner,
        beside: Sequence[int] = (),
    ) -> bool:
        """Have the runner write an answer, which is that of the fragments `beside` too; False if it gives None.

        It is one item's word that all of them are answered: a process that dies between two of several would leave
        rows that another attempt gives again.
        """
        try:
            stats = self._run(runner, work, writer.write, staged)
            if stats is not None:
                writer.finish({"stats": _as_json(stats), "beside": list(beside)})
            return stats is not None
        except BaseException:
            writer.abandon()
            raise

    def _run(
        self, runner: Runner, work: heartbeat.Work, emit: contract.Emit, staged: staging.Staging
    ) -> contract.FragmentStats | None:
        emitted = False

        def count(batch: Any) -> None:
            nonlocal emitted
            emitted = True
            emit(batch)

        while True:
            fresh = not self._node.is_open
            connection = self._node.connection()
            work.interruptible(functools.partial(_interrupt, connection))
            try:
                return runner(connection, self.settings.stripe_dir, work.cancelled, count, staged)
            except psycopg.OperationalError:
                # a connection kept from an earlier task may have died with its server
                if fresh or emitted or not connection.closed:
                    raise


class _Outbox:
    """Items on their way to a run's list: those of quick fragments go together.

    Attributes:
        last: one answer more, and the task ends: it goes along with the mark of that.
    """

    def __init__(self, client: redis.Redis, work: heartbeat.Work) -> None:
        self._client = client
        self._key = names.result_key(work.run)
        self._push = client.register_script(names.PUSH_WANTED)
        self._work = work
        self._items: list[bytes] = []
        self._size = 0
        self._sent_at = time.monotonic()
        self._length = 0
        self._lock = threading.Lock()
        self.last = False

    def add(self, item: bytes) -> int:
        """Take an item; how many items the list is known to hold."""
        with self._lock:
            self._items.append(item)
            self._size += len(item)
            if self._size > _OUTBOX_BYTES or (self._is_late() and not self.last):
                self._send()
            return self._length

    def close(self) -> None:
        """Send what is held, and that it is all; of a run that was cancelled or has ended nothing is sent."""
        with self._lock:
            self._send(names.lease_key(self._work.run, self._work.task))

    def flush_late(self) -> None:
        """Send what a long fragment would hold up; what cannot be sent now stays."""
        with self._lock:
            held = self._items
            if not held or not self._is_late():
                return
            try:
                self._send()
            except redis.RedisError:
                self._items, self._size = held, sum(map(len, held))

    def _is_late(self) -> bool:
        return time.monotonic() - self._sent_at > _OUTBOX_SECONDS

    def _send(self, *lease: str) -> None:
        items, self._items, self._size = self._items, [], 0
        self._sent_at = time.monotonic()
        if (items or lease) and not self._work.cancelled():
            keys = (self._key, names.query_key(self._work.run), *lease)
            self._length = int(self._push(keys, (names.RESULT_TTL_SECONDS, *items)))

    def waiting(self) -> int:
        """How many items the list holds now."""
        self._length = int(self._client.llen(self._key))
        return self._length


def groups(text: str) -> tuple[tuple[contract.Fragment, ...], ...]:
    """The fragments of a request by what runs together; a statement that runs again sends the same text."""
    return (_known_groups if len(text) <= _KNOWN_LETTERS else _known_groups.__wrapped__)(text)


@functools.lru_cache(_KNOWN_TEXTS)
def _known_groups(text: str) -> tuple[tuple[contract.Fragment, ...], ...]:
    return tuple(map(tuple, together.groups(plan_fragment.from_json(text))))


def _writer(
    request: Answer,
    work: heartbeat.Work,
    outbox: _Outbox,
    number: int,
    folder: exchange.SharedFolder | None,
) -> exchange.ResultWriter:
    return exchange.ResultWriter(
        {"task": work.task, "fragment": number, "attempt": request["attempt"]},
        outbox.add,
        inline_bytes=request["inline_bytes"],
        folder=folder,
        file_name=f"{work.run}-{work.task}-{number}",
        cancelled=work.cancelled,
        waiting=outbox.waiting,
    )


def _log_failure(error: Exception, **facts: Any) -> None:
    """One line for what PostgreSQL or Orochi refused, a trace for what nobody expected."""
    if isinstance(error, errors.OrochiError | psycopg.Error):
        log.info("task.refused", sqlstate=failures.to_json(error).get("sqlstate"), **facts)
    else:
        # as text: renderers of exceptions print local variables, which may hold what is secret
        log.error("task.failed", trace="".join(traceback.format_exception(error)), **facts)


def _interrupt(connection: Connection) -> None:
    duck.interrupt()
    try:
        connection.cancel_safe(timeout=2)
    except psycopg.Error as error:
        log.warning("task.not_interrupted", error=str(error))


def _visible_folder(request: Answer) -> exchange.SharedFolder | None:
    folder = exchange.SharedFolder(pathlib.Path(request["folder"]), request["token"])
    return folder if folder.is_visible() else None


def _as_json(stats: contract.FragmentStats) -> Answer:
    return {name: getattr(stats, name) for name in stats.__slots__}


_seats: dict[int, Seat] = {}


def seat(queues: tuple[str, ...] = ()) -> Seat:
    """The seat of this process, made on first use: that is after a fork.

    Args:
        queues: what the process listens to, given by the first caller; a forked child listens to none.

    Raises:
        OrochiError: `OROCHI_NODE_ID` is not set.
    """
    pid = os.getpid()
    if pid not in _seats:
        settings = process_settings.get()
        if settings.node_id is None:
            raise errors.OrochiError("a worker needs OROCHI_NODE_ID")
        _seats[pid] = Seat(settings, settings.node_id, queues)
        _seats[pid].start()
    return _seats[pid]
