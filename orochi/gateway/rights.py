"""When what a session did may have changed the rights that the gateway remembers: then PostgreSQL is asked again."""

from __future__ import annotations

from collections.abc import Callable

from orochi.gateway import texts


class Watch:
    """Forgets as a GRANT or REVOKE (or what may do one) is sent, and again when its transaction has ended."""

    def __init__(self) -> None:
        self.forget: Callable[[], None] = lambda: None
        self._dirty = False

    def touched(self, flags: int) -> None:
        """A statement with these flags of its text was sent."""
        if flags & (texts.RIGHTS | texts.CATALOG):
            self._dirty = True
            self.forget()

    def ready(self, status: str) -> None:
        """All that was sent is answered; `status` as in ReadyForQuery."""
        if self._dirty:
            self.forget()
            self._dirty = status != "I"
