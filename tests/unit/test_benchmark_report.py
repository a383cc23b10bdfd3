"""What a benchmark says of its figures."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import pytest

from benchmarks import report, systems


def _report() -> report.Report:
    figures = [
        report.Figure("TSBS", "lastpoint", system, wall, cpu, 3)
        for system, wall, cpu in (("orochi", 5.0, 4.0), ("duckdb", 10.0, 16.0), ("postgresql", 40.0, 0.0))
    ]
    return report.Report(options={"seed": 1}, figures=figures)


def test_ratios_and_means() -> None:
    found = _report()
    ratios = {peer: (wall, cpu) for _, peer, wall, cpu in found.ratios()}
    assert ratios == {"duckdb": (0.5, 0.25), "postgresql": (0.125, 400.0)}
    assert [(group, peer) for group, peer, _ in found.means()] == [("TSBS", "duckdb"), ("TSBS", "postgresql")]
    assert json.loads(found.json())["means"]["TSBS duckdb"] == pytest.approx(0.5)


def test_chart_is_svg() -> None:
    root = ET.fromstring(_report().svg())
    assert root.tag.endswith("svg")
    assert any(item.text == "lastpoint" for item in root.iter())


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([(1, "a"), (2, "b")], [(2, "b"), (1, "a")], True),
        ([(1.0000000001, None)], [(1, None)], True),
        ([(1.001,)], [(1,)], False),
        ([("a",)], [("b",)], False),
        ([("a",), ("a",)], [("a",)], False),
    ],
)
def test_answers_are_compared(one: list[systems.Row], other: list[systems.Row], same: bool) -> None:
    assert (systems.differ(one, other) is None) == same
