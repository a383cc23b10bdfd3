"""What one session did to views, columns and names, another finds in its next statement."""

from __future__ import annotations

import psycopg
import pytest

from tests.support import layouts, oracle

_ROUNDS = 15


def _one(connection: psycopg.Connection[tuple[object, ...]], sql: str) -> object:
    row = connection.execute(sql).fetchone()  # type: ignore[call-overload]
    return None if row is None else row[0]


@pytest.mark.parametrize("layout", ["distributed", "both-compressed"])
def test_another_session_sees_a_view_at_once(
    pair: oracle.Pair, other: psycopg.Connection[tuple[object, ...]], layout: str
) -> None:
    """CREATE OR REPLACE VIEW, alone, in a block, in one string with others, or prepared: then the other reads it."""
    layouts.events(pair, layout)
    for turn in range(_ROUNDS):
        sql = f"CREATE OR REPLACE VIEW v AS SELECT id + {turn} * 100000 AS n FROM events"
        match turn % 4:
            case 0:
                pair.gateway.execute(sql)
            case 1:
                pair.gateway.execute(f"BEGIN; {sql}; COMMIT")
            case 2:
                with pair.gateway.transaction():
                    pair.gateway.execute(sql)
            case _:
                pair.gateway.execute(sql, prepare=True)
        assert int(str(_one(other, "SELECT min(n) FROM v"))) // 100000 == turn


def test_another_session_sees_names_at_once(
    pair: oracle.Pair, other: psycopg.Connection[tuple[object, ...]]
) -> None:
    """Columns that come, go and are renamed, and tables that hide others of their name."""
    layouts.events(pair, "distributed")
    me = pair.gateway
    schema = _one(me, "SELECT current_schema()")
    me.execute(f"CREATE SCHEMA {schema}_near")
    try:
        other.execute(f"SET search_path TO {schema}_near, {schema}, orochi, public")
        for turn in range(_ROUNDS):
            me.execute(f"ALTER TABLE events ADD COLUMN added_{turn} int DEFAULT {turn}")
            assert _one(other, f"SELECT max(added_{turn}) FROM events") == turn
            me.execute(f"ALTER TABLE events RENAME COLUMN added_{turn} TO renamed_{turn}")
            assert _one(other, f"SELECT max(renamed_{turn}) FROM events") == turn
            me.execute(f"CREATE TABLE {schema}_near.events AS SELECT -{turn} AS id")
            assert _one(other, "SELECT max(id) FROM events") == -turn
            me.execute(f"DROP TABLE {schema}_near.events")
            assert int(str(_one(other, "SELECT max(id) FROM events"))) > 0
    finally:
        me.execute(f"DROP SCHEMA {schema}_near CASCADE")
