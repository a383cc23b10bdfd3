"""What is counted, and how Prometheus reads it."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator

import prometheus_client
import pytest
from prometheus_client import core, registry

from orochi import errors, metrics


def value(name: str, **labels: str) -> float:
    return prometheus_client.REGISTRY.get_sample_value(name, labels) or 0.0


def test_a_statement_is_timed_by_its_strategy() -> None:
    before = value("orochi_statement_seconds_count", kind="select", strategy="pushdown")
    with metrics.measured("select", "q1"):
        metrics.strategy.set("pushdown")
    with metrics.measured("insert", "q2"):
        pass
    assert value("orochi_statement_seconds_count", kind="select", strategy="pushdown") == before + 1
    assert value("orochi_statement_seconds_count", kind="insert", strategy="none") >= 1


def test_errors_are_counted_by_class() -> None:
    before = value("orochi_statement_errors_total", sqlstate_class="22")
    with pytest.raises(errors.InvalidParameter), metrics.measured("select", "q3"):
        raise errors.InvalidParameter("no")
    assert value("orochi_statement_errors_total", sqlstate_class="22") == before + 1


class _Late(registry.Collector):
    def describe(self) -> list[core.Metric]:
        return []

    def collect(self) -> Iterator[core.Metric]:
        yield core.GaugeMetricFamily("orochi_looked_up", "When asked for", value=7)


def test_a_taken_port_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wanted = taken.getsockname()[1]
        port = metrics.listen("127.0.0.1", wanted, [_Late()])
        assert port is not None
        assert port > wanted
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as reply:
        text = reply.read().decode()
    assert "orochi_looked_up 7.0" in text
    assert "# TYPE orochi_statement_seconds histogram" in text
