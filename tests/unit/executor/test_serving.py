"""What a worker keeps of the requests that it serves."""

from __future__ import annotations

import dataclasses

import pytest

from orochi.executor import rehearsal, serving
from orochi.planner import fragment as plan_fragment


def _request(number: int) -> str:
    return plan_fragment.to_json((dataclasses.replace(rehearsal.fragment(1), number=number),))


def test_a_request_that_comes_again_is_not_read_again() -> None:
    ((first,),) = serving.groups(_request(1))
    ((again,),) = serving.groups(_request(1))
    ((other,),) = serving.groups(_request(2))
    assert first is again
    assert (first.number, other.number) == (1, 2)


def test_a_long_request_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    text = _request(3)
    monkeypatch.setattr(serving, "_KNOWN_LETTERS", len(text) - 1)
    ((first,),) = serving.groups(text)
    ((again,),) = serving.groups(text)
    assert first == again
    assert first is not again
