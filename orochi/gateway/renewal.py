"""What the hot path takes for granted for a moment is asked of PostgreSQL again ahead of time.

Else one statement of every few seconds would take the long way, which is the slow one that a client notices. It is asked
after an answer has gone out; what the client sends meanwhile waits for no more than that.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from orochi import errors
from orochi.gateway import portal, recent

if TYPE_CHECKING:
    from orochi.gateway import session as sessions

_SECONDS = recent.SECONDS / 2


def is_due(session: sessions.Session, prepared: portal.Prepared) -> bool:
    """Whether to ask now, the session's hot path just having run the statement."""
    return time.monotonic() - prepared.asked > _SECONDS and not session.client.closed


async def run(session: sessions.Session, prepared: portal.Prepared) -> None:
    """Ask about a statement and the rights it needs, and let the relay go on."""
    prepared.asked = time.monotonic()
    try:
        with contextlib.suppress(errors.OrochiError):  # the long way says what is wrong
            await session.relay.take_server()
            await session.recent.renew(prepared)
            await session.engine.renew_rights(session, prepared)
    finally:
        session.hot_ended()
