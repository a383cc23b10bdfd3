"""`make day`: 24 hours of a 60-day hypertable on two nodes; 1 if any answer differs from a plain twin's.

Each hour rows come late and early, some are changed and deleted, the clock goes on by an hour, and policies do what is due:
compression, tiers, retention, refreshes of an aggregate and of one over it. Nobody calls them. After each
hour all answers are compared with those of an ordinary table of the same server, by tier too. At the end each chunk must be in the
tier that its policy says, and the object store must hold what the catalog names, and nothing else. The cluster lives in `.day`.
"""

from __future__ import annotations

import argparse
import datetime as dt
import pathlib
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

import psycopg
from rich import console

from benchmarks import local
from benchmarks.life import kills, steady, workload

FOLDER = local.ROOT / ".day"
out = console.Console(highlight=False)

_HOUR, _DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
_START = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
_DAYS, _ZONES = 60, 11
_CHUNK = 12 * _HOUR
#: Ages of a chunk's end, as the policies have them; `_LATEST` is how far back writes reach.
_WARM, _COLD, _RETENTION, _LATEST = 6 * _DAY, 20 * _DAY, 55 * _DAY, 54 * _DAY
_WAIT_SECONDS = 1_200.0
_GRACE = {"OROCHI_ORPHAN_GRACE": "20", "OROCHI_RETIRED_GRACE": "20"}
_COLUMNS = "(ts timestamptz NOT NULL, zone text NOT NULL, seq bigint NOT NULL, deg numeric(8, 3), tag text)"
_HOURS = (
    "SELECT time_bucket('2 hours', ts) AS b, zone, count(*) AS n, sum(deg) AS s, min(tag) AS least, last(seq, ts) AS l,"
    " first(deg, ts) AS f, avg(deg) AS a, count(DISTINCT tag) AS tags FROM {table} GROUP BY 1, 2"
)
_TABLES = (
    "DROP TABLE IF EXISTS twin; DROP TABLE IF EXISTS sensor CASCADE",
    f"CREATE TABLE twin {_COLUMNS}",
    f"CREATE TABLE sensor {_COLUMNS}",
    f"SELECT create_hypertable('sensor', 'ts', chunk_time_interval => INTERVAL '{_CHUNK}')",
    "SELECT create_distributed_table('sensor', 'zone', 4)",
)
_POLICIES = (
    f"CREATE MATERIALIZED VIEW hours WITH (orochi.continuous) AS {_HOURS.format(table='sensor')} WITH NO DATA",
    (
        "CREATE MATERIALIZED VIEW days WITH (orochi.continuous) AS SELECT time_bucket('1 day', b) AS d, sum(n) AS n,"
        " sum(s) AS s, min(least) AS least, max(l) AS l FROM hours GROUP BY 1 WITH NO DATA"
    ),
    (
        "CREATE MATERIALIZED VIEW zones WITH (orochi.continuous, orochi.materialized_only = false) AS"
        " SELECT time_bucket('6 hours', b) AS q, zone, sum(n) AS n, max(a) AS a FROM hours WHERE n > 0 GROUP BY 1, 2 WITH NO DATA"
    ),
    *(
        f"SELECT add_continuous_aggregate_policy('{name}', INTERVAL '70 days', INTERVAL '1 hour', INTERVAL '1 hour')"
        for name in ("hours", "days", "zones")
    ),
    f"SELECT add_compression_policy('sensor', INTERVAL '{_WARM - _DAY}', schedule_interval => INTERVAL '1 hour')",
    "SELECT add_compression_policy('hours', INTERVAL '30 days', schedule_interval => INTERVAL '1 hour')",
    (
        f"SELECT set_tiering_policy('sensor', hot_after => INTERVAL '{_WARM}', warm_after => INTERVAL '{_COLD}',"
        " cold_after => NULL, schedule_interval => INTERVAL '1 hour')"
    ),
    f"SELECT add_retention_policy('sensor', INTERVAL '{_RETENTION}', schedule_interval => INTERVAL '1 hour')",
)
#: What is asked of both; {since} is a time from which on no row is dropped.
_QUESTIONS = {
    "rows": ("SELECT * FROM sensor ORDER BY seq", "SELECT * FROM twin ORDER BY seq"),
    "sums": tuple(
        f"SELECT count(*), sum(deg), sum(seq), count(tag), min(ts), max(ts) FROM {name}"
        for name in ("sensor", "twin")
    ),
    "by zone": tuple(
        f"SELECT zone, count(*), sum(deg), max(tag), last(seq, ts) FROM {name} GROUP BY 1 ORDER BY 1"
        for name in ("sensor", "twin")
    ),
    "two-hourly": (
        "SELECT * FROM hours WHERE b >= '{since}' ORDER BY 1, 2",
        f"SELECT * FROM ({_HOURS.format(table='twin')}) t WHERE b >= '{{since}}' ORDER BY 1, 2",
    ),
    "six-hourly": (
        "SELECT * FROM zones WHERE q >= '{since}' ORDER BY 1, 2",
        (
            "SELECT time_bucket('6 hours', b) AS q, zone, sum(n), max(a) FROM"
            f" ({_HOURS.format(table='twin')}) t WHERE b >= '{{since}}' GROUP BY 1, 2 ORDER BY 1, 2"
        ),
    ),
    "daily": (
        "SELECT * FROM days WHERE d >= '{since}' ORDER BY 1",
        (
            "SELECT time_bucket('1 day', ts) AS d, count(*)::numeric, sum(deg), min(tag), max(l) FROM"
            " (SELECT *, last_value(seq) OVER (PARTITION BY time_bucket('2 hours', ts), zone ORDER BY ts"
            " ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS l FROM twin) t"
            " WHERE time_bucket('1 day', ts) >= '{since}' GROUP BY 1 ORDER BY 1"
        ),
    ),
}
_TIER = "SELECT count(*), sum(deg), sum(seq), max(tag) FROM {table} WHERE ts >= '{low}' AND ts < '{high}'"


