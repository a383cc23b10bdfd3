"""Policies and users' jobs on a real cluster: workers run them at their time, and people see what they did."""

from __future__ import annotations

import base64
import datetime as dt
import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import conninfo

from tests.support import cluster as clusters
from tests.support import oracle, pairs

_SCHEMA = "jobs"
_ROLE = "job_tester"


@pytest.fixture(scope="module")
def pair(cluster: clusters.Cluster) -> Iterator[oracle.Pair]:
    made = pairs.opened(cluster, _SCHEMA)
    made.both(f"CREATE SCHEMA {_SCHEMA}")
    yield made
    made.orochi(
        "SELECT delete_job(job_id) FROM orochi.jobs WHERE relation LIKE 'jobs.%' OR proc_schema = 'jobs'"
    )
    pairs.close(made, _SCHEMA)


@pytest.fixture
def clock(pair: oracle.Pair) -> Iterator[dt.datetime]:
    """Noon of a day, where the clock stands."""
    noon = dt.datetime(2030, 6, 10, 12, tzinfo=dt.UTC)
    pair.orochi("SELECT set_clock(%s)", (noon,))
    yield noon
    pair.orochi("SELECT reset_clock()")


def refused(pair: oracle.Pair, sql: str, *values: Any) -> str:
    with pytest.raises(psycopg.Error) as caught:
        pair.gateway.execute(sql, values)
    return str(caught.value.sqlstate)


def one(pair: oracle.Pair, sql: str, *values: Any) -> Any:
    [[value]] = pair.orochi(sql, values)
    return value


def flower_arguments(cluster: clusters.Cluster, task_id: str) -> str | None:
    host = cluster.flower_url.split("://")[1]
    credentials, _, address = host.rpartition("@")
    request = urllib.request.Request(f"http://{address}/api/task/info/{task_id}")
    request.add_header("Authorization", "Basic " + base64.b64encode(credentials.encode()).decode())
    with urllib.request.urlopen(request, timeout=60) as reply:
        found = json.load(reply)
    return f"{found['name']} {found['args']}" if found["state"] == "SUCCESS" else None


def maintained(pair: oracle.Pair, tables: tuple[str, ...], now: dt.datetime) -> bool:
    """Let all policies run; whether nothing is left for them to do."""
    pair.orochi("SELECT run_maintenance()")
    for table in tables:
        old = pair.orochi(
            "SELECT DISTINCT is_compressed FROM orochi.chunks WHERE hypertable = %s AND row_count > 0 AND range_end <= %s",
            (table, now - dt.timedelta(days=2)),
        )
        # a shard's only row of a day may be deleted, and not counted since
        if (True,) not in old or (table == "readings" and len(old) > 1):
            return False
        oldest = one(pair, "SELECT min(range_end) FROM orochi.chunks WHERE hypertable = %s", table)
        if oldest <= now - dt.timedelta(days=4):
            return False
    return True


def test_days_under_policies(cluster: clusters.Cluster, pair: oracle.Pair, clock: dt.datetime) -> None:
    """A shortened life: each day late and new rows come, old chunks are compressed and older ones dropped."""
    tables = ("readings", "spread")
    for table in tables:
        pair.both(f"CREATE TABLE {table} (at timestamptz NOT NULL, device int, v int)")
    pair.orochi("SELECT create_distributed_table('spread', 'device', 2)")
    policies = []
    for table in tables:
        pair.orochi("SELECT create_hypertable(%s, 'at', interval '1 day')", (table,))
        policies.append(one(pair, f"SELECT add_retention_policy('{table}', interval '4 days')"))
        policies.append(one(pair, f"SELECT add_compression_policy('{table}', '2 days')"))
    for day in range(3):
        now = clock + dt.timedelta(days=day)
        pair.orochi("SELECT set_clock(%s)", (now,))
        for table in tables:
            pair.both(
                f"INSERT INTO {table} SELECT timestamptz '{now.isoformat()}' - i * interval '5 hours', i % 5, {day} * 100 + i"
                " FROM generate_series(0, 30) AS i"
            )
            pair.both(f"UPDATE {table} SET v = v + 1000 WHERE v % 7 = {day}")
            pair.both(f"DELETE FROM {table} WHERE v % 11 = {day}")
        clusters.eventually(lambda now=now: maintained(pair, tables, now))
        for table in tables:
            oldest = (now - dt.timedelta(days=4)).date().isoformat()
            pair.plain.execute(
                f"DELETE FROM {table} WHERE (at AT TIME ZONE 'UTC')::date < '{oldest}'".encode()
            )
            pair.same(f"SELECT at AT TIME ZONE 'UTC', device, v FROM {table} ORDER BY 1, 2, 3")
    history = pair.orochi(
        "SELECT DISTINCT job_id, kind FROM orochi.job_history WHERE succeeded AND (details ->> 'chunks')::int > 0"
        " AND job_id = ANY(%s) ORDER BY 1",
        (policies,),
    )
    assert [kind for _, kind in history] == ["retention", "compression"] * 2
    # a policy may find a chunk in use, and comes again
    failed = pair.orochi(
        "SELECT application_name, sqlerrcode, err_message FROM orochi.job_errors"
        " WHERE job_id = ANY(%s) AND sqlerrcode !~ '^(40|55)'",
        (policies,),
    )
    assert failed == []
    task_id = one(
        pair,
        "SELECT task_id FROM orochi.job_history WHERE kind = 'retention' AND relation LIKE '%%readings'"
        " AND succeeded ORDER BY id DESC LIMIT 1",
    )
    shown = clusters.eventually(lambda: flower_arguments(cluster, task_id))
    assert "orochi.jobs.run.retention" in shown
    assert "drop chunks of jobs.readings older than 4 days" in shown


