from __future__ import annotations

import json
import os
import pathlib
import stat

import pytest

from orochi.embedded import process, state


def _state() -> state.State:
    return state.State(
        nodes=2,
        workers=3,
        phase=state.Phase.RUNNING,
        supervisor=process.Identity(7, 1.5),
        ports={"gateway": 6432},
        secrets={"redis": "x"},
        processes=[state.ProcessState("gateway", "gateway", 8, 2.5, 6432, 1, healthy=True)],
        info={"dsn": "postgresql://"},
    )


def test_what_is_saved_is_loaded_and_only_the_owner_reads_it(tmp_path: pathlib.Path) -> None:
    state.save(tmp_path, _state())
    assert state.load(tmp_path) == _state()
    assert stat.S_IMODE((tmp_path / "cluster.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["cluster.json"]


def test_a_directory_without_a_cluster_remembers_nothing(tmp_path: pathlib.Path) -> None:
    assert state.load(tmp_path) is None
    assert not state.is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["[]", "{", '{"version": 99}', '{"version": 1, "supervisor": null}'])
def test_a_damaged_file_is_refused_by_name(tmp_path: pathlib.Path, content: str) -> None:
    (tmp_path / "cluster.json").write_text(content)
    with pytest.raises(ValueError, match=r"cluster\.json|JSON|Expecting"):
        state.load(tmp_path)


def test_secrets_are_made_once(tmp_path: pathlib.Path) -> None:
    made = state.State(nodes=1, workers=1)
    secret = made.secret("postgres")
    assert len(secret) == 32
    assert made.secret("postgres") == secret
    assert made.secret("redis") != secret
    state.save(tmp_path, made)
    assert json.loads((tmp_path / "cluster.json").read_text())["secrets"]["postgres"] == secret


def test_one_supervisor_at_a_time(tmp_path: pathlib.Path) -> None:
    first, second = state.Lock(tmp_path), state.Lock(tmp_path)
    first.acquire()
    assert state.is_locked(tmp_path)
    with pytest.raises(state.AlreadyRunning):
        second.acquire()
    assert not state.wait_unlocked(tmp_path, 0.1)
    first.release()
    assert state.wait_unlocked(tmp_path, 0.1)
    second.acquire()
    second.release()


def test_the_lock_ends_with_its_process(tmp_path: pathlib.Path) -> None:
    child = os.fork()
    if child == 0:
        state.Lock(tmp_path).acquire()
        os._exit(0)
    os.waitpid(child, 0)
    assert not state.is_locked(tmp_path)
