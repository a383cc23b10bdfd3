"""`orochi up`, `status` and `down` from outside: what they print, and that nothing is left behind."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib import error, parse, request

import psutil
import psycopg
import pytest

_ROOT = pathlib.Path(__file__).parents[2]
_ROLES = {"gateway", "coordinator", "nodes", "workers", "redis", "beat", "flower"}


def _environment() -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("OROCHI_", "PG"))}
    return ours | {"PYTHONPATH": str(_ROOT)}


def _orochi(*arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orochi.cli", *arguments],
        env=_environment(),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def _up(folder: pathlib.Path, *options: str) -> dict[str, Any]:
    done = _orochi("up", "--data-dir", str(folder), "--detach", "--json", *options)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def _status(folder: pathlib.Path) -> dict[str, Any]:
    done = _orochi("status", "--data-dir", str(folder), "--json")
    return dict(json.loads(done.stdout)) if done.stdout else {}


def _eventually(check: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(psycopg.OperationalError, OSError):
            if check():
                return
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _all_pids(info: dict[str, Any]) -> list[psutil.Process]:
    found = []
    for pid in {pid for pids in info["pids"].values() for pid in pids}:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
    return found


def _left(processes: list[psutil.Process]) -> list[str]:
    _gone, alive = psutil.wait_procs(processes, timeout=10)
    return [str(process) for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@contextlib.contextmanager
def _stopped_afterwards(folder: pathlib.Path) -> Iterator[None]:
    try:
        yield
    finally:
        _orochi("down", "--data-dir", str(folder))


def test_a_cluster_of_two_nodes_lives_through_kills_and_restarts(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "c"
    with _stopped_afterwards(folder):
        info = _up(folder, "--nodes", "2", "--workers", "1")
        assert set(info) == {
            *(
                "dsn",
                "coordinator_dsn",
                "node_dsns",
                "redis_url",
                "flower_url",
                "dashboard_url",
                "data_dir",
                "pids",
            )
        }
        assert set(info["pids"]) == _ROLES
        assert {role: len(pids) for role, pids in info["pids"].items()} == dict.fromkeys(_ROLES, 1) | {
            "nodes": 2,
            "workers": 4,  # a slot and the background work, for each node
        }
        assert (info["dashboard_url"], info["data_dir"], len(info["node_dsns"])) == (None, str(folder), 2)
        assert all(
            "@127.0.0.1:" in str(info[name]) for name in ("dsn", "coordinator_dsn", "redis_url", "flower_url")
        )
        assert _status(folder)["pids"] == info["pids"]

        again = _orochi("up", "--data-dir", str(folder))
        assert again.returncode == 1
        assert "already running" in again.stderr

        with psycopg.connect(info["dsn"], autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        _kill_one_of_each(folder, info)
        _flower_wants_its_password(info["flower_url"])
        _commands_of_containers(tmp_path, folder, info)

        before = _all_pids(_status(folder))
        assert _orochi("down", "--data-dir", str(folder)).returncode == 0
        assert _left(before) == []
        shown = _orochi("status", "--data-dir", str(folder))
        assert shown.returncode == 3
        assert "stopped" in shown.stdout

        restarted = _up(folder)
        assert {**restarted, "pids": None} == {**info, "pids": None}
        with psycopg.connect(restarted["dsn"]) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
        _killing_the_supervisor_ends_all(folder, restarted)


def _kill_one_of_each(folder: pathlib.Path, info: dict[str, Any]) -> None:
    killed = [pids[0] for pids in info["pids"].values()]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)

    def back() -> bool:
        status = _status(folder)
        healthy = all(process["health"] == "up" for process in status["processes"])
        return healthy and not {pid for pids in status["pids"].values() for pid in pids} & set(killed)

    _eventually(back, 60)
    with psycopg.connect(info["dsn"]) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    assert sum(process["restarts"] >= 1 for process in _status(folder)["processes"]) == len(killed)


def _flower_wants_its_password(url: str) -> None:
    parts = parse.urlsplit(url)
    bare = f"http://{parts.hostname}:{parts.port}/api/workers"
    with pytest.raises(error.HTTPError, match="401"):
        request.urlopen(bare, timeout=10)
    encoded = base64.b64encode(f"{parts.username}:{parts.password}".encode()).decode()
    with request.urlopen(
        request.Request(bare, headers={"Authorization": f"Basic {encoded}"}), timeout=10
    ) as answer:
        assert answer.status == 200


def _commands_of_containers(tmp_path: pathlib.Path, folder: pathlib.Path, info: dict[str, Any]) -> None:
    """What docker-compose.yml runs beside what `orochi up` runs: a node's whole worker, health checks."""
    gateway, coordinator, flower = (parse.urlsplit(info[n]) for n in ("dsn", "coordinator_dsn", "flower_url"))
    environment = _environment() | {
        "OROCHI_COORDINATOR_DSN": info["coordinator_dsn"],
        "OROCHI_REDIS_URL": info["redis_url"],
        "OROCHI_NODE_USER": str(coordinator.username),
        "OROCHI_NODE_PASSWORD": str(coordinator.password),
        "OROCHI_GATEWAY_PORT": str(gateway.port),
        "OROCHI_DATA_DIR": str(tmp_path / "worker"),
        "FLOWER_BASIC_AUTH": f"{flower.username}:{flower.password}",
    }

    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "orochi.cli", *arguments]

    def healthy(*arguments: str) -> bool:
        return subprocess.run(command("health", *arguments), env=environment, check=False).returncode == 0

    assert healthy("gateway")
    assert healthy("flower", "--port", str(flower.port))
    assert healthy("beat", "--schedule", str(folder / "beat" / "schedule"))
    assert not healthy("worker")
    assert not healthy("beat", "--schedule", str(tmp_path / "nothing"))
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(command("worker", "--node", "1"), env=environment, stdout=log, stderr=log)
    try:
        _eventually(lambda: healthy("worker"), 60)
        below = psutil.Process(worker.pid).children(recursive=True)
        assert len(below) >= 3  # a slot, the background work and its child
    finally:
        worker.terminate()
        assert worker.wait(60) == 0
    assert _left(below) == []


