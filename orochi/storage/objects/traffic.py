"""What this process has read of the object store."""

from __future__ import annotations

import threading


class Traffic:
    """Requests and bytes read from the store by this process, for EXPLAIN."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests = 0
        self.bytes = 0

    def add(self, size: int) -> None:
        """One request gave so many bytes."""
        with self._lock:
            self.requests += 1
            self.bytes += size


#: Counted up for as long as the process lives.
total = Traffic()
