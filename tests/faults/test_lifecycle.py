"""A cluster of two nodes from its first kill to its last: `orochi up`, `status`, `down`, and what containers run.

Other files of the same process may come later: what a test here stops it starts again.
"""

from __future__ import annotations

import base64
import json
import os
import pathlib
import signal
import subprocess
import sys
from urllib import error, parse, request

import psutil
import pytest

from orochi.embedded import state
from tests.support import cluster as clusters
from tests.support import faults


def test_one_of_each_is_killed(victim: clusters.Cluster) -> None:
    faults.answers_again(victim)
    before = {item.name: item.restarts for item in _processes(victim)}
    killed = {item.role: item.pid for item in reversed(_processes(victim))}
    for pid in killed.values():
        os.kill(pid, signal.SIGKILL)

    def back() -> bool:
        now = _processes(victim)
        return all(item.healthy for item in now) and not {item.pid for item in now} & set(killed.values())

    clusters.eventually(back)
    faults.answers_again(victim)
    assert sum(item.restarts > before[item.name] for item in _processes(victim)) >= len(killed)


def _processes(cluster: clusters.Cluster) -> list[state.ProcessState]:
    remembered = state.load(cluster.data_dir)
    assert remembered is not None
    return remembered.processes


def test_flower_wants_its_password(victim: clusters.Cluster) -> None:
    parts = parse.urlsplit(victim.flower_url)
    bare = f"http://{parts.hostname}:{parts.port}/api/workers"
    with pytest.raises(error.HTTPError, match="401"):
        request.urlopen(bare, timeout=60)
    encoded = base64.b64encode(f"{parts.username}:{parts.password}".encode()).decode()
    with request.urlopen(
        request.Request(bare, headers={"Authorization": f"Basic {encoded}"}), timeout=60
    ) as answer:
        assert answer.status == 200


def test_commands_of_containers(victim: clusters.Cluster, tmp_path: pathlib.Path) -> None:
    """What docker-compose.yml runs beside what `orochi up` runs: a node's whole worker, health checks."""
    gateway, coordinator, flower = (
        parse.urlsplit(url) for url in (victim.dsn, victim.coordinator_dsn, victim.flower_url)
    )
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("OROCHI_", "PG"))
    } | {
        "PYTHONPATH": str(clusters.ROOT),
        "OROCHI_COORDINATOR_DSN": victim.coordinator_dsn,
        "OROCHI_REDIS_URL": victim.redis_url,
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
    assert healthy("beat", "--schedule", str(victim.data_dir / "beat" / "schedule"))
    assert not healthy("worker")
    assert not healthy("beat", "--schedule", str(tmp_path / "nothing"))
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(command("worker", "--node", "1"), env=environment, stdout=log, stderr=log)
    try:
        clusters.eventually(lambda: healthy("worker"), 180)
        below = psutil.Process(worker.pid).children(recursive=True)
        assert len(below) >= 3  # a slot, the background work and its child
    finally:
        worker.terminate()
        assert worker.wait(120) == 0
    assert _left(below) == []


def test_restart_keeps_everything(victim: clusters.Cluster) -> None:
    """`orochi down` leaves no process, `orochi up` on the same directory has every row."""
    before = [psutil.Process(item.pid) for item in _processes(victim)]
    clusters.run_orochi("down", "--data-dir", str(victim.data_dir))
    assert _left(before) == []
    assert clusters.processes_of(victim.data_dir) == []
    shown = clusters.run_orochi("status", "--data-dir", str(victim.data_dir), check=False)
    assert shown.returncode == 3
    assert "stopped" in shown.stdout
    _up_again(victim)


def _up_again(victim: clusters.Cluster) -> None:
    again = clusters.up(victim.data_dir, nodes=2, workers=1)
    assert {**again.info, "pids": None} == {**victim.info, "pids": None}
    victim.info = again.info
    faults.answers_again(victim)


def test_killing_the_supervisor_ends_all(victim: clusters.Cluster) -> None:
    processes = [psutil.Process(item.pid) for item in _processes(victim)]
    processes += [below for each in processes for below in each.children(recursive=True)]
    remembered = json.loads((victim.data_dir / "cluster.json").read_text())
    os.kill(remembered["supervisor"]["pid"], signal.SIGKILL)
    assert _left(processes) == []
    assert "stopped" in clusters.run_orochi("status", "--data-dir", str(victim.data_dir), check=False).stdout
    _up_again(victim)


def _left(processes: list[psutil.Process]) -> list[str]:
    _gone, alive = psutil.wait_procs(processes, timeout=120)
    return [str(process) for process in alive if process.status() != psutil.STATUS_ZOMBIE]
