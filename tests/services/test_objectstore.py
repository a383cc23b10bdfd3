"""The object store's client over HTTP: against moto, which has S3's archive, and against servers that misbehave."""

from __future__ import annotations

import hashlib
import http.server
import pathlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from orochi import errors
from orochi.storage.objects import client, connecting

_KEY = "orochi/1.2/s5/c7_9_abcdef-{}.stripe"


def _store(endpoint: str, bucket: str = "orochi", **more: object) -> client.Store:
    config = connecting.Config(bucket=bucket, endpoint=endpoint, access_key="a", secret_key="b", **more)  # type: ignore[arg-type]
    return client.Store(config, pause=lambda seconds: None)


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    from moto import server

    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    _store(endpoint)._client.create_bucket(Bucket="orochi")
    yield endpoint
    running.stop()


def _file(folder: pathlib.Path, size: int) -> tuple[pathlib.Path, bytes]:
    data = hashlib.shake_128(b"x").digest(size)
    path = folder / "file"
    path.write_bytes(data)
    return path, data


def test_an_object_there_and_back(moto: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PART_BYTES", 5 << 20)
    store, (path, data) = _store(moto, encryption="AES256"), _file(tmp_path, 11 << 20)
    key = _KEY.format(len(data))
    assert store.put_file(key, path).size == len(data)
    assert store.put_file(key, path).size == len(data)  # a retry finds it there
    store.get_file(key, tmp_path / "back", len(data))
    assert (tmp_path / "back").read_bytes() == data
    assert [item.key for item in store.listed("orochi/")] == [key]
    store.copy(key, key + "2")
    store.delete([key, key + "2"])
    with pytest.raises(FileNotFoundError):
        store.head(key)


def test_other_bytes_under_the_key_are_not_ours(moto: str, tmp_path: pathlib.Path) -> None:
    store, (path, data) = _store(moto), _file(tmp_path, 100)
    key = _KEY.format(100)
    store._client.put_object(Bucket="orochi", Key=key, Body=data[::-1])
    with pytest.raises(errors.OrochiError, match="other bytes"):
        store.put_file(key, path)
    assert store.get_range(key, 0, 100) == data[::-1]  # nor written over
    store.delete([key])


def test_an_archived_object_must_be_restored(moto: str, tmp_path: pathlib.Path) -> None:
    store, (path, data) = _store(moto), _file(tmp_path, 100)
    key = _KEY.format(100)
    assert store.put_file(key, path, "GLACIER").storage_class == "GLACIER"
    for refused in (lambda: store.get_range(key, 0, 10), lambda: store.copy(key, key + "2")):
        with pytest.raises(errors.OrochiError, match="is frozen") as caught:
            refused()
        assert caught.value.sqlstate == "55000"
    assert store.restore(key, 1) == "done"  # moto does not let one wait
    assert store.get_range(key, 0, 100) == data
    assert store.copy(key, key + "2").storage_class == "STANDARD"
    store.delete([key, key + "2"])


def test_a_bucket_that_is_not_there(moto: str, tmp_path: pathlib.Path) -> None:
    store, (path, _) = _store(moto, "nowhere"), _file(tmp_path, 10)
    for refused in (
        store.check,
        lambda: store.get_range("k", 0, 1),
        lambda: store.put_file("k", path),
        lambda: list(store.listed("k")),
    ):
        with pytest.raises(errors.OrochiError, match='bucket "nowhere" does not exist') as caught:
            refused()
        assert caught.value.sqlstate == "58030"


class _Server(http.server.BaseHTTPRequestHandler):
    """Gives eight bytes, at first badly."""

    faults: list[str] = []

    def do_GET(self) -> None:
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "slow":
            time.sleep(3.0)
            return
        if fault == "reset":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault == "busy":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206)
        self.send_header("Content-Length", "8")
        self.end_headers()
        self.wfile.write(b"0123" if fault == "short" else b"01234567")
        self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def misbehaving() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
    _Server.faults = []


@pytest.mark.parametrize("fault", ["busy", "short", "reset", "slow"])
def test_what_passes_is_tried_again(misbehaving: str, fault: str) -> None:
    _Server.faults = [fault]
    assert _store(misbehaving, read_timeout=1.0).get_range("k", 0, 8) == b"01234567"
    _Server.faults = [fault] * 9
    with pytest.raises(errors.OrochiError, match="after 2 tries") as caught:
        _store(misbehaving, read_timeout=1.0, attempts=2).get_range("k", 0, 8)
    assert caught.value.sqlstate == "58030"


def test_nobody_there() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(errors.OrochiError, match="after 2 tries"):
        _store(f"http://127.0.0.1:{port}", attempts=2).get_range("k", 0, 8)
