"""Errors across the queue: any exception of a worker as JSON, and back to the error it was.

What PostgreSQL said keeps its fields, less those that tell a place in SQL the client never wrote.
"""

from __future__ import annotations

from typing import Any

import psycopg

from orochi import errors

_KINDS = {kind.__name__: kind for kind in errors.OrochiError.__subclasses__()}
_DIAGNOSTICS = {
    "S": "severity",
    "V": "severity_nonlocalized",
    "C": "sqlstate",
    "M": "message_primary",
    "D": "message_detail",
    "H": "message_hint",
    "s": "schema_name",
    "t": "table_name",
    "c": "column_name",
    "d": "datatype_name",
    "n": "constraint_name",
}


def to_json(error: BaseException) -> dict[str, Any]:
    """What happened, as the gateway needs it."""
    if isinstance(error, psycopg.Error):
        return _from_postgres(error)
    if isinstance(error, errors.RemoteError):
        return {"kind": "RemoteError", "sqlstate": error.sqlstate, "fields": error.fields}
    if isinstance(error, MemoryError):
        error = errors.OutOfMemory(
            "out of memory in a worker", hint="Raise its memory, or use fewer worker slots on the node."
        )
    if isinstance(error, errors.OrochiError):
        return {
            "kind": type(error).__name__,
            "sqlstate": error.sqlstate,
            "message": error.message,
            "detail": error.detail,
            "hint": error.hint,
        }
    return {"kind": "OrochiError", "sqlstate": "XX000", "message": f"{type(error).__name__}: {error}"}


def from_json(data: dict[str, Any]) -> errors.OrochiError:
    """The error that `to_json` was given, ready to be raised."""
    if data["kind"] == "RemoteError":
        return errors.RemoteError(dict(data["fields"]))
    kind = _KINDS.get(data["kind"], errors.OrochiError)
    return kind(
        data["message"], detail=data.get("detail"), hint=data.get("hint"), sqlstate=data.get("sqlstate")
    )


def of_node(error: errors.RemoteError) -> errors.RemoteError:
    """What a node's PostgreSQL said to the gateway itself, told as if a worker had heard it."""
    return errors.RemoteError(
        {letter: text for letter, text in error.fields.items() if letter in _DIAGNOSTICS}
    )


def _from_postgres(error: psycopg.Error) -> dict[str, Any]:
    if error.diag.sqlstate is None:
        # no answer of the server: the connection broke or was never made
        return to_json(errors.NodeUnavailable(f"a node's PostgreSQL cannot be reached: {str(error).strip()}"))
    found = {letter: getattr(error.diag, name) for letter, name in _DIAGNOSTICS.items()}
    fields = {letter: text for letter, text in found.items() if text}
    return {"kind": "RemoteError", "sqlstate": error.diag.sqlstate, "fields": fields}
