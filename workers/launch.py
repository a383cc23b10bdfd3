"""Starts a worker in this process: a solo process for each fragment slot, a forking one for
maintenance, threads for jobs.

A solo worker answers fragments in half of a forking one's time. It has no time limits and no
termination of its own; leases, the cancel flag and a supervisor stand in for them.
"""

from __future__ import annotations

import contextlib
import os

from orochi import settings as process_settings
from orochi.executor import names
from orochi.storage import arrow
from orochi.timeseries import yielding

_JOB_THREADS = 16
#: Where Linux shares processors among sessions and not processes (`sched_autogroup_enabled`), how this session yields.
_COMMON = ("worker", "--without-gossip", "--without-mingle", "--loglevel=WARNING")


def fragments(node_id: int, slot: int, settings: process_settings.Settings) -> None:
    """Be slot `slot` of a node's fragment workers until told to stop."""
    _run(
        node_id,
        settings,
        f"--hostname=node{node_id}.slot{slot}@%h",
        f"--queues={names.fragment_queue(node_id)}",
        "--pool=solo",
        redelivers=False,
    )


def maintenance(node_id: int, settings: process_settings.Settings) -> None:
    """Be a node's maintenance worker until told to stop."""
    _be_nice(settings)
    _run(
        node_id,
        settings,
        f"--hostname=node{node_id}.maintenance@%h",
        f"--queues={names.maintenance_queue(node_id)},{names.MAINTENANCE_QUEUE}",
        "--pool=prefork",
        "--concurrency=1",
        "--max-tasks-per-child=200",
    )


def jobs(node_id: int, settings: process_settings.Settings) -> None:
    """Be a node's jobs worker until told to stop.

    Jobs wait for maintenance workers, directly or through the gateway, so they have a process of their own; they mostly wait,
    so threads of it do. There are more threads than jobs are let run at a time: the scheduler's look finds one.
    """
    _be_nice(settings)
    _run(
        node_id,
        settings,
        f"--hostname=node{node_id}.jobs@%h",
        f"--queues={','.join(names.JOB_QUEUES)}",
        "--pool=threads",
        f"--concurrency={_JOB_THREADS}",
    )


def _be_nice(settings: process_settings.Settings) -> None:
    """Yield to queries; what the nodes' PostgreSQL does for it is bounded by how many tasks run at a time."""
    with contextlib.suppress(OSError):
        yielding.lower(0, max(settings.maintenance_nice, os.nice(0)))
    yielding.session(settings.maintenance_nice)


def _run(node_id: int, settings: process_settings.Settings, *arguments: str, redelivers: bool = True) -> None:
    os.environ["OROCHI_NODE_ID"] = str(node_id)  # the app reads its settings when it is imported
    process_settings.get.cache_clear()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    arrow.without_pandas()
    from workers import app

    # what a fragment's lost worker leaves is sent again by the gateway, seconds before Redis could be asked for it
    app.app.conf.broker_transport_options["ack_emulation"] = redelivers
    app.app.worker_main([*_COMMON, *arguments])
