"""Every error Orochi raises on purpose, each with the SQLSTATE a client sees.

The list is closed and short. `retryable` says whether running the same thing again can
succeed; dispatch and the session retry on that attribute, never on message text.
"""

from __future__ import annotations


class OrochiError(Exception):
    """An error with PostgreSQL's fields; the gateway turns it into an ErrorResponse."""

    sqlstate = "XX000"
    retryable = False
    #: The function of PostgreSQL's source that drivers know the error by.
    routine: str | None = None

    def __init__(
        self,
        message: str,
        *,
        detail: str | None = None,
        hint: str | None = None,
        sqlstate: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint
        if sqlstate is not None:
            self.sqlstate = sqlstate


class FeatureNotSupported(OrochiError):
    """The statement is valid SQL that Orochi does not run."""

    sqlstate = "0A000"


class ResultChanged(FeatureNotSupported):
    """A prepared statement has other columns than the client was told; drivers prepare it anew."""

    routine = "RevalidateCachedQuery"


class InvalidParameter(OrochiError):
    """An argument of an Orochi function is out of range or of the wrong kind."""

    sqlstate = "22023"


class UndefinedColumn(OrochiError):
    """A named column does not exist."""

    sqlstate = "42703"


class UndefinedObject(OrochiError):
    """A named table, chunk, shard or node does not exist or is not Orochi's."""

    sqlstate = "42704"


class InvalidTable(OrochiError):
    """The object exists but is of the wrong kind for the operation."""

    sqlstate = "42809"


class InvalidTableDefinition(OrochiError):
    """The table's definition forbids the operation (a unique key without the distribution column, ...)."""

    sqlstate = "42P16"


class SerializationFailure(OrochiError):
    """The layout changed under an open transaction; the client may run it again."""

    sqlstate = "40001"
    retryable = True


class DeadlockDetected(OrochiError):
    """Transactions waited for each other on different nodes; this one was chosen to fail."""

    sqlstate = "40P01"
    retryable = True


class StalePlan(OrochiError):
    """A plan named a shard layout that no longer exists: reload the catalog and plan again."""

    sqlstate = "40001"
    retryable = True


class NodeUnavailable(OrochiError):
    """A node PostgreSQL cannot be reached."""

    sqlstate = "08006"
    retryable = True


class WorkerLost(OrochiError):
    """A fragment's lease ran out on every attempt."""

    sqlstate = "58000"
    retryable = True


class QueueUnavailable(OrochiError):
    """Redis cannot be reached."""

    sqlstate = "58000"
    retryable = True


class QueryCanceled(OrochiError):
    """The client, or a timeout, cancelled the statement."""

    sqlstate = "57014"


class OutOfMemory(OrochiError):
    """A worker ran out of memory inside a fragment."""

    sqlstate = "53200"


class DataCorrupted(OrochiError):
    """A checksum of a stripe file does not match; names the file and the column chunk."""

    sqlstate = "XX001"


class TransactionOutcomeUnknown(OrochiError):
    """The connection broke after COMMIT was sent: the outcome is not known."""

    sqlstate = "08007"


class ProtocolViolation(OrochiError):
    """The peer sent bytes that the protocol does not allow here."""

    sqlstate = "08P01"


class RemoteError(OrochiError):
    """An ErrorResponse from a PostgreSQL server, its fields kept as they came.

    Attributes:
        fields: one-letter field code to text, as in the protocol's ErrorResponse.
        began: whether the server had bound the statement, so it failed while it ran; None if unknown.
    """

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(
            fields.get("M", "unknown error"),
            detail=fields.get("D"),
            hint=fields.get("H"),
            sqlstate=fields.get("C", "XX000"),
        )
        self.fields = fields
        self.began: bool | None = None
