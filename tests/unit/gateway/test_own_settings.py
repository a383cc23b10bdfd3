"""Values of Orochi's settings are refused in PostgreSQL's words."""

from __future__ import annotations

import pytest

from orochi import errors
from orochi.gateway import own_settings, session_settings
from orochi.pgwire import messages
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


@pytest.mark.parametrize(
    ("sql", "name", "default"),
    [
        ("SHOW orochi.frozen_reads", "orochi.frozen_reads", "error"),
        (' show "orochi" . "stripe_row_limit" ; ', "orochi.stripe_row_limit", "150000"),
        ("SHOW orochi.Compression_Level", "orochi.compression_level", "3"),
        ("SHOW orochi.snapshot_reads", "orochi.snapshot_reads", "off"),
        ("SHOW orochi.enable_tiering", "orochi.enable_tiering", "on"),
    ],
)
def test_show_knows_the_default(sql: str, name: str, default: str) -> None:
    shown = own_settings.shown(sql.encode()).decode()
    (statement,) = parse.parse(shown)
    assert statement.kind is parse.Kind.SELECT
    assert f"'{name}'" in shown
    assert f"'{default}'" in shown
    message = messages.parse(b"s1", sql.encode(), (23,))[5:]
    again = messages.parse_parse(own_settings.shown_by(message))
    assert (again.name, again.sql.decode(), again.type_oids) == (b"s1", shown, (23,))


@pytest.mark.parametrize(
    "sql", [b"SHOW orochi.unknown", b"SHOW timezone", b"SELECT 'show orochi.frozen_reads'"]
)
def test_other_texts_stay(sql: bytes) -> None:
    assert own_settings.shown(sql) is sql


def test_every_setting_that_sessions_are_asked_for_has_a_default() -> None:
    for name in session_settings.OWN:
        if name.startswith("orochi."):
            assert own_settings.shown(f"SHOW {name}".encode()).startswith(b"SELECT"), name


def test_what_processes_start_with_cannot_be_set() -> None:
    with pytest.raises(errors.OrochiError) as caught:
        own_settings.check(parse.parse_one("SET orochi.cache_size_mb = 64"))
    assert caught.value.sqlstate == "55P02"
    assert "OROCHI_CACHE_SIZE_MB" in str(caught.value.hint)
