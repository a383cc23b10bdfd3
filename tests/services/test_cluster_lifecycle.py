"""How a cluster ends: by Ctrl-C, also while it starts, and with whom it was started for. Nothing is left behind.

What a cluster of two nodes lives through is in tests/faults.
"""

from __future__ import annotations

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

import psutil
import psycopg

from tests.support import services

_ROOT = pathlib.Path(__file__).parents[2]


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


def _eventually(check: Callable[[], object], seconds: float = 120) -> None:
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
    _gone, alive = psutil.wait_procs(processes, timeout=120)
    return [str(process) for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@contextlib.contextmanager
def _stopped_afterwards(folder: pathlib.Path) -> Iterator[None]:
    try:
        yield
    finally:
        _orochi("down", "--data-dir", str(folder))


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
        rest, _ = running.communicate(timeout=120)
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
        running.communicate(timeout=120)
        assert _left(below) == []
        assert _status(folder)["status"] == "stopped"


def test_a_cluster_ends_with_the_process_it_was_started_for(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "c"
    owner = subprocess.Popen(["/bin/sleep", "100"])
    with _stopped_afterwards(folder):
        port = services.free_port()
        info = _up(folder, "--workers", "1", "--stop-with", str(owner.pid), "--port", str(port))
        assert f":{port}/" in info["dsn"]
        assert info["data_dir"] == str(folder)
        processes = _all_pids(info)
        owner.kill()
        owner.wait()
        _eventually(lambda: _status(folder)["status"] == "stopped")
        assert _left(processes) == []
