"""Killing what carries a chunk's life, and what must be true of a cluster that nothing happens to any more."""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import random
import re
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import psycopg

from benchmarks.life import steady as steadies
from benchmarks.life import workload
from orochi.embedded import state
from orochi.jobs import ledger
from orochi.storage.objects import client, connecting, places

#: What is killed, by the names of processes: fragments' workers, those of files, those of jobs, and all they need.
VICTIMS = ("worker", "maintenance", "jobs", "gateway", "valkey", "s3", "beat")
#: Work that a kill may wait for; what `steady` does to chunks by statements is told beside it.
WORK = ("compression", "tiering", "refresh", "retention")
_POLL_SECONDS, _WORK_SECONDS = 0.1, 0.01
_RUNS = "SELECT run_id, kind FROM orochi.orochi_job_runs WHERE finished_at IS NULL AND started_at IS NOT NULL"
_LEFT = """
SELECT FROM orochi.orochi_job_runs r WHERE r.finished_at IS NULL AND r.run_id = ANY(%s) AND NOT EXISTS (
    SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
        AND l.classid::bigint = %s AND l.objid::bigint = r.job_id)
"""
#: Sessions of which nothing was heard for a minute, in a transaction or in wait of a lock. (A gateway that
#: works for a session's client says so all the time.)
_HUNG = """
SELECT format('%s since %s: %s', coalesce(wait_event, state), state_change, left(query, 100)) FROM pg_stat_activity
WHERE state_change < clock_timestamp() - interval '60 s' AND backend_type = 'client backend'
    AND (state ~ '^idle in transaction' OR wait_event_type = 'Lock')
"""
_UNUSED_SCHEMAS = re.compile(r"orochi_([sc])(\d+)_(\d+)")


class Stuck(Exception):
    """Something did not come right in time."""


def wait(check: Callable[[], Any], seconds: float, what: str) -> Any:
    """Call `check` until it is true; errors of servers that are down count as not yet.

    Raises:
        Stuck: it never was.
    """
    deadline = time.monotonic() + seconds
    last: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if found := check():
                return found
        except (psycopg.Error, OSError) as error:
            last = error
        time.sleep(_POLL_SECONDS)
    raise Stuck(f"{what}: not within {seconds:.0f} s ({last!r})")


