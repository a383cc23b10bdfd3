from __future__ import annotations

import pathlib

import pytest
from psycopg import conninfo

from orochi import settings as settings_module
from orochi.embedded import cluster, registry, state


def _options(folder: pathlib.Path, **options: int | bool | None) -> cluster.Options:
    return cluster.Options(folder, **options)  # type: ignore[arg-type]


def test_a_new_directory_gets_the_defaults(tmp_path: pathlib.Path) -> None:
    made = cluster._remembered(_options(tmp_path))
    assert (made.nodes, made.s3) == (1, False)
    assert 1 <= made.workers <= 4


def test_options_that_are_not_given_are_as_before(tmp_path: pathlib.Path) -> None:
    state.save(tmp_path, state.State(nodes=2, workers=3, s3=True, ports={"gateway": 7000}))
    again = cluster._remembered(_options(tmp_path))
    assert (again.nodes, again.workers, again.s3, again.ports) == (2, 3, True, {"gateway": 7000})
    changed = cluster._remembered(_options(tmp_path, nodes=3, workers=1, s3=False))
    assert (changed.nodes, changed.workers, changed.s3) == (3, 1, False)


@pytest.mark.parametrize(
    ("before", "after", "message"), [(3, 2, "has 3 nodes"), (1, 2, "made with one node")]
)
def test_nodes_with_data_are_never_left_out(
    tmp_path: pathlib.Path, before: int, after: int, message: str
) -> None:
    state.save(tmp_path, state.State(nodes=before, workers=1))
    with pytest.raises(cluster.Refused, match=message):
        cluster._remembered(_options(tmp_path, nodes=after))


def test_a_single_node_is_the_coordinator_itself() -> None:
    processes = [
        state.ProcessState("coordinator", "coordinator", 10, 0.0, 1, 0, healthy=True),
        state.ProcessState("worker1.0", "workers", 11, 0.0, None, 0, healthy=True),
    ]
    pids = state.pids_of(processes)
    assert set(pids) == {"gateway", "coordinator", "nodes", "workers", "redis", "beat", "flower"}
    assert (pids["coordinator"], pids["nodes"], pids["workers"]) == ([10], [10], [11])


def test_a_node_address_takes_the_credentials_of_nodes() -> None:
    settings = settings_module.Settings(
        coordinator_dsn="postgresql://me:secret@db:5432/orochi", node_user="them", node_password="it's"
    )
    assert conninfo.conninfo_to_dict(registry.node_dsn(settings, "node1:5433")) == {
        "user": "them",
        "password": "it's",
        "dbname": "orochi",
        "host": "node1",
        "port": "5433",
    }
    assert "dbname=other" in registry.node_dsn(settings, "node1:5433/other")
    plain = settings_module.Settings(coordinator_dsn="postgresql://me:secret@db:5432/orochi")
    assert "user=me password=secret" in registry.node_dsn(plain, "[::1]:5433")


@pytest.mark.parametrize("address", ["node1", "node1:port", "user@node1:1", ":5432", "node1:5432/x?y=z", ""])
def test_another_form_of_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="not HOST:PORT"):
        registry.node_dsn(settings_module.Settings(), address)
