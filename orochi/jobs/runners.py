"""What runs a job of each kind. Only worker processes import this module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from orochi.jobs import kinds, policies, refresh, tiering, user

if TYPE_CHECKING:
    from orochi.jobs import running

#: By kind of job: returns when all is done, raises what made the run fail.
RUNNERS: Mapping[str, Callable[[running.Run], None]] = {
    kinds.RETENTION.name: policies.drop_old_chunks,
    kinds.COMPRESSION.name: policies.compress_old_chunks,
    kinds.TIERING.name: tiering.run,
    kinds.REFRESH.name: refresh.refresh,
    kinds.USER.name: user.call,
}
