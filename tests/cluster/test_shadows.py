"""Names mean what PostgreSQL says they mean: temporary tables and other schemas may hide an Orochi table."""

from __future__ import annotations

import pytest

from tests.support import cluster as clusters
from tests.support import oracle


@pytest.fixture
def ev(pair: oracle.Pair) -> oracle.Pair:
    """`ev` with six rows, distributed on the gateway's side."""
    pair.both("CREATE TABLE ev (k int PRIMARY KEY, v text)")
    pair.orochi("SELECT create_distributed_table('ev', 'k', 4)")
    pair.both("INSERT INTO ev SELECT g, 'row ' || g FROM generate_series(1, 6) AS g")
    return pair


def schema_of(pair: oracle.Pair) -> str:
    [(name,)] = pair.orochi("SELECT current_schema()")
    return str(name)


def test_temporary_table_hides_and_comes_back(ev: oracle.Pair) -> None:
    ev.both("CREATE TEMP TABLE ev (k int, v text)")
    ev.same("SELECT * FROM ev")
    ev.same("INSERT INTO ev VALUES (100, 'temp'), (101, 'temp') RETURNING *")
    ev.same("UPDATE ev SET v = v || '!' WHERE k = 100")
    ev.same("DELETE FROM ev WHERE k = 101")
    ev.same("SELECT * FROM ev WHERE k = 100")
    ev.same(f"SELECT count(*) FROM {schema_of(ev)}.ev")
    ev.same(f"SELECT t.v, s.v FROM pg_temp.ev AS t, {schema_of(ev)}.ev AS s ORDER BY s.k")
    ev.same(f"INSERT INTO ev SELECT * FROM {schema_of(ev)}.ev")
    ev.same("SELECT * FROM ev ORDER BY k")
    ev.copy_in("COPY ev FROM STDIN", b"7\tcopied\n")
    ours, theirs = ev.copy_out("COPY ev TO STDOUT")
    assert sorted(ours.splitlines()) == sorted(theirs.splitlines())
    ev.same("ALTER TABLE ev ADD COLUMN extra int")
    ev.same("TRUNCATE ev")
    ev.same("SELECT * FROM ev")
    ev.same("DROP TABLE ev")
    ev.same("SELECT * FROM ev ORDER BY k")
    ev.same("UPDATE ev SET v = 'changed' WHERE k = 1")
    ev.check_tables("ev")


@pytest.mark.parametrize(
    "creation",
    [
        "CREATE TEMP TABLE ev AS SELECT * FROM ev WHERE k > 4",
        "CREATE TEMPORARY TABLE ev AS SELECT 1 AS k, 'x'::text AS v",
        "SELECT k, v INTO TEMP ev FROM ev WHERE k < 3",
        "SELECT 1 AS k INTO pg_temp.ev",
        "CREATE TEMP VIEW ev AS SELECT 7 AS k",
        "DO $$ BEGIN CREATE TEMP TABLE ev (k int); END $$",
        "CREATE TABLE pg_temp.ev (k int)",
        "SET search_path = pg_temp, public; CREATE TABLE ev (k int)",
    ],
)
def test_ways_to_make_one(ev: oracle.Pair, creation: str) -> None:
    ev.both(creation)
    ev.same("SELECT * FROM ev")
    ev.both("DISCARD TEMP")
    ev.both("RESET search_path")
    ev.both(f"SET search_path = {ev_schema(ev)}, public")
    ev.same("SELECT * FROM ev ORDER BY k")


def ev_schema(pair: oracle.Pair) -> str:
    [(name,)] = pair.orochi(
        "SELECT max(n.nspname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
        "WHERE relname = 'ev' AND nspname ~ '^t[0-9]+$'"
    )
    return str(name)


def test_on_commit_drop_and_rollback(ev: oracle.Pair) -> None:
    for end in ("COMMIT", "ROLLBACK"):
        ev.both("BEGIN", "CREATE TEMP TABLE ev (k int) ON COMMIT DROP", "INSERT INTO ev VALUES (9)")
        ev.same("SELECT * FROM ev")
        ev.both(end)
        ev.same("SELECT * FROM ev ORDER BY k")
    ev.both("BEGIN", "SAVEPOINT s", "CREATE TEMP TABLE ev (k int)")
    ev.same("SELECT * FROM ev")
    ev.both("ROLLBACK TO s")
    ev.same("SELECT * FROM ev ORDER BY k")
    ev.both("COMMIT")