class Killer:
    """Kills processes of an embedded cluster, and looks after what is left."""

    def __init__(
        self, info: dict[str, Any], life: workload.Life, seed: int, steady: steadies.Steady | None = None
    ) -> None:
        self._folder = pathlib.Path(info["data_dir"])
        self._info = info
        self._nodes = [str(dsn) for dsn in info["node_dsns"]]
        self._life = life
        self._steady = steady
        self._chance = random.Random(seed)
        self._interrupted: list[int] = []  # runs of jobs, by the last kills
        self.kills: collections.Counter[str] = collections.Counter()
        self.during: collections.Counter[str] = collections.Counter()

    def aim(self, seconds: float) -> None:
        """Wait until the kind of work is being done that was interrupted least, but not for longer than that."""
        wanted = min(WORK, key=lambda kind: (self.during[kind], self._chance.random()))
        deadline = time.monotonic() + seconds
        with contextlib.suppress(psycopg.Error), self._life.coordinator() as connection:
            while time.monotonic() < deadline:
                if wanted in {kind for _, kind in connection.execute(_RUNS).fetchall()}:
                    break
                time.sleep(_WORK_SECONDS)
        time.sleep(self._chance.uniform(0.0, 0.3))

    def kill(self, victim: str | None = None) -> bool:
        """kill -9 of one process of a kind; whether there was one."""
        victim = victim or self._chance.choice(VICTIMS)
        with self._life.coordinator() as connection:
            runs = connection.execute(_RUNS).fetchall()
        work = {kind for _, kind in runs} | (
            {f"{self._steady.doing}, asked for"} if self._steady and self._steady.doing else set()
        )
        found = state.load(self._folder)
        there = [item.pid for item in found.processes if item.name.startswith(victim)] if found else []
        if not there:
            return False
        try:
            os.kill(self._chance.choice(there), signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.kills[victim] += 1
        self.during.update(work or {"nothing"})
        self._interrupted += [run_id for run_id, _ in runs]
        return True

    def runs_over(self) -> bool:
        """Whether the runs of jobs that kills interrupted are over, or somebody is at them."""
        with self._life.coordinator() as connection:
            if connection.execute(_LEFT, (self._interrupted, ledger.LOCK_CLASS)).fetchone() is not None:
                return False
        self._interrupted.clear()
        return True

    def hung(self) -> list[str]:
        """Sessions of servers that have been in a transaction for a minute without working."""
        found = []
        for dsn in (*self._nodes, str(self._info["coordinator_dsn"])):
            with psycopg.connect(dsn, autocommit=True, connect_timeout=5) as connection:
                found += [f"a session hangs: {told}" for (told,) in connection.execute(_HUNG).fetchall()]
        return found

    def healthy(self) -> bool:
        """Whether every process runs and the gateway answers for both nodes."""
        found = state.load(self._folder)
        if found is None or not all(item.healthy for item in found.processes):
            return False
        with self._life.connect() as connection:
            return connection.execute("SELECT count(*) FROM life.readings").fetchone() is not None

    def settled(self) -> bool:
        """Whether no transaction is prepared on any server."""
        for dsn in (*self._nodes, str(self._info["coordinator_dsn"])):
            with psycopg.connect(dsn, autocommit=True, connect_timeout=5) as connection:
                if connection.execute("SELECT FROM pg_prepared_xacts").fetchone() is not None:
                    return False
        return True

    def jobs_done(self) -> bool:
        """Whether every job's last run went well and none is due or under way."""
        with self._life.coordinator() as connection:
            row = connection.execute(
                "SELECT count(*) FROM orochi.orochi_jobs j WHERE j.next_due <= orochi._now() OR j.consecutive_failures > 0"
                " OR EXISTS (SELECT FROM orochi.orochi_job_runs r WHERE r.job_id = j.job_id AND r.finished_at IS NULL)"
            ).fetchone()
        return row == (0,)

    def jobs_told(self) -> list[tuple[Any, ...]]:
        """The last errors of jobs, for who has to find out."""
        with self._life.coordinator() as connection:
            return connection.execute(
                "SELECT kind, state, sqlstate, message, count(*) FROM orochi.orochi_job_runs GROUP BY 1, 2, 3, 4 ORDER BY 1, 2"
            ).fetchall()

    def misplaced(self) -> list[str]:
        """Chunks that are not in the tier that their policies say."""
        now = self._life.now
        with self._life.coordinator() as connection:
            chunks = connection.execute(
                "SELECT chunk_name, range_end, tier, row_count FROM orochi.chunks WHERE hypertable ~ '^life'"
            ).fetchall()
        faults = []
        for name, end, tier, rows in chunks:
            age = now - _moment(end)
            # a policy has looked within its hour, and the tiering one again after the compression
            wanted = {workload.tier_at(age), workload.tier_at(age - 2 * workload.HOUR)}
            if rows and tier not in wanted:
                faults.append(f"{name} of age {age} with {rows} rows is {tier}, not {sorted(wanted)}")
        return faults

    def orphans(self) -> list[str]:
        """What is on the disks, in the object store and on the nodes that the catalog does not name, and the reverse."""
        with self._life.coordinator() as connection:
            named = connection.execute(
                "SELECT path, node_id, stripe_id FROM orochi.orochi_stripes"
            ).fetchall()
            left = connection.execute(
                "SELECT kind, count(*) FROM orochi.orochi_cleanup GROUP BY 1"
            ).fetchall()
            schemas = {
                name
                for (name,) in connection.execute(
                    "SELECT format('orochi_c%s_%s', chunk_id, generation) FROM orochi.orochi_chunks UNION ALL"
                    " SELECT format('orochi_s%s_%s', shard_id, layout) FROM orochi.orochi_shards"
                ).fetchall()
            }
        faults = [f"{count} of kind {kind} wait for the sweep" for kind, count in left]
        faults += _unequal(
            "objects", self._keys(), {places.key_of(path) for path, *_ in named if ":" in path}
        )
        files = {
            f"{node.name}/{path.relative_to(node / 'stripes')}"
            for node in self._folder.glob("node*")
            for path in node.glob("stripes/**/*")
            if path.is_file()
        }
        faults += _unequal(
            "files", files, {f"node{node}/{path}" for path, node, _ in named if ":" not in path}
        )
        stripes = {stripe for *_, stripe in named}
        for dsn in self._nodes:
            with psycopg.connect(dsn, autocommit=True) as connection:
                vectors = connection.execute(
                    "SELECT DISTINCT stripe_id FROM orochi_data.delete_vectors"
                ).fetchall()
                there = connection.execute("SELECT nspname FROM pg_namespace").fetchall()
            gone = {stripe for (stripe,) in vectors} - stripes
            faults += [f"delete vectors of stripes that are gone: {sorted(gone)[:5]}"] if gone else []
            unknown = {name for (name,) in there if _UNUSED_SCHEMAS.fullmatch(name)} - schemas
            faults += [f"schemas that nobody names: {sorted(unknown)[:5]}"] if unknown else []
        return faults

    def _keys(self) -> set[str]:
        store = self._info["s3"]
        config = connecting.Config(
            bucket=store["bucket"],
            endpoint=store["endpoint"],
            access_key=store["access_key"],
            secret_key=store["secret_key"],
        )
        return {item.key for item in client.Store(config).listed("")}

    def sweep(self, seconds: float) -> list[str]:
        """Have the workers sweep until nothing is left; what is left after all."""
        faults: list[str] = []

        def swept() -> bool:
            with self._life.coordinator() as connection:
                connection.execute("UPDATE orochi.orochi_cleanup SET not_before = now()")
            with self._life.connect() as connection:
                connection.execute("SELECT run_maintenance()")
            faults[:] = self.orphans()
            return not faults

        with contextlib.suppress(Stuck):
            wait(swept, seconds, "the sweep")
        return faults


def _moment(value: Any) -> Any:
    if isinstance(value, str):
        return workload.dt.datetime.fromisoformat(value)
    return value


def _unequal(what: str, found: set[str], named: Iterable[str]) -> list[str]:
    known: Sequence[str] = sorted(named)
    lost, extra = sorted(set(known) - found), sorted(found - set(known))
    faults = [f"{len(lost)} {what} are not there: {lost[:3]}"] if lost else []
    return faults + ([f"{len(extra)} {what} are nobody's: {extra[:3]}"] if extra else [])
