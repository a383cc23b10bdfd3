"""Forks Orochi's own processes from one that has imported everything they need.

Imports and compiled loops are most of what such a process costs: about three seconds of CPU and a hundred megabytes
each. The nursery pays once, while PostgreSQL starts, and a worker that died is back in a fraction of a second.

    supervisor ──socket: what to run──▶ nursery ──fork──▶ stepping stone ──fork──▶ the process
         ▲                                                      └ exits at once         │
         └──────────────────── its pid, and being its parent ───────────────────────────┘

The stepping stone's end makes the supervisor, as the nearest subreaper, the parent: it waits for the
process and the kernel ties their lives together as if it had forked the process itself. The nursery
has one thread and no connection, reads no setting, and ends when the supervisor does.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pathlib
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import structlog

from orochi.embedded import process

log = structlog.get_logger()

_ANSWER_SECONDS = 20.0
_READY_SECONDS = 120.0
#: What is imported beforehand. Nothing here may read settings, open a connection or start a thread.
PRELOADED = (
    "orochi.gateway.server",
    "orochi.executor.serving",
    "orochi.executor.maintenance",
    "celery.bin.celery",
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.concurrency.prefork",
    "celery.concurrency.solo",
    "celery.concurrency.thread",
    "orochi.jobs.running",
    "kombu.transport.redis",
    "flower.command",
)


def open_nursery(environment: Mapping[str, str], log_file: pathlib.Path | None) -> Nursery | None:
    """A nursery, on systems where a grandchild can be adopted."""
    return Nursery(environment, log_file) if sys.platform == "linux" else None


class Gone(Exception):
    """The nursery does not answer; the process can be started the ordinary way."""


class Nursery:
    """The supervisor's side."""

    def __init__(self, environment: Mapping[str, str], log_file: pathlib.Path | None) -> None:
        self._socket, theirs = socket.socketpair()
        self._received = b""
        self._ready = False
        with theirs, process.output(log_file) as out:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "orochi.embedded.nursery", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd="/",
                env=dict(environment),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Wait until it has imported everything; returns as well when it never will. Blocks."""
        with contextlib.suppress(Gone):
            self._ready = self._answer(_READY_SECONDS) == "ready"

    def spawn(self, spec: process.Spec) -> process.Adopted:
        """Fork a process.

        Raises:
            Gone: it did not answer.
        """
        if not self._ready:
            raise Gone
        if spec.prepare is not None:
            spec.prepare()
        if spec.log is not None:
            process.rotate(spec.log)
        order = {
            "arguments": list(spec.orochi or ()),
            "environment": dict(spec.environment),
            "cwd": str(spec.cwd),
            "log": None if spec.log is None else str(spec.log),
            "death_signal": int(spec.death_signal),
        }
        try:
            self._socket.settimeout(_ANSWER_SECONDS)
            self._socket.sendall(json.dumps(order).encode() + b"\n")
            return process.Adopted(int(self._answer(_ANSWER_SECONDS)))
        except (OSError, ValueError) as error:
            raise self._gone() from error

    def close(self) -> None:
        """End it."""
        self._ready = False
        self._child.kill()
        self._child.wait()
        self._socket.close()  # last: a thread in `wait_ready` has seen the other side close it

    def _answer(self, seconds: float) -> str:
        self._socket.settimeout(seconds)
        try:
            while b"\n" not in self._received:
                data = self._socket.recv(4096)
                if not data:
                    raise self._gone()
                self._received += data
        except OSError as error:
            raise self._gone() from error
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()

    def _gone(self) -> Gone:
        if self._ready:
            log.warning("nursery.gone")
        self._ready = False
        return Gone()


def main() -> None:
    """The nursery's side: preload, then fork whatever the supervisor asks for."""
    link, supervisor = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    process.follow_parent(signal.SIGKILL, supervisor)
    for name in PRELOADED:
        # What cannot be imported fails again, and is reported, in the process that needs it.
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    with contextlib.suppress(Exception):
        importlib.import_module("orochi.storage.arrow").without_pandas()
        # each would load the loops by itself: more than a second of CPU
        importlib.import_module("orochi.engine.warm").load()
        importlib.import_module("orochi.operations.warmup").rehearse(1)  # one stripe: no thread
    gc.collect()
    gc.freeze()  # the collector does not touch, and so copy, pages that children share
    link.sendall(b"ready\n")
    order = _serve(link, supervisor)
    if order is not None:
        _become(order)


def _serve(link: socket.socket, supervisor: int) -> dict[str, Any] | None:
    """Fork for every order; returns an order in the process it is for, and None at the end."""
    with link, link.makefile("rb") as orders:
        for line in orders:
            order = json.loads(line)
            stone = os.fork()
            if stone != 0:
                os.waitpid(stone, 0)
                continue
            if os.fork() != 0:
                os._exit(0)
            os.setsid()
            _wait_for_parent(supervisor)
            process.follow_parent(signal.Signals(order["death_signal"]), supervisor)
            link.sendall(f"{os.getpid()}\n".encode())
            return dict(order)
    return None


def _wait_for_parent(supervisor: int) -> None:
    """Wait until the stepping stone has ended."""
    deadline = time.monotonic() + _ANSWER_SECONDS
    while os.getppid() != supervisor:
        if time.monotonic() > deadline:
            os._exit(1)
        time.sleep(0.001)


def _become(order: Mapping[str, Any]) -> None:
    """Be `orochi <arguments>`, as if just started."""
    if order["log"] is not None:
        out = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.close(out)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environment"])
    arguments = order["arguments"]
    sys.argv = ["orochi", *arguments]
    process.set_name(f"orochi-{arguments[0]}")
    runpy.run_module("orochi.cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
