"""Row-level security: a role sees and writes the rows that it would on a plain table, or gets 0A000; never others."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import conninfo

from tests.support import cluster as clusters
from tests.support import layouts, oracle

_ROLES = ("rls_one", "rls_two", "rls_bypass")
#: Sets of policies.
_POLICIES = {
    "roles": (
        "CREATE POLICY p ON events TO rls_one USING (tenant IN (1, 3)) WITH CHECK (tenant = 3)",
        "CREATE POLICY q ON events FOR SELECT TO rls_two USING (id % 2 = 0)",
    ),
    "commands": (
        "CREATE POLICY s ON events FOR SELECT USING (tenant <> 2)",
        "CREATE POLICY i ON events FOR INSERT WITH CHECK (id > 900000 AND tenant <> 1)",
        "CREATE POLICY d ON events FOR DELETE USING (tenant = 3)",
    ),
    "user": (
        "CREATE POLICY p ON events USING (tenant = CASE current_user WHEN 'rls_one' THEN 1 ELSE 3 END)",
    ),
    "orochi": (
        "CREATE POLICY p ON events USING (EXISTS (SELECT FROM kinds WHERE k = tenant AND v = 'kind ' || k))",
    ),
    "failing": ("CREATE POLICY p ON events USING (lower(what) LIKE 'w%' OR 10 / (tenant + 1) > 2)",),
}
_STATEMENTS = (
    "SELECT id FROM events WHERE tenant = 3",
    "SELECT id, what FROM events WHERE id < 40",
    "SELECT tenant, count(*), max(id) FROM events GROUP BY tenant",
    "SELECT count(*) FROM events",
    "SELECT id, row_number() OVER (ORDER BY id, tenant, at) FROM events WHERE id < 30",
    "SELECT count(k.v) FROM events AS e JOIN kinds AS k ON k.k = e.tenant",
    "SELECT k, (SELECT count(*) FROM events WHERE tenant = k) FROM kinds",
    "WITH x AS (SELECT id FROM events) SELECT count(*) FROM x",
    "SELECT id FROM events UNION ALL SELECT k FROM kinds",
    "SELECT e FROM events AS e WHERE tenant = 3 AND id < 40",
    "SELECT count(*) FROM seen",
    "SELECT count(*) FROM seen_by_me WHERE tenant = 3",
    "SELECT total()",
    "SELECT total_of_owner()",
    "SELECT id FROM (SELECT * FROM events OFFSET 0) AS e WHERE 1000 / (tenant - 2) > 0 OR tenant = 2",
    "CREATE TEMPORARY TABLE copied AS SELECT id FROM events",
    "INSERT INTO events (tenant, at, id) VALUES (3, '2024-03-12', 900001)",
    "INSERT INTO events (tenant, at, id) VALUES (1, '2024-03-12', 900002)",
    "INSERT INTO events (tenant, at, id) VALUES (2, '2024-03-12', 900003) RETURNING id, tenant",
    "INSERT INTO events (tenant, at, id) SELECT tenant, at, id + 900000 FROM events WHERE tenant = 3",
    "INSERT INTO copied_to SELECT id FROM events",
    "SELECT id FROM events WHERE 1000 / (tenant - 2) > 0 OR what IS NULL",
    "SELECT id FROM events WHERE lower(what) = 'w3' AND tenant = 3",
    "SELECT count(*) FROM ONLY events WHERE upper(what) <> 'W1'",
    "SELECT e.id, k.v FROM events AS e LEFT JOIN kinds AS k ON k.k = e.tenant AND length(k.v) > 1 WHERE abs(e.id) < 40",
    "INSERT INTO seen (tenant, id) SELECT 3, 900001",
)
#: Run by an admin in the role; afterwards the whole table is looked at.
_WRITES = (
    "DELETE FROM events WHERE tenant = 3",
    "DELETE FROM events WHERE id > 5 RETURNING id",
    "DELETE FROM events AS e USING kinds AS k WHERE k.k = e.tenant AND k.v IS NOT NULL RETURNING e.id",
    "UPDATE events SET what = 'x' WHERE tenant = 3",
    "UPDATE events SET what = 'x' WHERE lower(what) = 'w3' RETURNING id, what",
    "UPDATE events SET tenant = 9 WHERE id = 7",
    "UPDATE events SET id = id + 1000 WHERE tenant IN (1, 3)",
    "UPDATE events AS e SET what = k.v FROM kinds AS k WHERE k.k = e.tenant AND e.id < 40 RETURNING e.id, e.what",
    "UPDATE events AS e SET what = 'y' FROM events AS o WHERE o.id = e.id AND o.tenant = e.tenant AND o.at = e.at AND e.id < 40",
    "INSERT INTO events (tenant, at, id) VALUES (3, '2024-03-12', 900001) ON CONFLICT DO NOTHING",
    "MERGE INTO events USING kinds ON k = tenant WHEN MATCHED THEN DELETE",
    """MERGE INTO events USING kinds ON k = tenant AND tenant < 4 WHEN MATCHED AND id % 2 = 0 THEN UPDATE SET what = v
    WHEN NOT MATCHED THEN INSERT (tenant, at, id) VALUES (k, '2024-03-12', 900000 + k)""",
    "WITH x AS (DELETE FROM events RETURNING id) SELECT count(*) FROM x",
    "WITH x AS (UPDATE events SET what = 'z' WHERE id < 30 RETURNING id) INSERT INTO copied_to SELECT id FROM x",
    "SELECT id FROM events WHERE tenant = 3 FOR UPDATE",
    "SELECT e.id FROM events AS e JOIN kinds ON k = tenant WHERE lower(what) <> 'w1' FOR NO KEY UPDATE OF e",
)
#: 0A000 may be the answer instead of PostgreSQL's.
_PERHAPS = (
    "SELECT tableoid = 'events'::regclass FROM events WHERE id < 9",
    "SELECT e FROM events AS e WHERE 1000 / (tenant - 2) > 0",
    "SELECT count(*) FROM seen_by_failing",
    "DELETE FROM seen WHERE id < 40",
    "UPDATE seen SET id = id + 1 WHERE id < 40",
    "DELETE FROM seen_by_me WHERE id < 40",
    "UPDATE seen_by_me SET id = id + 1 WHERE id < 40",
    "SELECT count(*) FROM events TABLESAMPLE bernoulli (100)",
)
#: Division by zero, a text that is no number.
_ROW_ERRORS = ("22012", "22P02")


@pytest.fixture(scope="module", params=["both-compressed"])
def shared(module_pair: oracle.Pair, request: pytest.FixtureRequest) -> Iterator[oracle.Pair]:
    """Tables, roles and rights, in both databases of the one server."""
    layouts.events(module_pair, request.param)
    module_pair.both(
        "CREATE TABLE kinds (k int PRIMARY KEY, v text)",
        "INSERT INTO kinds SELECT g, CASE WHEN g % 2 = 1 THEN 'kind ' || g END FROM generate_series(0, 9) AS g",
        "CREATE TABLE mine (k int, who name)",
        "INSERT INTO mine VALUES (1, 'rls_one'), (2, 'rls_one'), (3, 'rls_two')",
        "CREATE TABLE copied_to (id int)",
        "CREATE VIEW seen AS SELECT tenant, id FROM events",
        "CREATE VIEW seen_by_me WITH (security_invoker) AS SELECT tenant, id FROM events",
        "CREATE VIEW seen_by_failing WITH (security_invoker) AS SELECT id FROM events WHERE 1000 / (tenant - 2) > 0",
        "CREATE FUNCTION total() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM events'",
    )
    schema = module_pair.orochi("SELECT current_schema")[0][0]
    module_pair.both(
        f"CREATE FUNCTION total_of_owner() RETURNS bigint LANGUAGE sql SECURITY DEFINER"
        f" AS 'SELECT count(*) FROM {schema}.events'"
    )
    module_pair.orochi("SELECT create_reference_table('kinds')")
    for role in _ROLES:
        module_pair.gateway.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    module_pair.gateway.execute("ALTER ROLE rls_bypass BYPASSRLS")
    everyone = ", ".join(_ROLES)
    module_pair.both(
        f"GRANT USAGE ON SCHEMA {schema} TO {everyone}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {everyone}",
    )
    yield module_pair
    for connection in (module_pair.gateway, module_pair.plain):
        for role in _ROLES:
            connection.execute(f"DROP OWNED BY {role}")
    for role in _ROLES:
        module_pair.gateway.execute(f"DROP ROLE {role}")
    module_pair.both(
        "DROP FUNCTION total, total_of_owner", "DROP TABLE events, kinds, mine, copied_to CASCADE"
    )


def _connect(shared: oracle.Pair, cluster: clusters.Cluster, role: str) -> oracle.Pair:
    schema = shared.orochi("SELECT current_schema")[0][0]
    pair = []
    for dsn in (cluster.dsn, clusters.with_dbname(cluster.coordinator_dsn, "plain")):
        made = conninfo.make_conninfo(dsn, user=role, password="secret")
        pair.append(psycopg.connect(made, autocommit=True, prepare_threshold=None))
        pair[-1].execute(f"SET search_path TO {schema}")
        pair[-1].execute("SET app.tenant = '3'")
    return oracle.Pair(*pair)


@pytest.fixture(params=_POLICIES)
def secured(shared: oracle.Pair, request: pytest.FixtureRequest) -> Iterator[oracle.Pair]:
    """The table under a set of policies."""
    for sql in (*_POLICIES[request.param], "ALTER TABLE events ENABLE ROW LEVEL SECURITY"):
        shared.same(sql)
    yield shared
    shared.same("ALTER TABLE events DISABLE ROW LEVEL SECURITY")
    for (name,) in shared.plain.execute("SELECT polname FROM pg_policy").fetchall():
        shared.same(f"DROP POLICY {name} ON events")


@pytest.mark.parametrize(
    ("secured", "role"),
    [(policies, "rls_one") for policies in ("roles", "orochi", "failing")]
    + [("user", "rls_two"), ("commands", "rls_bypass")],
    indirect=["secured"],
)
def test_statements(secured: oracle.Pair, cluster: clusters.Cluster, role: str) -> None:
    pair = _connect(secured, cluster, role)
    refused = 0
    with pair.gateway, pair.plain:
        for sql in (*_STATEMENTS, *_PERHAPS):
            pair.both("BEGIN")
            ours, theirs = (oracle.ask(item, sql) for item in (pair.gateway, pair.plain))
            if sql in _PERHAPS and ours.sqlstate == "0A000":
                refused += 1
            elif theirs.sqlstate in _ROW_ERRORS:  # the first row to fail may be another
                assert ours.sqlstate == theirs.sqlstate, (sql, ours)
            else:
                oracle.assert_same(sql, ours, theirs, details=False)
            if sql.startswith("INSERT") and theirs.sqlstate is None:
                pair.same("SELECT count(*), sum(id) FROM events", details=False)
            pair.both("ROLLBACK")
        pair.both(
            "BEGIN", "DECLARE c CURSOR FOR SELECT id, id FROM events ORDER BY id, tenant", "DELETE FROM kinds"
        )
        pair.same("FETCH 5 FROM c")
        pair.same("SELECT is_scrollable FROM pg_cursors")
        pair.both("ROLLBACK")
        for prepare in (False, True):
            for parameter in (1, 2, 3, 3):
                pair.same("SELECT id FROM events WHERE tenant = %s", (parameter,), prepare=prepare)
        ours, theirs = pair.copy_out("COPY events TO STDOUT")
        assert sorted(ours.splitlines()) == sorted(theirs.splitlines())
        ours, theirs = pair.copy_out("COPY (SELECT id FROM events) TO STDOUT (FORMAT csv)")
        assert sorted(ours.splitlines()) == sorted(theirs.splitlines())
        if role != "rls_bypass":
            for connection in (pair.gateway, pair.plain):
                with (
                    pytest.raises(psycopg.errors.FeatureNotSupported, match="COPY FROM not supported"),
                    connection.cursor() as cursor,
                    cursor.copy("COPY events FROM STDIN") as copy,
                ):
                    copy.write(b"")
        pair.both("SET row_security = off")
        pair.same("SELECT count(*) FROM events")
        if role != "rls_bypass":
            pair.same("INSERT INTO events (tenant, at, id) VALUES (3, '2024-03-12', 7) RETURNING id")
            pair.same("DELETE FROM events WHERE tenant = 3")
            pair.same("DECLARE c CURSOR WITH HOLD FOR SELECT id FROM events")
    assert not (role == "rls_bypass" and refused > 4)


@pytest.mark.parametrize(
    ("secured", "role"),
    [(policies, "rls_one") for policies in ("commands", "failing")],
    indirect=["secured"],
)
def test_writes(secured: oracle.Pair, role: str) -> None:
    secured.both("SET app.tenant = '3'")
    for sql in _WRITES:
        secured.both("BEGIN", f"SET LOCAL ROLE {role}")
        ours, theirs = (oracle.ask(item, sql) for item in (secured.gateway, secured.plain))
        oracle.assert_same(sql, ours, theirs, details=False)
        if theirs.sqlstate is None:
            secured.both("RESET ROLE")
            secured.same("SELECT * FROM events ORDER BY 1, 2, 3")
        secured.both("ROLLBACK")


def test_who_it_is_for_changes_at_once(shared: oracle.Pair, cluster: clusters.Cluster) -> None:
    home = shared.orochi("SELECT current_schema()")[0][0]
    pair = _connect(shared, cluster, "rls_one")
    queries = (
        ("SELECT id FROM events WHERE tenant = %s", (3,)),
        ("SELECT count(*) FROM events", None),
        ("SELECT e.id FROM events AS e JOIN kinds AS k ON k.k = e.tenant WHERE k.k = %s", (3,)),
    )
    with pair.gateway, pair.plain, cluster.connect_coordinator() as direct:
        direct.execute(f"SET search_path TO {home}")
        for admin in (shared.gateway, direct):
            for steps in (
                ("ENABLE ROW LEVEL SECURITY",),
                ("DISABLE ROW LEVEL SECURITY",),
                ("BEGIN", "ENABLE ROW LEVEL SECURITY", "COMMIT"),
                ("BEGIN", "DISABLE ROW LEVEL SECURITY", "ROLLBACK"),
                ("NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY",),
            ):
                for sql, parameters in queries:
                    pair.same(sql, parameters, prepare=True)
                for connection in (admin, shared.plain):
                    for step in steps:
                        connection.execute(f"ALTER TABLE events {step}" if "ROW" in step else step)
                if admin is direct:  # word of it comes from the server
                    clusters.eventually(
                        lambda: (
                            oracle.ask(pair.gateway, queries[1][0]).rows
                            == oracle.ask(pair.plain, queries[1][0]).rows
                        )
                    )
                for prepare in (False, True):
                    for sql, parameters in queries:
                        pair.same(sql, parameters, prepare=prepare)


def test_policies_that_a_child_would_compute_otherwise_are_refused(shared: oracle.Pair) -> None:
    for condition in ("tableoid = 'events'::regclass", "EXISTS (SELECT FROM ONLY kinds)"):
        answer = oracle.ask(shared.gateway, f"CREATE POLICY p ON events USING ({condition})")
        assert (answer.sqlstate, bool(answer.hint)) == ("0A000", True)


def test_tables_that_have_policies_are_placed(pair: oracle.Pair) -> None:
    pair.both(
        "CREATE TABLE t (k int, v int)",
        "CREATE POLICY p ON t USING (v < 3)",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        "INSERT INTO t SELECT g, g % 5 FROM generate_series(1, 50) AS g",
    )
    schema = pair.orochi("SELECT current_schema()")[0][0]
    pair.gateway.execute("CREATE ROLE rls_owner")
    try:
        pair.both(
            f"GRANT ALL ON SCHEMA {schema} TO rls_owner",
            "ALTER TABLE t OWNER TO rls_owner",
            "SET ROLE rls_owner",
        )
        pair.same("SELECT count(*) FROM t")
        answer = oracle.ask(pair.gateway, "SELECT create_distributed_table('t', 'k', 4)")
        assert (answer.sqlstate, bool(answer.hint)) == ("0A000", True)
        pair.both("ALTER TABLE t NO FORCE ROW LEVEL SECURITY")
        pair.orochi("SELECT create_distributed_table('t', 'k', 4)")
        pair.same("SELECT count(*) FROM t")
        pair.both("ALTER TABLE t FORCE ROW LEVEL SECURITY")
        pair.same("SELECT count(*) FROM t")
        pair.same("INSERT INTO t VALUES (100, 4)")
        pair.both("ALTER TABLE t NO FORCE ROW LEVEL SECURITY")
        pair.orochi("SELECT undistribute_table('t')")
        pair.same("SELECT count(*), sum(k) FROM t")
    finally:
        for connection in (pair.gateway, pair.plain):
            connection.execute("RESET ROLE")
            connection.execute("DROP OWNED BY rls_owner CASCADE")
        pair.gateway.execute("DROP ROLE rls_owner")


@pytest.mark.parametrize("secured", ["roles", "user"], indirect=True)
def test_set_role_and_owners(secured: oracle.Pair) -> None:
    owner = secured.orochi("SELECT current_user")[0][0]
    for role in ("rls_one", "rls_bypass", "rls_two", owner):
        secured.both(f'SET ROLE "{role}"')
        for prepare in (False, True):
            for _ in range(2):
                secured.same("SELECT id FROM events WHERE tenant = %s", (3,), prepare=prepare)
        secured.same("SELECT count(*) FROM seen_by_me")
    secured.both("RESET ROLE", "ALTER TABLE events OWNER TO rls_two", "SET ROLE rls_two")
    secured.same("SELECT count(*) FROM events")
    secured.same("ALTER TABLE events FORCE ROW LEVEL SECURITY")
    secured.same("SELECT count(*) FROM events")
    secured.same("SELECT count(*) FROM seen")
    secured.same("ALTER TABLE events NO FORCE ROW LEVEL SECURITY")
    secured.same("SELECT count(*) FROM events")
    secured.both("RESET ROLE", f'ALTER TABLE events OWNER TO "{owner}"')
