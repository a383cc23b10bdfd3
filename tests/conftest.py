"""Fixtures every test may use: one cluster of real servers a session, PostgreSQL as the oracle."""

from __future__ import annotations

import itertools
import os
import pathlib
import threading
from collections.abc import Generator, Iterable, Iterator

import hypothesis
import pytest

from tests.support import cluster as clusters
from tests.support import diagnosis, oracle, pairs, services

hypothesis.settings.register_profile("dev", max_examples=40, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=200, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

_ROOT = pathlib.Path(__file__).parent
_numbers = itertools.count(1)
_HANGS_AFTER = 240.0  # seconds; the time limit of a test is 300
#: Files that wait for what they killed more than they compute, each with a cluster of its own.
_LONGEST_FIRST = ("test_kill.py", "test_lifecycle.py", "test_killed_loads.py", "test_life.py", "test_bank.py")
_seen: dict[str, list[tuple[str, str]]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--complete-slt",
        action="store_true",
        help="write the expectations of tests/slt/*.slt anew, from plain PostgreSQL (refused under CI)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by folder, and run cheap tests first: a broken rule is seen before a cluster starts.

    Files with faults are strewn among the others, so that of two processes one computes while one waits.
    """
    order = {"meta": 0, "unit": 1, "property": 2, "golden": 3, "services": 4, "slt": 5, "cluster": 6}
    for item in items:
        folder = _folder(item)
        if folder in {"cluster", "slt"}:
            item.add_marker(pytest.mark.cluster)
        if folder == "faults":
            item.add_marker(pytest.mark.faults)
    others = [item for item in items if _folder(item) != "faults"]
    others.sort(key=lambda item: (order.get(_folder(item), 6), item.path.name != "test_write.py"))
    waiting = _by_file(item for item in items if _folder(item) == "faults")
    waiting.sort(key=lambda tests: _LONGEST_FIRST.index(tests[0].path.name))
    cheap = [item for item in others if order.get(_folder(item), 6) < order["slt"]]
    files = _by_file(others[len(cheap) :])
    for at, tests in reversed(list(enumerate(waiting))):
        files.insert(at * len(files) // len(waiting), tests)
    items[:] = cheap + [item for tests in files for item in tests]


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(_ROOT).parts[0]


def _by_file(items: Iterable[pytest.Item]) -> list[list[pytest.Item]]:
    found: dict[pathlib.Path, list[pytest.Item]] = {}
    for item in items:
        found.setdefault(item.path, []).append(item)
    return list(found.values())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Before a test of a cluster runs out of time, while it still hangs, look at the cluster."""
    if item.get_closest_marker("cluster") is None and item.get_closest_marker("faults") is None:
        return (yield)
    look = threading.Timer(_HANGS_AFTER, lambda: _seen.__setitem__(item.nodeid, _clusters_of(item)))
    look.daemon = True
    look.start()
    try:
        return (yield)
    finally:
        look.cancel()
        _seen.pop(item.nodeid, None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Beside the failure of a test of a cluster, show what the cluster was doing then."""
    report = yield
    if report.failed:
        report.sections += _seen.get(item.nodeid) or _clusters_of(item)
    return report


def _clusters_of(item: pytest.Item) -> list[tuple[str, str]]:
    found = dict(getattr(item, "funcargs", {})).items()
    return [(name, diagnosis.of(value)) for name, value in found if isinstance(value, clusters.Cluster)]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[services.Server]:
    """A plain PostgreSQL of our own."""
    with services.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[services.Server]:
    """A Valkey of our own."""
    with services.valkey() as server:
        yield server


@pytest.fixture(scope="session")
def cluster() -> Iterator[clusters.Cluster]:
    """Coordinator, two data nodes, a worker for each, gateway, Valkey, S3, beat and Flower."""
    with clusters.started(nodes=2, extra=("--s3",)) as running:
        with running.connect_coordinator() as connection:
            connection.execute("CREATE DATABASE plain")
        yield running


@pytest.fixture(scope="session")
def single_cluster() -> Iterator[clusters.Cluster]:
    """One server that is coordinator and data node."""
    with clusters.started(nodes=1) as running:
        with running.connect_coordinator() as connection:
            connection.execute("CREATE DATABASE plain")
        yield running


@pytest.fixture
def pair(cluster: clusters.Cluster) -> Iterator[oracle.Pair]:
    """Two clients in a fresh schema of both sides."""
    schema = f"t{next(_numbers)}"
    made = pairs.opened(cluster, schema)
    made.both(f"CREATE SCHEMA {schema}")
    yield made
    pairs.close(made, schema)


@pytest.fixture(scope="module")
def module_pair(cluster: clusters.Cluster) -> Iterator[oracle.Pair]:
    """Like `pair`, kept for all tests of a module: for data that is costly to load."""
    schema = f"t{next(_numbers)}"
    made = pairs.opened(cluster, schema)
    made.both(f"CREATE SCHEMA {schema}")
    yield made
    pairs.close(made, schema)