class Day:
    """One life on one cluster."""

    def __init__(self, info: dict[str, Any], seed: int) -> None:
        """`info` is what `orochi up --json` prints."""
        self.faults: list[str] = []
        self.now = _START
        self._info, self._chance = info, random.Random(seed)
        self._sequence = 0
        self._client = psycopg.connect(
            str(info["dsn"]), autocommit=True, prepare_threshold=None, options="-c timezone=UTC"
        )
        self._coordinator = psycopg.connect(
            str(info["coordinator_dsn"]), autocommit=True, options="-c timezone=UTC"
        )

    def close(self) -> None:
        """Let the connections go."""
        self._client.close()
        self._coordinator.close()

    def create(self, rows: int) -> None:
        """Sixty days of rows, and the policies."""
        self._set_clock()
        for sql in _TABLES:
            self._client.execute(sql.encode())
        step = _DAYS * _DAY / rows
        for table in ("sensor", "twin"):
            self._client.execute(
                f"INSERT INTO {table} SELECT timestamptz '{self.now - _DAYS * _DAY}' + g * interval '{step}', 'z' || g % {_ZONES}, g,"
                f" (g % 977) / 7.0, CASE WHEN g % 5 > 0 THEN 't' || g % 13 END FROM generate_series(0, {rows - 1}) g".encode()
            )
        self._sequence = rows
        for sql in _POLICIES:
            self._client.execute(sql.encode())

    def hour(self, step: dt.timedelta = _HOUR) -> None:
        """Writes; then the clock goes on by `step`, more is written, and all that is due is waited for."""
        for _ in range(self._chance.randrange(2, 6)):
            self._write()
        self.now += step
        self._set_clock()
        self._write()
        kills.wait(self._jobs_done, _WAIT_SECONDS, "jobs")

    def compare(self) -> None:
        """Ask the table, its aggregates and each tier, and the twin."""
        oldest = self._oldest()
        self._client.execute("DELETE FROM twin WHERE ts < %s", (oldest,))
        since = (oldest + 2 * _DAY).replace(hour=0)
        questions = {
            what: (a.format(since=since), b.format(since=since)) for what, (a, b) in _QUESTIONS.items()
        }
        cold, warm = self.now - _COLD, self.now - _WARM
        for tier, low, high in (
            ("cold", oldest, cold),
            ("warm", cold, warm),
            ("hot", warm, self.now + 9 * _DAY),
        ):
            ours, theirs = (_TIER.format(table=name, low=low, high=high) for name in ("sensor", "twin"))
            questions[f"the {tier} rows"] = ours, theirs
        for what, (ours, theirs) in questions.items():
            found = self._client.execute(ours.encode()).fetchall()
            wanted = self._client.execute(theirs.encode()).fetchall()
            if found != wanted:
                other = [pair for pair in zip(found, wanted, strict=False) if pair[0] != pair[1]][:2]
                self.faults.append(f"{self.now} {what}: {len(found)} rows, not {len(wanted)}: {other}")

    def _write(self) -> None:
        """One statement, on both."""
        dice = self._chance.random()
        if dice < 0.5:
            age = self._chance.choice((0, 1, 3, 10, 25, 40, 53)) * _DAY + self._chance.random() * _DAY
            begin = self.now - age - 2 * _HOUR
            self._insert(begin)
        elif dice < 0.6:
            self._insert(self.now + self._chance.randrange(1, 72) * _HOUR)
        else:
            begin = self.now - self._chance.random() * _LATEST
            where = (
                f"zone = 'z{self._chance.randrange(_ZONES)}' AND ts >= '{begin}'"
                f" AND ts < '{begin + self._chance.randrange(1, 9) * _HOUR}'"
            )
            if dice < 0.8:
                self._both(f"UPDATE {{table}} SET deg = deg + 1, tag = 'upd' WHERE {where}")
            else:
                self._both(f"DELETE FROM {{table}} WHERE {where}")

    def _insert(self, begin: dt.datetime) -> None:
        """Rows of times that no other row of their zone has."""
        count, first = self._chance.randrange(1, 60), self._sequence
        self._sequence += count
        self._both(
            f"INSERT INTO {{table}} SELECT timestamptz '{begin}' + g * interval '37 seconds' + {first} * interval '1 microsecond',"
            f" 'z' || g % {_ZONES}, {first} + g, g / 3.0, 'late' FROM generate_series(0, {count - 1}) g"
        )

    def _both(self, sql: str) -> None:
        counts = [
            self._client.execute(sql.format(table=table).encode()).rowcount for table in ("sensor", "twin")
        ]
        if counts[0] != counts[1]:
            self.faults.append(f"{self.now} {counts[0]} rows, not {counts[1]}: {sql}")

    def _oldest(self) -> dt.datetime:
        """Where the rows begin that retention has left."""
        ((found,),) = self._coordinator.execute(
            "SELECT min(range_start) FROM orochi.chunks WHERE hypertable = 'sensor'"
        ).fetchall()
        assert isinstance(found, dt.datetime)
        return found

    def _set_clock(self) -> None:
        self._coordinator.execute("SELECT orochi.set_clock(%s)", (self.now,))

    def _jobs_done(self) -> bool:
        """Whether no job is due or under way."""
        row = self._coordinator.execute(
            "SELECT count(*) FROM orochi.orochi_jobs j WHERE j.next_due <= orochi._now()"
            " OR EXISTS (SELECT FROM orochi.orochi_job_runs r WHERE r.job_id = j.job_id AND r.finished_at IS NULL)"
        ).fetchone()
        return row == (0,)

    def errors(self) -> list[tuple[Any, ...]]:
        """How often jobs failed, and why."""
        return self._coordinator.execute(
            "SELECT kind, state, sqlstate, message, count(*) FROM orochi.orochi_job_runs"
            " WHERE state <> 'succeeded' GROUP BY 1, 2, 3, 4 ORDER BY 1, 2"
        ).fetchall()

    def misplaced(self, step: dt.timedelta) -> list[str]:
        """Chunks that are not in the tier of their age, now or a step ago, when the policy looked."""
        faults = []
        rows = self._coordinator.execute(
            "SELECT chunk_name, range_end, tier, row_count FROM orochi.chunks WHERE hypertable = 'sensor'"
        ).fetchall()
        for name, end, tier, count in rows:
            wanted = {_tier(self.now - end), _tier(self.now - end - step)}
            if count and tier not in wanted:
                faults.append(
                    f"{name} of age {self.now - end} with {count} rows is {tier}, not {sorted(wanted)}"
                )
        return faults

    def tiers(self) -> list[tuple[Any, ...]]:
        """How many chunks are in each tier."""
        return self._coordinator.execute(
            "SELECT tier, count(*) FROM orochi.chunks WHERE hypertable = 'sensor' GROUP BY 1 ORDER BY 1"
        ).fetchall()


