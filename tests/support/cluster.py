"""A whole cluster for tests: `orochi up` in a temporary directory, and always `orochi down`.

Whatever a test does to it, `stop` leaves no process of the cluster behind: what `orochi down` did
not end is killed by its process id, and `leftovers` says what that was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import psycopg
from psycopg import conninfo

from orochi.embedded import state
from tests.support import services

ROOT = pathlib.Path(__file__).parents[2]
OROCHI = str(pathlib.Path(sys.executable).parent / "orochi")
_UP_SECONDS = 240
_DOWN_SECONDS = 120


@dataclasses.dataclass
class Cluster:
    """A running cluster: what `orochi up --json` printed, and the processes behind it."""

    info: dict[str, Any]
    leftovers: list[str] = dataclasses.field(default_factory=list)

    @property
    def dsn(self) -> str:
        """The gateway."""
        return str(self.info["dsn"])

    @property
    def coordinator_dsn(self) -> str:
        """The coordinator's PostgreSQL, past the gateway."""
        return str(self.info["coordinator_dsn"])

    @property
    def node_dsns(self) -> list[str]:
        """The data nodes' PostgreSQL servers."""
        return [str(dsn) for dsn in self.info["node_dsns"]]

    @property
    def redis_url(self) -> str:
        """Valkey, with its password."""
        return str(self.info["redis_url"])

    @property
    def flower_url(self) -> str:
        """Flower, which lists the fragments' tasks."""
        return str(self.info["flower_url"])

    @property
    def data_dir(self) -> pathlib.Path:
        """Everything the cluster wrote."""
        return pathlib.Path(self.info["data_dir"])

    def pids(self, role: str) -> list[int]:
        """The process ids of `role` now: a supervisor may have replaced those of the start."""
        remembered = state.load(self.data_dir)
        assert remembered is not None
        return state.pids_of(remembered.processes)[role]

    def status(self) -> dict[str, Any]:
        """What `orochi status --json` says."""
        done = run_orochi("status", "--data-dir", str(self.data_dir), "--json")
        return dict(json.loads(done.stdout))

    def connect(self, **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """A client of the gateway, in autocommit unless told otherwise."""
        return psycopg.connect(self.dsn, **{"autocommit": True, "connect_timeout": 60} | options)

    def connect_coordinator(
        self, dbname: str | None = None, **options: Any
    ) -> psycopg.Connection[tuple[Any, ...]]:
        """A client of the coordinator's PostgreSQL, past the gateway."""
        dsn = self.coordinator_dsn if dbname is None else with_dbname(self.coordinator_dsn, dbname)
        return psycopg.connect(dsn, **{"autocommit": True, "connect_timeout": 60} | options)

    def psql(
        self, *arguments: str, sql: str | None = None, dsn: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """psql against the gateway (or `dsn`), without anyone's psqlrc."""
        command = [services.postgres_binary("psql"), "-X", "-v", "ON_ERROR_STOP=1", *arguments]
        environment = {**os.environ, "PGCLIENTENCODING": "UTF8", "PAGER": "cat"}
        command += ["-d", dsn or self.dsn]
        return subprocess.run(
            command, input=sql, capture_output=True, text=True, timeout=120, env=environment, check=False
        )


def with_dbname(dsn: str, dbname: str) -> str:
    """`dsn` with another database name."""
    return conninfo.make_conninfo(dsn, dbname=dbname)


def run_orochi(*arguments: str, seconds: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command line and return what it printed."""
    done = subprocess.run(
        [OROCHI, *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd="/",
        env=_environment(),
        check=False,
    )
    if check and done.returncode != 0:
        raise RuntimeError(
            f"orochi {' '.join(arguments)} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )
    return done


def _environment() -> dict[str, str]:
    """Ours without settings that would reach into the cluster under test."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("OROCHI_", "PG"))}


@contextlib.contextmanager
def started(*, nodes: int = 2, workers: int = 1, extra: tuple[str, ...] = ()) -> Iterator[Cluster]:
    """A cluster for the length of the block."""
    folder = services.temporary_directory("cluster")
    cluster: Cluster | None = None
    try:
        cluster = up(folder, nodes=nodes, workers=workers, extra=extra)
        yield cluster
    except BaseException:
        keep_logs(folder)
        raise
    finally:
        stop(folder, cluster)
        shutil.rmtree(folder, ignore_errors=True)


def up(folder: pathlib.Path, *, nodes: int, workers: int, extra: tuple[str, ...] = ()) -> Cluster:
    """Start (or start again) a cluster on `folder` and wait until it is healthy."""
    options = ["--data-dir", str(folder), "--nodes", str(nodes), "--workers", str(workers), *extra]
    options += ["--stop-with", str(os.getpid())]  # nothing outlives the tests, however they end
    done = run_orochi("up", *options, "--detach", "--json", seconds=_UP_SECONDS)
    return Cluster(json.loads(done.stdout))


def stop(folder: pathlib.Path, cluster: Cluster | None) -> None:
    """End every process of the cluster on `folder`."""
    with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
        run_orochi("down", "--data-dir", str(folder), seconds=_DOWN_SECONDS)
    for process in processes_of(folder):
        with contextlib.suppress(psutil.Error):
            if cluster is not None:
                cluster.leftovers.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
            process.kill()


def processes_of(folder: pathlib.Path) -> list[psutil.Process]:
    """Processes whose command line or environment names `folder`."""
    text, found = str(folder), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and (
                any(text in argument for argument in process.cmdline())
                or any(text in value for value in process.environ().values())
            ):
                found.append(process)
    return found


def keep_logs(folder: pathlib.Path) -> None:
    """Show the ends of the cluster's logs: pytest prints them when the start failed."""
    for log in sorted(folder.rglob("*.log")):
        with contextlib.suppress(OSError):
            tail = log.read_text(errors="replace")[-1500:]
            sys.stderr.write(f"--- {log.relative_to(folder)}\n{tail}\n")


def kill(pid: int, how: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to one process of the cluster."""
    os.kill(pid, how)


def eventually(check: Callable[[], Any], seconds: float = 120.0, pause: float = 0.2) -> Any:
    """Call `check` until it returns something true; the last error, if that never happens."""
    deadline = time.monotonic() + seconds
    while True:
        error: Exception | None = None
        try:
            answer = check()
            if answer:
                return answer
        except (psycopg.Error, OSError, RuntimeError) as caught:
            error = caught
        if time.monotonic() > deadline:
            if error is not None:
                raise error
            raise AssertionError(f"not within {seconds} s: {check}")
        time.sleep(pause)


def redact(text: str) -> str:
    """`text` without the passwords of connection strings."""
    return re.sub(r"(://[^:@/]*:)[^@]*@", r"\1***@", text)
