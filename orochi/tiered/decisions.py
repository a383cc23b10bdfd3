"""Which tier a chunk should be in, and why: by its age, and where a policy adapts, by how it is used.

By age a chunk only goes on, to slower and cheaper tiers; one that somebody moved further stays there. An
adaptive policy sends a chunk on at half its age if nobody has used it for a while, keeps one that is
read, and brings a cold one back that is read often.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

from orochi.tiered.tiers import TIERS

#: Ends of ranges, in raw units, from which on chunks stay in each tier; None: for ever.
Bounds = Mapping[str, int | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """What a policy says at one moment.

    Attributes:
        bounds: by tier: chunks that end before leave it.
        early: the same for chunks that nobody uses.
        ages: by tier, the age in words.
        recall_reads: reads, of which half count after a day, that bring a cold chunk back.
        idle_seconds: after which a chunk counts as one that nobody uses.
    """

    bounds: Bounds
    early: Bounds
    ages: Mapping[str, str | None]
    adaptive: bool = False
    recall_reads: int = 10
    idle_seconds: float = 86400.0


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk as a policy sees it.

    Attributes:
        in_heap: whether rows came since it was last brought into its tier.
        recent_reads: of which half count after a day.
        idle_seconds: since it was last read or written.
    """

    chunk_id: int
    tier: str
    range_end: int
    in_heap: bool
    recent_reads: float
    idle_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """Where to bring a chunk, and why."""

    chunk: Chunk
    tier: str
    reason: str


def by_age(range_end: int, bounds: Bounds) -> str:
    """The tier of a chunk that ends there."""
    tier = TIERS[0]
    for leaves, enters in itertools.pairwise(TIERS):
        bound = bounds.get(leaves)
        if bound is None or range_end > bound:
            break
        tier = enters
    return tier


def decide(chunk: Chunk, policy: Policy) -> Decision | None:
    """What to do with a chunk; None for nothing."""
    target = by_age(chunk.range_end, policy.bounds)
    reads = f"about {chunk.recent_reads:.0f} reads lately"
    if policy.adaptive and chunk.recent_reads >= policy.recall_reads:
        if chunk.tier == "cold":
            return Decision(chunk, "warm", f"{reads}, at least the {policy.recall_reads} that recall it")
        return None
    if _is_after(target, chunk.tier):
        if policy.adaptive and chunk.recent_reads >= policy.recall_reads / 2:
            return None  # what just came back is not to leave at once
        leaves = TIERS[TIERS.index(target) - 1]
        return Decision(chunk, target, f"older than {policy.ages[leaves]}, when chunks leave {leaves}")
    if policy.adaptive and chunk.idle_seconds >= policy.idle_seconds:
        early = by_age(chunk.range_end, policy.early)
        early = "cold" if early == "frozen" else early
        if _is_after(early, chunk.tier):
            hours = chunk.idle_seconds / 3600
            leaves = TIERS[TIERS.index(early) - 1]
            reason = f"not used for {hours:.0f} hours, and older than half of {policy.ages[leaves]}"
            return Decision(chunk, early, reason)
    if chunk.in_heap and chunk.tier != "hot":
        return Decision(chunk, chunk.tier, f"rows came since it is {chunk.tier}")
    return None


def _is_after(tier: str, other: str) -> bool:
    return TIERS.index(tier) > TIERS.index(other)
