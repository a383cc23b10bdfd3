"""A role does what PostgreSQL lets it do, and no more, by every strategy; a right that is gone is gone at once."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import conninfo

from tests.support import cluster as clusters
from tests.support import layouts, oracle

_ROLES = ("rights_none", "rights_read", "rights_columns", "rights_write", "rights_member")
_STATEMENTS = {
    "router": "SELECT id FROM events WHERE tenant = 3",
    "pushdown": "SELECT id FROM events WHERE id < 20",
    "two-phase": "SELECT tenant, count(*), max(id) FROM events GROUP BY tenant",
    "pull": "SELECT id, row_number() OVER (ORDER BY id) FROM events",
    "join": "SELECT count(k.v) FROM events AS e JOIN kinds AS k ON k.k = e.tenant",
    "reference": "SELECT v FROM kinds WHERE k = 1",
    "reference-count": "SELECT count(v) FROM kinds",
    "subquery": "SELECT 1 WHERE EXISTS (SELECT FROM events)",
    "cte": "WITH x AS (SELECT id FROM events) SELECT count(*) FROM x",
    "column": "SELECT amount FROM events WHERE tenant = 3",
    "column-aggregate": "SELECT sum(amount) FROM events",
    "column-where": "SELECT id FROM events WHERE amount > 3",
    "column-order": "SELECT id FROM events ORDER BY amount, id",
    "whole-row": "SELECT e FROM events AS e WHERE tenant = 3",
    "union": "SELECT id FROM events UNION ALL SELECT k FROM kinds",
    "lock": "SELECT v FROM kinds WHERE k = 1 FOR UPDATE",
    "insert": "INSERT INTO events (tenant, at, id) VALUES (3, '2024-03-10', 7777)",
    "insert-column": "INSERT INTO events (tenant, at, id, amount) VALUES (3, '2024-03-10', 7777, 1)",
    "insert-returning": "INSERT INTO events (tenant, at, id) VALUES (3, '2024-03-10', 7777) RETURNING amount",
    "insert-select": "INSERT INTO events (tenant, at, id) SELECT k, '2024-03-10', 8888 FROM kinds",
    "conflict": "INSERT INTO events (tenant, at, id) VALUES (3, '2024-03-10', 7)"
    " ON CONFLICT (tenant, at, id) DO UPDATE SET amount = 1",
    "update": "UPDATE events SET what = 'x' WHERE tenant = 3",
    "update-column": "UPDATE events SET amount = 1 WHERE tenant = 3",
    "update-where": "UPDATE events SET what = 'x' WHERE amount < 10",
    "delete": "DELETE FROM events WHERE tenant = 3",
    "view": "SELECT * FROM seen WHERE tenant = 3",
    "view-of-the-invoker": "SELECT * FROM seen_by_me WHERE tenant = 3",
    "create-table-as": "CREATE TABLE copied AS SELECT id FROM events",
    "cursor": "DECLARE c CURSOR FOR SELECT id FROM events",
    "truncate": "TRUNCATE events",
    "alter": "ALTER TABLE events ADD COLUMN extra int",
    "drop": "DROP TABLE events",
    "index": "CREATE INDEX ON events (what)",
    "comment": "COMMENT ON TABLE events IS 'mine'",
}


@pytest.fixture(scope="module")
def shared(module_pair: oracle.Pair) -> Iterator[oracle.Pair]:
    """Tables, roles and their rights, in both databases of the one server."""
    layouts.events(module_pair, "both-compressed")
    module_pair.both(
        "CREATE TABLE kinds (k int PRIMARY KEY, v text)",
        "INSERT INTO kinds SELECT g, 'kind ' || g FROM generate_series(0, 9) AS g",
        "CREATE VIEW seen AS SELECT tenant, id FROM events",
        "CREATE VIEW seen_by_me WITH (security_invoker) AS SELECT tenant, id FROM events",
    )
    module_pair.orochi("SELECT create_reference_table('kinds')")
    for role in _ROLES:
        module_pair.gateway.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    module_pair.gateway.execute("GRANT rights_read TO rights_member")
    schema = module_pair.orochi("SELECT current_schema")[0][0]
    module_pair.both(
        f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {', '.join(_ROLES)}",
        "GRANT SELECT ON events, kinds TO rights_read",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON events, kinds TO rights_write",
        "GRANT SELECT (tenant, at, id), INSERT (tenant, at, id), UPDATE (what) ON events TO rights_columns",
        "GRANT SELECT ON seen, seen_by_me TO rights_none, rights_read, rights_columns",
    )
    yield module_pair
    for connection in (module_pair.gateway, module_pair.plain):
        for role in _ROLES:
            connection.execute(f"DROP OWNED BY {role}")
    for role in _ROLES:
        module_pair.gateway.execute(f"DROP ROLE {role}")


def _connect(shared: oracle.Pair, cluster: clusters.Cluster, role: str) -> oracle.Pair:
    schema = shared.orochi("SELECT current_schema")[0][0]
    pair = []
    for dsn in (cluster.dsn, clusters.with_dbname(cluster.coordinator_dsn, "plain")):
        made = conninfo.make_conninfo(dsn, user=role, password="secret")
        pair.append(psycopg.connect(made, autocommit=True, prepare_threshold=None))
        pair[-1].execute(f"SET search_path TO {schema}")
    return oracle.Pair(*pair)


@pytest.mark.parametrize("role", _ROLES)
def test_statements(shared: oracle.Pair, cluster: clusters.Cluster, role: str) -> None:
    pair = _connect(shared, cluster, role)
    with pair.gateway, pair.plain:
        for sql in _STATEMENTS.values():
            pair.both("BEGIN")
            pair.same(sql)
            pair.both("ROLLBACK")
        for sql in (
            "COPY events TO STDOUT",
            "COPY (SELECT id FROM events) TO STDOUT",
            "COPY kinds TO STDOUT",
        ):
            states = []
            for connection in (pair.gateway, pair.plain):
                try:
                    with connection.cursor() as cursor, cursor.copy(sql) as copy:
                        states.append(str(sum(1 for _ in copy)))
                except psycopg.Error as error:
                    states.append(f"{error.sqlstate} {error.diag.message_primary}")
            assert states[0] == states[1], sql


@pytest.mark.parametrize("prepare", [False, True])
def test_revoked_at_once(shared: oracle.Pair, cluster: clusters.Cluster, prepare: bool) -> None:
    pair = _connect(shared, cluster, "rights_read")
    owner = shared.gateway
    with pair.gateway, pair.plain:
        for sql, parameters in (
            ("SELECT id FROM events WHERE tenant = %s", (3,)),
            ("SELECT count(*) FROM events", None),
            ("SELECT v FROM kinds WHERE k = %s", (7,)),
        ):
            for _ in range(4):
                pair.gateway.execute(sql, parameters, prepare=prepare)
            table = "kinds" if "kinds" in sql else "events"
            for steps in (("{}",), ("BEGIN", "{}", "COMMIT")):
                for step in steps:
                    owner.execute(step.format(f"REVOKE SELECT ON {table} FROM rights_read"))
                refused = oracle.ask(pair.gateway, sql, parameters, prepare=prepare)
                assert refused.sqlstate == "42501", (sql, steps)
                owner.execute(f"GRANT SELECT ON {table} TO rights_read")
                pair.gateway.execute(sql, parameters, prepare=prepare)
    pair = _connect(shared, cluster, "rights_member")
    with pair.gateway, pair.plain:
        pair.gateway.execute("SELECT v FROM kinds WHERE k = %s", (7,), prepare=prepare)
        owner.execute("REVOKE rights_read FROM rights_member")
        assert oracle.ask(pair.gateway, "SELECT v FROM kinds WHERE k = %s", (7,)).sqlstate == "42501"
        owner.execute("GRANT rights_read TO rights_member")
    owner.execute("SET ROLE rights_none")
    assert oracle.ask(owner, "SELECT v FROM kinds WHERE k = 7").sqlstate == "42501"
    owner.execute("RESET ROLE")


def test_owners_of_aggregates(shared: oracle.Pair, cluster: clusters.Cluster) -> None:
    """An aggregate is made whole or not at all, changes hands whole, and is refreshed with its owner's rights only."""
    days = (
        " WITH (orochi.continuous) AS SELECT time_bucket('1 day', at) AS day, count(*) FROM events GROUP BY 1"
    )
    pair, owner = _connect(shared, cluster, "rights_none"), shared.gateway
    refresh, read = "SELECT refresh_continuous_aggregate('days')", "SELECT sum(count) > 0 FROM days"
    with pair.gateway as mine, pair.plain:
        mine.execute(f"SET search_path TO {shared.orochi('SELECT current_schema')[0][0]}, orochi".encode())
        assert oracle.ask(mine, f"CREATE MATERIALIZED VIEW days{days}").sqlstate == "42501"
        assert shared.orochi("SELECT to_regclass('days')") == [(None,)]
        owner.execute(f"CREATE MATERIALIZED VIEW days{days}".encode())
        for call in ("drop_chunks('days', interval '1 day')", "hypertable_size('days')"):
            refused = oracle.ask(mine, f"SELECT {call}")
            assert (refused.sqlstate, refused.message) == (
                "42501",
                "must be owner of continuous aggregate days",
            )
        refused = oracle.ask(mine, "CREATE INDEX ON days (count)")
        assert (refused.sqlstate, refused.message) == ("42501", "must be owner of continuous aggregate days")
        owner.execute("ALTER MATERIALIZED VIEW days OWNER TO rights_none")
        for connection in (mine, owner):  # as a view's, what is read is the owner's to read
            for sql in (read, refresh):
                refused = oracle.ask(connection, sql)
                assert (refused.sqlstate, refused.message) == ("42501", "permission denied for table events")
        owner.execute("GRANT SELECT (at) ON events TO rights_none")
        owner.execute("UPDATE events SET what = what WHERE tenant = 3")
        for sql in (
            read,
            refresh,
            read,
            "CREATE INDEX ON days (count, day DESC) WHERE count > 2",
            "SELECT compress_chunk(c) FROM show_chunks('days') c",
            "SELECT set_chunk_time_interval('days', interval '90 days')",
            "CREATE INDEX counted ON days (count)",
            "DROP INDEX orochi_aggregates.counted",
        ):
            assert oracle.ask(mine, sql).sqlstate is None, sql
        for sql, state in (
            ("CREATE UNIQUE INDEX ON days (count)", "0A000"),
            ("CREATE TABLE orochi_aggregates.more (n int)", "42501"),
        ):
            assert oracle.ask(mine, sql).sqlstate == state
        assert shared.orochi(
            "SELECT indexdef FROM pg_indexes WHERE schemaname = 'orochi_aggregates' AND indexdef ~ 'count' AND indexdef ~ '> 2'"
        )
        owner.execute("REVOKE SELECT (at) ON events FROM rights_none")
        owner.execute("ALTER VIEW days OWNER TO CURRENT_USER")
        assert shared.orochi(read) == [(True,)]
        owner.execute("DROP MATERIALIZED VIEW days")


def test_an_aggregate_that_cannot_be_filled(shared: oracle.Pair) -> None:
    bad = "SELECT time_bucket('1 day', at) AS day, sum(1 / (tenant - 3)) FROM events GROUP BY 1"
    for statement in (
        f"CREATE MATERIALIZED VIEW bad WITH (timescaledb.continuous) AS {bad}",
        f"SELECT create_continuous_aggregate('bad', $${bad}$$)",
    ):
        assert oracle.ask(shared.gateway, statement).sqlstate == "22012"
        assert shared.orochi("SELECT to_regclass('bad')") == [(None,)]
        assert shared.orochi("SELECT to_regnamespace('orochi_aggregates')") == [(None,)]
