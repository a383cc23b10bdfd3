"""Fragments as Celery tasks: one task a worker slot with many fragments, answers through a Redis list.

The gateway does not trust redelivery. It watches leases (see `tracking`), sends a lost task's
fragments again, and takes the first answer to each. Whatever happens to workers or Redis, a run ends
with every answer or one error. What a run leaves in Redis is deleted at its end, or expires.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import itertools
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import structlog

from orochi import errors, metrics
from orochi import settings as process_settings
from orochi.catalog import snapshot as snapshots
from orochi.executor import (
    envelope,
    exchange,
    failures,
    names,
    redis_link,
    shipping,
    single_task,
    tracking,
    transport,
)
from orochi.planner import fragment as plan_fragment

log = structlog.get_logger()

#: How long to wait for an answer before looking at leases.
_TICK_SECONDS = 0.5
_BRIEF_SECONDS = 0.01
_QUERY_RENEW_SECONDS = 10.0
_WAKE = exchange.pack({"wake": True})
_STALE_FILE_SECONDS = 3_600.0


class CeleryTransport:
    """`orochi.executor.transport.Transport` over Redis and Celery workers."""

    def __init__(
        self, settings: process_settings.Settings, snapshot: Callable[[], snapshots.Snapshot]
    ) -> None:
        self._settings = settings
        self._snapshot = snapshot
        self._link = redis_link.RedisLink(settings.redis_url)
        self._runs: dict[str, set[_Run]] = collections.defaultdict(set)
        self._cleaning: set[asyncio.Task[None]] = set()
        self._folder: exchange.SharedFolder | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def run(
        self,
        query_id: str,
        fragments: Sequence[plan_fragment.Fragment],
        *,
        deadline: float | None = None,
        inputs: transport.Inputs = transport.NO_INPUTS,
    ) -> AsyncIterator[transport.FragmentResult]:
        """Each fragment's result once, in the order they finish."""
        if not fragments:
            return
        async with contextlib.aclosing(
            self._run(query_id, names.RUN_FRAGMENTS, fragments, deadline, inputs)
        ) as results:
            async for result in results:
                yield result

    async def run_scan(self, query_id: str, node_id: int, scan: plan_fragment.Scan) -> list[pa.RecordBatch]:
        """A scan's stripe rows with `orochi_stripe_id` and `orochi_row_number`, deleted rows included."""
        fragment = plan_fragment.Fragment(
            number=0, node_id=node_id, shard_ids=(), scans=(scan,), sql="", columns=scan.columns
        )
        batches: list[pa.RecordBatch] = []
        async with contextlib.aclosing(self._run(query_id, names.SCAN_STRIPES, (fragment,), None)) as results:
            async for result in results:
                batches += result.batches
        return batches

    async def run_task(
        self,
        node_id: int,
        task_name: str,
        arguments: Mapping[str, Any],
        *,
        timeout: float,
        inputs: transport.Inputs = transport.NO_INPUTS,
    ) -> dict[str, Any]:
        """Run a maintenance task of a node and wait for what it returns; a lost one runs again.

        Raises:
            WorkerLost: its worker died each time, or none is there. The task may have done its work.
            OrochiError: what the task raised; 57014 when `timeout` seconds have passed.
        """
        run_id, queue = secrets.token_hex(8), names.maintenance_queue(node_id)
        described = ", ".join(
            f"{name}={value}" for name, value in arguments.items() if not isinstance(value, list | dict)
        )
        folder = self._shared_folder()
        shipment = shipping.Shipment(self._link, folder, run_id, inputs)
        place = {"folder": str(folder.folder), "token": folder.token} if inputs else {}

        async def send(task_id: str) -> None:
            request = {"run": run_id, "task": task_id, "arguments": dict(arguments), **place}
            message = envelope.task_message(task_name, task_id, queue, request, f"{described} on n{node_id}")
            keys = {names.query_key(run_id): names.QUERY_TTL_SECONDS}
            await self._link.push({queue: [message]}, keys, redis_link.FIRST_SECONDS)

        watch = single_task.Watch(self._link, run_id, queue, send)
        await shipment.publish()
        try:
            answer = await watch.result(time.monotonic() + timeout)
            if inputs and names.MISSING in answer:
                shipment.missed = True
                await shipment.upload_if_missed()
                answer = await watch.again(time.monotonic() + timeout)
            return answer
        finally:
            self._in_background(_forget(self._link, run_id, watch.task_ids, cancelled=not watch.answered))
            if inputs:
                folder.remove(run_id)
                self._in_background(shipment.forget())

    async def rehearse(self) -> None:
        """Have at hand what the first run would wait for, if Redis is there."""
        self._shared_folder()
        run_id = f"rehearsal.{secrets.token_hex(8)}"
        with contextlib.suppress(errors.QueueUnavailable):
            await self._link.push({}, {names.query_key(run_id): 1}, 0.0)
            await self._link.pop(names.result_key(run_id), _BRIEF_SECONDS, 0.0)

    async def post(self, queue: str, message: str) -> None:
        """Put a task's message into a queue; nobody waits for an answer."""
        await self._link.push({queue: [message]}, {}, redis_link.FIRST_SECONDS)

    async def cancel(self, query_id: str) -> None:
        """Stop the query's work; `run` then raises `QueryCanceled`."""
        for run in list(self._runs.get(query_id, ())):
            run.cancelled = True
            with contextlib.suppress(errors.QueueUnavailable):
                await self._link.call(functools.partial(_cancel, run_id=run.run_id))

    async def close(self) -> None:
        """Let go of every connection."""
        for task in list(self._cleaning):
            with contextlib.suppress(errors.OrochiError):
                await task
        if self._keeper is not None:
            self._keeper.cancel()
        await self._link.close()

    async def _run(
        self,
        query_id: str,
        task_name: str,
        fragments: Sequence[plan_fragment.Fragment],
        deadline: float | None,
        inputs: transport.Inputs = transport.NO_INPUTS,
    ) -> AsyncGenerator[transport.FragmentResult]:
        folder = self._shared_folder()
        run = _Run(self._link, self._settings, folder, query_id, task_name, fragments, deadline, inputs)
        self._runs[query_id].add(run)
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.get_running_loop().create_task(self._keep())
        try:
            async for result in run.results():
                yield result
        finally:
            self._runs[query_id].discard(run)
            if not self._runs[query_id]:
                del self._runs[query_id]
            self._in_background(run.forget())

    async def _keep(self) -> None:
        """While there are runs, tell workers that somebody waits, however slowly their rows are read."""
        while self._runs:
            await asyncio.sleep(_QUERY_RENEW_SECONDS)
            runs = [run.run_id for waiting in self._runs.values() for run in waiting]

            async def renew(client: Any, runs: list[str] = runs) -> None:
                pipeline = client.pipeline(transaction=False)
                for run_id in runs:
                    pipeline.expire(names.query_key(run_id), names.QUERY_TTL_SECONDS)
                    pipeline.expire(names.result_key(run_id), names.RESULT_TTL_SECONDS)
                await pipeline.execute()

            with contextlib.suppress(errors.QueueUnavailable):
                await self._link.call(renew)

    def _shared_folder(self) -> exchange.SharedFolder:
        if self._folder is None:
            folder = self._settings.data_dir.absolute() / "results"
            self._folder = exchange.SharedFolder.create(folder)
            self._folder.sweep(_STALE_FILE_SECONDS)
        return self._folder

    def _in_background(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)


