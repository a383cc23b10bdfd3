"""Unique keys without the distribution column: an empty table gets one shard, one with rows refuses them."""

from __future__ import annotations

import pytest

from tests.support import cluster as clusters
from tests.support import layouts, oracle, races

_TABLE = "CREATE TABLE keyed (pk int PRIMARY KEY, a int, b text, c int)"
_FILL = "INSERT INTO keyed SELECT g, g * 2, 'x' || g, 0 FROM generate_series(1, 100) g"
_STATEMENTS = (
    _FILL,
    "INSERT INTO keyed VALUES (1000, 4, 'y', 0)",
    "INSERT INTO keyed VALUES (1, 3, 'y', 0)",
    """INSERT INTO keyed VALUES (1000, 4, 'y', 0)
    ON CONFLICT (a) DO UPDATE SET pk = excluded.pk, c = keyed.c + 1 RETURNING *""",
    "INSERT INTO keyed VALUES (2000, 6, 'z', 0), (2001, 2001, 'z', 0) ON CONFLICT DO NOTHING",
    "UPDATE keyed SET a = 6 WHERE pk = 1000",
    "UPDATE keyed SET pk = 3 WHERE pk = 1000",
    "UPDATE keyed SET pk = 3000, a = 3000 WHERE pk = 1000",
    "ALTER TABLE keyed ADD CONSTRAINT keyed_b UNIQUE (b)",
    "INSERT INTO keyed VALUES (5000, 5000, 'x7', 0)",
    "CREATE UNIQUE INDEX keyed_c ON keyed (c) WHERE c > 5",
    "INSERT INTO keyed VALUES (6000, 6000, 'p', 7), (6001, 6001, 'q', 7)",
    "ALTER TABLE keyed ADD COLUMN d int DEFAULT 4",
    "DROP INDEX keyed_a",
    "INSERT INTO keyed VALUES (7000, 8, 'h', 0)",
    "CREATE UNIQUE INDEX keyed_a ON keyed (a)",
    "SELECT * FROM keyed",
)


def _placed(pair: oracle.Pair, layout: str = "distributed") -> None:
    pair.both(_TABLE)
    layouts.place(pair, "keyed", layout, key="pk", time="")


def _shards(pair: oracle.Pair) -> int:
    return int(pair.orochi("SELECT count(*) FROM orochi.shards WHERE table_name = 'keyed'")[0][0])


@pytest.mark.parametrize("layout", ["distributed", "distributed-columnar"])
def test_an_empty_table_gets_one_shard(pair: oracle.Pair, layout: str) -> None:
    _placed(pair, layout)
    pair.same("BEGIN")
    pair.same("ALTER TABLE keyed ADD UNIQUE (a)")
    pair.same("INSERT INTO keyed VALUES (1, 1, 'x', 1)")
    pair.same("ROLLBACK")
    assert _shards(pair) == 4
    pair.same("CREATE UNIQUE INDEX keyed_a ON keyed (a DESC)")
    assert _shards(pair) == 1
    for number, statement in enumerate(_STATEMENTS):
        pair.same(statement, details=False)
        if number == 0:
            layouts.compress(pair, "keyed", layout)
    pair.check_tables("keyed")


def test_a_table_with_rows_refuses_them(pair: oracle.Pair) -> None:
    _placed(pair)
    pair.both("INSERT INTO keyed VALUES (1, 1, 'x', 1)")
    refused = oracle.ask(pair.gateway, "CREATE UNIQUE INDEX keyed_a ON keyed (a)")
    assert refused.sqlstate == "0A000"
    assert "one shard" in (refused.hint or "")
    pair.both("DELETE FROM keyed", "CREATE UNIQUE INDEX keyed_a ON keyed (a)")
    assert _shards(pair) == 1


def test_one_shard_takes_any_key(pair: oracle.Pair) -> None:
    pair.both("CREATE TABLE keyed (a int, b int UNIQUE)", "INSERT INTO keyed VALUES (1, 2), (2, 3)")
    refused = oracle.ask(pair.gateway, "SELECT create_distributed_table('keyed', 'a', 4)")
    assert refused.sqlstate == "0A000"
    pair.orochi("SELECT create_distributed_table('keyed', 'a', 1)")
    pair.same("INSERT INTO keyed VALUES (3, 3)")
    pair.check_tables("keyed")


@pytest.mark.parametrize(("end", "sqlstate"), [("COMMIT", "0A000"), ("ROLLBACK", None)])
def test_writers_are_waited_for(
    cluster: clusters.Cluster, pair: oracle.Pair, end: str, sqlstate: str | None
) -> None:
    """Rows that another session is writing count, and that session's next statement finds the new shard."""
    _placed(pair)
    write = "INSERT INTO keyed VALUES (1, 1, 'x', 0), (2, 2, 'y', 0), (3, 3, 'z', 0)"
    index = "CREATE UNIQUE INDEX keyed_a ON keyed (a)"
    ours, _ = races.race(cluster, pair, [write], index, end=end, on=[cluster.coordinator_dsn])
    assert ours.sqlstate == sqlstate
    pair.both("INSERT INTO keyed VALUES (4, 4, 'w', 0)")
    pair.check_tables("keyed")
