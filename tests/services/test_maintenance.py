"""Maintenance tasks by a real maintenance worker: answers, errors, and every periodic task beat sends."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import redis

import beat_schedule
from orochi import errors, settings
from orochi.catalog import bootstrap
from orochi.catalog import snapshot as snapshots
from orochi.executor import celery_transport, envelope, names, tracking
from tests.support import services

_ROOT = pathlib.Path(__file__).parents[2]


class _Stack:
    def __init__(self, dsn: str, redis_url: str, folder: pathlib.Path) -> None:
        self.dsn, self.redis_url, self.folder = dsn, redis_url, folder
        self.log = folder / "workers.log"

    def text(self) -> str:
        return self.log.read_text()

    def run_task(
        self, node_id: int, name: str, arguments: dict[str, Any], timeout: float = 120
    ) -> dict[str, Any]:
        """As a gateway calls it."""
        chosen = settings.Settings(
            coordinator_dsn=self.dsn, redis_url=self.redis_url, data_dir=self.folder / "gateway"
        )

        async def main() -> dict[str, Any]:
            transport = celery_transport.CeleryTransport(chosen, lambda: snapshots.EMPTY)
            try:
                return await transport.run_task(node_id, name, arguments, timeout=timeout)
            finally:
                await transport.close()

        return asyncio.run(main())


@pytest.fixture(scope="module")
def stack(postgres_server: services.Server, valkey_server: services.Server) -> Iterator[_Stack]:
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS maintained")
        connection.execute("CREATE DATABASE maintained")
    dsn = postgres_server.dsn.rsplit("/", 1)[0] + "/maintained"
    bootstrap.migrate(dsn)
    bootstrap.prepare_node(dsn)
    node_id = bootstrap.register_node(dsn, dsn)
    folder = services.temporary_directory("maintenance")
    made = _Stack(dsn, valkey_server.dsn, folder)
    processes = [_start(made, node_id, kind) for kind in ("maintenance", "jobs")]
    try:
        deadline = time.monotonic() + 200
        while not all((folder / f"{kind}.ready").exists() for kind in ("maintenance", "jobs")):
            assert all(process.poll() is None for process in processes), made.text()[-3000:]
            assert time.monotonic() < deadline, made.text()[-3000:]
            time.sleep(0.05)
        yield made
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _start(made: _Stack, node_id: int, kind: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "OROCHI_COORDINATOR_DSN": made.dsn,
        "OROCHI_REDIS_URL": made.redis_url,
        "OROCHI_DATA_DIR": str(made.folder / "node"),
        "OROCHI_NODE_ID": str(node_id),
        "OROCHI_READY_FILE": str(made.folder / f"{kind}.ready"),
    }
    code = (
        f"from orochi import settings; from workers import launch; launch.{kind}({node_id}, settings.get())"
    )
    with made.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", code], cwd=_ROOT, env=environment, stdout=log, stderr=log
        )


def test_an_answer(stack: _Stack) -> None:
    assert stack.run_task(1, names.COLLECT_NODE_STATS, {"node_id": 1}) == {"relations": 0}


def test_an_error_keeps_its_sqlstate(stack: _Stack) -> None:
    with pytest.raises(errors.OrochiError) as caught:
        stack.run_task(1, names.COMPRESS_CHUNK, {"chunk_id": 4711})
    assert caught.value.sqlstate == "42704"


def test_without_a_worker_it_is_an_error(stack: _Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_ABSENT_SECONDS", 1.0)
    with pytest.raises(errors.WorkerLost):
        stack.run_task(77, names.COMPRESS_CHUNK, {"chunk_id": 1})


def test_a_lost_task_is_sent_again(stack: _Stack) -> None:
    """A message that a leaving worker process took with it costs time, not the task."""
    client = redis.Redis.from_url(stack.redis_url)
    queue = names.maintenance_queue(78)
    client.set(names.alive_key(queue), b"1", ex=60)
    seen: list[str] = []

    def serve() -> None:
        while len(seen) < 2:
            taken = client.brpop([queue], timeout=90)
            message = json.loads(taken[1])
            seen.append(message["headers"]["id"])
        [[request], _, _] = json.loads(base64.b64decode(message["body"]))
        client.rpush(names.result_key(request["run"]), json.dumps({"result": {"task": request["task"]}}))

    server = threading.Thread(target=serve)
    server.start()
    answer = stack.run_task(78, names.COMPRESS_CHUNK, {"chunk_id": 1}, timeout=120)
    server.join(60)
    assert answer == {"task": seen[1]}
    assert seen[0] != seen[1]


def test_every_periodic_task_runs(stack: _Stack) -> None:
    client = redis.Redis.from_url(stack.redis_url)
    assert set(beat_schedule.SCHEDULE) == {entry["task"] for entry in beat_schedule.SCHEDULE.values()}
    for task in beat_schedule.SCHEDULE:
        queue = beat_schedule.SCHEDULE[task]["options"]["queue"]
        message = envelope.task_message(task, envelope.new_task_id(), queue, {}, "")
        decoded = json.loads(message)
        body = [[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
        decoded["body"] = base64.b64encode(json.dumps(body).encode()).decode()
        client.lpush(queue, json.dumps(decoded))
    deadline = time.monotonic() + 120
    queues = (names.MAINTENANCE_QUEUE, names.maintenance_queue(1), *names.JOB_QUEUES)
    # on its way from a queue to those that took it, a message is in neither
    while (
        any(client.llen(queue) for queue in queues)
        or client.hlen("unacked")
        or "rebalancing.spread" not in stack.text()
    ):
        assert time.monotonic() < deadline, stack.text()[-4000:]
        time.sleep(0.1)
    time.sleep(0.5)
    text = stack.text()
    assert "failed" not in text, text[-4000:]
    assert "Traceback" not in text, text[-4000:]


def test_the_schedule_names_tasks_that_exist() -> None:
    environment = os.environ | {"OROCHI_NODE_ID": "1"}
    code = (
        "import beat_schedule; from workers import app; app.app.loader.import_default_modules(); "
        "missing = set(beat_schedule.SCHEDULE) - set(app.app.tasks); assert not missing, missing"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=_ROOT, env=environment)
