"""The object store's client against every fault that it is to survive or explain, and the cache of parts."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from botocore import exceptions, response

from orochi import errors
from orochi.storage.objects import client, connecting, diskcache, places, remote

_KEY = "orochi/1.2/s5/c7_9_abc-{}.stripe"


class _S3:
    """A bucket in memory that fails as it is told, call by call."""

    def __init__(self, faults: Sequence[Exception | str] = ()) -> None:
        self.objects: dict[str, bytes] = {}
        self.classes: dict[str, str] = {}
        self.restores: dict[str, str] = {}
        self.faults = list(faults)
        self.calls: list[str] = []
        self.parts: dict[int, bytes] = {}
        self.put_twice = True

    def _fault(self, name: str) -> str | None:
        self.calls.append(name)
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Exception):
            raise fault
        return fault

    def get_object(self, *, Bucket: str, Key: str, Range: str) -> dict[str, Any]:  # noqa: N803
        fault = self._fault("get")
        if Key not in self.objects:
            raise _error("NoSuchKey", 404)
        first, last = map(int, Range.removeprefix("bytes=").split("-"))
        data = self.objects[Key][first : last + 1]
        sent = data[: len(data) // 2] if fault == "truncated" else data
        return {"Body": response.StreamingBody(io.BytesIO(sent), len(data))}

    def put_object(self, *, Key: str, Body: bytes, IfNoneMatch: str | None = None, **more: Any) -> None:  # noqa: N803
        fault = self._fault("put")
        if IfNoneMatch and Key in self.objects:
            raise _error("PreconditionFailed", 412)
        self.objects[Key] = b"other" if fault == "garbled" else Body
        self.classes[Key] = more.get("StorageClass", "STANDARD")
        if fault == "lost answer":
            raise exceptions.ConnectionClosedError(endpoint_url="http://s3")

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        self._fault("head")
        if Key not in self.objects:
            raise _error("404", 404)
        data = self.objects[Key]
        answer = {
            "ContentLength": len(data),
            "ETag": f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"',
            "StorageClass": self.classes[Key],
        }
        return answer | ({"Restore": self.restores[Key]} if Key in self.restores else {})

    def restore_object(self, *, Key: str, **_: Any) -> None:  # noqa: N803
        self._fault("restore")
        self.restores[Key] = 'ongoing-request="true"'

    def create_multipart_upload(self, **_: Any) -> dict[str, str]:
        self._fault("create")
        return {"UploadId": "u"}

    def upload_part(self, *, PartNumber: int, Body: bytes, **_: Any) -> dict[str, str]:  # noqa: N803
        self._fault("part")
        self.parts[PartNumber] = Body
        return {"ETag": "e"}

    def complete_multipart_upload(self, *, Key: str, **_: Any) -> None:  # noqa: N803
        fault = self._fault("complete")
        if not self.parts:
            raise _error("NoSuchUpload", 404)
        self.objects[Key] = b"".join(self.parts[number] for number in sorted(self.parts))
        self.classes[Key], self.parts = "STANDARD", {}
        if fault == "lost answer":
            raise exceptions.ConnectionClosedError(endpoint_url="http://s3")

    def abort_multipart_upload(self, **_: Any) -> None:
        self._fault("abort")
        self.parts = {}

    def delete_object(self, *, Key: str, **_: Any) -> None:  # noqa: N803
        self._fault("delete")
        self.objects.pop(Key, None)

    def delete_objects(self, *, Delete: dict[str, Any], **_: Any) -> dict[str, Any]:  # noqa: N803
        self._fault("delete")
        for item in Delete["Objects"]:
            self.objects.pop(item["Key"], None)
        return {}

    def list_objects_v2(self, *, ContinuationToken: str = "", **_: Any) -> dict[str, Any]:  # noqa: N803
        self._fault("list")
        keys = sorted(self.objects)
        at = keys.index(ContinuationToken) if ContinuationToken else 0
        page = [
            {"Key": key, "Size": len(self.objects[key]), "LastModified": dt.datetime.now(dt.UTC)}
            for key in keys[at : at + 2]
        ]
        more = keys[at + 2 : at + 3]
        return {"Contents": page, "IsTruncated": bool(more)} | (
            {"NextContinuationToken": more[0]} if more else {}
        )


def _error(code: str, status: int) -> exceptions.ClientError:
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return exceptions.ClientError(answer, "Operation")


def _store(s3: _S3, **config: Any) -> client.Store:
    return client.Store(
        connecting.Config(bucket="b", endpoint="http://s3", **config), s3, lambda seconds: None
    )


def _file(folder: pathlib.Path, size: int) -> tuple[pathlib.Path, bytes, str]:
    data = hashlib.shake_128(b"x").digest(size)
    path = folder / "file"
    path.write_bytes(data)
    return path, data, _KEY.format(size)


_PASSING: list[Exception] = [
    _error("SlowDown", 503),
    _error("InternalError", 500),
    _error("TooManyRequests", 429),
    exceptions.ReadTimeoutError(endpoint_url="http://s3"),
    exceptions.EndpointConnectionError(endpoint_url="http://s3"),
    exceptions.ConnectionClosedError(endpoint_url="http://s3"),
]


@pytest.mark.parametrize("fault", [*_PASSING, "truncated"])
def test_a_read_is_tried_again(fault: Exception | str) -> None:
    s3 = _S3([fault, fault])
    s3.objects["k"] = b"0123456789"
    assert _store(s3).get_range("k", 2, 5) == b"23456"
    assert s3.calls == ["get"] * 3


@pytest.mark.parametrize(
    ("fault", "sqlstate", "words"),
    [
        (_error("NoSuchBucket", 404), "58030", 'bucket "b" does not exist'),
        (_error("InvalidAccessKeyId", 403), "58030", "refused"),
        (_error("SignatureDoesNotMatch", 403), "58030", "refused"),
        (exceptions.NoCredentialsError(), "58030", "refused"),
        (_error("InvalidObjectState", 403), "55000", "is frozen"),
    ],
)
def test_what_does_not_pass_is_explained_at_once(fault: Exception, sqlstate: str, words: str) -> None:
    s3 = _S3([fault])
    with pytest.raises(errors.OrochiError, match=words) as caught:
        _store(s3).get_range("orochi/1/s1/c3_1_x-9.stripe", 0, 1)
    assert caught.value.sqlstate == sqlstate
    assert caught.value.hint
    assert s3.calls == ["get"]


def test_trying_ends() -> None:
    s3 = _S3([_error("SlowDown", 503)] * 9)
    with pytest.raises(errors.OrochiError, match="after 4 tries") as caught:
        _store(s3, attempts=4).get_range("k", 0, 1)
    assert caught.value.sqlstate == "58030"
    assert len(s3.calls) == 4


def test_an_object_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        _store(_S3()).get_range("k", 0, 1)


@pytest.mark.parametrize(
    "faults", [[], [_error("SlowDown", 503)], ["lost answer"], [_error("NotImplemented", 501)]]
)
def test_a_file_is_stored(tmp_path: pathlib.Path, faults: list[Exception | str]) -> None:
    s3, (path, data, key) = _S3(faults), _file(tmp_path, 100)
    head = _store(s3).put_file(key, path, "GLACIER")
    assert (head.size, head.storage_class) == (100, "GLACIER")
    assert s3.objects == {key: data}


@pytest.mark.parametrize("fault", [None, "lost answer"])
def test_a_large_file_is_stored_in_parts(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, fault: str | None
) -> None:
    monkeypatch.setattr(client, "PART_BYTES", 64)
    s3, (path, data, key) = _S3(), _file(tmp_path, 200)
    s3.faults = [] if fault is None else ["", "", "", "", "", fault]
    _store(s3).put_file(key, path)
    assert s3.objects == {key: data}
    assert s3.calls.count("part") == 4


def test_an_upload_in_parts_that_fails_is_given_up(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PART_BYTES", 64)
    s3, (path, _, key) = _S3(["", "", _error("AccessDenied", 403)]), _file(tmp_path, 200)
    with pytest.raises(errors.OrochiError, match="refused"):
        _store(s3).put_file(key, path)
    assert s3.calls[-1] == "abort"
    assert not s3.objects


def test_other_bytes_than_were_sent_are_noticed(tmp_path: pathlib.Path) -> None:
    s3, (path, _, key) = _S3(["garbled"]), _file(tmp_path, 100)
    with pytest.raises(errors.OrochiError, match="other bytes"):
        _store(s3).put_file(key, path)


def test_listing_and_deleting() -> None:
    s3 = _S3()
    s3.objects = {f"k{n}": b"x" for n in range(5)}
    store = _store(s3)
    assert [item.key for item in store.listed("k")] == [f"k{n}" for n in range(5)]
    store.delete(["k0"])
    store.delete(["k1", "k2", "gone"])
    assert sorted(s3.objects) == ["k3", "k4"]


def test_a_restore_is_asked_for_once() -> None:
    s3 = _S3()
    s3.objects["k"], s3.classes["k"] = b"x", "GLACIER"
    store = _store(s3)
    assert [store.restore("k", 1), store.restore("k", 1)] == ["ongoing", "ongoing"]
    s3.restores["k"] = 'ongoing-request="false", expiry-date="..."'
    assert store.restore("k", 1) == "done"
    assert s3.calls.count("restore") == 1
    s3.classes["k"] = "STANDARD"
    assert store.restore("k", 1) == "done"


def test_a_store_without_archive_has_nothing_to_restore() -> None:
    s3 = _S3(["", _error("MethodNotAllowed", 405)])
    s3.objects["k"], s3.classes["k"] = b"x", "GLACIER"
    assert _store(s3).restore("k", 1) == "done"


def test_encryption_is_asked_for() -> None:
    store = _store(_S3(), encryption="aws:kms", kms_key="id")
    assert store._extra("GLACIER") == {
        "StorageClass": "GLACIER",
        "ServerSideEncryption": "aws:kms",
        "SSEKMSKeyId": "id",
    }


def test_places() -> None:
    key = places.new_key("1.2", 5, 7, 9, 1234)
    assert places.size_of(key) == 1234
    assert key.startswith(places.prefix("1.2"))
    for place in (places.Place.COLD, places.Place.FROZEN):
        path = places.of_key(key, place)
        assert places.place_of(path) is place
        assert places.key_of(path) == key
        assert places.chunk_of(path) == "orochi_chunks.chunk_7"
        assert places.thawed(path) == f"s3:{key}"
    assert places.place_of("s5/c7_9_ab.stripe") is places.Place.LOCAL


@pytest.fixture
def opened(tmp_path: pathlib.Path) -> tuple[_S3, Callable[[], remote.RemoteObject], bytes]:
    s3, data = _S3(), hashlib.shake_128(b"y").digest(10_000_000)
    key = _KEY.format(len(data))
    s3.objects[key] = data
    cache = diskcache.DiskCache(tmp_path / "cache", 20 << 20)

    def make() -> remote.RemoteObject:
        return remote.RemoteObject(f"s3:{key}", cache, _store(s3))

    return s3, make, data


def test_parts_are_fetched_once(opened: tuple[_S3, Callable[[], remote.RemoteObject], bytes]) -> None:
    s3, make, data = opened
    first, second = make(), make()
    assert first.read(100, 50).to_pybytes() == data[100:150]
    assert second.read(110, 20).to_pybytes() == data[110:130]
    assert len(s3.calls) == 1
    assert second.read(90, 100).to_pybytes() == data[90:190]  # both sides of what is there
    assert len(s3.calls) == 3
    first.prefetch([(1000, 10), (1020, 10), (9_000_000, 10), (9_999_990, 10)])
    assert len(s3.calls) == 6
    assert second.read(9_999_990, 50).to_pybytes() == data[9_999_990:]
    assert first.read(0, len(data)).to_pybytes() == data
    first.close()
    second.close()
    calls = len(s3.calls)
    third = make()
    assert third.read(5_000_000, 4_000_000).to_pybytes() == data[5_000_000:9_000_000]
    assert len(s3.calls) == calls
    assert third.distrust()
    assert third.read(5, 5).to_pybytes() == data[5:10]
    assert len(s3.calls) == calls + 1
    third.close()


def test_without_a_cache(opened: tuple[_S3, Callable[[], remote.RemoteObject], bytes]) -> None:
    s3, _, data = opened
    (key,) = s3.objects
    source = remote.RemoteObject(f"s3:{key}", None, _store(s3))
    source.prefetch([(0, 100), (5000, 100)])
    assert source.read(5010, 20).to_pybytes() == data[5010:5030]
    assert len(s3.calls) == 1  # so near that they were one
    assert not source.distrust()


def test_an_object_that_went_away_makes_the_plan_stale(
    opened: tuple[_S3, Callable[[], remote.RemoteObject], bytes],
) -> None:
    s3, make, _ = opened
    s3.objects.clear()
    with pytest.raises(errors.StalePlan):
        make().read(0, 10)


def test_the_cache_keeps_to_its_size(tmp_path: pathlib.Path) -> None:
    cache = diskcache.DiskCache(tmp_path / "cache", 1 << 20)
    for number in range(5):
        entry = cache.open(f"k{number}", 400_000)
        assert entry is not None
        assert entry.write(0, bytes(400_000))
        entry.trim()
        assert entry.missing(0, 400_000) == []
        entry.close()
        assert cache.size() <= 1 << 20
    newest, oldest = cache.open("k4", 400_000), cache.open("k0", 400_000)
    assert newest is not None
    assert oldest is not None
    assert newest.missing(0, 10) == []
    assert oldest.missing(0, 10) == [(0, 10)]
    newest.close()
    oldest.close()
    assert diskcache.DiskCache(tmp_path, 0).open("k", 10) is None


def test_a_torn_journal_is_no_harm(tmp_path: pathlib.Path) -> None:
    cache = diskcache.DiskCache(tmp_path, 1 << 20)
    entry = cache.open("k", 100)
    assert entry is not None
    entry.write(10, b"0123456789")
    (path,) = tmp_path.glob("*.parts")
    with path.open("ab") as file:
        file.write(b"torn")
    again = cache.open("k", 100)
    assert again is not None
    assert again.missing(0, 100) == [(0, 10), (20, 80)]
    again.write(20, b"x")
    assert entry.missing(10, 20) == [(21, 9)]
    entry.close()
    again.close()
