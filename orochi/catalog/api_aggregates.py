"""Signatures of the functions of continuous aggregates, for `api`: name, arguments, what they return."""

from __future__ import annotations

Signature = tuple[str, tuple[tuple[str, str, str | None], ...], str]

_VIEW = ("continuous_aggregate", "regclass", None)
_TIME = "orochi.time_value"

SIGNATURES: tuple[Signature, ...] = (
    (
        "create_continuous_aggregate",
        (
            ("view_name", "text", None),
            ("query", "text", None),
            ("refresh_interval", "interval", "'1 hour'"),
            ("with_data", "boolean", "true"),
            ("materialized_only", "boolean", "false"),
        ),
        "void",
    ),
    (
        "refresh_continuous_aggregate",
        (
            _VIEW,
            ("window_start", _TIME, "NULL"),
            ("window_end", _TIME, "NULL"),
            ("force", "boolean", "false"),
            ("options", "jsonb", "NULL"),
        ),
        "void",
    ),
    ("drop_continuous_aggregate", (_VIEW,), "void"),
    (
        "add_continuous_aggregate_policy",
        (
            _VIEW,
            ("start_offset", _TIME, None),
            ("end_offset", _TIME, None),
            ("schedule_interval", "interval", "'1 hour'"),
            ("if_not_exists", "boolean", "false"),
            ("initial_start", "timestamptz", "NULL"),
            ("timezone", "text", "NULL"),
        ),
        "integer",
    ),
    ("remove_continuous_aggregate_policy", (_VIEW, ("if_exists", "boolean", "false")), "void"),
)