def test_policies_are_refused_and_removed(pair: oracle.Pair) -> None:
    pair.orochi("CREATE TABLE whole (k int NOT NULL, at timestamptz NOT NULL)")
    assert refused(pair, "SELECT add_retention_policy('whole', interval '1 day')") == "42809"
    pair.orochi("SELECT create_hypertable('whole', 'k', 100)")
    assert refused(pair, "SELECT add_retention_policy('whole', interval '1 day')") == "22023"
    pair.orochi("CREATE TABLE aged (at timestamptz NOT NULL)")
    pair.orochi("SELECT create_hypertable('aged', 'at')")
    assert refused(pair, "SELECT add_retention_policy('aged', 'no time')") == "22007"
    assert refused(pair, "SELECT add_retention_policy('aged', '1 day', schedule_interval => '0')") == "22023"
    job = one(pair, "SELECT add_retention_policy('aged', '1 day')")
    assert refused(pair, "SELECT add_retention_policy('aged', '1 day')") == "42710"
    assert one(pair, "SELECT add_retention_policy('aged', '1 day', if_not_exists => true)") == job
    pair.orochi("SELECT remove_retention_policy('aged')")
    assert refused(pair, "SELECT remove_retention_policy('aged')") == "42704"
    assert pair.orochi("SELECT remove_retention_policy('aged', if_exists => true)") == [("",)]
    pair.orochi("SELECT add_retention_policy('aged', '1 day')")
    pair.orochi("DROP TABLE aged")
    assert one(pair, "SELECT count(*) FROM orochi.jobs WHERE job_id >= %s", job) == 0


def test_a_users_job(pair: oracle.Pair) -> None:
    pair.orochi("CREATE TABLE counted (k int, n int)")
    pair.orochi("SELECT create_distributed_table('counted', 'k', 4)")
    pair.orochi(
        "CREATE PROCEDURE count_up(job_id int, config jsonb) LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO jobs.counted VALUES (job_id, (config ->> 'n')::int); COMMIT;"
        " IF config ? 'fail' THEN RAISE EXCEPTION 'it failed' USING ERRCODE = 'P7777'; END IF; END $$"
    )
    job = one(pair, """SELECT add_job('count_up', '1 second', '{"n": 1}', job_name => 'Counting')""")
    clusters.eventually(lambda: one(pair, "SELECT count(*) FROM counted WHERE n = 1") >= 2)
    assert one(pair, "SELECT application_name FROM timescaledb_information.jobs WHERE job_id = %s", job) == (
        f"Counting [{job}]"
    )
    pair.orochi("SELECT FROM alter_job(%s, scheduled => false)", (job,))
    under_way = "SELECT count(*) FROM orochi.job_history WHERE job_id = %s AND finish_time IS NULL"
    clusters.eventually(lambda: one(pair, under_way, job) == 0)  # it would take the new configuration
    altered = pair.orochi("""SELECT scheduled, config FROM alter_job(%s, config => '{"n": 2}')""", (job,))
    assert altered == [(False, {"n": 2})]
    pair.orochi("SELECT run_job(%s)", (job,))
    pair.gateway.execute(f"CALL run_job({job})".encode())
    pair.gateway.execute("CALL run_job(%s)", (job,))
    assert one(pair, "SELECT count(*) FROM counted WHERE n = 2") == 3
    pair.orochi("""SELECT FROM alter_job(%s, config => '{"n": 3, "fail": true}')""", (job,))
    assert refused(pair, "SELECT run_job(%s)", job) == "P7777"
    assert one(pair, "SELECT count(*) FROM counted WHERE n = 3") == 1
    assert pair.orochi(
        "SELECT sqlerrcode, err_message FROM timescaledb_information.job_errors WHERE job_id = %s", (job,)
    ) == [("P7777", "it failed")]
    assert pair.orochi(
        "SELECT last_run_status, job_status, total_failures FROM timescaledb_information.job_stats WHERE job_id = %s",
        (job,),
    ) == [("Failed", "Paused", 1)]
    pair.orochi("SELECT delete_job(%s)", (job,))
    for call in ("delete_job(%s)", "run_job(%s)", "alter_job(%s)"):
        assert refused(pair, f"SELECT {call}", job) == "42704"
    assert pair.orochi("SELECT * FROM alter_job(%s, if_exists => true)", (job,)) == []
    assert refused(pair, "SELECT add_job('pg_catalog.version', '1 hour')") == "42883"
    assert one(pair, "SELECT 1") == 1


