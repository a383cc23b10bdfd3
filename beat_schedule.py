"""What beat sends, how often, and to which queue.

Each entry is a look at what is due: the task does nothing if nothing is, and skips if another process
is at it. So neither a second beat nor a missed tick does harm. A tick that no worker took in time
expires.
"""

from __future__ import annotations

from typing import Any

from orochi.executor import names

_EVERY_SECONDS = {
    names.RESOLVE_TRANSACTIONS: 5.0,
    names.SWEEP: 60.0,
    names.COLLECT_STATS: 30.0,
    names.COMPRESSION_DUE: 60.0,
    names.FLUSH_COLUMNAR: 30.0,
    names.TIERING_DUE: 300.0,
    names.REBALANCING_COLLECT: 60.0,
}

SCHEDULE: dict[str, dict[str, Any]] = {
    task: {
        "task": task,
        "schedule": seconds,
        "options": {"queue": names.MAINTENANCE_QUEUE, "expires": seconds, "ignore_result": True},
    }
    for task, seconds in _EVERY_SECONDS.items()
}
