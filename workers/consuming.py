"""Celery's consumer, with events about tasks sent beside the work and not after each task."""

from __future__ import annotations

import time
from typing import Any

from celery.worker import consumer

#: How late Flower hears of a task. The next task of a query with several rounds comes within milliseconds.
_EVENTS_SECONDS = 0.2


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """What takes tasks from the queues of a worker process."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._events_due = 0.0
        super().__init__(*arguments, **options)

    def on_send_event_buffered(self) -> None:
        """An event waits: have it, and all that come soon, sent after a while."""
        now = time.monotonic()
        if self.hub and now >= self._events_due:  # a timer may be lost with the connection
            self._events_due = now + _EVENTS_SECONDS
            self.hub.call_later(_EVENTS_SECONDS, self._flush_events)
