"""The ledger of jobs in a real catalog: what is due, who runs it, how it ends, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import zoneinfo
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from orochi import errors
from orochi.executor import cluster_metrics
from orochi.jobs import kinds, ledger, running
from orochi.operations import maintenance
from tests.services import harness
from tests.support import services

Connection = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def databases() -> Iterator[harness.Databases]:
    with harness.databases() as found:
        yield found


@pytest.fixture
def catalog(databases: harness.Databases) -> Iterator[Connection]:
    with psycopg.connect(databases.dsn("co"), autocommit=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        connection.execute("SELECT orochi.set_clock('2024-01-01 12:00+00')")
        yield connection
        connection.execute("DELETE FROM orochi.orochi_jobs")
        connection.execute("SELECT orochi.reset_clock()")


def add(catalog: Connection, **columns: Any) -> int:
    values = {"kind": "user", "schedule_interval": "1 hour", "next_due": "2024-01-01 12:00+00"} | columns
    names, marks = ", ".join(values), ", ".join(["%s"] * len(values))
    row = catalog.execute(
        f"INSERT INTO orochi.orochi_jobs ({names}, owner_oid, proc_oid) VALUES"
        f" ({marks}, current_user::regrole, 'pg_catalog.now'::regproc) RETURNING job_id".encode(),
        tuple(values.values()),
    ).fetchone()
    assert row is not None
    return int(row[0])


def state(catalog: Connection, job_id: int) -> tuple[Any, ...]:
    """Of the newest run, and when the job is due."""
    row = catalog.execute(
        "SELECT r.state, r.sqlstate, j.next_due - timestamptz '2024-01-01 12:00+00', j.enabled, j.consecutive_failures"
        " FROM orochi.orochi_jobs j LEFT JOIN orochi.orochi_job_runs r USING (job_id) WHERE job_id = %s"
        " ORDER BY r.run_id DESC LIMIT 1",
        (job_id,),
    ).fetchone()
    assert row is not None
    return tuple(row)


def requests(orders: list[ledger.Order]) -> list[dict[str, Any]]:
    import base64

    found = []
    for order in orders:
        [[request], _, _] = json.loads(base64.b64decode(json.loads(order.message)["body"]))
        found.append(request)
    return found


def begun(holder: Connection, request: dict[str, Any]) -> ledger.Claim:
    assert ledger.lock(holder, request["job"])
    claim = ledger.begin(holder, request["run"], request["task"], "here")
    assert claim is not None
    return claim


def test_a_due_job_is_sent_once(catalog: Connection, databases: harness.Databases) -> None:
    job_id = add(catalog)
    add(catalog, next_due="2024-01-01 12:00:01+00")
    add(catalog, enabled=False)
    (order,) = ledger.schedule(catalog)
    assert order.queue == kinds.USER.queue
    assert json.loads(order.message)["headers"]["argsrepr"] == f"job {job_id}: call now()"
    assert ledger.schedule(catalog) == []
    (request,) = requests([order])
    with psycopg.connect(databases.dsn("co"), autocommit=True) as holder:
        begun(holder, request)
        assert ledger.schedule(catalog) == []
        assert ledger.begin(holder, request["run"], request["task"], "there") is None
        assert state(catalog, job_id)[0] == "running"
        ledger.finish(catalog, request["run"], None, 5, 7, {"chunks": 1})
    assert state(catalog, job_id) == ("succeeded", None, dt.timedelta(hours=1), True, 0)
    assert catalog.execute(
        "SELECT succeeded, rows, bytes, details, worker FROM orochi.job_history WHERE job_id = %s", (job_id,)
    ).fetchall() == [(True, 5, 7, {"chunks": 1}, "here")]


def test_missed_runs_are_caught_up_once(catalog: Connection) -> None:
    job_id = add(catalog, fixed_schedule=True, initial_start="2023-12-30 00:10+00")
    catalog.execute("UPDATE orochi.orochi_jobs SET next_due = initial_start")
    (request,) = requests(ledger.schedule(catalog))
    begun(catalog, request)
    ledger.finish(catalog, request["run"], None, 0, 0, {})
    assert state(catalog, job_id)[2] == dt.timedelta(minutes=10)
    assert ledger.schedule(catalog) == []


def test_failures_back_off_and_end(catalog: Connection) -> None:
    job_id = add(catalog, max_retries=2)
    waits = []
    for _ in range(3):
        catalog.execute("UPDATE orochi.orochi_jobs SET next_due = orochi._now()")
        (request,) = requests(ledger.schedule(catalog))
        begun(catalog, request)
        ledger.finish(catalog, request["run"], errors.InvalidParameter("no", hint="yes"), 0, 0, {})
        found = state(catalog, job_id)
        waits.append(found[2].total_seconds())
    assert waits == [10, 20, 40]
    assert found[:2] == ("failed", "22023")
    assert found[3:] == (False, 3)
    assert catalog.execute("SELECT DISTINCT err_message FROM orochi.job_errors").fetchall() == [("no\nyes",)]
    assert catalog.execute("SELECT job_status FROM orochi.job_stats").fetchall() == [("Paused",)]


@pytest.mark.parametrize(
    ("failures", "retry", "schedule", "lost", "expected"),
    [
        (1, "10 s", "1 s", False, 1),
        (3, "10 s", "1 s", False, 4),
        (20, "10 s", "1 s", False, 5),
        (1, "5 min", "12 h", False, 300),
        (9, "5 min", "12 h", False, 3600),
        (1, "5 min", "12 h", True, 1),
        (4, "5 min", "12 h", True, 8),
    ],
)
def test_back_off(
    catalog: Connection, failures: int, retry: str, schedule: str, lost: bool, expected: int
) -> None:
    row = catalog.execute(
        "SELECT orochi._back_off(%s, %s::interval, %s::interval, %s)", (failures, retry, schedule, lost)
    ).fetchone()
    assert row == (dt.timedelta(seconds=expected),)


def test_a_dead_worker_is_seen(catalog: Connection, databases: harness.Databases) -> None:
    job_id = add(catalog)
    (request,) = requests(ledger.schedule(catalog))
    with psycopg.connect(databases.dsn("co"), autocommit=True) as holder:
        begun(holder, request)
    # its connection is gone, but PostgreSQL may take a moment to see it
    for _ in range(600):
        catalog.execute("SELECT pg_sleep(0.1)")
        assert ledger.schedule(catalog) == []
        if state(catalog, job_id)[0] == "crashed":
            break
    assert state(catalog, job_id) == ("crashed", "58000", dt.timedelta(seconds=1), True, 1)
    catalog.execute("SELECT orochi.advance_clock('1 second')")
    assert len(ledger.schedule(catalog)) == 1


def test_a_lost_message_is_sent_again(catalog: Connection) -> None:
    add(catalog)
    (first,) = requests(ledger.schedule(catalog))
    catalog.execute("UPDATE orochi.orochi_job_runs SET queued_at = queued_at - interval '1 hour'")
    (second,) = requests(ledger.schedule(catalog))
    assert (first["run"], first["job"]) == (second["run"], second["job"])
    assert ledger.lock(catalog, first["job"])
    assert ledger.begin(catalog, first["run"], first["task"], "late") is None
    assert ledger.begin(catalog, second["run"], second["task"], "here") is not None
    catalog.execute("SELECT pg_advisory_unlock_all()")


def test_only_so_many_of_a_kind_at_a_time(catalog: Connection) -> None:
    for _ in range(ledger.USERS_AT_ONCE + 3):
        add(catalog)
    assert len(ledger.schedule(catalog)) == ledger.USERS_AT_ONCE
    assert ledger.schedule(catalog) == []
    catalog.execute(
        "SELECT orochi._finish_run(run_id, 'succeeded', NULL, NULL, 0, 0, '{}') FROM orochi.orochi_job_runs"
    )
    assert len(ledger.schedule(catalog)) == 3


def test_what_was_altered_meanwhile_stays(catalog: Connection) -> None:
    job_id = add(catalog)
    (request,) = requests(ledger.schedule(catalog))
    begun(catalog, request)
    catalog.execute("UPDATE orochi.orochi_jobs SET next_due = '2024-01-05 12:00+00'")
    ledger.finish(catalog, request["run"], None, 0, 0, {})
    assert state(catalog, job_id)[2] == dt.timedelta(days=4)


def test_a_deleted_job_stops(catalog: Connection, databases: harness.Databases) -> None:
    add(catalog)
    (request,) = requests(ledger.schedule(catalog))
    run = running.Run(databases.settings, begun(catalog, request), catalog)
    run.check()
    run.progress(1, 4, "chunks")
    assert catalog.execute("SELECT done, total, what, percent::int FROM orochi.job_progress").fetchall() == [
        (1, 4, "chunks", 25)
    ]
    catalog.execute("DELETE FROM orochi.orochi_jobs")
    with pytest.raises(errors.QueryCanceled):
        run.check()
    ledger.finish(catalog, request["run"], None, 0, 0, {})
    catalog.execute("SELECT pg_advisory_unlock_all()")


class _Silent:
    """A transport that never sends what it is given."""

    def __init__(self) -> None:
        self.given = asyncio.Event()

    async def post(self, queue: str, message: str) -> None:
        self.given.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("queued", [True, False])
def test_a_run_whose_caller_leaves_before_it_is_sent_is_over(
    catalog: Connection, databases: harness.Databases, queued: bool
) -> None:
    """Else its message would pass for lost, and be sent to a worker that nobody cancels."""
    job_id = add(catalog, next_due="2024-02-01 12:00+00")
    waiting = "SELECT FROM pg_locks WHERE relation = 'orochi.orochi_job_runs'::regclass AND NOT granted"

    async def main() -> None:
        session, transport = await harness.connect(databases), _Silent()
        session.runtime.transport = transport
        with psycopg.connect(databases.dsn("co")) as holder:
            if not queued:
                holder.execute("LOCK TABLE orochi.orochi_job_runs")
            caller = asyncio.create_task(maintenance._run(session, job_id))  # type: ignore[arg-type]
            async with asyncio.timeout(60):
                if queued:
                    await transport.given.wait()
                for _ in range(6000):
                    if queued or catalog.execute(waiting).rowcount:
                        break
                    await asyncio.sleep(0.01)
            caller.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await caller
        session.coordinator.close()
        await session.runtime.nodes.close()

    asyncio.run(main())
    assert state(catalog, job_id)[:2] == ("failed", "57014")


@pytest.mark.parametrize(
    ("initial", "step", "zone"),
    [
        ("2020-01-31 02:30", "1 day", "Europe/Berlin"),
        ("2023-10-29 00:00", "6 hours", "America/New_York"),
        ("1999-12-31 23:00", "1 month", "UTC"),
        ("2023-12-31 11:59:59", "1 second", "UTC"),
    ],
)
def test_fixed_schedules_keep_their_grid(catalog: Connection, initial: str, step: str, zone: str) -> None:
    """The next start is the first after now of the grid in local time, across changes to summer time and back."""
    after = dt.datetime(2024, 4, 15, 10, tzinfo=dt.UTC)
    row = catalog.execute(
        "SELECT orochi._next_start(%s::timestamp AT TIME ZONE %s, %s::interval, %s, %s)",
        (initial, zone, step, after, zone),
    ).fetchone()
    assert row is not None
    found = row[0]
    local, begin = found.astimezone(zoneinfo.ZoneInfo(zone)), dt.datetime.fromisoformat(initial)
    assert found > after
    if step == "1 month":
        assert (local.day, local.hour, local.minute) == (30, 23, 0)
        assert (local.year, local.month) == (2024, 4)
    else:
        seconds = {"1 day": 86400, "6 hours": 21600, "1 second": 1}[step]
        assert (local.replace(tzinfo=None) - begin).total_seconds() % seconds == 0
        assert (found - after).total_seconds() <= seconds


def test_prometheus_reads_jobs(
    catalog: Connection, databases: harness.Databases, valkey_server: services.Server
) -> None:
    add(catalog)
    ledger.schedule(catalog)
    settings = databases.settings.model_copy(update={"redis_url": valkey_server.dsn})
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in cluster_metrics.Collector(settings).collect()
        for sample in family.samples
    }
    assert found["orochi_jobs", "user"] == 1
    assert found["orochi_job_runs_unfinished", "user", "queued"] == 1
    assert found["orochi_queue_length", "maintenance.1"] == 0
    assert found["orochi_nodes", "active"] == 2
