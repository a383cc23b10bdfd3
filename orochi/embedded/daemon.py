"""Running the supervisor in the background, while the command that started it waits for the outcome.

The parent reads events, one JSON object a line, from a pipe that only the child writes. The pipe
ending without an outcome means that the child died.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import sys
from collections.abc import Callable
from typing import Any

from orochi.embedded import cluster, control, process, supervisor

_OUTCOMES = {"up", "failed"}


class Failed(Exception):
    """The supervisor ended before the cluster was up; the message says why."""


def run_detached(options: cluster.Options, report: cluster.Report) -> dict[str, Any]:
    """Start a supervisor that outlives this process; what is up, once it is healthy.

    Raises:
        Failed: it is not going to be.
    """
    cluster.prepare_folder(options.data_dir)
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _become_daemon(options, writing)
    os.close(writing)
    os.waitpid(child, 0)  # it forks once more and ends: the supervisor has no parent to wait for it
    try:
        with os.fdopen(reading, encoding="utf-8") as events:
            for line in events:
                event, details = json.loads(line)
                if event == "up":
                    return dict(details)
                if event == "failed":
                    raise Failed(str(details["message"]))
                report(event, details)
    except KeyboardInterrupt:
        _interrupt(options.data_dir)
        raise
    raise Failed(f"the supervisor died:\n{process.tail(_log_path(options))}")


def _interrupt(data_dir: pathlib.Path) -> None:
    """Ctrl-C while waiting stops what was started: the supervisor no longer hears the terminal."""
    with contextlib.suppress(control.StopFailed):
        control.stop(data_dir)


def _log_path(options: cluster.Options) -> pathlib.Path:
    return options.data_dir / "logs" / "supervisor.log"


def _become_daemon(options: cluster.Options, writing: int) -> None:
    """In the child: never returns to the caller's code."""
    status = 1
    try:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        _redirect(_log_path(options))
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        _run(options, _writer(writing))
        status = 0
    finally:
        os._exit(status)


def _run(options: cluster.Options, tell: cluster.Report) -> None:
    try:
        cluster.run(options, tell)
    except (cluster.Refused, supervisor.StartFailed, OSError, RuntimeError) as error:
        tell("failed", {"message": str(error) or repr(error)})
    except Exception as error:
        tell("failed", {"message": f"{type(error).__name__}: {error}"})
        raise


def _writer(writing: int) -> Callable[[str, dict[str, Any]], None]:
    """Tell the parent until there is an outcome; it may have gone away."""
    done = False

    def tell(event: str, details: dict[str, Any]) -> None:
        nonlocal done
        if done:
            return
        done = event in _OUTCOMES
        with contextlib.suppress(OSError):
            os.write(writing, (json.dumps([event, details]) + "\n").encode())
            if done:
                os.close(writing)

    return tell


def _redirect(log: pathlib.Path) -> None:
    """Leave the terminal and the caller's pipes: whoever reads those must see them end."""
    process.rotate(log)
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for descriptor in (nothing, output):
        if descriptor > 2:
            os.close(descriptor)
    os.chdir("/")
