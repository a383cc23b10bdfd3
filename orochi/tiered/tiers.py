"""The tiers of a chunk, from the fastest to the cheapest, and where each has its stripes."""

from __future__ import annotations

from orochi import errors
from orochi.storage.objects import places

TIERS = ("hot", "warm", "cold", "frozen")
PLACES = {
    "hot": places.Place.LOCAL,
    "warm": places.Place.LOCAL,
    "cold": places.Place.COLD,
    "frozen": places.Place.FROZEN,
}


def check(tier: str) -> None:
    """See that it is one.

    Raises:
        InvalidParameter: it is none.
    """
    if tier not in TIERS:
        raise errors.InvalidParameter(f'"{tier}" is not a tier', hint=f"Tiers are {', '.join(TIERS)}.")
