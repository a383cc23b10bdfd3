"""The life of a table: writers who know every row they wrote, policies on a set clock, and the twin.

A writer owns some devices, so what its devices' rows must be is known to it alone, statement by
statement. Each statement is one transaction and leaves its number in the rows it wrote: what became of
one that was not answered is seen there, and it must be all of it or nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import itertools
import random
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import psycopg

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]
Row: TypeAlias = tuple[dt.datetime, int, int]  # at, device, v

START = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
#: Writers reach back so far, and retention drops what is older than that.
LATEST, RETENTION = 12 * DAY, 16 * DAY
WARM_AFTER, COLD_AFTER = 2 * DAY, 4 * DAY
_DEVICES = 12
_PAUSE_SECONDS = 0.1
#: Rows are in the table this often before anything is killed.
_FIRST = 4_000

TABLES = (
    "DROP SCHEMA IF EXISTS life CASCADE",
    "CREATE SCHEMA life",
    "CREATE TABLE life.readings (at timestamptz NOT NULL, device int NOT NULL, id bigint NOT NULL, v bigint, op bigint)",
    "SELECT create_hypertable('life.readings', 'at', chunk_time_interval => interval '1 day')",
    "SELECT create_distributed_table('life.readings', 'device', 4)",
)
POLICIES = (
    (
        "CREATE MATERIALIZED VIEW life.hourly WITH (orochi.continuous) AS"
        " SELECT time_bucket('1 hour', at) AS hour, device, count(*) AS c, sum(v) AS s FROM life.readings GROUP BY 1, 2"
    ),
    "SELECT add_continuous_aggregate_policy('life.hourly', INTERVAL '15 days', INTERVAL '1 hour', INTERVAL '1 hour')",
    "SELECT add_compression_policy('life.readings', INTERVAL '1 day', schedule_interval => INTERVAL '1 hour')",
    (
        "SELECT set_tiering_policy('life.readings', hot_after => INTERVAL '2 days', warm_after => INTERVAL '4 days',"
        " cold_after => NULL, schedule_interval => INTERVAL '1 hour')"
    ),
    "SELECT add_retention_policy('life.readings', INTERVAL '16 days', schedule_interval => INTERVAL '1 hour')",
)
#: Ways to count the rows of device 0 since a time.
_COUNTS = (
    "SELECT coalesce(sum(c), 0)::bigint FROM life.hourly WHERE device = 0 AND hour >= %s",
    "SELECT count(*) FROM life.readings WHERE device = 0 AND at >= %s",
    "SELECT count(*) FILTER (WHERE device = 0) FROM life.readings WHERE at >= %s",
)


def tier_at(age: dt.timedelta) -> str:
    """Where a chunk belongs whose range ended so long ago."""
    if age >= RETENTION:
        return "gone"
    return "cold" if age >= COLD_AFTER else "warm" if age >= WARM_AFTER else "hot"


@dataclasses.dataclass(frozen=True, slots=True)
class Statement:
    """A write: its number, what it is to do to the rows that its writer knows, and whether it was refused."""

    op: int
    removed: frozenset[int]
    written: dict[int, Row]
    refused: bool = False


@dataclasses.dataclass
class Book:
    """What was seen."""

    statements: int = 0
    unknown: int = 0
    happened: int = 0  # of the unknown ones
    reads: int = 0
    errors: dict[str, int] = dataclasses.field(default_factory=dict)
    faults: list[str] = dataclasses.field(default_factory=list)

    def count(self, who: str, error: psycopg.Error) -> str | None:
        """Remember an error; its SQLSTATE."""
        key = f"{who} {error.sqlstate or 'no answer'}"
        self.errors[key] = self.errors.get(key, 0) + 1
        return error.sqlstate

    def fault(self, text: str) -> None:
        """Something is wrong."""
        self.faults.append(f"{dt.datetime.now(dt.UTC):%H:%M:%S} {text}")


class Life:
    """The workload on one cluster."""

    def __init__(self, dsn: str, coordinator: str, seed: int, writers: int = 2) -> None:
        self.dsn = dsn
        self.book = Book()
        self.stop = threading.Event()
        self.paused = threading.Event()
        self.now = START
        self._coordinator = coordinator
        self.writers = [Writer(self, number, writers, seed) for number in range(writers)]
        self._operations = 0
        self._lock = threading.Lock()

    def connect(self) -> Connection:
        """A client of the gateway, in autocommit."""
        return psycopg.connect(
            self.dsn, autocommit=True, connect_timeout=10, options="-c timezone=UTC", application_name="life"
        )

    def coordinator(self) -> Connection:
        """A client of the coordinator's PostgreSQL."""
        return psycopg.connect(self._coordinator, autocommit=True, connect_timeout=10)

    def create(self) -> None:
        """Make the table, fill it, and set its policies."""
        self.advance(dt.timedelta())
        with self.connect() as connection:
            for sql in TABLES:
                connection.execute(sql)
            for writer in self.writers:
                writer.insert(
                    connection, writer.rows(self.now - LATEST, self.now, _FIRST // len(self.writers))
                )
            for sql in POLICIES:
                connection.execute(sql)

    def advance(self, by: dt.timedelta) -> None:
        """Let time go by: chunks age, jobs become due."""
        with self.coordinator() as connection:
            connection.execute("SELECT orochi.set_clock(%s)", (self.now + by,))
        self.now += by

    def next_operation(self) -> int:
        """A number for a statement."""
        with self._lock:
            self._operations += 1
            return self._operations

    def connections(self) -> Iterator[Connection]:
        """One connection after another, until told to stop."""
        while not self.stop.is_set():
            try:
                connection = self.connect()
            except psycopg.Error:
                time.sleep(_PAUSE_SECONDS)
                continue
            with contextlib.closing(connection):
                yield connection
            time.sleep(_PAUSE_SECONDS)

    def reader(self) -> None:
        """Ask for a device that is only ever inserted to, the aggregate and the table: never less than acknowledged."""
        first, questions = self.writers[0], itertools.cycle(_COUNTS)
        for connection in self.connections():
            try:
                while not self.stop.is_set():
                    since = (self.now - 10 * DAY).replace(hour=0, minute=0, second=0)
                    low = sum(at >= since for at in list(first.acknowledged))
                    sql = next(questions)
                    row = connection.execute(sql.encode(), (since,)).fetchone()
                    high = sum(at >= since for at in list(first.attempted))
                    self.book.reads += 1
                    if row is None or not low <= row[0] <= high:
                        self.book.fault(f"{row}, not {low} to {high}, since {since}: {sql}")
                    time.sleep(0.02)
            except psycopg.Error as error:
                self.book.count("reader", error)

    def is_idle(self) -> bool:
        """Whether all writers, being paused, have finished what they were at."""
        return all(writer.idle.is_set() for writer in self.writers)

    def settle(self) -> None:
        """Learn what became of the statements without an answer; nothing may be half done.

        Raises:
            psycopg.Error: the cluster does not answer yet.
        """
        with self.connect() as connection:
            for writer in self.writers:
                writer.settle(connection)

    def twin(self) -> dict[int, Row]:
        """All rows that there must be."""
        return {identity: row for writer in self.writers for identity, row in writer.rows_known.items()}

    def compare(self) -> list[str]:
        """How the table and the aggregate differ from the twin.

        Raises:
            psycopg.Error: the cluster does not answer yet.
        """
        boundary = (self.now - RETENTION + DAY).replace(hour=0, minute=0, second=0)
        twin = self.twin()
        with self.connect() as connection:
            raw = connection.execute("SELECT id, at, device, v FROM life.readings").fetchall()
            kept = connection.execute(
                "SELECT hour, device, c, s FROM life.hourly WHERE hour >= %s", (boundary,)
            ).fetchall()
            total = connection.execute(
                "SELECT count(*), sum(v) FROM life.readings WHERE at >= %s", (boundary,)
            ).fetchone()
        faults = _different_rows(raw, twin, boundary)
        expected: dict[tuple[dt.datetime, int], list[int]] = {}
        young = [row for row in twin.values() if row[0] >= boundary]
        for at, device, value in young:
            group = expected.setdefault((at.replace(minute=0, second=0), device), [0, 0])
            group[0] += 1
            group[1] += value
        found = {(hour, device): [count, int(value)] for hour, device, count, value in kept}
        wrong = [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)]
        if wrong or len(found) != len(kept):
            told = [(key, expected.get(key), found.get(key)) for key in wrong[:3]]
            faults.append(f"{len(wrong)} buckets are stale: {told}")
        if total != (len(young), sum(row[2] for row in young)):
            faults.append(f"the sums are {total}")
        return faults

    def forget(self, before: dt.datetime) -> None:
        """What retention has dropped."""
        for writer in self.writers:
            writer.rows_known = {key: row for key, row in writer.rows_known.items() if row[0] >= before}