def _killing_the_supervisor_ends_all(folder: pathlib.Path, info: dict[str, Any]) -> None:
    processes = _all_pids(info)
    remembered = json.loads((folder / "cluster.json").read_text())
    os.kill(remembered["supervisor"]["pid"], signal.SIGKILL)
    assert _left(processes) == []
    assert _status(folder)["status"] == "stopped"


def test_ctrl_c_ends_a_cluster_in_the_foreground(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "c"
    with _stopped_afterwards(folder):
        running = subprocess.Popen(
            [sys.executable, "-m", "orochi.cli", "up", "--data-dir", str(folder), "--json", "--workers", "1"],
            env=_environment(),
            cwd="/",
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert running.stdout is not None
        info = json.loads(running.stdout.readline())
        assert info["node_dsns"] == [info["coordinator_dsn"]]
        assert info["pids"]["nodes"] == info["pids"]["coordinator"]
        processes = _all_pids(info)
        os.killpg(running.pid, signal.SIGINT)
        rest, _ = running.communicate(timeout=60)
        assert (rest, running.returncode) == ("", 0)
        assert _left(processes) == []


def test_ctrl_c_while_it_starts_leaves_nothing(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "c"
    with _stopped_afterwards(folder):
        running = subprocess.Popen(
            [sys.executable, "-m", "orochi.cli", "up", "--data-dir", str(folder), "--nodes", "2"],
            env=_environment(),
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        _eventually(lambda: (folder / "coordinator" / "pgdata").exists())
        below = psutil.Process(running.pid).children(recursive=True)
        os.killpg(running.pid, signal.SIGINT)
        running.communicate(timeout=60)
        assert _left(below) == []
        assert _status(folder)["status"] == "stopped"


def test_a_cluster_ends_with_the_process_it_was_started_for(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "c"
    owner = subprocess.Popen(["/bin/sleep", "100"])
    with _stopped_afterwards(folder):
        info = _up(folder, "--workers", "1", "--stop-with", str(owner.pid))
        processes = _all_pids(info)
        owner.kill()
        owner.wait()
        _eventually(lambda: _status(folder)["status"] == "stopped", 40)
        assert _left(processes) == []
