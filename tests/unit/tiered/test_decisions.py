"""What tiering policies decide of a chunk, by age and by use."""

from __future__ import annotations

import dataclasses

import pytest

from orochi.tiered import decisions

_AGES = {"hot": "1 day", "warm": "7 days", "cold": "30 days"}
_POLICY = decisions.Policy(
    bounds={"hot": 100, "warm": 50, "cold": 10}, early={"hot": 130, "warm": 90, "cold": 40}, ages=_AGES
)
_ADAPTIVE = dataclasses.replace(_POLICY, adaptive=True)


def _chunk(
    tier: str, end: int, *, in_heap: bool = False, reads: float = 0, idle: float = 0
) -> decisions.Chunk:
    return decisions.Chunk(1, tier, end, in_heap, reads, idle)


@pytest.mark.parametrize(
    ("end", "tier"), [(101, "hot"), (100, "warm"), (51, "warm"), (50, "cold"), (10, "frozen"), (-5, "frozen")]
)
def test_by_age(end: int, tier: str) -> None:
    assert decisions.by_age(end, _POLICY.bounds) == tier


def test_a_tier_without_age_is_for_ever() -> None:
    assert decisions.by_age(0, {"hot": 100, "warm": None, "cold": 50}) == "warm"
    assert decisions.by_age(0, {"hot": None, "warm": 70, "cold": 50}) == "hot"


@pytest.mark.parametrize(
    ("chunk", "policy", "tier"),
    [
        (_chunk("hot", 200), _POLICY, None),
        (_chunk("hot", 60), _POLICY, "warm"),
        (_chunk("hot", 5), _POLICY, "frozen"),
        (_chunk("warm", 60), _POLICY, None),
        (_chunk("cold", 60), _POLICY, None),  # somebody moved it
        (_chunk("cold", 60, in_heap=True), _POLICY, "cold"),
        (_chunk("hot", 200, in_heap=True), _POLICY, None),
        (_chunk("cold", 20, reads=1000), _POLICY, None),
        (_chunk("cold", 20, reads=10), _ADAPTIVE, "warm"),
        (_chunk("cold", 20, reads=9), _ADAPTIVE, None),
        (_chunk("warm", 20, reads=6), _ADAPTIVE, None),  # it came back, and is read
        (_chunk("warm", 20, reads=4), _ADAPTIVE, "cold"),
        (_chunk("hot", 120, idle=86400), _ADAPTIVE, "warm"),
        (_chunk("hot", 120, idle=86399), _ADAPTIVE, None),
        (_chunk("warm", 80, idle=1e6), _ADAPTIVE, "cold"),
        (_chunk("cold", 30, idle=1e6), _ADAPTIVE, None),  # to the archive by age alone
        (_chunk("hot", 30, idle=1e6), _ADAPTIVE, "cold"),
        (_chunk("hot", 120, idle=1e6), _POLICY, None),
    ],
)
def test_decisions(chunk: decisions.Chunk, policy: decisions.Policy, tier: str | None) -> None:
    made = decisions.decide(chunk, policy)
    assert (made.tier if made else None) == tier
    assert made is None or made.reason
