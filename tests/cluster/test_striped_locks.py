"""Two sessions lock and change rows of stripes: who gets which, and that nobody waits, is PostgreSQL's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support import cluster as clusters
from tests.support import layouts, oracle

_FIRST, _SECOND = 0, 1
_QUEUE = "SELECT id FROM events ORDER BY id LIMIT 3 FOR UPDATE SKIP LOCKED"
#: What each of the two says, in turn; nothing of it waits in PostgreSQL.
_STEPS: tuple[tuple[int, str], ...] = (
    (_FIRST, "BEGIN"),
    (_SECOND, "BEGIN"),
    (_FIRST, _QUEUE),
    (_SECOND, _QUEUE),
    (_SECOND, f"DELETE FROM events WHERE id IN ({_QUEUE}) RETURNING id"),
    (_FIRST, "SELECT id FROM events WHERE id > 195 ORDER BY id LIMIT 4 FOR NO KEY UPDATE SKIP LOCKED"),
    (_SECOND, "SELECT id FROM events WHERE id > 195 ORDER BY id LIMIT 4 FOR UPDATE SKIP LOCKED"),
    (_FIRST, "SELECT id FROM events WHERE id = 20 FOR SHARE"),
    (_SECOND, "SELECT id FROM events WHERE id = 20 FOR SHARE"),
    (_SECOND, "SELECT id FROM events WHERE id = 20 FOR KEY SHARE NOWAIT"),
    (_FIRST, "UPDATE events SET amount = 1 WHERE tenant = 3 AND id = 31"),
    (_SECOND, "UPDATE events SET amount = 2 WHERE tenant = 3 AND id = 38"),
    (_SECOND, "DELETE FROM events WHERE tenant = 3 AND id = 45 RETURNING what"),
    (_SECOND, "SELECT id FROM events WHERE tenant = 3 AND id IN (31, 38, 52) ORDER BY id FOR UPDATE SKIP LOCKED"),
    (_SECOND, "SELECT id FROM events WHERE tenant = 3 AND id IN (31, 52) FOR UPDATE NOWAIT"),
    (_FIRST, "COMMIT"),
    (_SECOND, "ROLLBACK"),
    (_FIRST, "SELECT id, amount FROM events ORDER BY id LIMIT 50"),
    # a block of one snapshot has rows of stripes to itself once it has read
    (_FIRST, "BEGIN ISOLATION LEVEL REPEATABLE READ"),
    (_FIRST, _QUEUE),
    (_SECOND, "BEGIN ISOLATION LEVEL REPEATABLE READ"),
    (_SECOND, _QUEUE),
    (_FIRST, "UPDATE events SET amount = 3 WHERE tenant = 4 AND id = 60"),
    (_SECOND, "ROLLBACK"),
    (_SECOND, "SELECT id FROM events WHERE tenant = 4 AND id IN (60, 67) ORDER BY id FOR UPDATE SKIP LOCKED"),
    (_SECOND, "SELECT id FROM events WHERE tenant = 4 AND id = 60 FOR SHARE NOWAIT"),
    (_FIRST, "COMMIT"),
)  # fmt: skip


@contextlib.contextmanager
def _others(
    cluster: clusters.Cluster, pair: oracle.Pair
) -> Iterator[tuple[psycopg.Connection[Any], psycopg.Connection[Any]]]:
    schema = pair.gateway.execute("SELECT current_schema()").fetchone()
    assert schema is not None
    with (
        cluster.connect(prepare_threshold=None) as ours,
        cluster.connect_coordinator("plain", prepare_threshold=None) as plain,
    ):
        for connection in (ours, plain):
            connection.execute(f"SET search_path TO {schema[0]}, orochi, public")
            connection.execute("SET lock_timeout TO '60s'")
        yield ours, plain


@pytest.mark.parametrize("layout", ["both-compressed", "columnar"])
def test_striped_rows_are_locked_one_by_one(
    cluster: clusters.Cluster, pair: oracle.Pair, layout: str
) -> None:
    layouts.events(pair, layout)
    with _others(cluster, pair) as (ours, plain):
        sides = ((pair.gateway, ours), (pair.plain, plain))
        for number, (who, sql) in enumerate(_STEPS):
            mine, theirs = (oracle.ask(side[who], sql) for side in sides)
            oracle.assert_same(f"{number}: {sql}", mine, theirs, ordered=oracle.is_ordered(sql))
        pair.check_tables("events")
