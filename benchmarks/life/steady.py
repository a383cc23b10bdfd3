"""Rows that never change, in chunks that always do, and who asks for them all the time.

Their chunks are compressed, moved between all tiers, written to without effect, refreshed into an
aggregate and swept, while processes die. Whatever is asked of them has one right answer: that of the same
rows in a plain PostgreSQL, asked once at the start. An error is no fault; another answer is.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime as dt
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from psycopg import conninfo

from benchmarks.life import workload

_START, _DAYS = dt.datetime(2026, 1, 1, tzinfo=dt.UTC), 8
_DEVICES, _SITES = 12, 5
TWIN = "life_twin"

TABLES = (
    "CREATE SCHEMA fixed",
    "CREATE TABLE fixed.readings (at timestamptz NOT NULL, device int NOT NULL, id bigint, v int, tag text)",
    "CREATE TABLE fixed.devices (device int PRIMARY KEY, site int, name text)",
    "CREATE TABLE fixed.sites (site int PRIMARY KEY, region text)",
    "CREATE TABLE fixed.places (place int PRIMARY KEY, site int, weight int)",
)
_SPREAD = (
    "SELECT create_hypertable('fixed.readings', 'at', chunk_time_interval => interval '1 day')",
    "SELECT create_distributed_table('fixed.readings', 'device', 4)",
    "SELECT create_distributed_table('fixed.devices', 'device', colocate_with => 'fixed.readings')",
    "SELECT create_distributed_table('fixed.places', 'place', 4, colocate_with => 'none')",
    "SELECT create_reference_table('fixed.sites')",
)
_HOURLY = (
    "SELECT date_bin('1 hour', at, '2000-01-01 00:00+00') AS hour, device, count(*) AS c, sum(v) AS s, max(tag) AS m"
    " FROM fixed.readings GROUP BY 1, 2"
)
_AGGREGATE = (
    "CREATE MATERIALIZED VIEW fixed.hourly WITH (orochi.continuous) AS"
    " SELECT time_bucket('1 hour', at) AS hour, device, count(*) AS c, sum(v) AS s, max(tag) AS m"
    " FROM fixed.readings GROUP BY 1, 2 WITH NO DATA"
)
#: What is asked, by what it is about; ordered, or of one row.
QUESTIONS = {
    "all": "SELECT count(*), sum(v), min(at), max(at), avg(v), count(tag) FROM fixed.readings",
    "by the key": "SELECT device, count(*), sum(v) FROM fixed.readings GROUP BY 1 ORDER BY 1",
    "by another": "SELECT tag, count(*), sum(v), min(id) FROM fixed.readings GROUP BY 1 ORDER BY 1",
    "by day": "SELECT date_trunc('day', at) AS d, count(*), sum(v) FROM fixed.readings GROUP BY 1 ORDER BY 1",
    "distinct keys": "SELECT count(DISTINCT device), count(*) FROM fixed.readings",
    "distinct others": "SELECT count(DISTINCT v), count(DISTINCT tag), sum(v) FROM fixed.readings",
    "one key": "SELECT count(*), sum(v), max(at) FROM fixed.readings WHERE device = 7",
    "one day": (
        "SELECT tag, count(*), sum(v) FROM fixed.readings WHERE at >= '2026-01-03' AND at < '2026-01-04'"
        " GROUP BY 1 ORDER BY 1"
    ),
    "co-located": (
        "SELECT d.name, count(*), sum(r.v) FROM fixed.readings r JOIN fixed.devices d USING (device)"
        " GROUP BY 1 ORDER BY 1"
    ),
    "reference": (
        "SELECT s.region, count(*), sum(r.v) FROM fixed.readings r JOIN fixed.sites s ON s.site = r.v % 5"
        " GROUP BY 1 ORDER BY 1"
    ),
    "both": (
        "SELECT s.region, count(*), count(DISTINCT r.tag), sum(r.v) FROM fixed.readings r"
        " JOIN fixed.devices d USING (device) JOIN fixed.sites s USING (site) WHERE r.v > 100 GROUP BY 1 ORDER BY 1"
    ),
    "exchanged": (
        "SELECT p.site, count(*), sum(r.v * p.weight) FROM fixed.readings r JOIN fixed.places p ON p.place = r.v % 40"
        " GROUP BY 1 ORDER BY 1"
    ),
    "largest": "SELECT id, v, device, tag FROM fixed.readings ORDER BY v DESC, id LIMIT 25",
    "windows": (
        "SELECT device, max(n), sum(v) FROM (SELECT device, v, row_number() OVER (PARTITION BY tag ORDER BY id) AS n"
        " FROM fixed.readings WHERE v % 7 = 0) w GROUP BY 1 ORDER BY 1"
    ),
    "nested": (
        "SELECT count(*), sum(v) FROM fixed.readings WHERE v > (SELECT avg(v) FROM fixed.readings)"
        " AND device IN (SELECT device FROM fixed.devices WHERE site < 3)"
    ),
    "union": (
        "SELECT sum(n) FROM (SELECT count(*) AS n FROM fixed.readings WHERE v < 500"
        " UNION ALL SELECT count(*) FROM fixed.readings WHERE v >= 500) u"
    ),
    "hours": "SELECT count(*), sum(c), sum(s), max(m), min(hour) FROM fixed.hourly",
    "hours of one": "SELECT hour, c, s, m FROM fixed.hourly WHERE device = 3 ORDER BY hour",
    "hours by key": (
        "SELECT d.site, sum(h.c), sum(h.s) FROM fixed.hourly h JOIN fixed.devices d USING (device) GROUP BY 1 ORDER BY 1"
    ),
}
_SETTINGS = (
    "SET orochi.small_query_bytes = 0",
    "SET orochi.small_query_bytes = 0",
    "SET orochi.enable_vectorized_execution = off",
    "SET orochi.force_strategy = 'repartition'",
    "SET orochi.snapshot_reads = on",
    "RESET orochi.small_query_bytes",
)
#: Statements that one connection is asked before another is made.
_ASKED_OF_ONE = 40
_SAME_DAY = "device = {device} AND at >= '2026-01-{day:02}' AND at < '2026-01-{next:02}'"

Answer = list[tuple[Any, ...]]


@dataclasses.dataclass
class Steady:
    """The rows on one cluster, and what was asked and done meanwhile.

    Attributes:
        rows: how many there are.
        asked: right answers, by question.
        done: what was done to chunks, by kind; those that failed are under `kind failed`.
        doing: the kind of what is being done now.
    """

    life: workload.Life
    seed: int
    rows: int = 24_000
    asked: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    done: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    doing: str | None = None
    _answers: dict[str, Answer] = dataclasses.field(default_factory=dict)

    def create(self) -> None:
        """Fill the tables, and ask a plain PostgreSQL everything."""
        rows = list(_rows(random.Random(self.seed), self.rows))
        with self.life.connect() as connection:
            connection.execute("DROP SCHEMA IF EXISTS fixed CASCADE")
            for sql in (*TABLES, *_SPREAD):
                connection.execute(sql.encode())
            _fill(connection, rows)
            connection.execute(_AGGREGATE)
            connection.execute("CALL refresh_continuous_aggregate('fixed.hourly', NULL, '2026-01-06')")
        with self._plain() as plain:
            for sql in TABLES:
                plain.execute(sql.encode())
            _fill(plain, rows)
            plain.execute(f"CREATE VIEW fixed.hourly AS {_HOURLY}".encode())
            self._answers = {what: plain.execute(sql.encode()).fetchall() for what, sql in QUESTIONS.items()}

    def threads(self) -> list[threading.Thread]:
        """Two who ask, and one who keeps the chunks changing; they end with the workload."""
        readers = [threading.Thread(target=self._ask, args=(number,)) for number in range(2)]
        return [*readers, threading.Thread(target=self._change)]

    def check(self) -> list[str]:
        """What is answered wrongly, nothing being done.

        Raises:
            psycopg.Error: the cluster does not answer yet.
        """
        with self.life.connect() as connection:
            return [fault for what in QUESTIONS if (fault := self._wrong(connection, what))]

    def _plain(self) -> contextlib.AbstractContextManager[workload.Connection]:
        with self.life.coordinator() as coordinator:
            coordinator.execute(f"DROP DATABASE IF EXISTS {TWIN} WITH (FORCE)".encode())
            coordinator.execute(f"CREATE DATABASE {TWIN}".encode())
            dsn = conninfo.make_conninfo(
                coordinator.info.dsn, password=coordinator.info.password, dbname=TWIN
            )
        return psycopg.connect(dsn, autocommit=True, options="-c timezone=UTC")

    def _wrong(self, connection: workload.Connection, what: str) -> str | None:
        found = connection.execute(QUESTIONS[what].encode()).fetchall()
        right = self._answers[what]
        if found == right:
            self.asked[what] += 1
            return None
        different = (
            [row for row in found if row not in right][:3],
            [row for row in right if row not in found][:3],
        )
        return f"{what}: {len(found)} rows of {len(right)}, {different[0]} in place of {different[1]}"

    def _ask(self, number: int) -> None:
        chance = random.Random(f"{self.seed} {number}")
        for connection in self.life.connections():
            try:
                setting = chance.choice(_SETTINGS)
                connection.execute(setting.encode())
                for _ in range(_ASKED_OF_ONE):
                    if self.life.stop.is_set():
                        return
                    fault = self._wrong(connection, chance.choice(tuple(QUESTIONS)))
                    if fault:
                        self.life.book.fault(f"{setting}: {fault}")
                    time.sleep(0.02)
            except psycopg.Error as error:
                self.life.book.count("who asks", error)

    def _change(self) -> None:
        chance = random.Random(self.seed)
        for connection in self.life.connections():
            while not self.life.stop.is_set() and not connection.closed:
                if self.life.paused.is_set():
                    time.sleep(0.05)
                    continue
                kind, act = self._something(chance)
                self.doing = kind
                try:
                    act(connection)
                    self.done[kind] += 1
                except psycopg.Error as error:
                    self.done[f"{kind} failed"] += 1
                    self.life.book.count("who changes", error)
                finally:
                    self.doing = None

    def _something(self, chance: random.Random) -> tuple[str, Callable[[workload.Connection], None]]:
        dice = chance.random()
        if dice < 0.15:
            return "write", lambda connection: _rewrite(connection, chance)
        if dice < 0.25:
            return "refresh", lambda connection: _refresh(connection, chance)
        if dice < 0.27:
            return "sweep", lambda connection: _run(connection, "SELECT run_maintenance()")
        kind, sql = chance.choice(
            (
                ("compression", "SELECT compress_chunk(%s, true)"),
                ("compression", "SELECT compress_chunk(%s, true)"),
                ("decompression", "SELECT decompress_chunk(%s, true)"),
                ("recompression", "SELECT recompress_chunk(%s, true)"),
                ("move to hot", "SELECT move_chunk_to_tier(%s, 'hot')"),
                ("move to warm", "SELECT move_chunk_to_tier(%s, 'warm')"),
                ("move to cold", "SELECT move_chunk_to_tier(%s, 'cold')"),
                ("move to cold", "SELECT move_chunk_to_tier(%s, 'cold')"),
            )
        )
        return kind, lambda connection: _run(connection, sql, self._chunk(chance))

    def _chunk(self, chance: random.Random) -> str:
        with self.life.coordinator() as catalog:
            found = catalog.execute(
                "SELECT chunk_name FROM orochi.chunks WHERE hypertable ~ 'fixed' ORDER BY 1"
            ).fetchall()
        return str(chance.choice(found)[0])


def _rows(chance: random.Random, count: int) -> Iterator[tuple[Any, ...]]:
    for number in range(count):
        at = _START + dt.timedelta(days=_DAYS) * chance.random()
        tag = chance.choice((None, "a", "b", "β", ""))
        yield at.replace(microsecond=0), chance.randrange(_DEVICES), number, chance.randrange(1000), tag


def _fill(connection: workload.Connection, rows: list[tuple[Any, ...]]) -> None:
    small: dict[str, list[tuple[Any, ...]]] = {
        "devices": [(device, device % _SITES, f"d{device % 7}") for device in range(_DEVICES)],
        "sites": [(site, f"r{site % 3}") for site in range(_SITES)],
        "places": [(place, place % _SITES, place * 3) for place in range(40)],
        "readings": rows,
    }
    for table, values in small.items():
        with connection.cursor().copy(f"COPY fixed.{table} FROM STDIN".encode()) as copy:
            for row in values:
                copy.write_row(row)


def _run(connection: workload.Connection, sql: str, *values: object) -> None:
    connection.execute(sql.encode(), values or None)


def _rewrite(connection: workload.Connection, chance: random.Random) -> None:
    """Write to rows so that they are as they were, once the transaction is over."""
    day = chance.randint(1, _DAYS)
    where = _SAME_DAY.format(device=chance.randrange(_DEVICES), day=day, next=day + 1)
    if chance.random() < 0.5:
        _run(connection, f"UPDATE fixed.readings SET v = v WHERE {where}")
        return
    with connection.transaction():
        rows = connection.execute(
            f"DELETE FROM fixed.readings WHERE {where} RETURNING at, device, id, v, tag".encode()
        ).fetchall()
        with connection.cursor().copy("COPY fixed.readings FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)


def _refresh(connection: workload.Connection, chance: random.Random) -> None:
    day, force = chance.randint(1, _DAYS - 1), chance.choice(("true", "false"))
    window = f"'2026-01-{day:02} 00:00+00', '2026-01-{day + 1:02} 00:00+00'"
    _run(connection, f"CALL refresh_continuous_aggregate('fixed.hourly', {window}, force => {force})")
