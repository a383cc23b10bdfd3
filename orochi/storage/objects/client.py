"""An S3 client for stripes: every call either did what it says, or raises an error a person understands.

What may pass (a busy server, a broken connection, a body that ends early) is tried again with growing
pauses. Nothing is written over: a key is new, and where the server offers it, it checks that.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime as dt
import functools
import hashlib
import os
import pathlib
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from orochi import settings as process_settings
from orochi.storage.objects import connecting, failures, traffic

T = TypeVar("T")

#: Larger files go up in parts of this size; S3 wants at least 5 MiB.
PART_BYTES = 32 << 20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_DELETE_BATCH = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """What the store says of an object.

    Attributes:
        etag: of its content: MD5 in hex, or of its parts' MD5s followed by `-` and their number.
        restore: 'no' (not asked for), 'ongoing' or 'done', where it is archived.
    """

    size: int
    etag: str
    storage_class: str
    restore: str = "no"


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
    """An object in a listing."""

    key: str
    size: int
    modified: dt.datetime


class Store:
    """One bucket. Threads may share it; a forked child makes its own."""

    def __init__(
        self, config: connecting.Config, client: Any = None, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self.config = config
        self._client = client if client is not None else connecting.connect(config)
        self._pause = pause

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """`length` bytes of an object.

        Raises:
            FileNotFoundError: there is no such object.
            OrochiError: 55000, it is archived; 58030, the store does not give it.
        """
        span = f"bytes={offset}-{offset + length - 1}"

        def get() -> bytes:
            answer = self._client.get_object(Bucket=self.config.bucket, Key=key, Range=span)
            data: bytes = answer["Body"].read()
            if len(data) != length:
                raise failures.Truncated(f"{len(data)} bytes of {length}")
            traffic.total.add(length)
            return data

        return self._tried("read", key, get)

    def put_file(self, key: str, path: pathlib.Path, storage_class: str | None = None) -> Head:
        """Store a file under a new key, and see that it is there as it is here.

        Raises:
            OrochiError: 58030, the store did not take it, or has something else.
        """
        size = path.stat().st_size
        extra = self._extra(storage_class)
        if size > PART_BYTES:
            etag = self._put_parts(key, path, size, extra)
        else:
            etag = self._put_whole(key, path.read_bytes(), extra)
        return self._verified(key, size, etag, lambda: _sha256_of(path), storage_class)

    def get_file(self, key: str, path: pathlib.Path, size: int) -> None:
        """An object as a local file, on disk when this returns.

        Raises:
            FileNotFoundError: there is no such object.
            OrochiError: as `get_range`.
        """
        with path.open("wb") as out:
            for offset in range(0, size, PART_BYTES):
                out.write(self.get_range(key, offset, min(PART_BYTES, size - offset)))
            out.flush()
            os.fsync(out.fileno())

    def copy(self, source: str, target: str, storage_class: str | None = None) -> Head:
        """Copy an object within the store, to a new key and another class.

        Raises:
            FileNotFoundError: there is no such object.
            OrochiError: 55000, it is archived; 58030, the store did not do it.
        """
        origin = {"Bucket": self.config.bucket, "Key": source}
        extra = {"StorageClass": "STANDARD"} | self._extra(storage_class)
        before = self.head(source)
        self._tried(
            "copy",
            source,
            lambda: self._client.copy_object(
                Bucket=self.config.bucket, Key=target, CopySource=origin, **extra
            ),
        )
        after = self.head(target)
        if after.size != before.size:
            raise failures.different(target, f"It has {after.size} bytes of {before.size}.")
        return after

    def head(self, key: str) -> Head:
        """What the store says of an object.

        Raises:
            FileNotFoundError: there is no such object.
            OrochiError: 58030, the store does not say.
        """
        answer = self._tried(
            "look at", key, lambda: self._client.head_object(Bucket=self.config.bucket, Key=key)
        )
        restore = answer.get("Restore")
        state = "no" if restore is None else "ongoing" if 'ongoing-request="true"' in restore else "done"
        return Head(
            int(answer["ContentLength"]),
            answer["ETag"].strip('"'),
            answer.get("StorageClass") or "STANDARD",
            state,
        )

    def restore(self, key: str, days: int) -> str:
        """Ask for an archived object; 'done' once it can be read, else 'ongoing'. Asking again does no harm.

        Raises:
            FileNotFoundError: there is no such object.
            OrochiError: 58030, the store does not say.
        """
        head = self.head(key)
        if head.restore != "no" or head.storage_class not in failures.ARCHIVES:
            return "ongoing" if head.restore == "ongoing" else "done"
        wanted = {"Days": days, "GlacierJobParameters": {"Tier": "Standard"}}
        try:
            self._tried(
                "restore",
                key,
                lambda: self._client.restore_object(
                    Bucket=self.config.bucket, Key=key, RestoreRequest=wanted
                ),
            )
        except failures.NotOffered:
            return "done"  # a store that labels objects and does not archive them
        return "done" if self.head(key).restore == "done" else "ongoing"

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there do not matter.

        Raises:
            OrochiError: 58030, the store did not remove one.
        """
        left = list(keys)
        while left:
            batch, left = left[:_DELETE_BATCH], left[_DELETE_BATCH:]
            if len(batch) == 1:
                self._tried("delete", batch[0], functools.partial(self._delete_one, batch[0]))
                continue
            answer = self._tried(
                "delete", f"{len(batch)} objects", functools.partial(self._delete_all, batch)
            )
            refused = [item for item in answer.get("Errors", ()) if item.get("Code") != "NoSuchKey"]
            if refused:
                raise failures.refused("delete", str(refused[0].get("Key")), str(refused[0].get("Message")))

    def listed(self, prefix: str) -> Iterator[Listed]:
        """Every object whose key begins so.

        Raises:
            OrochiError: 58030, the store does not say.
        """
        token: dict[str, str] = {}
        while True:
            answer = self._tried("list", prefix, functools.partial(self._page, prefix, dict(token)))
            for item in answer.get("Contents", ()):
                yield Listed(item["Key"], int(item["Size"]), item["LastModified"])
            if not answer.get("IsTruncated"):
                return
            token = {"ContinuationToken": answer["NextContinuationToken"]}

    def abort_uploads(self, prefix: str, before: dt.datetime) -> int:
        """Give up uploads in parts that began before a time and have not ended; how many.

        Raises:
            OrochiError: 58030, the store does not say.
        """
        answer = self._tried(
            "list uploads of",
            prefix,
            lambda: self._client.list_multipart_uploads(Bucket=self.config.bucket, Prefix=prefix),
        )
        stale = [item for item in answer.get("Uploads", ()) or () if item["Initiated"] < before]
        for item in stale:
            self._abort(item["Key"], item["UploadId"])
        return len(stale)

    def check(self) -> None:
        """See that the bucket is there and lets us in.

        Raises:
            OrochiError: 58030, it does not.
        """
        self._tried("look at", "", lambda: self._client.head_bucket(Bucket=self.config.bucket))

    def _delete_one(self, key: str) -> Any:
        return self._client.delete_object(Bucket=self.config.bucket, Key=key)

    def _delete_all(self, keys: list[str]) -> Any:
        wanted = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        return self._client.delete_objects(Bucket=self.config.bucket, Delete=wanted)

    def _page(self, prefix: str, token: dict[str, str]) -> Any:
        return self._client.list_objects_v2(Bucket=self.config.bucket, Prefix=prefix, **token)

    def _extra(self, storage_class: str | None) -> dict[str, str]:
        extra = {} if storage_class is None else {"StorageClass": storage_class}
        if self.config.encryption is not None:
            extra["ServerSideEncryption"] = self.config.encryption
        if self.config.kms_key is not None:
            extra["SSEKMSKeyId"] = self.config.kms_key
        return extra

    def _put_whole(self, key: str, data: bytes, extra: dict[str, str]) -> str:
        digest = hashlib.md5(data, usedforsecurity=False)
        put = functools.partial(
            self._client.put_object,
            Bucket=self.config.bucket,
            Key=key,
            Body=data,
            ContentMD5=base64.b64encode(digest.digest()).decode(),
            **extra,
        )
        self._created(key, put)
        return digest.hexdigest()

    def _created(self, key: str, make: Callable[..., Any]) -> None:
        """Call `make` so that it cannot write over anything; one whose answer was lost has written it."""
        try:
            self._tried("write", key, lambda: make(IfNoneMatch="*"))
        except failures.NotOffered:
            self._tried("write", key, make)
        except (failures.Exists, FileNotFoundError):
            pass  # an earlier try of ours, whose answer was lost: what is there is compared below

    def _put_parts(self, key: str, path: pathlib.Path, size: int, extra: dict[str, str]) -> str:
        bucket = self.config.bucket
        upload = self._tried(
            "write", key, lambda: self._client.create_multipart_upload(Bucket=bucket, Key=key, **extra)
        )["UploadId"]
        parts: list[dict[str, Any]] = []
        digests = b""
        try:
            with path.open("rb") as source:
                for number in range(1, -(-size // PART_BYTES) + 1):
                    data = source.read(PART_BYTES)
                    digest = hashlib.md5(data, usedforsecurity=False).digest()
                    send = functools.partial(
                        self._client.upload_part,
                        Bucket=bucket,
                        Key=key,
                        UploadId=upload,
                        PartNumber=number,
                        Body=data,
                        ContentMD5=base64.b64encode(digest).decode(),
                    )
                    parts.append({"PartNumber": number, "ETag": self._tried("write", key, send)["ETag"]})
                    digests += digest
            self._created(
                key,
                functools.partial(
                    self._client.complete_multipart_upload,
                    Bucket=bucket,
                    Key=key,
                    UploadId=upload,
                    MultipartUpload={"Parts": parts},
                ),
            )
        except BaseException:
            with contextlib.suppress(Exception):  # the sweep gives it up too
                self._abort(key, upload)
            raise
        return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"

    def _abort(self, key: str, upload: str) -> None:
        def abort() -> None:
            self._client.abort_multipart_upload(Bucket=self.config.bucket, Key=key, UploadId=upload)

        with contextlib.suppress(FileNotFoundError):
            self._tried("give up", key, abort)

    def _verified(
        self, key: str, size: int, etag: str, local: Callable[[], str], storage_class: str | None
    ) -> Head:
        """Compare what is there with what was sent; where the store's ETag is no MD5, by reading it back."""
        head = self.head(key)
        if head.size != size:
            raise failures.different(key, f"It has {head.size} bytes of {size}.")
        if head.etag == etag or storage_class in failures.ARCHIVES:
            return head  # an archive cannot be read back: every request carried the content's MD5
        there = hashlib.sha256()
        for offset in range(0, size, PART_BYTES):
            there.update(self.get_range(key, offset, min(PART_BYTES, size - offset)))
        if there.hexdigest() != local():
            raise failures.different(key, "Its SHA-256 is not the file's.")
        return head

    def _tried(self, verb: str, key: str, call: Callable[[], T]) -> T:
        """The call's answer, after as many tries as it takes and is allowed."""
        pause = _FIRST_PAUSE
        for attempt in range(1, self.config.attempts + 1):
            try:
                return call()
            except Exception as error:  # botocore's have no common base but this
                if attempt == self.config.attempts or not failures.may_pass(error):
                    raise failures.translated(error, verb, key, self.config, attempt) from error
            self._pause(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise AssertionError("no attempt was allowed")


def _sha256_of(path: pathlib.Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


@functools.lru_cache(maxsize=1)
def _shared(_process: int) -> Store | None:
    config = connecting.Config.of(process_settings.get())
    return None if config is None else Store(config)


def shared() -> Store:
    """The process's store, as the settings name it.

    Raises:
        OrochiError: 55000, they name none.
    """
    store = _shared(os.getpid())
    if store is None:
        raise failures.not_configured()
    return store


def is_configured() -> bool:
    """Whether the settings name a bucket."""
    return process_settings.get().s3_bucket is not None