def test_made_by_a_function(ev: oracle.Pair) -> None:
    """The gateway could not know of it, so it is refused; never a wrong answer."""
    ev.orochi(
        "CREATE FUNCTION hide() RETURNS void LANGUAGE plpgsql AS 'BEGIN CREATE TEMP TABLE ev (k int); END'"
    )
    answer = oracle.ask(ev.gateway, "SELECT hide()")
    assert (answer.sqlstate, bool(answer.hint)) == ("0A000", True)
    ev.same("SELECT * FROM ev ORDER BY k")


def test_prepared_statements_follow_the_names(ev: oracle.Pair) -> None:
    for _ in range(2):
        ev.same("SELECT k FROM ev WHERE k = %s", (3,), prepare=True)
    ev.both("CREATE TEMP TABLE ev (k int)", "INSERT INTO ev VALUES (3), (3)")
    ev.same("SELECT k FROM ev WHERE v IS NULL AND k = %s", (3,))
    ev.same("SELECT count(k) FROM ev WHERE k = %s", (3,), prepare=True)
    ev.both("DROP TABLE ev")
    ev.same("SELECT count(k) FROM ev WHERE k = %s", (3,), prepare=True)
    ev.same("SELECT k FROM ev WHERE k = %s", (3,), prepare=True)


def test_search_path(ev: oracle.Pair) -> None:
    home = schema_of(ev)
    first = f"{home}_first"
    try:
        ev.both(f"CREATE SCHEMA {first}", f"CREATE TABLE {first}.ev (k int, v text)")
        ev.both(f"INSERT INTO {first}.ev VALUES (50, 'local')")
        ev.same("SELECT * FROM ev ORDER BY k")
        ev.both(f"SET search_path = {first}, {home}")
        ev.same("SELECT * FROM ev ORDER BY k")
        ev.same("INSERT INTO ev VALUES (51, 'local too')")
        ev.same(f"SELECT a.k, b.v FROM ev AS a JOIN {home}.ev AS b ON a.k = b.k + 49 ORDER BY 1")
        ev.same("SELECT * FROM ev WHERE k = %s", (51,), prepare=True)
        ev.both("ALTER TABLE ev RENAME TO other")
        ev.same("SELECT * FROM ev ORDER BY k")
        ev.same("SELECT * FROM ev WHERE k = %s", (1,), prepare=True)
        ev.both("ALTER TABLE other RENAME TO ev")
        ev.same("SELECT * FROM ev ORDER BY k")
        ev.both(f"DROP TABLE {first}.ev")
        ev.same("SELECT * FROM ev ORDER BY k")
        ev.both("BEGIN", f"CREATE TABLE {first}.ev (z int)")
        ev.same("SELECT * FROM ev")
        ev.both("ROLLBACK")
        ev.same("SELECT * FROM ev ORDER BY k")
        ev.both("BEGIN", f"CREATE VIEW {first}.ev AS SELECT 'a view'::text AS x")
        ev.same("SELECT * FROM ev")
        ev.both("COMMIT")
        ev.same("SELECT * FROM ev")
        ev.both(f"DROP SCHEMA {first} CASCADE")
        ev.same("SELECT * FROM ev ORDER BY k")
        ev.both(f"CREATE SCHEMA {first} CREATE TABLE ev (made int)")
        ev.same("SELECT * FROM ev")
    finally:
        ev.both(f"SET search_path = {home}, public", f"DROP SCHEMA IF EXISTS {first} CASCADE")
    ev.same("SELECT * FROM ev ORDER BY k")


def test_another_client_makes_the_schema(ev: oracle.Pair, cluster: clusters.Cluster) -> None:
    home = schema_of(ev)
    late = f"{home}_late"
    ev.orochi(f"SET search_path = {late}, {home}")
    assert ev.orochi("SELECT count(*) FROM ev") == [(6,)]
    try:
        with cluster.connect() as other:
            other.execute(f"CREATE SCHEMA {late} CREATE TABLE ev (k int)")
        clusters.eventually(lambda: ev.orochi("SELECT count(*) FROM ev") == [(0,)])
    finally:
        ev.orochi(f"SET search_path = {home}")
        ev.orochi(f"DROP SCHEMA IF EXISTS {late} CASCADE")


