"""Materialized views over Orochi tables hold what they hold over plain tables, whoever fills them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import cluster as clusters
from tests.support import layouts, oracle

_TOTALS = "SELECT tenant, count(*) AS n, sum(amount) AS amount, max(at) AS last, count(ratio) AS r FROM events GROUP BY 1"
_READ = "SELECT * FROM totals ORDER BY tenant"
_INSERT = "INSERT INTO events (tenant, at, id, amount) VALUES (%s, '2024-03-12 10:00+00', 900001, 4.5)"


@pytest.fixture(scope="module", params=["distributed", "both-compressed", "reference"])
def kept(module_pair: oracle.Pair, request: pytest.FixtureRequest) -> Iterator[oracle.Pair]:
    """The table of the layout."""
    layouts.events(module_pair, request.param)
    yield module_pair
    module_pair.both("DROP TABLE events CASCADE")


@pytest.fixture
def made(kept: oracle.Pair) -> Iterator[oracle.Pair]:
    kept.same(f"CREATE MATERIALIZED VIEW totals AS {_TOTALS}")
    yield kept
    kept.both("DELETE FROM events WHERE id > 900000", "DROP MATERIALIZED VIEW IF EXISTS totals CASCADE")


def test_they_are_filled_refreshed_and_read(made: oracle.Pair) -> None:
    made.same(f"CREATE MATERIALIZED VIEW IF NOT EXISTS totals AS {_TOTALS}")
    made.same(f"CREATE MATERIALIZED VIEW totals AS {_TOTALS}")
    made.same(_READ)
    made.same(_INSERT, (3,))
    made.same(_READ)
    made.same("REFRESH MATERIALIZED VIEW totals")
    made.same(_READ)
    made.same("REFRESH MATERIALIZED VIEW CONCURRENTLY totals")
    made.same("CREATE UNIQUE INDEX totals_key ON totals (tenant)")
    made.same(_INSERT, (99,))
    made.same("REFRESH MATERIALIZED VIEW CONCURRENTLY totals")
    made.same(_READ)
    made.same(
        "SELECT t.n, e.id FROM totals AS t JOIN events AS e USING (tenant) WHERE e.id < 20 ORDER BY 2, 1"
    )
    made.same("CREATE VIEW above AS SELECT tenant, n FROM totals WHERE n > 1")
    made.same("SELECT * FROM above ORDER BY 1")
    made.same("REFRESH MATERIALIZED VIEW totals WITH NO DATA")
    made.same(_READ)
    made.same("REFRESH MATERIALIZED VIEW totals")
    made.same(_READ)


def test_without_data_and_through_views(made: oracle.Pair) -> None:
    made.both(
        "CREATE VIEW seen AS SELECT e.id, e.amount, o.n FROM events AS e JOIN totals AS o USING (tenant)"
    )
    made.same("CREATE MATERIALIZED VIEW later AS SELECT * FROM seen WHERE id % 7 = 3 WITH NO DATA")
    made.same("SELECT * FROM later")
    made.same("REFRESH MATERIALIZED VIEW later")
    made.same("SELECT * FROM later ORDER BY id")
    made.same("DROP VIEW seen CASCADE")
    made.same("SELECT * FROM later")


def test_transactions_see_what_they_wrote(made: oracle.Pair) -> None:
    for end in ("ROLLBACK", "COMMIT"):
        made.same("BEGIN")
        made.same(_INSERT, (5,))
        made.same("REFRESH MATERIALIZED VIEW totals")
        made.same(f"CREATE MATERIALIZED VIEW inside AS {_TOTALS}")
        made.same("SELECT * FROM inside ORDER BY tenant")
        made.same(_READ)
        made.same(end)
        made.same(_READ)
    made.same("DROP MATERIALIZED VIEW inside")


def test_direct_connections_fill_them(made: oracle.Pair, cluster: clusters.Cluster) -> None:
    home = made.orochi("SELECT current_schema()")[0][0]
    made.same(_INSERT, (6,))
    made.both(f"CREATE MATERIALIZED VIEW direct AS {_TOTALS} WITH NO DATA")
    with cluster.connect_coordinator() as direct:
        direct.execute(f"REFRESH MATERIALIZED VIEW {home}.direct")
        direct.execute(f"REFRESH MATERIALIZED VIEW {home}.totals")
    made.plain.execute("REFRESH MATERIALIZED VIEW direct")
    made.plain.execute("REFRESH MATERIALIZED VIEW totals")
    made.same(_READ)
    made.same("SELECT * FROM direct ORDER BY tenant")
    with cluster.connect_coordinator() as direct:
        direct.execute(f"CREATE MATERIALIZED VIEW {home}.other AS SELECT id, what FROM {home}.events")
    made.plain.execute("CREATE MATERIALIZED VIEW other AS SELECT id, what FROM events")
    made.same("SELECT * FROM other ORDER BY id, what")
    made.same("DROP MATERIALIZED VIEW other, direct")


def test_a_table_is_not_dropped_under_one(made: oracle.Pair) -> None:
    made.same("DROP TABLE events")
    made.same("ALTER TABLE events DROP COLUMN ratio")
    made.same("ALTER TABLE events ALTER COLUMN amount TYPE text", details=False)
    made.same(_READ)


def test_what_a_child_cannot_tell_is_refused(made: oracle.Pair, cluster: clusters.Cluster) -> None:
    home = made.orochi("SELECT current_schema()")[0][0]
    for source in (
        f"SELECT id FROM ONLY {home}.events",
        f"SELECT id FROM {home}.events TABLESAMPLE SYSTEM (10)",
        f"SELECT tableoid AS part FROM {home}.events",
    ):
        with cluster.connect_coordinator() as direct:
            for connection in (made.gateway, direct):
                answer = oracle.ask(connection, f"CREATE MATERIALIZED VIEW {home}.never AS {source}")
                assert (answer.sqlstate, bool(answer.hint)) == ("0A000", True), source
    made.same(_READ)
