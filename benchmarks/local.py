"""Starting and stopping the cluster that a demo or a benchmark runs on."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import conninfo

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Failed(Exception):
    """The cluster could not be started, or gave a wrong answer."""


def orochi(*arguments: str, capture: bool = True, environment: Mapping[str, str] | None = None) -> str:
    """Run the command line, with settings of its own in `environment`; what it printed on stdout."""
    command = [sys.executable, "-m", "orochi.cli", *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**_environment(), **(environment or {})},
        text=True,
        stdout=subprocess.PIPE if capture else None,
        check=False,
    )
    if done.returncode != 0:
        raise Failed(f"orochi {' '.join(arguments)} exited with {done.returncode}")
    return done.stdout or ""


def _environment() -> dict[str, str]:
    """Ours, without settings that belong to another cluster."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("OROCHI_", "PG"))}


def _leave(signum: int, _frame: object) -> None:
    raise KeyboardInterrupt(signum)


@contextlib.contextmanager
def cluster(
    folder: pathlib.Path,
    *,
    nodes: int,
    workers: int = 1,
    keep: bool = False,
    extra: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """A fresh cluster in `folder`; stopped and deleted afterwards, unless it is kept and all went well.

    The cluster watches this process as well (`--stop-with`), so that it ends even if we are killed.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    remove(folder)
    done = False
    try:
        watch = [] if keep else ["--stop-with", str(os.getpid())]
        options = ["--data-dir", str(folder), "--nodes", str(nodes), "--workers", str(workers), *extra]
        yield dict(json.loads(orochi("up", *options, "--detach", "--json", *watch, environment=environment)))
        done = True
    finally:
        if not (keep and done):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            remove(folder)


def remove(folder: pathlib.Path) -> None:
    """Stop what runs on `folder`, and delete it."""
    if folder.exists():
        orochi("down", "--data-dir", str(folder))
        shutil.rmtree(folder)


def connect(dsn: str, dbname: str | None = None) -> psycopg.Connection[tuple[Any, ...]]:
    """A client in autocommit."""
    return psycopg.connect(
        conninfo.make_conninfo(dsn, **({"dbname": dbname} if dbname else {})), autocommit=True
    )