class _Run:
    """One call of `run`: what it sent, what came back."""

    def __init__(
        self,
        link: redis_link.RedisLink,
        settings: process_settings.Settings,
        folder: exchange.SharedFolder,
        query_id: str,
        task_name: str,
        fragments: Sequence[plan_fragment.Fragment],
        deadline: float | None,
        inputs: transport.Inputs,
    ) -> None:
        self.run_id = f"{query_id}.{secrets.token_hex(4)}"
        self.cancelled = False
        self._link = link
        self._settings = settings
        self._folder = folder
        self._query_id = query_id
        self._task_name = task_name
        self._deadline = deadline
        self._tracker = tracking.Tracker(
            fragments, slots=settings.parallel_workers, attempts=settings.fragment_attempts
        )
        self._answers = exchange.Answers()
        self._inputs = shipping.Shipment(link, folder, self.run_id, inputs)
        self._sent: list[str] = []
        self._completed = False
        self._yields = transport.yields.get()

    async def results(self) -> AsyncIterator[transport.FragmentResult]:
        """Send, collect, and send again what was lost, until every fragment is answered."""
        await self._inputs.publish()
        await self._send_next(redis_link.FIRST_SECONDS)
        looked_at = time.monotonic()
        failures_before = self._link.failures
        while not self._tracker.is_done:
            items = await self._link.pop(
                names.result_key(self.run_id), _TICK_SECONDS, redis_link.RUNNING_SECONDS
            )
            self._check()
            if self._link.failures != failures_before:
                failures_before = self._link.failures
                await self._after_outage()
            found = [result for item in items for result in self._receive(item)]
            await self._inputs.upload_if_missed()
            if items and not self._tracker.is_done:
                await self._send_next(redis_link.RUNNING_SECONDS)
            for result in found:
                yield result
            if not items and time.monotonic() - looked_at >= _TICK_SECONDS:
                looked_at = time.monotonic()
                await self._look()
        self._completed = True

    async def forget(self) -> None:
        """Delete what the run left in Redis and in files."""
        await _forget(self._link, self.run_id, self._sent, cancelled=not self._completed)
        await self._inputs.forget()
        self._folder.remove(self.run_id)

    def _check(self) -> None:
        if self.cancelled:
            raise errors.QueryCanceled("canceling statement due to user request")
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise errors.QueryCanceled("canceling statement due to statement timeout")

    async def _send_next(self, patience: float) -> None:
        new_ids = (envelope.new_task_id() for _ in itertools.count())
        tasks = self._tracker.next_tasks(time.monotonic(), new_ids)
        if not tasks:
            return
        queues: dict[str, list[str]] = {}
        for task in tasks:
            self._sent.append(task.task_id)
            queues.setdefault(names.fragment_queue(task.node_id), []).append(self._message(task))
        await self._link.push(queues, {names.query_key(self.run_id): names.QUERY_TTL_SECONDS}, patience)

    def _message(self, task: tracking.Task) -> str:
        request = {
            "run": self.run_id,
            "task": task.task_id,
            "attempt": task.attempt,
            "fragments": plan_fragment.to_json(task.fragments),
            "inline_bytes": self._settings.inline_result_bytes,
            "folder": str(self._folder.folder),
            "token": self._folder.token,
            "yields": self._yields,
        }
        queue = names.fragment_queue(task.node_id)
        return envelope.task_message(self._task_name, task.task_id, queue, request, self._description(task))

    def _description(self, task: tracking.Task) -> str:
        numbers = [fragment.number for fragment in task.fragments]
        span = f"{numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
        tables = sorted({scan.table for fragment in task.fragments for scan in fragment.scans})
        shards = sorted({shard for fragment in task.fragments for shard in fragment.shard_ids})
        again = f", attempt {task.attempt}" if task.attempt > 1 else ""
        return (
            f"query {self._query_id} fragments {span}: {', '.join(tables)} "
            f"shards {','.join(map(str, shards)) or '-'} on n{task.node_id}{again}"
        )

    def _receive(self, item: bytes) -> list[transport.FragmentResult]:
        """Take one item; results if it completes fragments not answered yet, the rows with the first of them."""
        header, payload = exchange.unpack(item)
        if "fragment" not in header:
            if "error" in header:
                raise failures.from_json(header["error"])
            if "deferred" in header:
                self._inputs.missed |= bool(header.get("missing"))
                self._tracker.deferred(header["task"], header["deferred"])
            return []
        task_id, number = header["task"], header["fragment"]
        self._tracker.heard(task_id)
        try:
            parts = self._answers.take(header, payload)
        except FileNotFoundError:
            log.warning("fragment.file_lost", run=self.run_id, fragment=number)
            return []
        if parts is None:
            if header.get("last"):
                log.warning("fragment.part_lost", run=self.run_id, fragment=number)
            return []
        stats = transport.FragmentStats(**header["stats"])
        numbers = [number, *header["beside"]]
        if not self._tracker.answered(task_id, numbers, stats.seconds):
            log.info("fragment.answered_before", run=self.run_id, fragments=numbers)
            return []
        metrics.count_fragment(
            stats.engine, stats.seconds, stats.rows, stats.bytes, stats.requests, stats.fetched_bytes
        )
        nothing = transport.FragmentStats(0, 0, 0.0, engine=stats.engine)
        return [
            transport.FragmentResult(number, parts, stats),
            *(transport.FragmentResult(other, [], nothing) for other in header["beside"]),
        ]

    async def _look(self) -> None:
        """Judge every task in flight; there was nothing to read just now."""
        now = time.monotonic()
        sightings = await self._sightings()
        for task_id, sighting in sightings.items():
            if task_id in self._tracker.tasks:
                self._tracker.observe(task_id, sighting, now)
        await self._send_next(redis_link.RUNNING_SECONDS)

    async def _sightings(self) -> dict[str, tracking.Sighting]:
        tasks = list(self._tracker.tasks.values())
        queues = sorted({names.fragment_queue(task.node_id) for task in tasks})

        async def operation(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for task in tasks:
                pipeline.get(names.lease_key(self.run_id, task.task_id))
            for queue in queues:
                pipeline.llen(queue)
                pipeline.exists(names.alive_key(queue))
            answers: list[Any] = await pipeline.execute()
            return answers

        answers = await self._link.call(operation, redis_link.RUNNING_SECONDS)
        leases, rest = answers[: len(tasks)], answers[len(tasks) :]
        by_queue = {queue: (rest[2 * i], bool(rest[2 * i + 1])) for i, queue in enumerate(queues)}
        return {
            task.task_id: tracking.Sighting(lease, *by_queue[names.fragment_queue(task.node_id)])
            for task, lease in zip(tasks, leases, strict=True)
        }

    async def _after_outage(self) -> None:
        """Redis was away; if it came back empty, everything that was queued in it is gone."""
        known = await self._link.call(
            lambda client: client.exists(names.query_key(self.run_id)), redis_link.RUNNING_SECONDS
        )
        if not known:
            log.warning("run.resent", run=self.run_id)
            self._tracker.resend_all()
            await self._send_next(redis_link.RUNNING_SECONDS)


async def _cancel(client: Any, run_id: str) -> None:
    """Tell the run's workers, and wake whoever waits for its answers."""
    await client.set(names.cancel_key(run_id), b"1", ex=names.CANCEL_TTL_SECONDS)
    keys = (names.result_key(run_id), names.query_key(run_id))
    await client.register_script(names.PUSH_WANTED)(keys, (names.RESULT_TTL_SECONDS, _WAKE))


async def _forget(
    link: redis_link.RedisLink, run_id: str, task_ids: Sequence[str], *, cancelled: bool
) -> None:
    async def operation(client: Any) -> None:
        pipeline = client.pipeline(transaction=False)
        if cancelled:
            pipeline.set(names.cancel_key(run_id), b"1", ex=names.CANCEL_TTL_SECONDS)
        leases = [names.lease_key(run_id, task_id) for task_id in task_ids]
        pipeline.unlink(names.query_key(run_id), names.result_key(run_id), *leases)
        await pipeline.execute()

    try:
        await link.call(operation, patience=0)  # what stays expires by itself
    except errors.QueueUnavailable as error:
        log.warning("run.not_forgotten", run=run_id, error=error.message)
