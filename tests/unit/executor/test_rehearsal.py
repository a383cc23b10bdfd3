"""The rehearsal really runs: its groups are those of its rows."""

from __future__ import annotations

import collections

import pytest

from orochi.executor import rehearsal
from orochi.operations import warmup
from orochi.storage.columnar import reader


@pytest.mark.parametrize("count", [1, 2])
def test_the_groups_of_the_rehearsal_are_those_of_its_rows(count: int) -> None:
    (low,), (high,) = (item.values for item in rehearsal.fragment(count).scans[0].predicates)
    minute = 60_000_000
    expected: dict[tuple[int, str], list[float]] = collections.defaultdict(list)
    with rehearsal.files(count) as folder:
        for path in folder.iterdir():
            with reader.StripeReader(path) as stripe:
                batches = list(stripe.scan(["at", "series", "value"]))
            for row in (row for batch in batches for row in batch.to_pylist()):
                if low <= row["at"] < high:
                    expected[row["at"] // minute * minute, row["series"]].append(row["value"])
    found = {(row["at"], row["series"]): row["value"] for row in rehearsal.rehearse(count).to_pylist()}
    assert found == {
        group: pytest.approx(sum(values) / len(values), rel=1e-12) for group, values in expected.items()
    }
    assert len(found) > 1


def test_a_gateways_rehearsal_answers_what_it_planned() -> None:
    assert warmup.rehearse(1) == rehearsal.rehearse(1).num_rows
