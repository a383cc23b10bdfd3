"""What a store's errors mean: which may pass, and what a user is told of those that do not."""

from __future__ import annotations

from typing import Any, Protocol

from orochi import errors
from orochi.storage.objects import places

#: Storage classes whose objects must be restored before they are read.
ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
#: SQLSTATEs: the store fails; the chunk or the store is not in the state that it takes.
IO_ERROR, NOT_READY = "58030", "55000"
_MISSING = frozenset({"NoSuchKey", "NotFound", "404", "NoSuchUpload"})
_CREDENTIALS = frozenset(
    {
        "AccessDenied",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "AuthorizationHeaderMalformed",
        "401",
        "403",
    }
)
_PASSING_CODES = frozenset(
    {
        "SlowDown",
        "InternalError",
        "ServiceUnavailable",
        "RequestTimeout",
        "RequestTimeTooSkewed",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "BadDigest",
        "OperationAborted",
        "ConditionalRequestConflict",
    }
)
_NOT_OFFERED = frozenset({"NotImplemented", "MethodNotAllowed", "501", "405", "UnsupportedOperation"})
_PASSING_TYPES = frozenset(
    {
        "ConnectionClosedError",
        "ConnectTimeoutError",
        "EndpointConnectionError",
        "HTTPClientError",
        "IncompleteReadError",
        "ProxyConnectionError",
        "ReadTimeoutError",
        "ResponseStreamingError",
    }
)


class Truncated(Exception):
    """A body ended before it was whole."""


class NotOffered(errors.OrochiError):
    """The store does not have this operation."""

    sqlstate = IO_ERROR


class Exists(errors.OrochiError):
    """There is an object of that key already."""

    sqlstate = IO_ERROR


class _Named(Protocol):
    @property
    def bucket(self) -> str: ...
    @property
    def endpoint(self) -> str | None: ...


def _code_of(error: BaseException) -> tuple[str, int]:
    answer: Any = getattr(error, "response", None) or {}
    code = str(answer.get("Error", {}).get("Code", ""))
    return code, int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) or 0)


def may_pass(error: BaseException) -> bool:
    """Whether trying again can help."""
    code, status = _code_of(error)
    if code in _NOT_OFFERED or status == 501:
        return False
    if code in _PASSING_CODES or status >= 500 or status == 429:
        return True
    # urllib3's errors come through where a body is read
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, Truncated | ConnectionError | TimeoutError) or bool(
        names & _PASSING_TYPES or "ProtocolError" in names
    )


def translated(error: Exception, verb: str, key: str, store: _Named, attempts: int) -> Exception:
    """What to raise in the place of a store's error."""
    code, status = _code_of(error)
    where = store.endpoint or "AWS"
    if not key and (status == 404 or code == "404"):
        code = "NoSuchBucket"  # HEAD has no body that could say so
    if code in _MISSING or (status == 404 and code != "NoSuchBucket"):
        return FileNotFoundError(f'object "{key}" is not in bucket "{store.bucket}"')
    if code in ("PreconditionFailed", "412") or status == 412:
        return Exists(f'the object store has an object "{key}" already')
    if code in _NOT_OFFERED or status in (405, 501):
        return NotOffered(f'the object store at {where} cannot {verb} "{key}": {code or status}')
    if code in ("InvalidObjectState", "ObjectNotInActiveTierError"):
        return archived(key)
    if code == "NoSuchBucket":
        return errors.OrochiError(
            f'bucket "{store.bucket}" does not exist at {where}',
            sqlstate=IO_ERROR,
            hint="Create it, or set OROCHI_S3_BUCKET and OROCHI_S3_ENDPOINT of all processes.",
        )
    if code in _CREDENTIALS or status in (401, 403) or "Credentials" in type(error).__name__:
        return errors.OrochiError(
            f'the object store refused to {verb} in bucket "{store.bucket}": {code or type(error).__name__}',
            sqlstate=IO_ERROR,
            detail=f"At {where}: {_text(error)}",
            hint="Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy.",
        )
    tries = f"after {attempts} tries" if attempts > 1 else "at once"
    return errors.OrochiError(
        f'the object store failed to {verb} "{key}" {tries}: {_text(error)}',
        sqlstate=IO_ERROR,
        hint=f"Nothing is lost. See whether {where} answers, and run the statement again.",
    )


def _text(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def refused(verb: str, key: str, message: str) -> errors.OrochiError:
    """The store did not do one of several things."""
    return errors.OrochiError(f'the object store did not {verb} "{key}": {message}', sqlstate=IO_ERROR)


def different(key: str, detail: str) -> errors.OrochiError:
    """What arrived is not what was sent."""
    return errors.OrochiError(
        f'the object store has other bytes under "{key}" than were sent',
        sqlstate=IO_ERROR,
        detail=detail,
        hint="The chunk is where it was. Try again.",
    )


def archived(key: str) -> errors.OrochiError:
    """An object must be restored first."""
    return errors.OrochiError(
        f"chunk {places.chunk_of(key)} is frozen",
        sqlstate=NOT_READY,
        detail=f'Object "{key}" must be restored before it is read.',
        hint=f"SELECT move_chunk_to_tier('{places.chunk_of(key)}', 'cold') restores it.",
    )


def not_configured() -> errors.OrochiError:
    """There is no object store."""
    return errors.OrochiError(
        "no object store is configured",
        sqlstate=NOT_READY,
        hint="Set OROCHI_S3_BUCKET (and OROCHI_S3_ENDPOINT) of all processes; `orochi up --s3` brings a local one.",
    )