def _different_rows(raw: Sequence[tuple[Any, ...]], twin: dict[int, Row], boundary: dt.datetime) -> list[str]:
    faults = []
    there = {identity: (at, device, value) for identity, at, device, value in raw}
    if len(there) != len(raw):
        faults.append(f"{len(raw) - len(there)} rows are doubled")
    lost = [key for key, row in twin.items() if key not in there and row[0] >= boundary]
    extra = [key for key in there if key not in twin]
    stale = [key for key, row in there.items() if key in twin and twin[key] != row]
    for what, keys in (("lost", lost), ("there, but should not be", extra), ("stale", stale)):
        if keys:
            told = [(key, twin.get(key), there.get(key)) for key in keys[:3]]
            faults.append(f"{len(keys)} rows are {what}: {told}")
    return faults


class Writer:
    """One client that writes, and knows what its rows are."""

    def __init__(self, life: Life, number: int, writers: int, seed: int) -> None:
        self._life = life
        self._chance = random.Random(seed * 100 + number)
        self._devices = range(number, _DEVICES, writers)
        self._identities = 0
        self._number = number
        self.rows_known: dict[int, Row] = {}
        self.pending: Statement | None = None
        self.idle = threading.Event()
        #: Times of the rows of device 0: acknowledged, and tried at all.
        self.acknowledged: list[dt.datetime] = []
        self.attempted: list[dt.datetime] = []

    def run(self) -> None:
        """Write until told to stop; wait while paused, or while the last statement's outcome is not known."""
        for connection in self._life.connections():
            while not self._life.stop.is_set() and not connection.closed:
                self.idle.clear()  # before the look, so that whoever pauses us sees that we are at it
                if self._life.paused.is_set() or self.pending is not None:
                    self.idle.set()
                    time.sleep(0.02)
                    continue
                self._step(connection)
            self.idle.set()
        self.idle.set()

    def rows(self, low: dt.datetime, high: dt.datetime, count: int) -> dict[int, Row]:
        """New rows of own devices in a span of time."""
        made: dict[int, Row] = {}
        for _ in range(count):
            self._identities += 1
            at = (low + (high - low) * self._chance.random()).replace(microsecond=0)
            row = (at, self._chance.choice(self._devices), self._chance.randrange(1000))
            made[self._identities * 100 + self._number] = row
        return made

    def _step(self, connection: Connection) -> None:
        now, dice = self._life.now, self._chance.random()
        if dice < 0.6:
            self.insert(connection, self.rows(now - HOUR * 8, now, self._chance.randint(1, 30)))
        elif dice < 0.8:
            self.insert(connection, self.rows(now - LATEST, now, self._chance.randint(1, 20)))
        else:
            device = self._chance.choice([device for device in self._devices if device])
            since = now - LATEST * self._chance.random()
            until = since + HOUR * self._chance.randint(1, 12)
            self._change(connection, device, since, until, deletes=dice > 0.93)
        time.sleep(self._chance.uniform(0.0, 0.05))

    def insert(self, connection: Connection, rows: dict[int, Row]) -> None:
        """Insert rows, by INSERT or by COPY."""
        statement = Statement(self._life.next_operation(), frozenset(), rows)
        ours = [at for at, device, _ in rows.values() if device == 0]
        self.attempted += ours
        values = [(at, device, identity, v, statement.op) for identity, (at, device, v) in rows.items()]
        with self._answered(statement):
            if self._chance.random() < 0.5:
                places = ", ".join(["(%s, %s, %s, %s, %s)"] * len(values))
                flat = [value for row in values for value in row]
                if len(flat) < 5_000:
                    connection.execute(f"INSERT INTO life.readings VALUES {places}".encode(), flat)
                    return
            with connection.cursor().copy("COPY life.readings FROM STDIN") as copy:
                for row in values:
                    copy.write_row(row)

    def _change(
        self, connection: Connection, device: int, since: dt.datetime, until: dt.datetime, *, deletes: bool
    ) -> None:
        hit = {
            key: row for key, row in self.rows_known.items() if row[1] == device and since <= row[0] < until
        }
        if not hit:
            return
        op = self._life.next_operation()
        where = "WHERE device = %s AND at >= %s AND at < %s"
        values: list[object] = [device, since, until]
        if deletes:
            statement = Statement(op, frozenset(hit), {})
            sql = f"DELETE FROM life.readings {where}"
        else:
            statement = Statement(
                op, frozenset(), {key: (row[0], row[1], row[2] + 1) for key, row in hit.items()}
            )
            sql = f"UPDATE life.readings SET v = v + 1, op = %s {where}"
            values.insert(0, op)
        with self._answered(statement):
            done = connection.execute(sql.encode(), values).rowcount
            if done != len(hit):
                self._life.book.fault(f"{sql[:6]} of {len(hit)} rows found {done}: {device} {since} {until}")

    @contextlib.contextmanager
    def _answered(self, statement: Statement) -> Iterator[None]:
        """Believe what the statement is to do once it is answered; keep it in mind if it is not."""
        self._life.book.statements += 1
        try:
            yield
        except psycopg.Error as error:
            state = self._life.book.count("writer", error)
            unknown = state is None or state.startswith("57P") or state in {"08007", "08006"}
            self._life.book.unknown += unknown
            self.pending = dataclasses.replace(statement, refused=not unknown)
            return
        self._believe(statement)

    def _believe(self, statement: Statement) -> None:
        for key in statement.removed:
            del self.rows_known[key]
        new = [row[0] for key, row in statement.written.items() if row[1] == 0 and key not in self.rows_known]
        self.rows_known.update(statement.written)
        self.acknowledged += new

    def settle(self, connection: Connection) -> None:
        """Look what became of a statement that was not answered."""
        statement = self.pending
        if statement is None:
            return
        if statement.removed:
            sql, wanted = "SELECT count(*) FROM life.readings WHERE id = ANY(%s)", len(statement.removed)
            row = connection.execute(sql, (list(statement.removed),)).fetchone()
        else:
            sql, wanted = "SELECT count(*) FROM life.readings WHERE op = %s", len(statement.written)
            row = connection.execute(sql, (statement.op,)).fetchone()
        assert row is not None
        there = wanted - row[0] if statement.removed else row[0]
        if there not in {0, wanted}:
            self._life.book.fault(f"statement {statement.op} was half done: {there} of {wanted} rows")
        if there and statement.refused:
            self._life.book.fault(f"statement {statement.op} was refused, but is there")
        self._life.book.happened += there == wanted and not statement.refused
        if there:
            self._believe(statement)
        self.pending = None