def test_temporary_views_over_the_table(ev: oracle.Pair) -> None:
    ev.both("CREATE TEMP VIEW few AS SELECT k, v FROM ev WHERE k < 3")
    ev.same("SELECT * FROM few ORDER BY k")
    ev.same("SELECT * FROM pg_temp.few ORDER BY k")
    ev.both("CREATE VIEW many AS SELECT k FROM ev", "CREATE TEMP VIEW many AS SELECT k + 1 AS k FROM ev")
    ev.same("SELECT * FROM many ORDER BY k")
    ev.both("DROP VIEW pg_temp.many")
    ev.same("SELECT * FROM many ORDER BY k")
    ev.both("DROP VIEW few", "CREATE TEMP TABLE few (x int)")
    ev.same("SELECT * FROM few")
    ev.both("DROP TABLE few")


def test_ddl_and_its_use_in_one_query_string(ev: oracle.Pair) -> None:
    for connection in (ev.gateway, ev.plain):
        cursor = connection.execute("CREATE VIEW seen AS SELECT * FROM ev; SELECT count(*) FROM seen")
        cursor.nextset()
        assert cursor.fetchall() == [(6,)]
        cursor = connection.execute("CREATE TEMP TABLE ev (k int); SELECT count(*) FROM ev; DROP TABLE ev")
        cursor.nextset()
        assert cursor.fetchall() == [(0,)]
    ev.same("SELECT count(*) FROM ev")


def test_ddl_and_its_use_in_one_pipeline(ev: oracle.Pair) -> None:
    for connection in (ev.gateway, ev.plain):
        with connection.pipeline():
            connection.execute("CREATE VIEW piped AS SELECT * FROM ev")
            first = connection.execute("SELECT count(*) FROM piped")
            connection.execute("CREATE TEMP TABLE ev (k int)")
            second = connection.execute("SELECT count(*) FROM ev")
            connection.execute("DROP TABLE ev")
            third = connection.execute("SELECT count(*) FROM ev")
        assert [cursor.fetchall() for cursor in (first, second, third)] == [[(6,)], [(0,)], [(6,)]]


def test_names_of_the_system_catalog_come_first(pair: oracle.Pair) -> None:
    pair.both(f"CREATE TABLE {schema_of(pair)}.pg_ts_parser (k int)")
    pair.orochi("SELECT create_distributed_table(current_schema() || '.pg_ts_parser', 'k', 2)")
    pair.both(f"INSERT INTO {schema_of(pair)}.pg_ts_parser VALUES (1)")
    pair.same("SELECT count(*) FROM pg_ts_parser")
    pair.same(f"SELECT count(*) FROM {schema_of(pair)}.pg_ts_parser")


def test_create_table_as_execute(ev: oracle.Pair) -> None:
    ev.both("PREPARE p (int) AS SELECT * FROM ev WHERE k > $1")
    for made in ("made", "pg_temp.made_too"):
        ev.same(f"CREATE TABLE {made} AS EXECUTE p (2)")
        ev.same(f"SELECT * FROM {made} ORDER BY k")


def test_a_local_table_takes_rows_of_a_distributed_one(ev: oracle.Pair) -> None:
    ev.both("CREATE TABLE local (k int, v text)")
    ev.same("INSERT INTO local SELECT * FROM ev WHERE k > 2 RETURNING k")
    ev.same("UPDATE local AS l SET v = ev.v || '!' FROM ev WHERE ev.k = l.k + 1 RETURNING l.k, l.v")
    ev.same("UPDATE local SET v = (SELECT max(v) FROM ev) WHERE k = %s RETURNING *", (3,))
    ev.same("DELETE FROM local USING ev WHERE ev.k = local.k AND ev.v LIKE '%%5' RETURNING *", ())
    ev.same("DELETE FROM local WHERE k IN (SELECT k FROM ev WHERE k < 4)")
    ev.check_tables("local")