def test_a_job_has_its_owners_rights_only(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    pair.orochi("CREATE TABLE secrets (t text)")
    pair.orochi("CREATE TABLE said (job int, who text)")
    pair.orochi(f"CREATE ROLE {_ROLE} LOGIN PASSWORD 'tester'")
    try:
        pair.orochi(f"GRANT USAGE, CREATE ON SCHEMA jobs TO {_ROLE}")
        pair.orochi(f"GRANT ALL ON said TO {_ROLE}")
        dsn = conninfo.make_conninfo(cluster.dsn, user=_ROLE, password="tester")
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute("SET search_path = jobs, public, orochi_api")
            other.execute(
                "CREATE PROCEDURE pry(job_id int, config jsonb) LANGUAGE plpgsql AS $$ BEGIN"
                " INSERT INTO jobs.said VALUES (job_id, current_user); COMMIT; RESET ROLE;"
                " PERFORM * FROM jobs.secrets; END $$"
            )
            row = other.execute("SELECT add_job('pry', '1 day', scheduled => false)").fetchone()
            assert row is not None
            job = row[0]
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                other.execute("SELECT run_job(%s)", (job,))
            assert other.execute("SELECT * FROM said").fetchall() == [(job, _ROLE)]
            assert other.execute("SELECT count(*) FROM orochi.job_errors").fetchall() == [(1,)]
            pair.orochi(
                "CREATE PROCEDURE mine(job_id int, config jsonb) LANGUAGE sql AS 'SELECT 1'",
            )
            theirs = one(pair, "SELECT add_job('mine', '1 day', scheduled => false)")
            for call in ("delete_job(%s)", "run_job(%s)", "alter_job(%s, scheduled => true)"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    other.execute(f"SELECT {call}".encode(), (theirs,))
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                other.execute("SELECT set_clock(now())")
            other.execute("SELECT delete_job(%s)", (job,))
        pair.orochi("SELECT delete_job(%s)", (theirs,))
    finally:
        pair.orochi(f"DROP OWNED BY {_ROLE}")
        pair.orochi(f"DROP ROLE {_ROLE}")


def test_a_run_that_nobody_wants_ends(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    pair.orochi(
        "CREATE PROCEDURE doze(job_id int, config jsonb) LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); END $$"
    )
    job = one(pair, "SELECT add_job('doze', '1 day', scheduled => false)")
    with cluster.connect() as waiting:
        waiting.execute("SET statement_timeout = '2s'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            waiting.execute("SELECT run_job(%s)", (job,))

    def outcome() -> Any:
        return pair.orochi("SELECT sqlerrcode FROM orochi.job_errors WHERE job_id = %s", (job,))

    clusters.eventually(lambda: outcome() == [("57014",)])
    pair.orochi("SELECT FROM alter_job(%s, max_runtime => '1 second')", (job,))
    assert refused(pair, "SELECT run_job(%s)", job) == "57014"
    pair.orochi("SELECT delete_job(%s)", (job,))


def test_the_command_line_shows_jobs(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    pair.orochi(
        "CREATE PROCEDURE idle(job_id int, config jsonb) LANGUAGE sql AS 'SELECT 1'",
    )
    job = one(pair, "SELECT add_job('idle', '1 day', job_name => 'Idling')")
    clusters.eventually(
        lambda: one(pair, "SELECT total_runs FROM orochi.job_stats WHERE job_id = %s", job) == 1
    )
    folder = str(cluster.data_dir)
    listed = json.loads(clusters.run_orochi("jobs", "--data-dir", folder, "--json").stdout)["jobs"]
    [shown] = [line for line in listed if line["job_id"] == job]
    assert (shown["last_run_status"], shown["job_status"], shown["total_runs"]) == ("Success", "Scheduled", 1)
    assert "Idling" in clusters.run_orochi("jobs", "--data-dir", folder).stdout
    pair.orochi("SELECT delete_job(%s)", (job,))


_KEEPING = """
CREATE PROCEDURE keep_house(job_id integer, config jsonb) LANGUAGE plpgsql AS $$
DECLARE
    chunk text;
BEGIN
    FOR chunk IN SELECT show_chunks('jobs.kept', older_than => timestamptz '2026-01-04 00:00+00') LOOP
        PERFORM compress_chunk(chunk);
        COMMIT;
    END LOOP;
    PERFORM drop_chunks('jobs.kept', older_than => timestamptz '2026-01-02 00:00+00');
    PERFORM refresh_continuous_aggregate('jobs.kept_days', NULL, NULL);
    INSERT INTO jobs.kept VALUES ('2026-01-05 00:00+00', 1, job_id);
END $$
"""


def test_a_users_job_keeps_house(cluster: clusters.Cluster, pair: oracle.Pair) -> None:
    pair.orochi("CREATE TABLE kept (at timestamptz NOT NULL, device int, v int)")
    pair.orochi("SELECT create_hypertable('kept', 'at')")
    pair.orochi("SELECT create_distributed_table('kept', 'device', 2)")
    pair.orochi(
        "INSERT INTO kept SELECT '2026-01-01 00:00+00'::timestamptz + g * interval '1 hour', g, 1"
        " FROM generate_series(0, 119) g"
    )
    pair.orochi(
        "CREATE MATERIALIZED VIEW kept_days WITH (orochi.continuous) AS"
        " SELECT time_bucket(interval '1 day', at) AS day, count(*) AS n FROM kept GROUP BY 1 WITH NO DATA"
    )
    pair.orochi(_KEEPING)
    job = one(
        pair, "SELECT add_job('keep_house', '1 day', initial_start => '2100-01-01', fixed_schedule => false)"
    )
    pair.orochi("CALL run_job(%s)", (job,))
    assert (
        pair.orochi("SELECT sqlerrcode, err_message FROM orochi.job_errors WHERE job_id = %s", (job,)) == []
    )
    assert pair.orochi("SELECT count(*), max(v) FROM kept") == [(97, job)]
    chunks = (
        "SELECT is_compressed, count(*) FROM orochi.chunks WHERE hypertable ~ 'kept$' GROUP BY 1 ORDER BY 1"
    )
    assert pair.orochi(chunks) == [(False, 4), (True, 4)]
    assert one(pair, "SELECT count(*) FROM kept_days WHERE n = 24") == 3

    do = "DO $$ BEGIN {} END $$"
    drop = "PERFORM orochi.drop_chunks('jobs.kept', older_than => timestamptz '2026-01-03 00:00+00');"
    with pytest.raises(psycopg.errors.ActiveSqlTransaction), pair.gateway.transaction():
        pair.orochi(do.format(drop))
    assert refused(pair, do.format("INSERT INTO kept VALUES (now(), 1, 1); " + drop)) == "25001"
    assert refused(pair, do.format("PERFORM compress_chunk('nothing');")) == "42704"
    assert refused(pair, """SELECT orochi._ask_gateway('{"function": "pg_read_file"}')""") == "22023"
    with cluster.connect() as other:
        other.execute(f"SET search_path TO {_SCHEMA}")
        other.execute(f"CREATE ROLE {_ROLE}_poor")
        other.execute(f"GRANT USAGE ON SCHEMA {_SCHEMA} TO {_ROLE}_poor")
        other.execute(f"SET ROLE {_ROLE}_poor")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            other.execute(do.format(drop))
        other.execute("RESET ROLE")
        other.execute(f"REVOKE USAGE ON SCHEMA {_SCHEMA} FROM {_ROLE}_poor")
        other.execute(f"DROP ROLE {_ROLE}_poor")
    with cluster.connect_coordinator() as direct, pytest.raises(psycopg.errors.FeatureNotSupported):
        direct.execute(f"SELECT drop_chunks('{_SCHEMA}.kept', interval '1 day')")
    pair.orochi(do.format(drop))
    assert pair.orochi("SELECT count(*) FROM kept") == [(73,)]
