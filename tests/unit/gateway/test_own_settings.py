"""Values of Orochi's settings are refused in PostgreSQL's words."""

from __future__ import annotations

import pytest

from orochi import errors
from orochi.gateway import own_settings
from orochi.planner import parse


@pytest.mark.parametrize(
    ("sql", "message", "hint"),
    [
        (
            "SET orochi.frozen_reads = 'bogus'",
            'invalid value for parameter "orochi.frozen_reads": "bogus"',
            "Available values: error, skip, wait.",
        ),
        (
            "SET LOCAL orochi.snapshot_reads TO maybe",
            'parameter "orochi.snapshot_reads" requires a Boolean value',
            None,
        ),
        (
            "SET orochi.default_shard_count = 0",
            '0 is outside the valid range for parameter "orochi.default_shard_count" (1 .. 2147483647)',
            None,
        ),
        (
            "SET orochi.small_query_bytes = 'much'",
            'invalid value for parameter "orochi.small_query_bytes": "much"',
            None,
        ),
        ("SET orochi.frozen_reads = skip, wait", "SET orochi.frozen_reads takes only one argument", None),
    ],
)
def test_refused(sql: str, message: str, hint: str | None) -> None:
    statement = parse.parse_one(sql)
    assert own_settings.is_set(statement)
    with pytest.raises(errors.InvalidParameter) as caught:
        own_settings.check(statement)
    assert (str(caught.value), caught.value.hint, caught.value.sqlstate) == (message, hint, "22023")


@pytest.mark.parametrize(
    "sql",
    [
        "SET orochi.frozen_reads = WAIT",
        "SET orochi.force_strategy = 'two-phase'",
        "SET orochi.force_strategy = ''",
        "SET orochi.compression = 'rle'",
        "SET orochi.snapshot_reads = on",
        "SET orochi.enable_tiering = 0",
        "SET orochi.small_query_bytes = 0",
        "SET orochi.other = anything",
    ],
)
def test_taken(sql: str) -> None:
    statement = parse.parse_one(sql)
    assert own_settings.is_set(statement)
    own_settings.check(statement)


@pytest.mark.parametrize(
    "sql", ["SET timezone = 'UTC'", "RESET orochi.frozen_reads", "SET orochi.frozen_reads TO DEFAULT"]
)
def test_not_looked_at(sql: str) -> None:
    assert not own_settings.is_set(parse.parse_one(sql))
