"""Ranks of strings: equal and sorted as the strings are by their bytes, or the strings themselves."""

from __future__ import annotations

import itertools

import pyarrow as pa
import pytest

from orochi.executor import ranking


@pytest.mark.parametrize("padded", [False, True])
def test_ranks_compare_as_bytes_do(padded: bool) -> None:
    words = ["b", "", "a ", "a", "ä", "€", "\U0001f600", "Z", None]
    many = list(itertools.islice(itertools.cycle(words), 3_000))
    values = pa.chunked_array([pa.array(many[:1_000]), pa.array([], pa.string()), pa.array(many[1_000:])])
    ranks = ranking.ranked(values, padded=padded).to_pylist()
    assert ranks[: len(words)] == ranks[len(words) : 2 * len(words)]
    found = dict(zip(words, ranks, strict=False))
    assert found[None] is None
    assert (found["a"] == found["a "]) == padded
    known = [word for word in words if word is not None]
    known.sort(key=lambda word: (word.rstrip(" ") if padded else word).encode())
    assert [found[word] for word in known] == sorted(found[word] for word in known)


def test_few_strings_and_many_values_stay_strings() -> None:
    few = pa.chunked_array([["a ", "b"]])
    assert ranking.ranked(few).to_pylist() == ["a ", "b"]
    assert ranking.ranked(few, padded=True).to_pylist() == ["a", "b"]
    many = [f"{number} " for number in range(5_000)]
    assert ranking.ranked(pa.chunked_array([many])).to_pylist() == many