def _tier(age: dt.timedelta) -> str:
    if age >= _RETENTION:
        return "gone"
    return "cold" if age >= _COLD else "warm" if age >= _WARM else "hot"


def run(info: dict[str, Any], options: argparse.Namespace) -> int:
    """The hours, and what is wrong after them."""
    day = Day(info, options.seed)
    try:
        day.create(options.rows)
        for number in range(1, options.hours + 1):
            began = time.monotonic()
            day.hour(options.step * _HOUR)
            worked = time.monotonic()
            day.compare()
            out.print(
                f"hour {number}: {worked - began:.1f} s of work, {time.monotonic() - worked:.1f} s of questions,"
                f" {dict(day.tiers())}, {len(day.faults)} faults"
            )
        day.faults += day.misplaced(options.step * _HOUR)
        life = workload.Life(str(info["dsn"]), str(info["coordinator_dsn"]), options.seed)
        killer = kills.Killer(info, life, options.seed, steady.Steady(life, options.seed))
        day.faults += killer.sweep(_WAIT_SECONDS)
        day.compare()
        for told in day.errors():
            out.print(f"jobs: {told}", soft_wrap=True)
    except kills.Stuck as error:
        day.faults.append(f"{error}: {day.errors()}")
    finally:
        day.close()
    for fault in day.faults:
        out.print(f"[red]{fault}[/]", soft_wrap=True)
    out.print(f"{options.hours} hours, {len(day.faults)} faults")
    return 1 if day.faults else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, prog="make day")
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--step", type=int, default=1, help="hours that go by at once")
    parser.add_argument("--rows", type=int, default=57_600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=pathlib.Path, default=FOLDER, help="where the cluster lives")
    options = parser.parse_args(arguments)
    try:
        with local.cluster(options.folder, nodes=2, extra=("--s3",), environment=_GRACE) as info:
            return run(info, options)
    except KeyboardInterrupt:
        return 130
    except (local.Failed, psycopg.Error) as error:
        out.print(f"[bold red]Failed:[/] {error!r}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
