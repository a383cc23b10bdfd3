"""What beat sends, how often, and to which queue.

Each entry is a look at what is due: the task does nothing if nothing is, and skips if another process
is at it. So neither a second beat nor a missed tick does harm. A tick that no worker took in time
expires.
"""

from __future__ import annotations

from typing import Any

from orochi.executor import names

#: Seconds between two ticks, and the queue.
_EVERY = {
    names.SCHEDULE_JOBS: (1.0, names.SCHEDULER_QUEUE),
    names.RESOLVE_TRANSACTIONS: (5.0, names.RECOVERY_QUEUE),
    names.SWEEP: (60.0, names.RECOVERY_QUEUE),
    names.COLLECT_STATS: (30.0, names.STATS_QUEUE),
    names.FLUSH_COLUMNAR: (30.0, names.COMPRESSION_QUEUE),
    names.REBALANCING_COLLECT: (60.0, names.STATS_QUEUE),
}

SCHEDULE: dict[str, dict[str, Any]] = {
    task: {
        "task": task,
        "schedule": seconds,
        "options": {"queue": queue, "expires": max(seconds, 5.0), "ignore_result": True},
    }
    for task, (seconds, queue) in _EVERY.items()
}
