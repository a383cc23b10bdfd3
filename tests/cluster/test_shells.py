"""What PostgreSQL itself runs on a shell: bodies of functions, triggers, DO blocks, direct connections.

They must read and change the rows on the nodes as the same bodies do on plain tables, in the caller's
transaction. What they cannot is refused; nobody ever sees an empty table.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import conninfo

from tests.support import cluster as clusters
from tests.support import layouts, oracle, pairs, services

SCHEMA = "shells"

FUNCTIONS = (
    "CREATE FUNCTION total() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM events'",
    "CREATE FUNCTION total_atomic() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM events; END",
    (
        "CREATE FUNCTION total_pl() RETURNS bigint LANGUAGE plpgsql STABLE AS"
        " 'BEGIN RETURN (SELECT count(*) FROM events); END'"
    ),
    (
        "CREATE FUNCTION total_dynamic(name text) RETURNS bigint LANGUAGE plpgsql AS"
        " 'DECLARE n bigint; BEGIN EXECUTE format(''SELECT count(*) FROM %I'', name) INTO n; RETURN n; END'"
    ),
    (
        f"CREATE FUNCTION total_definer() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog"
        f" AS 'SELECT count(*) FROM {SCHEMA}.events'"
    ),
    (
        "CREATE FUNCTION of_tenant(wanted integer) RETURNS SETOF events LANGUAGE sql AS"
        " 'SELECT * FROM events WHERE tenant = wanted'"
    ),
    (
        "CREATE FUNCTION newest(wanted integer) RETURNS timestamptz LANGUAGE plpgsql AS"
        " 'DECLARE r events; BEGIN SELECT * INTO STRICT r FROM events WHERE tenant = wanted"
        " ORDER BY at DESC, id LIMIT 1; RETURN r.at; END'"
    ),
    (
        "CREATE FUNCTION walked() RETURNS numeric LANGUAGE plpgsql AS"
        " 'DECLARE s numeric := 0; r record; BEGIN FOR r IN SELECT amount FROM events WHERE amount IS NOT NULL"
        " LOOP s := s + r.amount; END LOOP; RETURN s; END'"
    ),
    (
        "CREATE FUNCTION put(t integer, n integer, OUT got integer, OUT rows integer, OUT hit boolean)"
        " LANGUAGE plpgsql AS 'BEGIN INSERT INTO events (tenant, at, id, what) VALUES"
        " (t, ''2024-03-12 10:00+00'', n, ''put'') RETURNING id INTO got; hit := FOUND;"
        " GET DIAGNOSTICS rows = ROW_COUNT; END'"
    ),
    (
        "CREATE FUNCTION put_or_raise(t integer, n integer) RETURNS text LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO events (tenant, at, id) VALUES (t, ''2024-03-12 11:00+00'', n); RETURN ''new'';"
        " EXCEPTION WHEN unique_violation THEN UPDATE events SET what = ''again'' WHERE tenant = t AND id = n;"
        " RETURN ''old''; END'"
    ),
    (
        "CREATE FUNCTION raise_amount(t integer, OUT rows integer) LANGUAGE plpgsql AS"
        " 'BEGIN UPDATE events SET amount = amount + 1 WHERE tenant = t; GET DIAGNOSTICS rows = ROW_COUNT; END'"
    ),
    (
        "CREATE FUNCTION remove(t integer) RETURNS SETOF integer LANGUAGE sql AS"
        " 'DELETE FROM events WHERE tenant = t AND id < 100 RETURNING id'"
    ),
    "CREATE VIEW totals AS SELECT tenant, count(*), sum(amount), total() FROM events GROUP BY tenant",
    "CREATE TABLE orders (id integer PRIMARY KEY, what text)",
    (
        "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO events (tenant, at, id, what)"
        " VALUES (6, ''2024-03-13'', NEW.id + 1000, TG_OP); RETURN NEW; END'"
    ),
    "CREATE TRIGGER audit BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION audit()",
    "CREATE TABLE copied (tenant integer, n bigint)",
    (
        "CREATE RULE remember AS ON DELETE TO copied DO ALSO INSERT INTO events (tenant, at, id, what)"
        " VALUES (OLD.tenant, '2024-03-14', 2000 + OLD.tenant, 'rule')"
    ),
)

READS = (
    "SELECT total(), total_atomic(), total_pl(), total_dynamic('events'), total_definer()",
    "SELECT * FROM of_tenant(3)",
    "SELECT g, newest(g) FROM generate_series(0, 6) AS g ORDER BY g",
    "SELECT newest(99)",
    "SELECT walked()",
    "SELECT tenant, count(*) FROM events WHERE id < total() GROUP BY tenant",
    "SELECT * FROM totals",
    "DO $$ BEGIN RAISE EXCEPTION 'rows: %', (SELECT count(*) FROM events WHERE what LIKE 'kind%'); END $$",
    "CREATE TABLE made AS SELECT total() AS n",
    "SELECT * FROM made",
    "DROP TABLE made",
)

WRITES = (
    "SELECT * FROM put(1, 900)",
    "SELECT * FROM put(1, 900)",
    "SELECT put_or_raise(2, 901), total()",
    "SELECT put_or_raise(2, 901)",
    "SELECT * FROM raise_amount(3)",
    "SELECT * FROM remove(4)",
    "INSERT INTO orders SELECT g, 'o' FROM generate_series(1, 3) AS g",
    "UPDATE orders SET what = 'p' WHERE id = 2",
    "INSERT INTO orders VALUES (2, 'twice')",
    "INSERT INTO copied SELECT tenant, count(*) FROM events GROUP BY 1",
    "DELETE FROM copied WHERE tenant < 2",
    "SELECT tenant, id, what FROM events WHERE id >= 900",
    (
        "DO $$ BEGIN INSERT INTO events (tenant, at, id) SELECT 5, '2024-03-15', g FROM generate_series(1, 5) AS g;"
        " DELETE FROM events WHERE tenant = 5 AND at = '2024-03-15' AND id = 2; END $$"
    ),
    "DO $$ BEGIN INSERT INTO events (tenant, at, id, amount) VALUES (5, '2024-03-16', 1, 9999999); END $$",
    "DO $$ BEGIN INSERT INTO events (tenant, at, id) VALUES (5, NULL, 1); END $$",
    "DO $$ BEGIN DELETE FROM events; RAISE EXCEPTION 'no'; END $$",
    (
        "DO $$ BEGIN UPDATE events SET amount = amount + extract(epoch FROM now() - now()) + 1, what = orders.what"
        " FROM orders WHERE orders.id = tenant; DELETE FROM events WHERE tenant = (SELECT max(id) FROM orders)"
        " AND at < now() AND id % 3 = 0; UPDATE events SET tenant = tenant + 10 WHERE id IN (SELECT id + 1 FROM orders); END $$"
    ),
    "SELECT * FROM events WHERE id % 5 < 3",
    "SELECT total()",
)

TRANSACTION = (
    "BEGIN",
    "INSERT INTO events (tenant, at, id) VALUES (0, '2024-03-17', 1), (1, '2024-03-17', 1)",
    "SELECT total()",
    "SELECT * FROM put(0, 910)",
    "SELECT count(*), total() FROM events",
    "SAVEPOINT one",
    "SELECT * FROM put(1, 911)",
    "SELECT put_or_raise(0, 910)",
    "SELECT count(*), total() FROM events WHERE id >= 900",
    "ROLLBACK TO one",
    "SELECT count(*), total() FROM events WHERE id >= 900",
    "SAVEPOINT two",
    "SELECT * FROM put(0, 910)",
    "ROLLBACK TO two",
    "SELECT * FROM put(2, 912)",
    "COMMIT",
    "SELECT count(*), total() FROM events WHERE id >= 900",
    "BEGIN ISOLATION LEVEL REPEATABLE READ",
    "INSERT INTO orders VALUES (50, 'x')",
    "SELECT count(*), total() FROM events WHERE id >= 1000",
    "ROLLBACK",
    "BEGIN",
    "SELECT * FROM put(3, 913)",
    "SELECT * FROM put(3, 913)",
    "SELECT 1",
    "COMMIT",
    "SELECT count(*), total() FROM events WHERE id >= 900",
    "BEGIN READ ONLY",
    "SELECT total()",
    "SELECT * FROM put(3, 914)",
    "ROLLBACK",
)


@pytest.fixture
def pair(cluster: clusters.Cluster) -> Iterator[oracle.Pair]:
    """Clients whose schema is dropped in the end."""
    found = pairs.opened(cluster, SCHEMA)
    found.both(f"CREATE SCHEMA {SCHEMA}")
    yield found
    pairs.close(found, SCHEMA)


@pytest.mark.parametrize("layout", ["reference", "distributed", "both-compressed"])
def test_no_reader_sees_an_empty_shell(cluster: clusters.Cluster, pair: oracle.Pair, layout: str) -> None:
    pair.both(layouts.EVENTS)
    layouts.place(pair, "events", layout, key="tenant", time="at", interval="40 days")
    pair.both(layouts.FILL)
    layouts.compress(pair, "events", layout)
    pair.both(*FUNCTIONS)
    for sql in READS if layout == "reference" else (*READS, *WRITES):
        pair.same(sql)
    if layout == "distributed":
        for sql in TRANSACTION:
            pair.same(sql)
        # prepared statements keep plans of bodies
        for tenant in (1, 2, 1, 3, 1, 4, 1):
            pair.same("SELECT count(*), total() FROM of_tenant(%s)", (tenant,), prepare=True)
        _past_the_gateway(cluster, pair)
    pair.check_tables("events", "orders")


def _past_the_gateway(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    with cluster.connect_coordinator() as direct:
        direct.execute(f"SET search_path TO {SCHEMA}")
        past = oracle.Pair(direct, pair.plain)
        for sql in ("SELECT * FROM events", "SELECT * FROM totals", *WRITES[:6]):
            past.same(sql)
        with past.gateway.transaction(), past.plain.transaction():
            past.same(
                "INSERT INTO events (tenant, at, id) SELECT 1, '2024-03-18', g FROM generate_series(1, 9) AS g"
            )
            past.same("SELECT count(*), total() FROM events")


def test_bodies_end_with_their_caller(pair: oracle.Pair) -> None:
    pair.both(
        "CREATE TABLE written (id integer GENERATED ALWAYS AS IDENTITY, n integer UNIQUE, twice integer"
        " GENERATED ALWAYS AS (n * 2) STORED)",
        "CREATE TABLE target (n integer PRIMARY KEY)",
        "CREATE FUNCTION note(n integer) RETURNS integer LANGUAGE plpgsql AS"
        " 'DECLARE r record; BEGIN INSERT INTO written (n) VALUES (n) RETURNING * INTO r; RETURN r.twice; END'",
        "INSERT INTO target VALUES (6)",
    )
    pair.orochi(
        "SELECT create_distributed_table('written', 'n', 4), create_distributed_table('target', 'n', 4)"
    )
    for sql in (
        "SELECT note(1), note(2)",
        "INSERT INTO target SELECT note(g) FROM generate_series(2, 4) AS g",
        "SELECT * FROM written",
        "INSERT INTO target SELECT note(g) FROM generate_series(3, 5) AS g",
        "INSERT INTO target SELECT note(g) FROM generate_series(4, 6) AS g",
        "SELECT n, twice FROM written",
        "UPDATE target SET n = n + 100 WHERE n = note(20)",
        "SELECT note(30) FROM target WHERE n = 6; SELECT note(30)",
        "SELECT n, twice FROM written",
    ):
        pair.same(sql, details=False)
    pair.check_tables("target")


def test_what_bodies_may_not(pair: oracle.Pair) -> None:
    pair.orochi("CREATE TABLE held (id integer PRIMARY KEY, at timestamptz)")
    pair.orochi("SELECT create_distributed_table('held', 'id', 4)")
    pair.orochi("INSERT INTO held SELECT g FROM generate_series(1, 9) AS g")
    for sql in (
        "DO $$ BEGIN INSERT INTO held VALUES (1) ON CONFLICT (id) DO UPDATE SET at = now(); END $$",
        "DO $$ BEGIN DELETE FROM held WHERE ctid = '(0,1)'; END $$",
        "DO $$ BEGIN MERGE INTO held USING (VALUES (1)) AS v ON false WHEN NOT MATCHED THEN INSERT VALUES (1); END $$",
    ):
        assert oracle.ask(pair.gateway, sql).sqlstate == "0A000", sql
    with pair.gateway.transaction(force_rollback=True):
        pair.orochi("ALTER TABLE held ADD COLUMN more integer")
        answer = oracle.ask(pair.gateway, "DO $$ BEGIN PERFORM * FROM held; END $$")
        assert (answer.sqlstate, answer.hint) == ("0A000", "Commit it first.")
    # rights are those of whoever the body runs as
    pair.orochi("DROP ROLE IF EXISTS shells_reader")
    pair.orochi("CREATE ROLE shells_reader")
    pair.orochi(f"GRANT USAGE ON SCHEMA {SCHEMA} TO shells_reader")
    pair.orochi("GRANT SELECT ON held TO shells_reader")
    pair.orochi("SET ROLE shells_reader")
    assert oracle.ask(pair.gateway, "DO $$ BEGIN PERFORM * FROM held; END $$").sqlstate is None
    assert oracle.ask(pair.gateway, "DO $$ BEGIN DELETE FROM held; END $$").sqlstate == "42501"
    assert oracle.ask(pair.gateway, "SELECT * FROM pg_orochi.shell_1").sqlstate == "42501"
    pair.orochi("RESET ROLE")
    pair.orochi("REVOKE ALL ON held FROM shells_reader")
    pair.orochi(f"REVOKE ALL ON SCHEMA {SCHEMA} FROM shells_reader")
    pair.orochi("DROP ROLE shells_reader")
    assert pair.orochi("SELECT count(*) FROM held") == [(9,)]


@contextlib.contextmanager
def _second_gateway(cluster: clusters.Cluster) -> Iterator[str]:
    """Another gateway of the cluster, not the one that functions use: its DSN."""
    port = services.free_port()
    environment = {
        **os.environ,
        "OROCHI_COORDINATOR_DSN": cluster.coordinator_dsn,
        "OROCHI_REDIS_URL": cluster.redis_url,
        "OROCHI_DATA_DIR": str(cluster.data_dir),
        "OROCHI_GATEWAY_PORT": str(port),
    }
    process = subprocess.Popen(
        [clusters.OROCHI, "gateway"], env=environment, cwd="/", stdout=subprocess.DEVNULL
    )
    try:
        dsn = conninfo.make_conninfo(cluster.dsn, port=port)
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(dsn, connect_timeout=60).close()
                break
            except psycopg.OperationalError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield dsn
    finally:
        process.terminate()
        process.wait(60)


def test_bodies_join_their_callers_transaction_at_another_gateway(
    cluster: clusters.Cluster, pair: oracle.Pair
) -> None:
    pair.orochi("CREATE TABLE told (id integer PRIMARY KEY)")
    pair.orochi("SELECT create_distributed_table('told', 'id', 4)")
    pair.orochi("CREATE FUNCTION told_of() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM told'")
    pair.orochi("CREATE FUNCTION tell(n integer) RETURNS void LANGUAGE sql AS 'INSERT INTO told VALUES (n)'")
    pair.orochi("INSERT INTO told SELECT generate_series(1, 5)")
    with _second_gateway(cluster) as dsn, psycopg.connect(dsn, autocommit=True) as client:
        client.execute(f"SET search_path TO {SCHEMA}")
        assert client.execute("SELECT told_of()").fetchone() == (5,)
        client.execute("BEGIN")
        client.execute("INSERT INTO told VALUES (6)")
        assert client.execute("SELECT told_of()").fetchone() == (6,)
        client.execute("SELECT tell(7)")
        assert client.execute("SELECT told_of(), count(*) FROM told").fetchone() == (7, 7)
        assert pair.orochi("SELECT told_of()") == [(5,)]
        client.execute("ROLLBACK")
        client.execute("SELECT tell(7)")
        assert client.execute("SELECT told_of(), count(*) FROM told").fetchone() == (6, 6)
    assert pair.orochi("SELECT told_of()") == [(6,)]


#: Bodies whose changes no node can compute, between BEGIN and END.
_BY_PLACE = (
    "UPDATE placed SET n = n + length(current_user || '') * 0 + 1",
    "UPDATE placed SET at = now() WHERE id > 3",
    "UPDATE placed AS p SET n = o.n FROM others AS o WHERE o.id = p.id AND o.n > 1 RETURNING p.n INTO found",
    "UPDATE placed AS p SET n = n + 1 FROM others AS o WHERE o.id <= p.id; GET DIAGNOSTICS found = ROW_COUNT",
    "UPDATE placed SET n = (SELECT max(n) FROM others) WHERE id = 4; IF FOUND THEN DELETE FROM others; END IF",
    "UPDATE placed SET id = id + 100, n = floor(random()) WHERE id < 5",
    "DELETE FROM placed USING others AS o WHERE o.id = placed.id AND o.id < 6 RETURNING placed.id * 0 INTO found",
    "DELETE FROM placed WHERE id IN (SELECT id FROM others WHERE n > 2); UPDATE placed SET at = now()",
    "UPDATE placed SET at = now(); UPDATE placed SET n = n + extract(year FROM now()) * 0; found = (SELECT sum(n) FROM placed)",
    "FOR found IN SELECT id FROM others ORDER BY id LOOP UPDATE placed SET n = n + found, at = now() WHERE id = found; END LOOP",
    """BEGIN UPDATE placed SET at = now(); RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN
    UPDATE placed SET n = -1 WHERE id = (SELECT min(id) FROM placed); END""",
    "BEGIN UPDATE placed SET id = 1 + 0 * extract(year FROM now())::int; EXCEPTION WHEN unique_violation THEN found = 7; END",
    "UPDATE placed SET n = n / (id - 5) + extract(year FROM now()) * 0",
    "UPDATE placed SET n = NULL WHERE at IS DISTINCT FROM now()",
    "UPDATE placed AS p SET n = o.n + 1 FROM placed AS o WHERE o.id = p.id + 1 AND o.ctid <> p.ctid",
    "DELETE FROM placed AS p USING placed AS o WHERE o.id % 3 = p.id % 3 AND o.id <= p.id AND o.ctid <> p.ctid",
    "found = (SELECT sum(changed) FROM (SELECT change(id) AS changed FROM others) AS c)",
)


@pytest.mark.parametrize("layout", ["distributed", "reference"])
def test_changes_by_place(pair: oracle.Pair, layout: str) -> None:
    pair.both(
        "DROP TABLE IF EXISTS placed, others",
        "CREATE TABLE placed (id integer PRIMARY KEY, n double precision NOT NULL, at timestamptz,"
        " twice integer GENERATED ALWAYS AS (id * 2) STORED)",
        "CREATE TABLE others (id integer PRIMARY KEY, n double precision)",
        "CREATE OR REPLACE FUNCTION change(which integer) RETURNS bigint LANGUAGE plpgsql AS 'DECLARE n bigint;"
        " BEGIN UPDATE placed SET at = now(), n = placed.n + (SELECT count(*) FROM placed) WHERE id = which;"
        " GET DIAGNOSTICS n = ROW_COUNT; RETURN n; END'",
        "INSERT INTO others SELECT g, g % 4 FROM generate_series(1, 12) AS g",
    )
    pair.orochi("SELECT create_distributed_table('others', 'id', 3)")
    create = (
        "create_reference_table('placed')"
        if layout == "reference"
        else "create_distributed_table('placed', 'id', 4)"
    )
    pair.orochi(f"SELECT {create}")
    pair.both("INSERT INTO placed SELECT g, g FROM generate_series(1, 9) AS g")
    for body in _BY_PLACE:
        pair.both("BEGIN", "SET LOCAL application_name = '-'")
        pair.same(
            f"DO $$ DECLARE found integer; BEGIN {body};"
            " PERFORM set_config('application_name', coalesce(found::text, '?'), true); END $$",
            details=False,
        )
        if pair.plain.info.transaction_status.name == "INTRANS":
            pair.same("SHOW application_name")
            pair.same("SELECT id, n, at = now(), twice FROM placed ORDER BY 1", details=False)
            pair.same("SELECT * FROM others")
        pair.both("ROLLBACK")
    pair.same("DO $$ BEGIN UPDATE placed SET at = date_trunc('century', now()) WHERE id < 8; END $$")
    pair.check_tables("placed", "others")
    for _ in range(7):  # the plan is kept
        pair.same("DO $$ BEGIN UPDATE placed SET n = n + 1 + 0 * extract(year FROM now()); END $$")
    pair.same("SELECT sum(n) FROM placed")


#: In bodies and past the gateway.
_OR_NOTHING = (
    "INSERT INTO merged VALUES (3, 'again'), (11, 'new'), (11, 'twice') ON CONFLICT DO NOTHING",
    """INSERT INTO merged AS m SELECT g, 'on conflict do update' FROM generate_series(2, 12, 5) AS g
    ON CONFLICT (id) DO NOTHING -- on conflict do update""",
    "INSERT INTO merged VALUES (4, 'x') ON CONFLICT (id) DO NOTHING RETURNING id INTO STRICT found",
    "INSERT INTO merged (id) VALUES (41) ON CONFLICT ON CONSTRAINT merged_pkey DO NOTHING RETURNING length(what) INTO found",
    "INSERT INTO merged VALUES (3, 'on conflict do nothing')",
    "INSERT INTO merged VALUES (NULL, 'x') ON CONFLICT DO NOTHING",
    "INSERT INTO merged VALUES (50, 'too long to be') ON CONFLICT DO NOTHING",
    "found = keep(3) + keep(60) + keep(60)",
)


def test_insert_or_nothing(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    pair.both(
        "CREATE TABLE merged (id integer PRIMARY KEY, what text DEFAULT 'none' CHECK (what NOT LIKE 'too%'),"
        " twice integer GENERATED ALWAYS AS (id * 2) STORED)",
        "INSERT INTO merged SELECT g, 'old' FROM generate_series(1, 9) AS g",
    )
    pair.orochi("SELECT create_distributed_table('merged', 'id', 4)")
    pair.both(
        "CREATE FUNCTION keep(n integer) RETURNS bigint LANGUAGE sql AS"
        " 'INSERT INTO merged (id) VALUES (n) ON CONFLICT DO NOTHING; SELECT count(*) FROM merged'"
    )
    for body in _OR_NOTHING:
        pair.same(
            f"DO $$ DECLARE found integer; BEGIN {body};"
            " IF found IS NULL THEN GET DIAGNOSTICS found = ROW_COUNT; END IF;"
            " PERFORM set_config('application_name', found::text, false); END $$"
        )
        pair.same("SHOW application_name")
        pair.check_tables("merged")
    with cluster.connect_coordinator() as direct:
        direct.execute(f"SET search_path TO {SCHEMA}")
        for sql in (
            "INSERT INTO merged VALUES (3, 'a'), (70, 'b') ON CONFLICT DO NOTHING RETURNING *",
            "INSERT INTO merged SELECT id + 1 FROM merged ON CONFLICT DO NOTHING",
        ):
            ours, theirs = (oracle.ask(connection, sql) for connection in (direct, pair.plain))
            oracle.assert_same(sql, ours, theirs)
        with direct.cursor() as cursor, cursor.copy("COPY merged (id, what) FROM STDIN") as copy:
            copy.write("80\ton conflict do nothing\n")
    pair.plain.execute("INSERT INTO merged VALUES (80, 'on conflict do nothing')")
    pair.check_tables("merged")


def test_what_would_not_run_on_a_shell_is_not_made(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    pair.orochi("CREATE TABLE bare (id integer PRIMARY KEY, n integer)")
    pair.orochi("CREATE TABLE ruled (id integer PRIMARY KEY, n integer)")
    pair.orochi("SELECT create_distributed_table('bare', 'id', 4)")
    pair.orochi("CREATE FUNCTION noop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
    pair.orochi("CREATE RULE nothing AS ON DELETE TO ruled DO INSTEAD NOTHING")
    for sql in (
        "CREATE TRIGGER g BEFORE INSERT ON shells.bare FOR EACH ROW EXECUTE FUNCTION shells.noop()",
        "CREATE TRIGGER g AFTER UPDATE ON shells.bare FOR EACH STATEMENT EXECUTE FUNCTION shells.noop()",
        "CREATE CONSTRAINT TRIGGER g AFTER INSERT ON shells.bare FOR EACH ROW EXECUTE FUNCTION shells.noop()",
        "CREATE RULE r AS ON INSERT TO shells.bare DO INSTEAD NOTHING",
        "CREATE FUNCTION f() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM ONLY shells.bare'",
        "CREATE FUNCTION f() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM ONLY shells.bare; END",
        "CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN COPY bare (id) TO PROGRAM ''cat''; END'",
        "ALTER TABLE shells.bare DISABLE TRIGGER ALL",
        "SELECT create_distributed_table('shells.ruled', 'id', 4)",
        "DO 'BEGIN PERFORM FROM ONLY bare; END'",
    ):
        answer = oracle.ask(pair.gateway, sql)
        assert (answer.sqlstate, bool(answer.hint)) == ("0A000", True), sql
        if sql.startswith("CREATE"):
            with cluster.connect_coordinator() as direct:
                answer = oracle.ask(direct, sql)
            assert (answer.sqlstate, bool(answer.hint)) == ("0A000", True), sql
    pair.orochi(
        "CREATE FUNCTION first(n integer) RETURNS SETOF bare LANGUAGE sql AS"
        " 'SELECT * FROM bare ORDER BY id FETCH FIRST 3 ROWS ONLY'"
    )
    assert pair.orochi("SELECT count(*) FROM ONLY bare") == [(0,)]


def test_volatile_functions_do_not_miss_what_their_statement_changed(pair: oracle.Pair) -> None:
    pair.both(
        "CREATE TABLE seen (id integer PRIMARY KEY, n integer)",
        "INSERT INTO seen SELECT g, 0 FROM generate_series(1, 4) AS g",
        "CREATE FUNCTION now_seen() RETURNS integer LANGUAGE sql VOLATILE AS 'SELECT sum(n)::int + 1 FROM seen'",
        "CREATE FUNCTION was_seen() RETURNS integer LANGUAGE sql STABLE AS 'SELECT sum(n)::int + 1 FROM seen'",
    )
    pair.orochi("SELECT create_distributed_table('seen', 'id', 4)")
    for sql in (
        "UPDATE seen SET n = now_seen() + id",
        "INSERT INTO seen SELECT g, now_seen() FROM generate_series(11, 13) AS g",
        "INSERT INTO seen VALUES (21, now_seen()), (22, now_seen())",
        "DELETE FROM seen WHERE now_seen() % 2 = id % 2",
    ):
        answer = oracle.ask(pair.gateway, sql)
        assert (answer.sqlstate, bool(answer.hint)) == ("0A000", True), sql
        pair.same(sql.replace("now_seen", "was_seen"))
        pair.same("SELECT * FROM seen")
    pair.same("INSERT INTO seen VALUES (31, now_seen())")
    pair.same("UPDATE seen SET n = now_seen() WHERE id = 31")
    pair.check_tables("seen")


def test_functions_read_rows_wherever_a_statement_calls_them(pair: oracle.Pair) -> None:
    pair.both(
        "CREATE TABLE valued (id integer PRIMARY KEY, n integer)",
        "INSERT INTO valued SELECT g, g * 10 FROM generate_series(1, 5) AS g",
        "CREATE FUNCTION top() RETURNS integer LANGUAGE sql STABLE AS 'SELECT max(n) FROM valued'",
        "CREATE FUNCTION above(low integer) RETURNS SETOF valued LANGUAGE sql STABLE AS"
        " 'SELECT * FROM valued WHERE id >= low ORDER BY id'",
        "CREATE TABLE filled (id integer PRIMARY KEY, n integer DEFAULT top())",
    )
    pair.orochi(
        "SELECT create_distributed_table('valued', 'id', 4), create_distributed_table('filled', 'id', 4)"
    )
    for sql in (
        "SELECT * FROM above(4) WITH ORDINALITY",
        "SELECT v.id, a.* FROM valued AS v JOIN above(4) WITH ORDINALITY AS a ON true WHERE v.id = 1",
        "INSERT INTO filled (id) VALUES (1), (2) RETURNING *, top()",
        "INSERT INTO filled VALUES (1, 0) ON CONFLICT (id) DO UPDATE SET n = top() + 1 RETURNING n",
        "INSERT INTO filled SELECT id + 10, top() FROM valued",
        "UPDATE valued SET n = top() + 10 WHERE n > 0",
        "UPDATE filled SET n = DEFAULT WHERE id = 2 RETURNING n",
        "DELETE FROM filled WHERE n < top() AND id > 12 RETURNING id, top()",
        "SELECT id, n, top() FROM filled WHERE n < top()",
    ):
        pair.same(sql)
    pair.check_tables("valued", "filled")
